"""Rows in a table of LanceDB, on disk or on object storage: read in parts, never held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import ConflictError, FormatError, UnivFDError
from ..search import to_unit
from ..types import FloatArray, Label
from ._rows import ANY, RowNumbers, Where

_BLOCK = 8_192
_TAKEN = 500  # ids of one condition
_CACHE = 512 << 20
PANIC = "RustPanic"
"""Class of what LanceDB raises where a damaged file takes it by surprise."""
T = TypeVar("T")
Ids = NDArray[np.int64]


class LanceRows:
    """See `univfd.index.RowSource`. Use `open`.

    The table has a column of vectors (float32 or float16, fixed size) and may have `label` (0/1 or real/fake),
    `generator`, `source`, and a column of int64 ids, which must never be used again for another vector.
    Rows are numbered in the order of `ids` where given, else by ascending id.
    """

    def __init__(self, table: Any, vector: str, key: str, ids: Ids, labels: NDArray[np.uint8] | None) -> None:
        self.table, self.vector, self.key, self.ids = table, vector, key, ids
        self._labels = labels
        ascending = bool((ids[1:] > ids[:-1]).all())
        self._by_id = None if ascending else np.argsort(ids, kind="stable")
        self._sorted = ids if self._by_id is None else ids[self._by_id]
        hashed = hashlib.sha256(f"{vector} {self.dim}".encode())
        hashed.update(np.ascontiguousarray(ids).data)
        if labels is not None:
            hashed.update(labels.data)
        self._digest = hashed.hexdigest()[:16]

    @classmethod
    def open(
        cls,
        folder: Path | str,
        table: str = "rows",
        *,
        version: int | None = None,
        ids: Ids | None = None,
        id_column: str | None = None,
        vector: str = "vector",
        options: Mapping[str, str] | None = None,
        cache_bytes: int = _CACHE,
    ) -> Self:
        """Open one version of a table.

        Args:
            folder: of the database, or its address on object storage.
            table: name.
            version: of the table; None for the newest.
            ids: the rows that count, in the bank's order, of `id_column`; None for all of the table.
            id_column: int64; None for LanceDB's own row ids, which change when a table is compacted.
            vector: column of vectors.
            options: of the object store.
            cache_bytes: memory that LanceDB may keep index pages in.

        Raises:
            FormatError: no such table, column or version, or damaged.
            MissingExtraError: LanceDB is not installed.
        """
        lancedb = _library()
        with plain_errors(f"{folder}, table {table!r}"):
            session = lancedb.Session(index_cache_size_bytes=cache_bytes, metadata_cache_size_bytes=cache_bytes // 4)
            db = lancedb.connect(
                lance_place(folder), session=session, storage_options=dict(options) if options else None
            )
            opened = db.open_table(table)
            if version is not None:
                opened.checkout(version)
            fields = {f.name: str(f.type) for f in opened.schema}
            for name in (vector, *((id_column,) if id_column else ())):
                if name not in fields:
                    raise FormatError(f"{folder}, table {table!r} has no column {name!r}; it has {', '.join(fields)}")
            if not fields[vector].startswith("fixed_size_list"):
                raise FormatError(f"column {vector!r} is {fields[vector]}; expected a fixed-size list of floats")
            key = id_column or "_rowid"
            there, labels = _columns(opened, key, "label" in fields)
        order = np.argsort(there, kind="stable") if ids is None else _places(there, ids, folder)
        return cls(opened, vector, key, there[order], labels[order] if labels is not None else None)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.table.schema.field(self.vector).type.list_size)

    @property
    def digest(self) -> str:
        """Of ids and labels, in order. Vectors are not read for it: an id stands for one vector for good."""
        return self._digest

    def __len__(self) -> int:
        return len(self.ids)

    def condition(self, where: Where) -> str:
        """`where` as the table's filter; empty for all rows."""
        parts = []
        if where.label is not None:
            text = "string" in str(self.table.schema.field("label").type)
            parts.append(f"label = '{where.label.word}'" if text else f"label = {int(where.label)}")
        for column, value in (("generator", where.generator), ("source", where.source)):
            if value is not None:
                parts.append(f"{column} = '" + value.replace("'", "''") + "'")
        return " AND ".join(parts)

    def fitting(self, where: Where) -> RowNumbers:
        """See `univfd.index.RowSource`."""
        if where == ANY:
            return np.arange(len(self))
        if self._labels is not None and where == Where(where.label):
            return np.flatnonzero(self._labels == where.label)
        found = [rows for _, rows in self.read(where, [])]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.intp)

    def blocks(self, where: Where) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """See `univfd.index.RowSource`."""
        for rows, vectors in self.stored(where):
            yield rows, to_unit(vectors, in_place=True)

    def stored(self, where: Where) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """As `blocks`, with the vectors as they are in the table."""
        for batch, rows in self.read(where, [self.vector]):
            order = np.argsort(rows, kind="stable")
            yield rows[order], self._vectors(batch)[order]

    def take(self, rows: RowNumbers) -> FloatArray:
        """See `univfd.index.RowSource`."""
        out = np.empty((len(rows), self.dim), np.float32)
        wanted, inverse = np.unique(rows, return_inverse=True)
        found = np.empty((len(wanted), self.dim), np.float32)
        with plain_errors(self.table.name):
            for start in range(0, len(wanted), _TAKEN):
                ids = self.ids[wanted[start : start + _TAKEN]]
                table = self.newest(partial(self._of_ids, ids))
                for batch in table.to_batches():
                    got, known = self.numbers(batch.column(self.key).to_numpy().astype(np.int64))
                    found[np.searchsorted(wanted, got)] = self.units(batch)[known]
        out[:] = found[inverse.reshape(-1)]
        return out

    def _of_ids(self, ids: Ids) -> Any:
        if self.key == "_rowid":
            return self.table.take_row_ids(ids.tolist()).select([self.vector]).with_row_id().to_arrow()
        condition = f"{self.key} IN ({', '.join(map(str, ids.tolist()))})"
        return self.table.search().where(condition).select([self.vector, self.key]).limit(None).to_arrow()

    def newest(self, query: Callable[[], T]) -> T:
        """What a query gives: of the table as it was opened, or, where that has been cleaned away since, as it is now.

        An id stands for one vector for good, so both give the same for rows that are still there.
        """
        try:
            return query()
        except (OSError, RuntimeError, ValueError) as error:
            if self.key == "_rowid" or "not found" not in str(error).lower():
                raise
            self.table.checkout_latest()
            return query()

    def units(self, batch: Any) -> FloatArray:
        """The vectors of a record batch, scaled to length 1."""
        return to_unit(self._vectors(batch))

    def _vectors(self, batch: Any) -> FloatArray:
        flat = batch.column(self.vector).flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.astype(np.float32).reshape(-1, self.dim))

    def numbers(self, ids: Ids) -> tuple[RowNumbers, NDArray[np.bool_]]:
        """Numbers of the rows of those ids that count, and which of the ids do."""
        places = np.minimum(np.searchsorted(self._sorted, ids), max(len(self) - 1, 0))
        known = self._sorted[places] == ids if len(self) else np.zeros(len(ids), bool)
        places = places[known]
        return (places if self._by_id is None else self._by_id[places]).astype(np.intp), known

    def read(self, where: Where, columns: list[str]) -> Iterator[tuple[Any, RowNumbers]]:
        """Record batches of the rows that fit, without those that do not count, and their numbers."""
        import pyarrow as pa

        condition = self.condition(where)
        with plain_errors(self.table.name):
            for batch in self.newest(partial(self._begun, condition, columns)):
                rows, known = self.numbers(batch.column(self.key).to_numpy().astype(np.int64))
                if len(rows):
                    yield batch if known.all() else batch.filter(pa.array(known)), rows

    def _begun(self, condition: str, columns: list[str]) -> Iterator[Any]:
        query = self.table.search().limit(None)
        query = query.where(condition) if condition else query
        return _primed(iter(_selected(query, self.key, columns).to_batches(batch_size=_BLOCK)))


def _primed(batches: Iterator[Any]) -> Iterator[Any]:
    """The same, with the first one already there: what goes wrong at the start goes wrong now."""
    first = list(islice(batches, 1))
    return chain(first, batches)


def _selected(query: Any, key: str, columns: list[str]) -> Any:
    """A query that gives the ids and those columns."""
    return query.with_row_id(True).select([*columns, "_rowid"]) if key == "_rowid" else query.select([*columns, key])


def _columns(table: Any, key: str, labelled: bool) -> tuple[Ids, NDArray[np.uint8] | None]:
    ids, labels = [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    query = _selected(table.search().limit(None), key, ["label"] if labelled else [])
    for batch in query.to_batches():
        ids.append(batch.column(key).to_numpy().astype(np.int64))
        if labelled:
            words = batch.column("label").to_numpy(zero_copy_only=False)
            kinds, codes = np.unique(words, return_inverse=True)
            labels.append(np.array([Label.parse(kind) for kind in kinds.tolist()], np.uint8)[codes])
    return np.concatenate(ids), np.concatenate(labels) if labelled else None


def _places(there: Ids, ids: Ids, folder: Path | str) -> RowNumbers:
    """Where each of `ids` is in `there`."""
    by_id = np.argsort(there, kind="stable")
    places = np.minimum(np.searchsorted(there[by_id], ids), max(len(there) - 1, 0))
    missing = ids[there[by_id[places]] != ids] if len(there) else ids
    if len(missing):
        raise FormatError(f"{folder}: the table lacks {len(missing)} of {len(ids)} rows, for one id {int(missing[0])}")
    return by_id[places]


def lance_place(folder: Path | str) -> str:
    """A folder or address as LanceDB takes it: it would read a `~` at the start of a relative path as the home."""
    return str(folder) if "://" in str(folder) else str(Path(folder).absolute())


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """LanceDB's errors as one of ours; it raises `OSError`, `RuntimeError` and `ValueError` for whatever went wrong."""
    try:
        yield
    except UnivFDError:
        raise
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError | ValueError) and type(error).__name__ != PANIC:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if "conflict" in reason.lower():
            raise ConflictError(
                f"{what}: another process changed it at the same time; run the command again"
            ) from error
        raise FormatError(f"{what} cannot be read by LanceDB (missing or damaged?): {reason}") from error


def _library() -> Any:
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise registry.missing_extra("index 'lance'", error) from error
    return lancedb
