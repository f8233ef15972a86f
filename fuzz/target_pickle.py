"""The pickle inside of a PyTorch file, whole files around it: the fuzzer need not find out about checksums of zips."""

from __future__ import annotations

from harness import file_of, refused
from target_torchfile import _PICKLE, _zip
from univfd.torchfile import read_tensors


def seeds() -> list[bytes]:
    """One that is read, and pieces that the format has."""
    return [_PICKLE, b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01}(X\x01\x00\x00\x00ak\x01ub.", b"\x80\x02N."]


def one(data: bytes) -> None:
    """Read it."""
    with refused():
        read_tensors(file_of(_zip(data), "x.pth"))
