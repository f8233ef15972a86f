"""Pictures of known verdicts."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, PngImagePlugin

from conftest import encoded, picture

REFUSED = "Failed to load resource"
HOSTILE = "<img src=x onerror=alert(1)>\"'.png"


def graded(grid: float, seed: int = 1, size: tuple[int, int] = (320, 256), format: str = "PNG") -> bytes:
    """A picture with the toy's grid: 0 none (real), 1 whole (fake)."""
    pixels = picture(seed, *size).astype(float)
    marked = pixels.copy()
    marked[::2, ::2] = 255 - marked[::2, ::2] // 2
    return encoded((pixels * (1 - grid) + marked * grid).astype(np.uint8), format)


def generated(text: str) -> bytes:
    """A fake with a generator's text in it."""
    texts, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    texts.add_text("parameters", text)
    Image.open(io.BytesIO(graded(1))).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


FAKE, REAL, BETWEEN = graded(1), graded(0), graded(0.14)
