"""One version of a store, in memory or left where it lies."""

from __future__ import annotations

from dataclasses import dataclass

from ..bank import FeatureBank
from ..errors import UsageError
from ..index import Bank, IndexedBank
from ..types import Label
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
        """Store, version and digest in one word, which a verdict carries to say what it was decided with."""
        return f"{self.store}:{self.edit.number}@{self.edit.content[:12]}"

    def deciding(self) -> tuple[FeatureBank, str]:
        """See `univfd.detector.HasBank`.

        Raises:
            UsageError: there are not rows of both classes.
        """
        _require_both(self.bank, self.name)
        return self.bank, self.name


@dataclass(frozen=True, eq=False)
class LargeSnapshot:
    """One version of a store, whose rows are searched where they lie.

    Attributes:
        store: name of the store.
        edit: the version.
        ids: `(N,)` ids of its rows.
        bank: its rows, through the store's index.
    """

    store: str
    edit: Edit
    ids: Ids
    bank: IndexedBank

    @property
    def name(self) -> str:
        """See `Snapshot.name`."""
        return f"{self.store}:{self.edit.number}@{self.edit.content[:12]}"

    def deciding(self) -> tuple[IndexedBank, str]:
        """See `Snapshot.deciding`."""
        _require_both(self.bank, self.name)
        return self.bank, self.name


def _require_both(bank: Bank, name: str) -> None:
    counts = {label.word: len(bank.rows(label)) for label in Label}
    if not all(counts.values()):
        raise UsageError(f"{name} has {counts['real']} real and {counts['fake']} fake rows; deciding needs both")
