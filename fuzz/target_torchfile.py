"""PyTorch files, through the reader that runs nothing: zips with a pickle, and the older stream of pickles."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

from harness import file_of, refused
from univfd.torchfile import read_tensors

# What `torch.save({"w": torch.tensor([1.0, 2.0])})` writes, put together by hand: torch is not needed to fuzz.
_PICKLE = (
    b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\x00\x00\x00storageq\x03"
    b"ctorch\nFloatStorage\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K\x02tq\x07QK\x00K\x02\x85q\x08K\x01"
    b"\x85q\t\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs."
)
_VALUES = struct.pack("<2f", 1, 2)


def seeds() -> list[bytes]:
    """A zip, a zip with a nested state dict, a stream, and pickles of other things."""
    stream = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})) + _PICKLE
    stream += pickle.dumps(["0"], 2) + struct.pack("<q", 2) + _VALUES
    return [_zip(_PICKLE), _zip(pickle.dumps({"model": OrderedDict(a=1)}, 2)), stream, _zip(pickle.dumps([1, "x"], 4))]


def _zip(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", _VALUES)
    return buffer.getvalue()


def one(data: bytes) -> None:
    """Read it as a state dict, and as a checkpoint with one."""
    path = file_of(data, "x.pth")
    for key in (None, "model"):
        with refused():
            read_tensors(path, key=key)
