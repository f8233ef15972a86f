"""The cached embeddings that a feature map shows: an even choice of a run's images."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..benchmark.rows import Images
from ..embedding_cache import EmbeddingCache, Keyed
from ..types import FeatureSpace, FloatArray, ImageRef

LIMIT = 1500
"""Images of a map, at most."""
LEAST = 10


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


def _in_turn(rows: Any, images: Images) -> list[int]:
    """Rows so that every generator and source comes in turn, each in the order of its files' checksums."""
    fake, source, generator = images.fake, images.columns["source"], images.columns["generator"]
    groups: dict[tuple[bool, str], list[int]] = {}
    for row in sorted(rows, key=lambda row: images.columns["sha256"][row]):
        groups.setdefault((bool(fake[row]), generator[row] if fake[row] else source[row]), []).append(row)
    members = [groups[key] for key in sorted(groups)]
    return [row for turn in zip_longest(*members) for row in turn if row is not None]
