"""What an index is built of and answers for: numbered rows, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..search import to_unit
from ..types import FloatArray, Label

RowNumbers = NDArray[np.intp]
_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows are looked at: those that fit all that is given.

    Attributes:
        label: of one class.
        generator: of one generator.
        source: of one source.
    """

    label: Label | None = None
    generator: str | None = None
    source: str | None = None


ANY = Where()


class RowSource(Protocol):
    """N rows, numbered 0..N-1 in the bank's order, of one version of a bank."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def digest(self) -> str:
        """Changes with the rows: an index of another digest is stale."""
        ...

    def __len__(self) -> int: ...

    def fitting(self, where: Where) -> RowNumbers:
        """Numbers of the rows that fit, ascending."""
        ...

    def blocks(self, where: Where) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """The rows that fit, in parts: numbers `(n,)`, ascending, and vectors of length 1 `(n, D)`."""
        ...

    def take(self, rows: RowNumbers) -> FloatArray:
        """Vectors of length 1 `(n, D)` of the given rows."""
        ...


class BankRows:
    """The rows of a bank in memory.

    Args:
        bank: the rows.
        cached: let the bank keep a copy of its vectors of length 1, which exact search needs; without, `blocks` makes
            them anew in small parts.
    """

    def __init__(self, bank: FeatureBank, *, cached: bool = True) -> None:
        self.bank, self.cached = bank, cached

    @property
    def dim(self) -> int:
        """D."""
        return self.bank.space.dim

    @property
    def digest(self) -> str:
        """The bank's."""
        return self.bank.digest

    def __len__(self) -> int:
        return len(self.bank)

    def fitting(self, where: Where) -> RowNumbers:
        """See `RowSource`."""
        fits = np.ones(len(self), bool)
        if where.label is not None:
            fits &= self.bank.labels == where.label
        if where.generator is not None:
            fits &= self.bank.generator == where.generator
        if where.source is not None:
            fits &= self.bank.source == where.source
        return np.flatnonzero(fits)

    def blocks(self, where: Where) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """See `RowSource`. All rows, or all of a class, are one part where the bank keeps them."""
        rows = self.fitting(where)
        if self.cached and where == ANY:
            yield rows, self.bank.unit
        elif self.cached and where.label is not None and where == Where(where.label):
            yield rows, self.bank.unit_of(where.label)
        else:
            for start in range(0, len(rows), _BLOCK):
                yield rows[start : start + _BLOCK], self.take(rows[start : start + _BLOCK])

    def take(self, rows: RowNumbers) -> FloatArray:
        """See `RowSource`. From the vectors, so that large banks need not keep a second copy of length 1."""
        return to_unit(self.bank.vectors[rows], in_place=True)
