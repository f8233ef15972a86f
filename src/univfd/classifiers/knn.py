"""Nearest neighbours in the bank: the paper's own classifier (section 4.2), and a continuous score for it.

The rule. With k = 1 an image is fake iff its nearest fake row is nearer (cosine distance) than its nearest real row.
With k > 1 ("voting pool") the k nearest rows of both classes together vote.

The score. The paper reports AP but never says how a vote becomes a score; votes alone have only k + 1 levels. Let
r_1 <= r_2 <= ... be the distances to the real rows, f_1 <= f_2 <= ... to the fake rows, k odd, m = (k + 1) / 2. Fake
rows hold the majority of the k nearest iff the m-th fake row comes before the m-th real row. So

    score = r_m - f_m

is continuous, and its sign *is* the paper's vote, for every odd k, exactly.

Unequal classes. A class with more rows is nearer by sheer number. The paper's banks were equal (360k each); a bank
that people grow is not. With `balanced` the distances to the larger class are multiplied by one factor, so that two
classes drawn from one distribution win equally often:

    score = r_m - s * f_m   (more fake rows),   s = exp(mean over rows of log(d_j / d_m)),   j = 1/3 + (m - 1/3) * ratio

where d_j is the distance of a row of the larger class to its j-th neighbour in that class (fractional ranks are
interpolated) and ratio >= 1 that of the class sizes: the m-th of n rows is, in the median, where the j-th of n * ratio
rows is, because the expected number of rows within that distance is gamma distributed with median m - 1/3. Rows whose
m-th neighbour is less than a third as far as in the median are taken for near copies of one image and have no say;
where half of the rows are such, or vectors lie in two to four dimensions, that makes the factor too small. The factor
is about the typical row; a row of the bank still finds itself at distance 0, a few rows of a new generator still
count at rank m, and for equal classes s = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..errors import FormatError
from ..index import Bank, IndexedBank, NeighborIndex, Where
from ..search import Distances, nearest_rows, to_unit
from ..types import FloatArray, Label
from ..wording import counted
from . import Arrays
from ._estimator import Estimator

_SAMPLE, _LEAST_SAMPLE = 500, 100  # rows of the larger class that its factor is estimated from
_COMPARED = 20_000_000  # pairs of them and all others of the class, at most
_SAME = 1e-9  # a distance below this is that of a copy
_NEAR_COPY = 3  # so many times nearer than is usual is a version of the same image: re-encoded, the next crop


def _sampled(rows: int) -> int:
    return max(_LEAST_SAMPLE, min(_SAMPLE, _COMPARED // max(rows, 1)))


class NearestNeighbor(Estimator):
    """Nearest neighbours, cosine distance, per class.

    Args:
        k: size of the voting pool, odd; the paper has 1, 3, 5, 9.
        balanced: make up for unequal class sizes, as described in this module.

    Attributes:
        classes_: the two labels of y, sorted; the second is the positive (fake) one.
        real_, fake_: unit rows `(n, D)` of each class; empty where an index holds the rows.
        index_: what finds the nearest rows; None: exact search among `real_` and `fake_`.
        scale_: factors on the distances to real and fake rows, `(2,)`; one of them is 1.
        n_features_in_: D.
    """

    index_: NeighborIndex | None = None

    def __init__(self, k: int = 1, balanced: bool = True) -> None:
        self.k = k
        self.balanced = balanced

    def fit(self, X: Any, y: Any) -> Self:
        """Keep the rows.

        Args:
            X: `(N, D)` embeddings.
            y: `(N,)` two labels.

        Raises:
            ValueError: k is not odd, or a class has fewer than (k + 1) / 2 rows.
        """
        X, coded = self._check_fit(X, y)
        unit = to_unit(X)
        self._keep(unit[coded == 0], unit[coded == 1])
        return self

    @classmethod
    def from_bank(cls, bank: FeatureBank, params: Mapping[str, Any] | None = None) -> Self:
        """Use a bank's rows; nothing is copied that the bank has already."""
        return cls._of(bank, params or {}, None)

    @classmethod
    def from_index(
        cls,
        index: NeighborIndex,
        params: Mapping[str, Any] | None = None,
        scale: NDArray[np.float64] | None = None,
    ) -> Self:
        """Find neighbours through an index, for banks too large for exact search.

        Args:
            index: of the bank's rows.
            params: of the constructor.
            scale: what `scale_` was before; estimated through the index if None.
        """
        made = cls(**(params or {}))
        made.classes_ = np.array([Label.REAL, Label.FAKE])
        made.n_features_in_ = index.source.dim
        made.index_ = index
        made.real_ = made.fake_ = np.empty((0, index.source.dim), np.float32)
        rows = [index.source.fitting(Where(label)) for label in Label]
        made._require(len(rows[0]), len(rows[1]))
        made.scale_ = scale if scale is not None else made._scale((len(rows[0]), len(rows[1])))
        return made

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: Bank) -> Self:
        """The bank's rows, and `scale` `(2,)`.

        Raises:
            FormatError: no scale.
        """
        if "scale" not in state or state["scale"].shape != (2,):
            raise FormatError(f"nearest neighbours need 'scale' (2,); got { {k: v.shape for k, v in state.items()} }")
        scale = state["scale"].astype(np.float64)
        return (
            cls.from_index(bank.index, params, scale) if isinstance(bank, IndexedBank) else cls._of(bank, params, scale)
        )

    def on(self, bank: Bank) -> Self:
        """These neighbours among the rows of another bank, whose classes have other sizes: `scale_` is found anew."""
        params = self.get_params()
        made = self.from_index(bank.index, params) if isinstance(bank, IndexedBank) else self.from_bank(bank, params)
        made.scale_ = made.scale_.round(6)  # the same with and without an index, which sums in another order
        return made

    def state(self) -> dict[str, NDArray[Any]]:
        """`scale` `(2,)`; the rows are the bank's."""
        return {"scale": self.scale_}

    @classmethod
    def _of(cls, bank: FeatureBank, params: Mapping[str, Any], scale: NDArray[np.float64] | None) -> Self:
        made = cls(**params)
        made.classes_ = np.array([Label.REAL, Label.FAKE])
        made.n_features_in_ = bank.space.dim
        made._keep(bank.unit_of(Label.REAL), bank.unit_of(Label.FAKE), scale)
        return made

    def _keep(self, real: FloatArray, fake: FloatArray, scale: NDArray[np.float64] | None = None) -> None:
        self._require(len(real), len(fake))
        self.real_, self.fake_, self.index_ = real, fake, None
        self.scale_ = scale if scale is not None else self._scale((len(real), len(fake)))

    def _require(self, real: int, fake: int) -> None:
        """Refuse a pool that the rows of a class cannot fill."""
        if not isinstance(self.k, Integral) or isinstance(self.k, bool) or self.k < 1 or self.k % 2 == 0:
            raise ValueError(f"k is {self.k}; expected an odd number, so that a vote cannot tie")
        m = (self.k + 1) // 2
        if min(real, fake) < m:
            needed = counted(m, "row")
            raise ValueError(f"k={self.k} needs at least {needed} of each class; got {real} real and {fake} fake")

    def _near(self, vectors: FloatArray, label: Label, k: int) -> Distances:
        """Distances `(N, k)` from vectors, of length 1 where there is no index, to the nearest rows of a class."""
        if self.index_ is not None:
            return self.index_.search(vectors, k, Where(label))[0]
        return nearest_rows(vectors, (self.real_, self.fake_)[label], k)[0]

    def _sample(self, label: Label) -> FloatArray:
        """Some rows of a class, evenly spaced."""
        if self.index_ is None:
            base = (self.real_, self.fake_)[label]
            return base[:: max(1, len(base) // _sampled(len(base)))]
        rows = self.index_.source.fitting(Where(label))
        return self.index_.source.take(rows[:: max(1, len(rows) // _sampled(len(rows)))])

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score r_m - f_m, -2..2.

        Args:
            X: `(N, D)` embeddings, of any length.

        Returns:
            `(N,)` float64; above 0 exactly where the paper's vote says fake (equal class sizes).
        """
        vectors = self._check(X)
        vectors = to_unit(vectors) if self.index_ is None else vectors
        m = (self.k + 1) // 2
        real, fake = (self._near(vectors, label, m)[:, m - 1] for label in Label)
        return np.asarray(self.scale_[0] * real - self.scale_[1] * fake, dtype=np.float64)

    def _scale(self, sizes: tuple[int, int]) -> NDArray[np.float64]:
        """The factors of this module's docstring, from a sample of the larger class's rows; `sizes` of both."""
        scale = np.ones(2)
        real, fake = sizes
        if not self.balanced or real == fake:
            return scale
        larger, ratio = (Label.REAL, real / fake) if real > fake else (Label.FAKE, fake / real)
        m = (self.k + 1) // 2
        rank = min(1 / 3 + (m - 1 / 3) * ratio, sizes[larger] - 1)
        below = int(rank)
        near = self._near(self._sample(larger), larger, below + 2)[:, 1:]  # not the row itself
        least = max(_SAME, float(np.median(near[:, m - 1])) / _NEAR_COPY) if len(near) else _SAME
        near = near[near[:, m - 1] > least]  # copies of one image say nothing about density
        if len(near) and below >= m:
            at_rank = near[:, below - 1] + (rank - below) * (
                near[:, min(below, near.shape[1] - 1)] - near[:, below - 1]
            )
            scale[larger] = np.exp(np.log(at_rank / near[:, m - 1]).mean())
        return scale


PLUGIN = NearestNeighbor
