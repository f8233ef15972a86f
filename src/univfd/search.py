"""Exact nearest-neighbour search by cosine distance, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .types import FloatArray

Distances = NDArray[np.float64]
NEAR = 0.01
"""Cosine distance at or below which two pictures are nearly the same. A resized copy is mostly nearer, one that was
compressed anew mostly not: in the features that tell real from fake it differs more than many other images do."""
_BLOCK_ROWS = 65_536
_BLOCK_QUERIES = 1_024
_SPARE = 8  # candidates beyond k: float32 may put neighbours that are nearly equal in the wrong order


def nearest_rows(unit: FloatArray, base: FloatArray, k: int) -> tuple[Distances, NDArray[np.intp]]:
    """Exact cosine search.

    The candidates come out of float32 products; the distances of those few are then computed in float64, each pair
    by itself, so that a query's result does not depend on the queries beside it.

    Args:
        unit: queries `(Q, D)` of length 1.
        base: rows `(N, D)` of length 1.
        k: neighbours.

    Returns:
        Distances `(Q, min(k, N))` float64, nearest first, ties by row; and row indices.
    """
    found = [_search_block(unit[i : i + _BLOCK_QUERIES], base, k) for i in range(0, len(unit), _BLOCK_QUERIES)]
    if not found:
        return np.empty((0, min(k, len(base)))), np.empty((0, min(k, len(base))), np.intp)
    distances, rows = (np.concatenate(part) for part in zip(*found, strict=True))
    return distances, rows


def _search_block(unit: FloatArray, base: FloatArray, k: int) -> tuple[Distances, NDArray[np.intp]]:
    wide = min(k + _SPARE, len(base))
    near = np.empty((len(unit), 0), np.float32)
    rows = np.empty((len(unit), 0), np.intp)
    for start in range(0, len(base), _BLOCK_ROWS):
        block = 1 - unit @ base[start : start + _BLOCK_ROWS].T
        found = _smallest(block, wide)
        near = np.concatenate([near, np.take_along_axis(block, found, axis=1)], axis=1)
        rows = np.concatenate([rows, found + start], axis=1)
        order = np.lexsort((rows, near), axis=1)[:, :wide]
        near, rows = np.take_along_axis(near, order, 1), np.take_along_axis(rows, order, 1)
    distances = np.empty(rows.shape)
    for i, query in enumerate(unit):
        distances[i] = pair_distances(query, base[rows[i]])
    return _sorted(distances, rows, k)


def pair_distances(query: FloatArray, base: FloatArray) -> Distances:
    """Cosine distances `(n,)` float64, 0..2, of a query `(D,)` and rows `(n, D)`, all of length 1."""
    distances = np.asarray(1 - np.einsum("kd,d->k", base, query, dtype=np.float64))
    return distances.clip(0, 2)


def nearest_in_blocks(
    unit: FloatArray, blocks: Iterable[tuple[NDArray[np.intp], FloatArray]], k: int
) -> tuple[Distances, NDArray[np.intp]]:
    """Exact search in rows that come in parts, as from a disk; memory is that of one part.

    Args:
        unit: queries `(Q, D)` of length 1.
        blocks: row numbers `(n,)`, ascending, and rows `(n, D)` of length 1; no number comes twice.
        k: neighbours.

    Returns:
        As `nearest_rows`, with the given numbers.
    """
    distances, rows = np.empty((len(unit), 0)), np.empty((len(unit), 0), np.intp)
    for numbers, base in blocks:
        near, found = nearest_rows(unit, base, k)
        distances, rows = _sorted(
            np.concatenate([distances, near], axis=1), np.concatenate([rows, numbers[found]], axis=1), k
        )
    return distances, rows


def _sorted(distances: Distances, rows: NDArray[np.intp], k: int) -> tuple[Distances, NDArray[np.intp]]:
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


def _smallest(block: FloatArray, k: int) -> NDArray[np.intp]:
    """Columns of the k smallest values of each row, in any order; of equal values the first columns."""
    if k >= block.shape[1]:
        return np.broadcast_to(np.arange(block.shape[1]), block.shape)
    near = np.argpartition(block, k - 1, axis=1)[:, :k]
    bound = np.take_along_axis(block, near, axis=1).max(axis=1, keepdims=True)
    # Which of several equal values argpartition keeps is not defined; the bank's order decides.
    for tied in np.flatnonzero((block <= bound).sum(axis=1) > k):
        near[tied] = np.argsort(block[tied], kind="stable")[:k]
    return near


def to_unit(vectors: FloatArray, *, in_place: bool = False) -> FloatArray:
    """Rows scaled to length 1; zero rows stay zero.

    Args:
        vectors: `(N, D)` float32.
        in_place: write over them: nobody else has them, and a bank's are large.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    norms = np.sqrt(squares).astype(np.float32)[:, None]
    made = vectors if in_place else np.zeros_like(vectors)
    return np.asarray(np.divide(vectors, norms, out=made, where=norms > 0), np.float32)
