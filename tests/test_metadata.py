from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from conftest import encoded, picture
from univfd.errors import EmptyFileError, FileAccessError, InputError, NotAnImageError, UnsupportedImageError
from univfd.metadata import Metadata, features, read_metadata, standard_quality
from univfd.types import ImageRef

PIXELS = picture(0, 48, 40)


def meta(data: bytes) -> Metadata:
    return read_metadata(ImageRef("x", data))


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_quality_of_every_standard_table_is_exact(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    found = [meta(saved(image, "JPEG", quality=q)).quality for q in range(1, 101)]
    assert found == list(range(1, 101))


def test_tables_of_16_bits_are_standard_too() -> None:
    """What `cjpeg -quality 10` writes without `-baseline`: 16 * 5 = 80, 99 * 5 = 495 and so on, above 255."""
    with Image.open(io.BytesIO(encoded(PIXELS, quality=50))) as image:
        luma, chroma = (np.array(image.quantization[i]) for i in (0, 1))  # quality 50 is the standard's own table
    assert standard_quality([(luma * 5).tolist(), (chroma * 5).tolist()]) == 10
    assert standard_quality([(luma * 5).tolist(), (chroma * 4).tolist()]) is None


def test_other_tables_have_no_standard_quality_but_an_estimate() -> None:
    with Image.open(io.BytesIO(encoded(PIXELS, quality=70))) as image:
        tables = {k: [min(255, v + (i % 3 == 0)) for i, v in enumerate(t)] for k, t in image.quantization.items()}
    found = meta(saved(Image.fromarray(PIXELS), "JPEG", qtables=tables))
    assert standard_quality(found.tables) is None
    assert found.quality == pytest.approx(70, abs=4)
    assert meta(encoded(PIXELS, "PNG")).quality is None


@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_jpeg_chroma_and_marks(subsampling: int, name: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    plain = meta(encoded(PIXELS, subsampling=subsampling))
    assert (plain.format, plain.width, plain.height, plain.mode, plain.sampling) == ("JPEG", 48, 40, "RGB", name)
    assert plain.marks == ("JFIF header",)
    data = encoded(PIXELS, progressive=True, exif=exif, icc_profile=profile, dpi=(72, 72), comment="c")
    full = meta(data)
    assert full.marks == ("EXIF", "JFIF header", "colour profile", "comment", "progressive", "resolution")
    assert full.bytes == len(data)
    assert full.bytes_per_pixel == len(data) / 48 / 40


def interlaced(png: bytes) -> bytes:
    """The same header with the interlace byte set (the checksum mended)."""
    import zlib

    body = png[12:28] + b"\1"
    return png[:12] + body + struct.pack(">I", zlib.crc32(body)) + png[33:]


def test_png_facts() -> None:
    text = PngInfo()
    text.add_text("parameters", "a cat, Steps: 20")
    image = Image.fromarray(PIXELS)
    assert meta(saved(image, "PNG")).marks == ()
    assert meta(saved(image, "PNG", pnginfo=text)).marks == ("text",)
    assert meta(interlaced(saved(image, "PNG"))).marks == ("progressive",)
    assert meta(saved(image.convert("RGBA"), "PNG")).marks == ("transparency",)
    deep = meta(saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)), "PNG"))
    assert (deep.depth, deep.mode) == (16, "I;16")
    palette = meta(saved(image.quantize(4), "PNG"))
    assert (palette.depth, palette.mode) == (2, "P")


def test_webp_lossless_with_and_without_an_extended_header() -> None:
    image = Image.fromarray(PIXELS)
    assert meta(saved(image, "WEBP")).marks == ()
    assert meta(saved(image, "WEBP", lossless=True)).marks == ("lossless",)
    exif = Image.Exif()
    exif[0x010F] = "maker"
    assert meta(saved(image, "WEBP", lossless=True, exif=exif)).marks == ("EXIF", "lossless")
    assert meta(saved(image, "WEBP", exif=exif)).marks == ("EXIF",)


def test_features_are_numbers_and_words_that_occur() -> None:
    big, small = picture(1, 64, 64), picture(2, 40, 30)
    files = [meta(encoded(big, quality=75)) for _ in range(4)] + [meta(encoded(small, "PNG")) for _ in range(4)]
    files.append(meta(encoded(big, "GIF")))
    table = features(files)
    column = {name: table.values[:, i].tolist() for i, name in enumerate(table.names)}
    assert column["JPEG quality"][:4] == [75] * 4
    assert np.isnan(column["JPEG quality"][4:]).all()
    assert column["PNG"] == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    assert column["size 40 x 30"] == column["PNG"]
    assert column["JPEG tables of quality 75"] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert column["square"] == column["both sides powers of 2"] == [1, 1, 1, 1, 0, 0, 0, 0, 1]
    assert column["width / height"][4] == pytest.approx(4 / 3)
    assert "GIF" not in column  # one file
    assert "bits a channel" not in column  # the same of all
    assert table.flags[table.names.index("PNG")]
    assert not table.flags[table.names.index("bytes")]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for source, error in [
        (b"", EmptyFileError), (b"no image", NotAnImageError), (tmp_path / "gone.png", FileAccessError),
        (PIXELS, UnsupportedImageError), (Image.fromarray(PIXELS), UnsupportedImageError),
    ]:  # fmt: skip
        with pytest.raises(error):
            read_metadata(ImageRef("x", source))
    with pytest.raises(InputError, match="megapixels"):
        read_metadata(ImageRef("x", encoded(PIXELS)), max_pixels=100)


FILES = [
    encoded(PIXELS), encoded(PIXELS, "PNG"), encoded(PIXELS, "WEBP", exif=b"Exif\0\0MM\0*"), encoded(PIXELS, "TIFF"),
    encoded(PIXELS, "AVIF"), encoded(PIXELS, "GIF"), encoded(PIXELS, "BMP"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255))))
def test_damage_is_metadata_or_an_input_error(data: bytes, cut: int, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data[: len(data) - cut])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    try:
        found = meta(bytes(damaged))
    except InputError:
        return
    assert found.bytes == len(damaged)
    assert np.isfinite(found.bytes_per_pixel)
    features([found])
