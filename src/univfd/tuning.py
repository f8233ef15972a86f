"""How many threads, streams and images a batch are fastest here: measured once by `univfd tune`, then used.

A wide stream (all CPUs on one batch) waits for its slowest thread after each product; narrow streams (one CPU a batch)
do not wait, but hold several batches in memory. Which is faster depends on the machine.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .backbones import Backbone, EngineBackbone
from .catalogue import entry
from .detector import Detector, load
from .detector_folder import DEFAULT
from .downloads import Progress, home
from .embedding import default_batch
from .engines import CPU, ENGINES, asked
from .errors import CacheError, FormatError, UnknownNameError, UsageError
from .machine import cpus, fingerprint
from .storage import cannot_write, new_contents, read_json, write_json
from .types import digest_of

log = logging.getLogger(__name__)

KIND, SCHEMA = "tuning", 1
IMAGES, ROUNDS = 24, 3
_WORTH_IT = 1.03
"""How much faster than the default another setting must be to be taken: less is within the noise."""


@dataclass(frozen=True, slots=True)
class Work:
    """How the line is spread over the CPUs; None: the line's own default.

    Attributes:
        threads: of the encoder, for each stream.
        streams: batches that the encoder works on at a time.
        batch_size: images a batch.
        workers: decoding threads.
    """

    threads: int | None = None
    streams: int = 1
    batch_size: int | None = None
    workers: int | None = None

    def by_hand(self, threads: int | None, batch_size: int | None, workers: int | None) -> Work:
        """This, but for what the user gave. Threads that were given are those of one stream."""
        streams = 1 if threads is not None else self.streams
        return Work(threads or self.threads, streams, batch_size or self.batch_size, workers or self.workers)


@dataclass(frozen=True, slots=True)
class Measured:
    """Images a second under some work, the best of several rounds."""

    work: Work
    rate: float


def tuned(backbone: str, weights: str, engine: str | None = None) -> Work:
    """What was measured for an encoder on this machine; the defaults where nothing was.

    Args:
        backbone: its name.
        weights: sha256 of its published weights.
        engine: as given to `univfd.backbones.open_backbone`.
    """
    try:
        place = _place(backbone, weights, asked(engine))
    except CacheError:  # there is no home: what needs one says so
        return Work()
    try:
        if not place.is_file():
            return Work()
        return _checked(Work(**read_json(place, KIND, SCHEMA)["work"]))
    except (FormatError, KeyError, TypeError, OSError) as error:
        log.warning("%s cannot be read (%s); run 'univfd tune' again", place, error)
        return Work()


def _checked(work: Work) -> Work:
    """The same, if the line can work so.

    Raises:
        FormatError: a value that is no count.
    """
    for name, value in asdict(work).items():
        if not (type(value) is int and value >= 1) and (value is not None or name == "streams"):
            raise FormatError(f"{name} is {value!r:.60}; expected a whole number of at least 1")
    return work


def tuned_for(name: str, engine: str | None = None) -> Work:
    """As `tuned`, by what `open_backbone` takes; the defaults for encoders that have no entry."""
    try:
        described = entry(name)
    except UnknownNameError:
        return Work()
    return tuned(described.name, described.sha256, engine)


def candidates(processors: int, *, several_streams: bool = True) -> list[Work]:
    """What is measured; the default first.

    Args:
        processors: CPUs to use.
        several_streams: whether the engine can work on several batches at a time.
    """
    batch = default_batch()
    splits = [(processors, 1)]
    if several_streams:
        splits += [(processors // s, s) for s in (2, processors) if s > 1 and processors % s == 0]
    works = [
        Work(threads, streams, max(1, size // streams), processors)
        for threads, streams in dict.fromkeys(splits)
        for size in (batch, 2 * batch)
    ]
    return list(dict.fromkeys(works))


def tune(
    detector: str | Path = DEFAULT,
    *,
    engine: str | None = None,
    images: int = IMAGES,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Measured]:
    """Measure, and keep what was fastest in the user cache.

    Args:
        detector: whose line is measured.
        engine: as given to `univfd.backbones.open_backbone`.
        images: drawn pictures a measurement.
        rounds: measurements of each setting, in turns, so that a busy moment meets all of them.
        progress: called while downloading.
        watch: told how far it is.

    Returns:
        All settings; the one that was taken is the first.

    Raises:
        UsageError: fewer than one image or round.
        CacheError: the cache cannot be written.
    """
    if images < 1 or rounds < 1:
        raise UsageError(f"{images} images, {rounds} rounds; expected at least one of each")
    opened = {cpus(): load(detector, threads=cpus(), engine=engine, progress=progress)}
    works = candidates(cpus(), several_streams=_takes_several(opened[cpus()].backbone))
    for work in works:
        threads = work.threads or cpus()
        if threads not in opened:
            opened[threads] = load(detector, threads=threads, engine=engine, progress=progress)
    pictures = list(_drawn(images))
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds):
        for i, work in enumerate(works):
            best[work] = min(best[work], _seconds(opened[work.threads or cpus()], pictures, work))
            watch("measuring", turn * len(works) + i + 1, rounds * len(works))
    measured = sorted((Measured(w, images / s) for w, s in best.items()), key=lambda m: -m.rate)
    default = next(m for m in measured if m.work == works[0])
    if measured[0].rate < _WORTH_IT * default.rate:
        measured.remove(default)
        measured.insert(0, default)
    described = next(iter(opened.values())).backbone.entry
    _keep(_place(described.name, described.sha256, asked(engine)), measured)
    return measured


def _takes_several(backbone: Backbone) -> bool:
    """Whether an opened encoder works on several batches at a time; PyTorch's does not, whatever engine was named."""
    if isinstance(backbone, EngineBackbone):
        return ENGINES[backbone.engine].provider == CPU.provider
    return backbone.entry.engine != "torch"


def _seconds(detector: Detector, pictures: list[bytes], work: Work) -> float:
    start = time.perf_counter()
    for _ in detector.detect(pictures, batch_size=work.batch_size, workers=work.workers, streams=work.streams):
        pass
    return time.perf_counter() - start


def _drawn(count: int) -> Iterator[bytes]:
    """JPEG files of 1 megapixel with some texture."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((1152, 864), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def _place(backbone: str, weights: str, engine: str) -> Path:
    key = {"machine": fingerprint(), "cpus": cpus(), "backbone": backbone, "weights": weights, "engine": engine}
    return home() / "tuning" / f"{engine}-{digest_of(key)[:24]}.json"


def _keep(place: Path, measured: list[Measured]) -> None:
    record = {
        "work": asdict(measured[0].work),
        "measured": [asdict(replace(m, rate=round(m.rate, 3))) for m in measured],
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_contents(place) as scratch:
            write_json(scratch, KIND, SCHEMA, record)
    except OSError as error:
        raise CacheError(f"{cannot_write(place.parent, error)}, or set UNIVFD_HOME") from error
