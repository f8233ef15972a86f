"""The pickle machine makes plain values, calls nothing that it was not lent, and does no work that is asked of it."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from univfd.errors import FormatError
from univfd.plain_pickle import load
from univfd.torchfile import read_tensors

KEYS = st.text() | st.integers(-(2**40), 2**40)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


def plain(data: bytes, **lent: Any) -> Any:
    return load(io.BytesIO(data), lent={("m", k): v for k, v in lent.items()}, persistent=lambda p: p, most=1 << 20)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(PLAIN, st.sampled_from([2, 4]))
def test_plain_values_are_those_that_pythons_machine_makes(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert plain(data) == pickle.loads(data)


def test_the_file_is_left_behind_the_pickle() -> None:
    file = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("x", 2) + b"rest")
    read = [load(file, lent={}, persistent=lambda p: p, most=1 << 20) for _ in range(2)]
    assert read == [[1], "x"]
    assert file.read() == b"rest"


def test_what_was_lent_is_called_and_nothing_else() -> None:
    assert plain(b"\x80\x02cm\nf\nK\x02\x85R.", f=lambda n: n * 10) == 20
    with pytest.raises(FormatError, match=r"os\.system, which is not allowed"):
        plain(b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00ltR.")
    with pytest.raises(FormatError, match="no function"):
        plain(b"\x80\x02K\x01K\x02\x85R.")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({(1, 2): 3}, 2), "key of type tuple"),  # nested tuples can take years to hash
        (pickle.dumps({1, 2}, 4), "EMPTY_SET"),
        (pickle.dumps(b"x" * 9, 4), "SHORT_BINBYTES"),
        (b"\x80\x02\x8c\x01al.", "LIST"),
        (b"\x80\x02cm\nf\n)\x81.", "NEWOBJ"),
        (b"\x80\x02}K\x01a.", "fills a dict"),
    ],
)
def test_what_no_state_dict_does_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        plain(data, f=dict)


@pytest.mark.parametrize(
    "data", [b"", b".", b"\x80\x02K\x01", b"\x80\x02t.", b"\x80\x02(K\x01\x86.", b"\x80\x02h\x05."]
)
def test_damage_is_an_error_that_callers_know(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError, KeyError)):
        plain(data)


def in_zip(path: Path, pickled: bytes, values: bytes = b"\0" * 8, packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("a/data.pkl", pickled, zipfile.ZIP_STORED)
        archive.writestr("a/data/0", values)
    return path


def tensor(count: int, shape: bytes, stride: bytes = b"K\x01\x85", name: bytes = b"w") -> bytes:
    """Opcodes of one named tensor on storage 0."""
    return (
        b"X" + struct.pack("<I", len(name)) + name + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage"
        b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ"
        + struct.pack("<i", count)
        + b"tQK\0"
        + shape
        + stride
        + b"\x89}tR"
    )


def test_a_tensor_is_read(tmp_path: Path) -> None:
    whole = b"\x80\x02}(" + tensor(2, b"K\x02\x85") + b"u."
    assert read_tensors(in_zip(tmp_path / "a.pth", whole, struct.pack("<2f", 3, 4)))["w"].tolist() == [3, 4]


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo of four thousand million places
        b"\x80\x02}(" + tensor(2, b"(" + b"K\x02" * 3000 + b"t") + b"u.",  # axes without end
        b"\x80\x02}(" + tensor(2, b"\x8a\xff" + b"\x7f" * 255 + b"\x85") + b"u.",  # a number without end
        b"\x80\x02}(" + b"".join(tensor(1 << 28, b"K\x02\x85", name=b"%d" % i) for i in range(50)) + b"u.",
        b"\x80\x02" + b"K\x01" + b"2\x86" * 60 + b"Q.",  # 2 to the power of 60 leaves: nothing may print or hash them
        b"\x80\x02}" + b"K\x01" + b"2\x86" * 60 + b"K\x01s.",
    ],
    ids=["memo", "axes", "digits", "large storage", "repr", "hash"],
)
def test_a_small_file_makes_no_work(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(FormatError):
        read_tensors(in_zip(tmp_path / "a.pth", body))


def test_a_packed_storage_is_refused(tmp_path: Path) -> None:
    """PyTorch does not pack; a few kilobytes could become gigabytes."""
    body = b"\x80\x02}(" + tensor(1 << 20, b"J" + struct.pack("<i", 1 << 20) + b"\x85") + b"u."
    path = in_zip(tmp_path / "a.pth", body, b"\0" * (4 << 20), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(FormatError):
        read_tensors(path)


def test_nothing_of_a_file_stays_in_the_process(tmp_path: Path) -> None:
    """A pickle may set attributes of what it was given; here of the function that makes tensors."""
    evil = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\0\0\0__defaults__K\x01K\x02\x86stb."
    with pytest.raises(FormatError):
        read_tensors(in_zip(tmp_path / "evil.pth", evil))
    assert read_tensors.__defaults__ is None
    whole = b"\x80\x02}(" + tensor(2, b"K\x02\x85") + b"u."
    assert list(read_tensors(in_zip(tmp_path / "a.pth", whole))) == ["w"]
    assert pickle.loads(pickle.dumps(OrderedDict(a=1))) == {"a": 1}
