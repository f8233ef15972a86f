"""The user's own images, where they are found again: small copies of the worst cases, mean spectra."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..benchmark.groups import UNNAMED
from ..benchmark.rows import Cell, Images
from ..errors import InputError
from ..images import decode
from ..perturbations import perturbation
from ..spectra import SIDE, by_frequency, residual_power
from ..types import ImageRef, Pixels, Sample

log = logging.getLogger(__name__)

REALS = "all reals"
THUMBNAIL = 160
"""Pixels of a small copy's longer side."""
PER_KIND = 50
"""Images of a generator, and five times as many reals, that go into its mean spectrum, at most."""


@dataclass(frozen=True)
class Case:
    """An image that a detector judged badly, or at least worst.

    Attributes:
        row: of the image.
        image: its name.
        origin: generator of a fake, source of a real.
        score: the detector's.
        probability: likewise; None if not calibrated.
        verdict: `fake`, `real` or `unsure`.
    """

    row: int
    image: str
    origin: str
    score: float
    probability: float | None
    verdict: str


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The mean power of the residuals of one kind of images: `(SIDE, SIDE)`, by frequency, of n."""

    name: str
    power: NDArray[np.float64]
    profile: NDArray[np.float64]
    n: int


def worst_cases(cell: Cell, images: Images, n: int) -> tuple[list[Case], list[Case]]:
    """The n reals that score highest and the n fakes that score lowest, worst first."""
    found = []
    for members, sign in ((~images.fake, -1), (images.fake, 1)):
        rows = np.flatnonzero(members & cell.judged)
        chosen = rows[np.argsort(sign * cell.score[rows], kind="stable")][:n]
        found.append([_case(cell, images, int(row)) for row in chosen])
    return found[0], found[1]


def find(rows: Iterable[int], images: Images, samples: Iterable[Sample]) -> dict[int, ImageRef]:
    """Where the images of some rows are now, by the names that they had in the run.

    Args:
        rows: of the images wanted.
        images: of the run.
        samples: of the same data set, read again.
    """
    wanted: dict[str, list[int]] = {}
    for row in rows:
        wanted.setdefault(images.columns["image"][row], []).append(row)
    found: dict[int, ImageRef] = {}
    for sample in samples:
        for row in wanted.get(sample.ref.name, ()):
            found.setdefault(row, sample.ref)
    return found


def thumbnails(rows: Iterable[int], images: Images, places: Mapping[int, ImageRef], max_pixels: int) -> dict[int, str]:
    """Small copies as `data:` addresses, by row; none of an image that is gone or has changed since the run."""
    made = {}
    for row in dict.fromkeys(rows):
        pixels = _pixels(row, images, places, max_pixels)
        if pixels is not None:
            made[row] = thumbnail(pixels)
    return made


def thumbnail(pixels: Pixels) -> str:
    """A small JPEG copy without any metadata, as a `data:` address."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75)
    return _address("image/jpeg", out.getvalue())


def spectra(
    images: Images, judged: NDArray[np.bool_], perturb: str, samples: Iterable[Sample], max_pixels: int
) -> list[Spectrum]:
    """Mean spectra of all reals and of each generator, from an even choice of their images.

    Args:
        images: of the run.
        judged: `(N,)` which of them are images at all.
        perturb: laid on the pixels, as in the run.
        samples: of the same data set, read again.
        max_pixels: larger images are left out.

    Returns:
        The reals first; only kinds that have an image of at least `SIDE` pixels a side.
    """
    change = perturbation(perturb)
    kinds = dict(_kinds(images, judged))
    places = find((row for rows in kinds.values() for row in rows), images, samples)
    found = []
    for name, rows in kinds.items():
        powers = []
        for row in rows:
            pixels = _pixels(row, images, places, max_pixels)
            power = None if pixels is None else residual_power(change(pixels))
            if power is not None:
                powers.append(power)
        if powers:
            mean = np.mean(powers, axis=0)
            found.append(Spectrum(name, mean, 10 * np.log10(by_frequency(mean) + 1e-6), len(powers)))
    return found


def spectrum_picture(power: NDArray[np.float64], low: float, high: float) -> str:
    """A spectrum as a picture, dark to bright from `low` to `high` (logarithms of the power), as a `data:` address."""
    from matplotlib import colormaps
    from PIL import Image

    level = np.clip((np.log10(power + 1e-6) - low) / (high - low), 0, 1)
    colours = np.asarray(colormaps["cividis"](np.linspace(0, 1, 64), bytes=True))[:, :3]
    image = Image.fromarray(np.rint(level * 63).astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return _address("image/png", out.getvalue())


def _kinds(images: Images, judged: NDArray[np.bool_]) -> Iterator[tuple[str, Sequence[int]]]:
    """Rows to look at: reals evenly over their sources, fakes of each generator."""
    source, generator = (images.columns[c] for c in ("source", "generator"))
    reals = ~images.fake & judged
    by_source = [np.flatnonzero(reals & source.are(name)) for name in source.among(reals)]
    each = -(-5 * PER_KIND // max(1, len(by_source)))
    yield REALS, [int(row) for rows in by_source for row in _even(rows, each)]
    for name in generator.among(images.fake & judged):
        rows = np.flatnonzero(images.fake & judged & generator.are(name))
        yield name or UNNAMED, _even(rows, PER_KIND).tolist()


def _even(rows: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    return rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(int)]


def _pixels(row: int, images: Images, places: Mapping[int, ImageRef], max_pixels: int) -> Pixels | None:
    """The picture of a row; None, with a word in the log, if it is not what the run saw."""
    name = images.columns["image"][row]
    if row not in places:
        log.info("%s is not found any more", name)
        return None
    try:
        decoded = decode(places[row], max_pixels=max_pixels)
    except InputError as error:
        log.info("%s: %s", name, error)
        return None
    if decoded.sha256 != images.columns["sha256"][row]:
        log.info("%s is another file than in the run", name)
        return None
    return decoded.pixels


def _case(cell: Cell, images: Images, row: int) -> Case:
    column = "generator" if images.fake[row] else "source"
    return Case(
        row=row,
        image=images.columns["image"][row],
        origin=images.columns[column][row] or UNNAMED,
        score=float(cell.score[row]),
        probability=None if cell.probability is None else float(cell.probability[row]),
        verdict=cell.verdict[row],
    )


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


__all__ = ["SIDE", "Case", "Spectrum", "find", "spectra", "spectrum_picture", "thumbnails", "worst_cases"]
