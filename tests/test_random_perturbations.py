"""What `reencode` and `augment` draw: the shares and ranges that their documentation states."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from conftest import picture
from univfd import perturbations
from univfd.errors import UsageError
from univfd.perturbations import augment, noise, perturbation, reencode
from univfd.types import Pixels

DRAWS = 800
WIDTH, HEIGHT = 200, 150
FAR = 0.06  # 3.5 standard deviations of a share of 800


def places() -> Pixels:
    """Each pixel says where it is."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The steps that were taken, with their values; they change nothing."""
    taken: list[tuple[str, float]] = []

    def stub(name: str) -> perturbations.Step:
        def step(pixels: Pixels, seed: int, value: float) -> Pixels:
            taken.append((name, value))
            return pixels

        return step

    for name in ("jpeg", "webp", "blur", "noise"):
        monkeypatch.setattr(perturbations, name, stub(name))
    return taken


def share(of: object, among: object) -> float:
    return float(np.mean([a == of for a in among]))  # type: ignore[attr-defined]


def test_reencode_scales_half_of_the_pictures_and_encodes_all_once(steps: list[tuple[str, float]]) -> None:
    shapes = [reencode(places(), 7, draw).shape[:2] for draw in range(1, DRAWS)]
    assert len(steps) == DRAWS - 1
    assert share("jpeg", [name for name, _ in steps]) == pytest.approx(0.75, abs=FAR)
    assert {name for name, _ in steps} == {"jpeg", "webp"}
    assert (min(q for _, q in steps), max(q for _, q in steps)) == (50, 95)
    assert share((HEIGHT, WIDTH), shapes) == pytest.approx(0.5, abs=FAR)
    assert HEIGHT / 2 <= min(h for h, _ in shapes) <= HEIGHT * 0.51
    assert max(shapes) == (HEIGHT, WIDTH)
    assert all(abs(h / HEIGHT - w / WIDTH) < 0.01 for h, w in shapes)


def test_augment_takes_each_step_as_often_as_it_says(steps: list[tuple[str, float]]) -> None:
    counts, values = [], {"jpeg": [], "webp": [], "blur": [], "noise": []}  # type: ignore[var-annotated]
    for draw in range(1, DRAWS):
        steps.clear()
        augment(places(), 7, draw)
        counts.append([name for name, _ in steps])
        for name, value in steps:
            values[name].append(value)
    encodings = [sum(n in {"jpeg", "webp"} for n in names) for names in counts]
    assert set(encodings) == {1, 2}
    assert share(2, encodings) == pytest.approx(0.3, abs=FAR)
    assert len(values["jpeg"]) / sum(encodings) == pytest.approx(0.7, abs=FAR)
    qualities = values["jpeg"] + values["webp"]
    assert (min(qualities), max(qualities)) == (35, 95)
    for name, least, most in (("blur", 0.3, 1.2), ("noise", 1, 6)):
        assert len(values[name]) / DRAWS == pytest.approx(0.1, abs=0.04)
        assert least <= min(values[name]) < least + 0.1 * most
        assert most - 0.1 * most < max(values[name]) <= most


def test_augment_crops_and_scales_as_it_says(steps: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without scaling a crop is a piece of the picture, and may lie anywhere in it."""
    shapes = [augment(places(), 7, draw).shape[:2] for draw in range(1, DRAWS)]
    assert share((HEIGHT, WIDTH), shapes) == pytest.approx(0.7 * 0.4, abs=FAR)
    assert 1.4 * HEIGHT < max(h for h, _ in shapes) <= 1.5 * HEIGHT
    assert min(h for h, _ in shapes) == 64  # what is left to see, at least
    monkeypatch.setattr(perturbations, "_random_scale", lambda pixels, rng: pixels)
    crops = [augment(places(), 7, draw) for draw in range(1, DRAWS)]
    cut = [c for c in crops if c.shape != (HEIGHT, WIDTH, 3)]
    assert len(cut) / len(crops) == pytest.approx(0.3, abs=FAR)
    for crop in cut:
        height, width = crop.shape[:2]
        left, top = int(crop[0, 0, 0]), int(crop[0, 0, 1])
        np.testing.assert_array_equal(crop, places()[top : top + height, left : left + width])
        assert width / WIDTH == pytest.approx(height / HEIGHT, abs=0.01)
    assert 0.7 <= min(c.shape[1] for c in cut) / WIDTH < 0.72
    for axis, side in ((1, WIDTH), (0, HEIGHT)):
        starts = [int(c[0, 0, 1 - axis]) for c in cut]
        ends = [int(c[-1, -1, 1 - axis]) for c in cut]
        assert min(starts) == 0
        assert max(ends) == side - 1


def test_augment_scales_by_a_factor_even_in_its_logarithm() -> None:
    pixels, rng = np.zeros((400, 300, 3), np.uint8), np.random.default_rng(0)
    factors = [perturbations._random_scale(pixels, rng).shape[0] / 400 for _ in range(300)]
    assert 0.35 <= min(factors) < 0.37
    assert 1.45 < max(factors) <= 1.5
    assert np.median(factors) == pytest.approx(np.sqrt(0.35 * 1.5), abs=0.09)  # evenly it were 0.92


def test_the_same_draw_is_the_same_picture_and_another_is_not() -> None:
    one, again, other, elsewhere = (
        augment(picture(0, 96, 80), seed, draw) for seed, draw in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, elsewhere)


def test_each_step_of_a_chain_draws_for_itself_from_the_pictures_content() -> None:
    pixels = picture(1, 60, 50)
    start = zlib.crc32(pixels.tobytes())
    expected = noise(noise(pixels, start, 5), start + 1, 5)
    np.testing.assert_array_equal(perturbation("noise:5+noise:5")(pixels), expected)
    fixed = noise(noise(pixels, 3, 5), 4, 5)
    np.testing.assert_array_equal(perturbation("noise:5+noise:5", seed=3)(pixels), fixed)
    zero = noise(pixels, 0, 5)
    np.testing.assert_array_equal(perturbation("noise:5", seed=0)(pixels), zero)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 91), (64, 64)])
def test_square_is_the_middle_scaled(width: int, height: int) -> None:
    pixels = picture(2, width, height)
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    middle = Image.fromarray(pixels).crop((left, top, left + least, top + least))
    expected = np.asarray(middle.resize((48, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(perturbation("square:48")(pixels), expected)


def test_jpeg_has_the_chroma_of_the_web() -> None:
    import io

    pixels = picture(3, 64, 48)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60, subsampling="4:2:0")
    np.testing.assert_array_equal(perturbation("jpeg:60")(pixels), np.asarray(Image.open(buffer).convert("RGB")))


@pytest.mark.parametrize("good", ["jpeg:100", "jpeg:1", "webp:100", "scale:16", "noise:255", "blur:0.1", "limit:0.5"])
def test_values_at_the_edge_are_taken(good: str) -> None:
    assert perturbation(good)(picture(0, 8, 8)).dtype == np.uint8


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("webp:101", "a whole number above 0, at most 100"), ("scale:16.5", "a number above 0, at most 16"),
        ("square:4097", "a whole number above 0, at most 4096"), ("square:9.5", "whole"), ("noise:256", "at most 255"),
        ("blur:101", "at most 100"), ("reencode:1.5", "whole"), ("augment:0", "above 0"), ("augment:1.5", "whole"),
        ("limit:0", "a number above 0$"),
        ("reencode:inf", "a whole number above 0$"), ("augment:inf", "whole"), ("limit:inf", "a number above 0$"),
        ("limit:x", "expected a number after the colon, as in 'limit:60'"),
    ],
)  # fmt: skip
def test_values_beyond_the_edge_are_refused_with_what_is_expected(bad: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        perturbation(bad)


def test_a_picture_never_vanishes() -> None:
    assert perturbation("scale:0.01")(picture(0, 30, 20)).shape == (1, 1, 3)
    assert perturbation("limit:1")(picture(0, 30, 20)).shape == (1, 1, 3)


def test_noise_has_no_mean_and_stays_within_the_values() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    change = noise(grey, 1, 5).astype(float) - 128
    assert abs(change.mean()) < 0.06  # four standard errors
    assert change.std() == pytest.approx(5, abs=0.1)
    assert noise(np.full((50, 50, 3), 255, np.uint8), 1, 9).min() > 200
    assert noise(np.zeros((50, 50, 3), np.uint8), 1, 9).max() < 55


@pytest.mark.parametrize(
    ("of", "seed", "shape", "expected"),
    [
        (reencode, 0, (150, 200), [("webp", 95)]),
        (reencode, 1, (121, 161), [("jpeg", 78)]),
        (reencode, 2, (150, 200), [("jpeg", 64)]),
        (reencode, 3, (106, 141), [("jpeg", 85)]),
        (augment, 0, (168, 225), [("blur", 0.513), ("webp", 93), ("jpeg", 93)]),
        (augment, 22, (66, 88), [("noise", 1.98), ("jpeg", 53), ("webp", 58)]),
        (augment, 28, (121, 161), [("blur", 0.87), ("jpeg", 80), ("jpeg", 57)]),
        (augment, 31, (64, 83), [("blur", 0.936), ("noise", 1.149), ("jpeg", 44)]),
    ],
)
def test_the_copies_that_detectors_were_trained_on_stay_what_they_were(
    of: perturbations.Step, seed: int, shape: tuple[int, int], expected: list[object], steps: list[tuple[str, float]]
) -> None:
    assert of(places(), seed, 1).shape[:2] == shape
    assert steps == expected


@pytest.mark.parametrize(("height", "width"), [(1, 200), (200, 1), (1, 1)])
def test_a_line_of_pixels_is_taken_too(height: int, width: int, steps: list[tuple[str, float]]) -> None:
    for draw in range(1, 40):
        assert min(augment(places()[:1, :1].repeat(height, 0).repeat(width, 1), 7, draw).shape[:2]) >= 1
