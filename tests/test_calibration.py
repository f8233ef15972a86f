from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from univfd.calibration import (
    UNKNOWN_GENERATOR,
    Calibration,
    GroupPromise,
    by_group,
    calibrate,
    needed_for,
    platt,
    threshold_for,
)
from univfd.errors import DataError, FormatError


def test_the_known_least_numbers() -> None:
    """1 % at 90 % confidence needs 230 real images, 0.1 % needs 2,302 (ln 0.1 / ln(1 - alpha), rounded up)."""
    assert needed_for(0.01, 0.9) == 230
    assert needed_for(0.001, 0.9) == 2302
    scores = np.random.default_rng(0).random(230)
    assert threshold_for(scores, 0.01, 0.9) == scores.max()
    with pytest.raises(DataError, match=r"229 images are too few .* at least 230"):
        threshold_for(scores[:229], 0.01, 0.9)


def test_the_promise_is_kept_and_the_plain_quantile_breaks_it() -> None:
    """Over many draws: the true rate above the threshold (known, the scores are uniform) exceeds the promise rarely."""
    rng = np.random.default_rng(1)
    broken_ours = broken_quantile = 0
    for _ in range(1000):
        scores = rng.random(200)
        broken_ours += 1 - threshold_for(scores, 0.05, 0.9) > 0.05
        broken_quantile += 1 - np.quantile(scores, 0.95) > 0.05
    assert broken_ours <= 120
    assert broken_ours >= 40  # not bought by a threshold that is far too high
    assert broken_quantile > 400


def separated(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return np.concatenate([rng.normal(-1, 1, n), rng.normal(1, 1, n)]), np.repeat([0, 1], n)


def test_three_way_verdict_and_direction() -> None:
    scores, labels = separated()
    made = calibrate(scores, labels, max_fpr=0.05, max_miss=0.05)
    assert made.real_below < made.fake_above
    assert [made.verdict(s) for s in (-9, made.real_below, 0, made.fake_above, 9)] == [
        "real", "unsure", "unsure", "unsure", "fake",
    ]  # fmt: skip
    assert (scores[labels == 0] > made.fake_above).mean() <= 0.05
    assert (scores[labels == 1] <= made.real_below).mean() <= 0.05


def test_probabilities_are_those_of_the_known_mixture() -> None:
    """Two unit normals at -1 and 1 in equal numbers: the log-odds of fake are 2 s."""
    scores, labels = separated(20_000)
    made = calibrate(scores, labels)
    for s in (-2, -0.5, 0, 1, 2):
        assert made.probability(s) == pytest.approx(1 / (1 + np.exp(-2 * s)), abs=0.02)
    assert made.probability(1e9) == 1
    assert made.probability(-1e9) == 0


def test_class_sizes_do_not_shift_the_probability() -> None:
    scores, labels = separated(20_000)
    fewer = np.concatenate([np.flatnonzero(labels == 0)[:2000], np.flatnonzero(labels == 1)])
    assert calibrate(scores[fewer], labels[fewer]).probability(0) == pytest.approx(0.5, abs=0.03)


def test_the_scale_of_the_score_does_not_matter() -> None:
    scores, labels = separated()
    one, thousandth = calibrate(scores, labels), calibrate(scores / 1000, labels)
    assert thousandth.probability(0.001) == pytest.approx(one.probability(1), abs=1e-3)


def test_well_separated_classes_have_no_gap() -> None:
    scores, labels = np.concatenate([np.linspace(-2, -1, 100), np.linspace(1, 2, 100)]), np.repeat([0, 1], 100)
    made = calibrate(scores, labels)
    assert made.real_below == made.fake_above
    assert made.verdict(0) == "fake"


def test_no_probability_that_falls_while_the_score_rises() -> None:
    scores, labels = separated()
    turned = calibrate(-scores, labels)
    assert (turned.slope, turned.intercept, turned.probability(0)) == (None, None, None)
    assert turned.fake_above == pytest.approx(np.quantile(-scores[labels == 0], 0.95), abs=0.5)  # the promise holds


def test_uncalibrated_decides_at_zero() -> None:
    plain = Calibration(0.0, 0.0)
    assert [plain.verdict(s) for s in (-0.1, 0, 0.1)] == ["real", "real", "fake"]
    assert plain.probability(3) is None


def test_round_trip_and_bad_files() -> None:
    made = calibrate(*separated())
    assert Calibration.from_dict(made.to_dict()) == made
    with pytest.raises(FormatError, match="out of order"):
        Calibration(fake_above=0, real_below=1)
    with pytest.raises(FormatError, match="cannot be read"):
        Calibration.from_dict({"treshold": 1})


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_impossible_promises_are_refused(rate: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        calibrate(*separated(), max_fpr=rate)


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores, labels = separated()
    wrong = [np.nan, np.inf]
    with pytest.raises(DataError, match=rf"^2 of {len(scores) + 2} scores are no finite numbers"):
        calibrate(np.append(scores, wrong), np.append(labels, [0, 1]))


def order_statistic(scores: np.ndarray) -> float:
    return threshold_for(scores, 0.05, 0.9)


def plain_quantile(scores: np.ndarray) -> float:
    return float(np.quantile(scores, 0.95))


BOUND = 0.15  # 10 % is promised; 200 draws scatter by 2 % (one standard deviation)


def broken_of_draws(threshold: Callable[[np.ndarray], float]) -> float:
    """In how many of 200 draws of 400 heavy-tailed scores the true rate above the threshold is over 5 %."""
    population, rng = stats.t(df=2, loc=-1), np.random.default_rng(5)
    return float(np.mean([population.sf(threshold(population.rvs(400, random_state=rng))) > 0.05 for _ in range(200)]))


def broken_of_halves(threshold: Callable[[np.ndarray], float]) -> float:
    """Likewise for random halves of a fixed set of 800; the rate is that of all 800."""
    rng = np.random.default_rng(6)
    everything = stats.t(df=2, loc=-1).rvs(800, random_state=rng)
    halves = (rng.permutation(everything)[:400] for _ in range(200))
    return float(np.mean([(everything > threshold(half)).mean() > 0.05 for half in halves]))


def broken_on_the_other_half(threshold: Callable[[np.ndarray], float]) -> float:
    """Likewise, with the rate in the half that the threshold has not seen."""
    rng = np.random.default_rng(7)
    everything = stats.t(df=2, loc=-1).rvs(800, random_state=rng)
    both = (np.split(rng.permutation(everything), 2) for _ in range(200))
    return float(np.mean([(other > threshold(half)).mean() > 0.05 for half, other in both]))


@pytest.mark.parametrize("broken", [broken_of_draws, broken_of_halves])
def test_the_promise_is_kept_on_heavy_tails(broken: Callable[..., float]) -> None:
    assert broken(order_statistic) <= BOUND


@pytest.mark.parametrize("broken", [broken_of_draws, broken_of_halves, broken_on_the_other_half])
def test_the_plain_quantile_breaks_that_bound(broken: Callable[..., float]) -> None:
    assert broken(plain_quantile) > 2 * BOUND


def test_another_half_goes_over_as_often_as_counting_says() -> None:
    """A rate measured on 400 other images scatters too, so it is over 5 % more often than the true rate is.

    With the k-th smallest of 400 as threshold, the number of 400 others above it is beta-binomial with parameters
    401 - k and k, whatever the distribution.
    """
    k = next(k for k in range(1, 401) if stats.binom.sf(k - 1, 400, 0.95) <= 0.1)
    expected = stats.betabinom.sf(20, 400, 401 - k, k)
    assert 0.1 < expected < 0.25
    assert broken_on_the_other_half(order_statistic) == pytest.approx(expected, abs=3 * np.sqrt(0.25 * 0.75 / 200))


def grouped() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """300 easy reals, 100 that score higher, 5 of a third kind; 100 fakes."""
    rng = np.random.default_rng(8)
    scores = np.concatenate([rng.normal(-3, 1, 300), rng.normal(0, 1, 100), rng.normal(9, 1, 5), rng.normal(4, 1, 100)])
    names = ["easy"] * 300 + ["hard"] * 100 + ["few"] * 5 + ["easy"] * 100
    return scores, np.repeat([0, 1], [405, 100]), names


def test_each_group_has_the_threshold_of_its_own_scores() -> None:
    scores, labels, names = grouped()
    promises = by_group(scores[labels == 0], names[:405], 0.05, 0.9)
    assert promises == (
        GroupPromise("easy", 300, threshold_for(scores[:300], 0.05, 0.9)),
        GroupPromise("few", 5, None),
        GroupPromise("hard", 100, threshold_for(scores[300:400], 0.05, 0.9)),
    )


def test_a_group_of_the_least_number_has_a_promise_and_one_fewer_has_none() -> None:
    need = needed_for(0.05, 0.9)
    scores = np.random.default_rng(9).random(2 * need - 1)
    enough, short = by_group(scores, ["a"] * need + ["b"] * (need - 1), 0.05, 0.9)
    assert enough.fake_above == scores[:need].max()
    assert short == GroupPromise("b", need - 1, None)


def test_the_worst_group_raises_the_threshold_and_too_few_are_on_record() -> None:
    scores, labels, names = grouped()
    pooled = calibrate(scores, labels, groups=names)
    worst = calibrate(scores, labels, groups=names, worst_group=True)
    plain = calibrate(scores, labels)
    assert pooled.fake_above == plain.fake_above
    assert plain.groups == ()
    assert plain.worst_group is None
    assert (
        worst.worst_group == pooled.worst_group == GroupPromise("hard", 100, threshold_for(scores[300:400], 0.05, 0.9))
    )
    assert worst.fake_above == worst.worst_group.fake_above > pooled.fake_above
    assert (scores[300:400] > pooled.fake_above).mean() > 0.05 >= (scores[300:400] > worst.fake_above).mean()
    assert GroupPromise("few", 5, None) in worst.groups


def test_the_worst_group_never_lowers_the_threshold() -> None:
    """A pooled threshold above every group's stays: those with too few images count in it."""
    scores = np.concatenate([np.linspace(0, 1, 60), np.full(40, 7.0)])
    labels, names = np.zeros(100, int), ["many"] * 60 + ["few"] * 40
    both = np.concatenate([scores, np.full(50, 9.0)]), np.concatenate([labels, np.ones(50, int)])
    made = calibrate(*both, groups=names + ["x"] * 50, worst_group=True)
    assert made.fake_above == 7
    assert made.groups == (GroupPromise("few", 40, None), GroupPromise("many", 60, 1.0))


def test_groups_that_do_not_fit_are_refused() -> None:
    scores, labels, names = grouped()
    with pytest.raises(DataError, match="no groups were told"):
        calibrate(scores, labels, worst_group=True)
    with pytest.raises(DataError, match="3 names of groups for 505 scores"):
        calibrate(scores, labels, groups=names[:3])
    with pytest.raises(DataError, match="one each"):
        by_group(scores, names[:3], 0.05, 0.9)
    with pytest.raises(DataError, match="between 0 and 1"):
        by_group(scores, names, 1, 0.9)


def test_groups_survive_json_and_manifests_without_them_load() -> None:
    scores, labels, names = grouped()
    made = calibrate(scores, labels, groups=names)
    assert Calibration.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    old = {"fake_above": 1.0, "real_below": -1.0, "max_fpr": 0.05, "n_real": 60, "data": "before groups"}
    loaded = Calibration.from_dict(old)
    assert loaded.groups == ()
    assert "groups" not in loaded.to_dict()  # the identity of detectors that have none is as it was
    for bad in ("easy", [{"group": "easy"}], [3], None, {"easy": 1}):
        with pytest.raises(FormatError, match="cannot be read"):
            Calibration.from_dict(old | {"groups": bad})


def test_each_class_has_its_own_numbers_on_record() -> None:
    scores = np.concatenate([np.linspace(-3, 0, 90), np.linspace(0, 3, 60)])
    made = calibrate(scores, np.repeat([0, 1], [90, 60]), max_fpr=0.05, max_miss=0.1, confidence=0.8, data="words")
    assert (made.n_real, made.n_fake, made.data) == (90, 60, "words")
    assert (made.max_fpr, made.max_miss, made.confidence) == (0.05, 0.1, 0.8)
    assert made.fake_above == threshold_for(scores[:90], 0.05, 0.8)
    assert made.real_below == min(-threshold_for(-scores[90:], 0.1, 0.8), made.fake_above)


def test_scores_without_a_spread_have_a_probability_all_the_same() -> None:
    slope, intercept = platt(np.zeros(20), np.repeat([0, 1], 10))
    assert 1 / (1 + np.exp(-intercept)) == pytest.approx(0.5, abs=1e-3)
    assert np.isfinite(slope)


def test_a_probability_needs_both_numbers() -> None:
    assert Calibration(0.0, 0.0, slope=1.0).probability(1) is None
    assert Calibration(0.0, 0.0, intercept=1.0).probability(1) is None
    assert Calibration(0.0, 0.0, slope=2.0, intercept=-1.0).probability(0.5) == 0.5
    assert Calibration(0.0, 0.0, slope=2.0, intercept=1.0).probability(1) == pytest.approx(1 / (1 + np.exp(-3)))


@pytest.mark.parametrize("pair", [(np.nan, 0.0), (np.inf, 0.0), (0.0, 0.1), (0.0, -np.inf), (0, -(10**400))])
def test_thresholds_out_of_order_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(FormatError, match="out of order"):
        Calibration(*pair)


def test_the_thresholds_themselves_are_unsure() -> None:
    made = Calibration(fake_above=1.0, real_below=-1.0)
    assert [made.verdict(s) for s in (-1.01, -1.0, 1.0, 1.01)] == ["real", "unsure", "unsure", "fake"]


def test_only_a_near_fake_has_a_name() -> None:
    made = Calibration(0.0, 0.0, named_within=0.2)
    assert made.attribution("fake", "gan", 0.2) == "gan"
    assert made.attribution("fake", "gan", 0.21) == UNKNOWN_GENERATOR
    assert made.attribution("fake", "", 0.1) == UNKNOWN_GENERATOR
    assert made.attribution("real", "gan", 0.1) == made.attribution("unsure", "gan", 0.1) == ""
    assert Calibration(0.0, 0.0).attribution("fake", "gan", 0.1) == ""


def test_a_distance_at_the_limit_is_known() -> None:
    made = Calibration(1.0, -1.0, max_fpr=0.05, known_within=0.3)
    assert made.doubts(5.0, 0.3, ()) == ()
    assert [d.code for d in made.doubts(0.0, 0.31, ())] == ["between", "unlike"]


def test_a_later_group_of_negative_scores_may_be_the_worst() -> None:
    groups = (GroupPromise("a", 9, -3.0), GroupPromise("b", 2, None), GroupPromise("c", 9, -1.0))
    made = Calibration(0.0, 0.0, groups=groups)
    assert made.worst_group == groups[2]
    assert Calibration(0.0, 0.0, groups=groups[1:2]).worst_group is None


def test_scores_that_tell_nothing_have_no_probability_and_any_scale_has_one() -> None:
    labels = np.repeat([0, 1], 60)
    assert calibrate(np.zeros(120), labels).slope is None
    scores, labels = separated()
    wide = calibrate(scores * 1000, labels)
    assert wide.slope is not None
    assert 0 < wide.slope < 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_on_record_is_between_none_and_all(share: float) -> None:
    record = calibrate(*separated()).to_dict()
    with pytest.raises(FormatError, match="expected a share between 0 and 1"):
        Calibration.from_dict(record | {"max_fpr": share})
