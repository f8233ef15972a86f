"""Ridge regression on the class: a linear layer with shrinkage, in closed form.

With classes weighted equally its direction is that of linear discriminant analysis whose covariance is shrunk towards
the diagonal: on standardised features

    w = (S + alpha I)^-1 (m_fake - m_real) / 2,    S = weighted covariance of all rows

(Hastie, Tibshirani, Friedman: "The Elements of Statistical Learning", sections 4.2 and 18.3). It has no
iterations, so leaving each generator out in turn costs one linear system each.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ._linear import LinearScore

# Up to so many values all is in float64; beyond, products are in float32, the error of which is far below alpha.
_EXACT_VALUES = 10_000_000


class RidgeProbe(LinearScore):
    """`score = w . x + b`; 0 is half way between the classes' means on the discriminant.

    Args:
        alpha: shrinkage, as a share of the (unit) variance of a standardised feature.
        balanced: weigh the classes equally, whatever their sizes.

    Attributes:
        coef_: w, `(D,)` float64, on the features as they are (the standardisation is folded in).
        intercept_: b.
    """

    def __init__(self, alpha: float = 0.3, balanced: bool = True) -> None:
        self.alpha = alpha
        self.balanced = balanced

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Solve.

        Args:
            X: `(N, D)` embeddings.
            y: `(N,)` two labels.
            sample_weight: `(N,)`, or None for equal weights.

        Raises:
            ValueError: alpha is not above 0, or a class has no weight.
        """
        from scipy.linalg import solve

        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; expected a number above 0")
        X, coded = self._check_fit(X, y)
        weight = self._weights(coded, sample_weight, self.balanced)
        weight = weight / weight.sum()
        precise = np.float64 if X.size <= _EXACT_VALUES else np.float32
        mean = weight @ X
        centred = (X - mean).astype(precise)
        weighted = centred * np.sqrt(weight).astype(precise)[:, None]
        spread = np.sqrt(np.einsum("ij,ij->j", weighted, weighted, dtype=np.float64))
        spread[spread == 0] = 1
        target = 2.0 * coded - 1
        target -= weight @ target
        covariance = (weighted.T @ weighted).astype(np.float64) / np.outer(spread, spread)
        covariance[np.diag_indices_from(covariance)] += self.alpha
        moment = ((weight * target) @ centred) / spread
        coef = solve(covariance, moment, assume_a="pos", overwrite_a=True) / spread
        half_way = np.mean([coef @ np.average(X[coded == c], axis=0, weights=weight[coded == c]) for c in (0, 1)])
        self._set(coef, float(-half_way))
        return self


PLUGIN = RidgeProbe
