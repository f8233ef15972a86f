from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from conftest import encoded, toy_samples
from univfd.calibration import Calibration
from univfd.detector import Detector
from univfd.types import Label, Verdict

CALIBRATED = Calibration(fake_above=1e6, real_below=1e6, max_fpr=0.05, max_miss=0.05, confidence=0.9)  # all is real


def texture(height: int, width: int) -> np.ndarray:
    """Smooth shapes with a photograph's grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    base = 128 + 60 * np.sin(x / 40)[..., None] + 40 * np.cos(y / 23)[..., None] + rng.normal(0, 3, (height, width, 3))
    return np.clip(base, 0, 255).astype(np.uint8)


def test_a_degradation_makes_a_promise_unsure_and_says_why(toy_detector: Detector) -> None:
    promising = replace(toy_detector, calibration=CALIBRATED)
    small, thumbnail, good = promising.detect([texture(40, 40), texture(255, 400), texture(256, 400)])
    assert isinstance(small, Verdict)
    assert isinstance(thumbnail, Verdict)
    assert thumbnail.reasons == ("small: 400 x 255 pixels, below 256 on the short side",)
    assert isinstance(good, Verdict)
    assert (small.verdict, small.reasons) == ("unsure", ("tiny: 40 x 40 pixels",))
    assert (good.verdict, good.reasons) == ("real", ())
    row = thumbnail.to_dict()
    assert row["reason_codes"] == [{"code": "small", "figures": {"width": 400, "height": 255, "least": 256}}]
    assert [n["code"] for n in small.to_dict()["note_codes"]] == [n.code for n in small.remarks]
    assert good.to_dict()["reason_codes"] == []
    plain = next(iter(replace(toy_detector, calibration=Calibration(0.0, 0.0)).detect([texture(40, 40)])))
    assert isinstance(plain, Verdict)
    assert plain.verdict != "unsure"
    assert plain.score == small.score


def test_what_is_unlike_the_bank_is_unsure(toy_detector: Detector) -> None:
    strange = texture(260, 260)
    (free,) = toy_detector.detect([strange])
    assert isinstance(free, Verdict)
    nearest = min(n.distance for n in (*free.nearest_fake, *free.nearest_real))
    for within, verdict in ((nearest * 1.01, "real"), (nearest * 0.99, "unsure")):
        (found,) = replace(toy_detector, calibration=replace(CALIBRATED, known_within=within)).detect([strange])
        assert isinstance(found, Verdict)
        assert found.verdict == verdict
        assert ("unlike all of the bank" in " ".join(found.reasons)) == (verdict == "unsure")
        if verdict == "unsure":
            (coded,) = found.to_dict()["reason_codes"]
            assert coded == {"code": "unlike", "figures": {"distance": pytest.approx(nearest), "known_within": within}}


def test_what_is_like_one_class_is_known(toy_detector: Detector) -> None:
    """A fake of the bank, or a real image, whose nearest row of the other class is beyond the limit."""
    for label in Label:
        sample = next(s for s in toy_samples() if s.label == label)
        (free,) = toy_detector.detect([sample.ref])
        assert isinstance(free, Verdict)
        own, other = (free.nearest_fake, free.nearest_real)[:: 1 if label is Label.FAKE else -1]
        assert own[0].distance < 1e-6 < other[0].distance
        within = other[0].distance / 2
        (found,) = replace(toy_detector, calibration=replace(CALIBRATED, known_within=within)).detect([sample.ref])
        assert isinstance(found, Verdict)
        assert not [d for d in found.doubts if d.code == "unlike"]


def test_codes_stand_beside_the_words_and_are_json(toy_detector: Detector) -> None:
    (score,) = (v.score for v in toy_detector.detect([texture(40, 40)]) if isinstance(v, Verdict))
    between = replace(CALIBRATED, fake_above=score + 1, real_below=score - 1, known_within=-1.0)
    data = encoded(texture(40, 40), quality=5)
    (found,) = replace(toy_detector, calibration=between).detect([data])
    row = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [c["code"] for c in row["reason_codes"]] == ["between", "tiny", "recompressed", "unlike"]
    assert row["reason_codes"][0]["figures"] == {"real_below": score - 1, "fake_above": score + 1}
    assert row["reason_codes"][2]["figures"] == {"quality": 5, "least": 30}
    assert len(row["reasons"]) == 4
    assert "5" in row["reasons"][2]


def test_nothing_known_is_no_figure() -> None:
    (doubt,) = replace(CALIBRATED, known_within=0.5).doubts(0.0, math.inf, ())
    assert doubt.coded() == {"code": "unlike", "figures": {"known_within": 0.5}}


def test_an_old_calibration_without_the_distance_is_read() -> None:
    record = CALIBRATED.to_dict()
    assert "known_within" not in record
    assert Calibration.from_dict(record) == CALIBRATED
    judged = replace(CALIBRATED, known_within=0.25)
    assert Calibration.from_dict(judged.to_dict()) == judged
