from __future__ import annotations

import io
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import picture
from univfd import views
from univfd.catalogue import entry
from univfd.errors import UnknownNameError, UnsupportedImageError, UsageError
from univfd.perturbations import perturbation
from univfd.remarks import Remark
from univfd.views import Crops, PreprocessSpec, view

SPEC = entry("clip-vit-b-16").preprocess


def test_native_is_the_papers_centre_crop() -> None:
    pixels = picture(0, 401, 300)
    crops = view("native").cut(pixels, SPEC)
    np.testing.assert_array_equal(crops.pixels, pixels[None, 38:262, 88:312])
    assert crops.upscaled == 1
    assert crops.notes == ()


def test_a_small_picture_is_scaled_up_and_that_is_said() -> None:
    crops = view("native").cut(picture(0, 150, 112), SPEC)
    assert crops.pixels.shape == (1, 224, 224, 3)
    assert crops.upscaled == 2
    assert crops.notes == (Remark("upscaled", "upscaled 2.00x: smaller than the encoder's input", {"factor": 2.0}),)


def test_resize_sees_the_whole_short_side() -> None:
    pixels = np.zeros((448, 896, 3), np.uint8)
    pixels[:, 224:672] = 255
    assert view("resize").cut(pixels, SPEC).pixels[0, :, 4:-4].min() == 255
    pixels[:, 448:672] = 0
    assert 100 < view("resize").cut(pixels, SPEC).pixels.mean() < 155


def test_resize_is_clips_own_resize_then_centre_crop() -> None:
    pixels = picture(3, 500, 400)
    whole = np.asarray(Image.fromarray(pixels).resize((280, 224), Image.Resampling.BICUBIC))
    difference = view("resize").cut(pixels, SPEC).pixels[0].astype(int) - whole[:, 28:252]
    assert np.abs(difference).max() <= 1


def test_five_and_grid_places() -> None:
    pixels = picture(1, 600, 500)
    five = view("five").cut(pixels, SPEC).pixels
    assert five.shape == (5, 224, 224, 3)
    np.testing.assert_array_equal(five[1], pixels[:224, :224])
    np.testing.assert_array_equal(five[2], pixels[:224, -224:])
    np.testing.assert_array_equal(five[3], pixels[-224:, :224])
    np.testing.assert_array_equal(five[4], pixels[-224:, -224:])
    grid = view("grid-3").cut(pixels, SPEC).pixels
    assert grid.shape == (9, 224, 224, 3)
    np.testing.assert_array_equal(grid[4], pixels[138:362, 188:412])


@given(
    width=st.integers(1, 700), height=st.integers(1, 700), name=st.sampled_from(["native", "resize", "five", "grid-2"])
)
@settings(max_examples=60, deadline=None)
def test_any_size_gives_crops_of_the_encoders_size(width: int, height: int, name: str) -> None:
    crops = view(name).cut(np.full((height, width, 3), 77, np.uint8), SPEC)
    assert crops.pixels.shape == (view(name).count, 224, 224, 3)
    assert crops.pixels.dtype == np.uint8
    assert (crops.pixels == 77).all()
    assert (crops.upscaled > 1) == (min(width, height) < 224)


def test_a_long_strip_does_not_explode() -> None:
    assert view("resize").cut(np.zeros((1, 100_000, 3), np.uint8), SPEC).pixels.shape == (1, 224, 224, 3)


def test_views_do_not_change_their_input() -> None:
    pixels = picture(0)
    before = pixels.copy()
    for name in ("native", "resize", "five"):
        view(name).cut(pixels, SPEC)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("bad", ["nativ", "grid-1", "grid-99", "grid-x"])
def test_unknown_views(bad: str) -> None:
    with pytest.raises(UnknownNameError, match="no view is called"):
        view(bad)


def test_normalise_is_the_textbook_formula() -> None:
    crops = np.stack([picture(0, 224, 224), picture(1, 224, 224)])
    expected = (crops / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    got = SPEC.normalise(crops)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_digest_changes_with_every_field() -> None:
    base = PreprocessSpec(224, (0, 0, 0), (1, 1, 1))
    others = [
        PreprocessSpec(225, (0, 0, 0), (1, 1, 1)),
        PreprocessSpec(224, (0, 0, 0.1), (1, 1, 1)),
        PreprocessSpec(224, (0, 0, 0), (1, 1, 2)),
        PreprocessSpec(224, (0, 0, 0), (1, 1, 1), "bilinear"),
    ]
    digests = {s.digest("r") for s in (base, *others)} | {base.digest("other recipe")}
    assert len(digests) == 6


CHAINS = [
    "jpeg:60",
    "webp:80",
    "blur:1.5",
    "scale:0.5",
    "limit:100",
    "square:96",
    "noise:4",
    "reencode:1",
    "augment:1",
    "limit:200+jpeg:40+noise:2",
]


@pytest.mark.parametrize("chain", CHAINS)
def test_perturbations_are_pure(chain: str) -> None:
    pixels = picture(0)
    before = pixels.copy()
    first, second = perturbation(chain)(pixels), perturbation(chain)(pixels)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(pixels, before)
    assert first.dtype == np.uint8
    assert first.shape != pixels.shape or (first != pixels).any()


def test_clean_changes_nothing() -> None:
    pixels = picture(0)
    assert perturbation("clean")(pixels) is pixels


def test_lower_quality_is_further_away() -> None:
    pixels = picture(0).astype(int)
    errors = [np.abs(perturbation(f"jpeg:{q}")(picture(0)) - pixels).mean() for q in (95, 70, 40, 10)]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]


def test_limit_never_scales_up() -> None:
    assert perturbation("limit:64")(picture(0, 320, 256)).shape == (51, 64, 3)
    assert perturbation("limit:9999")(picture(0, 320, 256)).shape == (256, 320, 3)


def test_noise_differs_by_content_and_has_its_strength() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = perturbation("noise:5")(grey).astype(int) - 128
    assert 4.8 < noise.std() < 5.2
    other = perturbation("noise:5")(grey + 1).astype(int) - 129
    assert (noise != other).mean() > 0.5
    assert (perturbation("noise:5", seed=1)(grey) == perturbation("noise:5", seed=1)(grey)).all()


def test_augment_draws_differ_and_leave_something_to_see() -> None:
    shapes = {perturbation(f"augment:{i}")(picture(0)).shape[:2] for i in range(1, 13)}
    assert len(shapes) > 4
    strip = np.random.default_rng(0).integers(0, 256, (3, 90, 3), dtype=np.uint8)
    assert all(perturbation(f"augment:{i}")(strip).size for i in range(1, 30))


def test_reencode_draws_differ() -> None:
    shapes = {perturbation(f"reencode:{i}")(picture(0)).shape[:2] for i in range(1, 9)}
    assert len(shapes) > 1
    assert (256, 320) in shapes


@pytest.mark.parametrize("bad", ["jpeg:0", "jpeg:101", "jpeg:x", "jpeg", "noise:-1", "blur:nan", "jpeg:60.5"])
def test_bad_values(bad: str) -> None:
    with pytest.raises(UsageError):
        perturbation(bad)(picture(0))


def test_pictures_are_not_scaled_up_without_end() -> None:
    grow = perturbation("scale:16+scale:16")
    assert grow(picture(0, 8, 4)).shape == (1024, 2048, 3)
    with pytest.raises(UnsupportedImageError, match=r"10240 x 5120 pixels times 16 .* 163840 x 81920.* 200 megapixels"):
        perturbation("scale:16+scale:16+scale:16")(picture(0, 40, 20))


def test_unknown_perturbation_proposes_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean jpeg"):
        perturbation("jpg:60")


def test_what_an_encoder_cannot_store_is_an_input_error() -> None:
    with pytest.raises(UnsupportedImageError, match="20000 x 2 pixels cannot be stored as WEBP"):
        perturbation("webp:80")(np.zeros((2, 20_000, 3), np.uint8))


@pytest.mark.parametrize("value", [0, 255])
def test_noise_ends_where_bytes_end(value: int) -> None:
    got = perturbation("noise:2")(np.full((40, 40, 3), value, np.uint8))
    assert 0.4 < (got == value).mean() < 0.75  # all that would have gone beyond, and what is rounded to it
    assert np.abs(got.astype(int) - value).max() < 20


@pytest.mark.parametrize("value", [0, 127, 255])
@pytest.mark.parametrize("sigma", ["0.3", "1", "7.7"])
def test_blur_leaves_what_is_constant(value: int, sigma: str) -> None:
    flat = np.full((61, 47, 3), value, np.uint8)
    assert np.array_equal(perturbation(f"blur:{sigma}")(flat), flat)


def test_blur_of_an_impulse_is_the_gaussian() -> None:
    impulse = np.zeros((41, 41, 3), np.uint8)
    impulse[20, 20] = 255
    x = np.arange(-20, 21)
    gaussian = np.exp(-(x**2) / (2 * 1.5**2))
    gaussian /= gaussian.sum()
    expected = 255 * np.outer(gaussian, gaussian)
    assert np.abs(perturbation("blur:1.5")(impulse)[..., 1] - expected).max() <= 1


def test_scale_and_webp_are_pillows() -> None:
    pixels = picture(2, 100, 60)
    assert perturbation("scale:0.5")(pixels).shape == (30, 50, 3)
    expected = Image.fromarray(pixels).resize((50, 30), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(perturbation("scale:0.5")(pixels), np.asarray(expected))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=40)
    np.testing.assert_array_equal(perturbation("webp:40")(pixels), np.asarray(Image.open(buffer).convert("RGB")))


def test_wide_pictures_are_resampled_in_bands_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_BAND_PIXELS", 9000)
    rng = np.random.default_rng(0)
    for height, width, name in (
        (700, 1300, "bicubic"),
        (1500, 900, "bicubic"),
        (97, 2011, "bilinear"),
        (1, 900, "bicubic"),
    ):
        spec = PreprocessSpec(224, (0, 0, 0), (1, 1, 1), name)
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)[:, :, :3]
        side = min(height, width)
        left, top = round((width - side) / 2), round((height - side) / 2)
        whole = Image.fromarray(pixels).resize((224, 224), spec.resampling, box=(left, top, left + side, top + side))
        np.testing.assert_array_equal(view("resize").cut(pixels, spec).pixels[0], np.asarray(whole))


def test_a_view_says_its_name_pool_and_count() -> None:
    found = [(v.name, v.pool, v.count) for v in map(view, ["native", "resize", "five", "grid-2", "grid-8"])]
    assert found == [
        ("native", "mean", 1), ("resize", "mean", 1), ("five", "mean", 5), ("grid-2", "mean", 4),
        ("grid-8", "mean", 64),
    ]  # fmt: skip
    with pytest.raises(UnknownNameError, match="no view is called 'grid-9'"):
        view("grid-9")


def test_a_grid_goes_from_corner_to_corner_row_by_row() -> None:
    pixels = picture(4, 500, 400)
    grid = view("grid-2").cut(pixels, SPEC).pixels
    corners = [pixels[:224, :224], pixels[:224, -224:], pixels[-224:, :224], pixels[-224:, -224:]]
    np.testing.assert_array_equal(grid, np.stack(corners))
    np.testing.assert_array_equal(view("five").cut(pixels, SPEC).pixels[0], view("native").cut(pixels, SPEC).pixels[0])


def test_how_far_a_picture_was_scaled_up_is_on_record() -> None:
    small, exact, large = (view("resize").cut(picture(0, w, h), SPEC) for w, h in ((300, 112), (300, 224), (500, 448)))
    assert (small.upscaled, exact.upscaled, large.upscaled) == (2, 1, 1)
    assert small.notes[0].figures == {"factor": 2.0}
    assert exact.notes == large.notes == ()


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no interpolation is called 'bicubc'\. Did you mean bicubic"):
        PreprocessSpec(224, (0, 0, 0), (1, 1, 1), "bicubc")
    assert PreprocessSpec(224, (0, 0, 0), (1, 1, 1)).resampling is Image.Resampling.BICUBIC
    assert PreprocessSpec(224, (0, 0, 0), (1, 1, 1), "bilinear").resampling is Image.Resampling.BILINEAR
    assert len(SPEC.digest("r")) == 16


def test_crops_are_not_scaled_up_unless_it_is_said() -> None:
    assert Crops(np.zeros((1, 8, 8, 3), np.uint8)).notes == ()
    (note,) = Crops(np.zeros((1, 8, 8, 3), np.uint8), 1.5).notes
    assert (note.code, note.text, note.figures) == (
        "upscaled", "upscaled 1.50x: smaller than the encoder's input", {"factor": 1.5},
    )  # fmt: skip


def test_an_unknown_view_is_told_the_nearest_names() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no view is called 'grid-1'\. Did you mean grid-8 or grid-7 or grid-6\?"
    ):
        view("grid-1")
    with pytest.raises(UnknownNameError, match="grid-9"):
        view("grid-9")


def test_a_view_is_what_its_name_says_for_good() -> None:
    """Views are shared by all who ask for them by name."""
    with pytest.raises(FrozenInstanceError):
        view("native").count = 2  # type: ignore[misc]
