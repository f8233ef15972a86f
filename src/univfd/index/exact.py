"""Exact search: the definition, and the measure of all other indexes."""

from __future__ import annotations

from ..search import Distances, nearest_in_blocks
from ..types import FloatArray
from . import ANY, Manifest, RowNumbers, RowSource, Where, checked


class ExactIndex:
    """See `univfd.index.NeighborIndex`. Rows on disk are read through at every search, once for all queries."""

    COVERS_NEW_ROWS = True
    manifest: Manifest | None = None

    def __init__(self, source: RowSource) -> None:
        self.source = source

    def search(self, queries: FloatArray, k: int, where: Where = ANY) -> tuple[Distances, RowNumbers]:
        """See `univfd.index.NeighborIndex`."""
        return nearest_in_blocks(checked(queries, self.source.dim, k), self.source.blocks(where), k)


PLUGIN = ExactIndex
