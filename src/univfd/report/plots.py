"""The report's drawings. Lines differ in dash and marker too, not in colour alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..metrics import Absent, Estimate
from ..palette import MARKS
from .curves import Bin, Curve
from .svg import FAINT, INK, PAPER, SERIES, STYLE, inline

SIZE = (4.6, 4.2)
"""Inches of a drawing: two stand beside each other on a wide screen, and its text can be read on a small one."""
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_LONGEST = 30  # characters of a name in a drawing


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's defaults and this report's style, whatever the user's settings."""
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        yield


def short(name: str) -> str:
    """A name that fits into a drawing."""
    fitting = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return f" {fitting}" if name.startswith("_") else fitting  # matplotlib leaves such names out of legends


Order = Sequence[str]
"""All detectors of the run: each has the same line in every drawing."""


def line_style(i: int) -> dict[str, Any]:
    """Colour and dash of the i-th line."""
    return {"color": SERIES[i % len(SERIES)], "linestyle": _DASHES[(i // len(SERIES) + i) % len(_DASHES)]}


def roc(curves: Mapping[str, Curve], order: Order, prefix: str, label: str) -> str:
    """ROC curves by detector."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=1)
        _lines(axes, curves, order)
        axes.set(xlabel="share of reals above the threshold", ylabel="share of fakes above it", title="ROC")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))

    return _one(draw, prefix, label)


def precision_recall(curves: Mapping[str, Curve], order: Order, prefix: str, label: str) -> str:
    """Precision against recall by detector, and the precision of calling everything fake."""

    def draw(axes: Axes) -> None:
        for share in {c.n_fake / (c.n_fake + c.n_real) for c in curves.values()}:
            axes.axhline(share, color=FAINT, linewidth=1, zorder=1)
        _lines(axes, curves, order)
        axes.set(xlabel="recall: share of fakes found", ylabel="precision: fakes among those called so")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title="Precision and recall")

    return _one(draw, prefix, label)


def risk_coverage(curves: Mapping[str, Curve], order: Order, prefix: str, label: str) -> str:
    """Share of wrong answers against the share that is answered, by detector."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, order)
        highest = max(float(c.y.max()) for c in curves.values())
        axes.set(xlabel="coverage: share of images that get an answer", ylabel="risk: share of wrong answers")
        axes.set(xlim=(0, 1.01), ylim=(0, max(0.05, highest * 1.05)), title="Risk against coverage")

    return _one(draw, prefix, label)


def reliability(bins: Mapping[str, Sequence[Bin]], order: Order, prefix: str, label: str) -> str:
    """Share of fakes against mean probability in each bin, by detector, with exact intervals."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=1)
        for name, found in bins.items():
            at, shares = [b.probability for b in found], [b.fakes for b in found]
            _points(axes, order.index(name), name, at, shares)
        axes.set(xlabel="mean probability given", ylabel="share of fakes", title="Reliability")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    return _one(draw, prefix, label)


def robustness(
    title: str, lines: Mapping[str, Sequence[Estimate | Absent]], perturbations: Sequence[str], prefix: str, label: str,
    *, percent: bool,
) -> str:  # fmt: skip
    """A figure against the perturbation, by detector, with intervals."""

    def draw(axes: Axes) -> None:
        for i, (name, values) in enumerate(lines.items()):
            shift = (i - (len(lines) - 1) / 2) * min(0.08, 0.5 / len(lines))
            known = [(at + shift, v) for at, v in enumerate(values) if isinstance(v, Estimate)]
            _points(axes, i, name, [at for at, _ in known], [v for _, v in known])
        axes.set_xticks(range(len(perturbations)), [short(p) for p in perturbations])
        axes.set_xlim(-0.5, len(perturbations) - 0.5)
        if len("".join(perturbations)) > 40 or len(perturbations) > 6:
            axes.tick_params("x", labelrotation=40)
            for text in axes.get_xticklabels():
                text.set(horizontalalignment="right", rotation_mode="anchor")
        axes.set_title(title)
        if percent:
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")

    return _one(draw, prefix, label)


def scatter(
    title: str, places: NDArray[Any], kinds: Sequence[str], names: Sequence[str], prefix: str, label: str
) -> str:
    """A map of images; the first of the names are the reals, drawn faint below the others.

    Args:
        title: of the drawing.
        places: `(N, 2)`.
        kinds: `(N,)`, each one of `names`.
        names: for the legend, in order.
        prefix: of ids.
        label: in words.
    """
    of = np.array(kinds)

    def draw(axes: Axes) -> None:
        for i, name in enumerate(names):
            x, y = places[of == name].T
            style: dict[str, Any] = {"markersize": 3.2, "linestyle": "", "zorder": 2 + (i > 0), "label": short(name)}
            if i == 0:
                axes.plot(
                    x, y, "o", markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.5, alpha=0.5, **style
                )
            else:
                colour = SERIES[(i - 1) % len(SERIES)]
                axes.plot(x, y, MARKS[(i - 1) % len(MARKS)], color=colour, markeredgewidth=0, alpha=0.8, **style)
        axes.set(xticks=[], yticks=[], title=title)
        axes.spines[:].set_visible(False)

    return _one(draw, prefix, label, grid=False)


def profiles(lines: Mapping[str, NDArray[Any]], prefix: str, label: str) -> str:
    """Residual power against frequency, in decibels."""

    def draw(axes: Axes) -> None:
        for i, (name, values) in enumerate(lines.items()):
            frequency = np.arange(len(values)) / (2 * (len(values) - 1))
            style = {"color": INK, "linestyle": "-"} if i == 0 else line_style(i - 1)
            axes.plot(frequency, values, label=short(name), **style)
        axes.set(xlabel="frequency, cycles a pixel", ylabel="power of the residual, dB", title="Residuals by frequency")
        axes.set_xlim(0, 0.5)

    return _one(draw, prefix, label)


def _one(draw: Callable[[Axes], None], prefix: str, label: str, *, grid: bool = True) -> str:
    """Draw into one pair of axes, with the legend below."""
    with drawing():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.grid(grid)
        draw(axes)
        handles, names = axes.get_legend_handles_labels()
        if handles:
            columns = 1 if max(map(len, names)) > 20 else 2 if max(map(len, names)) > 11 else 3
            figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), fontsize=8.5)
        return inline(figure, prefix=prefix, title=axes.get_title(), label=label)


def _lines(axes: Axes, curves: Mapping[str, Curve], order: Order) -> None:
    for name, curve in curves.items():
        axes.plot(curve.x, curve.y, label=short(name), **line_style(order.index(name)))


def _points(axes: Axes, i: int, name: str, at: Sequence[float], values: Sequence[Estimate]) -> None:
    """A line through estimates, with their intervals where they have one."""
    y = np.array([v.value for v in values])
    low, high = (np.array([getattr(v, end) for v in values]) for end in ("low", "high"))
    bars = np.stack([np.nan_to_num(y - low), np.nan_to_num(high - y)]).clip(0) if len(y) else None
    axes.errorbar(
        at, y, bars, label=short(name), marker=MARKS[i % len(MARKS)], markersize=5, elinewidth=1, capsize=2,
        markeredgecolor=PAPER, markeredgewidth=0.4, **line_style(i),
    )  # fmt: skip
