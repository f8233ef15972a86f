from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageOps, PngImagePlugin

from conftest import PEAK_MEMORY, encoded, picture
from univfd import images
from univfd.errors import (
    EmptyFileError,
    FileAccessError,
    InputError,
    MissingExtraError,
    NotAnImageError,
    TooManyPixelsError,
    TruncatedImageError,
    UnsupportedImageError,
)
from univfd.images import decode, open_image
from univfd.types import ImageRef

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 90}, "GIF": {}}


def ref(data: bytes) -> ImageRef:
    return ImageRef("x", data)


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_give_the_very_pixels(format: str) -> None:
    pixels = picture(1)
    decoded = decode(ref(encoded(pixels, format, **LOSSLESS[format])))
    assert decoded.format == format
    np.testing.assert_array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_give_nearly_the_pixels(format: str) -> None:
    pixels = picture(1)
    got = decode(ref(encoded(pixels, format, **LOSSY[format]))).pixels
    assert got.shape == pixels.shape
    assert np.abs(got.astype(int) - pixels).mean() < 12


def test_heic() -> None:
    import pillow_heif

    pixels = picture(1)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=90)
    decoded = decode(ref(buffer.getvalue()))
    assert decoded.format == "HEIF"
    assert np.abs(decoded.pixels.astype(int) - pixels).mean() < 8


def test_exif_orientation_is_applied() -> None:
    pixels = picture(2, 40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown rotated by 90 degrees clockwise
    got = decode(ref(encoded(pixels, "PNG", exif=exif))).pixels
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:2, :, 3] = 255
    rgba[2:, :, 3] = 51  # a fifth
    got = decode(ref(encoded(rgba, "PNG"))).pixels
    assert got[0, 0].tolist() == [200, 0, 0]
    assert got[3, 0].tolist() == [244, 204, 204]
    rgba[..., 3] = 0
    assert (decode(ref(encoded(rgba, "PNG"))).pixels == 255).all()


def test_a_palette_with_a_channel_of_alpha_is_laid_over_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 51]], np.uint8)))
    assert image.mode == "PA"
    assert images.to_rgb(image).tolist() == [[[10, 20, 30], [212, 214, 216]]]


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_mode_that_pillow_cannot_convert_is_named(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise error("no such conversion")

    image = Image.new("CMYK", (2, 2))
    monkeypatch.setattr(Image.Image, "convert", refused)
    with pytest.raises(UnsupportedImageError, match="no conversion from mode 'CMYK' to RGB: no such conversion"):
        images.to_rgb(image)


@pytest.mark.parametrize(("large", "bytes_a_pixel"), [(47 * 31, 4), (47 * 31 + 1, 3)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_large_pictures_stay_in_the_memory_that_they_were_decoded_into(
    format: str, large: int, bytes_a_pixel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_LARGE_PIXELS", large)
    got = decode(ref(encoded(picture(0, 47, 31), format))).pixels
    assert got.shape == (31, 47, 3)
    assert got.strides == (47 * bytes_a_pixel, bytes_a_pixel, 1)


def test_a_photograph_with_a_preview_behind_it_is_one_picture() -> None:
    buffer = io.BytesIO()
    whole, preview = (Image.fromarray(picture(i, 40, 30)) for i in range(2))
    whole.save(buffer, "MPO", save_all=True, append_images=[preview])
    got = decode(ref(buffer.getvalue()))
    assert (got.format, got.notes) == ("JPEG", ())
    assert got.pixels.shape == (30, 40, 3)


def test_damage_behind_the_first_frame_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(image: Image.Image) -> bool:
        raise SyntaxError("broken chunk")

    data = encoded(picture(0, 40, 30), "GIF")
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "is_animated", property(damaged))
    assert decode(ref(data)).notes == ()


def test_palette_with_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    got = decode(ref(buffer.getvalue())).pixels
    assert got[0, 0].tolist() == [10, 20, 30]
    assert got[0, 1].tolist() == [255, 255, 255]


def test_cmyk_jpeg() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(3)).convert("CMYK").save(buffer, "JPEG", quality=95)
    got = decode(ref(buffer.getvalue())).pixels
    assert np.abs(got.astype(int) - picture(3)).mean() < 6


def test_16_bit_grey_keeps_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    assert decode(ref(buffer.getvalue())).pixels[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [255] * 3]


def test_grey_is_repeated() -> None:
    got = decode(ref(encoded(np.array([[7, 200]], np.uint8), "PNG"))).pixels
    assert got.tolist() == [[[7, 7, 7], [200, 200, 200]]]


def test_float_samples_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 3), np.float32)).save(buffer, "TIFF")
    with pytest.raises(UnsupportedImageError, match="no defined range"):
        decode(ref(buffer.getvalue()))


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_frame_of_several(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )
    decoded = decode(ref(buffer.getvalue()))
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]
    assert [(n.code, n.text) for n in decoded.notes] == [("first-frame", "only the first of several frames")]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
def test_truncated_is_an_error_never_a_part_of_a_picture(format: str, part: float) -> None:
    data = encoded(picture(4), format)
    with pytest.raises(TruncatedImageError):
        decode(ref(data[: int(len(data) * part)]))


def test_progressive_jpeg_truncated() -> None:
    data = encoded(picture(4), "JPEG", progressive=True)
    with pytest.raises(TruncatedImageError):
        decode(ref(data[: len(data) // 2]))


def test_empty_text_and_missing() -> None:
    with pytest.raises(EmptyFileError, match="0 bytes"):
        decode(ref(b""))
    with pytest.raises(NotAnImageError, match="expected JPEG"):
        decode(ref(b"hello, I am a text"))
    with pytest.raises(FileAccessError, match="check the path"):
        decode(ImageRef("gone", Path("/nonexistent/gone.jpg")))


def test_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    big = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(big, "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(TooManyPixelsError, match="900 megapixels; the limit is 200"):
        decode(ref(big.getvalue()))


def test_pixel_limit_is_a_parameter_and_leaves_pillow_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(picture(5, 100, 100), "PNG")
    assert decode(ref(data), max_pixels=10_000).pixels.shape == (100, 100, 3)
    with pytest.raises(TooManyPixelsError):
        decode(ref(data), max_pixels=9_999)
    assert before == Image.MAX_IMAGE_PIXELS


def test_between_pillows_limit_and_ours() -> None:
    """150 MP is over Pillow's own warning (89 MP) and under ours (200 MP): read, without a warning."""
    big = io.BytesIO()
    Image.new("1", (15_000, 10_000), 1).save(big, "PNG")
    assert decode(ref(big.getvalue())).pixels.shape == (10_000, 15_000, 3)


def test_a_jpeg_is_decoded_at_full_size() -> None:
    assert decode(ref(encoded(picture(6, 1600, 1200), "JPEG"))).pixels.shape == (1200, 1600, 3)


def test_an_animation_cut_inside_its_second_frame() -> None:
    frames = [Image.fromarray(picture(i, 64, 64)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    data = buffer.getvalue()
    for end in range(len(data) // 3, len(data), 41):
        with contextlib.suppress(InputError):
            assert decode(ref(data[:end])).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_damaged_bytes_give_a_picture_or_an_error_of_ours(format: str) -> None:
    """Seeded flips and cuts: nothing but the documented errors may come out."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif.tobytes()} if format in {"JPEG", "PNG", "WEBP"} else {}
    whole = encoded(picture(5, 80, 60), format, **options)
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(250):
        data = bytearray(whole)
        for at in rng.integers(0, len(data) if rng.random() < 0.5 else 200, 4):
            data[at % len(data)] = rng.integers(0, 256)
        if rng.random() < 0.3:
            data = data[: int(rng.integers(1, len(data)))]
        try:
            outcomes.add(decode(ref(bytes(data))).format)
        except InputError as error:
            outcomes.add(error.code)
    assert len(outcomes) > 1


def test_pixels_and_pillow_images_obey_the_limit() -> None:
    pixels = picture(0, 40, 30)
    for source in (pixels, Image.fromarray(pixels)):
        with pytest.raises(TooManyPixelsError):
            decode(ImageRef("x", source), max_pixels=1199)
    with pytest.raises(UnsupportedImageError, match="nothing to see"):
        decode(ImageRef("x", Image.new("RGB", (0, 5))))


def by_pillow(data: bytes) -> np.ndarray:
    """The rule of `images`, on whole pictures and with Pillow's own turning."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if "transparency" in image.info or image.mode in {"LA", "RGBA", "PA"}:
        white = Image.new("RGBA", image.size, (255,) * 4)
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("large", [0, 1 << 30])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_bands_and_turning_in_place_change_nothing(
    mode: str, format: str, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_BAND_PIXELS", 1000)
    monkeypatch.setattr(images, "_LARGE_PIXELS", large)
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels if mode in {"RGBA", "LA"} else pixels[..., :3]).convert(mode)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        buffer = io.BytesIO()
        try:
            image.save(buffer, format, exif=exif)
        except (OSError, ValueError):
            assert (mode, format) not in {
                ("RGB", "JPEG"),
                ("RGBA", "PNG"),
                ("CMYK", "JPEG"),
                ("P", "PNG"),
                ("L", "JPEG"),
            }
            return
        got = decode(ref(buffer.getvalue())).pixels
        np.testing.assert_array_equal(got, by_pillow(buffer.getvalue()))
        assert got.flags.c_contiguous or not large


@pytest.mark.parametrize("large", [0, 1 << 30])
def test_a_colour_that_is_declared_transparent_is_white(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_LARGE_PIXELS", large)
    pixels = picture(3, 60, 40) // 64 * 64
    data = encoded(pixels, "PNG", transparency=tuple(int(v) for v in pixels[5, 5]))
    got = decode(ref(data)).pixels
    np.testing.assert_array_equal(got, by_pillow(data))
    assert (got[5, 5] == 255).all()


def test_another_pillow_takes_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(1), "PNG")
    monkeypatch.setattr(images, "_LARGE_PIXELS", 0)
    monkeypatch.setattr(Image.core, "map_buffer", None)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode(ref(data)).pixels, picture(1))


PEAK = f"""
{PEAK_MEMORY}
from univfd.conditions import conditions
from univfd.images import decode
from univfd.types import ImageRef
from univfd.views import PreprocessSpec, view

def see(path):
    decoded = decode(ImageRef(path, open(path, "rb").read()))
    view(sys.argv[3]).cut(decoded.pixels, PreprocessSpec(224, (0, 0, 0), (1, 1, 1)))
    conditions(decoded.pixels, decoded.quantisation)
    return 1024 * peak_kib()

before = see(sys.argv[1])
print(see(sys.argv[2]) - before)
"""


@pytest.mark.parametrize("view", ["native", "resize"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_picture_is_in_memory_once(format: str, view: str, tmp_path: Path) -> None:
    """Pillow has four bytes a pixel; anything full-size beside that would be three more at least."""
    pixels = np.tile(picture(1, 1000, 500), (10, 5, 1))
    Image.fromarray(pixels[:500, :1000]).save(tmp_path / "small", format)
    Image.fromarray(pixels).save(tmp_path / "large", format, **({"compress_level": 1} if format == "PNG" else {}))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large"), view]
    raised = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    file = (tmp_path / "large").stat().st_size
    assert raised < 4.5 * pixels.shape[0] * pixels.shape[1] + 1.5 * file


def test_pillow_images_are_taken_by_the_same_rule() -> None:
    pixels = picture(8, 40, 30)
    given = decode(ImageRef("x", Image.fromarray(pixels)))
    np.testing.assert_array_equal(given.pixels, pixels)
    assert (given.format, given.sha256, given.notes, given.quantisation) == ("", "", (), ())
    opened = decode(ImageRef("x", Image.open(io.BytesIO(encoded(pixels, "JPEG")))))
    assert opened.format == "JPEG"
    assert [len(table) for table in opened.quantisation] == [64, 64]
    assert opened.quantisation == decode(ref(encoded(pixels, "JPEG"))).quantisation


@pytest.mark.parametrize("step", ["load", "getexif"])
def test_want_of_memory_is_not_damage(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: object, **options: object) -> None:
        raise MemoryError

    data = encoded(picture(0, 40, 30), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, step, no_memory)
    with pytest.raises(MemoryError):
        decode(ref(data))


def test_want_of_memory_while_the_header_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*args: object, **options: object) -> None:
        raise MemoryError

    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(MemoryError):
        decode(ref(b"anything"))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_exif_that_cannot_be_parsed_states_no_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(image: Image.Image) -> None:
        raise ValueError("not EXIF")

    pixels = picture(0, 40, 30)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "getexif", damaged)
    np.testing.assert_array_equal(decode(ref(encoded(pixels, "PNG"))).pixels, pixels)


def test_heic_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'univfd\[heic\]'"):
        decode(ref(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)))


def test_the_size_is_told_before_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def load(image: Image.Image) -> None:
        assert told == [1200]
        raise OSError("stop here")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(TruncatedImageError, match="stop here"):
        decode(ref(encoded(picture(0, 40, 30), "PNG")), on_size=told.append)


def test_the_limit_of_pixels_is_told_in_megapixels() -> None:
    assert images.DEFAULT_MAX_PIXELS == 200_000_000
    with pytest.raises(TooManyPixelsError, match=r"^30000 x 9000 = 270 megapixels; the limit is 200\. Raise it"):
        images.check_size(30_000, 9_000, images.DEFAULT_MAX_PIXELS)
    images.check_size(20_000, 10_000, images.DEFAULT_MAX_PIXELS)
    images.check_size(1, 1, 1)
    for width, height in ((0, 5), (5, 0)):
        with pytest.raises(UnsupportedImageError, match=f"{width} x {height} pixels: there is nothing to see"):
            images.check_size(width, height, 100)


def test_an_array_is_measured_by_both_sides() -> None:
    with pytest.raises(TooManyPixelsError, match=r"^7 x 5 = "):
        decode(ImageRef("array", np.zeros((5, 7, 3), np.uint8)), max_pixels=34)
    assert decode(ImageRef("array", np.zeros((5, 7, 3), np.uint8)), max_pixels=35).pixels.shape == (5, 7, 3)


@pytest.mark.parametrize(("width", "height"), [(300, 515), (255, 256), (1, 1)])
def test_a_gif_is_measured_by_its_header_before_pillow_takes_memory_for_it(width: int, height: int) -> None:
    buffer = io.BytesIO()
    Image.new("P", (1, 1)).save(buffer, "GIF")
    data = bytearray(buffer.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    assert open_image(bytes(data), max_pixels=width * height).size == (width, height)
    if width > 1:
        with pytest.raises(TooManyPixelsError, match=f"{width} x {height}"):
            open_image(bytes(data), max_pixels=width * height - 1)
