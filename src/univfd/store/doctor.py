"""What may be wrong with a bank, with the rows that it is about and what to do. Nothing is changed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..search import NEAR, nearest_rows
from ..types import Label
from ..wording import counted
from .rows import Rows

NEIGHBORS = 10
_HUB = 10  # a hub is among the nearest rows of so many times more rows than the mean row
_MOST = 0.5  # share of a class that one place may have
_FEW = 5  # rows of a generator
_SHORTCUT = 0.75  # balanced accuracy of a file's format or size alone
_RATIO = 3


@dataclass(frozen=True, eq=False)
class Finding:
    """Something to look at.

    Attributes:
        kind: short name.
        text: in words.
        remove: keys of rows whose removal is suggested.
        rows: keys of the rows that it is about.
    """

    kind: str
    text: str
    remove: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"kind": self.kind, "text": self.text, "remove": list(self.remove), "rows": list(self.rows)}


def examine(rows: Rows, *, near: float = NEAR) -> list[Finding]:
    """All that is found, most serious first.

    Args:
        rows: of a version.
        near: cosine distance within which two pictures are nearly the same.
    """
    if not len(rows):
        return [Finding("empty", "the bank has no rows")]
    keys = np.array(rows.keys(), object)
    found = [*_doubles(rows, keys), *_neighbors(rows, keys, near), *_balance(rows), *_shortcuts(rows)]
    without = keys[rows.bank.licence.astype(str) == ""]
    if len(without):
        found.append(
            Finding("licence", f"{counted(len(without), 'row states', 'rows state')} no licence", rows=tuple(without))
        )
    return found


def _doubles(rows: Rows, keys: NDArray[np.object_]) -> Iterator[Finding]:
    unique, count = np.unique(keys.astype(str), return_counts=True)
    if len(unique) == len(keys):
        return
    labels = rows.bank.labels
    torn = [str(k) for k in unique[count > 1] if len(set(labels[keys == k].tolist())) > 1]
    if torn:
        yield Finding(
            "conflict",
            f"{counted(len(torn), 'image is', 'images are')} there as real and as fake",
            tuple(torn),
            tuple(torn),
        )
    yield Finding(
        "double",
        f"{counted(len(keys) - len(unique), 'row is of a file that has', 'rows are of files that have')} a row already",
        rows=tuple(unique[count > 1]),
    )


def _neighbors(rows: Rows, keys: NDArray[np.object_], near: float) -> Iterator[Finding]:
    bank = rows.bank
    k = min(NEIGHBORS, len(bank) - 1)
    if k < 1:
        return
    distances, found = nearest_rows(bank.unit, bank.unit, k + 1)
    itself = found == np.arange(len(bank))[:, None]
    itself[~itself.any(axis=1), -1] = True  # of many equal vectors the row itself may not be among the first
    shape = (len(bank), k)
    distances, found = distances[~itself].reshape(shape), found[~itself].reshape(shape)
    other = bank.labels[found] != bank.labels[:, None]
    yield from _near(keys, distances, other, near)
    yield from _noise(keys, other)
    yield from _hubs(keys, found)


def _near(
    keys: NDArray[np.object_], distances: NDArray[np.float64], other: NDArray[np.bool_], near: float
) -> Iterator[Finding]:
    """Pictures that are nearly the same, of distances `(N, k)` to rows that are of the other class or not."""
    close = np.flatnonzero(((distances <= near) & other).any(axis=1))
    if len(close):
        yield Finding(
            "near-conflict",
            f"{counted(len(close), 'row is', 'rows are')} nearly the same as a row of the other class (cosine "
            f"distance up to {near:g}); look at them: one of each pair has the wrong label, or the picture says "
            "nothing",
            rows=tuple(keys[close]),
        )
    same = np.flatnonzero((distances[:, 0] <= near) & ~other[:, 0])
    if len(same):
        yield Finding(
            "near-double",
            f"{counted(len(same), 'row is', 'rows are')} nearly the same as a row of the same class",
            rows=tuple(keys[same]),
        )


def _noise(keys: NDArray[np.object_], other: NDArray[np.bool_]) -> Iterator[Finding]:
    """Rows whose nearest rows are all of the other class, `(N, k)`."""
    k, noisy = other.shape[1], np.flatnonzero(other.all(axis=1))
    if k >= 3 and len(noisy):
        yield Finding(
            "label-noise",
            f"{counted(len(noisy), 'row has', 'rows have')} {k} nearest rows that are all of the other class: a "
            "wrong label, or a picture unlike its class",
            tuple(keys[noisy]), tuple(keys[noisy]),
        )  # fmt: skip


def _hubs(keys: NDArray[np.object_], found: NDArray[np.intp]) -> Iterator[Finding]:
    """Rows that are among the nearest ones `(N, k)` of very many."""
    k, seen = found.shape[1], np.bincount(found.ravel(), minlength=len(found))
    hubs = np.flatnonzero(seen > _HUB * k)
    if len(hubs):
        worst = hubs[np.argsort(-seen[hubs], kind="stable")]
        yield Finding(
            "hub",
            f"{counted(len(hubs), 'row is', 'rows are')} among the {k} nearest of more than {_HUB * k} rows each (the "
            f"first of {seen[worst[0]]}): they answer for many unlike pictures",
            tuple(keys[worst]), tuple(keys[worst]),
        )  # fmt: skip


def _balance(rows: Rows) -> Iterator[Finding]:
    bank = rows.bank
    counts = {label: len(bank.rows(label)) for label in Label}
    if not all(counts.values()):
        yield Finding("one-class", f"{counts[Label.REAL]} real and {counts[Label.FAKE]} fake rows; deciding needs both")
    elif max(counts.values()) > _RATIO * min(counts.values()):
        yield Finding("classes", f"{counts[Label.REAL]} real and {counts[Label.FAKE]} fake rows: far from balanced")
    for label, column in ((Label.REAL, "source"), (Label.FAKE, "generator")):
        places = Counter(rows.column(column)[bank.rows(label)].astype(str).tolist())
        if not places:
            continue
        (name, most), *_ = places.most_common(1)
        if len(places) == 1 or most > _MOST * counts[label]:
            yield Finding(
                column, f"{most} of {counts[label]} {label.word} rows are of one {column} ({name or 'not named'}): "
                "others are hardly known",
            )  # fmt: skip
        few = sorted(n for n, c in places.items() if c < _FEW and n)
        if few and label is Label.FAKE:
            yield Finding(
                "few",
                f"{counted(len(few), 'generator has', 'generators have')} fewer than {_FEW} rows: "
                f"{', '.join(few[:10])}",
            )


def _shortcuts(rows: Rows) -> Iterator[Finding]:
    """Whether a file's format or size alone tells the classes apart; such a bank teaches the wrong thing."""
    sizes = np.array([f"{w} x {h}" if w else "" for w, h in rows.size.tolist()], object)
    for name, values in (("format", rows.format.astype(str)), ("size", sizes.astype(str))):
        known = values != ""
        labels = rows.bank.labels[known]
        if len(np.unique(labels)) < 2:
            continue
        accuracy, telling = _told_by(values[known], labels)
        if accuracy > _SHORTCUT:
            yield Finding(
                name,
                f"the {name} of the file alone tells real from fake with a balanced accuracy of {accuracy:.0%} (of "
                f"{counted(len(labels), 'row')} whose {name} is known; {telling}). Bring both classes to one {name}: "
                "'univfd audit --match' does",
            )


def _told_by(values: NDArray[Any], labels: NDArray[np.uint8]) -> tuple[float, str]:
    """Balanced accuracy of the best rule on single values that occur more than once, and its strongest value."""
    names, codes = np.unique(values, return_inverse=True)
    shares = np.array([np.bincount(codes[labels == c], minlength=len(names)) / (labels == c).sum() for c in (0, 1)])
    often = np.bincount(codes) > 1
    gain = np.where(often, np.abs(shares[1] - shares[0]), 0)
    best = int(gain.argmax())
    return 0.5 + float(gain.sum()) / 2, f"{names[best]}: {shares[0][best]:.0%} of reals, {shares[1][best]:.0%} of fakes"


def command_of(store: str, finding: Finding, most: int = 12) -> str:
    """The command that would remove what a finding suggests; empty where it suggests nothing.

    Args:
        store: as the user names it.
        finding: the finding.
        most: keys in the command; the rest needs a file.
    """
    import shlex

    if not finding.remove:
        return ""
    keys = " ".join(f"--key {key[:16]}" for key in finding.remove[:most])
    rest = f"   # and {len(finding.remove) - most} more: see --json" if len(finding.remove) > most else ""
    return f"univfd bank remove {shlex.quote(store)} {keys}{rest}"
