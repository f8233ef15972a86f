"""Pictures: header, pixels, quantisation tables, metadata, degradations, and the way onto a page."""

from __future__ import annotations

from harness import pictures, refused
from univfd.conditions import conditions, jpeg_quality
from univfd.images import decode
from univfd.metadata import features, read_metadata
from univfd.types import ImageRef

_MOST = 2_000_000  # pixels: what is larger is refused, else the fuzzer would do nothing but unpack


def seeds() -> list[bytes]:
    """A picture of each format and of several pixel layouts."""
    return list(pictures().values())


def one(data: bytes) -> None:
    """Decode it."""
    ref = ImageRef("x", data)
    with refused():
        decoded = decode(ref, max_pixels=_MOST)
        assert decoded.pixels.ndim == 3
        assert decoded.pixels.shape[2] == 3
        if decoded.quantisation:
            jpeg_quality(decoded.quantisation[0])
        conditions(decoded.pixels, decoded.quantisation)
    with refused():
        found = read_metadata(ref, max_pixels=_MOST)
        features([found, found, found])
        assert found.quality is None or found.quality == found.quality
