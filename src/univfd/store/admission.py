"""Which rows may come into a bank: exact doubles, doubles under the other label, and pictures that are nearly there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..index import Bank
from ..search import Distances, nearest_rows, pair_distances, to_unit
from ..types import FloatArray, Label

_BLOCK = 1_024  # new images that are compared with all in front of them at a time


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
    among, earlier = _nearest_before(unit)
    kept: list[int] = []
    unlike = np.empty_like(unit) if leaving_out else unit  # the kept ones' vectors, so far
    for i in range(n):
        best: tuple[float, str, Label] | None = None
        for there in known[i]:
            best = (there.distance, there.key, there.label)
        distance, row = float(among[i]), int(earlier[i])
        if leaving_out and distance <= bound:  # it may be near to one that is left out
            distance = np.inf
            if kept:
                far = pair_distances(unit[i], unlike[: len(kept)])
                distance, row = float(far.min()), kept[int(far.argmin())]
        if distance < (best[0] if best else np.inf):
            best = (distance, keys[row], labels[row])
        if best is not None and best[0] <= bound:
            found.append(Near(names[i], keys[i], labels[i], best[1], best[2], best[0]))
        elif leaving_out:
            unlike[len(kept)] = unit[i]
            kept.append(i)
    return found


def _nearest_before(unit: FloatArray) -> tuple[Distances, NDArray[np.intp]]:
    """Cosine distance `(N,)` of each row to the nearest one in front of it, and its number; infinite of the first."""
    distances, rows = np.full(len(unit), np.inf), np.zeros(len(unit), np.intp)
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        _, found = nearest_rows(block, unit[:start], 1)
        alike = 1 - block @ block.T
        alike[np.triu_indices(len(block))] = np.inf
        for i, query in enumerate(block):
            within = int(alike[i].argmin())
            for row in [*found[i].tolist(), *([start + within] if np.isfinite(alike[i, within]) else [])]:
                far = float(pair_distances(query, unit[row : row + 1])[0])
                if far < distances[start + i]:
                    distances[start + i], rows[start + i] = far, row
    return distances, rows
