"""Tables that several experiments share, from a panel."""

from __future__ import annotations

from collections.abc import Sequence

from ..benchmark.drawing import MIN_FAKES
from ..benchmark.rendering import Section, Table, Value
from ..metrics import Absent, Estimate
from ..wording import counted
from .judging import AP, AUROC, HALF, NOTE, ORACLE, SEEN, SINK, THRESHOLD, Panel
from .methods import titled

THRESHOLDS = (
    "*At 0*: the method's own decision (the network's and the linear probe's 0.5), as in the paper. *Validation*: the "
    "threshold of the best balanced accuracy on the validation part. *Oracle*: chosen on these very test images, which "
    "nobody can do in use."
)
_FAKES = f"*Fakes* beside a mean: those of the generators that it is over, which have at least {MIN_FAKES} test images."


def means(panel: Panel) -> Table:
    """Every method on every set of generators."""
    head = (
        *("generators", "method", "AP", "AUROC", "accuracy at 0", "fakes called fake at 0", "reals called real at 0"),
        *("accuracy, validation", "fakes called fake, validation", "reals called real, validation", "accuracy, oracle"),
    )
    rows: list[list[Value]] = []
    for of in panel.shown:
        for m in panel.methods:
            real = {t: panel.of(m, f"real_accuracy_{t}", of, "family") for t in ("half", "threshold")}
            rows.append([
                of, titled(m), *(panel.mean(m, f, of) for f in (AP, AUROC, HALF[0], HALF[2])), real["half"],
                *(panel.mean(m, f, of) for f in (THRESHOLD[0], THRESHOLD[2])), real["threshold"],
                panel.mean(m, ORACLE, of),
            ])  # fmt: skip
    return Table("means", "Means over generators", (NOTE, *panel.notes, THRESHOLDS), head, [Section((), rows)])


def generators(panel: Panel, figure: str, name: str, title: str) -> Table:
    """A figure of every method on every generator."""
    rows: list[list[Value]] = []
    for of in _top(panel):
        rows += [
            [of, g or "(not named)", panel.fakes(g), *(panel.of(m, figure, g) for m in panel.methods)]
            for g in panel.sets[of]
        ]
        rows.append([of, "mean", sum(panel.fakes(g) for g in panel.generators(of)),
                     *(panel.mean(m, figure, of) for m in panel.methods)])  # fmt: skip
    head = ("generators", "generator", "fakes", *map(titled, panel.methods))
    return Table(name, title, (NOTE, _FAKES, *panel.notes, THRESHOLDS), head, [Section((), rows)])


def sources(panel: Panel) -> Table:
    """Share of each real source that every method calls real, at 0."""
    names = [g.name for g in panel.about if g.kind == "source"]
    rows: list[list[Value]] = [
        [name, *(panel.of(m, "real_accuracy_half", name, "source") for m in panel.methods)] for name in names
    ]
    head = ("real source", *map(titled, panel.methods))
    return Table("sources", "Reals called real at 0, by source", (NOTE,), head, [Section((), rows)])


def said(panel: Panel, figure: str, of: str, methods: Sequence[str] = ()) -> str:
    """A figure's mean over a set for every method, in words."""
    parts = [f"{titled(m)} {told(panel.mean(m, figure, of))}" for m in methods or panel.methods]
    return f"{'; '.join(parts)} ({averaged(panel, of)})"


def averaged(panel: Panel, of: str) -> str:
    """How many generators of a set a mean is over, and of how many fakes they are; and of how many in all."""
    every, those = panel.sets[of], panel.generators(of)
    fakes, known = (sum(panel.fakes(g) for g in some) for some in (every, those))
    if len(those) == len(every):
        return f"{counted(len(every), 'generator')}, {counted(fakes, 'fake')}"
    return f"{len(those)} of {counted(len(every), 'generator')}, {known} of {counted(fakes, 'fake')}"


def told(value: Estimate | Absent) -> str:
    """A figure in words."""
    return str(value) if isinstance(value, Estimate) else f"none ({value.reason})"


def _top(panel: Panel) -> list[str]:
    """Sets that hold each generator once: training ones, then unseen ones by family where families are named."""
    families = [name for name in panel.shown if name.startswith("unseen ") and name != "unseen generators"]
    covered = {g for name in families for g in panel.sets[name]}
    whole = set(panel.sets.get("unseen generators", ()))
    rest = families if covered == whole else ["unseen generators"]
    return [name for name in (SEEN, *rest) if name in panel.sets]


__all__ = ["SINK", "averaged", "generators", "means", "said", "sources", "told"]
