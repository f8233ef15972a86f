"""Folders that all nodes see: a shared file system, or a bucket (`s3://`, `gs://` ... by pyarrow, else fsspec)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import UnivFDError, UsageError
from ..storage import cannot_write, locked, replace_file

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_OF_URLS = "%/:?#[]@!$&'()*+,;=~"
_ATTEMPTS, _FIRST_PAUSE = 4, 0.5
_T = TypeVar("_T")


def is_url(text: str) -> bool:
    """Whether a place is named by a URL; otherwise it is a path."""
    return _URL.match(text) is not None


@cache
def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Spaces and letters may stand as they are, `?` in a name as `%3F`.

    Raises:
        UsageError: no file system is known for it, or it says no bucket.
    """
    try:
        try:
            return pafs.FileSystem.from_uri(quote(url, safe=_OF_URLS))  # type: ignore[no-any-return]
        except (pa.ArrowInvalid, NotImplementedError):
            import fsspec

            system, path = fsspec.core.url_to_fs(url)
            return pafs.PyFileSystem(pafs.FSSpecHandler(system)), path
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(f"{url} cannot be opened: {error}") from error


def display_url(url: str, path: str) -> str:
    """A path in the store of a URL as a URL again, without the options behind `?`."""
    return f"{urlsplit(url).scheme}://{path}"


def read_object(store: str, path: str, offset: int = 0, size: int = -1) -> bytes:
    """Bytes of an object, or of a span of it; what is passing (network, throttling) is tried again.

    Raises:
        OSError: it cannot be read.
    """
    system, _ = open_store(store)

    def read() -> bytes:
        with system.open_input_file(path) as file:
            return file.read() if size < 0 else file.read_at(size, offset)  # type: ignore[no-any-return]

    return _patiently(read)


def _patiently(ask: Callable[[], _T]) -> _T:
    """What a store answers; asked again where what went wrong may pass."""
    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if attempt == _ATTEMPTS - 1:
                raise
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
    info = _patiently(lambda: system.get_file_info(path))
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    return info


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

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if not is_url(self.place):
            return Path(self.place, name).read_bytes()
        _, base = open_store(self.place)
        return read_object(self.place, f"{base.rstrip('/')}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Write a file: on disk under a temporary name, synced and renamed; in a bucket by one upload.

        Raises:
            UnivFDError: it cannot be written.
        """
        try:
            if is_url(self.place):
                self._upload(name, data)
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
            raise cannot_write(Path(self.place) / name, error) from error

    def names(self, below: str = "") -> set[str]:
        """Names of the files in a folder of it, and of the folders; empty where there is none."""
        if not is_url(self.place):
            folder = Path(self.place, below)
            return {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
        system, base = open_store(self.place)
        path = f"{base.rstrip('/')}/{below}".rstrip("/")
        try:
            found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        except OSError as error:
            raise UnivFDError(f"{self.place} cannot be read: {error}") from error
        return {info.base_name for info in found}

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if not is_url(self.place):
            return Path(self.place, name).is_file()
        system, base = open_store(self.place)
        return bool(system.get_file_info(f"{base.rstrip('/')}/{name}").is_file)

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

    def _upload(self, name: str, data: bytes) -> None:
        system, base = open_store(self.place)
        with system.open_output_stream(f"{base.rstrip('/')}/{name}") as file:
            file.write(data)
