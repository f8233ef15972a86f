#!/usr/bin/env python3
"""What the fuzz targets share: a place for files, the errors that are allowed, seeds, and the call of atheris.

    python fuzz/harness.py TARGET [options of libFuzzer] [corpus folders]

A target is a file `target_NAME.py` beside this one with `seeds() -> list[bytes]` and `one(data: bytes) -> None`. `one`
lets errors of the project's own tree pass in silence (`refused`); whatever else leaves it is a bug.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
MARK = b"\n====\n"
"""Between the files of an input that stands for several."""
outcomes: Counter[str] = Counter()
"""How often something was `taken` and `refused`, for the test that a target does more than refuse."""
ROOM = 2 << 30
"""Address space that a target may use beyond what it has when it begins, in bytes."""
_INSTRUMENTED = ("univfd", "PIL", "tarfile", "tomllib", "zipfile", "defusedxml", "python_multipart", "csv", "json")


def names() -> list[str]:
    """All targets, sorted."""
    return sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))


def target(name: str) -> ModuleType:
    """The module of a target."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return importlib.import_module(f"target_{name}")


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Errors that the project raises on purpose are what a bad input should get."""
    from univfd.errors import UnivFDError

    try:
        yield
        outcomes["taken"] += 1
    except UnivFDError:
        outcomes["refused"] += 1


@cache
def folder() -> Path:
    """A folder of this process, in memory where the system has such a place."""
    import atexit

    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="univfd-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def file_of(data: bytes, name: str) -> Path:
    """The input as a file; written anew by the next call of that name."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def parts(data: bytes, count: int) -> list[bytes]:
    """An input that stands for several files; those that are missing are empty."""
    found = data.split(MARK, count - 1)
    return found + [b""] * (count - len(found))


def as_json(value: object) -> bytes:
    """For seeds."""
    return json.dumps(value).encode()


@cache
def pictures() -> dict[str, bytes]:
    """A small whole file of each format that has an encoder here."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image, found = Image.fromarray(pixels), {}
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    for format in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        extra = {"exif": exif} if format in {"JPEG", "PNG", "WEBP"} else {}
        image.save(buffer, format, **extra)
        found[format] = buffer.getvalue()
    for name, mode in (("grey", "L"), ("palette", "P"), ("alpha", "RGBA"), ("deep", "I;16")):
        buffer = io.BytesIO()
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)).save(
            buffer, "PNG"
        )
        found[name] = buffer.getvalue()
    buffer = io.BytesIO()
    image.convert("CMYK").save(buffer, "JPEG", progressive=True)
    found["cmyk"] = buffer.getvalue()
    buffer = io.BytesIO()
    image.save(buffer, "GIF", save_all=True, append_images=[image.rotate(90)])
    found["frames"] = buffer.getvalue()
    return found


_TOKEN = re.compile(rb'"[^"\n]{0,80}"|-?\d+(?:\.\d+)?|\b(?:true|false|null)\b')
_STRANGE = (
    b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 400, b"18446744073709551616", b"1.5", b"null", b"true", b'""',
    b"[]",
    b"{}", b"[[]]", b'{"a": 1}', b'"\\ud800"', b'"../../x"', b'"/etc/passwd"', b'"\\u0000"', b'"=1+1"', b"[" * 3000,
    b'"' + b"x" * 3000 + b'"', b"\xff", b"\n", b"",
)  # fmt: skip
"""What is put in the place of a number or text of JSON and TOML."""


def mutated(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Damaged inputs without atheris: for the test suite, and where atheris cannot be installed."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            rng.choice((_flip, _flip, _cut, _replace, _replace, _replace, _repeat, _splice))(data, rng, seeds)
        yield bytes(data)


def _flip(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0, 255, 0x80))


def _cut(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    del data[start : start + rng.choice((1, 4, 50, len(data)))]


def _replace(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    tokens = list(_TOKEN.finditer(bytes(data)))
    if tokens:
        token = rng.choice(tokens)
        data[token.start() : token.end()] = rng.choice(_STRANGE)


def _repeat(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.randrange(1, 60)]
    data[start:start] = piece * rng.choice((1, 2, 300))


def _splice(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def quiet() -> None:
    """No remarks of libraries, which would drown what matters; no look for plug-ins, which takes most of the time."""
    import importlib.metadata

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    importlib.metadata.entry_points = lambda **_: ()  # type: ignore[assignment]


def _limit_memory() -> None:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # left alone: the process that merges starts others
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))


def main(name: str, arguments: Sequence[str]) -> None:
    """Fuzz until an option of libFuzzer ends it."""
    import atheris

    quiet()
    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        module = target(name)
        for seed in module.seeds():  # also imports what is only imported when it is needed
            module.one(seed)
    atheris.Setup([sys.argv[0], *arguments], module.one)
    _limit_memory()
    atheris.Fuzz()


if __name__ == "__main__":
    # libFuzzer starts itself again to merge, with its own options alone
    chosen = [os.environ["FUZZ_TARGET"]] if "FUZZ_TARGET" in os.environ else []
    main(*[*chosen, *sys.argv[1:]][:1], [*chosen, *sys.argv[1:]][1:])
