"""LanceDB's own index on the table that the vectors lie in, on disk; needs the extra `bank`.

One bit a dimension (`IVF_RQ`) proposes rows, and their vectors are read from the disk and measured again. The index is
part of the table, the folder holds `index.json` alone. A label is looked up in a bitmap index: without it every search
within a class reads the labels of the whole table, which takes ten times as long as the search; ids are in a tree.

Rows that were written after the index was built are searched one by one, rows that were taken out are left out: the
answers are those of the rows as they are now.
"""

from __future__ import annotations

import logging
import time
import uuid
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import FormatError, UsageError
from ..search import Distances, nearest_in_blocks, pair_distances
from ..storage import new_folder
from ..types import FloatArray
from . import ANY, Manifest, RowNumbers, Where, checked
from ._lance_rows import LanceRows, plain_errors
from ._manifest import AIM, measure

_SCAN = 20_000
_BATCH = 100  # queries a call: it holds the vectors of all candidates of all its queries
_LADDER = ((1, 10), (2, 10), (4, 10), (8, 10), (16, 10), (24, 10), (32, 10), (40, 10), (48, 10), (64, 10), (80, 10),
           (96, 15), (128, 20), (192, 30), (256, 40), (512, 80), (1024, 160))  # fmt: skip
# Efforts: partitions that are looked at, and candidates read from the disk for each neighbour asked for.
_MIN_ROWS = 1_000
_TRAINING = 48  # rows a partition
_WIDER = 10  # times more candidates, where rows that do not count have taken the places of those that do
_log = logging.getLogger(__name__)


class LanceIndex:
    """See `univfd.index.NeighborIndex`."""

    COVERS_NEW_ROWS = True

    def __init__(self, source: LanceRows, effort: tuple[int, int], manifest: Manifest | None) -> None:
        self.source, self.effort, self.manifest = source, effort, manifest
        self._counts: dict[Where, int] = {}

    @classmethod
    def build(cls, source: LanceRows, folder: Path | str, *, aim: float = AIM, lists: int | None = None) -> Self:
        """Build the index into the table (a new version of it), measure it and write its manifest.

        Args:
            source: the newest version of a table.
            folder: for `index.json`; must not exist.
            aim: recall@9 that the effort is set for.
            lists: partitions; by the number of rows if None.

        Raises:
            OutputExistsError: the folder exists.
            UsageError: fewer rows than an index is of use for, or not the newest version.
        """
        with new_folder(Path(folder)) as scratch:
            made, manifest = cls.make(source, aim=aim, lists=lists)
            manifest.write(scratch)
        return made

    @classmethod
    def make(cls, source: LanceRows, *, aim: float = AIM, lists: int | None = None) -> tuple[Self, Manifest]:
        """As `build`, but the manifest is left to the caller to keep."""
        if len(source) < _MIN_ROWS:
            raise UsageError(f"{len(source)} rows are too few for this index (at least {_MIN_ROWS}); use exact search")
        lists = lists or int(np.sqrt(len(source)))
        start = time.perf_counter()
        table = source.table
        with plain_errors(table.name):
            name = _create(source, lists)
        seconds = time.perf_counter() - start
        efforts = list(dict.fromkeys((min(probes, lists), refined) for probes, refined in _LADDER))
        made = cls(source, efforts[0], None)
        number, recall = measure(
            lambda n, queries, k, where: made._search(queries, k, where, efforts[n]), source, efforts, aim=aim
        )
        manifest = Manifest(
            index="lance",
            rows=len(source),
            dim=source.dim,
            digest=source.digest,
            parameters={"kind": "IVF_RQ", "lists": lists, "table_version": table.version, "name": name},
            effort=dict(zip(("probes", "refined"), efforts[number], strict=True)),
            recall=recall,
            seconds=round(seconds, 2),
            library=f"lancedb {_version()}",
            files={},
        )
        return cls(source, efforts[number], manifest), manifest

    @classmethod
    def open(cls, source: LanceRows, folder: Path | str, manifest: Manifest) -> Self:
        """Called by `open_index`, which has compared the rows.

        Raises:
            FormatError: the rows are in no table, or the table has no such index at this version.
        """
        if not isinstance(source, LanceRows):
            raise FormatError(f"{folder} is an index on a LanceDB table; give the table's rows (LanceRows), not a bank")
        if not {"probes", "refined"} <= set(manifest.effort):
            raise FormatError(f"{folder}: index.json names no effort to search with. Build the index again")
        there = [i.name for i in _indexes(source)]
        if not there:
            raise FormatError(f"{folder}: this version of the table has no index on its vectors. Build it again")
        if there != [manifest.parameters.get("name", there[0])]:
            _log.warning(
                "%s: the index was begun anew and not finished: its recall is not known. Build it again", folder
            )
        return cls(source, (manifest.effort["probes"], manifest.effort["refined"]), manifest)

    @property
    def unindexed(self) -> int:
        """Rows of the table that came after the index, which every search looks at one by one."""
        return max((int(i.num_unindexed_rows) for i in _indexes(self.source)), default=0)

    @staticmethod
    def drop(source: LanceRows) -> int:
        """Take the index out of the table; how many there were."""
        there = _indexes(source)
        with plain_errors(source.table.name):
            for index in there:
                source.table.drop_index(index.name)
        return len(there)

    def search(self, queries: FloatArray, k: int, where: Where = ANY) -> tuple[Distances, RowNumbers]:
        """See `univfd.index.NeighborIndex`."""
        return self._search(checked(queries, self.source.dim, k), k, where, self.effort)

    def _search(self, unit: FloatArray, k: int, where: Where, effort: tuple[int, int]) -> tuple[Distances, RowNumbers]:
        if where not in self._counts:
            self._counts[where] = len(self.source.fitting(where))
        n, narrow = self._counts[where], where.generator is not None or where.source is not None
        if narrow and n <= _SCAN:
            return nearest_in_blocks(unit, self.source.blocks(where), k)
        wide = min(k, n)
        distances, rows = np.full((len(unit), wide), np.inf), np.full((len(unit), wide), -1, np.intp)
        short = np.arange(len(unit))
        for candidates in (k + 4, _WIDER * (k + 4)):  # a few more: the table may hold rows that do not count
            for start in range(0, len(short), _BATCH):
                part = short[start : start + _BATCH]
                proposed = self._proposed(unit[part], candidates, where, effort)
                for i, (numbers, vectors) in zip(part, proposed, strict=True):
                    if len(numbers) >= wide:
                        far = pair_distances(unit[i], vectors)
                        order = np.lexsort((numbers, far))[:wide]
                        distances[i], rows[i] = far[order], numbers[order]
            short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):  # the lists looked at hold too few rows that count
            distances[short], rows[short] = nearest_in_blocks(unit[short], self.source.blocks(where), k)
        return distances, rows

    def _proposed(
        self, unit: FloatArray, wide: int, where: Where, effort: tuple[int, int]
    ) -> list[tuple[RowNumbers, FloatArray]]:
        """Rows that may be the nearest of each query, of `wide` candidates, and their unit vectors."""
        source = self.source

        def asked() -> Any:
            query = source.table.search(list(unit) if len(unit) > 1 else unit[0], vector_column_name=source.vector)
            query = query.distance_type("cosine").nprobes(effort[0]).refine_factor(effort[1]).limit(wide)
            condition = source.condition(where)
            query = query.where(condition) if condition else query
            columns = [source.vector, "_distance"] + ([] if source.key == "_rowid" else [source.key])
            return query.with_row_id(True).select(columns).to_arrow().combine_chunks()

        with plain_errors(source.table.name):
            table = source.newest(asked)
        found: list[tuple[RowNumbers, FloatArray]] = [
            (np.empty(0, np.intp), np.empty((0, source.dim), np.float32)) for _ in unit
        ]
        for batch in table.to_batches():
            owner = batch.column("query_index").to_numpy() if len(unit) > 1 else np.zeros(len(batch), np.intp)
            numbers, known = source.numbers(batch.column(source.key).to_numpy().astype(np.int64))
            vectors, owner = source.units(batch)[known], owner[known]
            for i in np.unique(owner):
                found[i] = (numbers[owner == i], vectors[owner == i])
        return found


def _create(source: LanceRows, lists: int) -> str:
    """Make the indexes; the name of the one on vectors, which no other has, so that an unfinished build is noticed."""
    from lancedb.index import Bitmap, BTree, IvfRq

    table, name = source.table, f"{source.vector}_{uuid.uuid4().hex[:12]}"
    if "label" in table.schema.names:
        table.create_index("label", config=Bitmap(), replace=True)
    if source.key in table.schema.names:
        table.create_index(source.key, config=BTree(), replace=True)
    earlier = [index.name for index in _indexes(source)]
    config = IvfRq(distance_type="cosine", num_partitions=lists, sample_rate=_TRAINING, max_iterations=15)
    table.create_index(source.vector, config=config, name=name)
    for each in earlier:
        table.drop_index(each)
    return name


def _indexes(source: LanceRows) -> list[Any]:
    """Those on the table's vectors; more than one where a build was interrupted."""
    with plain_errors(source.table.name):
        return [i for i in source.table.list_indices() if i.columns == [source.vector]]


def _version() -> Any:
    import importlib.metadata

    return importlib.metadata.version("lancedb")


PLUGIN = LanceIndex
