"""Reads the tensors of a PyTorch `.pth` file without PyTorch, and without running anything that the file says.

Since PyTorch 1.6 the format is a zip with a pickle that names storages, and raw files with their values; before, it was
a stream of pickles with the values behind them. The pickle machine is allowed three names only, each bound to a
harmless stand-in of our own; any other name is an error. Values are read last, and only those that are asked for.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

_MAX_PICKLE = 1 << 20
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
}
# What damaged or hostile bytes make the pickle machine and the zip reader raise.
_DAMAGE = (OSError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError, TypeError, KeyError, EOFError, IndexError,
           AttributeError, struct.error, OverflowError, RecursionError, NotImplementedError)  # fmt: skip

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


@dataclass(frozen=True)
class _Tensor:
    """A window on a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        contiguous = tuple(int(np.prod(self.shape[i + 1 :], dtype=np.int64)) for i in range(len(self.shape)))
        if self.stride != contiguous and self.storage.count > 1:
            raise FormatError(
                f"a tensor of shape {self.shape} with stride {self.stride}; only contiguous tensors are read"
            )
        size = int(np.prod(self.shape, dtype=np.int64))
        return np.array(values[self.offset : self.offset + size].reshape(self.shape))


class _Reader(pickle.Unpickler):
    def __init__(self, data: IO[bytes]) -> None:
        super().__init__(data)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        }
        if module == "torch" and name in _TYPES:
            return _StorageType(name)
        if (module, name) not in allowed:
            raise FormatError(
                f"the file wants to use {module}.{name}, which is not allowed; only plain tensors are read"
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, *view = pid  # the older format has a sixth field, long unused
        if kind != "storage" or not isinstance(storage, _StorageType) or view not in ([], [None]):
            raise FormatError(f"unknown storage {pid!r}")
        return self.storages.setdefault(str(key), _Storage(str(key), _TYPES[storage.name], int(count)))


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise FormatError(f"a tensor of {type(storage).__name__}; expected a storage")
    return _Tensor(storage, offset, shape, stride)


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
        with archive.open(pickled) as data:
            tensors = _named(path, _Reader(data).load(), key)
        folder = pickled.removesuffix("data.pkl")
        return {name: t.of(_checked(archive.read(f"{folder}data/{t.storage.key}"), t.storage))
                for name, t in tensors.items()}  # fmt: skip


def _from_stream(path: Path, file: IO[bytes], key: str | None) -> Tensors:
    magic, protocol, _machine = (_Reader(file).load() for _ in range(3))
    if (magic, protocol) != (_MAGIC, _PROTOCOL):
        raise FormatError(f"{path} is not a PyTorch file")
    reader = _Reader(file)
    tensors = _named(path, reader.load(), key)
    wanted = {t.storage.key for t in tensors.values()}
    values: dict[str, NDArray[Any]] = {}
    for name in _Reader(file).load():
        storage = reader.storages[name]
        (count,) = struct.unpack("<q", file.read(8))
        size = count * storage.dtype.itemsize
        if name in wanted:
            values[name] = _checked(file.read(size), storage)
        else:
            file.seek(size, 1)
    return {name: t.of(values[t.storage.key]) for name, t in tensors.items()}


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
