"""One version of a store, in memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..bank import FeatureBank
from .history import Edit, Ids
from .rows import Rows


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One version of a store, in memory.

    Attributes:
        store: name of the store.
        edit: the version.
        ids: `(N,)` ids of its rows.
        rows: its rows.
    """

    store: str
    edit: Edit
    ids: Ids
    rows: Rows

    @property
    def bank(self) -> FeatureBank:
        """The rows as the core's bank."""
        return self.rows.bank

    @property
    def name(self) -> str:
        """`store:version@digest`, which a verdict carries to say what it was decided with."""
        return f"{self.store}:{self.edit.number}@{self.edit.content[:12]}"
