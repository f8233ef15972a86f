"""Two detectors on the same images: the difference of a figure, with an interval from paired redrawn sets.

Both are judged on the same redrawn images each time, so what makes an image hard for both cancels out: the interval of
the difference is much narrower than those of the two figures suggest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import DataError, UsageError
from ..metrics import FIGURES, Absent, Estimate
from ..wording import counted
from .drawing import difference, draw, estimate, mean_difference, mean_over_generators
from .figures import ROUNDS
from .groups import everything, groups, redrawing
from .rendering import Section, Table, Value, marked
from .rows import Cell, Images, Scores, Texts

_NAMED = 3  # images named in an error


@dataclass(frozen=True)
class Difference:
    """A figure of two detectors on the same images.

    Attributes:
        of: `all`, `mean over generators`, `generator` or `family`.
        name: of the generator or family.
        first: the figure of the first detector.
        second: of the second.
        difference: first minus second; n counts images that both could judge (or generators).
    """

    of: str
    name: str
    first: Estimate | Absent
    second: Estimate | Absent
    difference: Estimate | Absent


@dataclass(frozen=True)
class Comparison:
    """Two detectors under one perturbation.

    Attributes:
        perturbation: as in the rows.
        first: name and digest of one.
        second: of the other.
        left_out: images that only one of them could judge.
        in_bank: images that each was made of.
        differences: over all images, over generators, per generator, per family.
    """

    perturbation: str
    first: str
    second: str
    left_out: int
    in_bank: tuple[int, int]
    differences: tuple[Difference, ...]


def compare(
    first: Scores,
    second: Scores,
    pairs: Sequence[tuple[str, str]],
    metric: str = "auroc",
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> list[Comparison]:
    """Compare detectors of two runs (or of one, given twice).

    Args:
        first: the rows of a run.
        second: the rows of another run on the same images, in any order.
        pairs: names of a detector of the first and one of the second run.
        metric: of `univfd.metrics.FIGURES`.
        rounds: redrawn sets.
        seed: of the bootstrap.

    Returns:
        One comparison for each pair and perturbation that both runs have.

    Raises:
        UnknownNameError: no such figure or detector.
        DataError: the runs have different images, or no perturbation in common.
    """
    if metric not in FIGURES:
        raise registry.unknown("figure", metric, FIGURES)
    place = matching(first.images, second.images)
    both = [p for p in perturbations(first) if p in perturbations(second)]
    if not both:
        raise DataError(
            f"the runs have no perturbation in common: {', '.join(perturbations(first))} and "
            f"{', '.join(perturbations(second))}"
        )
    return [
        _compare(first.images, first.cell(p, a), _placed(second.cell(p, b), place), metric, rounds, seed)
        for a, b in pairs
        for p in both
    ]


def perturbations(scores: Scores) -> list[str]:
    """Those of a run, in its order."""
    return list(dict.fromkeys(c.perturbation for c in scores.cells))


def detectors(scores: Scores) -> list[str]:
    """Those of a run, in its order."""
    return list(dict.fromkeys(c.detector for c in scores.cells))


def pairs_of(first: Scores, second: Scores, named: Sequence[str]) -> list[tuple[str, str]]:
    """Which detectors to compare.

    Args:
        first: a run.
        second: another run, or the same.
        named: none, or one of the first and one of the second run.

    Returns:
        The pair that was named; else each detector that both runs have with itself, or the only ones of both.

    Raises:
        UsageError: it is not clear which.
    """
    ours, theirs = detectors(first), detectors(second)
    if named:
        if len(named) != 2:
            raise UsageError(
                f"{counted(len(named), 'detector was', 'detectors were')} named; expected two: one of each run"
            )
        for name, known in zip(named, (ours, theirs), strict=True):
            if name not in known:
                raise registry.unknown("detector of this run", name, known)
        return [(named[0], named[1])]
    if first is not second:
        common = [(name, name) for name in ours if name in theirs]
        if common or len(ours) == len(theirs) == 1:
            return common or [(ours[0], theirs[0])]
    raise UsageError(f"which detectors? Name one of {', '.join(ours)} and one of {', '.join(theirs)}: --detectors X,Y")


def matching(first: Images, second: Images) -> NDArray[np.intp]:
    """`(N,)` the place in `second` of each image of `first`.

    Images are the same by the contents of their files, and by their names where one of the runs could not read them.

    Raises:
        DataError: the images or their labels differ.
    """
    ours, theirs = list(_keys(first)), list(_keys(second))
    where = {key: i for i, key in enumerate(theirs)}
    found = [where.get(key, -1) for key in ours]
    known = set(ours)
    extra = [i for i, key in enumerate(theirs) if key not in known]
    unread = {name: i for i in extra for name in [_named(second, i)]}
    for i in (i for i, place in enumerate(found) if place < 0):  # one of the runs could not read its bytes
        place = unread.get(_named(first, i), -1)
        if place >= 0 and "" in (first.columns["sha256"][i], second.columns["sha256"][place]):
            found[i] = place
    lacking = [i for i, place in enumerate(found) if place < 0]
    taken = set(found)
    extra = [i for i in extra if i not in taken]
    if lacking or extra:
        parts = [f"{len(lacking)} of {len(ours)} images of the first are not in the second{_some(first, lacking)}"]
        parts += [f"{len(extra)} of {len(theirs)} images of the second are not in the first{_some(second, extra)}"]
        raise DataError(
            f"the runs have different images, or other labels of them: {'; '.join(parts)}. Run both on the same data"
        )
    return np.array(found, np.intp)


def _named(images: Images, row: int) -> tuple[str, str]:
    return images.columns["image"][row], images.columns["label"][row]


def table(comparisons: Sequence[Comparison], metric: str, names: tuple[str, str] = ("first", "second")) -> Table:
    """As a table.

    Args:
        comparisons: from `compare`.
        metric: the figure's name.
        names: of the two runs.
    """
    sections = []
    for c in comparisons:
        rows: list[list[Value]] = [[d.of, d.name, d.first, d.second, d.difference] for d in c.differences]
        sections.append(Section((c.perturbation, f"{c.first} against {c.second}"), rows))
    left_out = [f"{c.left_out} under {c.perturbation}" for c in comparisons if c.left_out]
    known = {name: n for c in comparisons for name, n in zip((c.first, c.second), c.in_bank, strict=True) if n}
    notes = [
        "Value [95 % interval] n. The difference is first minus second, over the images that both could judge, with an "
        "interval from paired redrawn sets: both on the same images each time, those of one group or file together."
    ]
    notes += [f"{marked(name)} was made of {n} of these images: its figure flatters it." for name, n in known.items()]
    if left_out:
        notes.append(f"Left out, since one of the two could not judge them: {'; '.join(left_out)}.")
    title = f"{FIGURES[metric].title}: {names[0]} against {names[1]}"
    return Table("compare", title, notes, ("of", "name", "first", "second", "difference"), sections)


def _compare(images: Images, first: Cell, second: Cell, metric: str, rounds: int, seed: int) -> Comparison:
    judged = first.judged & second.judged
    cells = replace(first, judged=judged), replace(second, judged=judged)
    about = [everything(images), *(g for g in groups(images) if g.kind != "source")]
    plan = redrawing(images)
    one, other = (draw(c, images, about, [metric], plan, rounds=rounds, seed=seed) for c in cells)
    drawn = one, other
    differences = []
    for i, group in enumerate(about):
        ours, theirs = (estimate(d, (i, metric), group, c) for d, c in zip(drawn, cells, strict=True))
        between = difference(drawn, (i, metric), group, cells)
        differences.append(Difference(group.kind, "" if group.kind == "all" else group.name, ours, theirs, between))
        if group.kind == "all":
            ours, theirs = (mean_over_generators(d, metric, about, c) for d, c in zip(drawn, cells, strict=True))
            between = mean_difference(drawn, metric, about, cells)
            differences.append(Difference("mean over generators", "", ours, theirs, between))
    either = first.judged | second.judged
    left_out = int((either & ~judged).sum())
    in_bank = (int((first.in_bank & judged).sum()), int((second.in_bank & judged).sum()))
    return Comparison(first.perturbation, first.identity, second.identity, left_out, in_bank, tuple(differences))


def _placed(cell: Cell, place: NDArray[np.intp]) -> Cell:
    """A cell with its images in another order."""
    return replace(
        cell,
        judged=cell.judged[place],
        score=cell.score[place],
        probability=None if cell.probability is None else cell.probability[place],
        verdict=Texts(cell.verdict.codes[place], cell.verdict.names),
        in_bank=cell.in_bank[place],
    )


def _keys(images: Images) -> Iterator[tuple[str, str, int]]:
    """What is the same for the same image in two runs: contents (the name, where it could not be read) and label."""
    seen: Counter[tuple[str, str]] = Counter()
    sha256, image, label = (images.columns[c] for c in ("sha256", "image", "label"))
    for i in range(len(images)):
        key = (sha256[i] or f"name {image[i]}", label[i])
        yield *key, seen[key]
        seen[key] += 1


def _some(images: Images, rows: Sequence[int]) -> str:
    if not rows:
        return ""
    named = ", ".join(images.columns["image"][i] for i in rows[:_NAMED])
    return f" ({named}{', ...' if len(rows) > _NAMED else ''})"
