"""Classifiers over frozen features. Each is one file of this folder and follows scikit-learn's estimator contract.

Beside `fit`, `decision_function` and `predict` each has what a detector folder needs: `state()` and
`from_state(params, state, bank)`. One whose state follows from the bank's rows has `on(bank)` too: itself with another
bank. One that can read more layers than the bank holds has `from_wider_bank(wider, bank, params)`: fitted on rows with
all layers, for a bank of the same rows with the first of them. `decision_function` is the score: higher = fake,
0 = undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..index import Bank
from ..types import FloatArray

Arrays = Mapping[str, NDArray[Any]]


class Classifier(Protocol):
    """The role that a detector needs."""

    @classmethod
    def from_bank(cls, bank: FeatureBank, params: Mapping[str, Any] | None = None) -> Self:
        """Fit on a bank's rows."""
        ...

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: Bank) -> Self:
        """Inverse of `get_params` and `state`; never fits."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor parameters."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """What was learned beyond the bank's rows, as arrays."""
        ...

    def decision_function(self, X: FloatArray) -> NDArray[np.float64]:
        """Scores `(N,)` of embeddings `(N, D)`: higher = fake."""
        ...
