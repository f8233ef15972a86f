"""What every linear classifier shares: a score `w . x + b`, its arrays, and how they come back from a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..errors import FormatError
from ..index import Bank
from ..types import Label
from . import Arrays
from ._estimator import Estimator


class LinearScore(Estimator):
    """A linear classifier; subclasses say how w and b are found.

    Attributes:
        coef_: w, `(D,)` float64, on the features as they are.
        intercept_: b.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Find w and b."""
        raise NotImplementedError

    @classmethod
    def from_bank(cls, bank: FeatureBank, params: Mapping[str, Any] | None = None) -> Self:
        """Train on a bank's rows."""
        return cls(**(params or {})).fit(bank.vectors, bank.labels)

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: Bank) -> Self:
        """From `coef` `(D,)` and `intercept` `(1,)`.

        Raises:
            FormatError: arrays that are missing or do not fit the bank's space.
        """
        return cls._restored(params, state, bank.space.dim)

    @classmethod
    def _restored(cls, params: Mapping[str, Any], state: Arrays, dim: int) -> Self:
        """From `coef` `(dim,)` and `intercept` `(1,)`.

        Raises:
            FormatError: arrays that are missing or of other shapes.
        """
        if "coef" not in state or state["coef"].shape != (dim,) or state.get("intercept", np.empty(0)).shape != (1,):
            raise FormatError(
                f"a linear classifier needs coef ({dim},) and intercept (1,); "
                f"got { {k: v.shape for k, v in state.items()} }"
            )
        made = cls(**params)
        made.classes_ = np.array([Label.REAL, Label.FAKE])
        made.n_features_in_ = dim
        made._set(state["coef"].astype(np.float64), float(state["intercept"][0]))
        return made

    @classmethod
    def mean(cls, parts: Sequence[Self], weights: Sequence[float]) -> Self:
        """The classifier whose score is the weighted mean of the parts' scores: a linear layer again, beside no bank.

        Args:
            parts: fitted, of the same features; the first gives the parameters.
            weights: one each, not all 0.
        """
        made = cls(**parts[0].get_params())
        made.classes_, made.n_features_in_ = parts[0].classes_, parts[0].n_features_in_
        coef = np.average([p.coef_ for p in parts], axis=0, weights=weights)
        made._set(coef, float(np.average([p.intercept_ for p in parts], weights=weights)))
        return made

    def state(self) -> dict[str, NDArray[Any]]:
        """`coef` `(D,)` and `intercept` `(1,)`, float64."""
        return {"coef": self.coef_, "intercept": np.array([self.intercept_])}

    def _set(self, coef: NDArray[np.float64], intercept: float) -> None:
        self.coef_ = coef
        self.intercept_ = intercept

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score `w . x + b`.

        Args:
            X: `(N, D)` embeddings.

        Returns:
            `(N,)` float64; above 0 = fake.
        """
        X = self._check(X)
        return np.asarray(X @ self.coef_ + self.intercept_, dtype=np.float64)

    def _weights(self, coded: NDArray[np.intp], sample_weight: Any, balanced: bool) -> NDArray[np.float64]:
        """Weights `(N,)` of the rows; where balanced, both classes' sums are equal.

        Raises:
            ValueError: a class has no weight.
        """
        weight = np.ones(len(coded)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        per_class = np.bincount(coded, weight, 2)
        if not per_class.all():
            raise ValueError(f"{type(self).__name__} needs both classes; all weights of one class are zero")
        return weight * per_class.sum() / (2 * per_class[coded]) if balanced else weight
