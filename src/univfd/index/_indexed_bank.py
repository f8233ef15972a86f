"""A version of a bank that stays where it is: what a detector asks of a bank, answered through an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank
from ..search import Distances
from ..types import FeatureSpace, FloatArray, Label, Neighbor
from ._rows import ANY, RowNumbers, Where

if TYPE_CHECKING:
    from . import NeighborIndex


class Reader(Protocol):
    """Gets rows of the bank from where they lie."""

    def take(self, rows: RowNumbers) -> FeatureBank:
        """The given rows, each once, in that order, in memory."""
        ...

    def keys(self) -> NDArray[np.uint8]:
        """`(N, 32)` sha256 of each row's image."""
        ...

    def blocks(self, label: Label) -> Iterator[tuple[RowNumbers, FloatArray]]:
        """All rows of a class, in parts: numbers `(n,)` and vectors `(n, D)` as they are stored."""
        ...


@dataclass(frozen=True, eq=False)
class IndexedBank:
    """Rows of known images, of which only the index's own numbers and labels are held in memory.

    It answers what `Detector` and classifiers ask of a `FeatureBank`. The nearest rows are those that the index finds.

    Attributes:
        space: the feature space of the vectors.
        digest: of the rows and of how they are searched: all that decides a search.
        index: finds the nearest rows.
        reader: gets rows.
    """

    space: FeatureSpace
    digest: str
    index: NeighborIndex
    reader: Reader

    def __len__(self) -> int:
        return len(self.index.source)

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """`(N,)`, 0 real, 1 fake."""
        labels = np.zeros(len(self), np.uint8)
        labels[self.rows(Label.FAKE)] = Label.FAKE
        return labels

    @property
    def keys(self) -> NDArray[np.uint8]:
        """`(N, 32)` sha256 of each image file; read anew each time."""
        return self.reader.keys()

    def rows(self, label: Label) -> RowNumbers:
        """Indices of the rows of one class."""
        return self.index.source.fitting(Where(label))

    def take(self, rows: RowNumbers) -> FeatureBank:
        """The given rows, each once, in that order, in memory."""
        return self.reader.take(rows)

    def nearest(self, queries: FloatArray, k: int, *, label: Label | None = None) -> tuple[Distances, RowNumbers]:
        """See `FeatureBank.nearest`; rows may be missed, as often as the index's recall says."""
        return self.index.search(queries, k, ANY if label is None else Where(label))

    def neighbors(self, distances: Distances, rows: RowNumbers) -> list[tuple[Neighbor, ...]]:
        """See `FeatureBank.neighbors`; the rows are read at once."""
        unique, places = np.unique(rows, return_inverse=True)
        found = self.take(unique.astype(np.intp)).neighbors(distances, places.reshape(rows.shape))
        return [
            tuple(replace(n, row=int(row)) for n, row in zip(of, numbers, strict=True))
            for of, numbers in zip(found, rows, strict=True)
        ]


Bank = FeatureBank | IndexedBank
"""What a detector decides with."""
