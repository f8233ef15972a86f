from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from univfd.calibration import Calibration
from univfd.conditions import conditions, flat_share, jpeg_quality
from univfd.detector import Detector
from univfd.images import decode
from univfd.types import ImageRef, Verdict

CALIBRATED = Calibration(fake_above=1e6, real_below=1e6, max_fpr=0.05, max_miss=0.05, confidence=0.9)  # all is real


def texture(height: int, width: int) -> np.ndarray:
    """Smooth shapes with a photograph's grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    base = 128 + 60 * np.sin(x / 40)[..., None] + 40 * np.cos(y / 23)[..., None] + rng.normal(0, 3, (height, width, 3))
    return np.clip(base, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [1, 5, 10, 25, 29, 30, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int) -> None:
    found = decode(ImageRef("x", jpeg(texture(64, 64), quality))).quality
    assert found is not None
    # Steps end at 255, so the coarsest tables look somewhat finer than they were asked for.
    assert abs(found - quality) <= 1 if quality >= 25 else found < 25


def test_other_formats_have_no_quality() -> None:
    buffer = io.BytesIO()
    Image.fromarray(texture(70, 70)).save(buffer, "PNG")
    assert decode(ImageRef("x", buffer.getvalue())).quality is None
    assert jpeg_quality({}) is None


def test_an_ordinary_picture_has_no_condition() -> None:
    assert conditions(texture(300, 400), 75) == ()
    assert conditions(texture(64, 64), None) == ()


def test_each_degradation_is_named() -> None:
    assert conditions(texture(63, 200))[0].startswith("tiny: 200 x 63")
    assert conditions(texture(300, 300), 29)[0].startswith("heavily compressed: JPEG quality 29")
    page = Image.new("RGB", (600, 800), "white")
    ImageDraw.Draw(page).text((20, 20), "a line on a page", fill="black")
    gradient = np.repeat(np.linspace(0, 255, 1200).astype(np.uint8)[None, :, None], 900, axis=0).repeat(3, axis=2)
    for flat in (np.asarray(page), gradient):
        assert [c.split(":")[0] for c in conditions(flat)] == ["mostly flat"]


def test_a_large_picture_is_sampled() -> None:
    half = np.concatenate([texture(1500, 4000), np.full((1500, 4000, 3), 200, np.uint8)])
    assert flat_share(half) == pytest.approx(0.5, abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 255))
def test_no_shape_is_too_odd(height: int, width: int, value: int) -> None:
    found = conditions(np.full((height, width, 3), value, np.uint8))
    assert any(c.startswith("mostly flat") for c in found)
    assert any(c.startswith("tiny") for c in found) == (min(height, width) < 64)


def test_a_degradation_makes_a_promise_unsure_and_says_why(toy_detector: Detector) -> None:
    promising = replace(toy_detector, calibration=CALIBRATED)
    small, good = promising.detect([texture(40, 40), texture(240, 240)])
    assert isinstance(small, Verdict)
    assert isinstance(good, Verdict)
    assert (small.verdict, small.reasons) == ("unsure", ("tiny: 40 x 40 pixels, under 64 on the short side",))
    assert (good.verdict, good.reasons) == ("real", ())
    plain = next(iter(replace(toy_detector, calibration=Calibration(0.0, 0.0)).detect([texture(40, 40)])))
    assert isinstance(plain, Verdict)
    assert plain.verdict != "unsure"
    assert plain.score == small.score


def test_what_is_unlike_the_bank_is_unsure(toy_detector: Detector) -> None:
    strange = texture(240, 240)
    (free,) = toy_detector.detect([strange])
    assert isinstance(free, Verdict)
    nearest = min(n.distance for n in (*free.nearest_fake, *free.nearest_real))
    for within, verdict in ((nearest * 1.01, "real"), (nearest * 0.99, "unsure")):
        (found,) = replace(toy_detector, calibration=replace(CALIBRATED, known_within=within)).detect([strange])
        assert isinstance(found, Verdict)
        assert found.verdict == verdict
        assert ("unlike all of the bank" in " ".join(found.reasons)) == (verdict == "unsure")


def test_an_old_calibration_without_the_distance_is_read() -> None:
    record = CALIBRATED.to_dict()
    assert "known_within" not in record
    assert Calibration.from_dict(record) == CALIBRATED
    judged = replace(CALIBRATED, known_within=0.25)
    assert Calibration.from_dict(judged.to_dict()) == judged
