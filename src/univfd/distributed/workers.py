"""What an actor does: it opens the detector or encoder once, and works on one partition after the other.

Nothing here knows Ray: the classes are callables on Arrow tables, as `Dataset.map_batches` wants them.
"""

from __future__ import annotations

import io
import json
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .. import registry
from ..backbones import Backbone, EngineBackbone, open_backbone
from ..detector import Detector, load
from ..embedding import embed_images, space_of
from ..errors import FormatError, UnivFDError
from ..images import DEFAULT_MAX_PIXELS
from ..types import FeatureSpace
from ..views import View, view
from .listing import partition_name, references
from .stores import Folder
from .vectors import table_of

SUMMARY = pa.schema(
    [("partition", pa.int64()), ("counts", pa.string()), ("seconds", pa.float64()), ("cpu", pa.float64()),
     ("worker", pa.string()), ("refused", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """How workers work; no row depends on the first three.

    Attributes:
        threads: of the encoder.
        loaders: decoding threads.
        batch_size: images a batch; None: sized for the machine.
        max_pixels: larger images are refused.
        engine: what computes the encoder; None: each machine's own `UNIVFD_ENGINE`, else `cpu`.
    """

    threads: int
    loaders: int
    batch_size: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    engine: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of the line."""
        return {"batch_size": self.batch_size, "workers": self.loaders, "max_pixels": self.max_pixels}


@dataclass(frozen=True, slots=True)
class Packed:
    """A detector's folder, to be sent to other machines.

    Attributes:
        files: contents by path in the folder.
        identity: of the detector.
    """

    files: Mapping[str, bytes]
    identity: str

    @classmethod
    def of(cls, detector: Detector) -> Packed:
        """Pack a detector; the encoder's weights stay behind, each machine has its own."""
        with tempfile.TemporaryDirectory(prefix="univfd-") as scratch:
            top = Path(scratch, "detector")
            detector.save(top, carry_backbone=detector.backbone.entry.folder is not None)
            files = {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        return cls(files, detector.identity)

    def open(self, threads: int, engine: str | None = None) -> Detector:
        """The detector on this machine.

        Args:
            threads: of the encoder.
            engine: what computes it.

        Raises:
            FormatError: it decides otherwise here: another version of univfd.
        """
        with tempfile.TemporaryDirectory(prefix="univfd-") as scratch:
            for name, data in self.files.items():
                path = Path(scratch, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            opened = load(scratch, threads=threads, engine=engine)
        if opened.identity != self.identity:
            engine = opened.backbone.engine if isinstance(opened.backbone, EngineBackbone) else "none"
            raise FormatError(
                f"{socket.gethostname()} has the detector as {opened.identity} (engine: {engine}), the driver as "
                f"{self.identity}: install the same version of univfd on all nodes, and name a lossy engine by --engine"
            )
        return opened


class Judge:
    """Verdicts of partitions of a run, as the Parquet that `univfd detect` writes."""

    def __init__(self, folder: Folder, packed: Any, work: Work, neighbors: int) -> None:
        """Open the detector.

        Args:
            folder: of the run.
            packed: a reference of Ray to a `Packed`.
            work: how to work.
            neighbors: rows of evidence of each class.
        """
        import ray

        self._folder, self._work, self._neighbors = folder, work, neighbors
        self._detector = ray.get(packed).open(work.threads, work.engine)

    def has(self, table: pa.Table) -> bool:
        """Whether the rows of partitions are there already."""
        return _has(self._folder, table)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Numbers of partitions -> what was done."""
        return _summaries([_partition(self._folder, n, self._rows) for n in table["partition"].to_pylist()])

    def _rows(self, listing: pa.Table) -> bytes:
        file = io.BytesIO()
        writer = registry.load("writers", "parquet")(file)
        for item in self._detector.detect(references(listing), neighbors=self._neighbors, **self._work.options):
            writer.write(item.to_dict())
        writer.close()
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder to be opened on other machines.

    Attributes:
        backbone: name, or a folder that all machines see.
        space: the feature space that it must give.
        perturb: chain laid on the pixels first.
    """

    backbone: str
    space: FeatureSpace
    perturb: str = "clean"

    def open(self, threads: int, engine: str | None = None) -> tuple[Backbone, View]:
        """The encoder and view on this machine.

        Args:
            threads: of the encoder.
            engine: what computes it.

        Raises:
            FeatureSpaceError: it gives another space here.
        """
        opened = open_backbone(self.backbone, taps=self.space.taps, threads=threads, engine=engine)
        cut = view(self.space.view)
        self.space.require(space_of(opened, cut), f"the encoder on {socket.gethostname()}")
        return opened, cut


class Embedder:
    """Embeddings: of partitions of a run into Parquet, or of a listing that comes in, sent back."""

    def __init__(self, encoder: Encoder, work: Work, folder: Folder | None = None) -> None:
        """Open the encoder.

        Args:
            encoder: which.
            work: how to work.
            folder: of the run; without one, listings come in and embeddings go out.
        """
        self._encoder, self._work, self._folder = encoder, work, folder
        self._backbone, self._view = encoder.open(work.threads, work.engine)

    def has(self, table: pa.Table) -> bool:
        """Whether the rows of partitions are there already; embeddings that are sent back are not."""
        return self._folder is not None and _has(self._folder, table)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Numbers of partitions -> what was done; or entries with `ordinal` -> embeddings with it."""
        if self._folder is None:
            return self._embedded(table).append_column("ordinal", table["ordinal"])
        return _summaries([_partition(self._folder, n, self._rows) for n in table["partition"].to_pylist()])

    def _rows(self, listing: pa.Table) -> bytes:
        file = io.BytesIO()
        table = self._embedded(listing).replace_schema_metadata({"univfd": "rows"})  # as those of verdicts
        pq.write_table(table, file, compression="zstd")
        return file.getvalue()

    def _embedded(self, listing: pa.Table) -> pa.Table:
        batches = embed_images(
            self._backbone, self._view, references(listing), perturb=self._encoder.perturb, **self._work.options
        )
        return table_of(batches, self._encoder.space)


def _has(folder: Folder, table: pa.Table) -> bool:
    return all(folder.has(f"rows/{partition_name(n)}") for n in table["partition"].to_pylist())


def _partition(folder: Folder, number: int, rows: Any) -> dict[str, Any]:
    """Work on a partition, unless it was complete before the worker that reported it was lost."""
    start, cpu = time.perf_counter(), time.process_time()
    name = f"rows/{partition_name(number)}"
    if folder.has(name):
        data = folder.read(name)
    else:
        listing = pq.read_table(io.BytesIO(folder.read(f"listing/{partition_name(number)}")))
        data = rows(listing)
        try:
            folder.put(name, data)
        except UnivFDError as error:  # said once by the driver; Ray would try it again, and again
            return {"partition": number, "refused": f"{socket.gethostname()}: {error}"}
    spent = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return {"partition": number, "counts": json.dumps(counts_of(data)), "worker": worker, "refused": ""} | spent


def counts_of(data: bytes) -> Counter[str]:
    """Rows of a complete partition by verdict (or status, of embeddings)."""
    file = pq.ParquetFile(io.BytesIO(data))
    column = "verdict" if "verdict" in file.schema_arrow.names else "status"
    return Counter("failed" if v is None else v for v in file.read([column])[column].to_pylist())


def _summaries(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SUMMARY)
