"""Reads the tensors of a PyTorch `.pth` file without PyTorch, and without running anything that the file says.

Since PyTorch 1.6 the format is a zip with a pickle that names storages, and raw files with their values; before, it was
a stream of pickles with the values behind them. The pickle is read by a machine of our own (`plain_pickle`), which is
lent a few names only, each bound to a harmless stand-in; any other name is an error. Values are read last, and only
those that are asked for.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .plain_pickle import load

_MAX_PICKLE = 1 << 20
_SHARED = 4  # tensors may be windows on one storage, but not on it so many times
_MOST_AXES = 65
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
}
# What damaged or hostile bytes make the pickle machine and the zip reader raise.
_DAMAGE = (OSError, zipfile.BadZipFile, ValueError, TypeError, KeyError, EOFError, IndexError, struct.error,
           OverflowError, RecursionError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError)  # fmt: skip

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _StorageType:
    name: str


@dataclass(frozen=True)
class _Storage:
    """Names `count` values that have not been read."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A window on a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        contiguous = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        # the step along an axis of length 1 means nothing; PyTorch leaves there what the tensor was cut from
        told = len(self.stride) == len(contiguous)
        fits = told and all(s == c or n == 1 for s, c, n in zip(self.stride, contiguous, self.shape, strict=True))
        if not fits and self.storage.count > 1:
            raise FormatError(
                f"a tensor of shape {self.shape} with stride {self.stride}; only contiguous tensors are read"
            )
        size = math.prod(self.shape)
        return np.array(values[self.offset : self.offset + size].reshape(self.shape))


class _Storages:
    """The storages that a pickle names, by their keys."""

    def __init__(self) -> None:
        self.by_key: dict[str, _Storage] = {}

    def load(self, file: IO[bytes]) -> Any:
        """The next pickle of a file; see `univfd.plain_pickle`."""
        return load(file, lent=_LENT, persistent=self._named, most=_MAX_PICKLE)

    def _named(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, *view = pid  # the older format has a sixth field, long unused
        if kind != "storage" or not isinstance(storage, _StorageType) or view not in ([], [None]):
            raise FormatError("its pickle names a storage that is none")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise FormatError(f"a storage with a key of type {type(key).__name__}, or without a size")
        return self.by_key.setdefault(key, _Storage(key, _TYPES[storage.name], count))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    sizes = [offset, *shape, *stride]
    fits = len(sizes) <= _MOST_AXES and all(isinstance(n, int) and 0 <= n < 1 << 62 for n in sizes)
    if not isinstance(storage, _Storage) or not fits:
        raise FormatError(f"a tensor of {type(storage).__name__}, or of impossible sizes; expected a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> _Tensor:
    """Of a network's parameters, as torchvision's older files hold them: the tensor, and what training makes of it."""
    if not isinstance(data, _Tensor):
        raise FormatError(f"a parameter of {type(data).__name__}; expected a tensor")
    return data


def _ordered(pairs: Any = ()) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise FormatError(f"a dict with a key of type {type(key).__name__}; expected texts")
        found[key] = value
    return found


_LENT: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
} | {("torch", name): _StorageType(name) for name in _TYPES}


def read_tensors(path: Path, *, key: str | None = None) -> Tensors:
    """The named tensors of a state dict.

    Args:
        path: a file written by `torch.save`, of any version since 0.4.
        key: the state dict is the value of this key; what else the file holds (an optimiser's state) is not read.
            None: the file is the state dict.

    Raises:
        FormatError: no such file, another format, or a file that asks for anything but plain tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            return _from_zip(path, key)
        with path.open("rb") as file:
            return _from_stream(path, file, key)
    except _DAMAGE as error:
        raise FormatError(f"{path} cannot be read as a PyTorch file: {error}") from error


def _from_zip(path: Path, key: str | None) -> Tensors:
    with zipfile.ZipFile(path) as archive:
        pickled = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if pickled is None or archive.getinfo(pickled).file_size > _MAX_PICKLE:
            raise FormatError(f"{path} is not a PyTorch file of plain tensors")
        tensors = _named(path, _Storages().load(io.BytesIO(archive.read(pickled))), key)
        _require_room(path, tensors)
        folder = pickled.removesuffix("data.pkl")
        storages = {t.storage.key: t.storage for t in tensors.values()}  # each is read once, however many use it
        values = {k: _checked(_stored(archive, f"{folder}data/{k}", s), s) for k, s in storages.items()}
        return {name: t.of(values[t.storage.key]) for name, t in tensors.items()}


def _stored(archive: zipfile.ZipFile, name: str, storage: _Storage) -> bytes:
    """The bytes of a storage. PyTorch never packs them; what is packed may unpack to any size."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"storage {storage.key} is packed; expected its plain bytes")
    if member.file_size != storage.bytes:
        raise FormatError(f"storage {storage.key} has {member.file_size} bytes; expected {storage.count} values")
    return archive.read(member)


def _from_stream(path: Path, file: IO[bytes], key: str | None) -> Tensors:
    magic, protocol, _machine = (_Storages().load(file) for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise FormatError(f"{path} is not a PyTorch file")
    reader = _Storages()
    tensors = _named(path, reader.load(file), key)
    _require_room(path, tensors)
    wanted = {t.storage.key for t in tensors.values()}
    values: dict[str, NDArray[Any]] = {}
    for name in _Storages().load(file):
        storage = reader.by_key[name]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise FormatError(f"storage {storage.key} has {count} values; expected {storage.count}")
        if name in wanted:
            values[name] = _checked(file.read(storage.bytes), storage)
        else:
            file.seek(storage.bytes, 1)
    return {name: t.of(values[t.storage.key]) for name, t in tensors.items()}


def _require_room(path: Path, tensors: Mapping[str, _Tensor]) -> None:
    """Refuse tensors that are many times larger than their file: each may be a window on one storage."""
    size = path.stat().st_size
    asked = sum(t.bytes for t in tensors.values())
    largest = max((t.storage.bytes for t in tensors.values()), default=0)
    if asked > _SHARED * size or largest > size:
        raise FormatError(f"{path} has {size} bytes and speaks of tensors of {asked}; it is cut off or made to deceive")


def _named(path: Path, loaded: Any, key: str | None) -> dict[str, _Tensor]:
    if key is not None:
        if not isinstance(loaded, dict) or key not in loaded:
            raise FormatError(f"{path} has no entry {key!r}")
        loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, _Tensor) for v in loaded.values()):
        raise FormatError(f"{path} does not hold named tensors")
    return {str(k): v for k, v in loaded.items()}


def _checked(raw: bytes, storage: _Storage) -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(raw, storage.dtype)
    if len(values) != storage.count:
        raise FormatError(f"storage {storage.key} has {len(values)} values; expected {storage.count}")
    return values
