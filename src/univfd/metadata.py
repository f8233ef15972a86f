"""What a file says of itself without its pixels: format, size, compression, embedded data; and these as numbers.

Only headers are read. Nothing here knows a label: `univfd.audit` asks how well these numbers tell real from fake.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .conditions import STANDARD_LUMINANCE, Tables, jpeg_quality
from .errors import EmptyFileError, UnsupportedImageError
from .images import DEFAULT_MAX_PIXELS, check_size, format_of, open_image, quantisation
from .sources import read_bytes
from .types import FloatArray, ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

# The chrominance table of the JPEG standard (ITU-T T.81, annex K.2), row by row; K.1 is in `conditions`.
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_MARKS = {"exif": "EXIF", "icc_profile": "colour profile", "xmp": "XMP", "XML:com.adobe.xmp": "XMP",
          "comment": "comment", "dpi": "resolution", "jfif": "JFIF header", "adobe": "Adobe header",
          "photoshop": "Photoshop data", "gamma": "gamma", "srgb": "sRGB mark", "mp": "several pictures"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the header of one file says.

    Attributes:
        format: `JPEG`, `PNG`, `WEBP` ...
        width: in pixels as stored, before EXIF orientation.
        height: in pixels as stored.
        bytes: of the whole file.
        mode: Pillow's name of the pixel layout: `RGB`, `RGBA`, `L`, `P`, `CMYK` ...
        depth: bits a channel as stored; of a palette PNG the bits of an index.
        tables: quantisation tables of a JPEG, luminance first; empty for others.
        sampling: chroma subsampling of a JPEG (`4:4:4`, `4:2:2`, `4:2:0` ...); empty for others and for grey ones.
        marks: what else is there, sorted: `EXIF`, `colour profile`, `progressive`, `transparency`, `lossless` ...
        sha256: of the whole file, to know copies by; no feature.
    """

    format: str
    width: int
    height: int
    bytes: int
    mode: str
    depth: int
    tables: Tables
    sampling: str
    marks: tuple[str, ...]
    sha256: str = ""

    @property
    def bytes_per_pixel(self) -> float:
        """File size over picture size."""
        return self.bytes / (self.width * self.height)

    @property
    def quality(self) -> float | None:
        """JPEG quality 1..100 by the Independent JPEG Group's scale: exact for its tables, else the nearest."""
        if not self.tables:
            return None
        exact = standard_quality(self.tables)
        return jpeg_quality(self.tables[0]) if exact is None else exact


def read_metadata(ref: ImageRef, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Metadata:
    """Read one file's header; no pixel is decoded.

    Raises:
        InputError: the file cannot be read, is no image, or its header is damaged; pixels without a file.
        MissingExtraError: HEIC without the extra `heic`.
    """
    if not isinstance(ref.source, bytes) and (isinstance(ref.source, np.ndarray) or hasattr(ref.source, "convert")):
        raise UnsupportedImageError("pixels without a file have no metadata; give the encoded file")
    data = read_bytes(ref)
    if not data:
        raise EmptyFileError("the file is empty (0 bytes); expected an image")
    with open_image(data, max_pixels=max_pixels) as image:
        check_size(*image.size, max_pixels)
        return metadata_of(image, data)


def metadata_of(image: Image, data: bytes) -> Metadata:
    """The same of an image that was just opened from `data`."""
    format = format_of(image)
    marks = {_MARKS[key] for key in image.info if key in _MARKS}
    marks |= {name for name, here in _states(image, format, data) if here}
    depth = data[24] if format == "PNG" and data[12:16] == b"IHDR" else 16 if image.mode.startswith("I;16") else 8
    return Metadata(
        format=format, width=image.width, height=image.height, bytes=len(data), mode=image.mode, depth=depth,
        tables=quantisation(image), sampling=_sampling(image), marks=tuple(sorted(marks)),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


def _states(image: Image, format: str, data: bytes) -> list[tuple[str, bool]]:
    text = format == "PNG" and any(isinstance(v, str) and k not in _MARKS for k, v in image.info.items())
    return [
        ("text", text),
        ("transparency", "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}),
        ("progressive", bool(image.info.get("progressive") or image.info.get("interlace"))),
        ("lossless", format == "WEBP" and _has_chunk(data, b"VP8L")),
    ]


def _has_chunk(data: bytes, name: bytes) -> bool:
    """Whether a RIFF file has a chunk of this name on its first level."""
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == name:
            return True
        size = int(struct.unpack_from("<I", data, at + 4)[0])
        at += 8 + size + size % 2
    return False


def _sampling(image: Image) -> str:
    """`4:2:0` and so on, from the sampling factors of luminance and chrominance."""
    layers: Any = getattr(image, "layer", None)  # (id, horizontal, vertical, table) a component; only JPEG has any
    if not layers or len(layers) != 3:
        return ""
    (_, h, v, _), *chroma = layers
    known = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}
    if any((across, down) != (1, 1) for _, across, down, _ in chroma):
        return " ".join(f"{across}x{down}" for _, across, down, _ in layers)
    return known.get((h, v), f"{h}x{v}")


def standard_quality(tables: Tables) -> int | None:
    """The quality 1..100 whose Independent JPEG Group's tables these are, exactly; None for any others.

    Args:
        tables: luminance first; the others must be the chrominance (or again the luminance) table of that quality.
    """
    for known in _standard_tables().get(tuple(tables[0]) if tables else (), []):
        if all(tuple(table) in known[1:] for table in tables):
            return known[0]
    return None


_Table = tuple[int, ...]


@cache
def _standard_tables() -> dict[_Table, list[tuple[int, _Table, _Table]]]:
    """Luminance table -> each (quality, luminance, chrominance) that has it; at low quality several have one table."""
    found: dict[_Table, list[tuple[int, _Table, _Table]]] = {}
    for limit in (255, 32767):  # of 8-bit and of 16-bit tables
        for quality in range(1, 101):
            percent = 5000 // quality if quality < 50 else 200 - 2 * quality
            luma, chroma = (
                tuple(int(v) for v in np.clip((base * percent + 50) // 100, 1, limit))
                for base in (STANDARD_LUMINANCE, _CHROMA.ravel())
            )
            found.setdefault(luma, []).append((quality, luma, chroma))
    return found


@dataclass(frozen=True, eq=False)
class Features:
    """Metadata of N files as numbers.

    Attributes:
        names: D of them, in words.
        values: `(N, D)` float32; nan where a file has no such thing (a PNG has no JPEG quality).
        flags: which columns are no more than yes (1) or no (0).
    """

    names: tuple[str, ...]
    values: FloatArray
    flags: tuple[bool, ...]


_NUMBERS: dict[str, Callable[[Metadata], float | None]] = {
    "width": lambda m: m.width,
    "height": lambda m: m.height,
    "short side": lambda m: min(m.width, m.height),
    "width / height": lambda m: m.width / m.height,
    "long side / short side": lambda m: max(m.width, m.height) / min(m.width, m.height),
    "pixels": lambda m: m.width * m.height,
    "bytes": lambda m: m.bytes,
    "bytes per pixel": lambda m: m.bytes_per_pixel,
    "JPEG quality": lambda m: m.quality,
    "bits a channel": lambda m: m.depth,
}
_FLAGS: dict[str, Callable[[Metadata], bool]] = {
    "square": lambda m: m.width == m.height,
    "both sides multiples of 8": lambda m: m.width % 8 == m.height % 8 == 0,
    "both sides multiples of 64": lambda m: m.width % 64 == m.height % 64 == 0,
    "both sides powers of 2": lambda m: m.width & (m.width - 1) == m.height & (m.height - 1) == 0,
}
_WORDS: dict[str, Callable[[Metadata], Sequence[str]]] = {
    "": lambda m: (m.format, *m.marks),
    "pixels of mode ": lambda m: (m.mode,),
    "size ": lambda m: (f"{m.width} x {m.height}",),
    "JPEG tables ": lambda m: (tables_name(m.tables),) if m.tables else (),
    "JPEG chroma ": lambda m: (m.sampling,) if m.sampling else (),
}
_LEAST_SHARE, _LEAST, _MOST = 0.003, 3, 64  # a word of fewer files than these, or the 65th of its kind, has no column


def features(files: Sequence[Metadata]) -> Features:
    """Metadata as columns: numbers, and yes or no for each format, size, table ... that several of these files have.

    Which words get a column depends on these files alone, never on a label. Columns that say the same of every file
    are left out.
    """
    columns: dict[str, tuple[list[float], bool]] = {}
    for name, number in _NUMBERS.items():
        columns[name] = ([np.nan if (v := number(m)) is None else float(v) for m in files], False)
    for name, flag in _FLAGS.items():
        columns[name] = ([float(flag(m)) for m in files], True)
    for kind, words in _WORDS.items():
        each = [frozenset(words(m)) for m in files]
        count = Counter(w for found in each for w in found)
        often = [w for w, n in count.most_common(_MOST) if n >= max(_LEAST, _LEAST_SHARE * len(files))]
        for word in sorted(often):
            columns[kind + word] = ([float(word in found) for found in each], True)
    kept = {n: c for n, c in columns.items() if len(set(np.nan_to_num(c[0], nan=-1.0).tolist())) > 1}
    values = np.array([c for c, _ in kept.values()], np.float32).reshape(len(kept), len(files)).T
    return Features(tuple(kept), np.ascontiguousarray(values), tuple(flag for _, flag in kept.values()))


def tables_name(tables: Tables) -> str:
    """`of quality 75` for the tables of the Independent JPEG Group; else 8 digits that name them."""
    quality = standard_quality(tables)
    if quality is not None:
        return f"of quality {quality}"
    return hashlib.sha256(repr([tuple(t) for t in tables]).encode()).hexdigest()[:8]
