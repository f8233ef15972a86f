"""Parquet files: of images, as a manifest, as results, and as the rows of a benchmark."""

from __future__ import annotations

import io
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from harness import file_of, pictures, refused
from univfd.benchmark.rows import read_rows
from univfd.datasets import open_dataset
from univfd.runner import _checked, writer
from univfd.sources import expand, read_bytes
from univfd.types import ImageRef

_MOST = 50  # rows that are looked at


def seeds() -> list[bytes]:
    """Images in both layouts, and a manifest."""
    small = pictures()["PNG"]
    struct = [{"bytes": small, "path": "a"}, {"bytes": None, "path": "b"}]
    tables = [
        {"image": [small, None], "label": ["real", "fake"]},
        {"image": struct, "label": [0, 1], "generator": ["", "g"]},
        {"file": ["a.jpg"], "label": ["fake"]},
        {"image": ["a"], "status": ["failed"], "error": ["empty"], "message": ["x"]},
    ]
    return [_file(table) for table in tables]


def _file(table: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, compression="NONE")
    return buffer.getvalue()


def one(data: bytes) -> None:
    """Read it as each."""
    path = file_of(data, "x.parquet")
    for ref in islice(expand(path), _MOST):
        if isinstance(ref, ImageRef):
            with refused():
                read_bytes(ref)
    with refused():
        list(islice(open_dataset(path), _MOST))
    with refused():
        list(islice(_checked(writer("parquet").read(path), path), _MOST))
    with refused():
        read_rows(path)
