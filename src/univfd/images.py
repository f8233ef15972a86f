"""`ImageRef` -> RGB pixels, by one documented rule.

The rule: the first frame; EXIF orientation applied; transparency laid over white; palette, grey, CMYK, YCbCr and
16-bit grey converted to 8-bit RGB (16-bit keeps the high byte, as libpng does for 16-bit colour); ICC profiles are
not applied, since the encoders were trained on untagged pixels. A truncated, damaged, empty or oversized file is an
error of its own class, never a partial picture, as far as its decoder notices: damage inside a JPEG's data, and one
that was cut and ended anew, pass libjpeg as grey or shifted parts. A JPEG is always decoded at full size.

A large picture is in memory once: Pillow decodes into an array of this module, conversions are done in place, in bands,
and turning is a matter of strides. Its pixels are therefore not always contiguous.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (  # the plug-ins register themselves: Image.open knows only formats whose module is loaded
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from .errors import (
    EmptyFileError,
    MissingExtraError,
    NotAnImageError,
    TooManyPixelsError,
    TruncatedImageError,
    UnsupportedImageError,
)
from .remarks import Remark
from .sources import read_bytes, sniff
from .types import ImageRef, Pixels

DEFAULT_MAX_PIXELS = 200_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")

_GIF_HEAD = 13  # bytes: signature, width, height, and three more
_FIRST_FRAME = Remark("first-frame", "only the first of several frames")
_DECODED_IN_PLACE = frozenset(["JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP"])
_FOUR_BYTES = frozenset(["RGB", "RGBA", "CMYK"])
_BAND_PIXELS = 1 << 20
_LARGE_PIXELS = 16_000_000  # below, rows of three bytes side by side, which all that follows reads faster

_open_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: RGB `(H, W, 3)` uint8, orientation applied.
        format: of the file (`JPEG`, `PNG` ...); empty for pixels given directly.
        sha256: of the encoded bytes; empty for pixels given directly.
        notes: what was done that a reader of a verdict should know.
        quantisation: the tables of a JPEG file, 64 values each, luminance first; empty for others.
    """

    pixels: Pixels
    format: str
    sha256: str
    notes: tuple[Remark, ...] = ()
    quantisation: tuple[tuple[int, ...], ...] = ()


def decode(
    ref: ImageRef, *, max_pixels: int = DEFAULT_MAX_PIXELS, on_size: Callable[[int], object] = lambda _: None
) -> Decoded:
    """Read one image.

    Args:
        ref: the image.
        max_pixels: limit on width x height, checked before any pixel is decoded.
        on_size: called before any pixel is decoded with width x height, times what its decoder takes over four bytes a
            pixel.

    Raises:
        FileAccessError: it cannot be read.
        EmptyFileError, NotAnImageError, TruncatedImageError, UnsupportedImageError, TooManyPixelsError: see each.
        MissingExtraError: HEIC without the extra `heic`.
    """
    if isinstance(ref.source, np.ndarray):
        check_size(ref.source.shape[1], ref.source.shape[0], max_pixels)
        return Decoded(ref.source, "", "")
    if isinstance(ref.source, Image.Image):
        check_size(*ref.source.size, max_pixels)
        return Decoded(to_rgb(_load(ref.source)), format_of(ref.source), "", (), quantisation(ref.source))
    data = read_bytes(ref)
    if not data:
        raise EmptyFileError("the file is empty (0 bytes); expected an image")
    with open_image(data, max_pixels=max_pixels) as image:
        check_size(*image.size, max_pixels)
        on_size(image.size[0] * image.size[1] * _weight(image))
        notes = (_FIRST_FRAME,) if _has_more_frames(image) else ()
        pixels = _decoded(image)
        return Decoded(pixels, format_of(image), hashlib.sha256(data).hexdigest(), notes, quantisation(image))


def format_of(image: Image.Image) -> str:
    """Name of an opened image's format: a JPEG with further pictures behind it (`MPO`) is a JPEG; empty: none."""
    return "JPEG" if image.format == "MPO" else image.format or ""


def _weight(image: Image.Image) -> int:
    """How many times four bytes a pixel decoding takes: libjpeg keeps all coefficients of a progressive JPEG."""
    if image.format in {"JPEG", "MPO"} and image.info.get("progressive"):
        return 3
    return 2 if image.format == "TIFF" else 1


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture by what its header says.

    Raises:
        UnsupportedImageError: a side is 0.
        TooManyPixelsError: over the limit.
    """
    if width < 1 or height < 1:
        raise UnsupportedImageError(f"{width} x {height} pixels: there is nothing to see")
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{width} x {height} = {width * height / 1e6:.0f} megapixels; the limit is {max_pixels / 1e6:.0f}. "
            "Raise it (--max-pixels) if you trust the file"
        )


def open_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Parse the header of an encoded image; its pixels are not decoded, and its size is left to `check_size`.

    Args:
        data: the file.
        max_pixels: of a GIF, for which Pillow takes as many bytes, and fills them, when it opens the file.

    Raises:
        NotAnImageError, TruncatedImageError: the bytes are no image, or damaged.
        TooManyPixelsError: a GIF over the limit.
        MissingExtraError: HEIC without the extra `heic`.
    """
    formats: tuple[str, ...] = FORMATS
    format, most = sniff(data[:16]), None
    if format == "HEIF":
        _register_heif()
        formats = (*FORMATS, "HEIF")
    elif format == "GIF" and len(data) >= _GIF_HEAD:
        check_size(max(1, data[6] | data[7] << 8), max(1, data[8] | data[9] << 8), max_pixels)
        most = max_pixels  # a frame may be larger than the screen that the header speaks of
    try:
        # Pillow's own pixel limit is one global for the whole process; it is lifted just while the header is
        # parsed, because our own limit is checked right after and holds for every format.
        with _open_lock:
            theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, most
            try:
                return Image.open(io.BytesIO(data), formats=formats)
            finally:
                Image.MAX_IMAGE_PIXELS = theirs
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"a frame of it is over the limit of {max_pixels / 1e6:.0f} megapixels") from error
    except Exception as error:
        # Pillow's parsers raise a dozen unrelated types on damaged data (here, in _load and in _upright).
        raise TruncatedImageError(f"the image header is damaged: {error}") from error


def _unidentified(data: bytes) -> NotAnImageError | TruncatedImageError:
    if format := sniff(data[:16]):
        return TruncatedImageError(f"starts like {format} but its header is cut off or damaged ({len(data)} bytes)")
    return NotAnImageError(
        f"not an image in a format that is read here (starts with {data[:8]!r}); expected {', '.join(FORMATS)} or HEIC"
    )


def _register_heif() -> None:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ModuleNotFoundError as error:
        raise MissingExtraError("HEIC images need pillow-heif: pip install 'univfd[heic]'") from error


def _has_more_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # a photograph with a preview or a second lens's view behind it
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # looking for a second frame reads on in the file; damage is reported by _load
        return False


def _load(image: Image.Image) -> Image.Image:
    try:
        image.seek(0)
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise TruncatedImageError(f"the image data end early or are damaged: {error}") from error
    return image


def to_rgb(image: Image.Image) -> Pixels:
    """A Pillow image as RGB `(H, W, 3)` uint8 by the rule of this module.

    Raises:
        UnsupportedImageError: float or 32-bit integer samples (their range is not defined), or a colour space
            that Pillow cannot convert.
    """
    if image.mode in {"I", "F"}:
        raise UnsupportedImageError(
            f"samples of mode {image.mode!r} (32 bits) have no defined range; expected 8 or 16 bits a channel"
        )
    width, height = image.size
    shift, white_is_zero = _samples_of(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top, bottom in _bands(height, width):
        pixels[top:bottom] = _band_to_rgb(image.crop((0, top, width, bottom)), shift)
    return _upright(255 - pixels if white_is_zero else pixels, image)


def _decoded(image: Image.Image) -> Pixels:
    """Decode an opened image; where Pillow lets it, into memory that is the result's own."""
    buffer = _lay_under(image)
    laid = image.im if buffer is not None else None
    if buffer is None or _load(image).im is not laid:
        return to_rgb(_load(image))
    if image.mode != "RGB" or "transparency" in image.info:
        width, height = image.size
        for top, bottom in _bands(height, width):
            buffer[top:bottom, :, :3] = _band_to_rgb(image.crop((0, top, width, bottom)))
    return _upright(buffer[:, :, :3], image)


def _lay_under(image: Image.Image) -> Pixels | None:
    """Memory `(H, W, 4)` that Pillow will decode into, or None where it must take its own.

    Pillow keeps an image's core where there is one before decoding, and has cores that are laid over a buffer (for
    files that are mapped into memory). Whoever uses this checks that it still was so afterwards.
    """
    if not _is_large(image) or image.format not in _DECODED_IN_PLACE or image.mode not in _FOUR_BYTES:
        return None
    buffer = np.zeros((*image.size[::-1], 4), np.uint8)
    try:
        image.im = Image.core.map_buffer(  # type: ignore[attr-defined]
            buffer, image.size, "raw", 0, (image.mode, 0, 1)
        )
    except (AttributeError, TypeError, ValueError):  # of another Pillow: then in the ordinary way
        return None
    return buffer


def _is_large(image: Image.Image) -> bool:
    return image.size[0] * image.size[1] >= _LARGE_PIXELS


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First row, and row behind the last, of bands of about a megapixel."""
    rows = max(1, _BAND_PIXELS // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _samples_of(image: Image.Image) -> tuple[int, bool]:
    """Bits below the upper eight of deep grey samples, and whether 0 is white: Pillow leaves both to the reader."""
    if not image.mode.startswith("I;16") or image.format != "TIFF":
        return 8, False
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))
    deep = bits[0] if isinstance(bits, tuple) and bits and isinstance(bits[0], int) else 16
    return min(max(deep, 8), 16) - 8, tags.get(ExifTags.Base.PhotometricInterpretation) == 0


def _band_to_rgb(band: Image.Image, shift: int = 8) -> Pixels:
    """Some rows, by the rule of this module; `shift` is for deep grey samples."""
    clear = band.info.get("transparency")
    if band.mode.startswith("I;16"):
        samples = np.asarray(band).astype(np.uint16)
        high = samples >> shift
        return _grey(np.where(samples == clear, 255, high) if isinstance(clear, int) else high)
    if isinstance(clear, tuple) and max(clear, default=0) > 255:  # of 16 bits, where Pillow keeps the high byte
        band.info["transparency"] = tuple(c >> 8 for c in clear)
    try:
        if band.mode == "PA" or "transparency" in band.info or band.mode in {"LA", "La", "RGBA", "RGBa"}:
            rgba = band.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            white.alpha_composite(rgba)
            band = white
        return np.asarray(band.convert("RGB"))
    except (ValueError, OSError) as error:
        raise UnsupportedImageError(f"no conversion from mode {band.mode!r} to RGB: {error}") from error


def quantisation(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    """The quantisation tables of a JPEG, 64 values each row by row, in the order of their numbers; else empty."""
    tables = getattr(image, "quantization", None)  # only JPEG and MPO have any
    if not isinstance(tables, dict):
        return ()
    return tuple(tuple(tables[key]) for key in sorted(tables) if len(tables[key]) == 64)


def _upright(pixels: Pixels, image: Image.Image) -> Pixels:
    """The pixels turned as the image's EXIF says; without a copy where they are many."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:
        # EXIF that cannot be parsed states no orientation; the pixels themselves are whole.
        return pixels
    turn = _TURNS.get(orientation)
    if turn is None:
        return pixels
    return turn(pixels) if _is_large(image) else np.ascontiguousarray(turn(pixels))


_TURNS: dict[Any, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p[:, ::-1].swapaxes(0, 1),
}
"""By EXIF orientation: what brings the stored rows upright."""


def _grey(values: np.ndarray[Any, Any]) -> Pixels:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
