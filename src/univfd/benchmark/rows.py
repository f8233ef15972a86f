"""Score rows: one per image, perturbation and detector; the file from which every figure comes, and nothing else.

Order: perturbation, detector, image, each as the run was asked for; so every cell (a detector under a perturbation)
has the same images in the same order. Parquet, zstd; needs the extra `parquet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..errors import FormatError
from ..storage import cannot_write

COLUMNS: tuple[tuple[str, type | str], ...] = (
    ("image", str),
    ("sha256", str),
    ("label", str),
    ("generator", str),
    ("family", str),
    ("source", str),
    ("group", str),
    ("subset", str),
    ("split", str),
    ("format", str),
    ("width", "int32"),
    ("height", "int32"),
    ("perturbation", str),
    ("detector", str),
    ("identity", str),
    ("status", str),
    ("error", str),
    ("score", float),
    ("probability", float),
    ("verdict", str),
    ("fake_above", float),
    ("real_below", float),
    ("in_bank", bool),
)
"""Columns and types. Null where a failed image has no value; `in_bank`: the detector was made of this very file."""
ABOUT_IMAGES = ("image", "sha256", "label", "generator", "family", "source", "group", "subset", "split")
_GROUP_ROWS = 20_000

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = Mapping[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Texts:
    """N strings of few values: `(N,)` codes into `names`."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def __getitem__(self, row: int) -> str:
        return self.names[int(self.codes[row])]

    def are(self, name: str) -> Flags:
        """`(N,)` which of them are `name`."""
        if name not in self.names:
            return np.zeros(len(self.codes), bool)
        return np.asarray(self.codes == self.names.index(name))

    def among(self, rows: Flags) -> list[str]:
        """The distinct strings of some rows, sorted."""
        return sorted(self.names[c] for c in np.unique(self.codes[rows]))


@dataclass(frozen=True, eq=False)
class Images:
    """What is known of the N images of a run, whatever the detector: the columns `ABOUT_IMAGES`."""

    columns: Mapping[str, Texts]

    def __len__(self) -> int:
        return len(self.columns["label"].codes)

    @cached_property
    def fake(self) -> Flags:
        """`(N,)` which are fakes."""
        return self.columns["label"].are("fake")

    @cached_property
    def origin(self) -> NDArray[np.intp]:
        """`(N,)` equal for images that are not independent: of one group, else one file, else one name."""
        n = len(self)
        found = np.arange(n)
        offset = 0
        for name in ("image", "sha256", "group"):  # the last that an image has counts
            texts = self.columns[name]
            there = ~texts.are("")
            found[there] = texts.codes[there] + offset
            offset += len(texts.names)
        return found


@dataclass(frozen=True, eq=False)
class Cell:
    """One detector under one perturbation, on N images.

    Attributes:
        perturbation: as given.
        detector: name.
        identity: name and digest.
        fake_above: the detector's threshold for `fake`; nan: it has none.
        real_below: the one for `real`; likewise.
        judged: `(N,)` which images could be judged.
        score: `(N,)`; nan where not judged.
        probability: `(N,)`; nan where not judged; None: the detector is not calibrated.
        verdict: `(N,)`.
        in_bank: `(N,)` which files the detector was made of.
    """

    perturbation: str
    detector: str
    identity: str
    fake_above: float
    real_below: float
    judged: Flags
    score: Floats
    probability: Floats | None
    verdict: Texts
    in_bank: Flags


@dataclass(frozen=True, eq=False)
class Scores:
    """The rows of a run."""

    images: Images
    cells: tuple[Cell, ...]

    def cell(self, perturbation: str, detector: str) -> Cell:
        """One cell.

        Raises:
            UnknownNameError: there is none of this detector and perturbation.
        """
        for cell in self.cells:
            if (cell.perturbation, cell.detector) == (perturbation, detector):
                return cell
        known = [f"{c.detector} under {c.perturbation}" for c in self.cells]
        raise registry.unknown("part of this run", f"{detector} under {perturbation}", known)


def write_rows(path: Path, chunks: Iterable[Columns]) -> None:
    """Write rows as they come, in bounded memory.

    Args:
        path: the file; what is there is replaced.
        chunks: columns of a few hundred rows each.

    Raises:
        MissingExtraError: without the extra `parquet`.
        UnivFDError: the file cannot be written.
    """
    pa, pq = arrow()
    types = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), "int32": pa.int32()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS])
    with _writing(path):
        writer = pq.ParquetWriter(path, schema, compression="zstd")
    waiting: list[Any] = []
    try:
        for chunk in chunks:
            waiting.append(pa.Table.from_pydict(dict(chunk), schema=schema))
            if sum(map(len, waiting)) >= _GROUP_ROWS:
                with _writing(path):
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            with _writing(path):
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
    finally:
        with _writing(path):
            writer.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Only what the file itself refuses is about the file; the rows come from elsewhere."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def read_rows(path: Path) -> Scores:
    """The rows of a run, by column.

    Raises:
        MissingExtraError: without the extra `parquet`.
        FormatError: not such a file, or one whose cells have different images.
    """
    pa, pq = arrow()
    texts = [name for name, kind in COLUMNS if kind is str]
    try:
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            missing = {name for name, _ in COLUMNS} - set(file.schema_arrow.names)
            if missing:
                raise FormatError(f"{path} lacks the columns {', '.join(sorted(missing))}: it is no file of score rows")
            table = file.read([name for name, _ in COLUMNS])
    except (OSError, KeyError, UnicodeError, pa.ArrowException) as error:
        raise FormatError(f"{path} cannot be read as score rows: {error}") from error
    if not len(table):
        raise FormatError(f"{path} holds no rows")
    for name, kind in COLUMNS:
        if not _is_of(pa, table.schema.field(name).type, kind):
            raise FormatError(f"{path}: column {name!r} is of type {table.schema.field(name).type}; no run writes that")
    columns = {name: _texts(table[name]) for name in texts}
    numbers = {name: _numbers(table[name]) for name, kind in COLUMNS if kind in (float, bool)}
    starts = _cell_starts(columns["perturbation"], columns["detector"])
    size = len(table) // len(starts)
    if starts != list(range(0, len(table), size)):
        raise FormatError(f"{path}: its cells have different numbers of images; expected the same images in each")
    images = {name: Texts(columns[name].codes[:size], columns[name].names) for name in ABOUT_IMAGES}
    for name, text in images.items():
        if not np.array_equal(columns[name].codes, np.tile(text.codes, len(starts))):
            raise FormatError(f"{path}: column {name!r} differs between cells; expected the same images in each")
    return Scores(Images(images), tuple(_cell(path, columns, numbers, s, size) for s in starts))


def arrow() -> tuple[Any, Any]:
    """`pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingExtraError: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a file of score rows", error) from error
    return pyarrow, pyarrow.parquet


def _is_of(pa: Any, found: Any, kind: object) -> bool:
    """Whether a column has the type that `write_rows` gives it."""
    if kind is str:
        return bool(pa.types.is_dictionary(found) and pa.types.is_string(found.value_type))
    checks = {float: pa.types.is_float64, bool: pa.types.is_boolean, "int32": pa.types.is_int32}
    return bool(checks[kind](found))


def _texts(column: Any) -> Texts:
    encoded = column.unify_dictionaries().combine_chunks()
    if hasattr(encoded, "num_chunks"):  # a table without rows, or one chunk left
        encoded = encoded.chunk(0)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    names = encoded.dictionary.to_pylist()
    if (codes < 0).any():
        codes, names = np.where(codes < 0, len(names), codes).astype(np.int32), [*names, ""]
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Texts(np.array([order[n] for n in names], np.int32)[codes], tuple(order))


def _numbers(column: Any) -> NDArray[Any]:
    return np.asarray(column.to_numpy())


def _cell_starts(perturbation: Texts, detector: Texts) -> list[int]:
    key = perturbation.codes.astype(np.int64) * len(detector.names) + detector.codes
    return [0, *(np.flatnonzero(np.diff(key)) + 1).tolist()]


def _cell(path: Path, columns: Mapping[str, Texts], numbers: Mapping[str, NDArray[Any]], start: int, size: int) -> Cell:
    rows = slice(start, start + size)
    perturbation, detector, identity = (columns[c][start] for c in ("perturbation", "detector", "identity"))
    where = f"{path}: {detector} under {perturbation}"
    judged = Texts(columns["status"].codes[rows], columns["status"].names).are("ok")
    score, chance = numbers["score"][rows].astype(float), numbers["probability"][rows].astype(float)
    if np.isnan(score[judged]).any():
        raise FormatError(f"{where}: images that were judged have no score")
    calibrated = ~np.isnan(chance[judged])
    if calibrated.any() and not calibrated.all():
        raise FormatError(f"{where}: some images have a probability and some have none")
    limits = [numbers[name][rows].astype(float) for name in ("fake_above", "real_below")]
    if not all(np.array_equal(limit, np.full(size, limit[0]), equal_nan=True) for limit in limits):
        raise FormatError(f"{where}: its thresholds differ between images")
    return Cell(
        perturbation=perturbation,
        detector=detector,
        identity=identity,
        fake_above=float(limits[0][0]),
        real_below=float(limits[1][0]),
        judged=judged,
        score=score,
        probability=chance if calibrated.any() else None,
        verdict=Texts(columns["verdict"].codes[rows], columns["verdict"].names),
        in_bank=numbers["in_bank"][rows].astype(bool),
    )
