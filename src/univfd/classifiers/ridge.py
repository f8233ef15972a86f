"""Ridge regression on the class: a linear layer with shrinkage, in closed form.

With classes weighted equally its direction is that of linear discriminant analysis whose covariance is shrunk towards
the diagonal: on standardised features

    w = (S + alpha I)^-1 (m_fake - m_real) / 2,    S = weighted covariance of all rows

(Hastie, Tibshirani, Friedman: "The Elements of Statistical Learning", sections 4.2 and 18.3; 18.3.5 for vectors that
have more values than there are rows). It has no iterations, so leaving each generator out in turn costs one linear
system each.

Where it is told which rows come from one place (a generator, a source of real images), it is also kept from scoring the
places of one class differently, since a new place is what it will meet: S becomes S + between (B_real + B_fake), with

    B_c = mean over the places g of class c of  n_g / (n_g + 20)  (m_g - m_c) (m_g - m_c)^T

the scatter of their means. Places of few rows count less, for their means are mostly noise.

Where a vector is several layers side by side, each of them may be brought to length 1 first: the paper's neighbours
compare directions too (section 4.1, cosine distance).

A probe that knows the bank it was learned beside takes in rows that are added to it later, without training:
`_correction.py`. It may read more layers than the bank holds; rows of the bank are then scored by a second one, that
reads what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..errors import FormatError
from ..index import Bank
from ..search import to_unit
from . import Arrays
from ._correction import Correction, Origin, correction
from ._linear import LinearScore

# Up to so many values all is in float64; beyond, products are in float32, the error of which is far below alpha.
_EXACT_VALUES = 10_000_000
_FEW_ROWS = 20

Layers = int | Sequence[int]


class RidgeProbe(LinearScore):
    """`score = w . x + b`; 0 is half way between the classes' means on the discriminant.

    Args:
        alpha: shrinkage, as a share of the (unit) variance of a standardised feature.
        balanced: weigh the classes equally, whatever their sizes.
        between: weight of the scatter between the places of a class, where `fit` is told the places; 0: none.
        layers: a vector is so many layers of equal size side by side, or layers of these sizes, and each is brought to
            length 1 before all else; 0: vectors stay as they are.

    Attributes:
        coef_: w, `(D,)` float64, on the features as they are (the standardisation is folded in), or on directions.
        intercept_: b.
    """

    _origin: Origin | None = None
    _correction: Correction | None = None
    _narrow: RidgeProbe | None = None
    """Reads the values that the bank has, the first ones, where there are more."""
    _margin = 1.0
    """The score that rows which are added to the bank are brought to."""

    def __init__(self, alpha: float = 0.3, balanced: bool = True, between: float = 1.0, layers: Layers = 0) -> None:
        self.alpha = alpha
        self.balanced = balanced
        self.between = between
        self.layers = layers

    @classmethod
    def from_bank(cls, bank: FeatureBank, params: Mapping[str, Any] | None = None) -> Self:
        """Train on a bank's rows; it knows where they come from.

        Raises:
            ValueError: see `fit`; or a number of `layers` of a bank whose layers are not of one size.
        """
        kinds = {tap.partition(".")[0] for tap in bank.space.taps}
        layers = (params or {}).get("layers", 0)
        if np.ndim(layers) == 0 and layers and len(kinds & {"mlp", "proj"}) + bool(kinds & {"cls", "mean"}) > 1:
            raise ValueError(
                f"layers need vectors of equal size; {', '.join(bank.space.taps)} are not. Give the size of each"
            )
        return cls(**(params or {})).fit(bank.vectors, bank.labels, groups=bank.origin).beside(bank)

    @classmethod
    def from_wider_bank(cls, wider: FeatureBank, bank: FeatureBank, params: Mapping[str, Any] | None = None) -> Self:
        """Train on rows that have more values than those that the bank is to hold.

        Args:
            wider: the rows.
            bank: the same, with the first of their layers.
            params: of the constructor.

        Raises:
            ValueError: see `from_bank`; or the bank does not hold whole layers.
        """
        made = cls.from_bank(wider, params)
        less = dict(params or {}) | {"layers": first_layers(made.layers, bank.space.dim)}
        return made.beside(bank, cls.from_bank(bank, less))

    @classmethod
    def from_state(cls, params: Mapping[str, Any], state: Arrays, bank: Bank) -> Self:
        """From what `state` gives.

        Raises:
            FormatError: arrays that are missing or do not fit the bank's space.
            ValueError: see `_correction.correction`; or `layers` that do not fit.
        """
        dim = bank.space.dim
        if "narrow_coef" in state:
            own = {name: state[f"narrow_{name}"] for name in ("coef", "intercept") if f"narrow_{name}" in state}
            made = super()._restored(params, state, max(dim, state.get("coef", np.empty(0)).size))
            narrow = super()._restored(dict(params) | {"layers": first_layers(made.layers, dim)}, own, dim)
            made._narrow = narrow
        else:
            made = super().from_state(params, state, bank)
        if "known" in state:
            parts = [state.get(name, np.empty(0)) for name in ("known", "centre", "spread")]
            if parts[0].ndim != 2 or parts[0].shape[1] != 9 or any(p.shape != (dim,) for p in parts[1:]):
                raise FormatError(
                    f"a corrected probe needs known (N, 9), centre and spread ({dim},); got {[p.shape for p in parts]}"
                )
            made._origin = Origin(parts[0].astype(np.uint8), parts[1].astype(np.float32), parts[2].astype(np.float32))
            made._correction = correction(made._origin, bank, made.decision_function, cls._margin)
        return made

    def beside(self, bank: FeatureBank, narrow: Self | None = None) -> Self:
        """This probe, with the bank remembered: rows that a later bank has beyond it correct the score.

        Args:
            bank: known images.
            narrow: where this probe reads more than the bank's vectors hold (`(D,)`, the first values of its own):
                one that reads those, with the first of its layers. It scores rows of a bank.

        Raises:
            ValueError: neither this probe nor the narrow one reads the bank's vectors; or that one has other layers.
        """
        reads = (narrow or self).n_features_in_
        if reads != bank.space.dim:
            raise ValueError(f"the bank's vectors have {bank.space.dim} values, the probe beside it reads {reads}")
        if narrow and not np.array_equal(narrow.layers, first := first_layers(self.layers, reads)):
            raise ValueError(f"the narrow probe has layers {narrow.layers!r}; the first of this one's are {first!r}")
        self._origin, self._narrow = Origin.of(bank), narrow
        return self

    def state(self) -> dict[str, NDArray[Any]]:
        """`coef` `(D,)`, `intercept` `(1,)`; and `known` `(N, 9)`, `centre`, `spread` of the bank, if any.

        With a narrow probe also `narrow_coef` and `narrow_intercept`.
        """
        state = super().state()
        if self._narrow is not None:
            state |= {f"narrow_{name}": values for name, values in LinearScore.state(self._narrow).items()}
        if self._origin is not None:
            state |= {"known": self._origin.known, "centre": self._origin.centre, "spread": self._origin.spread}
        return state

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score `w . x + b`, plus the correction where the bank has rows that the probe was not learned beside.

        Args:
            X: `(N, D)` embeddings; or, where the bank's vectors hold only the first values, such ones.

        Returns:
            `(N,)` float64; above 0 = fake.

        Raises:
            ValueError: `layers` does not fit them.
        """
        narrow = self._narrow
        if narrow is not None and np.ndim(X) == 2 and np.shape(X)[1] == narrow.n_features_in_:
            score, X = narrow.decision_function(X), narrow._check(X)
        else:
            X = self._check(X)
            score = np.asarray(self._directions(X) @ self.coef_ + self.intercept_, dtype=np.float64)
        if self._correction is None:
            return score
        return score + self._correction(X[:, : len(self._correction.origin.centre)])

    def _directions(self, X: NDArray[Any]) -> NDArray[Any]:
        """`(N, D)` with each layer at length 1; X itself where there are none.

        Raises:
            ValueError: the vectors are not such layers.
        """
        if np.ndim(self.layers):
            sizes = [int(size) for size in self.layers]  # type: ignore[union-attr]
            if min(sizes, default=0) < 1 or sum(sizes) != X.shape[1]:
                raise ValueError(f"layers is {self.layers!r}; {X.shape[1]} values are not layers of these sizes")
            return np.concatenate([to_unit(part) for part in np.split(X, np.cumsum(sizes)[:-1], axis=1)], axis=1)
        if self.layers == 0:
            return X
        try:
            layers = int(self.layers)  # type: ignore[arg-type]
        except ValueError:  # a word
            layers = -1
        if layers != self.layers or layers < 0 or X.shape[1] % layers:
            raise ValueError(f"layers is {self.layers!r}; {X.shape[1]} values are not so many layers of equal size")
        return to_unit(X.reshape(-1, X.shape[1] // layers)).reshape(X.shape)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Solve.

        Args:
            X: `(N, D)` embeddings.
            y: `(N,)` two labels.
            sample_weight: `(N,)`, or None for equal weights.
            groups: `(N,)` names of the places that the rows come from; None: not told.

        Raises:
            ValueError: alpha is not above 0, `between` is below 0, `layers` does not fit, a class has no weight, or not
                one group a row.
        """
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; expected a number above 0")
        if not self.between >= 0:
            raise ValueError(f"between is {self.between}; expected 0 or more")
        X, coded = self._check_fit(X, y)
        X = self._directions(X)
        weight = self._weights(coded, sample_weight, self.balanced)
        weight = weight / weight.sum()
        precise = np.float64 if X.size <= _EXACT_VALUES else np.float32
        mean = weight @ X
        centred = (X - mean).astype(precise)
        weighted = centred * np.sqrt(weight).astype(precise)[:, None]
        spread = np.sqrt(np.einsum("ij,ij->j", weighted, weighted, dtype=np.float64))
        spread[spread <= np.finfo(np.float32).eps * np.abs(mean)] = 1  # constant, but for the rounding of its mean
        coef, intercept = self._optimum(centred, weighted, spread, coded, weight, groups)
        coef = coef / spread
        self._set(coef, float(intercept - coef @ mean))
        self._origin = self._correction = self._narrow = None
        return self

    def _optimum(
        self, centred: NDArray[Any], weighted: NDArray[Any], spread: NDArray[np.float64], coded: NDArray[np.intp],
        weight: NDArray[np.float64], groups: Any,
    ) -> tuple[NDArray[np.float64], float]:  # fmt: skip
        """As `_penalised`, by the way that is short for so many rows and values."""
        if centred.shape[1] <= 2 * len(centred):  # the way of the others costs more than it saves
            return self._penalised(centred, weighted, spread, coded, weight, groups)
        from scipy.linalg import qr

        # Penalties and rows lie in the span of the rows, and so does the solution: there it has fewer coordinates.
        precise = centred.dtype
        centred /= spread.astype(precise)
        turn, rows = qr(centred.T, mode="economic", overwrite_a=True)
        weighted = rows.T * np.sqrt(weight).astype(precise)[:, None]
        inside, intercept = self._penalised(rows.T, weighted, np.ones(len(rows)), coded, weight, groups)
        return (turn @ inside.astype(precise)).astype(np.float64), intercept

    def _penalised(
        self, centred: NDArray[Any], weighted: NDArray[Any], spread: NDArray[np.float64], coded: NDArray[np.intp],
        weight: NDArray[np.float64], groups: Any,
    ) -> tuple[NDArray[np.float64], float]:  # fmt: skip
        """As `_solved`, of rows `(N, D)` that are centred; they are divided by the spread `(D,)` in place.

        Args:
            centred: the rows.
            weighted: the same, times the roots of their weights.
            spread: of the features.
            coded: see `_solved`.
            weight: see `_solved`.
            groups: see `fit`.
        """
        covariance = (weighted.T @ weighted).astype(np.float64) / np.outer(spread, spread)
        if groups is not None and self.between:
            places = np.sqrt(self.between) * deviations(centred, coded, groups) / spread
            covariance += places.T @ places
        covariance[np.diag_indices_from(covariance)] += self.alpha
        centred /= spread.astype(centred.dtype)
        return self._solved(centred, coded, weight, covariance)

    def _solved(
        self, X: NDArray[Any], coded: NDArray[np.intp], weight: NDArray[np.float64], curvature: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float]:
        """The weights w `(D,)` and the intercept b, on standardised features.

        Args:
            X: `(N, D)` standardised.
            coded: `(N,)` 0 or 1.
            weight: `(N,)`, of sum 1.
            curvature: `(D, D)` S + alpha I + between (B_real + B_fake); may be overwritten.
        """
        from scipy.linalg import solve

        target = 2.0 * coded - 1
        target -= weight @ target
        coef = solve(curvature, (weight * target) @ X, assume_a="pos", overwrite_a=True)
        middles = [coef @ np.average(X[coded == c], axis=0, weights=weight[coded == c]) for c in (0, 1)]
        return coef, -float(np.mean(middles))


def first_layers(layers: Layers, dim: int) -> Layers:
    """The layers that the first values `(dim,)` of a vector are.

    Args:
        layers: as of `RidgeProbe`: sizes, or 0.
        dim: number of the values.

    Raises:
        ValueError: no number of whole layers, or layers whose size is not said.
    """
    if np.ndim(layers) == 0 and layers == 0:
        return 0
    ends = np.cumsum(layers if np.ndim(layers) else [-1])
    if dim not in ends:
        raise ValueError(f"layers is {layers!r}; the first {dim} values are no number of whole layers of said sizes")
    return list(layers)[: int(np.searchsorted(ends, dim)) + 1]  # type: ignore[arg-type]


def deviations(X: NDArray[Any], coded: NDArray[np.intp], groups: Any) -> NDArray[np.float64]:
    """`(G, D)` rows d_g with sum of d_g d_g^T = B_real + B_fake, G groups of one class each.

    Raises:
        ValueError: not one group a row.
    """
    names = np.asarray(groups, dtype=str)
    if names.shape != (len(X),):
        raise ValueError(f"groups of shape {names.shape} for {len(X)} rows; expected one each")
    rows = []
    for c in (0, 1):
        own = coded == c
        middle = X[own].mean(axis=0, dtype=np.float64)
        found, sizes = np.unique(names[own], return_counts=True)
        for name, n in zip(found, sizes, strict=True):
            share = n / (n + _FEW_ROWS) / len(found)
            rows.append(np.sqrt(share) * (X[own & (names == name)].mean(axis=0, dtype=np.float64) - middle))
    return np.stack(rows)


PLUGIN = RidgeProbe
