"""Nearest rows of a bank of any size. Each index is one file of this folder and is reached through the registry.

All of them answer alike: cosine distances computed in float64 from the bank's own vectors, each pair by itself, so that
a row which two indexes both find has the very same distance in both. They differ in which rows they find: `exact` finds
the nearest, the others miss a share of them that was measured when they were built (`recall` in `index.json`).

`exact` is the default, and at up to `EXACT_ROWS` rows there is no reason for another.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from .. import registry
from ..bank import FeatureBank
from ..errors import StaleIndexError, UsageError
from ..search import Distances, to_unit
from ..types import FloatArray
from ._indexed_bank import Bank, IndexedBank
from ._lance_rows import PANIC, LanceRows, lance_place
from ._manifest import Manifest
from ._rows import ANY, BankRows, RowNumbers, RowSource, Where

EXACT_ROWS = 200_000
"""Up to here `exact` is the default: a query of 768 dimensions took 0.04 CPU seconds here."""
IfStale = Literal["refuse", "exact", "accept"]
"""What to do with an index of other rows: an error; exact search, said in the log; use it all the same."""

_log = logging.getLogger(__name__)

__all__ = [
    "ANY", "EXACT_ROWS", "PANIC", "Bank", "BankRows", "IfStale", "IndexedBank", "LanceRows", "Manifest",
    "NeighborIndex", "RowNumbers", "RowSource", "Where", "choose", "lance_place", "open_index",
]  # fmt: skip


class NeighborIndex(Protocol):
    """The role: nearest rows of one version of a bank."""

    @property
    def source(self) -> RowSource:
        """The rows that it answers for."""
        ...

    @property
    def manifest(self) -> Manifest | None:
        """How it was built and its measured recall; None for exact search, which misses nothing."""
        ...

    def search(self, queries: FloatArray, k: int, where: Where = ANY) -> tuple[Distances, RowNumbers]:
        """The k nearest rows that fit.

        Args:
            queries: `(Q, D)` float32 in the bank's feature space, of any length.
            k: neighbours, at least 1; fewer come back where fewer rows fit.
            where: which rows are looked at.

        Returns:
            Cosine distances `(Q, min(k, rows that fit))` float64, 0..2, nearest first, ties by row; and row numbers.

        Raises:
            UsageError: queries of another dimension or not finite, or k below 1.
        """
        ...


def choose(rows: int, *, on_disk: bool = False) -> str:
    """Name of the index for a bank of that many rows: `exact`, `faiss` in memory, `lance` on disk."""
    if rows <= EXACT_ROWS:
        return "exact"
    return "lance" if on_disk else "faiss"


def open_index(
    source: RowSource | FeatureBank, folder: Path | str | None = None, *, stale: IfStale = "refuse"
) -> NeighborIndex:
    """The index in a folder for the rows of a bank; without a folder, exact search.

    Args:
        source: the rows, as they are now: a bank, or `LanceRows`.
        folder: what `build` of an index wrote; None for exact search.
        stale: what to do if the index was built for other rows. `accept` is for `lance` only, whose table lends every
            index the rows that came after it; the recall that was measured is then that of other rows.

    Raises:
        FormatError: no index, damaged, of another dimension or of a newer schema.
        StaleIndexError: it is stale and may not be used.
        MissingExtraError: its library is not installed.
    """
    rows = BankRows(source) if isinstance(source, FeatureBank) else source
    exact = registry.load("index", "exact")
    if folder is None:
        if len(rows) > EXACT_ROWS:
            _log.warning("exact search in %s rows is slow; build an index '%s'", f"{len(rows):,}", choose(len(rows)))
        return exact(rows)  # type: ignore[no-any-return]
    manifest = Manifest.read(Path(folder))
    manifest.require_dim(rows.dim, Path(folder))
    kind = registry.load("index", manifest.index)
    if manifest.digest != rows.digest:
        what = (
            f"{folder} was built for {manifest.rows:,} rows (digest {manifest.digest}); "
            f"the bank has {len(rows):,} now (digest {rows.digest})"
        )
        if stale == "exact":
            _log.warning("%s: searching exactly instead", what)
            return exact(rows)  # type: ignore[no-any-return]
        if stale == "refuse" or not kind.COVERS_NEW_ROWS:
            raise StaleIndexError(f"{what}. Build the index again, or search exactly (stale='exact')")
        _log.warning("%s: using it all the same; its recall was measured on the rows of then", what)
    return kind.open(rows, Path(folder), manifest)  # type: ignore[no-any-return]


def checked(queries: FloatArray, dim: int, k: int) -> FloatArray:
    """Queries `(Q, D)` scaled to length 1.

    Raises:
        UsageError: of another dimension or not finite, or k below 1.
    """
    if k < 1:
        raise UsageError(f"k is {k}; expected at least 1")
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UsageError(f"queries have shape {queries.shape}; expected (queries, {dim}), the bank's dimension")
    if not np.isfinite(queries).all():
        raise UsageError("queries are not finite (nan or infinity)")
    return to_unit(np.ascontiguousarray(queries, np.float32))
