"""Nearest neighbours in the bank: the paper's own classifier (section 4.2), and a continuous score for it.

The rule. With k = 1 an image is fake iff its nearest fake row is nearer (cosine distance) than its nearest real row.
With k > 1 ("voting pool") the k nearest rows of both classes together vote.

The score. The paper reports AP but never says how a vote becomes a score; votes alone have only k + 1 levels. Let
r_1 <= r_2 <= ... be the distances to the real rows, f_1 <= f_2 <= ... to the fake rows, k odd, m = (k + 1) / 2. Fake
rows hold the majority of the k nearest iff the m-th fake row comes before the m-th real row. So

    score = r_m - f_m

is continuous, and its sign *is* the paper's vote, for every odd k, exactly.

Unequal classes. A class with more rows is nearer by sheer number. The paper's banks were equal (360k each); a bank
that people grow is not. With `balanced` the larger class is read at a deeper rank, chosen so that two classes drawn
from one distribution win equally often: in units of the expected count, the distance to the m-th of n rows is a
gamma variable whose median is about (m - 1/3) / n, so rank

    j = 1/3 + (m - 1/3) * n_large / n_small

of the larger class has the median of rank m of the smaller one (fractional ranks: linear interpolation). For equal
classes j = m and nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank, nearest_rows, to_unit
from ..types import FloatArray, Label
from . import Arrays
from ._estimator import Estimator


class NearestNeighbor(Estimator):
    """Nearest neighbours, cosine distance, per class.

    Args:
        k: size of the voting pool, odd; the paper has 1, 3, 5, 9.
        balanced: make up for unequal class sizes, as described in this module.

    Attributes:
        classes_: the two labels of y, sorted; the second is the positive (fake) one.
        real_, fake_: unit rows `(n, D)` of each class.
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
    def from_bank(cls, bank: FeatureBank, **params: Any) -> Self:
        """Use a bank's rows; nothing is copied that the bank has already."""
        made = cls(**params)
        made.classes_ = np.array([Label.REAL, Label.FAKE])
        made.n_features_in_ = bank.space.dim
        made._keep(bank.unit_of(Label.REAL), bank.unit_of(Label.FAKE))
        return made

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: FeatureBank) -> Self:
        """The bank is the state."""
        return cls.from_bank(bank, **params)

    def state(self) -> dict[str, NDArray[Any]]:
        """Nothing beyond the bank."""
        return {}

    def _keep(self, real: FloatArray, fake: FloatArray) -> None:
        if self.k < 1 or self.k % 2 == 0:
            raise ValueError(f"k is {self.k}; expected an odd number, so that a vote cannot tie")
        m = (self.k + 1) // 2
        if min(len(real), len(fake)) < m:
            raise ValueError(
                f"k={self.k} needs at least {m} rows of each class; got {len(real)} real and {len(fake)} fake"
            )
        self.real_, self.fake_ = real, fake

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score r_m - f_m, -2..2.

        Args:
            X: `(N, D)` embeddings, of any length.

        Returns:
            `(N,)` float64; above 0 exactly where the paper's vote says fake (equal class sizes).
        """
        unit = to_unit(self._check(X))
        smaller = min(len(self.real_), len(self.fake_))
        return self._distance(unit, self.real_, smaller) - self._distance(unit, self.fake_, smaller)

    def _distance(self, unit: FloatArray, base: FloatArray, smaller: int) -> NDArray[np.float64]:
        """Distance to the row of the class's rank (fractional ranks interpolated)."""
        m = (self.k + 1) / 2
        rank = 1 / 3 + (m - 1 / 3) * len(base) / smaller if self.balanced else m
        rank = min(rank, len(base))
        below = int(np.floor(rank))
        part = rank - below
        distances = nearest_rows(unit, base, below + (part > 0))[0]
        if part == 0:
            return distances[:, below - 1]
        return (1 - part) * distances[:, below - 1] + part * distances[:, below]


PLUGIN = NearestNeighbor
