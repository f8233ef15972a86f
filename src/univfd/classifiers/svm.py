"""A linear support-vector machine with the ridge's penalties: rows that are well on their side no longer pull.

    minimise  1/2 sum_i c_i max(0, 1 - y_i (w . x_i + b))^2  +  alpha/2 |w|^2  +  between/2 w . (B_real + B_fake) w

on standardised features, y = -1 real, +1 fake, c_i the rows' weights (sum 1): the squared hinge (Fan et al.:
"LIBLINEAR", JMLR 2008, section 2) in place of the squared error, and the scatter of places as in `ridge.py`, which also
says what layers are and how rows that are added to the bank correct the score.

The ridge's matrix is the curvature of this objective where all rows are within their margin. In the coordinates in
which it is the identity a quasi-Newton method needs some twenty steps. Of vectors of very many values the matrix is not
made: coordinates in which some of the rows have that curvature serve as well (Nocedal, Wright: "Numerical
Optimization", section 5.1, preconditioning), with more steps to the same optimum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ridge import Layers, RidgeProbe, deviations

_STEPS = 500
_SLOPE = 1e-6  # of the objective, whose scale is 1, where it counts as flat
_SLOPE_OF_SINGLE = 5e-6  # of products in float32 no smaller one is to be had
_MANY_VALUES = 6_000  # beyond, no matrix is made,
_FEW_ROWS = 1_000  # but of rows up to here, whose span is the shorter way
_ROWS_OF_CURVATURE = 1_000  # that stand for all


class SupportVectorProbe(RidgeProbe):
    """`score = w . x + b`; -1 and 1 are the margins of the two classes.

    Args:
        alpha: weight of the penalty `|w|^2`, on standardised features.
        balanced: weigh the classes equally, whatever their sizes.
        between: weight of the scatter between the places of a class, where `fit` is told the places; 0: none.
        layers: as of `RidgeProbe`.

    Attributes:
        coef_: w, `(D,)` float64, on the features as they are (the standardisation is folded in), or on directions.
        intercept_: b.
    """

    _margin = 1.5  # nothing pulls scores back to 1: they lie about so many times as far apart as the ridge's

    def __init__(self, alpha: float = 0.1, balanced: bool = True, between: float = 4.0, layers: Layers = 0) -> None:
        super().__init__(alpha=alpha, balanced=balanced, between=between, layers=layers)

    def _optimum(
        self, centred: NDArray[Any], weighted: NDArray[Any], spread: NDArray[np.float64], coded: NDArray[np.intp],
        weight: NDArray[np.float64], groups: Any,
    ) -> tuple[NDArray[np.float64], float]:  # fmt: skip
        """As of `RidgeProbe`."""
        if centred.shape[1] <= _MANY_VALUES or len(centred) <= _FEW_ROWS:
            return super()._optimum(centred, weighted, spread, coded, weight, groups)
        centred /= spread.astype(centred.dtype)
        return self._approached(centred, coded, weight, groups)

    def _solved(
        self, X: NDArray[Any], coded: NDArray[np.intp], weight: NDArray[np.float64], curvature: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """As of `RidgeProbe`.

        With curvature = L L^T, u = L^T w and z = L^-1 x the penalty is |u|^2 - sum_i c_i (z_i . u)^2, halved: the
        curvature has the squared error's share in it.
        """
        from scipy.linalg import cholesky, solve_triangular

        root = cholesky(curvature, lower=True, overwrite_a=True).astype(X.dtype, copy=False)
        Z = np.ascontiguousarray(solve_triangular(root, X.T, lower=True).T)
        side = 2.0 * coded - 1

        def objective(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            u, b = p[:-1], p[-1]
            inner = (Z @ u.astype(Z.dtype)).astype(np.float64)
            short = np.maximum(0, 1 - side * (inner + b))
            pull = -weight * side * short
            value = 0.5 * (weight @ (short**2 - inner**2) + u @ u)
            slope = ((pull - weight * inner).astype(Z.dtype) @ Z).astype(np.float64) + u
            return float(value), np.append(slope, pull.sum())

        found = _minimum(objective, X.shape[1] + 1, _SLOPE, between=6)
        coef = solve_triangular(root, found[:-1].astype(root.dtype), lower=True, trans="T")
        return coef.astype(np.float64), float(found[-1])

    def _approached(
        self, X: NDArray[Any], coded: NDArray[np.intp], weight: NDArray[np.float64], groups: Any
    ) -> tuple[NDArray[np.float64], float]:
        """As `_solved`, without a matrix of `(D, D)`.

        With P the curvature of some of the rows, w = P^-1/2 u. P is alpha I and a part of low rank, whose eigenvectors
        come from the products of those rows with each other.

        Args:
            X: `(N, D)` standardised.
            coded: `(N,)` 0 or 1.
            weight: `(N,)`, of sum 1.
            groups: see `fit`.
        """
        from scipy.linalg import eigh

        places = np.empty((0, X.shape[1]), X.dtype)
        if groups is not None and self.between:
            places = (np.sqrt(self.between) * deviations(X, coded, groups)).astype(X.dtype)
        counting = np.flatnonzero(weight)
        some = counting[np.unique(np.linspace(0, len(counting) - 1, _ROWS_OF_CURVATURE).astype(np.intp))]
        share = np.sqrt(weight[some] / weight[some].sum())
        rows = np.concatenate([X[some] * share.astype(X.dtype)[:, None], places])
        curved, turn = eigh((rows @ rows.T).astype(np.float64))
        kept = curved > curved[-1] * np.finfo(X.dtype).eps * len(curved)
        curved, turn = curved[kept], turn[:, kept] / np.sqrt(curved[kept])
        axes = turn.T.astype(X.dtype) @ rows
        less = (np.sqrt(self.alpha / (curved + self.alpha)) - 1).astype(X.dtype)
        side = 2.0 * coded - 1

        def straight(u: NDArray[np.float64]) -> NDArray[Any]:  # P^-1/2 u
            v = u.astype(X.dtype)
            return np.asarray((v + (less * (axes @ v)) @ axes) / np.sqrt(self.alpha), X.dtype)

        def objective(p: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            w, b = straight(p[:-1]), p[-1]
            short = np.maximum(0, 1 - side * ((X @ w).astype(np.float64) + b))
            pull, apart = -weight * side * short, places @ w
            value = 0.5 * float(weight @ short**2 + self.alpha * float(w @ w) + float(apart @ apart))
            slope = pull.astype(X.dtype) @ X + X.dtype.type(self.alpha) * w + apart @ places
            return value, np.append(straight(slope).astype(np.float64), pull.sum())

        flat = _SLOPE if X.dtype == np.float64 else _SLOPE_OF_SINGLE
        found = _minimum(objective, X.shape[1] + 1, flat, between=4)
        return straight(found[:-1]).astype(np.float64), float(found[-1])


def _minimum(
    objective: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]], values: int, flat: float, *,
    between: int,
) -> NDArray[np.float64]:  # fmt: skip
    """Where an objective, that gives its value and slope, is least: `(values,)`.

    Args:
        objective: of `(values,)`.
        values: how many.
        flat: the slope that counts as none.
        between: calls from whoever fits, who is warned, to this one.

    Warns:
        ConvergenceWarning: it was not found.
    """
    from scipy.optimize import minimize
    from sklearn.exceptions import ConvergenceWarning

    found = minimize(
        objective, np.zeros(values), jac=True, method="L-BFGS-B",
        options={"maxiter": _STEPS, "gtol": flat, "ftol": 1e-12, "maxcor": 20},
    )  # fmt: skip
    if found.nit >= _STEPS:
        warnings.warn(
            f"no optimum in {_STEPS} steps (slope {np.abs(found.jac).max():.1e}, expected {flat:.0e}); raise alpha",
            ConvergenceWarning,
            stacklevel=between + 1,
        )
    return np.asarray(found.x)


PLUGIN = SupportVectorProbe
