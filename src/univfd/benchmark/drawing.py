"""Figures of groups of images, in the set itself and in every redrawn set; and the intervals that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..metrics import FIGURES, Absent, Design, Estimate, confident, interval, proportion, share_difference, weightings
from ..metrics.resampled import Confident, Contest, OneClass, Pair, one_class
from .groups import Group
from .rows import Cell, Flags, Floats, Images

T = TypeVar("T")

MIN_FAKES = 5
"""Generators with fewer images are listed, but neither averaged nor named as the worst."""

Places = NDArray[np.intp]


@dataclass(eq=False)
class Drawn:
    """Figures of some groups in the set itself and in every redrawn set.

    Attributes:
        values: by group and figure, `(1 + R,)`.
        counts: by group and share, hits and images in the set itself.
        absent: by group and figure, why there is none.
        risks: `(1 + R,)` for each coverage asked for.
        times: `(1 + R,)` of each generator, how often its groups are in a redrawn set, over how many it has.
        origins: of each group, how many independent reals and fakes were judged.
        distinct: of each group, the share of them that are none but a copy of another file.
    """

    values: dict[tuple[int, str], Floats] = field(default_factory=dict)
    counts: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    absent: dict[tuple[int, str], str] = field(default_factory=dict)
    risks: dict[float, Floats] = field(default_factory=dict)
    times: dict[int, Floats] = field(default_factory=dict)
    origins: list[tuple[int, int]] = field(default_factory=list)
    distinct: list[tuple[float, float]] = field(default_factory=list)


def draw(
    cell: Cell,
    images: Images,
    about: Sequence[Group],
    names: Sequence[str],
    plan: Design,
    *,
    rounds: int,
    seed: int = 0,
    coverages: Sequence[float] = (),
) -> Drawn:
    """Compute figures of groups in the set itself and in every redrawn set.

    Args:
        cell: a detector under a perturbation.
        images: of the run.
        about: G groups.
        names: of `univfd.metrics.FIGURES`.
        plan: from `redrawing`.
        rounds: R.
        seed: the same seed and plan give the same redrawn sets, whatever the cell.
        coverages: of which to compute the risk over all images.
    """
    found = Drawn()
    members = [(np.flatnonzero(g.real & cell.judged), np.flatnonzero(g.fake & cell.judged)) for g in about]
    files = _files(images)
    found.distinct = [(_share_distinct(files[r]), _share_distinct(files[f])) for r, f in members]
    found.origins = [(len(np.unique(images.origin[r])), len(np.unique(images.origin[f]))) for r, f in members]
    reasons = {(i, n): _why_absent(n, cell, len(r), len(f)) for i, (r, f) in enumerate(members) for n in names}
    found.absent = {key: reason for key, reason in reasons.items() if reason}
    wanted = [key for key, reason in reasons.items() if not reason]
    classes, contests = _contests(cell, members)
    answers = _answers(cell, images)
    parts: dict[tuple[int, str], list[Floats]] = {key: [] for key in wanted}
    firsts = {i: _one_of_each_origin(images, g.fake) for i, g in enumerate(about) if g.kind == "generator"}
    times: dict[int, list[Floats]] = {i: [] for i in firsts}
    risks = []
    for weights in weightings(plan, rounds, seed):
        sides = {key: known.weighted(np.take(weights, rows, axis=1)) for key, (rows, known) in classes.items()}
        pairs = [Pair(c, sides[r], sides[f]) for c, r, f in contests]
        for i, rows in firsts.items():
            times[i].append(np.take(weights, rows, axis=1).mean(axis=1))
        for i, name in wanted:
            value, counted = _in_sets(name, pairs[i])
            if counted:
                found.counts.setdefault((i, name), counted)
            parts[i, name].append(value)
        if coverages and cell.judged.any():
            risks.append(answers.risks(np.take(weights, np.flatnonzero(cell.judged), axis=1), coverages))
    found.values = {key: np.concatenate(values) for key, values in parts.items()}
    found.times = {i: np.concatenate(values) for i, values in times.items()}
    found.risks = dict(zip(coverages, np.concatenate(risks).T, strict=True)) if risks else {}
    return found


def _in_sets(name: str, pair: Pair) -> tuple[Floats, tuple[int, int] | None]:
    """A figure `(B,)` of B sets, nan where one has none; of a share also the hits and images of the first set."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = FIGURES[name].compute(pair)
    counted = None
    if isinstance(value, tuple):
        hits, base = value
        counted = round(float(hits[0])), round(float(base[0]))
        value = np.divide(hits, base, out=np.full(len(base), np.nan), where=base > 0)
    if FIGURES[name].needs == "both":  # a redrawn set may lack a class, where groups hold both
        value = np.where((pair.real.total > 0) & (pair.fake.total > 0), value, np.nan)
    return value, counted


def estimate(
    drawn: Drawn, key: tuple[int, str], group: Group, cell: Cell, confidence: float = 0.95
) -> Estimate | Absent:
    """A figure with its interval: exact binomial for a share, of the redrawn sets for any other, and for a share where
    groups make it wider.
    """
    if key in drawn.absent:
        return Absent(drawn.absent[key])
    if key in drawn.counts and not drawn.counts[key][1]:
        return Absent("no image was decided")
    values = drawn.values[key]
    if np.isnan(values[0]):
        return Absent("it is not defined for all of these images")
    origins = _of_needed(key[1], drawn.origins[key[0]])
    reals, fakes = (int((mask & cell.judged).sum()) for mask in (group.real, group.fake))
    judged = _of_needed(key[1], (reals, fakes))
    if min(origins) < 2:
        values = values[:1]  # one source image says nothing about how others would do
    redrawn = interval(values, sum(judged), confidence)
    if key not in drawn.counts:
        return redrawn
    distinct = _distinct(drawn, key)
    exact = proportion(*drawn.counts[key], confidence, distinct=distinct)
    if sum(origins) > sum(judged) * distinct - 0.5:  # no groups
        return exact
    if min(origins) < 2:
        return replace(exact, low=np.nan, high=np.nan)
    known = values[~np.isnan(values)]
    if np.ptp(known) == 0:  # all or none: how alike the images of a group are cannot be told, so groups count
        alike = proportion(*drawn.counts[key], confidence, distinct=sum(origins) / sum(judged))
        return replace(exact, low=alike.low, high=alike.high)
    low, high = float(np.fmin(exact.low, redrawn.low)), float(np.fmax(exact.high, redrawn.high))
    return replace(exact, low=low, high=high)


def difference(
    drawn: tuple[Drawn, Drawn], key: tuple[int, str], group: Group, cells: tuple[Cell, Cell], confidence: float = 0.95
) -> Estimate | Absent:
    """The first's figure minus the second's, over the same redrawn sets: each time both on the same images.

    Redrawing says nothing where few images are right or wrong: a share's interval is made of the two shares' own.
    """
    both = [estimate(d, key, group, c, confidence) for d, c in zip(drawn, cells, strict=True)]
    absent = next((e for e in both if isinstance(e, Absent)), None)
    if absent is not None:
        return absent
    first, second = (e for e in both if isinstance(e, Estimate))
    values = [d.values[key] for d in drawn]
    if key in drawn[0].counts:
        known = ~np.isnan(values).any(axis=0)
        return share_difference(first, second, *(v[known][1:] for v in values))
    made = interval(values[0] - values[1], first.n, confidence)
    return replace(made, low=np.nan, high=np.nan) if np.isnan(first.low) else made


def _of_needed(name: str, both: tuple[T, T]) -> tuple[T, ...]:
    """Of a pair for reals and fakes, what a figure is about."""
    needs = FIGURES[name].needs
    return both[:1] if needs == "real" else both[1:] if needs == "fake" else both


def _distinct(drawn: Drawn, key: tuple[int, str]) -> float:
    """Share of the images of a figure that are none but a copy; of two classes the smaller one."""
    return min(_of_needed(key[1], drawn.distinct[key[0]]))


def _files(images: Images) -> NDArray[np.intp]:
    """`(N,)` equal where the bytes are equal; an image whose bytes are not known is one of its own."""
    codes = np.asarray(images.columns["sha256"].codes, np.intp)
    unknown = images.columns["sha256"].are("")
    return np.where(unknown, -1 - np.arange(len(codes)), codes)


def _one_of_each_origin(images: Images, those: Flags) -> Places:
    rows = np.flatnonzero(those)
    return rows[np.unique(images.origin[rows], return_index=True)[1]]


def _share_distinct(files: NDArray[np.intp]) -> float:
    return len(np.unique(files)) / len(files) if len(files) else 1.0


def mean_over_generators(
    drawn: Drawn, name: str, about: Sequence[Group], cell: Cell, confidence: float = 0.95
) -> Estimate | Absent:
    """The mean of a figure over the generators with enough images; n counts generators.

    The interval is over the images of these generators; it says nothing of other generators. A generator counts in a
    redrawn set as often as its groups are in it: once, but where it shares a stratum with others (`redrawing`). Over
    one generator it is that generator's own, which of a share is exact.
    """
    judged = {i: int((g.fake & cell.judged).sum()) for i, g in enumerate(about) if g.kind == "generator"}
    enough = [i for i, n in judged.items() if n >= MIN_FAKES]
    if not enough:
        some = any(judged.values())
        return Absent(f"no generator has {MIN_FAKES} judged images" if some else "no fake was judged")
    those = [i for i in enough if (i, name) in drawn.values]
    if not those:
        return Absent(drawn.absent[enough[0], name])
    values = [drawn.values[i, name] for i in those]
    if np.isnan([v[0] for v in values]).any():
        return Absent("not of every generator")
    if len(those) == 1:
        return replace(estimate(drawn, (those[0], name), about[those[0]], cell, confidence), n=1)
    each = np.stack(values)
    # A generator may be missing from a redrawn set, where groups are drawn that hold it.
    times = np.where(np.isnan(each), 0, np.stack([drawn.times[i] for i in those]))
    total = times.sum(axis=0)
    mean = np.divide(
        np.where(times > 0, each * times, 0).sum(axis=0), total, out=np.full(each.shape[1], np.nan), where=total > 0
    )
    return interval(mean, len(values), confidence)


def mean_difference(
    drawn: tuple[Drawn, Drawn], name: str, about: Sequence[Group], cells: tuple[Cell, Cell], confidence: float = 0.95
) -> Estimate | Absent:
    """The first's mean over generators minus the second's, over the same redrawn sets; both judged the same images."""
    means = [mean_over_generators(d, name, about, c, confidence) for d, c in zip(drawn, cells, strict=True)]
    absent = next((m for m in means if isinstance(m, Absent)), None)
    if absent is not None:
        return absent
    one, other = drawn
    keys = [(i, name) for i, g in enumerate(about) if g.kind == "generator" and (i, name) in one.values]
    enough = [key for key in keys if (about[key[0]].fake & cells[0].judged).sum() >= MIN_FAKES]
    if len(enough) == 1:
        return replace(difference(drawn, enough[0], about[enough[0][0]], cells, confidence), n=1)
    minus = Drawn({key: one.values[key] - other.values[key] for key in enough}, times=one.times)
    return mean_over_generators(minus, name, about, cells[0], confidence)


def decisions(cell: Cell) -> dict[str, Flags]:
    """`(N,)` for each of `univfd.metrics.resampled.FLAGS`."""
    with np.errstate(invalid="ignore"):
        half = cell.score > 0 if cell.probability is None else cell.probability > 0.5
        above = cell.score > cell.fake_above
    return {"half": half, "above": above, "fake": cell.verdict.are("fake"), "real": cell.verdict.are("real")}


def _why_absent(name: str, cell: Cell, n_real: int, n_fake: int) -> str:
    figure = FIGURES[name]
    if figure.probability and cell.probability is None:
        return "no probability: the detector is not calibrated"
    if name.endswith("_threshold") and np.isnan(cell.fake_above):
        return "the detector has no threshold"
    if figure.needs in {"both", "fake"} and not n_fake:
        return "no fake was judged"
    if figure.needs in {"both", "real"} and not n_real:
        return "no real was judged"
    return "" if n_real or n_fake else "no image was judged"


def _contests(
    cell: Cell, members: Sequence[tuple[Places, Places]]
) -> tuple[dict[bytes, tuple[Places, OneClass]], list[tuple[Contest, bytes, bytes]]]:
    """Every distinct set of one class's images once, and which two meet in each group."""
    flags = decisions(cell)
    classes: dict[bytes, tuple[Places, OneClass]] = {}

    def key_of(rows: Places, label: int) -> bytes:
        key = bytes([label]) + rows.tobytes()
        if key not in classes:
            chances = None if cell.probability is None else cell.probability[rows]
            of_rows = {name: flag[rows] for name, flag in flags.items()}
            classes[key] = (rows, one_class(cell.score[rows], of_rows, chances, label))
        return key

    keys = [(key_of(real, 0), key_of(fake, 1)) for real, fake in members]
    return classes, [(Contest(classes[r][1], classes[f][1]), r, f) for r, f in keys]


def _answers(cell: Cell, images: Images) -> Confident:
    """The answers at 0.5, or at score 0, of the judged images."""
    sure = np.abs(cell.score if cell.probability is None else cell.probability - 0.5)
    wrong = decisions(cell)["half"] != images.fake
    return confident(sure[cell.judged], wrong[cell.judged])
