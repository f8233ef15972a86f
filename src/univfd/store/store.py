"""`BankStore`: versions of a bank in one place; every edit is a new one, made whole or not at all."""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConflictError, FormatError, UsageError
from ..index import Bank
from ..types import FeatureSpace, Label
from . import indexing
from .history import Change, Edit, History, Ids, difference
from .naming import is_address, now, whoami
from .rows import Rows
from .snapshot import LargeSnapshot, Snapshot
from .tables import Options, Tables

ATTEMPTS = 10
"""How often an edit is tried again where other processes were faster."""
ORPHAN_AGE = datetime.timedelta(days=1)
"""Rows that no edit names are kept so long: they may be of an addition that is still running."""


class BankStore:
    """A bank that is edited; see the package's page `docs/bank.md`.

    Attributes:
        uri: a folder, or an address on object storage.
        who: who makes the edits.
        tables: where all of it lies.
    """

    def __init__(self, uri: str, tables: Tables, who: str | None = None) -> None:
        self.uri = uri
        self.who = who or whoami()
        self.tables = tables
        self._digests: dict[int, bytes] = {}

    @classmethod
    def create(
        cls, uri: str | Path, space: FeatureSpace, *, who: str | None = None, options: Options | None = None
    ) -> Self:
        """Make an empty store.

        Args:
            uri: a folder that does not exist or is empty, or an address such as `s3://bucket/prefix`.
            space: the feature space of its rows, for ever.
            who: who makes it; default: the user's name.
            options: for object storage, see LanceDB's `storage_options`; default: the environment (`AWS_...`).

        Raises:
            OutputExistsError: there is something.
        """
        uri = os.fspath(uri)
        first = Edit(
            0, uuid.uuid4().hex, now(), who or whoami(), "create", "an empty store", content=_content(space, [])
        )
        return cls(uri, Tables.create(uri, space, first, options), who)

    @classmethod
    def open(cls, uri: str | Path, *, who: str | None = None, options: Options | None = None) -> Self:
        """Open a store; see `Tables.open` for what it raises."""
        uri = os.fspath(uri)
        return cls(uri, Tables.open(uri, options), who)

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.uri.rstrip("/").rpartition("/")[2] if is_address(self.uri) else Path(self.uri).resolve().name

    @property
    def space(self) -> FeatureSpace:
        """The feature space of all rows."""
        return self.tables.space

    def history(self) -> History:
        """The versions there are now."""
        return History(self.tables.edits())

    def snapshot(self, version: str | int | None = None, history: History | None = None) -> Snapshot:
        """A version's rows, checked against their digests.

        Args:
            version: number or tag; default: the newest.
            history: where it is known already.

        Raises:
            UnknownNameError: no such version.
            FormatError: rows are missing or damaged.
        """
        history = history or self.history()
        number = history.resolve(version)
        ids = history.ids(number)
        rows, edit = self.tables.read(ids), history.edit(number)
        if _content(self.space, [d.tobytes() for d in rows.digests]) != edit.content:
            raise FormatError(f"{self.uri}: version {number} has other rows than its digest says; the store is damaged")
        return Snapshot(self.name, edit, ids, rows)

    def at(self, version: str | int | None = None, *, indexed: bool = True) -> Snapshot | LargeSnapshot:
        """A version to decide with: in memory where it is small, else through the store's index.

        Args:
            version: number or tag; default: the newest.
            indexed: insist on an index for a large one; False: without one read it into memory all the same.

        Raises:
            UsageError: it is large, and the store has no index; else see `snapshot`.
        """
        history = self.history()
        ids = history.ids(number := history.resolve(version))
        if not indexing.is_large(len(ids)) or not (indexed or indexing.built(self.tables)):
            return self.snapshot(number, history)
        return indexing.opened(self.tables, self.name, history.edit(number), ids)

    def deciding(self) -> tuple[Bank, str]:
        """See `univfd.detector.HasBank`: the newest version."""
        return self.at().deciding()

    def rows(self, ids: Ids) -> Rows:
        """Rows by id, of whatever version."""
        return self.tables.read(ids)

    def keys(self, ids: Ids) -> dict[str, tuple[int, Label]]:
        """Id and label of each of these rows, by the sha256 of its image; vectors are not read."""
        return self.tables.keys(ids)

    def thumbnails(self, ids: Ids) -> dict[int, bytes]:
        """JPEG thumbnails by id, of those rows that have one."""
        return self.tables.thumbnails(ids)

    def append(self, rows: Rows) -> Ids:
        """Write rows; they are in no version until `commit` names their ids.

        Raises:
            FeatureSpaceError: rows of another space.
        """
        self.space.require(rows.space, "the rows to add")
        ids = self.tables.append(rows)
        self._digests.update(zip(ids.tolist(), (d.tobytes() for d in rows.digests), strict=True))
        return ids

    def commit(self, plan: Callable[[History], Change | None]) -> Edit | None:
        """Make one edit, whole or not at all.

        Args:
            plan: says what to do, given the versions there are; asked again where another process was faster. None:
                there is nothing to do.

        Returns:
            The new version; None where there was nothing to do.

        Raises:
            ConflictError: other processes were faster each time.
        """
        for attempt in range(ATTEMPTS):
            history = self.history()
            change = plan(history)
            if change is None:
                return None
            try:
                edit = self._edit_of(history, change)
            except FormatError:
                if self.history().tip.id == history.tip.id:
                    raise
                continue  # rows went since: another process has forgotten them
            try:
                if self.tables.seal(history.tip, edit):
                    return edit
            except ConflictError:
                if any(e.id == edit.id for e in self.history().edits):  # it went through, only the answer was lost
                    return edit
            time.sleep(random.uniform(0, 0.05 * 2 ** min(attempt, 5)))
        raise ConflictError(
            f"{self.uri}: other processes changed it {ATTEMPTS} times while this edit was tried; nothing was changed. "
            "Run the command again"
        )

    def remove(self, ids: Ids, what: str) -> Edit | None:
        """Take rows out; those that are gone already do not matter.

        Raises:
            ConflictError: another edit has put others in the place of some since they were chosen.
        """

        def plan(history: History) -> Change | None:
            there = ids[self._still_there(ids, history)]
            return Change("remove", what, remove=there) if len(there) else None

        return self.commit(plan)

    def relabel(self, ids: Ids, changes: dict[str, Any], what: str) -> Edit | None:
        """Put rows with another label or other texts in the place of rows; see `Rows.relabelled`.

        Raises:
            ConflictError: another edit has put others in the place of some since they were chosen.
        """
        old = self.rows(ids)
        thumbnails = self.thumbnails(ids)
        new = replace(old.relabelled(changes), thumbnails=tuple(thumbnails.get(int(i)) for i in ids))
        changed = np.flatnonzero(new.digests != old.digests)
        if not len(changed):
            return None
        made, replaced = self.append(new.take(changed)), ids[changed]

        def plan(history: History) -> Change | None:
            there = self._still_there(replaced, history)  # another process may have taken some out
            return Change("relabel", what, made[there], replaced[there]) if there.any() else None

        return self.commit(plan)

    def undo(self, steps: int = 1) -> Edit:
        """Bring back the rows as they were before the last edit, or the last few; undoing again goes on from there.

        Raises:
            UsageError: there is nothing to undo.
            ConflictError: another process made an edit meanwhile, which is not the one that was to be undone.
        """
        seen = self.history().tip.id

        def plan(history: History) -> Change:
            if history.tip.id != seen:
                raise ConflictError(
                    f"{self.uri}: another process made version {history.tip.number} meanwhile; nothing was undone. "
                    "Look at the log, and run the command again"
                )
            target = history.tip.number
            for _ in range(steps):
                target = history.before(target)
            undone = f"undo of {steps} edits" if steps > 1 else "undo"
            return _back_to(history, target, "undo", f"{undone}: as of version {target}")

        edit = self.commit(plan)
        assert edit is not None
        return edit

    def checkout(self, version: str | int) -> Edit:
        """Make an earlier version's rows the newest version."""

        def plan(history: History) -> Change:
            target = history.resolve(version)
            named = "" if str(target) == str(version) else f" ({version})"
            return _back_to(history, target, "checkout", f"as of version {target}{named}")

        edit = self.commit(plan)
        assert edit is not None
        return edit

    def tag(self, name: str, version: str | int | None = None) -> Edit:
        """Name a version; a name may be given anew.

        Raises:
            UsageError: a name that is a number or blank, or has `@` or `/`.
        """
        if not name.strip() or name.isdecimal() or "@" in name or "/" in name:
            raise UsageError(f"tag {name!r}: expected a name that is no number and has no '@' and no '/'")

        named = self.history().resolve(version)  # the newest one of now, whatever comes meanwhile

        def plan(history: History) -> Change:
            target = history.resolve(named)
            return Change("tag", f"{name} = version {target}", detail={"tag": name, "version": target})

        edit = self.commit(plan)
        assert edit is not None
        return edit

    def compact(self, *, forget: bool = False, older_than: datetime.timedelta = ORPHAN_AGE) -> int:
        """Remove what no version names, join small files.

        Args:
            forget: keep the newest version only: earlier ones cannot be brought back. A tag of one that has the same
                rows stays, as one of the newest.
            older_than: see `ORPHAN_AGE`.

        Returns:
            Number of rows removed from the tables.
        """
        if forget:
            self.commit(_forgetting)
        history = self.history()
        if history.first > history.edits[0].number:  # also of a process that was stopped here
            base = history.edit(history.first)
            live, later = history.ids(base.number), [e.added for e in history.edits if e.number > base.number]
            kept = history.order[np.isin(history.order, np.concatenate([live, *later]))]
            self.tables.squash(replace(base, added=kept, removed=difference(live, kept)[0], restores=None))
        used = np.concatenate([np.concatenate([e.added, e.removed]) for e in self.history().edits])
        return self.tables.clean(used, older_than)

    def _still_there(self, ids: Ids, history: History) -> NDArray[np.bool_]:
        """`(N,)` which rows the newest version has; refuses where it has the images of others in rows of other ids."""
        newest = history.ids(history.tip.number)
        there = np.isin(ids, newest)
        if not there.all():
            other = set(self.keys(ids[~there])) & set(self.keys(newest))
            if other:
                raise ConflictError(
                    f"{self.uri}: another edit has changed {len(other)} of these {len(ids)} rows since they were "
                    "chosen; nothing was changed. Run the command again"
                )
        return there

    def _edit_of(self, history: History, change: Change) -> Edit:
        new = Edit(
            history.tip.number + 1, uuid.uuid4().hex, now(), self.who, change.op, change.what, change.restores,
            change.add, change.remove, detail=change.detail,
        )  # fmt: skip
        ids = History([*history.edits, new]).ids(new.number)
        return replace(new, content=self._content_of(ids))

    def _content_of(self, ids: Ids) -> str:
        wanted = ids.tolist()
        if any(i not in self._digests for i in wanted):
            there, digests = self.tables.digests()
            self._digests.update(zip(there.tolist(), (d.tobytes() for d in digests), strict=True))
        if gone := [i for i in wanted if i not in self._digests]:
            raise FormatError(f"{self.uri}: {len(gone)} of {len(wanted)} rows of this version are gone from the store")
        return _content(self.space, [self._digests[i] for i in wanted])


def _forgetting(history: History) -> Change:
    tip = history.tip
    there = {name for name, version in history.tags().items() if history.first <= version < tip.number}
    kept = sorted(there.difference(history.lost()))
    return Change("forget", f"versions before {tip.number}", detail={"base": tip.number, "tags": kept})


def _back_to(history: History, target: int, op: str, what: str) -> Change:
    add, remove = history.change(target)
    return Change(op, what, add, remove, restores=target)


def _content(space: FeatureSpace, digests: Sequence[bytes]) -> str:
    return hashlib.sha256(space.digest.encode() + b"".join(digests)).hexdigest()
