"""The tables of a run, from its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..metrics import FIGURES, Absent
from .drawing import MIN_FAKES
from .figures import COVERAGES, MIN_REALS, OF_SOURCES, CellFigures, Part, worst
from .rendering import Section, Table, Value, csv_text, files_of, spread

RANKING = ("auroc", "ap", "tpr_at_1_oracle", "tpr_at_5_oracle", "eer_oracle")
HALF = ("accuracy_half", "real_accuracy_half", "fake_accuracy_half", "balanced_accuracy_half")
THRESHOLD = tuple(name.replace("half", "threshold") for name in HALF)
ORACLE = ("accuracy_oracle", "balanced_accuracy_oracle")
VERDICTS = ("recall", "misses", "false_alarms", "unsure", "risk_decided")
PROBABILITY = ("ece", "brier")
NOTES = (
    "Each cell: value [95 % interval] n. Intervals of shares are exact binomial ones, or wider where images come in "
    "groups; all others come from redrawing the images (those of one group or file together) within each generator and "
    "within the reals; generators of one group each are redrawn among themselves. n is images, or generators where a "
    "mean over generators is given. Images that could not be judged are in no figure.",
    "*At 0.5*: of the probability; a detector without one is taken by its own decision, at score 0. *Oracle*: the "
    "threshold was chosen on these very images, which nobody can do in use.",
)
_WORST = (
    f"The worst are among those with at least {MIN_FAKES} fakes or {MIN_REALS} reals; their intervals do not allow for "
    "the choice. Where several are alike, the interval is that of the one with the fewest images; where all are, none "
    "stands out."
)


def tables(cells: Sequence[CellFigures]) -> list[Table]:
    """All tables of a run."""
    return [
        _main(cells),
        _overall("ranking", "How well scores rank fakes above reals", RANKING, cells),
        _overall("accuracy", "Accuracy, by how the threshold is chosen", (*HALF, *THRESHOLD, *ORACLE), cells),
        _overall("verdicts", "Verdicts: fake, real or unsure", VERDICTS, cells),
        _overall("probability", "How far the probability is to be believed", PROBABILITY, cells),
        _means(cells),
        _coverage(cells),
        _parts(
            "generators", "Per generator", "generator", (*RANKING, *HALF, *THRESHOLD, *ORACLE, *VERDICTS[:2]), cells
        ),
        _parts("families", "Per family of generators", "family", (*RANKING, *HALF, *THRESHOLD), cells),
        _parts("sources", "Per source of real images", "source", OF_SOURCES, cells),
        _worst(cells),
    ]


def _main(cells: Sequence[CellFigures]) -> Table:
    head = (
        *("perturbation", "detector", "fakes", "reals", "failed", "in bank", "AUROC", "AP"),
        *("mean AP over generators (mAP)", "balanced accuracy at 0.5", "fakes called fake", "reals called fake"),
        *("worst generator", "its AUROC", "worst real source", "of it called fake"),
    )
    rows = []
    for c in cells:
        figures = c.overall.figures
        rows.append([
            c.perturbation, c.detector, c.overall.n_fake, c.overall.n_real, sum(c.failed), c.in_bank, figures["auroc"],
            figures["ap"], c.means["ap"], figures["balanced_accuracy_half"], figures["recall"], figures["false_alarms"],
            *_worst_of(c.generators, "auroc"), *_worst_of(c.sources, "false_alarms"),
        ])  # fmt: skip
    notes = (
        *NOTES,
        "*In bank*: images that the detector was made of; its figures flatter it. *Called fake*: by its verdict. "
        f"{_WORST}",
    )
    return Table("main", "Every detector under every perturbation", notes, head, [Section((), rows)])


def _worst_of(parts: Sequence[Part], name: str) -> tuple[Value, Value]:
    found = worst(parts, name)
    return ("", Absent("none has enough images")) if found is None else (found.names, found.value)


def _overall(name: str, title: str, names: Sequence[str], cells: Sequence[CellFigures]) -> Table:
    rows = [[c.perturbation, c.detector, *(c.overall.figures[f] for f in names)] for c in cells]
    return Table(name, title, NOTES, ("perturbation", "detector", *_titles(names)), [Section((), rows)])


def _means(cells: Sequence[CellFigures]) -> Table:
    names = (*RANKING, *HALF, *THRESHOLD, *ORACLE, *VERDICTS[:2])
    rows = [[c.perturbation, c.detector, *(c.means[f] for f in names)] for c in cells]
    notes = (
        *NOTES,
        f"Over the generators with at least {MIN_FAKES} judged images, each counted once. The intervals are over their "
        "images; they say nothing about other generators.",
    )
    head = ("perturbation", "detector", *_titles(names))
    return Table("means", "Means over generators", notes, head, [Section((), rows)])


def _coverage(cells: Sequence[CellFigures]) -> Table:
    notes = (
        *NOTES,
        "Share of wrong answers (at 0.5) if only so many images get an answer: those whose probability is farthest "
        "from 0.5, or without one those whose score is farthest from 0.",
    )
    head = ("perturbation", "detector", *(f"{c:.0%}" for c in COVERAGES))
    rows = [[c.perturbation, c.detector, *(value for _, value in c.coverage)] for c in cells]
    return Table("coverage", "Risk against coverage", notes, head, [Section((), rows)])


def _parts(name: str, title: str, kind: str, names: Sequence[str], cells: Sequence[CellFigures]) -> Table:
    sections = []
    for c in cells:
        parts: Sequence[Part] = {"generator": c.generators, "family": c.families, "source": c.sources}[kind]
        rows: list[list[Value]] = []
        for p in parts:
            counts: list[Value] = [p.n_real] if kind == "source" else [p.n_fake, p.n_real, p.against]
            rows.append([p.name, *counts, *(p.figures[f] for f in names)])
        sections.append(Section((c.perturbation, c.detector), rows))
    counted = ("reals",) if kind == "source" else ("fakes", "reals", "against")
    return Table(name, title, NOTES, (kind, *counted, *_titles(names)), sections)


def _worst(cells: Sequence[CellFigures]) -> Table:
    rows: list[list[Value]] = []
    for c in cells:
        kinds: Mapping[str, tuple[Sequence[Part], Sequence[str]]] = {
            "generator": (c.generators, (*RANKING, *HALF, *THRESHOLD, *ORACLE, *VERDICTS[:2])),
            "family": (c.families, (*RANKING, *HALF, *THRESHOLD)),
            "source": (c.sources, OF_SOURCES),
        }
        for kind, (parts, names) in kinds.items():
            for name in names:
                found = worst(parts, name)
                if found is not None:
                    rows.append([c.perturbation, c.detector, FIGURES[name].title, kind, found.names, found.value])
    head = ("perturbation", "detector", "figure", "of each", "worst", "value")
    return Table("worst", "The worst of each", (*NOTES, _WORST), head, [Section((), rows)])


def _titles(names: Iterable[str]) -> list[str]:
    return [FIGURES[name].title for name in names]


FIGURE_COLUMNS = (
    *("perturbation", "detector", "identity", "of", "name", "fakes", "reals", "against"),
    *("figure", "value", "low", "high", "n", "reason"),
)


def figures_csv(cells: Sequence[CellFigures]) -> str:
    """Every figure of a run, one a line, to 10 digits; a figure that there is not has a reason in place of a value."""
    lines: list[Sequence[Value]] = [FIGURE_COLUMNS]
    for c in cells:
        about = (c.perturbation, c.detector, c.identity)
        mean = Part("", c.overall.n_fake, c.overall.n_real, "", c.means)
        risks = Part(
            "all",
            c.overall.n_fake,
            c.overall.n_real,
            "",
            {f"risk_at_coverage_{share:g}": value for share, value in c.coverage},
        )
        kinds = (
            ("all", [c.overall, risks]), ("mean over generators", [mean]), ("generator", c.generators),
            ("family", c.families), ("source", c.sources),
        )  # fmt: skip
        for kind, parts in kinds:
            for p in parts:
                own = (*about, kind, p.name, p.n_fake, p.n_real, p.against)
                lines += [(*own, name, *spread(value)) for name, value in p.figures.items()]
    return csv_text(lines)


def files(cells: Sequence[CellFigures]) -> dict[str, str]:
    """All tables of a run as files, by name."""
    found = {name: text for table in tables(cells) for name, text in files_of(table).items()}
    return found | {"figures.csv": figures_csv(cells)}
