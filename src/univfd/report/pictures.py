"""The user's own images, where they are found again: small copies of the worst cases, mean spectra."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backbones import cpus
from ..benchmark.groups import UNNAMED
from ..benchmark.rows import Cell, Images
from ..errors import InputError
from ..images import decode
from ..perturbations import perturbation
from ..pipeline import ordered_map
from ..spectra import PERIODS, by_frequency, grid_peak, residual_spectrum
from ..types import ImageRef, Pixels, Sample
from .template import address

log = logging.getLogger(__name__)

REALS = "all reals"
THUMBNAIL = 160
"""Pixels of a small copy's longer side."""
LOOKED_AT = (400, 200)
"""Fakes and reals that go into mean spectra, at most: evenly of each generator and source, at least one of each."""
PER_KIND = 50
"""Fakes of one generator, likewise."""


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
    """The mean spectrum of the residuals of one kind of images, in dB: `(SIDE, SIDE)`, of n.

    Attributes:
        name: of the kind.
        mean: the spectrum.
        n: images.
        profile: by frequency, `(SIDE / 2 + 1,)`.
        peaks: by period of a grid, see `univfd.spectra.grid_peak`.
    """

    name: str
    mean: NDArray[np.float64]
    n: int
    profile: NDArray[np.float64]
    peaks: Mapping[int, float]


def worst_cases(cell: Cell, images: Images, n: int) -> tuple[list[Case], list[Case]]:
    """The n reals that score highest and the n fakes that score lowest, worst first."""
    found, sha256 = [], images.columns["sha256"]
    for members, sign in ((~images.fake, -1), (images.fake, 1)):
        rows = np.flatnonzero(members & cell.judged)
        ordered = rows[np.argsort(sign * cell.score[rows], kind="stable")]
        by_file = {sha256[row] or int(row): int(row) for row in reversed(ordered.tolist())}  # a file once, at its worst
        chosen = set(by_file.values())
        found.append([_case(cell, images, row) for row in ordered.tolist() if row in chosen][:n])
    return found[0], found[1]


def find(rows: Iterable[int], images: Images, samples: Iterable[Sample]) -> dict[int, ImageRef]:
    """Where the images of some rows are now: by their names in the run, or the longest end of these that is found.

    A collection that was moved, or is named by another path, has other names that end alike. Whether it is the same
    file is seen by its checksum when it is read.

    Args:
        rows: of the images wanted.
        images: of the run.
        samples: of the same data set, read again.
    """
    ends = {row: list(_ends(images.columns["image"][row])) for row in rows}
    wanted = {end for of in ends.values() for end in of}
    first: dict[str, ImageRef] = {}
    for sample in samples:
        end = next((end for end in _ends(sample.ref.name) if end in wanted), None)
        if end is not None:
            first.setdefault(end, sample.ref)
    found = {row: next((first[end] for end in of if end in first), None) for row, of in ends.items()}
    return {row: ref for row, ref in found.items() if ref is not None}


def _ends(name: str) -> Iterator[str]:
    """A name, and what is left of it without its first folder, its first two and so on."""
    while name:
        yield name
        name = name.replace(os.sep, "/").partition("/")[2]


def thumbnails(rows: Iterable[int], images: Images, places: Mapping[int, ImageRef], max_pixels: int) -> dict[int, str]:
    """Small copies as `data:` addresses, by row; none of an image that is gone or has changed since the run."""
    made = {}
    for row in dict.fromkeys(rows):
        pixels = _pixels(row, images, places, max_pixels)
        if pixels is not None:
            made[row] = thumbnail(pixels)
    return made


def small_map(png: bytes) -> str:
    """A heat map, twice as large as the picture's small copy beside it; as a `data:` address.

    Raises:
        InputError: no picture; a map may come from a service.
    """
    return thumbnail(decode(ImageRef("heat map", png)).pixels, 2 * THUMBNAIL)


def thumbnail(pixels: Pixels, side: int = THUMBNAIL) -> str:
    """A small JPEG copy without any metadata, as a `data:` address."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75)
    return address("image/jpeg", out.getvalue())


def kinds(images: Images, judged: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Rows that spectra are made of: reals evenly over their sources, fakes of each generator.

    Args:
        images: of the run.
        judged: `(N,)` which of them are images at all.
    """
    fakes, reals = images.fake & judged, ~images.fake & judged
    names, sources = images.columns["generator"].among(fakes), images.columns["source"].among(reals)
    each, of_source = (max(1, n // max(1, len(of))) for n, of in zip(LOOKED_AT, (names, sources), strict=True))
    found = {REALS: [row for name in sources for row in _even(reals & images.columns["source"].are(name), of_source)]}
    for name in names:
        shown = name or UNNAMED
        shown += " (fake)" if shown == REALS else ""
        found[shown] = _even(fakes & images.columns["generator"].are(name), min(each, PER_KIND))
    return found


def spectra(
    of: Mapping[str, Sequence[int]], images: Images, places: Mapping[int, ImageRef], perturb: str, max_pixels: int
) -> list[Spectrum]:
    """Mean spectra of kinds of images.

    Args:
        of: their rows, from `kinds`.
        images: of the run.
        places: where images are now, from `find`.
        perturb: laid on the pixels, as in the run.
        max_pixels: larger images are left out.

    Returns:
        In the order of `of`; only kinds that have an image of at least `SIDE` pixels a side.
    """
    change = perturbation(perturb)

    def look(row: int) -> NDArray[np.float64] | None:
        pixels = _pixels(row, images, places, max_pixels)
        return None if pixels is None else residual_spectrum(change(pixels))

    found = []
    for name, rows in of.items():
        each = [s for s in ordered_map(look, rows, workers=cpus(), ahead=2 * cpus()) if s is not None]
        if each:
            mean = np.mean(each, axis=0)
            peaks = {period: grid_peak(mean, period) for period in PERIODS}
            found.append(Spectrum(name, mean, len(each), by_frequency(mean), peaks))
    return found


def spectrum_picture(mean: NDArray[np.float64], low: float, high: float) -> str:
    """A spectrum as a picture, dark to bright from `low` to `high` dB, as a `data:` address."""
    from matplotlib import colormaps
    from PIL import Image

    level = np.clip((mean - low) / (high - low), 0, 1)
    colours = np.asarray(colormaps["cividis"](np.linspace(0, 1, 64), bytes=True))[:, :3]
    image = Image.fromarray(np.rint(level * 63).astype(np.uint8), "P")
    image.putpalette(colours.tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return address("image/png", out.getvalue())


def _even(mask: NDArray[np.bool_], n: int) -> list[int]:
    """At most n rows of a mask, evenly spaced."""
    rows = np.flatnonzero(mask)
    return [int(row) for row in (rows if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(int)])]


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
