from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from univfd import metrics
from univfd.errors import DataError


def data(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, n - 2)])
    return labels, np.round(rng.normal(labels, 1.5), 1)  # rounded: ties


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(seed: int) -> None:
    labels, scores = data(seed)
    fake, real = scores[labels == 1], scores[labels == 0]
    pairs = [(f > r) + 0.5 * (f == r) for f in fake for r in real]
    assert metrics.auroc(labels, scores) == pytest.approx(np.mean(pairs))
    assert metrics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_average_precision_is_the_sum_over_recall_steps(seed: int) -> None:
    labels, scores = data(seed)
    total, last = 0.0, 0.0
    for t in sorted(set(scores), reverse=True):
        above = scores >= t
        recall, precision = labels[above].sum() / labels.sum(), labels[above].mean()
        total += (recall - last) * precision
        last = recall
    assert metrics.average_precision(labels, scores) == pytest.approx(total)


@given(seed=st.integers(0, 10_000), fpr=st.sampled_from([0.01, 0.05, 0.1, 0.5]))
@settings(max_examples=50, deadline=None)
def test_tpr_at_fpr_by_trying_every_threshold(seed: int, fpr: float) -> None:
    labels, scores = data(seed)
    fake, real = scores[labels == 1], scores[labels == 0]
    best = max((fake > t).mean() for t in real if (real > t).mean() <= fpr + 1e-12)
    assert metrics.tpr_at_fpr(labels, scores, fpr) == pytest.approx(best)


def test_balanced_accuracy_counts_classes_equally() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert metrics.balanced_accuracy(labels, np.zeros(100, bool)) == 0.5
    assert metrics.balanced_accuracy(labels, labels == 1) == 1


def test_ece_by_hand() -> None:
    labels = np.array([0, 1, 1, 1])
    probabilities = np.array([0.15, 0.15, 0.95, 0.95])
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(0.5 * 0.35 + 0.5 * 0.05)


def test_clopper_pearson_known_values() -> None:
    """0 of 20: upper bound 1 - 0.025 ** (1 / 20)."""
    none = metrics.proportion(0, 20)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert metrics.proportion(10, 20).low == pytest.approx(0.272, abs=1e-3)


def test_the_bootstrap_covers_the_truth() -> None:
    """AUROC of normals one standard deviation apart is Phi(1 / sqrt 2) = 0.760."""
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 80)
        estimate = metrics.bootstrap(metrics.auroc, labels, rng.normal(labels, 1), rounds=200, seed=seed)
        hits += estimate.low <= 0.760 <= estimate.high
    assert hits >= 34


def test_one_class_is_refused() -> None:
    for figure in (metrics.auroc, metrics.average_precision, lambda y, s: metrics.tpr_at_fpr(y, s, 0.1)):
        with pytest.raises(DataError, match="needs both classes"):
            figure(np.zeros(5, int), np.arange(5.0))
