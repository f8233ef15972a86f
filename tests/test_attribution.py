from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import random_bank
from univfd import attribution
from univfd.attribution import MAX_NAMED, absent_generator_distances, naming_distance
from univfd.bank import FeatureBank
from univfd.calibration import UNKNOWN_GENERATOR, Calibration
from univfd.detector import Detector
from univfd.types import Label, Verdict


def clustered(generators: int, each: int, spread: float = 0.05) -> FeatureBank:
    """Fakes of a generator lie close together; as many reals anywhere."""
    rng = np.random.default_rng(0)
    bank = random_bank(2 * generators * each, dim=16)
    fake = bank.rows(Label.FAKE)
    name = np.arange(len(fake)) % generators
    centres = rng.standard_normal((generators, 16))
    vectors = bank.vectors.copy()
    vectors[fake] = centres[name] + spread * rng.standard_normal((len(fake), 16))
    generator = bank.generator.copy()
    generator[fake] = [f"g{i}" for i in name]
    return replace(bank, vectors=vectors, generator=generator)


@pytest.mark.parametrize("pairs", [attribution._PAIRS, 20])
def test_distances_are_to_other_generators_only(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "_PAIRS", pairs)
    bank = clustered(3, 4)
    found = absent_generator_distances(bank)
    fake = bank.rows(Label.FAKE)
    for i, row in enumerate(fake):
        others = [r for r in fake if bank.generator[r] != bank.generator[row]]
        a = bank.vectors[row].astype(float)
        cosines = [a @ bank.vectors[r] / np.linalg.norm(a) / np.linalg.norm(bank.vectors[r]) for r in others]
        assert found[i] == pytest.approx(1 - max(cosines), abs=1e-6)


def test_absent_generators_are_seldom_named_and_present_ones_often() -> None:
    limit = naming_distance(clustered(12, 20))
    assert limit is not None
    whole = clustered(12, 20)
    assert (absent_generator_distances(whole) <= limit).mean() <= MAX_NAMED
    fake = whole.rows(Label.FAKE)
    within = whole.unit[fake] @ whole.unit[fake].T
    np.fill_diagonal(within, -1)
    assert (1 - within.max(axis=1) <= limit).mean() > 0.9


def test_no_name_without_enough_to_tell() -> None:
    assert naming_distance(clustered(1, 40)) is None
    assert naming_distance(clustered(3, 5)) is None


def test_only_a_fake_gets_a_generator(toy_detector: Detector, samples: list[np.ndarray]) -> None:
    (free,) = toy_detector.detect([samples[0]])
    assert isinstance(free, Verdict)
    assert free.verdict == "fake"
    assert free.attribution == ""
    nearest = free.nearest_fake[0]
    for verdict, threshold, within, expected in (
        ("fake", -1e9, nearest.distance * 1.01 + 1e-9, nearest.generator),
        ("fake", -1e9, nearest.distance * 0.99 - 1e-9, UNKNOWN_GENERATOR),
        ("real", 1e9, 2.0, ""),
    ):
        calibration = Calibration(threshold, threshold, named_within=within)
        (found,) = replace(toy_detector, calibration=calibration).detect([samples[0]])
        assert isinstance(found, Verdict)
        assert (found.verdict, found.attribution) == (verdict, expected)
        (more,) = replace(toy_detector, calibration=calibration).detect([samples[0]], neighbors=3)
        assert isinstance(more, Verdict)
        assert len(more.nearest_fake) == 3
        assert more.attribution == expected  # of the nearest, however many are shown


@pytest.fixture
def samples() -> list[np.ndarray]:
    """A picture with the grid that the toy bank's fakes have."""
    from conftest import picture

    pixels = picture(1001, 240, 240)
    pixels[::2, ::2] = 255 - pixels[::2, ::2] // 2
    return [pixels]


def test_an_old_calibration_has_no_limit_in_its_record() -> None:
    plain = Calibration(1.0, 0.0)
    assert "named_within" not in plain.to_dict()
    named = replace(plain, named_within=0.2)
    assert Calibration.from_dict(named.to_dict()) == named
