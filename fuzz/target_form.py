"""Bodies and headers that the service reads: forms of files, their boundary, keys."""

from __future__ import annotations

from harness import MARK, file_of, parts, refused
from univfd.server.keys import Keys, read
from univfd.server.limits import Limits, Memory
from univfd.server.uploads import Form, _boundary


class _Request:
    """As much of a request as is looked at."""

    def __init__(self, kind: str) -> None:
        self.headers = {"content-type": kind}


def seeds() -> list[bytes]:
    """A form with a file and one without, a key."""
    part = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nxyz\r\n'
    )
    option = b'--b\r\nContent-Disposition: form-data; name="o"\r\n\r\n1\r\n'
    kind, key = b"multipart/form-data; boundary=b", b"Bearer univfd_x"
    keys = b"ann sha256:" + b"0" * 64 + b"\n# x\n"
    return [MARK.join((kind, key, keys, body + b"--b--\r\n")) for body in (part, part + part, option)]


def one(data: bytes) -> None:
    """Feed it in pieces of several sizes; no byte may stay counted."""
    kind, key, keys, body = parts(data, 4)
    with refused():
        boundary = _boundary(_Request(kind.decode("latin-1")))  # type: ignore[arg-type]
        for size in (1 << 16, 7) if boundary else ():
            _feed(boundary or b"", body, size)
    path = file_of(keys, "keys")
    with refused():
        read(path)
        Keys(path).check(key.decode("latin-1"))


def _feed(boundary: bytes, body: bytes, size: int) -> None:
    memory, done = Memory(1 << 20), []
    form = Form(boundary, Limits(max_bytes=1000, upload_bytes=1 << 20), memory)
    try:
        with refused():
            for start in range(0, min(len(body), 20_000), size):
                done += form.feed(body[start : start + size])
            form.end()
    finally:
        form.release()
        for upload in done:
            upload.name.encode()
            assert upload.name.isprintable()
            upload.release()
    assert memory.held == 0
