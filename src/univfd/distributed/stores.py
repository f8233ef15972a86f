"""Folders that all nodes see: a shared file system, or a bucket (`s3://`, `gs://` ... by pyarrow, else fsspec)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import UnivFDError, UsageError
from ..sources import explain_os_error
from ..storage import cannot_write, locked, replace_file
from .urls import is_url, is_whole, local_path, shown, split_url

_OF_URLS = "%/:?[]@!$&'()*+,;=~"
_OF_ARROW = {"s3", "gs", "gcs"}
_KEPT_OPEN = 256
_ATTEMPTS, _FIRST_PAUSE = 4, 0.5
_BUCKETS = {"s3", "gcs", "abfs"}
"""Types of store where an upload is seen whole or not at all, and folders need not be made."""
_T = TypeVar("_T")


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; see `urls`.

    Raises:
        UsageError: no file system is known for it, it says no bucket, or keys are in it.
    """
    store, path = split_url(url)
    try:
        system, root = _opened(store)
    except Exception as error:  # back ends of fsspec raise what they like
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{shown(url)} cannot be opened: {why}") from error
    return system, _joined(root, path)


@lru_cache(_KEPT_OPEN)
def _opened(store: str) -> tuple[Any, str]:
    """The file system of a store, and the path of its top."""
    if not is_whole(store):
        try:
            return pafs.FileSystem.from_uri(quote(store, safe=_OF_URLS))  # type: ignore[no-any-return]
        except NotImplementedError:  # pyarrow was built without it
            pass
        except pa.ArrowInvalid as error:
            ours = store.partition("://")[0] in _OF_ARROW and "Cannot parse URI" not in str(error)
            if ours:  # a mistyped option; what pyarrow cannot take apart may be a form of fsspec's
                raise
    import fsspec

    system, root = fsspec.core.url_to_fs(store)
    return pafs.PyFileSystem(pafs.FSSpecHandler(system)), root


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name and not folder.endswith("/") else folder + name


def read_object(store: str, path: str, offset: int = 0, size: int = -1) -> bytes:
    """Bytes of an object, or of a span of it; what is passing (network, throttling) is tried again.

    Raises:
        OSError: it cannot be read.
    """
    system, _ = open_store(store)

    def read() -> bytes:
        with _open_input(system, path) as file:
            return file.read() if size < 0 else file.read_at(size, offset)  # type: ignore[no-any-return]

    return _patiently(read)


def read_head(system: Any, path: str, size: int) -> bytes:
    """The first bytes of an object; asked again as in `read_object`.

    Raises:
        OSError: it cannot be read.
    """

    def read() -> bytes:
        with _open_input(system, path) as file:
            return file.read(size)  # type: ignore[no-any-return]

    return _patiently(read)


class Object(io.RawIOBase):
    """An object that is read by ranges; each is asked for again as in `read_object`."""

    _file: Any = None

    def __init__(self, system: Any, path: str) -> None:
        """Open it.

        Args:
            system: of the store.
            path: in it.

        Raises:
            OSError: it cannot be opened.
        """
        self._file = _patiently(lambda: _open_input(system, path))
        self._at = 0
        try:
            self._size: int = self._file.size()
        except ValueError as error:  # an HTTP server that gives the whole alone
            raise OSError(f"it cannot be read by ranges: {error}") from error

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, in bytes."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; how many bytes there were."""
        n = min(len(buffer), self._size - self._at)
        if n <= 0:
            return 0
        data = _patiently(lambda: self._file.read_at(n, self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close it."""
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()


def _patiently(ask: Callable[[], _T]) -> _T:
    """What a store answers; asked again where what went wrong may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except (FileNotFoundError, PermissionError, ValueError, UnivFDError, pa.ArrowNotImplementedError):
            raise
        except Exception as error:  # back ends of fsspec have errors of their own, of a broken connection too
            if attempt == _ATTEMPTS - 1:
                raise error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


class Unlisted(NamedTuple):
    """A folder of a store that does not say what is in it."""

    path: str
    error: OSError


def look_up(system: Any, path: str) -> Any:
    """What is at a path (`pyarrow.fs.FileInfo`); asked again as in `read_object`.

    Raises:
        OSError: the store does not say, or there is nothing.
    """

    def ask() -> Any:
        info = system.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise _absence(system, path)
        return info

    try:
        return _patiently(ask)
    except ValueError as error:  # an empty name between two `/`, half of a character
        raise OSError(f"no usable path: {error}") from error


def _open_input(system: Any, path: str) -> Any:
    try:
        return system.open_input_file(path)
    except FileNotFoundError:
        raise _absence(system, path) from None


def _absence(system: Any, path: str) -> OSError:
    """Why there is nothing at a path: for fsspec whatever an HTTP server answers, or does not, is "not found"."""
    if not is_url(path):
        return FileNotFoundError(path)
    try:
        system.handler.fs.info(path)
    except FileNotFoundError as error:
        status = getattr(error.__cause__, "status", 404 if _is_absence(error.__cause__) else None)
        if status in {404, 410}:
            return FileNotFoundError(path)
        if status in {401, 403}:
            return PermissionError(path)
        return OSError(f"the server answers with HTTP status {status}" if status else str(error.__cause__))
    return OSError("the server did not answer at first")


def _is_absence(cause: BaseException | None) -> bool:
    return cause is None or isinstance(cause, FileNotFoundError)


def walk_store(system: Any, top: str) -> Iterator[Any]:
    """The files below a path, in the order of `sources`: depth first, names sorted.

    Args:
        system: of the store.
        top: the path in it.

    Yields:
        A `pyarrow.fs.FileInfo` a file; an `Unlisted` in the place of a folder that cannot be listed.
    """
    stack = [_entries(system, top)]
    while stack:
        info = next(stack[-1], None)
        if info is None:
            stack.pop()
        elif not isinstance(info, Unlisted) and info.type == pafs.FileType.Directory:
            stack.append(_entries(system, info.path))
        else:
            yield info


def _entries(system: Any, folder: str) -> Iterator[Any]:
    try:
        found: list[Any] = _patiently(lambda: system.get_file_info(pafs.FileSelector(folder)))
    except OSError as error:
        return iter([Unlisted(folder, error)])
    return iter(sorted(found, key=lambda info: info.base_name))


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a run, by name (`rows/part-0000000.parquet`). A file is there whole or not at all.

    Attributes:
        place: absolute path, or URL.
    """

    place: str

    def __post_init__(self) -> None:
        """A URL of a file system of this machine is a path."""
        if is_url(self.place) and (path := local_path(self.place)) is not None:
            object.__setattr__(self, "place", path)

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if not is_url(self.place):
            return Path(self.place, name).read_bytes()
        _, path = self._at(name)
        return read_object(self.place, path)

    def put(self, name: str, data: bytes) -> None:
        """Write a file: under a temporary name (on disk synced) and renamed; in a bucket by one upload.

        Raises:
            UnivFDError: it cannot be written.
        """
        try:
            if is_url(self.place):
                _patiently(lambda: self._upload(name, data))
                return
            target = Path(self.place, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f".{target.name}.{time.time_ns():x}.tmp")
            try:
                scratch.write_bytes(data)
                replace_file(scratch, target)
            finally:
                scratch.unlink(missing_ok=True)
        except OSError as error:
            if is_url(self.place):
                raise UnivFDError(
                    f"{shown(self.place)}: {name} cannot be written: {explain_os_error(error)}"
                ) from error
            raise cannot_write(Path(self.place) / name, error) from error

    def names(self, below: str = "") -> set[str]:
        """Names of the files in a folder of it, and of the folders; empty where there is none."""
        if not is_url(self.place):
            folder = Path(self.place, below)
            return {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
        system, path = self._at(below)
        try:
            found = _patiently(lambda: system.get_file_info(pafs.FileSelector(path, allow_not_found=True)))
        except OSError as error:
            raise UnivFDError(f"{self.place} cannot be read: {error}") from error
        return {info.base_name for info in found if not info.base_name.startswith(".")}

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if not is_url(self.place):
            return Path(self.place, name).is_file()
        system, path = self._at(name)
        return bool(_patiently(lambda: system.get_file_info(path)).is_file)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second driver off; in buckets that is left to the user.

        Raises:
            OutputExistsError: another one is at it.
            UnivFDError: the folder cannot be made.
        """
        if is_url(self.place):
            yield
            return
        folder = Path(self.place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        with locked(folder / "run"):
            yield
            for scratch in folder.glob("*/.*.tmp"):  # of workers that were killed while they wrote
                scratch.unlink(missing_ok=True)

    def _at(self, name: str) -> tuple[Any, str]:
        """The store, and the path of a file in it."""
        system, base = open_store(self.place)
        return system, _joined(base, name)

    def _upload(self, name: str, data: bytes) -> None:
        system, path = self._at(name)
        if system.type_name in _BUCKETS:
            _write(system, path, data)
            return
        folder, _, last = path.rpartition("/")
        scratch = f"{folder}/.{last}.{time.time_ns():x}.tmp"
        make, move = partial(system.create_dir, recursive=True), system.move
        if isinstance(system, pafs.PyFileSystem):
            # pyarrow makes a folder that is there again, and moves recursively: not every file system of fsspec can
            make, move = partial(system.handler.fs.makedirs, exist_ok=True), system.handler.fs.mv
        try:
            make(folder)
            _write(system, scratch, data)
            move(scratch, path)
        except Exception:
            with suppress(Exception):  # it may not be there
                system.delete_file(scratch)
            raise


def _write(system: Any, path: str, data: bytes) -> None:
    with system.open_output_stream(path) as file:
        file.write(data)
