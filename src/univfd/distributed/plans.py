"""A run's folder: begun, or taken up where it is the same run; which partitions are missing.

OUTDIR/run.json                       what was run: inputs (digest), detector, options
OUTDIR/listing/part-0000000.parquet   where the images of partition 0 are
OUTDIR/rows/part-0000000.parquet      its rows
OUTDIR/report.json                    figures of the finished run
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .._version import __version__
from ..errors import FormatError, OutputExistsError, UsageError
from ..pipeline import ordered_map
from ..storage import json_text, parse_json
from ..types import digest_of
from ..wording import counted
from .entry import Entry
from .listing import digest_of_listing, partition_name, write_listing
from .stores import Folder
from .workers import counts_of

log = logging.getLogger(__name__)

KIND, SCHEMA_VERSION = "ray run", 2
"""Until 1 listings had the whole URL of each input, and names of objects with `%` and `?` as they are."""
MANIFEST, REPORT = "run.json", "report.json"
PARTITION = 512
"""Images: a multiple of all usual batches, so that batches, and with them rows to the bit, are the single process's."""
_READERS = 16

OnDone = Callable[[str, int, int], None]
"""Called with what is done, how many and of how many (0: not known yet)."""


@dataclass(frozen=True, slots=True)
class Plan:
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


def begin(
    folder: Folder, record: dict[str, Any], listed: Callable[[], Iterable[Entry]], size: int | None, resume: bool,
    on_done: OnDone,
) -> Plan:  # fmt: skip
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
    return Plan(folder, images, partitions, missing)


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
        older = ", or by a version that listed URLs otherwise" if begun["schema"] < SCHEMA_VERSION else ""
        raise UsageError(
            f"{folder.place} was begun with other inputs ({counted(images, 'image')} then, {now[0]} now){older}. "
            "Choose another output"
        )
    if begun.get("univfd") != __version__:
        log.warning("%s was begun by univfd %s; this is %s", folder.place, begun.get("univfd"), __version__)
    return images, before


def done_before(plan: Plan, on_done: OnDone) -> Counter[str]:
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
