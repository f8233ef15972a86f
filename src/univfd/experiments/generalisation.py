"""The main tables: methods trained on some generators, tested on others (paper, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator

from ..benchmark.rendering import Value
from ..metrics import Absent, Estimate
from ..study import plots
from ..study.data import Data
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder, chained
from ..study.judging import AP, HALF, SEEN, UNSEEN, Panel, judged
from ..study.methods import NETWORK, NETWORK_ABSENT, Network, probes, scored, titled, with_network
from ..study.published import Mean, published
from ..study.split import TRAIN, Split
from ..study.tables import generators, means, said, sources
from ..study.writing import paper_table
from ..wording import counted

_NO_NETWORK = Absent("no network was given")
_OVER = {"gan": "of the family gan", "unseen": "unseen and of the family diffusion or ar", "all": "there"}
_FIGURES = {"AP": AP, "accuracy": HALF[0]}


def run(
    data: Data, split: Split, encoder: Encoder, network: Network | None, seed: int, rounds: int,
    ks: tuple[int, ...] = (1, 3, 5, 9),
) -> Result:  # fmt: skip
    """Tables of AP and accuracy for each method and generator."""
    scores = scored(probes(ks), encoder.embed(data), data, split.rows(TRAIN))
    panel = judged(
        data, split, with_network(scores, network, data, split), rounds=rounds, seed=seed,
        perturbation=chained(encoder.perturb),
    )  # fmt: skip
    tables = [
        means(panel),
        generators(panel, AP, "ap", "AP of each generator"),
        generators(panel, HALF[0], "accuracy", "Accuracy of each generator at 0"),
        generators(panel, HALF[2], "fake-accuracy", "Fakes called fake at 0, of each generator"),
        sources(panel),
        paper_table(list(_beside(panel))),
    ]
    return Result(list(_sentences(panel, network)), tables, [_drawing(panel)], panel.images, panel.cells)


def _sentences(panel: Panel, network: Network | None) -> Iterator[str]:
    for of in panel.shown:
        yield f"Mean AP over {of}: {said(panel, AP, of)}."
    for of in (SEEN, UNSEEN):
        if of in panel.sets:
            yield f"Mean accuracy at 0 over {of}: {said(panel, HALF[0], of)}."
    yield f"The network is {network.name}." if network else NETWORK_ABSENT


def _drawing(panel: Panel) -> Drawing:
    figure, (axes,) = plots.panels(width=7, height=1.2 + 0.28 * len(panel.shown) * len(panel.methods))
    names = [f"{of}\n({len(panel.generators(of))})" for of in panel.shown]
    plots.bars(axes, names, {titled(m): [panel.mean(m, AP, of) for of in panel.shown] for m in panel.methods})
    axes.set_xlim(0.3, 1)
    axes.set_xlabel("mean AP")
    plots.legend(figure, axes)
    n = len(panel.images)
    return Drawing(
        "means", f"Mean AP over sets of generators (their number in brackets), {counted(n, 'test image')}.", figure
    )


def _beside(panel: Panel) -> Iterator[list[Value]]:
    for mean in published("generalisation").means:
        for method in _ours(mean.method, panel):
            value = _mean(panel, method, mean)
            yield [titled(method), mean.figure, mean.over, value, f"{mean.value / 100:.4f}", mean.of, mean.source]
    for row in published("generalisation").rows:
        for method in _ours(row.method, panel):
            for name in (n for n in row.values if any(g.kind == "generator" and g.name == n for g in panel.about)):
                there = method in panel.methods
                value = panel.of(method, _FIGURES[row.figure], name) if there else _NO_NETWORK
                yield [titled(method), row.figure, name, value, f"{row.values[name] / 100:.4f}", row.of, row.source]


def _ours(method: str, panel: Panel) -> list[str]:
    """Our methods beside a published one; of nearest neighbours without a k, every k."""
    return [m for m in panel.methods if m == method or (method == "knn" and m.startswith("knn-"))] or (
        [NETWORK] if method == NETWORK else []
    )


def _mean(panel: Panel, method: str, mean: Mean) -> Estimate | Absent:
    """Ours beside a published mean: over all tested GANs, unseen diffusion and AR models, or all generators."""
    if method not in panel.methods:
        return _NO_NETWORK
    every = [g for of in (SEEN, UNSEEN) for g in panel.sets.get(of, ())]
    unseen = panel.sets.get(UNSEEN, ())
    over = {
        "gan": [g for g in every if panel.family(g) == "gan"],
        "unseen": [g for g in unseen if panel.family(g) in {"diffusion", "ar"}],
        "all": every,
    }
    if not over[mean.over]:
        return Absent(f"no tested generator is {_OVER[mean.over]}")
    return panel.mean(method, _FIGURES[mean.figure], over[mean.over])


PLUGIN = Experiment(
    "Generalisation to generators that were not trained on",
    "The paper's main tables: methods learn from the fakes of some generators and are tested on further images of "
    "these, and on generators that they never saw. There, a trained network falls to chance or near it; nearest "
    "neighbours and a linear layer on frozen CLIP features do not. Here the generators named with --train-family and "
    "--train-generator train, with a part of the real sources.",
    run,
    {"ks": "Sizes of the voting pool of nearest neighbours."},
)
