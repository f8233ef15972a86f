"""Train on one family, test on another, and back (paper, section 5.2, Fig. 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..benchmark.rendering import Section, Table, Value
from ..errors import DataError
from ..metrics import Absent, Estimate
from ..study import plots
from ..study.data import Data
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder
from ..study.judging import AP, AUROC, HALF, NOTE, SEEN, Panel, judged, unseen
from ..study.methods import probes, scored, titled
from ..study.published import published
from ..study.split import TRAIN, Split
from ..study.tables import averaged, told
from ..study.writing import paper_table

_LEAST = 2  # generators of a family that is trained on without being named


def run(
    data: Data, split_by: Callable[[str, Sequence[str]], Split], encoder: Encoder, seed: int, rounds: int,
    families: tuple[str, ...] = (), ks: tuple[int, ...] = (1, 9),
) -> Result:  # fmt: skip
    """AP for every pair of training family and tested family."""
    vectors = encoder.embed(data)
    panels: dict[str, Panel] = {}
    for family in _chosen(data, families):
        made = split_by(f"split-{family}", [family])
        scores = scored(probes(ks), vectors, data, made.rows(TRAIN))
        panels[family] = judged(data, made, scores, figures=(AP, AUROC, HALF[0]), rounds=rounds, seed=seed)
    tables = [_table(panels), paper_table(list(_beside(panels)))]
    return Result(list(_sentences(panels)), tables, [_drawing(panels)])


def check(data: Data, split_by: Callable[[str, Sequence[str]], Split], families: tuple[str, ...]) -> None:
    """Refuse families that cannot train."""
    for family in _chosen(data, families):
        split_by(f"split-{family}", [family])


def _chosen(data: Data, families: tuple[str, ...]) -> tuple[str, ...]:
    if families:
        return families
    family, generator = data.column("family")[data.fake], data.column("generator")[data.fake]
    names = sorted({f for f in family if f})
    common = tuple(f for f in names if len({g for g in generator[family == f] if g}) >= _LEAST)
    if len(common) < 2:
        raise DataError("fewer than two families have two generators; name those to train on with --families")
    return common


def _tested(panel: Panel, trained: str) -> dict[str, str]:
    """Family in words -> name of its set."""
    found = {f"{trained} (training generators)": SEEN} if SEEN in panel.sets else {}
    return found | {
        of.removeprefix("unseen "): of for of in panel.sets if of.startswith("unseen ") and of != "unseen generators"
    }


def _table(panels: Mapping[str, Panel]) -> Table:
    rows: list[Sequence[Value]] = []
    for trained, panel in panels.items():
        for words, of in _tested(panel, trained).items():
            rows += [
                [trained, words, titled(m), *(panel.mean(m, f, of) for f in (AP, AUROC, HALF[0]))]
                for m in panel.methods
            ]
    head = ("trained on", "tested on", "method", "AP", "AUROC", "accuracy at 0")
    return Table("training-source", "AP by training family", (NOTE,), head, [Section((), rows)])


def _beside(panels: Mapping[str, Panel]) -> Iterator[list[Value]]:
    for mean in published("training-source").means:
        ours: Estimate | Absent = Absent("no network: it would have to be trained on each family")
        if mean.method == "linear":
            panel = panels.get("diffusion")
            there = panel is not None and unseen(mean.over) in panel.sets
            ours = Absent("these data have no such families")
            if panel is not None and there:
                ours = panel.mean("linear", AP, unseen(mean.over))
        yield [titled(mean.method), mean.figure, mean.over, ours, f"{mean.value / 100:.4f}", mean.of, mean.source]


def _drawing(panels: Mapping[str, Panel]) -> Drawing:
    figure, axes = plots.panels(len(panels), width=5.5)
    for place, (trained, panel) in zip(axes, panels.items(), strict=True):
        tested = _tested(panel, trained)
        plots.bars(
            place, list(tested), {titled(m): [panel.mean(m, AP, of) for of in tested.values()] for m in panel.methods}
        )
        place.set_title(f"trained on {trained}")
        place.set_xlabel("mean AP")
        place.set_xlim(0.3, 1)
    plots.legend(figure, axes[0], 3)
    n = ", ".join(f"{len(p.images)} ({trained})" for trained, p in panels.items())
    return Drawing("training-source", f"Mean AP by training family; n of test images: {n}.", figure)


def _sentences(panels: Mapping[str, Panel]) -> Iterator[str]:
    for trained, panel in panels.items():
        for words, of in _tested(panel, trained).items():
            parts = [f"{titled(m)} {told(panel.mean(m, AP, of))}" for m in panel.methods]
            yield f"Trained on {trained}, tested on {words}: mean AP {'; '.join(parts)} ({averaged(panel, of)})."


PLUGIN = Experiment(
    "What is trained on",
    "The paper trains on a diffusion model instead of a GAN and tests on the others: the linear layer on frozen "
    "features still finds GANs, a trained network no longer does. Here: every family with two generators or more "
    "trains in turn, each with its own parts of the data.",
    run,
    {
        "families": "Families to train on, in turn; default: those with two generators or more.",
        "ks": "Sizes of the voting pool of nearest neighbours.",
    },
    check,
)
