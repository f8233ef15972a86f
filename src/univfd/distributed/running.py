"""A run: what is missing of its partitions goes to workers, and is counted. Each is written once and stays."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..backbones import Backbone, EngineBackbone
from ..detector import Detector
from ..embedding import space_of
from ..errors import UnivFDError
from ..sources import Source
from ..storage import json_text
from ..views import View
from .cluster import Cluster, connected, over_partitions
from .entry import Entry
from .listing import entries
from .plans import KIND, REPORT, SCHEMA_VERSION, OnDone, Plan, begin, done_before
from .stores import Folder
from .workers import Embedder, Encoder, Judge, Packed, Work

log = logging.getLogger(__name__)


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
    packed = Packed.of(detector)  # before the listing: some cannot be
    work = _on_same_loss(work, detector.backbone)
    record = {"line": "detect", "detector": detector.identity, "space": detector.reads.to_dict()}
    record |= {"options": {"max_pixels": work.max_pixels, "neighbors": neighbors}}

    def arguments(ray: Any) -> dict[str, Any]:
        return {"folder": folder, "packed": ray.put(packed), "work": work, "neighbors": neighbors}

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
    work = _on_same_loss(work, opened)
    space = space_of(opened, cut)
    record = {"line": "embed", "space": space.to_dict()}
    record |= {"options": {"max_pixels": work.max_pixels, "perturb": perturb}}
    encoder = Encoder(backbone, space, perturb)

    def arguments(ray: Any) -> dict[str, Any]:
        return {"encoder": encoder, "work": work, "folder": folder}

    return _run(folder, inputs, record, size, image_column, resume, cluster, Embedder, arguments, on_done)


def _on_same_loss(work: Work, opened: Backbone) -> Work:
    """Workers choose among engines in float32 by themselves; what a lossy one gives, no other does."""
    return replace(work, engine=opened.engine) if opened.entry.lossy and isinstance(opened, EngineBackbone) else work


def _run(
    folder: Folder, inputs: Iterable[Source], record: dict[str, Any], size: int | None, image_column: str | None,
    resume: bool, cluster: Cluster, worker: Any, arguments: Callable[[Any], dict[str, Any]], on_done: OnDone,
) -> Report:  # fmt: skip
    start = time.perf_counter()
    record["options"]["image_column"] = image_column

    def listed() -> Iterable[Entry]:
        return entries(inputs, image_column=image_column)

    with folder.alone():
        plan = begin(folder, record, listed, size, resume, on_done)
        counts = done_before(plan, on_done)
        spent = _Spent()
        if plan.missing:
            with connected(cluster) as ray:
                rows = over_partitions(ray, cluster, worker, arguments(ray), list(plan.missing))
                counts += _watched(plan, rows, counts.total(), spent, on_done)
        if counts.total() != plan.images:
            raise UnivFDError(f"{folder.place} has {counts.total()} rows for {plan.images} images; begin it anew")
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
    plan: Plan, rows: Iterable[Mapping[str, Any]], done: int, spent: _Spent, on_done: OnDone
) -> Counter[str]:  # fmt: skip
    """Counts of the partitions that workers report.

    Raises:
        UnivFDError: some are missing at the end.
    """
    counts: Counter[str] = Counter()
    missing = set(plan.missing)
    for row in _or_what_is_missing(rows, missing, plan.partitions):
        if row["refused"]:  # what is left would be computed and not be written either
            raise UnivFDError(f"{row['refused']}. Complete partitions are kept; the same command with --resume goes on")
        counts += Counter(json.loads(row["counts"]))
        spent.seconds += row["seconds"]
        spent.cpu += row["cpu"]
        spent.workers.add(row["worker"])
        missing.discard(row["partition"])
        on_done("images", done + counts.total(), plan.images)
    if missing:
        raise UnivFDError(
            f"{_words(missing, plan.partitions)}: their workers died again and again. The log of Ray says why; "
            "--resume tries them again"
        )
    return counts


def _or_what_is_missing(
    rows: Iterable[Mapping[str, Any]], missing: set[int], partitions: int
) -> Iterator[Mapping[str, Any]]:  # fmt: skip
    """The rows; where they end in an error, which partitions it leaves is said before it."""
    try:
        yield from rows
    except UnivFDError:
        if missing:
            log.warning("%s; complete ones are kept, and --resume tries them again", _words(missing, partitions))
        raise


def _words(missing: set[int], partitions: int) -> str:
    numbers = ", ".join(map(str, sorted(missing)[:5]))
    return f"{len(missing)} of {partitions} partitions are missing ({numbers}{' ...' if len(missing) > 5 else ''})"
