"""The linear probe: one linear layer on frozen features, trained with binary cross-entropy (paper, section 4.2)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ._linear import LinearScore

_NEWTON_DIM = 2048  # up to here Newton's D x D matrix is cheap, and its optimum is exact to rounding


class LinearProbe(LinearScore):
    """Logistic regression: `score = w . x + b`, the log-odds of fake under the training set's class balance.

    The paper minimises the same loss with AdamW and early stopping; here it is solved to its optimum (Newton, or
    L-BFGS for very wide features) with an L2 penalty in place of the early stop.

    Args:
        C: inverse strength of the L2 penalty, on standardised features.
        balanced: weigh the classes equally, whatever their sizes.
        max_iter: of the solver.
        tol: the solver stops where no component of the gradient is above this.

    Attributes:
        classes_: the two labels of y, sorted; the second is the positive (fake) one.
        coef_: w, `(D,)` float64, on the features as they are (the standardisation is folded in).
        intercept_: b.
        n_features_in_: D.
        n_iter_: iterations that the solver took.
    """

    def __init__(self, C: float = 0.01, balanced: bool = True, max_iter: int = 2000, tol: float = 1e-8) -> None:
        self.C = C
        self.balanced = balanced
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train.

        Args:
            X: `(N, D)` embeddings.
            y: `(N,)` two labels.
            sample_weight: `(N,)`, or None for equal weights.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        X, coded = self._check_fit(X, y)
        wide = X.astype(np.float64)
        scaler = StandardScaler().fit(wide, sample_weight=self._weights(coded, sample_weight, balanced=False))
        weight = self._weights(coded, sample_weight, self.balanced)
        exact = X.shape[1] <= _NEWTON_DIM
        solver = LogisticRegression(
            C=self.C, max_iter=self.max_iter, tol=self.tol, solver="newton-cholesky" if exact else "lbfgs"
        )
        solver.fit(scaler.transform(wide), coded, weight)
        coef = solver.coef_[0] / scaler.scale_
        self._set(coef, float(solver.intercept_[0] - coef @ scaler.mean_))
        self.n_iter_ = int(solver.n_iter_[0])
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The sigmoid of the score, as the paper's output.

        It is the model's own estimate under its training set, not a calibrated probability.

        Returns:
            `(N, 2)`: columns as `classes_`.
        """
        fake = 0.5 * (1 + np.tanh(self.decision_function(X) / 2))  # the sigmoid, without overflow
        return np.stack([1 - fake, fake], axis=1)


PLUGIN = LinearProbe
