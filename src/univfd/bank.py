"""The feature bank: embeddings of known real and known fake images, with where each came from.

The paper's classifier is a search in this bank (section 4.2: the label of the nearest neighbour, cosine distance).
A bank is a value: edits give a new bank and leave the old one as it was, so an edit is undone by keeping the old one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, UsageError
from .search import Distances, nearest_rows, to_unit
from .storage import new_folder, read_arrays, read_json, write_arrays, write_json
from .types import UNITS, Embeddings, FeatureSpace, FloatArray, Label, Neighbor
from .views import view

KIND, SCHEMA = "feature bank", 2
_SCHEMA_OF = {"float32": 1, "float16": 1, "int8": 2}  # older versions read what they can, and refuse the rest
MANIFEST, ARRAYS = "bank.json", "bank.safetensors"
_COLUMNS = ("generator", "source", "licence", "added")
_ARRAYS = ("vectors", "labels", "keys", *_COLUMNS)

BankType = Literal["float32", "float16", "int8"]
"""Of the vectors on disk; in memory they are float32."""
Strings = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """Rows of known images.

    Attributes:
        vectors: `(N, D)` float32 (not normalised; the search takes the cosine).
        labels: `(N,)` uint8, 0 real, 1 fake.
        keys: `(N, 32)` uint8, sha256 of each image file.
        space: the feature space of the vectors.
        generator: `(N,)` strings; empty for real rows.
        source: `(N,)` strings: where the image comes from.
        licence: `(N,)` strings, as stated at the source.
        added: `(N,)` strings: when the row was added (ISO date).
    """

    vectors: FloatArray
    labels: NDArray[np.uint8]
    keys: NDArray[np.uint8]
    space: FeatureSpace
    generator: Strings = field(repr=False)
    source: Strings = field(repr=False)
    licence: Strings = field(repr=False)
    added: Strings = field(repr=False)

    def __post_init__(self) -> None:
        """Check shapes and values."""
        n = len(self.vectors)
        Embeddings(self.vectors, self.space)
        shapes = {"labels": (n,), "keys": (n, 32)} | dict.fromkeys(_COLUMNS, (n,))
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise FormatError(f"bank column {name!r} has shape {getattr(self, name).shape}; expected {shape}")
        if n and not np.isfinite(self.vectors).all():
            raise FormatError("the bank has vectors that are not finite (nan or infinity)")
        if n and int(self.labels.max()) > 1:
            raise FormatError(f"bank label {int(self.labels.max())}; expected 0 (real) or 1 (fake)")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def origin(self) -> Strings:
        """`(N,)` strings, equal for rows of one class that come from one place: generator and source."""
        return origins(self.generator, self.source)

    @classmethod
    def from_rows(
        cls,
        embeddings: Embeddings,
        labels: Sequence[Label] | NDArray[np.uint8],
        keys: Sequence[str],
        *,
        generator: str | Sequence[str] = "",
        source: str | Sequence[str] = "",
        licence: str | Sequence[str] = "",
        added: str | Sequence[str] = "",
    ) -> FeatureBank:
        """A bank of N embeddings.

        Args:
            embeddings: N rows.
            labels: N labels.
            keys: N sha256 in hex.
            generator: N strings, or one for all; empty for reals.
            source: likewise.
            licence: likewise.
            added: likewise, ISO dates.

        Raises:
            FormatError: lengths or values that do not fit.
        """
        n = len(embeddings)
        try:
            digests = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(len(keys), 32)
        except ValueError as error:
            raise FormatError(f"bank keys must be sha256 in hex (64 digits each): {error}") from error
        return cls(
            vectors=embeddings.vectors,
            labels=np.asarray(labels, np.uint8),
            keys=digests,
            space=embeddings.space,
            generator=_strings(generator, n),
            source=_strings(source, n),
            licence=_strings(licence, n),
            added=_strings(added, n),
        )

    @classmethod
    def empty(cls, space: FeatureSpace) -> FeatureBank:
        """A bank without rows."""
        return cls.from_rows(Embeddings(np.empty((0, space.dim), np.float32), space), [], [])

    def key(self, row: int) -> str:
        """sha256 of a row's image, in hex."""
        return str(self.keys[row].tobytes().hex())

    def rows(self, label: Label) -> NDArray[np.intp]:
        """Indices of the rows of one class."""
        return np.flatnonzero(self.labels == label)

    @cached_property
    def digest(self) -> str:
        """16 hex digits of all that decides a search: vectors, labels, keys, space; not of generators and sources."""
        hashed = hashlib.sha256(self.space.digest.encode())
        for array in (self.vectors, self.labels, self.keys):
            hashed.update(np.ascontiguousarray(array).data)
        return hashed.hexdigest()[:16]

    @cached_property
    def unit(self) -> FloatArray:
        """Vectors of length 1 (a zero vector stays zero: it is at distance 1 from everything)."""
        return to_unit(self.vectors)

    def nearest(self, queries: FloatArray, k: int, *, label: Label | None = None) -> tuple[Distances, NDArray[np.intp]]:
        """The k nearest rows of each query, by exact search in blocks.

        Args:
            queries: `(Q, D)` float32 in this bank's space, of any length.
            k: neighbours; fewer come back where the bank (or the class) has fewer rows.
            label: search among the rows of one class only.

        Returns:
            Cosine distances `(Q, k)` float64, 0..2, nearest first, ties by row; and row indices `(Q, k)`.

        Raises:
            UsageError: k is below 1, or vectors of another size.
        """
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1")
        if np.ndim(queries) != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise UsageError(
                f"queries of shape {np.shape(queries)}; expected (Q, {self.vectors.shape[1]}), in this bank's space. "
                "If they are of a detector that reads more layers, take the first values, as Batch.first does"
            )
        among = np.arange(len(self)) if label is None else self.rows(label)
        base = self.unit if label is None else self.unit_of(label)
        distances, rows = nearest_rows(to_unit(queries), base, k)
        return distances, among[rows]

    def unit_of(self, label: Label) -> FloatArray:
        """The unit vectors of one class, `(n, D)`, in the bank's order."""
        return self._units[label]

    @cached_property
    def _units(self) -> dict[Label, FloatArray]:
        # Not by way of `unit`: whoever asks by class would have all vectors twice.
        return {label: to_unit(self.vectors[self.rows(label)], in_place=True) for label in Label}

    def neighbors(self, distances: Distances, rows: NDArray[np.intp]) -> list[tuple[Neighbor, ...]]:
        """The result of `nearest`, `(Q, k)` each, with what is known about the rows."""
        return [
            tuple(self._neighbor(int(row), float(far)) for far, row in zip(*of, strict=True))
            for of in zip(distances, rows, strict=True)
        ]

    def _neighbor(self, row: int, distance: float) -> Neighbor:
        label, generator, source = Label(int(self.labels[row])), str(self.generator[row]), str(self.source[row])
        return Neighbor(row, distance, label, generator, source, self.key(row))

    def in_space(self, space: FeatureSpace, what: str = "the bank") -> FeatureBank:
        """This bank, or, of one whose vectors have more blocks side by side, those of the given space.

        Args:
            space: of this bank, or of some of its taps, all else alike.
            what: this bank is, for the message.

        Raises:
            FeatureSpaceError: the spaces differ in more than their taps, or a tap is not there.
        """
        mine = self.space.taps
        tokens = [UNITS if tap.startswith("mlp.") else 1 for tap in mine]  # how many a layer is as long as
        known = all(tap.startswith(("cls.", "mean.", "mlp.")) for tap in mine) and self.space.dim % sum(tokens) == 0
        if not (known and set(space.taps) < set(mine) and view(self.space.view).pool == "mean"):
            space.require(self.space, what)
            return self
        ends = np.cumsum(tokens) * (self.space.dim // sum(tokens))
        parts = dict(zip(mine, np.split(np.arange(self.space.dim), ends[:-1]), strict=True))
        columns = np.concatenate([parts[tap] for tap in space.taps])
        space.require(replace(self.space, taps=space.taps, dim=len(columns)), what)
        return replace(self, vectors=np.ascontiguousarray(self.vectors[:, columns]), space=space)

    def add(self, other: FeatureBank) -> FeatureBank:
        """This bank with the rows of another after its own.

        Raises:
            FeatureSpaceError: the other bank lives in another space.
        """
        self.space.require(other.space, "the bank to add")
        joined: dict[str, Any] = {a: np.concatenate([getattr(self, a), getattr(other, a)]) for a in _ARRAYS}
        return replace(self, **joined)

    def take(self, rows: NDArray[Any] | Sequence[int]) -> FeatureBank:
        """The given rows (indices or a mask), in that order."""
        picked = np.asarray(rows)
        if not picked.size and picked.dtype != bool:  # an empty list has no type of its own
            picked = np.empty(0, np.intp)
        taken: dict[str, Any] = {a: getattr(self, a)[picked] for a in _ARRAYS}
        return replace(self, **taken)

    def remove(self, rows: Iterable[int]) -> FeatureBank:
        """This bank without the given rows."""
        keep = np.ones(len(self), bool)
        keep[np.fromiter(rows, np.intp)] = False
        return self.take(keep)

    def counts(self, column: Literal["generator", "source", "licence", "added"], label: Label) -> dict[str, int]:
        """Number of rows of a class by generator, source, licence or date, most first."""
        counted = Counter(getattr(self, column)[self.rows(label)].tolist())
        return dict(sorted(counted.items(), key=lambda each: (-each[1], each[0])))

    def save(self, folder: Path | str, *, dtype: BankType = "float32") -> None:
        """Write the bank as a new folder.

        Args:
            folder: must not exist.
            dtype: of the vectors on disk. float16 halves the size and changes distances by about 1e-3; int8 (one scale
                a dimension) quarters it.

        Raises:
            OutputExistsError: the folder exists.
            UsageError: values that the type does not hold.
        """
        with new_folder(Path(folder)) as scratch:
            self.write(scratch, dtype=dtype)

    def write(self, folder: Path, *, dtype: BankType = "float32") -> None:
        """Write the bank's files into an existing empty folder (the caller makes it appear at once)."""
        columns = {}
        arrays: dict[str, NDArray[Any]] = {"labels": self.labels, "keys": self.keys} | _stored(self.vectors, dtype)
        for name in _COLUMNS:
            words, codes = np.unique(getattr(self, name).astype(str), return_inverse=True)
            columns[name] = words.tolist()
            arrays[name] = codes.astype(np.uint32)
        write_json(
            folder / MANIFEST,
            KIND,
            _SCHEMA_OF[dtype],
            {"rows": len(self), "space": self.space.to_dict(), "dtype": dtype, "columns": columns},
        )
        write_arrays(folder / ARRAYS, arrays)

    @classmethod
    def load(cls, folder: Path | str) -> FeatureBank:
        """Read a folder written by `save`.

        Raises:
            FormatError: not a bank, damaged, or of a newer schema.
        """
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST, KIND, SCHEMA)
        try:
            n, space, words = manifest["rows"], FeatureSpace.from_dict(manifest["space"]), manifest["columns"]
        except KeyError as error:
            raise FormatError(f"{folder / MANIFEST} lacks {error}") from error
        if type(n) is not int or not isinstance(words, dict):
            raise FormatError(f"{folder / MANIFEST}: expected a number in 'rows' and names in 'columns'")
        shapes: dict[str, tuple[int | None, ...]] = {
            "vectors": (n, space.dim),
            "labels": (n,),
            "keys": (n, 32),
        }
        if manifest.get("dtype") == "int8":
            shapes |= {"scale": (space.dim,)}
        arrays = read_arrays(folder / ARRAYS, shapes | dict.fromkeys(_COLUMNS, (n,)))
        _check_types(folder, arrays)
        columns = {c: _words(folder, c, words.get(c), arrays[c]) for c in _COLUMNS}
        return cls(
            vectors=_restored(arrays), labels=arrays["labels"], keys=arrays["keys"], space=space,
            **columns,
        )  # fmt: skip


def _check_types(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays of types that no bank is written with, before any value is used.

    Raises:
        FormatError: says which.
    """
    wanted = {"labels": "u1", "keys": "u1", "scale": "f4"} | dict.fromkeys(_COLUMNS, "u4")
    for name, kind in wanted.items():
        if name in arrays and arrays[name].dtype != np.dtype(kind):
            raise FormatError(f"{folder}: array {name!r} is {arrays[name].dtype}; expected {np.dtype(kind)}")
    if "scale" in arrays and arrays["scale"].shape != arrays["vectors"].shape[1:]:
        raise FormatError(f"{folder}: array 'scale' is {arrays['scale'].shape}; expected one number a column")
    kinds = ["int8"] if "scale" in arrays else ["float32", "float16"]
    if arrays["vectors"].dtype.name not in kinds:
        raise FormatError(f"{folder}: its vectors are {arrays['vectors'].dtype}; expected {' or '.join(kinds)}")


def _words(folder: Path, column: str, words: Any, codes: NDArray[Any]) -> Strings:
    """A column of texts, stored as a list of words and the place of each row's word in it.

    Raises:
        FormatError: no texts, or a place beyond the list.
    """
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise FormatError(f"{folder}: column {column!r} is no list of texts")
    if len(codes) and int(codes.max()) >= len(words):
        raise FormatError(f"{folder}: column {column!r} does not fit the bank's rows: {len(words)} words")
    found = np.empty(len(words), dtype=object)
    found[:] = words
    return np.asarray(found[codes])


def as_stored(vectors: FloatArray, dtype: BankType) -> FloatArray:
    """Vectors `(N, D)` as a bank of this type gives them back after it was written and read."""
    return _restored(_stored(vectors, dtype))


def _stored(vectors: FloatArray, dtype: BankType) -> dict[str, NDArray[Any]]:
    """`vectors` `(N, D)` of the type; for int8 also `scale` `(D,)`: their steps."""
    if dtype != "int8":
        with np.errstate(over="ignore"):
            made = vectors.astype(dtype)
        if not np.isfinite(made).all():
            raise UsageError(f"the vectors have values beyond what {dtype} holds; keep them as float32 or int8")
        return {"vectors": made}
    # A few dimensions of a transformer's residual stream are far larger than the rest: one scale for all would
    # round the rest away.
    scale = np.abs(vectors).max(axis=0, initial=0).astype(np.float32) / np.float32(127)
    return {"vectors": np.rint(vectors / np.where(scale > 0, scale, 1)).astype(np.int8), "scale": scale}


def _restored(arrays: Mapping[str, NDArray[Any]]) -> FloatArray:
    vectors = arrays["vectors"].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the bank
        return np.multiply(vectors, arrays["scale"], out=vectors) if "scale" in arrays else vectors


def origins(generator: Strings, source: Strings) -> Strings:
    """`(N,)` names of the places that images come from, of their generators and sources `(N,)`."""
    return np.array([f"{g}\n{s}" for g, s in zip(generator, source, strict=True)], dtype=object)


def _strings(values: str | Sequence[str], n: int) -> Strings:
    if isinstance(values, str):
        return np.full(n, values, dtype=object)
    return np.asarray(values, dtype=object)
