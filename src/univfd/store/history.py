"""The versions of a store: a list of edits, each with the rows that came and the rows that went.

Pure values and arithmetic on ids; nothing here reads or writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnknownNameError, UsageError

Ids = NDArray[np.int64]
NO_IDS: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Edit:
    """One version.

    Attributes:
        number: 0 is the creation; each edit adds one.
        id: unique, random.
        when: UTC, ISO, to the second.
        who: as the user calls themselves.
        op: `create`, `add`, `remove`, `relabel`, `undo`, `checkout`, `tag`, `merge`, `import`, `forget`.
        what: in words.
        restores: the version whose rows this one brings back; None for other edits.
        added: ids of rows that came, in their order.
        removed: ids of rows that went.
        content: sha256 of space and rows of this version, in hex.
        detail: whatever else this kind of edit has to say.
    """

    number: int
    id: str
    when: str
    who: str
    op: str
    what: str
    restores: int | None = None
    added: Ids = field(default_factory=lambda: NO_IDS, repr=False)
    removed: Ids = field(default_factory=lambda: NO_IDS, repr=False)
    content: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; of the ids their number."""
        return {
            "version": self.number, "when": self.when, "who": self.who, "op": self.op, "what": self.what,
            "added": len(self.added), "removed": len(self.removed), "content": self.content,
            **({"restores": self.restores} if self.restores is not None else {}),
            **({"detail": json.loads(json.dumps(self.detail))} if self.detail else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Change:
    """What an edit is to do.

    Attributes:
        op: see `Edit.op`.
        what: in words.
        add: ids of rows to come, already appended or known from an earlier version.
        remove: ids of rows to go.
        restores: see `Edit.restores`.
        detail: see `Edit.detail`.
    """

    op: str
    what: str
    add: Ids = field(default_factory=lambda: NO_IDS)
    remove: Ids = field(default_factory=lambda: NO_IDS)
    restores: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class History:
    """All edits, oldest first; the first number may be above 0 where older ones were forgotten."""

    edits: Sequence[Edit]

    @property
    def tip(self) -> Edit:
        """The newest edit."""
        return self.edits[-1]

    @property
    def first(self) -> int:
        """The oldest version that can be asked for: the first one, or the last one that `forget` left."""
        forgotten = [int(e.detail["base"]) for e in self.edits if e.op == "forget"]
        return max([self.edits[0].number, *forgotten])

    def edit(self, number: int) -> Edit:
        """The edit of this number.

        Raises:
            UnknownNameError: there is none, or it was forgotten.
        """
        if not self.first <= number <= self.tip.number:
            raise UnknownNameError(f"no version {number}; this store has {self.first} to {self.tip.number}")
        return self.edits[number - self.edits[0].number]

    @cached_property
    def order(self) -> Ids:
        """Every id there ever was, in the order of the first appearance: the order of rows in every version."""
        appeared = np.concatenate([e.added for e in self.edits]) if self.edits else NO_IDS
        unique, first = np.unique(appeared, return_index=True)
        return np.asarray(unique[np.argsort(first, kind="stable")], np.int64)

    def ids(self, number: int) -> Ids:
        """The rows of a version, in their order.

        Raises:
            UnknownNameError: no such version.
            FormatError: an edit takes out what never came.
        """
        self.edit(number)
        order = self.order
        by_id = np.argsort(order, kind="stable")
        sorted_ids = order[by_id]
        alive = np.zeros(len(order), bool)
        for edit in self.edits:
            if edit.number > number:
                break
            alive[by_id[np.searchsorted(sorted_ids, edit.added)]] = True
            gone = np.searchsorted(sorted_ids, edit.removed)
            if len(gone) and (gone.max() == len(order) or (sorted_ids[gone] != edit.removed).any()):
                raise FormatError(f"edit {edit.number} takes out rows that no edit has put in; the store is damaged")
            alive[by_id[gone]] = False
        return order[alive]

    def change(self, number: int) -> tuple[Ids, Ids]:
        """What must come and what must go to turn the newest version into an earlier one."""
        return difference(self.ids(self.tip.number), self.ids(number))

    def tags(self) -> dict[str, int]:
        """Version of each tag; the newest statement counts."""
        found: dict[str, int] = {}
        for e in self.edits:
            if e.op == "tag":
                found[e.detail["tag"]] = e.detail["version"]
            elif e.op == "forget":
                found |= dict.fromkeys(e.detail.get("tags", ()), e.detail["base"])
        return found

    def lost(self) -> list[str]:
        """Tags that would be lost if all versions but the newest were forgotten: those of other rows."""
        there = {name: version for name, version in self.tags().items() if version >= self.first}
        return sorted(name for name, version in there.items() if self.edit(version).content != self.tip.content)

    def resolve(self, name: str | int | None) -> int:
        """A version by number or tag; None or an empty text is the newest.

        Raises:
            UnknownNameError: neither.
        """
        if name is None or name == "":
            return self.tip.number
        if str(name).isdecimal():
            return self.edit(int(name)).number
        tags = self.tags()
        if name not in tags:
            known = ", ".join(sorted(tags)) or "none"
            raise UnknownNameError(f"no version or tag {name!r}; versions go to {self.tip.number}, tags: {known}")
        return self.edit(tags[str(name)]).number

    def before(self, number: int) -> int:
        """The version that undoing version `number` brings back: the one before the edit whose rows it has.

        An `undo` has the rows of an earlier version, so undoing again goes on from there.

        Raises:
            UsageError: there is nothing before it.
        """
        edit = self.edit(number)
        while edit.op in {"tag", "forget"} or (edit.op == "undo" and edit.restores is not None):
            number = edit.number - 1 if edit.restores is None else edit.restores
            if number < self.first:  # forgotten
                break
            edit = self.edit(number)
        if number <= self.first:
            raise UsageError("nothing to undo: this is the first version that the store has")
        return edit.number - 1


def difference(now: Ids, then: Ids) -> tuple[Ids, Ids]:
    """Ids of `then` that `now` lacks, and of `now` that `then` lacks, each in its order."""
    return then[~np.isin(then, now)], now[~np.isin(now, then)]
