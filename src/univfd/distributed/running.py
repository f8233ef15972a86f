"""A run: listing, partitions that are missing, workers, report. Each partition is written once and stays.

OUTDIR/run.json                       what was run: inputs (digest), detector, options
OUTDIR/listing/part-0000000.parquet   where the images of partition 0 are
OUTDIR/rows/part-0000000.parquet      its rows
OUTDIR/report.json                    figures of the finished run
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .._version import __version__
from ..backbones import Backbone
from ..detector import Detector
from ..embedding import space_of
from ..errors import FormatError, OutputExistsError, UnivFDError, UsageError
from ..pipeline import ordered_map
from ..sources import Source
from ..storage import json_text, parse_json
from ..types import digest_of
from ..views import View
from .cluster import Cluster, connected, over_partitions
from .entry import Entry
from .listing import digest_of_listing, entries, partition_name, write_listing
from .stores import Folder
from .workers import Embedder, Encoder, Judge, Packed, Work, counts_of

log = logging.getLogger(__name__)

KIND, SCHEMA_VERSION = "ray run", 1
MANIFEST, REPORT = "run.json", "report.json"
PARTITION = 512
"""Images: a multiple of all usual batches, so that batches, and with them rows to the bit, are the single process's."""
_READERS = 16

OnDone = Callable[[str, int, int], None]
"""Called with what is done, how many and of how many (0: not known yet)."""


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a run.

    Attributes:
        images: rows.
        counts: rows by verdict (`embed`: by status), `failed` among them.
        partitions: of the run.
        done_before: partitions that an earlier run had completed.
        seconds: wall time of this run.
        worker_seconds: wall time that workers spent on partitions of this run.
        worker_cpu: CPU time that they spent on them.
        workers: processes that completed a partition in this run.
    """

    images: int
    counts: Mapping[str, int]
    partitions: int
    done_before: int
    seconds: float
    worker_seconds: float
    worker_cpu: float
    workers: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A run that may go on.

    Attributes:
        folder: of the run.
        images: number of them.
        partitions: number of them.
        missing: numbers of those without rows.
    """

    folder: Folder
    images: int
    partitions: int
    missing: tuple[int, ...]


def detect(
    detector: Detector,
    inputs: Iterable[Source],
    folder: Folder,
    cluster: Cluster,
    work: Work,
    *,
    neighbors: int = 1,
    size: int | None = None,
    image_column: str | None = None,
    resume: bool = False,
    on_done: OnDone = lambda *_: None,
) -> Report:
    """Verdicts of any number of images, by actors that run `Detector.detect`.

    Args:
        detector: goes to the workers as its folder; they take the encoder's weights from their own cache.
        inputs: what `univfd.sources.expand` takes, as far as it can be sent, and URLs.
        folder: of the run; all nodes must see it, and what the inputs name.
        cluster: where to run.
        work: how the workers work.
        neighbors: rows of evidence of each class.
        size: images a partition; default: 512, or that of the run that is resumed.
        image_column: see `listing.entries`.
        resume: complete an earlier run with the same inputs, detector and options.
        on_done: progress.

    Raises:
        OutputExistsError: the folder has a run (or anything), and `resume` was not asked for.
        UsageError: the earlier run had other inputs, another detector or other options.
        UnivFDError: partitions are missing at the end, or nothing could be written.
    """
    record = {"line": "detect", "detector": detector.identity, "space": detector.space.to_dict()}
    record |= {"options": {"max_pixels": work.max_pixels, "neighbors": neighbors}}

    def arguments(ray: Any) -> dict[str, Any]:
        packed = ray.put(Packed.of(detector))
        return {"folder": folder, "packed": packed, "work": work, "neighbors": neighbors}

    return _run(folder, inputs, record, size, image_column, resume, cluster, Judge, arguments, on_done)


def embed(
    backbone: str,
    opened: Backbone,
    cut: View,
    inputs: Iterable[Source],
    folder: Folder,
    cluster: Cluster,
    work: Work,
    *,
    perturb: str = "clean",
    size: int | None = None,
    image_column: str | None = None,
    resume: bool = False,
    on_done: OnDone = lambda *_: None,
) -> Report:
    """Embeddings of any number of images, as Parquet with a column `vector`; see `detect`.

    Args:
        backbone: what opens the encoder on the nodes: a name, or a folder that all of them see.
        opened: the same encoder.
        cut: the view.
        inputs: see `detect`, as for all that follow.
        folder: of the run.
        cluster: where to run.
        work: how the workers work.
        perturb: chain laid on the pixels first.
        size: images a partition.
        image_column: of Parquet inputs.
        resume: complete an earlier run.
        on_done: progress.
    """
    space = space_of(opened, cut)
    record = {"line": "embed", "space": space.to_dict()}
    record |= {"options": {"max_pixels": work.max_pixels, "perturb": perturb}}
    encoder = Encoder(backbone, space, perturb)

    def arguments(ray: Any) -> dict[str, Any]:
        return {"encoder": encoder, "work": work, "folder": folder}

    return _run(folder, inputs, record, size, image_column, resume, cluster, Embedder, arguments, on_done)


def _run(
    folder: Folder, inputs: Iterable[Source], record: dict[str, Any], size: int | None, image_column: str | None,
    resume: bool, cluster: Cluster, worker: Any, arguments: Callable[[Any], dict[str, Any]], on_done: OnDone,
) -> Report:  # fmt: skip
    start = time.perf_counter()
    record["options"]["image_column"] = image_column

    def listed() -> Iterable[Entry]:
        return entries(inputs, image_column=image_column)

    with folder.alone():
        plan = _plan(folder, record, listed, size, resume, on_done)
        counts = _done_before(plan, on_done)
        spent = _Spent()
        if plan.missing:
            with connected(cluster) as ray:
                rows = over_partitions(ray, cluster, worker, arguments(ray), list(plan.missing))
                counts += _watched(plan, rows, counts.total(), spent, on_done)
        report = Report(
            images=counts.total(), counts=dict(sorted(counts.items())), partitions=plan.partitions,
            done_before=plan.partitions - len(plan.missing), seconds=round(time.perf_counter() - start, 3),
            worker_seconds=round(spent.seconds, 3), worker_cpu=round(spent.cpu, 3), workers=len(spent.workers),
        )  # fmt: skip
        if plan.missing or not folder.has(REPORT):
            folder.put(REPORT, json_text(f"{KIND} report", SCHEMA_VERSION, asdict(report)).encode())
    return report


@dataclass(slots=True)
class _Spent:
    """What workers spent."""

    seconds: float = 0.0
    cpu: float = 0.0
    workers: set[str] = field(default_factory=set)


def _watched(
    plan: _Plan, rows: Iterable[Mapping[str, Any]], done: int, spent: _Spent, on_done: OnDone
) -> Counter[str]:  # fmt: skip
    """Counts of the partitions that workers report.

    Raises:
        UnivFDError: some are missing at the end.
    """
    counts: Counter[str] = Counter()
    missing = set(plan.missing)
    for row in rows:
        counts += Counter(json.loads(row["counts"]))
        spent.seconds += row["seconds"]
        spent.cpu += row["cpu"]
        spent.workers.add(row["worker"])
        missing.discard(row["partition"])
        on_done("images", done + counts.total(), plan.images)
    if missing:
        numbers = ", ".join(map(str, sorted(missing)[:5]))
        raise UnivFDError(
            f"{len(missing)} of {plan.partitions} partitions are missing ({numbers} ...): their workers died or "
            "failed again and again. The log of Ray says why; --resume tries them again"
        )
    return counts


def _plan(
    folder: Folder, record: dict[str, Any], listed: Callable[[], Iterable[Entry]], size: int | None, resume: bool,
    on_done: OnDone,
) -> _Plan:  # fmt: skip
    """Begin a run, or take up an earlier one."""
    there = folder.names()
    if not resume and there:
        raise OutputExistsError(
            f"{folder.place} is there already; results are never overwritten. Use --resume or another name"
        )
    if MANIFEST in there:
        images, size = _taken_up(folder, record, listed, size)
    else:
        if strange := there - {"listing"}:  # a run that was stopped while it listed has that alone
            raise UsageError(f"{folder.place} holds no run ({', '.join(sorted(strange)[:3])}); choose another output")
        size = size or PARTITION
        images, digest = write_listing(folder, listed(), size, _counter(on_done))
        about = record | {"inputs": {"images": images, "digest": digest}, "partition": size, "univfd": __version__}
        folder.put(MANIFEST, json_text(KIND, SCHEMA_VERSION, about).encode())
    partitions = -(-images // size)
    complete = folder.names("rows") if MANIFEST in there else set()
    missing = tuple(n for n in range(partitions) if partition_name(n) not in complete)
    return _Plan(folder, images, partitions, missing)


def _taken_up(
    folder: Folder, record: dict[str, Any], listed: Callable[[], Iterable[Entry]], size: int | None
) -> tuple[int, int]:
    """Number of images and partition size of an earlier run, if it is the same.

    Raises:
        UsageError: it is not; says what differs.
    """
    where = f"{folder.place}/{MANIFEST}"
    begun = parse_json(folder.read(MANIFEST), where, KIND, SCHEMA_VERSION)
    try:
        images, digest, before = begun["inputs"]["images"], begun["inputs"]["digest"], begun["partition"]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{where} cannot be read: it lacks {error}") from error
    wanted = record | ({} if size is None else {"partition": size})
    if differing := [k for k in wanted if digest_of({"": wanted[k]}) != digest_of({"": begun.get(k)})]:
        words = "; ".join(f"{k}: {begun.get(k)!r} there, {wanted[k]!r} now" for k in differing)
        raise UsageError(f"{folder.place} is another run ({words}). Choose another output")
    now = digest_of_listing(listed())
    if now != (images, digest):
        raise UsageError(
            f"{folder.place} was begun with other inputs ({images} images then, {now[0]} now). Choose another output"
        )
    if begun.get("univfd") != __version__:
        log.warning("%s was begun by univfd %s; this is %s", folder.place, begun.get("univfd"), __version__)
    return images, before


def _done_before(plan: _Plan, on_done: OnDone) -> Counter[str]:
    """Rows of complete partitions, counted; out of the report where the run is finished."""
    complete = sorted(set(range(plan.partitions)) - set(plan.missing))
    if not plan.missing and plan.folder.has(REPORT):
        report = parse_json(plan.folder.read(REPORT), f"{plan.folder.place}/{REPORT}", f"{KIND} report", SCHEMA_VERSION)
        return Counter(report["counts"])
    counts: Counter[str] = Counter()

    def count(number: int) -> Counter[str]:
        return counts_of(plan.folder.read(f"rows/{partition_name(number)}"))

    for found in ordered_map(count, complete, workers=_READERS, ahead=2 * _READERS):
        counts += found
    if complete:
        on_done("images", counts.total(), plan.images)
    return counts


def _counter(on_done: OnDone) -> Callable[[int], None]:
    listed = 0

    def advance(n: int) -> None:
        nonlocal listed
        listed += n
        on_done("listed", listed, 0)

    return advance
