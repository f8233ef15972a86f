"""Parquet files with a column of encoded images (extra `parquet`): rows by number, read a row group at a time."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import registry
from ..errors import EmptyFileError, FileAccessError, MissingExtraError, NotAnImageError, TruncatedImageError
from ..types import Failure, ImageRef, ParquetCell
from ._names import NOT_REGULAR, display_name, failed, unreachable

_NAMES = ("image", "img", "image_bytes", "bytes", "content", "data", "jpg", "jpeg", "png", "webp")
"""Columns of bytes that are taken for images where there are several, in this order."""
NO_IMAGES = "a Parquet file without a column of image bytes ('image' or 'bytes')"
_KEPT_GROUPS = 2

_reading = threading.Lock()


def is_parquet(path: Path) -> bool:
    """Whether the file is taken as Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def image_column(path: Path) -> str | None:
    """The column that holds encoded images: of bytes, or with a field `bytes` (as the `datasets` library writes).

    Where there are several, or a column `file` says where the images are, only a usual name counts. What this package
    writes for itself (the listing of a run on Ray) holds none.

    Returns:
        Its name (`image`, `image.bytes`), or None where there is none.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be read.
        FileAccessError: it is a pipe, socket or device.
        NotAnImageError: it is no Parquet file.
    """
    with _opened(path) as file:
        return image_column_of(file.schema_arrow)


def image_column_of(schema: Any) -> str | None:
    """`image_column` of an open file, by its Arrow schema."""
    import pyarrow as pa

    found = {}
    if b"univfd" in (schema.metadata or {}):  # the listing of a run
        return None
    for field in schema:
        if _is_bytes(field.type):
            found[field.name] = field.name
        elif pa.types.is_struct(field.type) and any(f.name == "bytes" and _is_bytes(f.type) for f in field.type):
            found[field.name] = f"{field.name}.bytes"
    # a manifest's; its bytes may be thumbnails or embeddings
    beside_files = "file" in schema.names and "file" not in found
    if len(found) > 1 or beside_files:
        found = {name: found[name] for name in _NAMES if name in found}
    return next(iter(found.values()), None)


def columns_of(path: Path) -> tuple[list[str], bool]:
    """Names of the columns of a Parquet file, and whether this package wrote it: a listing, or rows.

    Raises:
        MissingExtraError, OSError, FileAccessError, NotAnImageError: as `image_column`.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        return schema.names, b"univfd" in (schema.metadata or {})


def parquet_images(path: Path, first: int = 0) -> Iterator[ImageRef | Failure]:
    """One reference a row, in order, from a row on; a `Failure` where the file is damaged or holds no images."""
    name = display_name(path)
    try:
        column = image_column(path)
        if column is None:
            yield failed(name, NotAnImageError(NO_IMAGES))
            return
        yield from cell_refs(path, column, first)
    except MissingExtraError as error:
        yield Failure(name, error.code, str(error))
    except NotAnImageError as error:
        yield failed(name, error)
    except OSError as error:
        yield unreachable(path, error)


def cell_refs(path: Path, column: str, first: int = 0) -> Iterator[ImageRef]:
    """A reference to each row's image from row `first` on, named `shard.parquet/row`; no image is read."""
    with _opened(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for row in range(max(first - start, 0), rows):
                number = start + row
                yield ImageRef(f"{display_name(path)}/{number}", ParquetCell(path, column, group, row, number))
            start += rows


def read_cell(cell: ParquetCell) -> bytes:
    """The encoded image of a row. Neighbouring rows cost one read of their row group.

    Raises:
        EmptyFileError: the row holds no bytes.
        FileAccessError: it holds something else.
        TruncatedImageError: the row group is damaged.
        OSError: the file cannot be read.
    """
    state = cell.file.stat()
    with _reading:  # else every thread would read the same row group for itself
        values = _group(cell.file, cell.column, cell.group, (state.st_mtime_ns, state.st_size))
    if cell.row >= len(values):
        raise TruncatedImageError("the Parquet file has fewer rows than when it was listed")
    value = values[cell.row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        raise EmptyFileError("the row holds no bytes of an image")
    if not isinstance(value, bytes):  # of a column that was named
        raise FileAccessError(f"the row holds no bytes of an image but {type(value).__name__}")
    return value


@lru_cache(maxsize=_KEPT_GROUPS)
def _group(path: Path, column: str, group: int, state: tuple[int, int]) -> Any:
    import pyarrow as pa

    try:
        with _opened(path) as file:
            return file.read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, UnicodeError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise TruncatedImageError(f"row group {group} is damaged: {error}") from error


def _opened(path: Path) -> Any:
    """An open `pyarrow.parquet.ParquetFile`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a Parquet file of images", error) from error
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise FileAccessError(NOT_REGULAR)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, UnicodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise NotAnImageError(f"not a readable Parquet file: {error}") from error


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
