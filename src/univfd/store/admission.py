"""Which rows may come into a bank: exact doubles, doubles under the other label, and pictures that are nearly there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..index import Bank
from ..search import nearest_rows, to_unit
from ..types import FloatArray, Label


@dataclass(frozen=True, slots=True)
class Double:
    """An image whose file is in the bank already, or came earlier in the same addition.

    Attributes:
        image: its name.
        key: sha256 of the file.
        label: as given now.
        known: as the bank (or the earlier one) has it; differs from `label` in a conflict.
    """

    image: str
    key: str
    label: Label
    known: Label

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"image": self.image, "key": self.key, "label": self.label.word, "known_as": self.known.word}


@dataclass(frozen=True, slots=True)
class Near:
    """An image that is nearly the same as another one.

    Attributes:
        image: its name.
        key: sha256 of the file.
        label: as given now.
        other: key of the nearest row.
        other_label: label of that.
        distance: cosine distance.
    """

    image: str
    key: str
    label: Label
    other: str
    other_label: Label
    distance: float

    @property
    def conflict(self) -> bool:
        """Whether the two are of different classes."""
        return self.label is not self.other_label

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "image": self.image, "key": self.key, "label": self.label.word, "other": self.other,
            "other_label": self.other_label.word, "distance": self.distance,
        }  # fmt: skip


def doubles(
    images: Sequence[tuple[str, str, Label]], known: Mapping[str, Label]
) -> tuple[list[int], list[Double], list[Double]]:
    """Tell new files from known ones.

    Args:
        images: name, sha256 and label of each.
        known: label by sha256, of the bank.

    Returns:
        Indices of the new ones; the doubles of the same label; those of the other label (conflicts).
    """
    seen = dict(known)
    new: list[int] = []
    same: list[Double] = []
    other: list[Double] = []
    for i, (name, key, label) in enumerate(images):
        if key not in seen:
            seen[key] = label
            new.append(i)
        else:
            (same if seen[key] is label else other).append(Double(name, key, label, seen[key]))
    return new, same, other


def near_rows(
    names: Sequence[str], keys: Sequence[str], labels: Sequence[Label], vectors: FloatArray, bank: Bank,
    bound: float, *, leaving_out: bool = False,
) -> list[Near]:  # fmt: skip
    """New images that are nearly the same as a row of the bank, or as an earlier new one.

    Args:
        names: N names of the new images.
        keys: N sha256.
        labels: N labels.
        vectors: `(N, D)`.
        bank: what is there.
        bound: largest cosine distance that counts as near.
        leaving_out: those that are found will be left out, so being near to one of them counts for nothing: of a film
            whose frames each resemble the next, some stay.
    """
    unit = to_unit(vectors)
    found = []
    n = len(names)
    known = bank.neighbors(*bank.nearest(vectors, 1))
    among, new_rows = nearest_rows(unit, unit, min(n, 10))
    kept: list[int] = []
    unlike = np.empty_like(unit) if leaving_out else unit  # the kept ones' vectors, so far
    for i in range(n):
        best: tuple[float, str, Label] | None = None
        for there in known[i]:
            best = (there.distance, there.key, there.label)
        earlier = [(float(far), int(row)) for far, row in zip(among[i], new_rows[i], strict=True) if row < i]
        if leaving_out and any(far <= bound for far, _ in earlier):
            far_from = 1 - unlike[: len(kept)] @ unit[i]
            earlier = [(float(far_from.min()), kept[int(far_from.argmin())])] if kept else []
        for distance, row in earlier:
            if best is None or distance < best[0]:
                best = (distance, keys[row], labels[row])
        if best is not None and best[0] <= bound:
            found.append(Near(names[i], keys[i], labels[i], best[1], best[2], best[0]))
        elif leaving_out:
            unlike[len(kept)] = unit[i]
            kept.append(i)
    return found
