"""The index on a store's rows: built, looked at, dropped, and versions decided with through it.

It is LanceDB's own index on the table `rows`, one for all versions: what a version lacks is passed over, and what came
after the index is searched row by row. Its manifest, with the recall that was measured on the newest version of then,
is a line of the table `indexes`. An unfinished build leaves the line of the one before, or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..bank import FeatureBank
from ..errors import FormatError, UsageError
from ..index import EXACT_ROWS, IndexedBank, LanceRows, Manifest, RowNumbers, Where
from ..types import FloatArray, Label, digest_of
from .history import Edit, Ids
from .naming import now
from .snapshot import LargeSnapshot
from .tables import Tables

if TYPE_CHECKING:
    from .store import BankStore

_KIND = "lance"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Built:
    """An index that was finished.

    Attributes:
        version: of the store, whose rows the recall was measured on.
        content: digest of that version.
        when: UTC, ISO, to the second.
        who: who built it.
        manifest: see `univfd.index.Manifest`.
    """

    version: int
    content: str
    when: str
    who: str
    manifest: Manifest


def is_large(rows: int) -> bool:
    """Whether so many rows are searched where they lie."""
    return rows > EXACT_ROWS


def build(store: BankStore, *, aim: float | None = None) -> Built:
    """Build the index for the newest version, or build it anew; judging goes on meanwhile with the one there is.

    Args:
        store: the store.
        aim: recall@9 to set the effort for; default: the index's own.

    Raises:
        UsageError: fewer rows than an index is of use for.
        ConflictError: another process changed the table of rows at the wrong moment.
    """
    history = store.history()
    edit = history.tip
    source = store.tables.source(history.ids(edit.number))
    options = {} if aim is None else {"aim": aim}
    _, manifest = registry.load("index", _KIND).make(source, **options)
    made = Built(edit.number, edit.content, now(), store.who, manifest)
    store.tables.log_index(json.dumps(asdict(made)))
    return made


def built(tables: Tables) -> Built | None:
    """What is known of the index; None where there is none.

    Raises:
        FormatError: it cannot be read.
    """
    log = tables.index_log()
    if not log or not log[-1]:
        return None
    place = f"{tables.uri}, table 'indexes'"
    try:
        data = json.loads(log[-1])
        return Built(**(data | {"manifest": Manifest.of(data["manifest"], place)}))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{place} is damaged: {error}. Build the index again") from error


def drop(store: BankStore) -> bool:
    """Take the index out; False where there was none. The rows stay."""
    there = built(store.tables) is not None
    source = store.tables.source(np.empty(0, np.int64))
    dropped = registry.load("index", _KIND).drop(source)
    if there:
        store.tables.log_index("")
    return there or dropped > 0


def unindexed(store: BankStore) -> int:
    """Rows that came after the index, or since it last took some up."""
    found = built(store.tables)
    if found is None:
        return 0
    return int(_open(store.tables, found, np.empty(0, np.int64)).unindexed)


def opened(tables: Tables, store: str, edit: Edit, ids: Ids) -> LargeSnapshot:
    """A version that stays where it is; its list of rows is checked against its digest, each row when it is read.

    Args:
        tables: of the store.
        store: its name.
        edit: the version.
        ids: of its rows.

    Raises:
        UsageError: there is no index.
        FormatError: the version is damaged.
    """
    found = built(tables)
    if found is None:
        raise UsageError(
            f"{tables.uri}: version {edit.number} has {len(ids):,} rows; more than {EXACT_ROWS:,} are not read into "
            f"memory to decide. Build an index: univfd bank index build {tables.uri}"
        )
    there, digests = tables.digests()
    if content_of(tables, ids, there, digests) != edit.content:
        raise FormatError(f"{tables.uri}: version {edit.number} has other rows than its digest says; it is damaged")
    index = _open(tables, found, ids)
    if found.content != edit.content:
        _log.warning(
            "%s: the index was built for version %d (%s rows); this is version %d (%s rows). %s rows of the store came "
            "since and are searched one by one; the recall was measured on the rows of then. 'univfd bank index build' "
            "makes it anew", tables.uri, found.version, f"{found.manifest.rows:,}", edit.number, f"{len(ids):,}",
            f"{index.unindexed:,}",
        )  # fmt: skip
    parts = {"content": edit.content, "index": found.manifest.parameters, "effort": found.manifest.effort}
    bank = IndexedBank(tables.space, digest_of(parts)[:16], index, _Reader(tables, index.source))
    return LargeSnapshot(store, edit, ids, bank)


def content_of(tables: Tables, ids: Ids, there: Ids, digests: NDArray[np.void]) -> str:
    """The digest of a version, of the digests of all rows; empty where one is missing."""
    by_id = np.argsort(there, kind="stable")
    places = np.minimum(np.searchsorted(there, ids, sorter=by_id), max(len(there) - 1, 0))
    if len(ids) and (not len(there) or (there[by_id[places]] != ids).any()):
        return ""
    hashed = hashlib.sha256(tables.space.digest.encode())
    hashed.update(digests[by_id[places]].tobytes() if len(ids) else b"")
    return hashed.hexdigest()


def _open(tables: Tables, found: Built, ids: Ids) -> Any:
    return registry.load("index", _KIND).open(tables.source(ids), tables.uri, found.manifest)


@dataclass(frozen=True, eq=False)
class _Reader:
    """See `univfd.index.IndexedBank`."""

    tables: Tables
    source: LanceRows

    def take(self, rows: RowNumbers) -> FeatureBank:
        """The rows, checked against their digests."""
        return self.tables.read(self.source.ids[rows]).bank

    def keys(self) -> NDArray[np.uint8]:
        """Read through the table."""
        keys = np.empty((len(self.source), 32), np.uint8)
        for batch, rows in self.source.read(Where(), ["key"]):
            keys[rows] = np.frombuffer(bytes.fromhex("".join(batch.column("key").to_pylist())), np.uint8).reshape(
                -1, 32
            )
        return keys

    def blocks(self, label: Label) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """Read through the table."""
        return self.source.stored(Where(label))
