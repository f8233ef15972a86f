"""The living bank: a bank store on LanceDB (extra `bank`), its edits with undo, and what one asks of it.

`BankStore` is the store; the other modules of this folder add images to it, look for trouble in it, try changes out
before they are made, and thin it. Nothing here is imported by deciding about an image.
"""

from __future__ import annotations

from .history import Change, Edit, History
from .naming import locate
from .rows import Rows
from .snapshot import LargeSnapshot, Snapshot
from .store import BankStore

__all__ = ["BankStore", "Change", "Edit", "History", "LargeSnapshot", "Rows", "Snapshot", "locate"]
