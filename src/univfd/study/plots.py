"""Figures with matplotlib (extra `study`), without its global state: the same data give the same SVG, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import registry
from ..metrics import Absent, Estimate
from ..palette import COLOURS, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {
    "svg.hashsalt": "univfd", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
    "font.size": 9, "axes.grid": True, "grid.alpha": 0.3,
}  # fmt: skip


def require() -> None:
    """Check that figures can be drawn.

    Raises:
        MissingExtraError: without the extra `study`.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a study's figure", error) from error


def panels(columns: int = 1, rows: int = 1, *, width: float = 4.2, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, row by row; sizes in inches."""
    require()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(np.asarray(axes).ravel())


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the ending says the format."""
    import matplotlib as mpl
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if "$" in (words := text.get_text()) and "\\mathdefault" not in words:  # of a name, not of a logarithmic axis
            text.set_parse_math(False)
    with mpl.rc_context(_STYLE):
        if path.suffix == ".svg":
            figure.savefig(path, metadata={"Date": None})
        else:
            figure.savefig(path, dpi=120)


def curve(axes: Axes, xs: Sequence[float], values: Sequence[Estimate | Absent], label: str, number: int) -> None:
    """Estimates along an axis, with their intervals; where there is none, the line is broken."""
    known = [v if isinstance(v, Estimate) else Estimate(np.nan, np.nan, np.nan, 0) for v in values]
    mid, low, high = (np.array([getattr(v, name) for v in known]) for name in ("value", "low", "high"))
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(xs, mid, marker=MARKS[number % len(MARKS)], markersize=4, color=colour, label=shown(label))
    axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def bars(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[Estimate | Absent]]) -> None:
    """Horizontal groups of bars with intervals, the first name on top."""
    thick = 0.8 / max(len(series), 1)
    places = np.arange(len(names))
    for number, (label, values) in enumerate(series.items()):
        known = [v if isinstance(v, Estimate) else Estimate(np.nan, np.nan, np.nan, 0) for v in values]
        mid = np.array([v.value for v in known])
        below = mid - np.array([v.low for v in known])
        above = np.array([v.high for v in known]) - mid
        axes.barh(
            places + (number + 0.5) * thick - 0.4, mid, thick, xerr=np.maximum(np.nan_to_num([below, above]), 0),
            color=COLOURS[number % len(COLOURS)], label=shown(label), error_kw={"elinewidth": 0.7},
        )  # fmt: skip
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def shown(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Name what a panel shows, below all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def ticks(axes: Axes, places: Sequence[float], names: Sequence[str] = ()) -> None:
    """Mark these places of the horizontal axis and no others."""
    axes.set_xticks(list(places), list(names) or [f"{p:g}" for p in places], rotation=45, ha="right")
    axes.set_xticks([], minor=True)


def scatter(axes: Axes, points: Any, kinds: Sequence[str], order: Sequence[str]) -> None:
    """`(n, 2)` points, coloured by kind; later kinds of `order` lie on top."""
    kind = np.array(kinds, dtype=object)
    for number, name in enumerate(order):
        own = points[kind == name]
        axes.scatter(
            own[:, 0], own[:, 1], s=8, alpha=0.7, linewidths=0, color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)], label=shown(f"{name} (n={len(own)})"),
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
