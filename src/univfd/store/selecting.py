"""Which rows an edit is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..types import Label
from .rows import Rows

COLUMNS = ("generator", "source", "family", "batch", "licence", "format")
_SHORTEST = 6


def select(
    rows: Rows, *, keys: Sequence[str] = (), label: Label | None = None, texts: Mapping[str, str] | None = None
) -> NDArray[np.intp]:
    """Indices of the rows that all of the given conditions hold for.

    Args:
        rows: of a version.
        keys: sha256 of images in hex, or their first digits; any of them.
        label: the class.
        texts: wanted value of columns of `COLUMNS`.

    Raises:
        UsageError: no condition at all, or a key that is too short, unknown or not unique.
    """
    texts = texts or {}
    if not keys and label is None and not texts:
        raise UsageError(
            "say which rows: --key, --label, --generator, --source, --family, --batch, --licence, --format"
        )
    chosen = np.ones(len(rows), bool)
    if keys:
        chosen &= _of_keys(rows.keys(), keys)
    if label is not None:
        chosen &= rows.bank.labels == label
    for name, value in texts.items():
        chosen &= rows.column(name).astype(str) == value
    return np.flatnonzero(chosen)


def _of_keys(have: Sequence[str], wanted: Sequence[str]) -> NDArray[np.bool_]:
    names = np.array(have, dtype="U64")
    by_name = np.argsort(names, kind="stable")
    in_order = names[by_name]
    chosen = np.zeros(len(names), bool)
    for key in wanted:
        digits = key.lower()
        if len(digits) < _SHORTEST or not set(digits) <= set("0123456789abcdef"):
            raise UsageError(f"key {key!r}: expected at least the first {_SHORTEST} hex digits of an image's sha256")
        start, end = np.searchsorted(in_order, [digits, digits + "g"])
        found = np.unique(in_order[start:end])
        if len(found) != 1:
            raise UsageError(f"key {key!r} names {len(found)} images of this version; expected one")
        chosen[by_name[start:end]] = True
    return chosen
