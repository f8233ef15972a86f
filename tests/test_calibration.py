from __future__ import annotations

import numpy as np
import pytest

from univfd.calibration import Calibration, calibrate, needed_for, threshold_for
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
