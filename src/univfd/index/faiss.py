"""FAISS in memory, one inverted file (`ivf`) or graph (`hnsw`) a class; needs the extra `faiss`.

Classes apart, because the nearest-neighbour classifier asks for the nearest rows of each class: a search among all rows
with a filter would look at twice as many for each of the two. The index keeps one byte a dimension; what it proposes is
measured again against the bank's own vectors, which are in memory anyway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from .. import registry
from ..bank import FeatureBank
from ..downloads import sha256_of
from ..errors import FormatError, UsageError
from ..search import Distances, nearest_in_blocks, pair_distances
from ..storage import new_folder
from ..types import FloatArray, Label
from . import ANY, BankRows, Manifest, RowNumbers, RowSource, Where, checked
from ._manifest import AIM, measure

Kind = Literal["ivf", "hnsw"]
_SCAN = 20_000  # so few rows are searched exactly: faster than an index that must leave out almost all it finds
_SPARE = 4  # candidates for each neighbour asked for: one byte a dimension puts near rows in the wrong order
_LINKS = 32
_TRAINING = 64  # rows a list
_log = logging.getLogger(__name__)


class FaissIndex:
    """See `univfd.index.NeighborIndex`."""

    COVERS_NEW_ROWS = False

    def __init__(self, source: RowSource, parts: Mapping[Label, Any], effort: int, manifest: Manifest | None) -> None:
        self.source, self.effort, self.manifest = source, effort, manifest
        self._parts = parts
        self._rows = {label: source.fitting(Where(label)) for label in parts}

    @classmethod
    def build(cls, bank: FeatureBank | RowSource, folder: Path | str, *, kind: Kind = "ivf", aim: float = AIM) -> Self:
        """Build, measure and write an index.

        Args:
            bank: the rows.
            folder: must not exist.
            kind: `ivf`, an inverted file, or `hnsw`, a graph.
            aim: recall@9 that the effort is set for.

        Raises:
            OutputExistsError: the folder exists.
            MissingExtraError: FAISS is not installed.
        """
        faiss = _library()
        if kind not in {"ivf", "hnsw"}:
            raise UsageError(f"kind is {kind!r}; expected 'ivf' or 'hnsw'")
        source = BankRows(bank, cached=False) if isinstance(bank, FeatureBank) else bank
        with new_folder(Path(folder)) as scratch:
            start = time.perf_counter()
            sizes = {label: len(source.fitting(Where(label))) for label in Label}
            parts = {label: _part(source, label, kind) for label in Label if sizes[label]}
            seconds = time.perf_counter() - start
            lists = max((int(p.nlist) for p in parts.values()), default=1) if kind == "ivf" else 0
            efforts = [e for e in (2**i for i in range(13)) if e <= lists] if lists else [16 * 2**i for i in range(8)]
            made = cls(source, parts, efforts[0], None)
            number, recall = measure(
                lambda n, queries, k, where: made._search(queries, k, where, efforts[n]), source, efforts, aim=aim
            )
            files = {}
            for label, part in parts.items():
                faiss.write_index(part, str(scratch / _file(label)))
                files[_file(label)] = sha256_of(scratch / _file(label))
            manifest = Manifest(
                index="faiss",
                rows=len(source),
                dim=source.dim,
                digest=source.digest,
                parameters={"kind": kind, "lists": lists, "links": 0 if lists else _LINKS},
                effort={"probes" if lists else "beam": efforts[number]},
                recall=recall,
                seconds=round(seconds, 2),
                library=f"faiss {faiss.__version__}",
                files=files,
            )
            manifest.write(scratch)
        return cls(source, parts, efforts[number], manifest)

    @classmethod
    def open(cls, source: RowSource, folder: Path, manifest: Manifest) -> Self:
        """Called by `open_index`, which has compared the rows.

        Raises:
            FormatError: a file is missing or damaged.
        """
        faiss = _library()
        parts = {}
        for label in Label:
            path = folder / _file(label)
            if path.name not in manifest.files:
                continue
            if not path.is_file() or sha256_of(path) != manifest.files[path.name]:
                raise FormatError(f"{path} is missing or damaged (its sha256 differs). Build the index again")
            parts[label] = faiss.read_index(str(path))
        return cls(source, parts, next(iter(manifest.effort.values())), manifest)

    def search(self, queries: FloatArray, k: int, where: Where = ANY) -> tuple[Distances, RowNumbers]:
        """See `univfd.index.NeighborIndex`."""
        return self._search(checked(queries, self.source.dim, k), k, where, self.effort)

    def _search(self, unit: FloatArray, k: int, where: Where, effort: int) -> tuple[Distances, RowNumbers]:
        narrow = where.generator is not None or where.source is not None
        fitting = self.source.fitting(where) if narrow else None
        if fitting is not None and len(fitting) <= _SCAN:
            return nearest_in_blocks(unit, self.source.blocks(where), k)
        labels = [label for label in self._parts if where.label in {None, label}]
        n = len(fitting) if fitting is not None else sum(len(self._rows[label]) for label in labels)
        wide = min(k, n)
        found = [self._candidates(unit, min(_SPARE * k + 8, n), label, fitting, effort) for label in labels]
        distances, rows = np.empty((len(unit), wide)), np.empty((len(unit), wide), np.intp)
        for i, query in enumerate(unit):
            proposed = np.concatenate([f[i][f[i] >= 0] for f in found]) if found else np.empty(0, np.intp)
            if len(proposed) < wide:  # the lists looked at hold too few rows that fit
                d, r = nearest_in_blocks(query[None], self.source.blocks(where), k)
                distances[i], rows[i] = d[0], r[0]
                continue
            far = pair_distances(query, self.source.take(proposed))
            order = np.lexsort((proposed, far))[:wide]
            distances[i], rows[i] = far[order], proposed[order]
        return distances, rows

    def _candidates(
        self, unit: FloatArray, k: int, label: Label, fitting: RowNumbers | None, effort: int
    ) -> RowNumbers:
        """Rows of a class that may be the nearest, `(Q, k)`; -1 where there are fewer."""
        faiss, part, rows = _library(), self._parts[label], self._rows[label]
        chosen = {}
        if fitting is not None:
            bits = np.packbits(np.isin(rows, fitting, assume_unique=True), bitorder="little")
            chosen = {"sel": faiss.IDSelectorBitmap(bits)}
        if isinstance(part, faiss.IndexIVF):
            parameters = faiss.SearchParametersIVF(nprobe=effort, **chosen)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k), **chosen)
        places = part.search(unit, min(k, len(rows)), params=parameters)[1]
        return np.where(places >= 0, rows[places], -1)


def _part(source: RowSource, label: Label, kind: Kind) -> Any:
    """The index of one class, trained on rows drawn by lot and filled."""
    faiss = _library()
    rows = source.fitting(Where(label))
    if kind == "hnsw":
        part = faiss.IndexHNSWSQ(source.dim, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
        lists = 256
    else:
        lists = max(1, min(int(4 * np.sqrt(len(rows))), len(rows) // 39))
        centres = faiss.IndexFlatIP(source.dim)
        part = faiss.IndexIVFScalarQuantizer(
            centres, source.dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        part.cp.min_points_per_centroid = 1
        centres.this.disown()
        part.own_fields = True
    drawn = np.sort(np.random.default_rng(0).permutation(rows)[: _TRAINING * lists])
    part.train(source.take(drawn))
    for _, vectors in source.blocks(Where(label)):
        part.add(vectors)
    _log.info("FAISS: %s rows of class %s", f"{len(rows):,}", label.word)
    return part


def _file(label: Label) -> str:
    return f"{label.word}.faiss"


def _library() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise registry.missing_extra("index 'faiss'", error) from error
    return faiss


PLUGIN = FaissIndex
