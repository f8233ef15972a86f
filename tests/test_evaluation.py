from __future__ import annotations

import numpy as np
import pytest

from univfd.errors import DataError
from univfd.evaluation import Cohort, held_out_scores, per_row, rounds


def cohort() -> Cohort:
    """4 generators x 6 fakes, 10 sources x 4 reals; image 0 (fake) and image 30 (real) share their input."""
    labels = np.repeat([1, 0], [24, 40]).astype(np.uint8)
    generator = np.array([f"g{i // 6}" for i in range(24)] + [""] * 40, dtype=object)
    source = np.array([f"f{i % 3}" for i in range(24)] + [f"s{i // 4}" for i in range(40)], dtype=object)
    group = np.array([""] * 64, dtype=object)
    group[[0, 30]] = "same input"
    return Cohort(labels, generator, source, group)


def test_nothing_of_what_is_tested_is_trained_on() -> None:
    c = cohort()
    seen = list(rounds(c))
    assert [r.generator for r in seen] == ["g0", "g1", "g2", "g3"]
    for r in seen:
        assert not set(r.train) & set(r.test)
        fakes = c.generator[r.test][c.labels[r.test] == 1]
        assert set(fakes) == {r.generator}
        assert r.generator not in c.generator[r.train]
        tested_sources = set(c.source[r.test][c.labels[r.test] == 0])
        assert tested_sources
        assert not tested_sources & set(c.source[r.train][c.labels[r.train] == 0])


def test_an_image_of_the_same_group_is_on_neither_side() -> None:
    first = next(iter(rounds(cohort())))
    assert 0 in first.test
    assert 30 not in first.train


def test_folds_are_of_about_equal_size() -> None:
    sizes = [(cohort().labels[r.test] == 0).sum() for r in rounds(cohort(), folds=4)]
    assert max(sizes) - min(sizes) <= 4
    assert sum(sizes) == 40


class Spy:
    """Remembers what it was trained on; scores an image by whether it has seen it."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> None:
        self.seen = set(X[:, 0].tolist())

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return np.array([float(x in self.seen) for x in X[:, 0]])


def test_no_test_row_was_ever_seen() -> None:
    c = cohort()
    X = np.arange(64, dtype=np.float32)[:, None]
    held = held_out_scores(c, [X, X + 1000], {"same": X, "copies": X + 1000}, Spy)
    for parts in held.values():
        assert all((p.scores == 0).all() for p in parts)
    scores = per_row(held["same"], 64)
    assert np.isfinite(scores[c.labels == 1]).all()


def test_too_little_to_hold_out() -> None:
    c = cohort()
    one = c.generator != "g1"
    few = Cohort(
        *(getattr(c, f)[one & np.isin(c.generator, ["g0", ""])] for f in ("labels", "generator", "source", "group"))
    )
    with pytest.raises(DataError, match="at least 2"):
        list(rounds(few))
    with pytest.raises(DataError, match=r"1 real source; leaving one out needs at least 2"):
        list(rounds(Cohort(c.labels, c.generator, np.full(64, "one", dtype=object), c.group)))


def test_every_real_is_held_out_however_few_generators_there_are() -> None:
    c = cohort()
    held = set(np.concatenate([r.test for r in rounds(c, folds=9)]).tolist())
    assert held == set(range(64))


def test_other_images_of_a_tested_source_are_not_trained_on() -> None:
    """Neither fakes of another generator from the same site, nor reals from where the tested fakes come."""
    c = cohort()
    source = c.source.copy()
    source[[0, 7, 31]] = "one site"  # a fake of g0, a fake of g1, a real
    first = next(iter(rounds(Cohort(c.labels, c.generator, source, c.group))))
    assert 0 in first.test
    assert not {7, 31} & set(first.train.tolist())


def test_without_by_source_other_generators_of_the_same_site_train() -> None:
    c = cohort()
    source = c.source.copy()
    source[[0, 7]] = "one site"  # a fake of g0, a fake of g1
    first = next(iter(rounds(Cohort(c.labels, c.generator, source, c.group), by_source=False)))
    assert first.generator == "g0"
    train = set(first.train.tolist())
    assert 7 in train
    assert 30 not in train  # the group still holds
    assert not set(c.source[first.test]) & set(source[first.train][c.labels[first.train] == 0])


def test_images_that_may_not_be_judged_train_only_where_nothing_of_theirs_is_tested() -> None:
    c = cohort()
    judged = np.ones(64, bool)
    judged[[5, 23, 27, 63]] = False  # fakes of g0 and g3, reals of the first and the last source
    judged[c.generator == "g2"] = False
    partly = Cohort(c.labels, c.generator, c.source, c.group, judged)
    seen = list(rounds(partly, by_source=False))
    assert [r.generator for r in seen] == ["g0", "g1", "g3"]
    for r in seen:
        assert judged[r.test].all()
        tested = set(c.source[r.test][c.labels[r.test] == 0])
        train = set(r.train.tolist())
        assert (5 in train) == (r.generator != "g0")
        assert (27 in train) == (c.source[27] not in tested)
        assert set(np.flatnonzero(c.generator == "g2")) <= train


class Grouped(Spy):
    """Takes the places of its rows."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> None:
        assert groups is not None
        self.seen = set(X[:, 0].tolist())
        labels = {g: y[groups == g] for g in set(groups)}
        assert all(len(set(own.tolist())) == 1 for own in labels.values())
        assert {g.split("\n")[1] for g in groups[y == 0]} <= {f"s{i}" for i in range(10)}


def test_a_classifier_that_asks_is_told_where_the_rows_come_from() -> None:
    X = np.arange(64, dtype=np.float32)[:, None]
    held = held_out_scores(cohort(), [X, X + 1000], {"same": X}, Grouped)
    assert len(held["same"]) == 4


def test_with_fewer_sources_than_folds_each_is_held_out() -> None:
    c = cohort()
    reals = np.unique(c.source[c.labels == 0].astype(str))[:3]
    few = (c.labels == 1) | np.isin(c.source, reals)
    c = Cohort(*(getattr(c, f)[few] for f in ("labels", "generator", "source", "group")))
    held = [set(c.source[r.test][c.labels[r.test] == 0]) for r in rounds(c)]
    assert len(held) > 3
    assert all(len(sources) == 1 for sources in held)
    assert set.union(*held) == set(reals)
