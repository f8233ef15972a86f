"""What is in a data set, before anything runs on it: counts, formats, sizes, copies, files that cannot be read.

Every file is read once for its sha256 and its header; pixels are decoded on request only.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .backbones import cpus
from .errors import EmptyFileError, InputError, MissingExtraError
from .images import DEFAULT_MAX_PIXELS, check_size, decode, format_of, open_image
from .pipeline import ordered_map
from .sources import read_bytes
from .types import Failure, ImageRef, Label, Sample, data_digest

COLUMNS = ("label", "generator", "source", "family", "split", "subset")


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    min: int
    median: float
    max: int


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One class.

    Attributes:
        images: number, those that cannot be read too.
        unreadable: number of those.
        formats: images of each format, by content, most first.
        width: in pixels as stored (before EXIF orientation); None where no image could be read.
        height: see `width`.
        bytes: of the files; see `width`.
    """

    images: int
    unreadable: int
    formats: Mapping[str, int]
    width: Spread | None
    height: Spread | None
    bytes: Spread | None


class Copy(NamedTuple):
    """One of several files with the same bytes."""

    image: str
    label: str
    split: str


@dataclass(frozen=True, slots=True)
class Copies:
    """Files with the same bytes."""

    sha256: str
    files: tuple[Copy, ...]

    @property
    def across_labels(self) -> bool:
        """Whether they are both real and fake."""
        return len({copy.label for copy in self.files}) > 1

    @property
    def across_splits(self) -> bool:
        """Whether they lie in different splits."""
        return len({copy.split for copy in self.files if copy.split}) > 1


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        images: number of samples.
        classes: by `real` and `fake`.
        counts: images of each combination of `COLUMNS` that there is, in the order of its first image.
        copies: sets of equal files, in the order of their first file. A file that is listed several times with the
            same label and split (the shared reals of a suite) is one file.
        failures: what cannot be read, with its label.
        digest: `univfd.types.data_digest` of all files whose bytes could be read.
    """

    images: int
    classes: Mapping[str, ClassReport]
    counts: Mapping[tuple[str, ...], int]
    copies: tuple[Copies, ...]
    failures: tuple[tuple[Failure, str], ...]
    digest: str

    def totals(self, *columns: str) -> dict[tuple[str, ...], int]:
        """Images of each combination of some of `COLUMNS`, sorted."""
        at = [COLUMNS.index(column) for column in columns]
        totals: Counter[tuple[str, ...]] = Counter()
        for key, n in self.counts.items():
            totals[tuple(key[i] for i in at)] += n
        return dict(sorted(totals.items()))

    @property
    def told_by_format(self) -> float | None:
        """Best balanced accuracy on these images of a rule that sees nothing but the format: 0.5 (none) to 1."""
        shares = [{f: n / sum(c.formats.values()) for f, n in c.formats.items()} for c in self.classes.values()]
        if len(shares) < 2 or not all(shares):
            return None
        one, other = shares
        return 0.5 + sum(abs(one.get(f, 0) - other.get(f, 0)) for f in one | other) / 4

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "images": self.images,
            "unreadable": len(self.failures),
            "digest": self.digest,
            "classes": {word: asdict(found) for word, found in self.classes.items()},
            "counts": [dict(zip(COLUMNS, key, strict=True)) | {"images": n} for key, n in self.counts.items()],
            "told_by_format": self.told_by_format,
            "copies": [
                {"sha256": c.sha256, "across_labels": c.across_labels, "across_splits": c.across_splits,
                 "files": [copy._asdict() for copy in c.files]}
                for c in self.copies
            ],
            "failures": [failure.to_dict() | {"label": label} for failure, label in self.failures],
        }  # fmt: skip


def scan(
    samples: Iterable[Sample],
    *,
    pixels: bool = False,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> Report:
    """Look at every file of a data set, in threads, keeping less than 1 kB of memory a file.

    Args:
        samples: the data set.
        pixels: decode each image, as a detector would; otherwise only its header is read.
        workers: threads; default: one per CPU.
        max_pixels: larger images count as unreadable.
        on_done: called after each file with 1.
    """
    workers = workers or cpus()
    look = partial(_look, pixels=pixels, max_pixels=max_pixels)
    tally = _Tally()
    for seen in ordered_map(look, samples, workers=workers, ahead=4 * workers):
        tally.add(seen)
        on_done(1)
    return tally.report()


class _Seen(NamedTuple):
    sample: Sample
    sha256: str
    bytes: int
    format: str = ""
    width: int = 0
    height: int = 0
    failure: Failure | None = None


def _look(sample: Sample, *, pixels: bool, max_pixels: int) -> _Seen:
    ref, sha256, size = sample.ref, "", 0
    try:
        data = read_bytes(ref)
        sha256, size = hashlib.sha256(data).hexdigest(), len(data)
        if not data:
            raise EmptyFileError("the file is empty (0 bytes); expected an image")
        with open_image(data, max_pixels=max_pixels) as image:
            check_size(*image.size, max_pixels)
            seen = _Seen(sample, sha256, size, format_of(image), *image.size)
        if pixels:
            decode(ImageRef(ref.name, data), max_pixels=max_pixels)
    except (InputError, MissingExtraError) as error:
        return _Seen(sample, sha256, size, failure=Failure(ref.name, error.code, str(error)))
    except MemoryError:
        message = "not enough memory to decode it; lower --max-pixels or --workers"
        return _Seen(sample, sha256, size, failure=Failure(ref.name, InputError.code, message))
    return seen


@dataclass
class _ClassTally:
    images: int = 0
    unreadable: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    sizes: tuple[array[int], array[int], array[int]] = field(
        default_factory=lambda: (array("q"), array("q"), array("q"))
    )

    def report(self) -> ClassReport:
        width, height, size = map(_spread, self.sizes)
        return ClassReport(self.images, self.unreadable, dict(self.formats.most_common()), width, height, size)


class _Tally:
    """Sums up files as they come."""

    def __init__(self) -> None:
        self._classes = {label.word: _ClassTally() for label in Label}
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._files: dict[str, dict[Copy, None]] = {}
        self._pairs: list[tuple[str, Label]] = []
        self._failures: list[tuple[Failure, str]] = []

    def add(self, seen: _Seen) -> None:
        sample, word = seen.sample, seen.sample.label.word
        tally = self._classes[word]
        tally.images += 1
        self._counts[(word, *(getattr(sample, column) for column in COLUMNS[1:]))] += 1
        if seen.sha256:
            self._pairs.append((seen.sha256, sample.label))
            files = self._files.setdefault(seen.sha256, {})
            files[Copy(sample.ref.name, word, sample.split)] = None
        if seen.failure:
            tally.unreadable += 1
            self._failures.append((seen.failure, word))
            return
        tally.formats[seen.format] += 1
        for numbers, value in zip(tally.sizes, (seen.width, seen.height, seen.bytes), strict=True):
            numbers.append(value)

    def report(self) -> Report:
        return Report(
            images=sum(tally.images for tally in self._classes.values()),
            classes={word: tally.report() for word, tally in self._classes.items()},
            counts=dict(self._counts),
            copies=tuple(self._copies()),
            failures=tuple(self._failures),
            digest=data_digest(self._pairs),
        )

    def _copies(self) -> Iterator[Copies]:
        for sha256, files in self._files.items():
            if len(files) > 1:
                yield Copies(sha256, tuple(files))


def _spread(numbers: array[int]) -> Spread | None:
    if not numbers:
        return None
    return Spread(min(numbers), float(np.median(np.frombuffer(numbers, np.int64))), max(numbers))
