"""The shipped patch probe, and how well its maps point at what was pasted; `build_default.py` calls this.

It has a tap and a view of its own, whatever those of the detectors are. The block, the view and the two constants of the
fit were chosen on composites drawn with seed 0 from the same images; the figures are of another draw.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composites import Composite, draw, parts_of
from image_versions import embedded, halves
from univfd import metrics
from univfd.backbones import PatchBackbone, feature_space, open_backbone
from univfd.heatmap import HeatMap, patch_scores, reduced
from univfd.images import decode
from univfd.patch_probe import PatchProbe, fit_patch_probe, patch_scatter
from univfd.types import FeatureSpace, FloatArray, Label, Sample
from univfd.views import view

TAP, VIEW = "mean.7", "resize"
PARTS, COMPOSITES, SEED = 5, 120, 1
CROPS = 300  # one of each of so many images, for the scatter of single patches


def build(encoder: str, samples: list[Sample], copies: Sequence[str], cache: Path) -> tuple[PatchProbe, str]:
    """The probe, trained on copies of all samples, and what the model card says about its maps."""
    backbone = open_backbone(encoder, taps=(TAP,))
    if not isinstance(backbone, PatchBackbone):
        sys.exit(f"{encoder} does not show its patches")
    space = feature_space(backbone.entry, (TAP,), VIEW)
    means = [halves(embedded(backbone, view(VIEW), samples, p, cache)).astype(np.float32) for p in copies]
    picked = np.unique(np.linspace(0, len(samples) - 1, CROPS).round().astype(int))
    tokens = sampled_tokens(backbone, int(TAP.partition(".")[2]), [samples[i] for i in picked])

    def fit(rows: NDArray[np.intp]) -> PatchProbe:
        return fitted(samples, rows, means, tokens[np.isin(picked, rows)], space, copies)

    part = parts_of(samples, PARTS)
    held = [fit(rows_without(samples, part == p)) for p in range(PARTS)]
    rows = [pointed(backbone, held[c.part], samples, c) for c in draw(samples, part, COMPOSITES, SEED)]
    return fit(np.arange(len(samples))), report(np.array(rows))


def sampled_tokens(backbone: PatchBackbone, block: int, samples: list[Sample]) -> FloatArray:
    """Patch tokens `(N, g, g, W)` of the centre tile of each image, reduced as for its map."""
    spec, centre = backbone.entry.preprocess, view("native")
    tiles = (centre.cut(reduced(decode(s.ref).pixels, spec).working, spec).pixels for s in samples)
    return halves(np.concatenate([backbone.patch_tokens(t, block) for t in tiles])).astype(np.float32)


def fitted(
    samples: list[Sample],
    rows: NDArray[np.intp],
    means: list[FloatArray],
    tokens: FloatArray,
    space: FeatureSpace,
    copies: Sequence[str],
) -> PatchProbe:
    """A probe of some of the images; generators and sources weigh the same within their class."""
    labels = np.array([samples[i].label for i in rows], np.uint8)
    groups = np.array([samples[i].generator or samples[i].source for i in rows])
    return fit_patch_probe(
        np.concatenate([m[rows] for m in means]), np.tile(labels, len(means)), np.tile(groups, len(means)),
        scatter=patch_scatter(tokens), space=space,
        data=f"{int((labels == 1).sum())} generated and {int((labels == 0).sum())} real images: {', '.join(copies)}",
    )  # fmt: skip


def rows_without(samples: list[Sample], held: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Images that are not held out, nor of the source or the group (same input, same identity) of one that is."""
    out = held.copy()
    for column in (np.array([s.source for s in samples]), np.array([s.group for s in samples])):
        out |= np.isin(column, np.unique(column[held])) & (column != "")
    return np.flatnonzero(~out)


def pointed(
    backbone: PatchBackbone, probe: PatchProbe, samples: list[Sample], composite: Composite
) -> list[tuple[float, float, float]]:
    """For the fake and the control pasted: AUROC of the cells inside against outside, the same as drawn, mean inside - outside."""
    found = []
    for pasted in (composite.fake, composite.control):
        picture = reduced(composite.pixels(samples, pasted), backbone.entry.preprocess)
        heat = HeatMap(patch_scores(backbone, probe, picture.working), picture.shown, probe.block, "")
        inside = composite.inside(len(heat.scores))
        clear, truth = inside >= 0, inside[inside >= 0]
        raw, drawn = (metrics.auroc(truth, s[clear].astype(np.float64)) for s in (heat.scores, heat.smoothed))
        found.append((raw, drawn, float(heat.scores[inside == 1].mean() - heat.scores[inside == 0].mean())))
    return found


def report(rows: NDArray[np.float64]) -> str:
    """The card's section.

    Args:
        rows: `(N, 2, 3)`: composites x (fake, control) x what `pointed` gives.
    """
    n, rng = len(rows), np.random.default_rng(0)
    again = rng.integers(0, n, (2000, n))

    def mean(values: NDArray[np.float64]) -> str:
        low, high = np.quantile(values[again].mean(axis=1), [0.025, 0.975])
        return str(metrics.Estimate(float(values.mean()), float(low), float(high), n))

    auroc, drawn, excess = rows[..., 0], rows[..., 1], rows[..., 2]
    higher = [metrics.proportion(int((excess[:, i] > 0).sum()), n) for i in (0, 1)]
    truth = np.repeat([Label.FAKE, Label.REAL], n)
    apart = metrics.bootstrap(metrics.auroc, truth, excess.T.ravel())
    return "\n".join(
        [
            "## Heat maps",
            "",
            f"A map shows where the score of the patch probe (linear, on the patch tokens after block {TAP.partition('.')[2]}) comes from.",
            f"It is not a map of what was edited, and no verdict depends on it. Measured on {n} composites: a generated image",
            "pasted as a square (13 to 33 % of the area) into a photograph, against a *control*, a real image pasted in",
            "the same place of the same one; all saved as JPEG 90. The probe of a composite was trained without any generator,",
            f"source or group of a part of the collection, from which all its pictures come ({PARTS} parts). Block, view and",
            "constants were chosen among about 150 variants on 120 other composites of the same images, so expect less elsewhere.",
            "Intervals are 95 %, over composites.",
            "",
            "| | generated image pasted | real image pasted | difference |",
            "| --- | --- | --- | --- |",
            f"| maps: AUROC inside against outside, mean of {n} composites | {mean(auroc[:, 0])} | {mean(auroc[:, 1])} "
            f"| {mean(auroc[:, 0] - auroc[:, 1])} |",
            f"| the same, as drawn (mean of 3 x 3 cells) | {mean(drawn[:, 0])} | {mean(drawn[:, 1])} | {mean(drawn[:, 0] - drawn[:, 1])} |",
            f"| higher inside than outside, on average | {higher[0]} | {higher[1]} | |",
            "",
            f"By how much the inside exceeds the outside tells generated from real with an AUROC of {apart}.",
            "",
        ]
    )
