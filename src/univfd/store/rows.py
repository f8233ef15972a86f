"""Rows of a bank with all that a store keeps about them, and the digest that each is checked against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bank import FeatureBank, Strings
from ..errors import FormatError
from ..types import FeatureSpace

BANK_TEXTS = ("generator", "source", "licence", "added")
"""Columns that the bank folders of the core have too."""
EXTRA_TEXTS = ("family", "group", "note", "batch", "format")
"""Columns that only a store has."""
TEXTS = (*BANK_TEXTS, *EXTRA_TEXTS)


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows.

    Attributes:
        bank: vectors, labels, keys and where the images come from.
        family: `(N,)` strings: kind of generator.
        group: `(N,)` strings: images of one group stay on one side of a split.
        note: `(N,)` strings: whatever a person wanted to say.
        batch: `(N,)` strings: name of the addition that they came with.
        format: `(N,)` strings: of the image file; empty where not known.
        size: `(N, 2)` int32: width and height in pixels; 0 where not known.
        thumbnails: N JPEG files or None; empty where there are none at all.
    """

    bank: FeatureBank
    family: Strings = field(repr=False)
    group: Strings = field(repr=False)
    note: Strings = field(repr=False)
    batch: Strings = field(repr=False)
    format: Strings = field(repr=False)
    size: NDArray[np.int32] = field(repr=False)
    thumbnails: tuple[bytes | None, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Check that all columns are of one length."""
        n = len(self.bank)
        for name in EXTRA_TEXTS:
            if getattr(self, name).shape != (n,):
                raise FormatError(f"column {name!r} has shape {getattr(self, name).shape}; expected ({n},)")
        if self.size.shape != (n, 2) or len(self.thumbnails) not in {0, n}:
            raise FormatError(f"sizes {self.size.shape} and {len(self.thumbnails)} thumbnails for {n} rows")

    def __len__(self) -> int:
        return len(self.bank)

    @classmethod
    def of(cls, bank: FeatureBank, *, batch: str = "") -> Self:
        """The rows of a bank of the core; what that does not keep is empty."""
        n = len(bank)
        empty: dict[str, Any] = {name: np.full(n, "", dtype=object) for name in EXTRA_TEXTS}
        return cls(bank, **(empty | {"batch": np.full(n, batch, dtype=object)}), size=np.zeros((n, 2), np.int32))

    @property
    def space(self) -> FeatureSpace:
        """The feature space of the vectors."""
        return self.bank.space

    def column(self, name: str) -> Strings:
        """A column of strings by name, see `TEXTS`."""
        values: Strings = getattr(self.bank if name in BANK_TEXTS else self, name)
        return values

    def keys(self) -> list[str]:
        """sha256 of each image, in hex."""
        digits = self.bank.keys.tobytes().hex()
        return [digits[i : i + 64] for i in range(0, len(digits), 64)]

    def take(self, picked: NDArray[Any] | Sequence[int]) -> Self:
        """The given rows (indices or a mask), in that order."""
        picked = np.asarray(picked)
        if picked.dtype == bool:
            picked = np.flatnonzero(picked)
        picked = picked.astype(np.intp)
        kept = tuple(self.thumbnails[i] for i in picked) if self.thumbnails else ()
        taken = {f.name: getattr(self, f.name)[picked] for f in fields(self) if f.name not in {"bank", "thumbnails"}}
        return replace(self, bank=self.bank.take(picked), thumbnails=kept, **taken)

    def add(self, other: Rows) -> Self:
        """These rows and then the others; thumbnails are left behind.

        Raises:
            FeatureSpaceError: the others live in another space.
        """
        joined = {
            f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
            for f in fields(self)
            if f.name not in {"bank", "thumbnails"}
        }
        return replace(self, bank=self.bank.add(other.bank), thumbnails=(), **joined)

    def relabelled(self, changes: dict[str, Any]) -> Self:
        """These rows with another `label`, or other text in columns of `TEXTS`."""
        n = len(self)
        bank: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in changes.items():
            if name == "label":
                bank["labels"] = np.full(n, int(value), np.uint8)
            else:
                (bank if name in BANK_TEXTS else extra)[name] = np.full(n, value, dtype=object)
        return replace(self, bank=replace(self.bank, **bank), **extra)

    @cached_property
    def digests(self) -> NDArray[np.void]:
        """`(N,)` sha256 of each row: vector, key, label and all that is said about it; thumbnails apart."""
        texts = [self.column(name).tolist() for name in TEXTS]
        vectors = np.ascontiguousarray(self.bank.vectors, dtype="<f4")
        keys, labels, size = self.bank.keys, self.bank.labels.tolist(), self.size.tolist()
        made = bytearray()
        for i, words in enumerate(zip(*texts, strict=True)):
            said = json.dumps([labels[i], *size[i], *words], ensure_ascii=False).encode("utf-8", "surrogatepass")
            made += hashlib.sha256(keys[i].tobytes() + vectors[i].tobytes() + said).digest()
        return np.frombuffer(bytes(made), "V32")
