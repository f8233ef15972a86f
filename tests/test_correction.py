"""Rows added to a bank correct a probe that was learned without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from univfd.bank import FeatureBank
from univfd.classifiers import _correction
from univfd.classifiers._correction import MOST_ADDED
from univfd.classifiers.ridge import RidgeProbe
from univfd.errors import FormatError
from univfd.types import Embeddings, FeatureSpace, FloatArray, Label

SPACE = FeatureSpace("toy", "0" * 64, ("proj",), "native", "0" * 16, 24)
RNG = np.random.default_rng(7)


def rows(n: int, label: Label, generator: str = "", at: FloatArray | None = None, first: int = 0) -> FeatureBank:
    """A bank of n rows around a point, with keys that count from `first`."""
    centre = np.full(SPACE.dim, 0.5 if label else -0.5, np.float32) if at is None else at
    vectors = (centre + RNG.normal(0, 0.6, (n, SPACE.dim))).astype(np.float32)
    keys = [f"{first + i:016x}" + "0" * 48 for i in range(n)]
    return FeatureBank.from_rows(Embeddings(vectors, SPACE), [label] * n, keys, generator=generator)


NEW = np.zeros(SPACE.dim, np.float32)
NEW[:6], NEW[6:] = 1, -1.5  # fakes that look real to the probe


@pytest.fixture(scope="module")
def bank() -> FeatureBank:
    return rows(200, Label.REAL).add(rows(150, Label.FAKE, "old", first=1000))


@pytest.fixture(scope="module")
def probe(bank: FeatureBank) -> RidgeProbe:
    return RidgeProbe.from_bank(bank)


def again(probe: RidgeProbe, bank: FeatureBank) -> RidgeProbe:
    return RidgeProbe.from_state(probe.get_params(), probe.state(), bank)


def test_its_own_bank_corrects_nothing(bank: FeatureBank, probe: RidgeProbe) -> None:
    x = RNG.normal(size=(50, SPACE.dim)).astype(np.float32)
    np.testing.assert_array_equal(again(probe, bank).decision_function(x), probe.decision_function(x))
    fewer = again(probe, bank.take(np.arange(0, len(bank), 2)))
    np.testing.assert_array_equal(fewer.decision_function(x), probe.decision_function(x))


def test_a_few_rows_of_a_new_generator_are_enough(bank: FeatureBank, probe: RidgeProbe) -> None:
    unseen = rows(100, Label.FAKE, "new", NEW).vectors
    reals = rows(300, Label.REAL).vectors
    assert (probe.decision_function(unseen) > 0).mean() < 0.05
    found = [
        (again(probe, bank.add(rows(m, Label.FAKE, "new", NEW, 2000))).decision_function(unseen) > 0).mean()
        for m in (1, 5, 20)
    ]
    assert found[0] <= found[1] <= found[2]
    assert found[2] > 0.95
    after = again(probe, bank.add(rows(20, Label.FAKE, "new", NEW, 2000))).decision_function(reals)
    assert (after > 0).mean() <= (probe.decision_function(reals) > 0).mean() + 0.05


def test_added_reals_take_back_a_false_alarm(bank: FeatureBank, probe: RidgeProbe) -> None:
    odd = -NEW
    unseen = rows(100, Label.REAL, at=odd).vectors
    assert (probe.decision_function(unseen) > 0).mean() > 0.95
    after = again(probe, bank.add(rows(20, Label.REAL, at=odd, first=3000)))
    assert (after.decision_function(unseen) > 0).mean() < 0.1


def test_order_does_not_matter_and_undo_is_exact(bank: FeatureBank, probe: RidgeProbe) -> None:
    x = RNG.normal(size=(40, SPACE.dim)).astype(np.float32)
    added = rows(9, Label.FAKE, "new", NEW, 4000)
    one = again(probe, bank.add(added)).decision_function(x)
    other = again(probe, added.take(np.arange(9)[::-1]).add(bank)).decision_function(x)
    np.testing.assert_allclose(one, other, atol=1e-6)
    back = again(probe, bank.add(added).remove(range(len(bank), len(bank) + 9))).decision_function(x)
    np.testing.assert_array_equal(back, probe.decision_function(x))


def test_a_relabelled_row_counts_as_added(bank: FeatureBank, probe: RidgeProbe) -> None:
    labels = bank.labels.copy()
    labels[0] = 1
    x = bank.vectors[:1]
    assert again(probe, replace(bank, labels=labels)).decision_function(x) > probe.decision_function(x) + 0.5


def test_scores_do_not_depend_on_the_batch(bank: FeatureBank, probe: RidgeProbe) -> None:
    made = again(probe, bank.add(rows(5, Label.FAKE, "new", NEW, 5000)))
    x = RNG.normal(size=(30, SPACE.dim)).astype(np.float32)
    single = np.concatenate([made.decision_function(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(made.decision_function(x), single, atol=1e-6)


def test_too_many_rows_and_damaged_state_are_errors(bank: FeatureBank, probe: RidgeProbe) -> None:
    with pytest.raises(ValueError, match="train one on the bank"):
        again(probe, bank.add(rows(MOST_ADDED + 1, Label.FAKE, "new", NEW, 10_000)))
    with pytest.raises(FormatError, match="known"):
        RidgeProbe.from_state({}, probe.state() | {"centre": np.zeros(3)}, bank)


def test_a_fit_forgets_the_bank(bank: FeatureBank, probe: RidgeProbe, tmp_path: Path) -> None:
    made = again(probe, bank.add(rows(5, Label.FAKE, "new", NEW, 5000)))
    assert "known" not in made.fit(bank.vectors, bank.labels).state()


def test_what_is_well_on_its_side_corrects_nothing(bank: FeatureBank, probe: RidgeProbe) -> None:
    far = rows(3, Label.FAKE, "new", np.full(SPACE.dim, 3.0, np.float32), 5000)
    assert probe.decision_function(far.vectors).min() > 1
    x = RNG.normal(size=(20, SPACE.dim)).astype(np.float32)
    np.testing.assert_array_equal(again(probe, bank.add(far)).decision_function(x), probe.decision_function(x))


def test_anchors_are_of_the_other_class_and_the_nearest_of_it(
    bank: FeatureBank, probe: RidgeProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = rows(4, Label.FAKE, "new", NEW, 6000)
    grown = bank.add(new)
    every = again(probe, grown)._correction
    assert every is not None
    reals = bank.rows(Label.REAL)
    np.testing.assert_array_equal(every.rows[4:], every.origin.directions(bank.vectors[reals]))
    monkeypatch.setattr(_correction, "_ANCHORS", 30)
    fewer = again(probe, grown)._correction
    assert fewer is not None
    z = every.origin.directions(bank.vectors[reals])
    nearest = np.sort(np.argsort(-(z @ every.rows[:4].T).max(axis=1))[:30])
    np.testing.assert_array_equal(fewer.rows[4:], z[nearest])
    monkeypatch.setattr(_correction, "_ANCHORS", len(reals))
    exactly = again(probe, grown)._correction
    assert exactly is not None
    np.testing.assert_array_equal(exactly.rows, every.rows)


def test_directions_are_standardised_and_the_kernel_ends_at_a_right_angle(bank: FeatureBank) -> None:
    origin = _correction.Origin.of(bank)
    x = RNG.normal(size=(5, SPACE.dim)).astype(np.float32)
    z = (x - bank.vectors.mean(axis=0)) / bank.vectors.std(axis=0)
    np.testing.assert_allclose(origin.directions(x), z / np.linalg.norm(z, axis=1, keepdims=True), atol=1e-5)
    a = np.array([[1, 0], [0, 1]], np.float32)
    b = np.array([[0.6, 0.8], [-1, 0]], np.float32)
    np.testing.assert_allclose(_correction._kernel(a, b), [[0.36, 0], [0.64, 0]], atol=1e-6)
