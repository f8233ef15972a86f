"""A copy of a collection in which the two classes look the same to whoever sees no pixel.

Every picture is cut to its central square, scaled down to one of a few sizes and written by one encoder at one
quality, without embedded data. That leaves the size and the bytes per pixel, which follow the content. So images are
taken in pairs, a fake and a real of the same size whose bytes differ by hardly anything: both classes then have the
same law of sizes and bytes, jointly. What finds no partner is left out, and listed.

No picture is enlarged, and every picture is scaled to at most `MOST_SCALE` of its side: otherwise fakes made at just
256 or 512 pixels would be the ones that were not resampled. Images are tried at the largest size that they have the
pixels for, then at smaller ones.

The members of a pair are twins to a metadata detector: if one trains and the other is tested, its label is the
opposite of its twin's. So a pair is one group (column `group`), together with the groups that its members had, and
both are of one split where the collection has splits.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ._version import __version__
from .errors import DataError, InputError, MissingExtraError, UnsupportedImageError, UsageError
from .images import DEFAULT_MAX_PIXELS, decode
from .metrics import auroc
from .pairing import Pair, find_pairs
from .pipeline import ordered_map
from .storage import new_folder, write_json
from .types import Label, Pixels, Sample, data_digest
from .wording import counted

KIND, SCHEMA = "matched list", 1
SIZES = (128, 192, 256, 384, 512, 768, 1024)
"""Sides, in pixels, that pictures are scaled down to."""
MOST_SCALE = 0.9
"""Largest side over the original's short side."""
LEAST_PAIRS = 10
"""Fewer are no list that anything could be measured on."""
_NOT_FAILURES = {"duplicate", "both-classes", "too-small", "no-partner"}

Format = Literal["jpeg", "webp", "png"]
_FORMATS: dict[str, tuple[str, str, dict[str, int]]] = {
    "jpeg": ("JPEG", ".jpg", {"subsampling": 2}),
    "webp": ("WEBP", ".webp", {"method": 4}),
    "png": ("PNG", ".png", {}),
}


@dataclass(frozen=True, slots=True)
class Encoder:
    """The one encoder of a matched list.

    Attributes:
        format: `jpeg` (4:2:0), `webp` (lossy) or `png`.
        quality: 1..100 of the first two; None for PNG.
    """

    format: Format = "jpeg"
    quality: int | None = 85

    def __post_init__(self) -> None:
        """Refuse a quality that the format has not.

        Raises:
            UsageError: it has none, needs one, or one from 1 to 100.
        """
        wrong = self.quality is not None and (type(self.quality) is not int or not 1 <= self.quality <= 100)
        if (self.format == "png") != (self.quality is None) or wrong:
            raise UsageError(f"quality {self.quality} with {self.format}: JPEG and WebP take 1 to 100, PNG takes none")

    @property
    def suffix(self) -> str:
        """Of the file names."""
        return _FORMATS[self.format][1]

    def encode(self, pixels: Pixels, side: int) -> bytes:
        """The central square of `(H, W, 3)` pixels, scaled to `side` x `side`, as a file."""
        from PIL import Image

        height, width = pixels.shape[:2]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = Image.fromarray(pixels[top : top + short, left : left + short])
        name, _, options = _FORMATS[self.format]
        quality = {} if self.quality is None else {"quality": self.quality}
        buffer = io.BytesIO()
        square.resize((side, side), Image.Resampling.BICUBIC).save(buffer, name, **quality, **options)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Measured:
    """One image of the collection: how many bytes it takes at each side that it has the pixels for.

    Attributes:
        sample: the image.
        sha256: of its file.
        format: of its file.
        short: its short side in pixels.
        bytes: side -> bytes.
    """

    sample: Sample
    sha256: str
    format: str
    short: int
    bytes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image of the collection that is not in the list: n in = n out."""

    image: str
    label: Label
    reason: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"image": self.image, "label": self.label.word, "reason": self.reason, "message": self.message}


@dataclass(frozen=True, slots=True)
class Matched:
    """What was written.

    Attributes:
        folder: with `manifest.jsonl`, `images/`, `left_out.jsonl` and `match.json`.
        pairs: number of them: as many fakes and as many reals.
        left_out: a row for each image that is not in the list.
        remarks: what may still differ between the classes, in words.
    """

    folder: Path
    pairs: int
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...]

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return sum(row.reason not in _NOT_FAILURES for row in self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; the rows left out are counted by reason."""
        counts = Counter(row.reason for row in self.left_out)
        return {
            "folder": str(self.folder), "pairs": self.pairs, "left_out": dict(sorted(counts.items())),
            "remarks": list(self.remarks),
        }  # fmt: skip


def write_matched(
    samples: Iterable[Sample],
    folder: str | Path,
    *,
    encoder: Encoder = Encoder(),
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
    workers: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> Matched:
    """Write the matched copy of a collection. The same collection, options, seed and codecs give the same bytes.

    The folder appears when all of it is there; an interrupted run leaves nothing under its name.

    Args:
        samples: the collection.
        folder: to make: images, and a manifest that `open_dataset` reads.
        encoder: of all images.
        sizes: sides that pictures may be scaled to.
        seed: of the order in which fakes look for a partner.
        workers: threads.
        max_pixels: larger images are left out.
        on_done: called with 1 after each image that was measured or written.

    Raises:
        OutputExistsError: the folder is there already.
        DataError: fewer than `LEAST_PAIRS` pairs could be made, or a file changed while it was worked on.
    """
    folder = Path(folder)
    with new_folder(folder) as scratch:
        measured, left = measure(samples, encoder, sizes, workers=workers, max_pixels=max_pixels, on_done=on_done)
        groups, splits = ([getattr(m.sample, column) for m in measured] for column in ("group", "split"))
        labels, sizes_of = [m.sample.label for m in measured], [m.bytes for m in measured]
        pairs, joined = find_pairs(labels, groups, sizes_of, splits=splits, seed=seed)
        paired = {i for p in pairs for i in (p.fake, p.real)}
        left += [_without_partner(m) for i, m in enumerate(measured) if i not in paired]
        if len(pairs) < LEAST_PAIRS:
            counts = Counter(f"{row.label.word} {row.reason}" for row in left)
            why = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
            raise DataError(
                f"{counted(len(pairs), 'pair')} of a fake and a real, of at least {LEAST_PAIRS} (left out: {why})"
            )
        remarks = _remarks(measured, pairs)
        _write(scratch, measured, pairs, joined, encoder, workers=workers, max_pixels=max_pixels, on_done=on_done)
        _write_lines(scratch / "left_out.jsonl", (row.to_dict() for row in left))
        matched = Matched(folder, len(pairs), tuple(left), remarks)
        write_json(scratch / "match.json", KIND, SCHEMA, _record(matched, measured, encoder, sizes, seed))
    return matched


def measure(
    samples: Iterable[Sample],
    encoder: Encoder,
    sizes: Sequence[int],
    *,
    workers: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[list[Measured], list[LeftOut]]:
    """Each distinct image with its bytes at each side; the others with the reason."""

    def one(sample: Sample) -> Measured | LeftOut:
        try:
            decoded = decode(sample.ref, max_pixels=max_pixels)
            if not decoded.sha256:
                raise UnsupportedImageError("pixels without a file; give the encoded file")
            short = min(decoded.pixels.shape[:2])
            fitting = [side for side in sorted(set(sizes)) if side <= MOST_SCALE * short]
            taken = {side: len(encoder.encode(decoded.pixels, side)) for side in fitting}
        except (InputError, MissingExtraError) as error:
            return LeftOut(sample.ref.name, sample.label, error.code, str(error))
        except MemoryError:
            return LeftOut(sample.ref.name, sample.label, InputError.code, "not enough memory to decode it")
        return Measured(sample, decoded.sha256, decoded.format, short, taken)

    first: dict[str, int] = {}
    both: set[str] = set()
    measured: list[Measured] = []
    left: list[LeftOut] = []
    for found in ordered_map(one, samples, workers=workers, ahead=4 * workers):
        on_done(1)
        if isinstance(found, LeftOut):
            left.append(found)
        elif found.sha256 in first:
            earlier = measured[first[found.sha256]].sample
            reason = "duplicate" if earlier.label is found.sample.label else "both-classes"
            both |= {found.sha256} if reason == "both-classes" else set()
            left.append(_left(found, reason, f"the same file as {earlier.ref.name}"))
        else:
            first[found.sha256] = len(measured)
            measured.append(found)
    left += [
        _left(m, "both-classes", "the same file is there as the other class") for m in measured if m.sha256 in both
    ]
    return [m for m in measured if m.sha256 not in both], left


def _left(found: Measured, reason: str, message: str) -> LeftOut:
    return LeftOut(found.sample.ref.name, found.sample.label, reason, message)


def _without_partner(found: Measured) -> LeftOut:
    if not found.bytes:
        least = f"its short side is {found.short} pixels; the smallest size needs {1 / MOST_SCALE:.2f} times as many"
        return _left(found, "too-small", least)
    of = f" and of split {found.sample.split!r}" if found.sample.split else ""
    return _left(found, "no-partner", f"no image of the other class{of} has its size and bytes")


def _write(
    scratch: Path, measured: Sequence[Measured], pairs: Sequence[Pair], joined: Sequence[int], encoder: Encoder,
    *, workers: int, max_pixels: int, on_done: Callable[[int], None],
) -> None:  # fmt: skip
    """Images and manifest, in the order of the collection."""
    place = {i: (number, p.side) for number, p in enumerate(pairs) for i in (p.fake, p.real)}
    (scratch / "images").mkdir()

    def one(i: int) -> dict[str, Any]:
        number, side = place[i]
        found = measured[i]
        changed = DataError(f"{found.sample.ref.name} changed while the list was made; start again")
        try:
            decoded = decode(found.sample.ref, max_pixels=max_pixels)
        except InputError as error:
            raise changed from error
        data = encoder.encode(decoded.pixels, side)
        if decoded.sha256 != found.sha256 or len(data) != found.bytes[side]:
            raise changed
        file = f"images/{found.sha256[:16]}{encoder.suffix}"
        (scratch / file).write_bytes(data)
        return _row(found, file, joined[i], number, side, len(data))

    def rows() -> Iterator[dict[str, Any]]:
        for row in ordered_map(one, sorted(place), workers=workers, ahead=4 * workers):
            on_done(1)
            yield row

    _write_lines(scratch / "manifest.jsonl", rows())


def _row(found: Measured, file: str, group: int, pair: int, side: int, size: int) -> dict[str, Any]:
    """A row of the manifest; the collection's own other columns speak of the original file, and are kept as such."""
    sample = found.sample
    original = {"image": sample.ref.name, "sha256": found.sha256, "short_side": found.short, "group": sample.group}
    return {
        "file": file, "label": sample.label.word, "generator": sample.generator, "source": sample.source,
        "family": sample.family, "split": sample.split, "subset": sample.subset,
        "group": f"matched {group}", "license": sample.licence, "pair": pair, "side": side, "bytes": size,
        "original": original | ({"columns": _finite(dict(sample.extra))} if sample.extra else {}),
    }  # fmt: skip


def _finite(value: Any) -> Any:
    """The same, with None for numbers that JSON has not: nan, as an empty cell of a table is read, and infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, default=str, allow_nan=False) + "\n")


def _remarks(measured: Sequence[Measured], pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What no re-encoding makes equal: how far pictures were scaled down, and what their files were before."""
    fakes, reals = [measured[p.fake] for p in pairs], [measured[p.real] for p in pairs]
    sides = np.array([p.side for p in pairs])
    scale = [sides / np.array([m.short for m in each]) for each in (fakes, reals)]
    area = auroc(np.repeat([1, 0], len(pairs)), np.concatenate(scale))
    jpeg = [float(np.mean([m.format in {"JPEG", "MPO"} for m in each])) for each in (fakes, reals)]
    return (
        f"scaled to a median of {np.median(scale[0]):.2f} of the side (fakes) and {np.median(scale[1]):.2f} (reals); "
        f"AUROC of the scale alone {max(area, 1 - area):.3f}, which pixels may show, but no metadata",
        f"were JPEG before: {jpeg[0]:.0%} of fakes, {jpeg[1]:.0%} of reals, which pixels may show, but no metadata",
    )


def _record(
    matched: Matched, measured: Sequence[Measured], encoder: Encoder, sizes: Sequence[int], seed: int
) -> dict[str, Any]:
    import PIL
    from PIL import features

    software = {"univfd": __version__, "pillow": PIL.__version__}
    software |= {name: features.version(name) or "" for name in ("libjpeg_turbo", "webp")}
    return {
        "data": data_digest((m.sha256, m.sample.label) for m in measured), "seed": seed, "format": encoder.format,
        "quality": encoder.quality, "sizes": sorted(sizes), "most_scale": MOST_SCALE,
        "pairs": matched.pairs, "left_out": matched.to_dict()["left_out"], "remarks": list(matched.remarks),
        "software": software,
    }  # fmt: skip
