"""Small JPEG pictures of images, for a person who looks at the evidence."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

from PIL import Image

from ..backbones import cpus
from ..errors import InputError, MissingExtraError
from ..images import DEFAULT_MAX_PIXELS, decode
from ..pipeline import ordered_map
from ..types import ImageRef

SIDE = 128
_QUALITY = 80


def thumbnail(ref: ImageRef, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes | None:
    """A JPEG of at most `SIDE` by `SIDE` pixels; None where the image cannot be read (any more)."""
    try:
        pixels = decode(ref, max_pixels=max_pixels).pixels
    except (InputError, MissingExtraError, MemoryError):
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def thumbnails(
    refs: Sequence[ImageRef], *, workers: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> list[bytes | None]:
    """One of each image, in order."""
    workers = workers or cpus()
    return list(ordered_map(partial(thumbnail, max_pixels=max_pixels), refs, workers=workers, ahead=4 * workers))
