"""Where the encoder puts real and fake images: their embeddings in two dimensions, as far as they are cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..benchmark.rows import Images
from ..embedding_cache import EmbeddingCache, Keyed
from ..types import FeatureSpace, FloatArray, ImageRef

LIMIT = 1500
"""Images of a map, at most."""
LEAST = 10
_FIRST = 50  # principal components that t-SNE and UMAP work on


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Images of one feature space in the plane.

    Attributes:
        method: of `METHODS`.
        rows: `(P,)` of the run's images.
        places: `(P, 2)`.
        remark: what the axes are.
    """

    method: str
    rows: NDArray[np.intp]
    places: NDArray[np.float64]
    remark: str


def cached(
    space: FeatureSpace, perturb: str, images: Images, root: Path | None, limit: int = LIMIT
) -> tuple[NDArray[np.intp], FloatArray]:
    """The kept embeddings of an even choice of images.

    Args:
        space: the feature space.
        perturb: chain of perturbations.
        images: of the run.
        root: of the cache, see `EmbeddingCache`.
        limit: images.

    Returns:
        Rows `(P,)` and vectors `(P, D)`; each file once, generators and sources in turn, so that a small one is seen.
    """
    kept = EmbeddingCache(space, perturb, root)
    sha256 = images.columns["sha256"]
    there: dict[str, int] = {}
    for row in range(len(images)) if len(kept) else ():
        if sha256[row] and kept.has(sha256[row]):
            there.setdefault(sha256[row], row)
    rows = np.array(sorted(_in_turn(there.values(), images)[:limit]), np.intp)
    keys = [Keyed(ImageRef(sha256[row], b""), sha256[row]) for row in rows]
    return rows, kept.batch(keys, {}).embeddings.vectors


def maps(rows: NDArray[np.intp], vectors: FloatArray, methods: Sequence[str]) -> list[FeatureMap]:
    """Vectors in the plane, by each method; always the same for the same vectors.

    Args:
        rows: `(P,)`, P at least `LEAST`.
        vectors: `(P, D)`.
        methods: of `METHODS`.

    Raises:
        MissingExtraError: UMAP without the extra `umap`.
    """
    from threadpoolctl import threadpool_limits

    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    with threadpool_limits(1):  # several threads add up in another order each time
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        left *= np.where(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])] < 0, -1, 1)  # of two equal signs
        components = (left * sizes)[:, :_FIRST]
        shares = sizes**2 / max(float((sizes**2).sum()), 1e-12)
        return [FeatureMap(m, rows, *METHODS[m](components, shares)) for m in methods]


def _pca(components: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    places = components[:, :2] if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))
    return places, f"the two directions of most variance ({shares[:2].sum():.0%} of it)"


def _tsne(components: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(components) - 1) / 3)
    places = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(components)
    return np.asarray(places, float), f"near neighbours stay near, distances mean little; perplexity {perplexity:g}"


def _umap(components: NDArray[np.float64], shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a UMAP map", error) from error
    neighbors = min(15, len(components) - 1)
    places = UMAP(n_neighbors=neighbors, random_state=0, n_jobs=1).fit_transform(components)
    return np.asarray(places, float), f"near neighbours stay near, distances mean little; {neighbors} neighbours"


METHODS: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], tuple[NDArray[np.float64], str]]] = {
    "pca": _pca,
    "tsne": _tsne,
    "umap": _umap,
}
TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def _in_turn(rows: Any, images: Images) -> list[int]:
    """Rows so that every generator and source comes in turn, each in the order of its files' checksums."""
    fake, source, generator = images.fake, images.columns["source"], images.columns["generator"]
    groups: dict[tuple[bool, str], list[int]] = {}
    for row in sorted(rows, key=lambda row: images.columns["sha256"][row]):
        groups.setdefault((bool(fake[row]), generator[row] if fake[row] else source[row]), []).append(row)
    members = [groups[key] for key in sorted(groups)]
    return [row for turn in zip_longest(*members) for row in turn if row is not None]
