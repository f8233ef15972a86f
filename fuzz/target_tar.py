"""Tars: the walk over their members, their bytes, and the labels of WebDataset shards."""

from __future__ import annotations

import io
import tarfile
from itertools import islice

from harness import file_of, pictures, refused
from univfd.datasets import open_dataset
from univfd.sources import expand, read_bytes
from univfd.types import ImageRef

_MOST = 200


def seeds() -> list[bytes]:
    """The three formats that Python writes, links, a sparse member, names that lead outside."""
    made = [_tar(format) for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    sparse = tarfile.TarInfo("s.jpg")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 4
    made.append(sparse.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    return made


def _tar(format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        long = "d/" * 60 + "e.png" if format != tarfile.USTAR_FORMAT else "e.png"
        members = {"a.png": pictures()["PNG"], "a.json": b'{"label": "fake"}', "../b.jpg": b"\xff\xd8\xff"}
        for name, body in (members | {"../b.cls": b"0", long: b"", "/f.gif": b"GIF8"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        for kind, name in ((tarfile.SYMTYPE, "l.png"), (tarfile.LNKTYPE, "h.png"), (tarfile.CHRTYPE, "c.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
    return buffer.getvalue()


def one(data: bytes) -> None:
    """Walk it, read its members, read it as a data set."""
    path = file_of(data, "x.tar")
    for ref in islice(expand(path), _MOST):
        if isinstance(ref, ImageRef):
            ref.name.encode()
            with refused():
                read_bytes(ref)
    with refused():
        list(islice(open_dataset(path), _MOST))
