"""Damaged and hostile image files, made from whole ones; the same for the same seed."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache


def mutated(files: Sequence[bytes], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` files, each with the name of what was done to it."""
    rng = random.Random(seed)
    kinds = list(_KINDS.items())
    for n in range(count):
        name, change = kinds[n % len(kinds)]
        yield f"{n}-{name}", change(bytearray(rng.choice(files)), rng, files)


def _flips(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _header_flips(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 4, 16))):
        data[rng.randrange(2, min(len(data), 4096))] = rng.randrange(256)
    return bytes(data)


def _cut(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    return bytes(data[: rng.randrange(1, len(data))])


def _hole(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    start = rng.randrange(1, len(data))
    return bytes(data[:start] + data[start + rng.randrange(1, 2000) :])


def _huge_lengths(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    for _ in range(4):
        at = rng.randrange(2, len(data) - 4)
        data[at : at + 4] = rng.choice(
            (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f")
        )
    return bytes(data)


def _polyglot(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    other = rng.choice(files)
    zipped = b"PK\x03\x04" + b"\0" * 26 + b"%PDF-1.7\n<html><script>"
    return bytes(data) + rng.choice((other, zipped, zipped + other))


def _spliced(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    other = rng.choice(files)
    return bytes(data[: rng.randrange(16, len(data))]) + other[rng.randrange(len(other)) :]


def _repeated(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 400)]
    return bytes(data[:start] + piece * rng.randrange(2, 500) + data[start:])


def _png_bomb(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    """A PNG of a size that no memory holds, or with a text that unpacks to a hundred megabytes."""
    side = rng.choice((1, 60_000, 0x7FFFFFFF))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"parameters\0\0" + _hundred_megabytes())
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", zlib.compress(b"\0" * 400)) + chunk(b"IEND", b"")


@cache
def _hundred_megabytes() -> bytes:
    return zlib.compress(b"Steps: 1, Sampler: x " * (5 << 20), 1)


def _xml_bomb(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    """A JPEG whose XMP has entities of entities, or a hundred thousand levels, or reads a file of ours."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    packet = rng.choice(
        (
            f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "lol">{entities}]><x>&e11;</x>',
            '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
            "<a>" * 15_000 + "</a>" * 100,
            '<?xml version="1.0" encoding="shift_jis"?><x>\ud55c</x>',
        )
    ).encode("utf-8", "surrogatepass")[:65_000]
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    return b"\xff\xd8\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + b"\xff\xd9"


def _json_bomb(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    deep = rng.choice(
        (b'{"a":' * 200_000, b"[" * 200_000, b'{"AIGC": ' + b"9" * 100_000, b"Steps: 1, " + b"a" * 3_000_000)
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"tEXt", b"prompt\0" + deep) + chunk(b"IEND", b"")


def _tiff_loop(data: bytearray, rng: random.Random, files: Sequence[bytes]) -> bytes:
    """EXIF whose directories point at themselves, with counts beyond the block."""
    entries = b"".join(
        struct.pack("<HHII", tag, rng.choice((2, 4, 7, 12)), rng.choice((1, 0x7FFFFFFF)), 8)
        for tag in (0x8769, 0x8825, 0x927C)
    )
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + struct.pack("<I", 8)
    return b"\xff\xd8\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + bytes(data[2:])


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


_KINDS: dict[str, Callable[[bytearray, random.Random, Sequence[bytes]], bytes]] = {
    "flips": _flips, "header-flips": _header_flips, "cut": _cut, "hole": _hole, "huge-lengths": _huge_lengths,
    "polyglot": _polyglot, "spliced": _spliced, "repeated": _repeated, "png-bomb": _png_bomb, "xml-bomb": _xml_bomb,
    "json-bomb": _json_bomb, "tiff-loop": _tiff_loop,
}  # fmt: skip
