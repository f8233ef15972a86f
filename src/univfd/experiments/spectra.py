"""Mean spectra of what a median filter leaves over (paper, section 3.2, Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..benchmark.rendering import Section, Table, Value
from ..errors import DataError, UsageError
from ..spectra import PERIODS, SIDE, grid_peak, residual_spectrum
from ..study import plots
from ..study.data import Data, Rows
from ..study.experiment import Drawing, Experiment, Result
from ..types import Failure, Pixels

Floats = NDArray[np.float64]
_COLUMNS = 6


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of a generator or real source.

    Attributes:
        label: real or fake.
        name: of it.
        mean: `(S, S)` mean of the log power spectra, zero frequency in the middle; dB.
        n: images.
        small: images that are smaller than S and not in it.
    """

    label: str
    name: str
    mean: Floats
    n: int
    small: int


def run(
    data: Data, pictures: Callable[[Rows], Iterable[Pixels | Failure]], seed: int, size: int = SIDE, most: int = 200
) -> Result:
    """Mean spectra, and the height of grid peaks in them."""
    if size < 4 * max(PERIODS) or size % max(PERIODS):
        raise UsageError(f"size is {size}; expected a multiple of {max(PERIODS)}, at least {4 * max(PERIODS)}")
    if most < 1:
        raise UsageError(f"most is {most}; expected at least 1")
    chosen, names = _chosen(data, most, seed)
    sums: dict[tuple[str, str], Floats] = {}
    counts = {key: [0, 0] for key in dict.fromkeys(names)}
    failures: dict[int, Failure] = {}
    for row, key, picture in zip(chosen.tolist(), names, pictures(chosen), strict=True):
        if isinstance(picture, Failure):
            failures[row] = picture
        elif (spectrum := residual_spectrum(picture, size)) is None:
            counts[key][1] += 1
        else:
            sums[key] = sums.get(key, 0) + spectrum
            counts[key][0] += 1
    if not sums:
        raise DataError(
            f"every picture is smaller than {size} pixels, or cannot be decoded ({len(failures)} of {len(chosen)}); "
            "ask for a smaller --size"
        )
    found = [Spectrum(*key, total / counts[key][0], *counts[key]) for key, total in sums.items()]
    none = [f"{name} ({label})" for (label, name), (n, _) in counts.items() if not n]
    said = list(_sentences(found))
    said += [f"No picture of {size} pixels or more: {', '.join(none)}."] if none else []
    return Result(said, [_table(found, size)], [_drawing(found)], failures=failures)


def _chosen(data: Data, most: int, seed: int) -> tuple[Rows, list[tuple[str, str]]]:
    rng = np.random.default_rng(seed)
    generator, source = data.column("generator"), data.column("source")
    rows: list[int] = []
    names: list[tuple[str, str]] = []
    for label, own, column in (("real", ~data.fake, source), ("fake", data.fake, generator)):
        for name in sorted(set(column[own])):
            inside = np.flatnonzero(own & (column == name))
            picked = np.sort(rng.permutation(inside)[:most])
            rows += picked.tolist()
            names += [(label, name or "(not named)")] * len(picked)
    return np.array(rows, np.intp), names


def _table(found: list[Spectrum], size: int) -> Table:
    rows: list[list[Value]] = [
        [s.label, s.name, s.n, s.small, *(f"{grid_peak(s.mean, p):.2f}" for p in PERIODS)] for s in found
    ]
    notes = (
        f"Mean log power spectrum of the residual of a 3 x 3 median filter, grey centre crops of {size} pixels at the "
        "picture's own resolution. A grid peak: the mean excess in dB over the surroundings at the frequencies of a "
        "grid of that period in pixels, without those that a grid of half the period has. About 0: no grid. JPEG "
        "blocks are a grid of period 8 that many real photographs have: lay one encoder on both classes (--perturb "
        "jpeg:85), or read the other periods.",
        f"*Smaller*: pictures below {size} pixels, which are in no spectrum.",
    )
    head = ("class", "generator or source", "n", "smaller", *(f"grid peak, period {p} (dB)" for p in PERIODS))
    return Table("spectra", "Grid peaks in mean spectra", notes, head, [Section((), rows)])


def _drawing(found: list[Spectrum]) -> Drawing:
    rows = -(-len(found) // _COLUMNS)
    figure, axes = plots.panels(min(_COLUMNS, len(found)), rows, width=1.9, height=2.1)
    low, high = np.percentile(np.stack([s.mean for s in found]), [1, 99.5])
    for place in axes:
        place.set_axis_off()
    for place, s in zip(axes, found, strict=False):
        place.imshow(s.mean, cmap="viridis", vmin=low, vmax=high)
        place.set_title(f"{s.label}: {s.name}\nn={s.n}", fontsize=7)
    return Drawing("spectra", "Mean spectra of residuals, zero frequency in the middle, one scale for all.", figure)


def _sentences(found: list[Spectrum]) -> Iterator[str]:
    for period in PERIODS:
        ordered = sorted(found, key=lambda s: -grid_peak(s.mean, period))
        top = "; ".join(f"{s.name} ({s.label}, n={s.n}) {grid_peak(s.mean, period):.1f} dB" for s in ordered[:3])
        both: Mapping[str, list[float]] = {
            label: [grid_peak(s.mean, period) for s in found if s.label == label] for label in ("real", "fake")
        }
        medians = ", ".join(f"{np.median(v):.1f} dB over {len(v)} of {label}" for label, v in both.items() if v)
        yield f"Grid of period {period}: highest {top}; median {medians}."


PLUGIN = Experiment(
    "Mean spectra of residuals",
    "The paper averages the spectra of what a median filter removes: some GANs show a grid, diffusion models look like "
    "real photographs, so what a trained network learned from the one says nothing about the other. Here: the same for "
    "every generator and source of reals, and the height of the grid peaks as a number.",
    run,
    {"size": "Side of the centre crop, in pixels.", "most": "Images of each generator and source, at most."},
)
