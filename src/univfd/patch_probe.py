"""The patch probe: a linear layer whose score of a crop is, exactly, the mean of the scores of its patches.

As `w . mean(t) + b = mean(w . t + b)` over the patch tokens t of a crop, the layer read on the single tokens says where
in the picture its score comes from. Where that is need not be where a picture was edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DataError, FormatError
from .storage import finite, read_arrays, write_arrays
from .types import FeatureSpace, FloatArray, Label

FILE = "patch_probe.safetensors"


@dataclass(frozen=True, eq=False)
class PatchProbe:
    """A linear layer on the patch tokens of one block.

    Attributes:
        space: of the features it was trained on; its one tap is `mean.i`, the mean patch token after block i.
        coef: `(W,)` float32.
        intercept: score of a patch of zeros.
        data: what it was trained on, in words.
    """

    space: FeatureSpace
    coef: FloatArray
    intercept: float
    data: str

    def __post_init__(self) -> None:
        """Refuse what is no layer on patch tokens."""
        if [t.partition(".")[0] for t in self.space.taps] != ["mean"] or not self.space.taps[0][5:].isdecimal():
            raise FormatError(f"a patch probe on taps {', '.join(self.space.taps)}; expected one, mean.i")
        if self.coef.shape != (self.space.dim,):
            raise FormatError(f"a patch probe with weights {self.coef.shape}; its space needs ({self.space.dim},)")

    @property
    def block(self) -> int:
        """The block of the encoder that the patch tokens come from, counted from 1."""
        return int(self.space.taps[0].partition(".")[2])

    def scores(self, tokens: FloatArray) -> FloatArray:
        """Scores `(...)` float32 of patch tokens `(..., W)`; above 0 = fake."""
        return np.asarray(tokens @ self.coef + np.float32(self.intercept), dtype=np.float32)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the weights into a detector's folder; gives the entry for its manifest."""
        write_arrays(folder / FILE, {"coef": self.coef, "intercept": np.array([self.intercept])})
        return {"space": self.space.to_dict(), "data": self.data}

    @classmethod
    def read(cls, folder: Path, record: object) -> PatchProbe:
        """Inverse of `write`.

        Args:
            folder: the detector's.
            record: the entry of its manifest.

        Raises:
            FormatError: an entry or a file that cannot be read.
        """
        if not isinstance(record, Mapping) or not isinstance(record.get("data"), str) or "space" not in record:
            raise FormatError(f"{folder}: the manifest's 'patch_probe' needs a feature space and data (text)")
        arrays = finite(folder / FILE, read_arrays(folder / FILE, {"coef": (None,), "intercept": (1,)}))
        space = FeatureSpace.from_dict(record["space"])
        return cls(space, arrays["coef"].astype(np.float32), float(arrays["intercept"][0]), record["data"])


def fit_patch_probe(
    means: FloatArray,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    scatter: NDArray[np.float64],
    space: FeatureSpace,
    data: str,
    region: float = 10,
    shrinkage: float = 0.1,
) -> PatchProbe:
    """Train by linear discriminant analysis of what the mean of a few neighbouring patches looks like.

    Such a mean deviates from its class by as much as pictures do (S, measured on `means`) and by as much as patches of
    one picture do (T, `scatter`), the latter less the more patches there are:

        K = S + T / region,   w = (K + shrinkage diag K)^-1 (m_fake - m_real),   b = -w . (m_fake + m_real) / 2

    (Hastie, Tibshirani, Friedman: "The Elements of Statistical Learning", section 4.3.) Without T the layer is fit for
    whole crops only, and on single patches the subject of the picture drowns the traces. The scores are the log-odds of
    that model, in which both classes are equally likely; they are not calibrated.

    Args:
        means: `(N, W)` mean patch tokens of crops (tap `mean.i`).
        labels: `(N,)` 0 = real, 1 = fake.
        groups: `(N,)` generator or source of each image: each gets the same weight within its class, whatever its
            size. None: each image gets the same.
        scatter: `(W, W)` covariance of single patches within their crop, see `patch_scatter`.
        space: of the means.
        data: what they were made of, in words.
        region: patches of the region that the layer is made for.
        shrinkage: as a share of each feature's variance.

    Raises:
        DataError: not both classes, or shapes that do not fit together.
    """
    from scipy.linalg import solve

    coded = np.asarray(labels)
    if means.ndim != 2 or len(means) != len(coded) or set(np.unique(coded)) != set(Label):
        raise DataError(
            f"means {means.shape} with {len(coded)} labels {np.unique(coded)}; expected (N, W), N of 0 and 1"
        )
    if scatter.shape != (means.shape[1],) * 2:
        raise DataError(f"a scatter of shape {scatter.shape} for patch tokens of {means.shape[1]} values")
    weight = _equal_groups(coded, np.zeros(len(coded)) if groups is None else np.asarray(groups))
    centres = np.stack([weight[coded == c] @ means[coded == c] / weight[coded == c].sum() for c in Label])
    deviation = (means - centres[coded]) * np.sqrt(weight / weight.sum())[:, None]
    covariance = deviation.T @ deviation + scatter / region
    covariance[np.diag_indices_from(covariance)] *= 1 + shrinkage
    coef = solve(covariance, centres[Label.FAKE] - centres[Label.REAL], assume_a="pos")
    return PatchProbe(space, coef.astype(np.float32), float(-coef @ centres.mean(axis=0)), data)


def patch_scatter(tokens: FloatArray) -> NDArray[np.float64]:
    """Covariance `(W, W)` of single patch tokens `(N, g, g, W)` around the mean of their own crop."""
    apart = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    total = np.zeros((tokens.shape[-1],) * 2)
    for patches in apart:
        centred = (patches - patches.mean(axis=0)).astype(np.float64)
        total += centred.T @ centred
    return total / (apart.shape[0] * apart.shape[1])


def _equal_groups(labels: NDArray[Any], groups: NDArray[Any]) -> NDArray[np.float64]:
    """Weights `(N,)` that sum to 1 in each class, and to the same in each group of a class."""
    if len(groups) != len(labels):
        raise DataError(f"{len(groups)} groups for {len(labels)} images")
    weight = np.empty(len(labels))
    for label in Label:
        mine = labels == label
        _, which, count = np.unique(groups[mine], return_inverse=True, return_counts=True)
        weight[mine] = 1 / (len(count) * count[which])
    return weight
