"""Precision and recall at every threshold (paper, appendix, Fig. 15)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..benchmark.rendering import Section, Table, Value
from ..benchmark.rows import Cell
from ..palette import COLOURS
from ..study import plots
from ..study.data import Data
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder, chained
from ..study.judging import AP, NOTE, Panel, judged
from ..study.methods import NETWORK_ABSENT, Network, probes, scored, titled, with_network
from ..study.split import TRAIN, Split
from ..wording import counted

Floats = NDArray[np.float64]
RECALLS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def run(
    data: Data, split: Split, encoder: Encoder, network: Network | None, seed: int, rounds: int,
    ks: tuple[int, ...] = (1, 9),
) -> Result:  # fmt: skip
    """Curves of each method on each set of generators, all their fakes together."""
    scores = scored(probes(ks), encoder.embed(data), data, split.rows(TRAIN))
    panel = judged(
        data, split, with_network(scores, network, data, split), figures=(AP,), rounds=rounds, seed=seed,
        perturbation=chained(encoder.perturb),
    )  # fmt: skip
    sentences = [
        f"AP over all fakes of {of}: "
        + "; ".join(f"{titled(m)} {panel.of(m, AP, of, 'family')}" for m in panel.methods)
        + f" ({counted(sum(panel.fakes(g) for g in panel.sets[of]), 'fake')})."
        for of in panel.shown
    ]
    sentences.append(f"The network is {network.name}." if network else NETWORK_ABSENT)
    return Result(sentences, [_table(panel)], [_drawing(panel)], panel.images, panel.cells)


def curve(panel: Panel, cell: Cell, of: str) -> tuple[Floats, Floats]:
    """Precision and recall of a set's fakes against all reals, classes of equal weight; recall falls."""
    from sklearn.metrics import precision_recall_curve

    group = next(g for g in panel.about if g.kind == "family" and g.name == of)
    rows = (group.fake | group.real) & cell.judged
    fake = group.fake[rows]
    weight = np.where(fake, 1 / max(int(fake.sum()), 1), 1 / max(int((~fake).sum()), 1))
    precision, recall, _ = precision_recall_curve(fake, cell.score[rows], sample_weight=weight)
    return precision, recall


def _table(panel: Panel) -> Table:
    notes = (
        NOTE,
        *panel.notes,
        "All fakes of the set together. Precision at a recall: the best at that recall or a higher one.",
    )
    head = ("generators", "method", "fakes", "reals", "AP", *(f"precision at recall {r:g}" for r in RECALLS))
    return Table("pr", "Precision at several recalls", notes, head, [Section((), list(_rows(panel)))])


def _rows(panel: Panel) -> Iterator[list[Value]]:
    reals = int((~panel.images.fake).sum())
    for of in panel.shown:
        for cell in panel.cells:
            precision, recall = curve(panel, cell, of)
            at = [f"{precision[recall >= r].max():.3f}" for r in RECALLS]
            fakes = sum(panel.fakes(g) for g in panel.sets[of])
            yield [of, titled(cell.detector), fakes, reals, panel.of(cell.detector, AP, of, "family"), *at]


def _drawing(panel: Panel) -> Drawing:
    figure, axes = plots.panels(len(panel.shown))
    for place, of in zip(axes, panel.shown, strict=True):
        for number, cell in enumerate(panel.cells):
            precision, recall = curve(panel, cell, of)
            colour = COLOURS[number % len(COLOURS)]
            place.plot(recall, precision, drawstyle="steps-post", label=titled(cell.detector), color=colour)
        place.set_title(of)
        place.set_xlabel("recall")
        place.set_ylim(0, 1.02)
    axes[0].set_ylabel("precision, equal classes")
    plots.legend(figure, axes[0], 3)
    return Drawing(
        "pr", f"Precision and recall, classes of equal weight, {counted(len(panel.images), 'test image')}.", figure
    )


PLUGIN = Experiment(
    "Precision and recall",
    "The paper draws precision against recall for a trained network and for nearest neighbours, which lie above it on "
    "generators that neither saw.",
    run,
    {"ks": "Sizes of the voting pool of nearest neighbours."},
)
