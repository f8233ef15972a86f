"""A classifier: the nearer of two class means, by cosine distance.

What UnivFD asks of a classifier is the protocol `univfd.classifiers.Classifier`: scikit-learn's `fit`, `get_params` and
`decision_function`, and three methods by which a detector folder keeps and restores it without pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class Centroid:
    """Score = cosine distance to the mean real embedding minus that to the mean fake one; above 0 = fake.

    Args:
        shift: added to every score.

    Attributes:
        classes_: the two labels; the second is fake.
        means_: `(2, D)`, of length 1: real, fake.
    """

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def fit(self, X: NDArray[np.float32], y: Any) -> Self:
        """Take the mean of each class of embeddings `(N, D)`.

        Raises:
            ValueError: not two classes. UnivFD shows it to the user as a wrong call.
        """
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError(f"{len(self.classes_)} classes; expected two, real and fake")
        self.means_ = _unit(np.stack([_unit(X[np.asarray(y) == c]).mean(axis=0) for c in self.classes_]))
        return self

    def decision_function(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores `(N,)` of embeddings `(N, D)`: higher = fake, always."""
        similarity = _unit(X) @ self.means_.T
        return np.asarray(similarity[:, 1] - similarity[:, 0] + self.shift, np.float64)

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """The class of each row."""
        return np.asarray(self.classes_[(self.decision_function(X) > 0).astype(int)])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor took: written into a detector's folder as JSON."""
        return {"shift": self.shift}

    def state(self) -> dict[str, NDArray[Any]]:
        """What was learned, as arrays: written into a detector's folder as safetensors."""
        return {"means": self.means_}

    @classmethod
    def from_bank(cls, bank: Any, params: Mapping[str, Any] | None = None) -> Self:
        """Fit on a bank's rows: `univfd fit` calls this."""
        return cls(**(params or {})).fit(bank.vectors, bank.labels)

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Mapping[str, NDArray[Any]], bank: Any) -> Self:
        """Inverse of `get_params` and `state`: `univfd detect` calls this. It never fits.

        Raises:
            ValueError: arrays that do not fit the bank's space.
        """
        means = state.get("means")
        if means is None or means.shape != (2, bank.space.dim):
            raise ValueError(f"expected means (2, {bank.space.dim}); got { {k: v.shape for k, v in state.items()} }")
        made = cls(**params)
        made.classes_, made.means_ = np.array([0, 1]), means
        return made


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
