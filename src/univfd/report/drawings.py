"""The report's figures: each a drawing, a caption that says what it shows and of how many, and the same in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmark.figures import CellFigures
from ..benchmark.groups import UNNAMED
from ..benchmark.rows import Cell, Images, Scores
from ..metrics import FIGURES, Absent, Estimate
from ..projection import TITLES, project
from ..search import to_unit
from ..spectra import PERIODS
from ..types import FeatureSpace
from ..wording import counted
from ..writers import printable
from . import curves, feature_map, plots
from .grids import MEANS, Box, Grid, box, readings, title
from .pictures import Spectrum, spectrum_picture

ROBUSTNESS = ("auroc", "ap_equal", "balanced_accuracy_half", "false_alarms")
_NAMED = 8  # generators or families that have a colour of their own


@dataclass(frozen=True)
class Drawing:
    """An `<svg>` made by `univfd.report.svg`, its caption, and its numbers where no other table has them."""

    svg: str
    caption: str
    numbers: Grid | None = None


@dataclass(frozen=True)
class Picture:
    """A picture as a `data:` address, what it shows in words, and the lines below it."""

    address: str
    label: str
    lines: tuple[str, ...]


Draw = Callable[[Any, Sequence[str], str, str], str]


class Prefixes:
    """A new prefix for the ids of each drawing of a page."""

    def __init__(self, stem: str) -> None:
        self._stem, self._n = stem, 0

    def __call__(self) -> str:
        """The next one."""
        self._n += 1
        return f"{self._stem}{self._n}-"


def ranking(scores: Scores, figures: Sequence[CellFigures], perturb: str, prefix: Prefixes) -> list[Drawing]:
    """ROC and precision-recall curves under one perturbation."""
    counts = _counts(figures, perturb)
    return [
        *_curves(
            scores, perturb, prefix, curves.roc, plots.roc, _known(figures, perturb, "auroc"),
            f"ROC curves under {perturb}, over all images: {counts}. The grey line is chance.",
            "Share of fakes above the threshold that so many of the reals exceed (oracle)",
        ),
        *_curves(
            scores, perturb, prefix, curves.precision_recall, plots.precision_recall, _known(figures, perturb, "ap"),
            f"Precision and recall under {perturb}, over all images: {counts}. The grey line is what calling "
            "everything fake gives: precision depends on the share of fakes.",
            "Precision at so much recall or more",
        ),
    ]  # fmt: skip


def answers(scores: Scores, figures: Sequence[CellFigures], perturb: str, prefix: Prefixes) -> list[Drawing]:
    """Reliability and risk-coverage under one perturbation."""
    counts = _counts(figures, perturb)
    bins = {_name(c): found for c in _cells(scores, perturb) if (found := curves.reliability(c, scores.images))}
    drawn = []
    if bins:
        spread = "; ".join(f"{n}: {', '.join(f'{b.fakes.n:,}' for b in found)}" for n, found in bins.items())
        caption = (
            f"Reliability under {perturb}: the share of fakes among the images whose probability lies in each tenth, "
            "with exact 95 % intervals; on the grey line the probability is right, for this share of fakes. n, from "
            f"the lowest tenth with images to the highest: {spread}."
        )
        label = f"Reliability diagram under {perturb}. {_known(figures, perturb, 'ece')}"
        svg = plots.reliability(bins, _order(scores), prefix(), label)
        drawn.append(Drawing(svg, caption, _tenths(bins, perturb)))
    return drawn + _curves(
        scores, perturb, prefix, curves.risk_coverage, plots.risk_coverage, _known(figures, perturb, "accuracy_half"),
        f"Risk against coverage under {perturb}: wrong answers (at 0.5) if only the most confident images get one, "
        f"over all images: {counts}.",
        "Share of wrong answers if only so many of the images get one",
    )  # fmt: skip


def robustness(figures: Sequence[CellFigures], perturbations: Sequence[str], prefix: Prefixes) -> list[Drawing]:
    """Figures against the perturbation."""
    drawn = []
    for name in ROBUSTNESS:
        mean = name in MEANS
        lines: dict[str, list[Estimate | Absent]] = {}
        for c in figures:
            lines.setdefault(printable(c.detector), []).append((c.means if mean else c.overall.figures)[name])
        known = [v for values in lines.values() for v in values if isinstance(v, Estimate)]
        if not known:
            continue
        what = f"mean {title(name)} over generators" if mean else FIGURES[name].title
        counted = f"{_span([v.n for v in known])} {'generators' if mean else 'images'}"
        said = "; ".join(f"{n}: {', '.join(box(name, v).text for v in values)}" for n, values in lines.items())
        label = f"{what} under {', '.join(map(printable, perturbations))}. {said}"
        svg = plots.robustness(what, lines, [printable(p) for p in perturbations], prefix(), label, percent=not mean)
        drawn.append(Drawing(svg, f"{what[0].upper()}{what[1:]} by perturbation, with 95 % intervals; n: {counted}."))
    return drawn


def feature_maps(
    space: FeatureSpace, detectors: Sequence[str], perturb: str, images: Images, root: Path | None,
    methods: Sequence[str], prefix: Prefixes,
) -> list[Drawing]:  # fmt: skip
    """Maps of one feature space; none where fewer than `feature_map.LEAST` embeddings are cached."""
    rows, vectors = feature_map.cached(space, perturb, images, root)
    if len(rows) < feature_map.LEAST:
        return []
    kinds, names = _kinds(rows, images)
    drawn = []
    for found in project(to_unit(vectors), methods):
        method = TITLES[found.method]
        counts = ", ".join(f"{n} {kinds.count(n):,}" for n in names)
        caption = (
            f"{method} of {counted(len(rows), 'image')} under {perturb} in the feature space of "
            f"{', '.join(map(printable, detectors))} "
            f"({space.backbone}, {'+'.join(space.taps)}, {space.view}; length 1): {found.remark}. Generators and "
            f"sources are drawn from evenly. n: {counts}."
        )
        svg = plots.scatter(
            method, found.places, kinds, names, prefix(), f"{method} map of {counted(len(rows), 'image')}: {counts}"
        )
        drawn.append(Drawing(svg, caption))
    return drawn


def spectra(found: Sequence[Spectrum], perturb: str, prefix: Prefixes) -> tuple[list[Picture], list[Drawing]]:
    """Mean spectra as pictures, and by frequency as lines."""
    low, high = (float(q) for q in np.quantile(np.stack([s.mean for s in found]), [0.01, 0.999]))
    pictures = [
        Picture(
            spectrum_picture(s.mean, low, max(high, low + 1e-3)),
            f"Mean spectrum of the residuals of {printable(s.name)}",
            (printable(s.name), f"n {s.n:,}"),
        )
        for s in found
    ]
    most = sorted(found[1:], key=lambda s: (-s.n, s.name))[:_NAMED]
    lines = {printable(s.name): s.profile for s in [*found[:1], *(s for s in found[1:] if s in most)]}
    counts = ", ".join(f"{printable(s.name)} {s.n:,}" for s in found if printable(s.name) in lines)
    label = f"Power of the residuals by frequency under {perturb}: {', '.join(lines)}"
    caption = (
        f"Mean power of the residuals by frequency under {perturb}"
        f"{f', of the {_NAMED} generators with most images' if len(found) > _NAMED + 1 else ''}. n: {counts}."
    )
    table = readings(
        f"Grid peaks under {perturb}, in dB: how far a mean spectrum stands out at the frequencies of a grid of that "
        "period in pixels, above a grid of half the period; about 0: no grid. JPEG blocks are a grid of period 8.",
        "of", [f"period {p}" for p in PERIODS],
        {s.name: [Box(f"{s.peaks[p]:+.1f}", n=f"n {s.n:,}") for p in PERIODS] for s in found},
    )  # fmt: skip
    return pictures, [Drawing(plots.profiles(lines, prefix(), label), caption, table)]


def _curves(
    scores: Scores, perturb: str, prefix: Prefixes,
    compute: Callable[[Cell, Images], curves.Curve | None], draw: Draw, said: str, caption: str, reading: str,
) -> list[Drawing]:  # fmt: skip
    found = {_name(c): curve for c in _cells(scores, perturb) if (curve := compute(c, scores.images))}
    if not found:
        return []
    head = [f"at {x:.0%}".replace("%", " %") for x in next(iter(found.values())).read]
    rows = {
        name: [Box(f"{y:.1%}".replace("%", " %"), n=f"n {c.n_fake:,} + {c.n_real:,}") for y in c.read.values()]
        for name, c in found.items()
    }
    numbers = readings(f"{reading}; under {perturb}. n: fakes + reals.", "detector", head, rows)
    return [Drawing(draw(found, _order(scores), prefix(), f"{caption} {said}"), caption, numbers)]


def _tenths(bins: Mapping[str, Sequence[curves.Bin]], perturb: str) -> Grid:
    head = [f"{i / curves.BINS:.1f} to {(i + 1) / curves.BINS:.1f}" for i in range(curves.BINS)]
    rows = {}
    for name, found in bins.items():
        boxes = [Box("\N{EM DASH}", n="n 0")] * curves.BINS
        for b in found:
            boxes[b.tenth] = box("recall", b.fakes)
        rows[name] = boxes
    return readings(f"Share of fakes by probability, under {perturb}.", "detector", head, rows)


def _cells(scores: Scores, perturb: str) -> Iterator[Cell]:
    return (c for c in scores.cells if c.perturbation == perturb)


def _order(scores: Scores) -> list[str]:
    return list(dict.fromkeys(map(_name, scores.cells)))


def _name(cell: Cell) -> str:
    return printable(cell.detector)


def _known(figures: Sequence[CellFigures], perturb: str, name: str) -> str:
    """A figure of each detector, in words."""
    of = [c for c in figures if c.perturbation == perturb]
    return "; ".join(f"{printable(c.detector)}: {title(name)} {box(name, c.overall.figures[name]).text}" for c in of)


def _counts(figures: Sequence[CellFigures], perturb: str) -> str:
    of = [c.overall for c in figures if c.perturbation == perturb]
    return f"{_span([p.n_fake for p in of])} fakes and {_span([p.n_real for p in of])} reals"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _kinds(rows: Any, images: Images) -> tuple[list[str], list[str]]:
    """The kind of each image of a map, and all kinds: real; then families where named, else generators."""
    named_families = images.columns["family"].among(images.fake) not in ([""], [])
    column = images.columns["family" if named_families else "generator"]
    kinds = [printable(column[row] or UNNAMED) if images.fake[row] else "real" for row in rows]
    fakes = [k for k, row in zip(kinds, rows, strict=True) if images.fake[row]]
    largest = sorted(set(fakes), key=lambda n: (-fakes.count(n), n))
    if len(largest) > _NAMED:
        named = set(largest[: _NAMED - 1])
        kinds = [k if not images.fake[row] or k in named else "others" for k, row in zip(kinds, rows, strict=True)]
        largest = [*largest[: _NAMED - 1], "others"]
    kinds = [f"{k} (fake)" if k == "real" and images.fake[row] else k for k, row in zip(kinds, rows, strict=True)]
    return kinds, ["real", *("real (fake)" if n == "real" else n for n in largest)]
