"""Tables of figures to be read at a glance: each cell has its value, interval and n, and a shade from bad to good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ..benchmark.drawing import MIN_FAKES
from ..benchmark.figures import MIN_REALS, CellFigures, Part
from ..metrics import FIGURES, Absent, Estimate

SHADES = 11
MEANS = ("ap_equal", "auroc")
HALF = ("accuracy_half", "real_accuracy_half", "fake_accuracy_half", "balanced_accuracy_half")
VERDICTS = ("recall", "false_alarms", "unsure")
GENERATOR = (
    *("auroc", "ap_equal", "tpr_at_1_oracle", "tpr_at_5_oracle", "eer_oracle", "balanced_accuracy_half"),
    *("fake_accuracy_half", "fake_accuracy_threshold", "recall", "misses"),
)
WIDEST = 12
"""Columns of one table at most; where there are more cells, each detector has a table of its own."""
_SHORT_ROWS = 16
_SHORT = {
    "ap_equal": "AP, equal classes",
    "tpr_at_1_oracle": "TPR at 1 % FPR, oracle",
    "tpr_at_5_oracle": "TPR at 5 % FPR, oracle",
    "eer_oracle": "EER, oracle",
    "fake_accuracy_threshold": "fake accuracy at its threshold",
}
_RANKS = {"auroc", "ap", "ap_equal"}  # written as 0.881; all others are shares, written as 88.1 %
_CHANCE = {
    "auroc",
    "ap_equal",
    "accuracy_half",
    "balanced_accuracy_half",
    "accuracy_threshold",
    "balanced_accuracy_threshold",
}
_WORST = {"false_alarms": 0.3}  # from where on it is as bad as can be; nobody can use such a detector
_FEW = f"Without a shade: fewer than {MIN_FAKES} fakes; they come last."
_OF_GENERATORS = f"AUROC of each generator, the hardest first. n: its fakes + the reals. {_FEW}"
_OF_SOURCES = (
    "False alarms: the share of each source's reals called fake, the worst first. "
    f"Without a shade: fewer than {MIN_REALS} reals; they come last."
)
_DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class Box:
    """A cell of a table: a value in words, its interval, n, why there is no value, and a shade (-1: none)."""

    text: str
    interval: str = ""
    n: str = ""
    reason: str = ""
    shade: int = -1


@dataclass(frozen=True)
class Row:
    """A row: its heads, then its cells."""

    heads: tuple[str, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows.
        corner: heads of the leading columns.
        groups: heads above the heads, with the number of columns that each spans; may be empty.
        head: heads of the other columns.
        bodies: rows, in groups. Where a row has two heads, the first is the same throughout its group.
    """

    caption: str
    corner: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    head: tuple[str, ...]
    bodies: tuple[tuple[Row, ...], ...]

    @property
    def short(self) -> bool:
        """Whether it can stand whole in the page; a longer one scrolls below its head."""
        return sum(map(len, self.bodies)) <= _SHORT_ROWS


def main(cells: Sequence[CellFigures]) -> Grid:
    """Every detector under every perturbation."""
    bodies = []
    for detector, members in _by_detector(cells):
        rows = []
        for c in members:
            figures = c.overall.figures
            boxes = [box(n, c.means[n]) for n in MEANS] + [box(n, figures[n]) for n in (*HALF, *VERDICTS)]
            counts = [_number(c.overall.n_fake), _number(c.overall.n_real), _number(sum(c.failed)), _number(c.in_bank)]
            rows.append(Row((detector, c.perturbation), (*boxes, *counts)))
        bodies.append(tuple(rows))
    return Grid(
        caption="Every detector under every perturbation. Each cell: the figure, its 95 % interval, and n: of the "
        "means the number of generators, of all others the number of images.",
        corner=("detector", "perturbation"),
        groups=(("mean over generators", 2), ("decision at 0.5", 4), ("verdicts", 3), ("images", 4)),
        head=(
            *("AP, equal classes", "AUROC", "accuracy", "real accuracy", "fake accuracy", "balanced accuracy"),
            *("fakes called fake", "reals called fake", "unsure", "fakes", "reals", "failed", "in bank"),
        ),
        bodies=tuple(bodies),
    )


def generators(cells: Sequence[CellFigures]) -> list[Grid]:
    """AUROC of every generator under every detector and perturbation; one table, or one a detector."""
    return _compared("auroc", "generator", cells, _OF_GENERATORS)


def sources(cells: Sequence[CellFigures]) -> list[Grid]:
    """Share of each source's reals that are called fake; one table, or one a detector."""
    return _compared("false_alarms", "source", cells, _OF_SOURCES)


def generator_figures(cell: CellFigures, order: Sequence[str]) -> Grid:
    """Generators x figures, of one detector under one perturbation."""
    parts = {p.name: p for p in cell.generators}
    rows = []
    for name in order:
        part = parts[name]
        counts = (_number(part.n_fake), _number(part.n_real))
        boxes = (box(f, part.figures[f]) for f in GENERATOR)
        rows.append(Row((name,), (*counts, *(b if _enough(part) else replace(b, shade=-1) for b in boxes))))
    return Grid(
        caption=f"{cell.detector} under {cell.perturbation}: each generator's fakes against the reals. Each cell: the "
        f"figure, its 95 % interval, and n, the number of images. {_FEW}",
        corner=("generator",),
        groups=(),
        head=("fakes", "reals", *map(title, GENERATOR)),
        bodies=(tuple(rows),),
    )


def hardest_first(cells: Sequence[CellFigures], kind: str) -> list[str]:
    """Generators (lowest mean AUROC first) or sources (most false alarms first), over all cells; small ones last."""
    name, sign = ("auroc", 1) if kind == "generator" else ("false_alarms", -1)
    values: dict[str, list[float]] = {}
    few = set()
    for part in (p for c in cells for p in _parts(c, kind)):
        value = part.figures[name]
        values.setdefault(part.name, []).extend([value.value] if isinstance(value, Estimate) else [])
        if not _enough(part):
            few.add(part.name)
    return sorted(values, key=lambda n: (n in few, sign * sum(v) / len(v) if (v := values[n]) else 2, n))


def box(name: str, value: Estimate | Absent, *, n: bool = True) -> Box:
    """A figure as a cell."""
    counted = f"n {value.n:,}" if n else ""
    if isinstance(value, Absent):
        return Box(_DASH, n=counted if value.n else "", reason=value.reason)
    form = "{:.3f}" if name in _RANKS else "{:.1%}"
    ends = (form.format(x).rstrip("%") for x in (value.low, value.high))
    has_interval = value.low == value.low  # nan: there is none
    return Box(
        form.format(value.value).replace("%", " %"),
        "\N{EN DASH}".join(ends) if has_interval else "",
        counted,
        shade=shade(name, value.value),
    )


def shade(name: str, value: float) -> int:
    """0 (bad) to `SHADES - 1` (good); figures that chance brings to 0.5 start there.

    Not those of AP as it is: chance gives it the share of fakes, which differs between tables.
    """
    good = 1 - value / _WORST.get(name, 1.0) if FIGURES[name].error else value
    if name in _CHANCE:
        good = 2 * good - 1
    return min(SHADES - 1, max(0, int(good * SHADES)))


def title(name: str) -> str:
    """The head of a column."""
    return _SHORT.get(name, FIGURES[name].title)


def readings(caption: str, corner: str, head: Sequence[str], rows: Mapping[str, Sequence[Box]]) -> Grid:
    """The numbers of a drawing, without shades."""
    bodies = tuple(Row((name,), tuple(replace(b, shade=-1) for b in boxes)) for name, boxes in rows.items())
    return Grid(caption=caption, corner=(corner,), groups=(), head=tuple(head), bodies=(bodies,))


def _compared(name: str, kind: str, cells: Sequence[CellFigures], what: str) -> list[Grid]:
    order = hardest_first(cells, kind)
    if not order:
        return []
    blocks = [list(cells)] if len(cells) <= WIDEST else [members for _, members in _by_detector(cells)]
    found = []
    for members in blocks:
        known = [{p.name: _counted(name, p) for p in _parts(c, kind)} for c in members]
        rows = [Row((n,), tuple(of.get(n, Box(_DASH)) for of in known)) for n in order]
        whose = "" if len(blocks) == 1 else f"{members[0].detector}. "
        found.append(
            Grid(
                caption=f"{whose}{what}",
                corner=(kind,),
                groups=tuple((detector, len(of)) for detector, of in _by_detector(members)),
                head=tuple(c.perturbation for _, of in _by_detector(members) for c in of),
                bodies=(tuple(_regrouped(rows, members)),),
            )
        )
    return found


def _counted(name: str, part: Part) -> Box:
    n = f"n {part.n_fake:,} + {part.n_real:,}" if part.n_fake else f"n {part.n_real:,}"
    found = replace(box(name, part.figures[name]), n=n)
    return found if _enough(part) else replace(found, shade=-1)


def _enough(part: Part) -> bool:
    """Whether a generator or source has enough images for its figures to be read at a glance."""
    return part.n_fake >= MIN_FAKES if part.n_fake else part.n_real >= MIN_REALS


def _regrouped(rows: Iterable[Row], members: Sequence[CellFigures]) -> Iterator[Row]:
    """Cells in the order of the heads: by detector, then perturbation."""
    order = [members.index(c) for _, of in _by_detector(members) for c in of]
    for row in rows:
        yield Row(row.heads, tuple(row.boxes[i] for i in order))


def _by_detector(cells: Sequence[CellFigures]) -> list[tuple[str, list[CellFigures]]]:
    names = list(dict.fromkeys(c.detector for c in cells))
    ordered = sorted(cells, key=lambda c: names.index(c.detector))
    return [(name, list(of)) for name, of in groupby(ordered, key=lambda c: c.detector)]


def _parts(cell: CellFigures, kind: str) -> Sequence[Part]:
    return cell.generators if kind == "generator" else cell.sources


def _number(n: int) -> Box:
    return Box(f"{n:,}")
