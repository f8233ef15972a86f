"""Takes the blocks that may speak of origin out of a JPEG, PNG or WebP file; of other formats Pillow takes them.

Bounded walks over headers: a length is checked before it is believed, text is unpacked up to a limit, and damage ends
the walk with what was found so far.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_BLOCKS = 20_000
MOST_TEXT = 8 << 20  # bytes, of one text after unpacking
MOST_IN_ALL = 32 << 20  # of all texts of a file

# The box type that begins a C2PA manifest store (C2PA specification, "JUMBF superbox UUID").
_STORE = b"c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x008\x9bq"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
_BARE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length


@dataclass(frozen=True, slots=True)
class Text:
    """A text with its name and its place in the file, in words."""

    key: str
    value: str
    where: str


@dataclass(slots=True)
class Blocks:
    """What was found in one file."""

    texts: list[Text] = field(default_factory=list)
    exif: list[bytes] = field(default_factory=list)
    xmp: list[bytes] = field(default_factory=list)
    iptc: list[bytes] = field(default_factory=list)
    has_c2pa: bool = False
    notes: list[str] = field(default_factory=list)
    room: int = MOST_IN_ALL

    def add(self, text: Text) -> None:
        """Keep a text while there is room."""
        self.room -= len(text.value)
        if self.room >= 0:
            self.texts.append(text)
        elif not any("texts" in note for note in self.notes):
            self.notes.append(f"texts beyond {MOST_IN_ALL >> 20} MiB were not looked at")


def split(data: bytes, format: str) -> Blocks:
    """Walk a file.

    Args:
        data: the whole file.
        format: as `univfd.sources.sniff` names it.
    """
    blocks = Blocks()
    walks: dict[str, Callable[[bytes, Blocks], None]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
    walks.get(format, _by_pillow)(data, blocks)
    blocks.has_c2pa = blocks.has_c2pa or _STORE in data
    return blocks


def _jpeg(data: bytes, blocks: Blocks) -> None:
    at, more = 2, Parts()
    for _ in range(MOST_BLOCKS):
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:  # fill bytes; markers without content
            at += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in {0xDA, 0xD9} or size < 2:  # the picture begins
            break
        _segment(marker, data[at + 4 : at + 2 + size], blocks, more)
        at += 2 + size
    else:
        blocks.notes.append(f"only the first {MOST_BLOCKS} segments were looked at")
    blocks.xmp += more.whole()


class Parts:
    """Extended XMP, which may come in any order: each part has the digest of its packet and its place in it."""

    def __init__(self) -> None:
        self._of: dict[bytes, list[tuple[int, bytes]]] = {}
        self._room = MOST_TEXT

    def add(self, body: bytes) -> None:
        """Take a part, behind the name of its segment: 32 bytes of digest, the whole length, the offset, and text."""
        text = body[40 : 40 + self._room]
        self._room -= len(text)
        if text:
            self._of.setdefault(body[:32], []).append((int.from_bytes(body[36:40], "big"), text))

    def whole(self) -> list[bytes]:
        """The packets."""
        return [b"".join(text for _, text in sorted(parts, key=lambda p: p[0])) for parts in self._of.values()]


def _segment(marker: int, body: bytes, blocks: Blocks, more: Parts) -> None:
    if marker == 0xFE:
        blocks.add(Text("comment", _utf8(body), "JPEG comment"))
    elif marker == 0xE1 and body.startswith(b"Exif\0"):
        blocks.exif.append(body[6:])
    elif marker == 0xE1 and body.startswith(_XMP):
        blocks.xmp.append(body[len(_XMP) :])
    elif marker == 0xE1 and body.startswith(_XMP_MORE):
        more.add(body[len(_XMP_MORE) :])
    elif marker == 0xED and body.startswith(_PHOTOSHOP):
        blocks.iptc += _photoshop(body[len(_PHOTOSHOP) :])
    elif marker == 0xEB and body[:2] == b"JP" and b"c2pa" in body[:100]:  # JPEG XT and others have such boxes too
        blocks.has_c2pa = True


def _photoshop(body: bytes) -> list[bytes]:
    """The IPTC records (resource 0x0404) among Photoshop's image resources."""
    found, at = [], 0
    while body[at : at + 4] == b"8BIM" and at + 12 <= len(body):
        number, name = struct.unpack_from(">HB", body, at + 4)
        start = at + 6 + (name + 2) // 2 * 2  # a Pascal string, padded to an even length
        size = int.from_bytes(body[start : start + 4], "big")
        if number == 0x0404:
            found.append(body[start + 4 : start + 4 + size])
        at = start + 4 + (size + 1) // 2 * 2
    return found


def _png(data: bytes, blocks: Blocks) -> None:
    at = 8
    for _ in range(MOST_BLOCKS):
        if at + 8 > len(data):
            return
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"} and blocks.room >= 0:
            _chunk(kind, data[at + 8 : at + 8 + min(size, MOST_TEXT)], blocks)
        if kind == b"IEND":
            return
        at += 12 + size
    blocks.notes.append(f"only the first {MOST_BLOCKS} chunks were looked at")


def _chunk(kind: bytes, body: bytes, blocks: Blocks) -> None:
    if kind == b"caBX":
        blocks.has_c2pa = True
    elif kind == b"eXIf":
        blocks.exif.append(body)
    else:
        key, _, rest = body.partition(b"\0")
        name = key.decode("latin-1")[:79]
        if kind == b"tEXt":
            value = _utf8(rest)  # Latin-1 by the standard; generators write UTF-8
        elif kind == b"zTXt":
            value = _utf8(_unpacked(rest[1:]))
        else:
            packed, rest = rest[:1] == b"\1", rest[2:]
            _, _, rest = rest.partition(b"\0")  # language
            _, _, rest = rest.partition(b"\0")  # translated keyword
            value = _utf8(_unpacked(rest) if packed else rest)
        _named(name, value, blocks)


def _named(name: str, value: str, blocks: Blocks) -> None:
    """A PNG text by its name; ImageMagick keeps EXIF, IPTC and XMP as hexadecimal text."""
    if name == "XML:com.adobe.xmp":
        blocks.xmp.append(value.encode())
    elif name.startswith("Raw profile type "):
        try:
            body = bytes.fromhex("".join(value.split("\n")[3:]))
        except ValueError:
            return
        kind = name.rsplit(" ", 1)[-1]
        if kind == "xmp" or body.startswith(_XMP):
            blocks.xmp.append(body.removeprefix(_XMP))
        elif kind in {"exif", "APP1"}:
            blocks.exif.append(body.removeprefix(b"Exif\0\0"))
        elif kind == "iptc":
            blocks.iptc += _photoshop(body) or [body]
    else:
        blocks.add(Text(name, value, f"PNG text chunk {name!r}"))


def _webp(data: bytes, blocks: Blocks) -> None:
    at = 12
    for _ in range(MOST_BLOCKS):
        if at + 8 > len(data):
            return
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(size, MOST_TEXT)]
        if kind == b"EXIF":
            blocks.exif.append(body.removeprefix(b"Exif\0\0"))
        elif kind == b"XMP ":
            blocks.xmp.append(body)
        elif kind == b"C2PA":
            blocks.has_c2pa = True
        at += 8 + size + size % 2
    blocks.notes.append(f"only the first {MOST_BLOCKS} chunks were looked at")


def _by_pillow(data: bytes, blocks: Blocks) -> None:
    from ..images import open_image

    with open_image(data) as image:
        info = image.info
        if isinstance(exif := info.get("exif"), bytes):
            blocks.exif.append(exif.removeprefix(b"Exif\0\0"))
        elif image.format == "TIFF":
            blocks.exif.append(data)  # a TIFF file is what EXIF is laid out like
            _tiff_tags(image, blocks)
        elif image.format == "GIF":
            _gif_xmp(data, blocks)
        if isinstance(xmp := info.get("xmp"), bytes):
            blocks.xmp.append(xmp[:MOST_TEXT])
        if isinstance(comment := info.get("comment"), bytes | str):
            text = comment if isinstance(comment, str) else _utf8(comment)
            blocks.add(Text("comment", text, f"{image.format} comment"))


def _tiff_tags(image: Any, blocks: Blocks) -> None:
    """IPTC records in a tag of their own, and among Photoshop's resources."""
    raw = getattr(
        image.tag_v2, "_tagdata", {}
    )  # some programs call the records 32-bit numbers, of which Pillow takes one
    if records := raw.get(0x83BB):
        blocks.iptc.append(records[:MOST_TEXT])
    if resources := raw.get(0x8649):
        blocks.iptc += _photoshop(resources[:MOST_TEXT])


def _gif_xmp(data: bytes, blocks: Blocks) -> None:
    """XMP in a GIF is no sequence of blocks but plain text, ended by bytes that count down from 256."""
    start = data.find(_GIF_XMP)
    if start < 0:
        return
    start += len(_GIF_XMP)
    end = data.find(b"\x01\xff\xfe\xfd", start)
    blocks.xmp.append(data[start : end if end >= 0 else len(data)][:MOST_TEXT])


def _unpacked(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, MOST_TEXT)
    except zlib.error:
        return b""


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
