from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

from univfd import metrics
from univfd.errors import DataError
from univfd.metrics import resampled


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


# Every figure for many weightings at once, against scikit-learn and plain Python on the redrawn images themselves.


def weighted(labels: np.ndarray, scores: np.ndarray, chances: np.ndarray | None, weights: np.ndarray) -> resampled.Pair:
    flags = {
        "half": scores > 0 if chances is None else chances > 0.5,
        "above": scores > 0.7,
        "fake": scores > 0.7,
        "real": scores < -0.2,
    }
    classes = []
    for label in (0, 1):
        own = labels == label
        given = None if chances is None else chances[own]
        classes.append(resampled.one_class(scores[own], {k: v[own] for k, v in flags.items()}, given, label))
    contest = resampled.Contest(*classes)
    sides = [known.weighted(weights[:, labels == label]) for label, known in enumerate(classes)]
    return resampled.Pair(contest, *sides)


def value(name: str, pair: resampled.Pair) -> np.ndarray:
    found = metrics.FIGURES[name].compute(pair)
    return found[0] / found[1] if isinstance(found, tuple) else found


def slow_figures(labels: list[int], scores: list[float], chances: list[float]) -> dict[str, float]:
    """By going over the images, as the definitions say."""
    images = list(zip(labels, scores, chances, strict=True))
    fakes, reals = ([i for i in images if i[0] == label] for label in (1, 0))

    def accuracies(rule: Callable[[float, float], bool]) -> tuple[float, float, float, float]:
        real = sum(not rule(s, p) for _, s, p in reals) / len(reals)
        fake = sum(rule(s, p) for _, s, p in fakes) / len(fakes)
        both = (real * len(reals) + fake * len(fakes)) / len(images)
        return both, real, fake, (real + fake) / 2

    def named(at: str, rule: Callable[[float, float], bool]) -> dict[str, float]:
        kinds = ("accuracy", "real_accuracy", "fake_accuracy", "balanced_accuracy")
        return dict(zip((f"{kind}_{at}" for kind in kinds), accuracies(rule), strict=True))

    thresholds = [*{s for _, s, _ in images}, math.inf]
    any_threshold = [accuracies(lambda s, p, t=t: s >= t) for t in thresholds]
    found = named("half", lambda s, p: p > 0.5) | named("threshold", lambda s, p: s > 0.7)
    found |= {"accuracy_oracle": max(a[0] for a in any_threshold)}
    found |= {"balanced_accuracy_oracle": max(a[3] for a in any_threshold)}
    calls = {"fake": lambda s: s > 0.7, "real": lambda s: s < -0.2}
    found["recall"] = sum(calls["fake"](s) for _, s, _ in fakes) / len(fakes)
    found["misses"] = sum(calls["real"](s) for _, s, _ in fakes) / len(fakes)
    found["false_alarms"] = sum(calls["fake"](s) for _, s, _ in reals) / len(reals)
    decided = [(y, calls["fake"](s)) for y, s, _ in images if calls["fake"](s) or calls["real"](s)]
    found["unsure"] = 1 - len(decided) / len(images)
    found["risk_decided"] = sum(y != called for y, called in decided) / len(decided) if decided else math.nan
    gaps = 0.0
    for b in range(10):
        inside = [(y, p) for y, _, p in images if min(int(p * 10), 9) == b]
        gaps += abs(sum(y for y, _ in inside) - sum(p for _, p in inside))
    found["ece"] = gaps / len(images)
    return found


def slow_equal_error(labels: list[int], scores: list[float]) -> float:
    """Down the ROC curve from above all scores, step by step, to where it meets the other diagonal."""
    fakes, reals = labels.count(1), labels.count(0)
    last = (0.0, 1.0)
    for t in sorted(set(scores), reverse=True):
        called = [y for y, s in zip(labels, scores, strict=True) if s >= t]
        alarms, misses = called.count(0) / reals, 1 - called.count(1) / fakes
        if alarms >= misses:
            (x0, y0), (x1, y1) = last, (alarms, misses)
            along = (y0 - x0) / ((y0 - x0) + (x1 - y1))
            return x0 + along * (x1 - x0)
        last = (alarms, misses)
    raise AssertionError("the curve ends at 1, 0")


@given(seed=st.integers(0, 10_000), coarse=st.booleans())
@settings(max_examples=40, deadline=None)
def test_figures_of_weighted_images_are_those_of_the_images_drawn_so_often(seed: int, coarse: bool) -> None:
    labels, scores = data(seed, 40)
    scores = scores if coarse else scores + np.random.default_rng(seed).normal(0, 0.01, len(scores))
    chances = 1 / (1 + np.exp(-2 * scores))
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(labels))).astype(float)
    weights[0] = 1
    weights[:, [0, 1]] = 1  # one of each class at least
    pair = weighted(labels, scores, chances, weights)
    for row, times in enumerate(weights.astype(int)):
        y, s, p = (np.repeat(x, times) for x in (labels, scores, chances))
        expected = slow_figures(y.tolist(), s.tolist(), p.tolist())
        expected |= {"auroc": roc_auc_score(y, s), "ap": average_precision_score(y, s)}
        share = np.where(y == 1, 1 / (y == 1).sum(), 1 / (y == 0).sum())
        expected["ap_equal"] = average_precision_score(y, s, sample_weight=share)
        expected |= {"brier": brier_score_loss(y, p), "accuracy_half": accuracy_score(y, p > 0.5)}
        expected |= {"balanced_accuracy_threshold": balanced_accuracy_score(y, s > 0.7)}
        expected |= {f"tpr_at_{k}_oracle": metrics.tpr_at_fpr(y, s, k / 100) for k in (1, 5)}
        expected["eer_oracle"] = slow_equal_error(y.tolist(), s.tolist())
        assert expected.keys() == metrics.FIGURES.keys()
        for name, wanted in expected.items():
            assert value(name, pair)[row] == pytest.approx(wanted, abs=1e-9, nan_ok=True), name


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_equal_error_rate_is_where_scikit_learns_curve_meets_the_diagonal(seed: int) -> None:
    labels, scores = data(seed)
    alarms, found, _ = roc_curve(labels, scores)
    at = brentq(lambda x: 1 - x - np.interp(x, alarms, found), 0, 1, xtol=1e-13)
    error = value("eer_oracle", weighted(labels, scores, None, np.ones((1, len(labels)))))[0]
    assert error == pytest.approx(at, abs=1e-9)


@given(seed=st.integers(0, 10_000), coverage=st.sampled_from([1.0, 0.9, 0.5, 0.33, 0.1]))
@settings(max_examples=40, deadline=None)
def test_risk_at_coverage_by_taking_image_after_image(seed: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    confidence, wrong = np.round(rng.random(30), 1), rng.random(30) < 0.3
    weights = rng.integers(0, 3, (2, 30)).astype(float)
    weights[0], weights[:, 0] = 1, 1
    risks = metrics.confident(confidence, wrong).risks(weights, [coverage])[:, 0]
    for times, risk in zip(weights, risks, strict=True):
        left, errors = coverage * times.sum(), 0.0
        for level in sorted(set(confidence), reverse=True):
            tied = confidence == level
            share = min(1.0, left / times[tied].sum()) if times[tied].sum() else 0.0
            errors += share * (times * wrong)[tied].sum()
            left -= share * times[tied].sum()
        assert risk == pytest.approx(errors / (coverage * times.sum()), abs=1e-9)


def test_a_draw_without_any_answer_has_no_risk() -> None:
    """As of one image in few; warnings are errors here."""
    answers = metrics.confident(np.array([0.5]), np.array([True]))
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(answers.risks(np.array([[0.0], [2.0]]), [0.5, 1.0]), [[np.nan] * 2, [1.0] * 2])


@given(n=st.integers(1, 400), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_the_exact_interval_is_scipys(n: int, share: float) -> None:
    hits = round(share * n)
    ours, theirs = metrics.proportion(hits, n), binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="a share of 0 images"):
        metrics.proportion(0, 0)


def test_redrawn_sets_keep_clusters_whole_and_strata_full() -> None:
    """Three generators and reals; images in pairs; the last pair is a real and the fake made of it."""
    kinds = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 0, 1])
    clusters = np.repeat(np.arange(7), 2)
    plan = metrics.design(kinds, clusters)
    drawn = np.concatenate(list(metrics.weightings(plan, 500, seed=3)))
    assert drawn.shape == (501, 14)
    assert (drawn[0] == 1).all()
    assert (drawn[:, ::2] == drawn[:, 1::2]).all(), "a cluster is drawn as a whole"
    linked = [*range(8), 12, 13]  # by the pair of a real and a fake
    assert (drawn[:, linked].sum(axis=1) == 10).all()
    assert (drawn[:, 8:12] == 1).all(), "one cluster of its kind is always there"
    assert abs(drawn[1:, 0].mean() - 1) < 0.15
    assert len(np.unique(drawn[1:, 12])) > 3


def test_strata_of_many_clusters_are_redrawn_among_themselves() -> None:
    """Twelve reals, twelve fakes, twelve pairs of both, and one pair of a real and a fake of a rare generator."""
    kinds = np.array([0] * 12 + [1] * 12 + [0, 1] * 12 + [0, 2])
    clusters = np.array([*range(24), *np.repeat(np.arange(24, 36), 2), 36, 36])
    drawn = np.concatenate(list(metrics.weightings(metrics.design(kinds, clusters), 300)))
    sums = [drawn[:, part].sum(axis=1) for part in (slice(12, 24), slice(24, 48))]
    assert (sums[0] == 12).all()
    assert (sums[1] == 24).all()
    with_rare = drawn[:, [*range(12), 48]].sum(axis=1)  # where it is redrawn at all
    assert (with_rare == 13).all()
    assert len(np.unique(drawn[:, 48])) > 2


def test_groups_that_each_hold_other_generators_give_an_interval_that_covers_the_truth() -> None:
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kinds, clusters, values = [], [], []
        for group in range(60):
            shift = rng.normal(0, 1)
            for kind in (0, *(1 + rng.choice(8, 4, replace=False))):
                kinds.append(kind)
                clusters.append(group)
                values.append(shift + rng.normal(0, 0.3))
        weights = np.concatenate(list(metrics.weightings(metrics.design(np.array(kinds), np.array(clusters)), 400)))
        made = metrics.interval(weights @ np.array(values) / weights.sum(axis=1), len(values))
        covered += made.low <= 0 <= made.high  # type: ignore[operator]
    assert covered >= 34


def test_clusters_that_are_alone_in_their_stratum_are_redrawn_by_class() -> None:
    """Reals of two subsets, each of one group; three fake generators of one group each and one of twenty images."""
    kinds = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *[5] * 20])
    clusters = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *range(5, 25)])
    fake = kinds > 1
    drawn = np.concatenate(list(metrics.weightings(metrics.design(kinds, clusters, fake), 300)))
    reals, lone, many = drawn[:, :4], drawn[:, 4:10], drawn[:, 10:]
    assert (drawn[:, :10:2] == drawn[:, 1:10:2]).all(), "a cluster is drawn as a whole"
    assert (reals.sum(axis=1) == 4).all()
    assert (lone.sum(axis=1) == 6).all()
    assert (many.sum(axis=1) == 20).all(), "those that are not alone are redrawn among themselves"
    assert len(np.unique(lone[:, 0])) == 4
    assert len(np.unique(reals[:, 0])) == 3


def test_a_single_cluster_that_is_alone_is_redrawn_with_the_smallest_of_its_class() -> None:
    kinds = np.array([0, 0, 1, 2, 2, 2, 3, 3, 3, 3])
    clusters = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    drawn = np.concatenate(list(metrics.weightings(metrics.design(kinds, clusters, kinds > 0), 300)))
    assert (drawn[:, :2].sum(axis=1) == 2).all(), "reals are not mixed with fakes"
    assert (drawn[:, 2:6].sum(axis=1) == 4).all()
    assert len(np.unique(drawn[:, 2])) > 2
    lonely = np.concatenate(list(metrics.weightings(metrics.design(kinds[:3], clusters[:3], kinds[:3] > 0), 20)))
    assert (lonely[:, 2] == 1).all(), "nothing is there to stand for it"


def test_the_interval_covers_the_truth_where_each_generator_has_one_group() -> None:
    """Thirty generators, each of ten crops of one picture; pictures differ. Alone they would not be redrawn at all."""
    by_class, alone = 0, 0
    truth = 0.8019  # of fakes whose scores are from N(1.2, 1) and reals from N(0, 1)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        fakes = np.repeat(rng.normal(1.2, 0.98, 30), 10) + rng.normal(0, 0.2, 300)
        scores = np.concatenate([rng.normal(0, 1, 200), fakes])
        labels = np.repeat([0, 1], [200, 300])
        kinds = np.concatenate([np.zeros(200, int), np.repeat(np.arange(1, 31), 10)])
        clusters = np.concatenate([np.arange(200), np.repeat(np.arange(200, 230), 10)])
        for classes in (labels, None):
            weights = np.concatenate(list(metrics.weightings(metrics.design(kinds, clusters, classes), 200, seed)))
            found = metrics.interval(value("auroc", weighted(labels, scores, None, weights)), 500)
            covers = found.low <= truth <= found.high
            by_class, alone = by_class + (covers and classes is not None), alone + (covers and classes is None)
    assert by_class >= 52
    assert alone <= 40


def test_redrawn_sets_do_not_depend_on_how_many_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = metrics.design(np.arange(40) % 3, np.arange(40) // 2)
    at_once = np.concatenate(list(metrics.weightings(plan, 50)))
    monkeypatch.setattr("univfd.metrics.intervals._BLOCK", 200)
    assert np.array_equal(np.concatenate(list(metrics.weightings(plan, 50))), at_once)


def test_the_interval_over_clusters_covers_the_truth_where_single_images_do_not() -> None:
    """Each image ten times over: as many as they seem, a tenth of what they tell."""
    whole, single = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 40)
        scores = np.repeat(rng.normal(labels, 1), 10)
        y = np.repeat(labels, 10)
        for by_cluster in (True, False):
            clusters = np.repeat(np.arange(80), 10) if by_cluster else np.arange(800)
            weights = np.concatenate(list(metrics.weightings(metrics.design(y, clusters), 200, seed)))
            found = metrics.interval(value("auroc", weighted(y, scores, None, weights)), 800)
            covers = found.low <= 0.760 <= found.high
            whole, single = whole + (by_cluster and covers), single + (not by_cluster and covers)
    assert whole >= 52
    assert single <= 40
