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
rows is, because the expected number of rows within that distance is gamma distributed with median m - 1/3. The factor
is about the typical row; a row of the bank still finds itself at distance 0, a few rows of a new generator still count
at rank m, and for equal classes s = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..errors import FormatError
from ..search import nearest_rows, to_unit
from ..types import FloatArray, Label
from . import Arrays
from ._estimator import Estimator

_SAMPLE = 500  # rows of the larger class that its factor is estimated from
_SAME = 1e-9  # a distance below this is that of a copy


class NearestNeighbor(Estimator):
    """Nearest neighbours, cosine distance, per class.

    Args:
        k: size of the voting pool, odd; the paper has 1, 3, 5, 9.
        balanced: make up for unequal class sizes, as described in this module.

    Attributes:
        classes_: the two labels of y, sorted; the second is the positive (fake) one.
        real_, fake_: unit rows `(n, D)` of each class.
        scale_: factors on the distances to real and fake rows, `(2,)`; one of them is 1.
        n_features_in_: D.
    """

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
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: FeatureBank) -> Self:
        """The bank's rows, and `scale` `(2,)`.

        Raises:
            FormatError: no scale.
        """
        if "scale" not in state or state["scale"].shape != (2,):
            raise FormatError(f"nearest neighbours need 'scale' (2,); got { {k: v.shape for k, v in state.items()} }")
        return cls._of(bank, params, state["scale"].astype(np.float64))

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
        if self.k < 1 or self.k % 2 == 0:
            raise ValueError(f"k is {self.k}; expected an odd number, so that a vote cannot tie")
        m = (self.k + 1) // 2
        if min(len(real), len(fake)) < m:
            raise ValueError(
                f"k={self.k} needs at least {m} rows of each class; got {len(real)} real and {len(fake)} fake"
            )
        self.real_, self.fake_ = real, fake
        self.scale_ = scale if scale is not None else self._scale(real, fake)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score r_m - f_m, -2..2.

        Args:
            X: `(N, D)` embeddings, of any length.

        Returns:
            `(N,)` float64; above 0 exactly where the paper's vote says fake (equal class sizes).
        """
        unit = to_unit(self._check(X))
        m = (self.k + 1) // 2
        real, fake = (nearest_rows(unit, base, m)[0][:, m - 1] for base in (self.real_, self.fake_))
        return np.asarray(self.scale_[0] * real - self.scale_[1] * fake, dtype=np.float64)

    def _scale(self, real: FloatArray, fake: FloatArray) -> NDArray[np.float64]:
        """The factors of this module's docstring, from a sample of the larger class's rows."""
        scale = np.ones(2)
        if not self.balanced or len(real) == len(fake):
            return scale
        larger, ratio = (0, len(real) / len(fake)) if len(real) > len(fake) else (1, len(fake) / len(real))
        base, m = (real, fake)[larger], (self.k + 1) // 2
        rank = min(1 / 3 + (m - 1 / 3) * ratio, len(base) - 1)
        below = int(rank)
        near = nearest_rows(base[:: max(1, len(base) // _SAMPLE)], base, below + 2)[0][:, 1:]  # not the row itself
        near = near[near[:, m - 1] > _SAME]  # copies of one image say nothing about density
        if len(near) and below >= m:
            at_rank = near[:, below - 1] + (rank - below) * (
                near[:, min(below, near.shape[1] - 1)] - near[:, below - 1]
            )
            scale[larger] = np.exp(np.log(at_rank / near[:, m - 1]).mean())
        return scale


PLUGIN = NearestNeighbor
