"""Images inside of a file by the name that they have in results: `shard.tar/member`, `shard.parquet/row`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileAccessError
from ..types import Failure, ImageRef, TarSpan
from ._names import display_name, failed
from ._parquet import is_parquet, parquet_images
from ._tar import is_tar, tar_images

_MOST_NAMES = 1_000_000  # of members that are remembered, of all tars together: 330 MB


def part_of(path: Path) -> ImageRef | Failure | None:
    """The image that a path names inside of a tar or a Parquet file above it; None where there is no such file.

    Args:
        path: of nothing on the disk.
    """
    for above in path.parents:
        try:
            if not above.is_file():
                continue
            found = _in_tar(above, path) if is_tar(above) else _in_parquet(above, path) if is_parquet(above) else None
        except (OSError, ValueError):
            continue
        if isinstance(found, Failure):
            return Failure(display_name(path), found.error, found.message)
        return found
    return None


def row_number(path: Path) -> int | None:
    """The row that a path names inside of a Parquet file; None: it names none."""
    number = path.name
    try:
        named = number.isascii() and number.isdecimal() and is_parquet(path.parent) and path.parent.is_file()
    except (OSError, ValueError):
        return None
    return int(number) if named else None


def absent(file: Path, path: Path) -> Failure:
    said = f"{display_name(file)} holds no image of this name; give the file for all of them"
    return failed(display_name(path), FileAccessError(said))


def _in_parquet(file: Path, path: Path) -> ImageRef | Failure:
    """A row by its number: nothing is listed."""
    row = row_number(path)
    found = next(parquet_images(file, row or 0), None)
    if isinstance(found, Failure):  # of the whole file
        return found
    return found if found is not None and row is not None else absent(file, path)


@dataclass(frozen=True, slots=True)
class _Members:
    """The images of a tar: offset and size by name, and why some may be lacking."""

    places: dict[str, tuple[str, int, int]]
    failure: Failure | None


class _Index:
    """Members of tars that were listed: a list of results names many of the same ones, in any order."""

    def __init__(self) -> None:
        self._lock, self._names = threading.Lock(), 0
        self._known: OrderedDict[tuple[Path, int, int], _Members] = OrderedDict()

    def members(self, file: Path) -> _Members:
        """Those of a tar, listed once while it does not change."""
        state = file.stat()
        key = (file, state.st_mtime_ns, state.st_size)
        with self._lock:
            if key not in self._known:
                self._known[key] = made = _listed(file)
                self._names += len(made.places)
                while self._names > _MOST_NAMES and len(self._known) > 1:
                    self._names -= len(self._known.popitem(last=False)[1].places)
            self._known.move_to_end(key)
            return self._known[key]


_index = _Index()


def _in_tar(file: Path, path: Path) -> ImageRef | Failure:
    members = _index.members(file)
    if (place := members.places.get(str(path))) is not None:
        name, offset, size = place
        return ImageRef(name, TarSpan(file, offset, size))
    return members.failure or absent(file, path)


def _listed(file: Path) -> _Members:
    places: dict[str, tuple[str, int, int]] = {}
    failure = None
    for ref in tar_images(file):
        if isinstance(ref, Failure):
            failure = failure or ref
        elif isinstance(ref.source, TarSpan):  # of several of one name the first
            places.setdefault(str(Path(ref.name)), (ref.name, ref.source.offset, ref.source.size))
    return _Members(places, failure)
