"""What rows added to a bank do to a linear score that was learned without them: no training, and nothing is forgotten.

Let s be the score, z a standardised embedding of length 1, and k(z, z') = max(0, z . z')^2. Kernel regression on the
residuals of the added rows,

    score(x) = s(x) + sum_j c_j k(z, z_j),   (K + LAMBDA I) c = r,   r_j = max(0, M - y_j s(x_j)) y_j for added rows,

with y = 1 for fake, -1 for real and M the margin (Rasmussen, Williams: "Gaussian Processes for Machine Learning",
section 2.7: a fixed mean function and a process on top of it). Rows of the other class that the bank had already are
anchors, of r = 0, so that an addition does not raise what is known to be otherwise. The correction depends on the set
of rows alone: in which order they came does not matter, and without them the score is what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..index import Bank, IndexedBank, RowNumbers
from ..search import to_unit
from ..types import FloatArray, Label

_LAMBDA = 0.1
_ANCHORS = 2_000  # of each class at most: those nearest to an added row
MOST_ADDED = 5_000


@dataclass(frozen=True, eq=False)
class Origin:
    """The bank that a score was learned beside.

    Attributes:
        known: `(N, 9)` uint8: for each of its rows 8 bytes of the key, and the label.
        centre: `(D,)` float32: mean of its vectors.
        spread: `(D,)` float32: their standard deviation.
    """

    known: NDArray[np.uint8]
    centre: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, bank: FeatureBank) -> Origin:
        """What is to be remembered of a bank."""
        spread = bank.vectors.std(axis=0, dtype=np.float64)
        return cls(
            _marks(bank),
            bank.vectors.mean(axis=0, dtype=np.float64).astype(np.float32),
            np.where(spread > 0, spread, 1).astype(np.float32),
        )

    def added(self, bank: Bank) -> NDArray[np.bool_]:
        """`(N,)` which rows of another bank are not of this one, or have another label there."""
        known = {mark.tobytes() for mark in self.known}
        return np.array([mark.tobytes() not in known for mark in _marks(bank)], bool)

    def directions(self, vectors: FloatArray) -> FloatArray:
        """Standardised embeddings `(N, D)`, of length 1."""
        return to_unit((vectors - self.centre) / self.spread)


@dataclass(frozen=True, eq=False)
class Correction:
    """The sum over added rows and anchors.

    Attributes:
        origin: see `Origin`.
        rows: their z, `(M, D)`.
        coef: c, `(M,)`.
    """

    origin: Origin
    rows: FloatArray
    coef: NDArray[np.float64]

    def __call__(self, vectors: FloatArray) -> NDArray[np.float64]:
        """What is added to the scores of embeddings `(N, D)`: `(N,)`."""
        return _kernel(self.origin.directions(vectors), self.rows) @ self.coef


def correction(
    origin: Origin, bank: Bank, score: Callable[[FloatArray], NDArray[np.float64]], margin: float = 1.0
) -> Correction | None:
    """The correction of a score by the rows that a bank has beyond its origin's.

    Args:
        origin: the bank that the score was learned beside.
        bank: the bank now.
        score: of embeddings `(N, D)`, without a correction.
        margin: what the added rows' scores are brought to.

    Returns:
        None where no row was added.

    Raises:
        ValueError: more than `MOST_ADDED` rows were added.
    """
    added = origin.added(bank)
    if not added.any():
        return None
    from scipy.linalg import solve

    if added.sum() > MOST_ADDED:
        raise ValueError(
            f"{int(added.sum()):,} rows of the bank are new to its probe, which can be corrected by {MOST_ADDED:,} at "
            "most: train one on the bank"
        )
    new = bank.take(np.flatnonzero(added))
    z = origin.directions(new.vectors)
    sign = 2.0 * new.labels - 1
    residual = sign * np.maximum(0, margin - sign * score(new.vectors))
    anchors = [_anchors(origin, bank, ~added, Label(1 - c), z[new.labels == c]) for c in (0, 1)]
    rows = np.concatenate([z, *anchors])
    gram = _kernel(rows, rows)
    gram[np.diag_indices_from(gram)] += _LAMBDA
    target = np.concatenate([residual, np.zeros(len(rows) - len(z))])
    return Correction(origin, rows, solve(gram, target, assume_a="pos"))


def _anchors(origin: Origin, bank: Bank, among: NDArray[np.bool_], label: Label, z: FloatArray) -> FloatArray:
    """Standardised rows `(A, D)` of a class, of some of the bank, those nearest to the added ones `(M, D)`, in order.

    A bank that is not in memory is read through once.
    """
    rows, kept = np.empty(0, np.intp), np.empty((0, z.shape[1]), np.float32)
    for numbers, vectors in _blocks(bank, label) if len(z) else ():
        chosen = among[numbers]
        rows = np.concatenate([rows, numbers[chosen]])
        kept = np.concatenate([kept, origin.directions(vectors[chosen])])
        if len(rows) > _ANCHORS:
            near = np.lexsort((rows, -(kept @ z.T).max(axis=1)))[:_ANCHORS]
            rows, kept = rows[near], kept[near]
    return kept[np.argsort(rows)]


def _blocks(bank: Bank, label: Label) -> Iterable[tuple[RowNumbers, FloatArray]]:
    """The rows of a class, and their vectors: in one part where they are in memory."""
    if isinstance(bank, IndexedBank):
        return bank.reader.blocks(label)
    rows = bank.rows(label)
    return [(rows, bank.vectors[rows])]


def _kernel(a: FloatArray, b: FloatArray) -> NDArray[Any]:
    return np.maximum(0, (a @ b.T).astype(np.float64)) ** 2


def _marks(bank: Bank) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.concatenate([bank.keys[:, :8], bank.labels[:, None]], axis=1))
