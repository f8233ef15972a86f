"""Reads the tensors of a PyTorch `.pth` file without PyTorch, and without running anything that the file says.

The format is a zip with a pickle that names storages and raw files with their values. The pickle machine is allowed
three names only, each bound to a harmless stand-in of our own; any other name is an error.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError

_MAX_PICKLE = 1 << 20
_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
}


@dataclass(frozen=True)
class _StorageType:
    name: str


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, data: Any) -> None:
        super().__init__(data)
        self._archive = archive
        self._root = root

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

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise FormatError(f"unknown storage {pid!r}")
        values: NDArray[Any] = np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), _TYPES[storage.name])
        if len(values) != count:
            raise FormatError(f"storage {key} has {len(values)} values; expected {count}")
        return values


def _tensor(
    storage: NDArray[Any], offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    contiguous = tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))
    if stride != contiguous and storage.size > 1:
        raise FormatError(f"a tensor of shape {shape} with stride {stride}; only contiguous tensors are read")
    size = int(np.prod(shape, dtype=np.int64))
    return np.array(storage[offset : offset + size].reshape(shape))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The named tensors of a state dict.

    Args:
        path: a file written by `torch.save(state_dict)` (zip format, PyTorch 1.6 or later).

    Raises:
        FormatError: no such file, another format, or a file that asks for anything but plain tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if pickled is None or archive.getinfo(pickled).file_size > _MAX_PICKLE:
                raise FormatError(f"{path} is not a PyTorch file of plain tensors")
            with archive.open(pickled) as data:
                loaded = _Reader(archive, pickled.removesuffix("/data.pkl"), data).load()
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError, TypeError, KeyError, EOFError, IndexError,
            AttributeError) as error:  # fmt: skip
        raise FormatError(f"{path} cannot be read as a PyTorch file: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(v, np.ndarray) for v in loaded.values()):
        raise FormatError(f"{path} does not hold named tensors")
    return {str(k): v for k, v in loaded.items()}
