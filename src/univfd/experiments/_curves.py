"""What the ablations share: a figure of methods along something that is varied, as a table and a drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..benchmark.rendering import Section, Table, Value
from ..metrics import Absent, Estimate
from ..study import plots
from ..study.experiment import Drawing
from ..study.judging import AP, AUROC, HALF, NOTE, Panel
from ..study.methods import titled
from ..study.tables import told
from ..wording import counted

FIGURES = (AP, AUROC, HALF[0])
HEAD = ("generators", "method", "AP", "AUROC", "accuracy at 0")


def table(
    name: str, title: str, varied: Sequence[str], panels: Mapping[tuple[Value, ...], Panel], notes: Sequence[str] = ()
) -> Table:
    """One row for each setting, set of generators and method.

    Args:
        name: of the file.
        title: for people.
        varied: heads of what a setting is.
        panels: by setting.
        notes: remarks besides the common one.
    """
    rows: list[Sequence[Value]] = []
    for setting, panel in panels.items():
        for of in panel.shown:
            rows += [[*setting, of, titled(m), *(panel.mean(m, f, of) for f in FIGURES)] for m in panel.methods]
    unsaid = dict.fromkeys(note for panel in panels.values() for note in panel.notes)
    return Table(name, title, (*notes, NOTE, *unsaid), (*varied, *HEAD), [Section((), rows)])


def drawing(
    name: str, caption: str, along: str, xs: Sequence[float], panels: Sequence[Panel], *, ticks: Sequence[str] = (),
    log: bool = False,
) -> Drawing:  # fmt: skip
    """Mean AP along a setting: a panel for each set of generators, a line for each method."""
    sets = list(dict.fromkeys(of for p in panels for of in p.shown))
    figure, axes = plots.panels(len(sets))
    for place, of in zip(axes, sets, strict=True):
        for number, method in enumerate(dict.fromkeys(m for p in panels for m in p.methods)):
            values = [_mean(p, method, of) for p in panels]
            plots.curve(place, xs, values, titled(method), number)
        place.set_title(of)
        place.set_xlabel(along)
        if log:
            place.set_xscale("log")
        plots.ticks(place, xs, ticks)
    axes[0].set_ylabel("mean AP")
    plots.legend(figure, axes[0], 4)
    return Drawing(name, f"{caption} Bands: 95 % intervals. n: {counted(len(panels[0].images), 'test image')}.", figure)


def sentences(panels: Mapping[str, Panel]) -> Iterator[str]:
    """The mean AP of each setting in words, for each set of generators and method."""
    sets = dict.fromkeys(of for p in panels.values() for of in p.shown)
    methods = dict.fromkeys(m for p in panels.values() for m in p.methods)
    for of in sets:
        for m in methods:
            parts = [f"{setting}: {told(_mean(panel, m, of))}" for setting, panel in panels.items()]
            n = max(len(panel.generators(of)) for panel in panels.values() if of in panel.sets)
            yield f"Mean AP of {titled(m)} over {of} ({counted(n, 'generator')}): {'; '.join(parts)}."


def _mean(panel: Panel, method: str, of: str) -> Estimate | Absent:
    if method not in panel.methods or of not in panel.sets:
        return Absent("not in this setting")
    return panel.mean(method, AP, of)
