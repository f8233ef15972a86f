"""The worker process: files come in on standard input, findings go out on standard output.

A frame is 4 bytes of length (big end first) and as many bytes. A request is a frame of JSON (`trust`, `cpu_seconds`)
and a frame with the file; an answer is a frame of JSON.

Before the first file everything is imported and the library for C2PA is used once; then the process gives up what it
does not need: more memory, writing files, and any further file descriptor, so that no code in it, whatever a file
makes it do, can open a file or a socket. Where the system has no such limits (Windows), the parent's deadline is the
only one.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

FRAME = 4
READY = {"ready": True}


def read_frame(stream: IO[bytes], most: int) -> bytes | None:
    """The next frame; None at the end, or where it is longer than `most` or cut off."""
    head = stream.read(FRAME)
    size = int.from_bytes(head, "big")
    if len(head) < FRAME or size > most:
        return None
    body = stream.read(size)
    return body if len(body) == size else None


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """Write a frame; it is on its way when this returns."""
    stream.write(len(body).to_bytes(FRAME, "big"))
    stream.write(body)
    stream.flush()


def main() -> None:
    """Serve until standard input ends."""
    memory = int(sys.argv[2])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but answers goes to the parent, whatever a library prints
    from PIL import Image

    from ._inspect import inspect

    Image.MAX_IMAGE_PIXELS = None  # a global of Pillow's; our own limit is checked before decoding
    _warm_up(inspect)
    confine(memory)
    write_frame(answers, json.dumps(READY).encode())
    while (head := read_frame(requests, 1 << 24)) is not None:
        options = json.loads(head)
        _allow_cpu(options["cpu_seconds"])
        data = read_frame(requests, 1 << 31)
        if data is None:
            return
        try:
            found = inspect(data, options["trust"])
        except MemoryError:  # what is left may be in pieces: the parent starts a fresh process
            return
        except Exception as error:  # a mistake of ours or a library's: said, and the next file gets its turn
            found = {"error": f"the reader failed ({type(error).__name__})"}  # its text may name places of this machine
        write_frame(answers, json.dumps(found).encode("utf-8", "replace"))


def _warm_up(inspect: Any) -> None:
    """Do once what is done lazily, since no file can be opened later: codecs, decoders, a picture of each kind."""
    import contextlib
    import importlib
    import io

    from PIL import Image

    for codec in ("ascii", "cp1252", "latin_1", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_8_sig"):
        importlib.import_module(f"encodings.{codec}")
    Image.init()
    picture, packet = Image.new("RGB", (256, 256)), b"<x xmlns='y'/>"
    exif = Image.Exif()
    exif[0x010F], exif.get_ifd(0x8769)[0x9286] = "x", b"UNICODE\0\0x"
    extras: dict[str, dict[str, Any]] = {
        "JPEG": {"xmp": packet, "exif": exif, "comment": b"x"}, "WEBP": {"xmp": packet, "exif": exif},
        "PNG": {"exif": exif}, "MPO": {"save_all": True, "append_images": [picture]}, "AVIF": {}, "GIF": {},
        "TIFF": {}, "BMP": {},
    }  # fmt: skip
    with contextlib.suppress(ImportError):  # the extra `heic`
        importlib.import_module("pillow_heif").register_heif_opener()
        extras["HEIF"] = {"xmp": packet, "exif": exif}
    for format, extra in extras.items():
        buffer = io.BytesIO()
        try:
            picture.save(buffer, format, **extra)
        except Exception:  # HEIF is often read without an encoder being there
            if format != "HEIF":
                raise
            continue
        whole = buffer.getvalue()
        for data in (whole, whole[: len(whole) // 2]):
            inspect(data, [])


def confine(memory: int) -> None:
    """Set limits on this process. It cannot lift them again, unless it runs as root and knows how."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    lowest_free = os.dup(0)
    os.close(lowest_free)
    for name, limit in (("RLIMIT_AS", memory), ("RLIMIT_NOFILE", lowest_free), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (ValueError, OSError):  # macOS refuses some; the others hold
            continue


def _allow_cpu(seconds: float) -> None:
    """So much more processor time, then the system ends this process: also where the parent is gone."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
