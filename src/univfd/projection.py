"""Vectors in the plane, to be looked at: PCA, t-SNE, UMAP (extra `umap`).

The same vectors always give the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import registry
from .types import FloatArray

Floats = NDArray[np.float64]

PERPLEXITY = 30
_FIRST = 50  # principal components that t-SNE and UMAP work on


@dataclass(frozen=True, eq=False)
class Projection:
    """Where N vectors are put.

    Attributes:
        method: of `METHODS`.
        places: `(N, 2)`.
        remark: what the axes are.
    """

    method: str
    places: Floats
    remark: str


@dataclass(frozen=True, eq=False)
class _Components:
    """Principal components `(N, C)`, the share of the variance of each, and what the methods are told."""

    values: Floats
    shares: Floats
    perplexity: int
    seed: int


def project(
    vectors: FloatArray, methods: Sequence[str], *, perplexity: int = PERPLEXITY, seed: int = 0
) -> list[Projection]:
    """Put vectors into the plane, by each method.

    Args:
        vectors: `(N, D)`; of length 1 where the angle between them is what counts.
        methods: of `METHODS`.
        perplexity: of t-SNE; less where there are few vectors.
        seed: of t-SNE and UMAP.

    Raises:
        UnknownNameError: no such method.
        MissingExtraError: UMAP without the extra `umap`.
    """
    from threadpoolctl import threadpool_limits

    for name in methods:
        if name not in METHODS:
            raise registry.unknown("map", name, METHODS)
    with threadpool_limits(1):  # several threads add up in another order each time
        known = _components(vectors, perplexity, seed)
        return [Projection(m, *METHODS[m](known)) for m in methods]


def _components(vectors: FloatArray, perplexity: int, seed: int) -> _Components:
    """From the products of the vectors with each other: fewer than their numbers, as a rule."""
    if len(vectors) < 2:
        return _Components(np.zeros((len(vectors), 1)), np.zeros(1), perplexity, seed)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, left = np.linalg.eigh(centred @ centred.T)
    values, left = values[::-1].clip(0), left[:, ::-1]
    left = left * np.where(left[np.abs(left).argmax(axis=0), np.arange(len(left))] < 0, -1, 1)  # of two equal signs
    shares = values / max(float(values.sum()), 1e-12)
    return _Components((left * np.sqrt(values))[:, :_FIRST], shares, perplexity, seed)


def _pca(known: _Components) -> tuple[Floats, str]:
    values = known.values
    places = values[:, :2] if values.shape[1] > 1 else np.pad(values, ((0, 0), (0, 1)))
    return places, f"the two directions of most variance ({known.shares[:2].sum():.0%} of it)"


def _alike(known: _Components) -> tuple[Floats, str] | None:
    """Where nothing tells the vectors from each other there is no map; t-SNE would divide by zero."""
    if len(known.values) > 2 and np.ptp(known.values, axis=0).max(initial=0) > 0:
        return None
    return np.zeros((len(known.values), 2)), "no map: fewer than three vectors, or all are equal"


def _tsne(known: _Components) -> tuple[Floats, str]:
    from sklearn.manifold import TSNE

    if (none := _alike(known)) is not None:
        return none
    perplexity = min(known.perplexity, max(1, (len(known.values) - 1) // 3))
    made = TSNE(init="pca", perplexity=perplexity, random_state=known.seed).fit_transform(known.values)
    return np.asarray(made, float), f"near neighbours stay near, distances mean little; perplexity {perplexity}"


def _umap(known: _Components) -> tuple[Floats, str]:
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a UMAP map", error) from error
    if (none := _alike(known)) is not None:
        return none
    neighbors = min(15, len(known.values) - 1)
    made = UMAP(n_neighbors=neighbors, random_state=known.seed, n_jobs=1).fit_transform(known.values)
    return np.asarray(made, float), f"near neighbours stay near, distances mean little; {neighbors} neighbours"


METHODS: Mapping[str, Callable[[Any], tuple[Floats, str]]] = {"pca": _pca, "tsne": _tsne, "umap": _umap}
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
