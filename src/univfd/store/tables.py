"""The two LanceDB tables of a store, and LanceDB's errors in plain words. Nothing else of the package knows LanceDB.

`edits` is changed by one operation only, `seal`: it writes edit n + 1 and marks edit n as sealed, in one commit, if n
was not sealed. Of two processes that try, LanceDB lets one commit; the other one's operation is repeated on the new
state, where n is sealed and n + 1 is there, and so changes nothing. (Inserting n + 1 alone would not do: two inserts of
one key do not conflict.)
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import ConflictError, FormatError, OutputExistsError, UnivFDError, UsageError
from ..index import PANIC, LanceRows, lance_place
from ..storage import locked
from ..types import FeatureSpace, Label
from ..wording import counted
from ._arrow import arrow, edit, edits_schema, gather, record, rows_schema, to_arrow
from .history import Edit, Ids
from .naming import is_address
from .rows import TEXTS, Rows

KIND, SCHEMA = "bank store", 1
ROWS, EDITS, INDEXES = "rows", "edits", "indexes"
_META = b"univfd"
_CREATING = "store"  # locks `.store.lock`
_OWN = {f"{ROWS}.lance", f"{EDITS}.lance", f".{_CREATING}.lock"}
_CHUNK = 1 << 16
_INDEX_BITS = 20  # of an id: the place in its chunk; the rest is random, so that processes need not agree
_IN_LIST = 5_000
Options = Mapping[str, str]


class Tables:
    """The tables of one store, open."""

    def __init__(self, uri: str, rows: Any, edits: Any, space: FeatureSpace, options: Options | None) -> None:
        self.uri, self.space = uri, space
        self._rows, self._edits, self._options = rows, edits, options

    @classmethod
    def create(cls, uri: str, space: FeatureSpace, first: Edit, options: Options | None = None) -> Tables:
        """Make the tables; the store is there once `edits` is.

        No table that is there is touched. Of two processes that make a folder one at once, one is refused; on object
        storage LanceDB lets both, and the second one's is there in the end.

        Raises:
            OutputExistsError: there is a store already, or something else, or another process is making one.
        """
        pa = arrow()
        with _plain_errors(uri), nullcontext() if is_address(uri) else _alone(Path(uri).absolute()):
            if not is_address(uri) and Path(uri).exists() and _foreign(Path(uri)):
                raise OutputExistsError(f"{uri} exists already and is no empty folder; choose another name")
            db = _connect(uri, options)
            there = _names(db)
            if EDITS in there:
                raise OutputExistsError(f"{uri} holds a store already; nothing was changed. Choose another name")
            meta = {_META: json.dumps({"kind": KIND, "schema": SCHEMA, "space": space.to_dict()}).encode()}
            made = rows_schema(space.dim).with_metadata(meta)
            rows = db.open_table(ROWS) if ROWS in there else db.create_table(ROWS, schema=made, exist_ok=True)
            _require_unused(uri, rows, space)
            schema = edits_schema().with_metadata(meta)
            edits = db.create_table(EDITS, pa.Table.from_pylist([record(first, sealed=False)], schema=schema))
        return cls(uri, rows, edits, space, options)

    @classmethod
    def open(cls, uri: str, options: Options | None = None) -> Tables:
        """Open the tables.

        Raises:
            FormatError: not a store, damaged, or of a newer schema.
        """
        if not is_address(uri) and not Path(uri).is_dir():
            raise FormatError(f"{uri} is no bank store: there is no such folder. Make one with 'univfd bank create'")
        with _plain_errors(uri):
            db = _connect(uri, options)
            there = _names(db)
            if not {ROWS, EDITS} <= there:
                raise FormatError(
                    f"{uri} is no bank store: it has {'tables ' + ', '.join(sorted(there)) if there else 'no tables'}; "
                    f"expected {EDITS} and {ROWS}"
                )
            rows, edits = db.open_table(ROWS), db.open_table(EDITS)
            spaces = [_space(uri, table) for table in (rows, edits)]
        if spaces[0] != spaces[1]:
            raise FormatError(f"{uri}: its two tables are of different feature spaces; they are not of one store")
        for table, schema in ((rows, rows_schema(spaces[0].dim)), (edits, edits_schema())):
            if lacking := [f.name for f in schema if f.name not in table.schema.names]:
                raise FormatError(f"{uri}: table {table.name} lacks the columns {', '.join(lacking)}")
        return cls(uri, rows, edits, spaces[0], options)

    def edits(self) -> list[Edit]:
        """All edits, oldest first, as they are now."""
        with _plain_errors(self.uri):
            self._edits.checkout_latest()
            records = self._edits.search().to_arrow().to_pylist()
        try:
            edits = sorted((edit(r) for r in records), key=lambda e: e.number)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.uri}: an edit cannot be read ({error}); the store is damaged") from error
        numbers = [e.number for e in edits]
        if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise FormatError(f"{self.uri}: the list of edits has gaps or doubles ({numbers[:20]}); it is damaged")
        return edits

    def seal(self, tip: Edit, new: Edit) -> bool:
        """Write an edit after `tip`; False where another process has written one meanwhile."""
        pa = arrow()
        both = [record(tip, sealed=True), record(new, sealed=False)]
        merge = self._edits.merge_insert("number").when_matched_update_all(
            where=f"target.number = {tip.number} AND target.sealed = false"
        )
        with _plain_errors(self.uri):
            done = merge.when_not_matched_insert_all().execute(pa.Table.from_pylist(both, schema=edits_schema()))
        return bool(done.num_inserted_rows == 1)

    def squash(self, base: Edit) -> None:
        """Put `base`, which is sealed, in the place of the edit of its number and drop all edits before it.

        Sealed edits are changed by nothing else, and two processes that do this come to the same result.
        """
        pa = arrow()
        merge = self._edits.merge_insert("number").when_matched_update_all()
        merge = merge.when_not_matched_by_source_delete(f"number < {base.number}")
        with _plain_errors(self.uri):
            merge.execute(pa.Table.from_pylist([record(base, sealed=True)], schema=edits_schema()))

    def append(self, rows: Rows) -> Ids:
        """Write rows; they count for nothing until an edit names their ids."""
        ids = np.empty(len(rows), np.int64)
        with _plain_errors(self.uri):
            for start in range(0, len(rows), _CHUNK):
                part = rows.take(np.arange(start, min(start + _CHUNK, len(rows))))
                salt = secrets.randbits(62 - _INDEX_BITS) << _INDEX_BITS
                ids[start : start + len(part)] = salt + np.arange(len(part))
                self._rows.add(to_arrow(ids[start : start + len(part)], part))
        return ids

    def digests(self) -> tuple[Ids, NDArray[np.void]]:
        """Ids of all rows that were ever written, and their digests."""
        with _plain_errors(self.uri):
            self._rows.checkout_latest()
            table = self._rows.search().select(["id", "digest"]).to_arrow()
        column = table.column("digest").combine_chunks()
        whole = np.frombuffer(column.buffers()[1] or b"", "V32")
        return table.column("id").to_numpy(), whole[column.offset : column.offset + len(column)]

    def source(self, ids: Ids) -> LanceRows:
        """The rows of a version, in that order, left where they are; its table is the newest one of now."""
        return LanceRows.open(self.uri, ROWS, ids=ids, id_column="id", options=self._options)

    def index_log(self) -> list[str]:
        """What `log_index` was given, oldest first."""
        with _plain_errors(self.uri):
            db = _connect(self.uri, self._options)
            if INDEXES not in _names(db):
                return []
            records = db.open_table(INDEXES).search().to_arrow().to_pylist()
        return [r["what"] for r in sorted(records, key=lambda r: r["when"])]

    def log_index(self, what: str) -> None:
        """Keep a text about the index on the rows; earlier ones stay."""
        pa = arrow()
        with _plain_errors(self.uri):
            db = _connect(self.uri, self._options)
            schema = pa.schema([pa.field("when", pa.float64(), nullable=False), pa.field("what", pa.string())])
            table = db.create_table(INDEXES, schema=schema, exist_ok=True)
            before = table.search().select(["when"]).to_arrow().column("when").to_numpy()
            when = max(time.time(), np.nextafter(before.max(initial=0), np.inf))  # also where the clock was put back
            table.add(pa.Table.from_pylist([{"when": float(when), "what": what}], schema=schema))

    def read(self, ids: Ids) -> Rows:
        """Rows by id, in that order, checked against their digests; without thumbnails.

        Raises:
            FormatError: one is missing or damaged.
        """
        with _plain_errors(self.uri):
            self._rows.checkout_latest()
            query = self._rows.search().select(["id", "key", "label", *TEXTS, "width", "height", "digest", "vector"])
            if len(ids) <= _IN_LIST:
                query = query.where(f"id IN ({','.join(map(str, ids.tolist())) or -1})")
            rows, digests = gather(self.uri, query.to_batches(), ids, self.space)
        damaged = np.flatnonzero(rows.digests != digests)
        if len(damaged):
            raise FormatError(
                f"{self.uri}: {counted(len(damaged), 'row differs from its digest', 'rows differ from their digests')} "
                f"(the first: key {rows.bank.key(int(damaged[0]))[:12]}); changed or damaged outside of univfd"
            )
        return rows

    def keys(self, ids: Ids) -> dict[str, tuple[int, Label]]:
        """Id and label of each of these rows, by key."""
        with _plain_errors(self.uri):
            self._rows.checkout_latest()
            table = self._rows.search().select(["id", "key", "label"]).to_arrow()
        there, keys, labels = (table.column(c) for c in ("id", "key", "label"))
        wanted = np.isin(there.to_numpy(), ids)
        rows = zip(there.to_pylist(), keys.to_pylist(), labels.to_pylist(), wanted.tolist(), strict=True)
        return {key: (i, Label(label)) for i, key, label, live in rows if live}

    def thumbnails(self, ids: Ids) -> dict[int, bytes]:
        """Thumbnails by id, of those that have one."""
        found: dict[int, bytes] = {}
        with _plain_errors(self.uri):
            for start in range(0, len(ids), _IN_LIST):
                part = ",".join(map(str, ids[start : start + _IN_LIST].tolist()))
                table = self._rows.search().select(["id", "thumbnail"]).where(f"id IN ({part})").to_arrow()
                found |= {r["id"]: r["thumbnail"] for r in table.to_pylist() if r["thumbnail"]}
        return found

    def clean(self, used: Ids, older_than: timedelta) -> int:
        """Remove rows that no edit names and that are older, join small files; the number of rows removed."""
        with _plain_errors(self.uri):
            self._rows.checkout_latest()
            table = self._rows.search().select(["id", "written"]).to_arrow()
            old = table.column("written").to_numpy() < time.time() - older_than.total_seconds()
            orphans = table.column("id").to_numpy()[old]
            orphans = orphans[~np.isin(orphans, used)]
            for start in range(0, len(orphans), _IN_LIST):
                self._rows.delete(f"id IN ({','.join(map(str, orphans[start : start + _IN_LIST].tolist()))})")
            for each in (self._rows, self._edits):
                each.optimize(cleanup_older_than=max(older_than, timedelta(minutes=10)))
        return len(orphans)


def _connect(uri: str, options: Options | None) -> Any:
    try:
        import lancedb
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a bank store", error) from error
    return lancedb.connect(lance_place(uri), storage_options=dict(options) if options else None)


def _names(db: Any) -> set[str]:
    return set(db.list_tables(limit=1000).tables)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second creation off a folder: LanceDB lets two processes create one table.

    Raises:
        OutputExistsError: another process is at it, or a part of the path is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputExistsError(f"{folder}: this, or a folder above it, is a file; choose another name") from error
    with locked(folder / _CREATING):
        yield


def _foreign(folder: Path) -> bool:
    """Whether something lies there that no killed creation of a store has left."""
    return not folder.is_dir() or any(f.name not in _OWN for f in folder.iterdir())


def _require_unused(uri: str, rows: Any, space: FeatureSpace) -> None:
    """That a table of rows without edits is of a creation that was killed, or is under way: ours, and empty.

    Raises:
        OutputExistsError: it is not, or of another feature space.
    """
    try:
        own = _space(uri, rows) == space
    except FormatError:
        own = False
    if not own or rows.count_rows():
        raise OutputExistsError(
            f"{uri} holds a table {ROWS!r} and no {EDITS!r}: of something else, of a damaged store, or of one that was "
            "begun with another feature space. Nothing was changed; choose another name"
        )


def _space(uri: str, table: Any) -> FeatureSpace:
    try:
        said = json.loads((table.schema.metadata or {})[_META])
        kind, schema = said["kind"], said["schema"]
    except (KeyError, ValueError, TypeError):
        raise FormatError(f"{uri}: its table {table.name!r} was not made by univfd; this is no bank store") from None
    if kind != KIND:
        raise FormatError(f"{uri} is a {kind!r}; expected a {KIND}")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise FormatError(
            f"{uri} is a {KIND} of schema {schema!r}; this version reads up to {SCHEMA}. Update univfd to read it"
        )
    return FeatureSpace.from_dict(said["space"])


@contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    """LanceDB raises `RuntimeError`, `ValueError` and `OSError` with Rust's words; say which of our cases it is."""
    try:
        yield
    except UnivFDError:
        raise
    except UnicodeError as error:
        raise UsageError(f"{uri}: a text to be written is no Unicode: {error}") from error
    except Exception as error:
        if not isinstance(error, RuntimeError | ValueError | OSError) and type(error).__name__ != PANIC:
            raise
        text = " ".join(str(error).split())
        low = text.lower()
        for own in (str(Path(uri).resolve()), str(Path(uri).absolute())):  # a folder may be called as an error is
            low = low.replace(own.lower().lstrip("/"), "")
        if any(w in low for w in ("permission denied", "read-only file system", "accessdenied", "access denied")):
            raise UnivFDError(f"{uri} cannot be written: no permission, or read-only. Choose another place") from error
        if "conflict" in low or "concurrent" in low:
            raise ConflictError(f"{uri}: another process changed it at the same time; run the command again") from error
        if "no space left" in low or "quota" in low:
            raise UnivFDError(f"{uri} cannot be written: the disk is full. Make room; nothing was changed") from error
        if any(
            w in low
            for w in ("timed out", "timeout", "connect error", "error sending request", "credential", "resolve region")
        ):
            raise UnivFDError(
                f"{uri} cannot be reached: {text[:300]}. Check address, credentials, region and network"
            ) from error
        if "nosuchbucket" in low:
            raise UsageError(f"{uri}: there is no such bucket") from error
        raise FormatError(f"{uri}: the store cannot be read, it is damaged or incomplete: {text[:300]}") from error
