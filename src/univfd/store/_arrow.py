"""Rows and edits as Arrow tables, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..bank import FeatureBank
from ..errors import FormatError
from ..storage import parsed
from ..types import FeatureSpace
from .history import Edit, Ids
from .rows import EXTRA_TEXTS, TEXTS, Rows

_DETAIL: dict[str, dict[str, type]] = {"tag": {"tag": str, "version": int}, "forget": {"base": int}}
"""What the detail of these edits must have."""


def arrow() -> Any:
    """pyarrow, or the extra that it is in."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a bank store", error) from error
    return pa


def rows_schema(dim: int) -> Any:
    """Columns of the table `rows`."""
    pa = arrow()
    texts = [pa.field(name, pa.string(), nullable=False) for name in TEXTS]
    return pa.schema([
        pa.field("id", pa.int64(), nullable=False), pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.uint8(), nullable=False), *texts, pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False), pa.field("written", pa.float64(), nullable=False),
        pa.field("digest", pa.binary(32), nullable=False), pa.field("thumbnail", pa.large_binary()),
        pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
    ])  # fmt: skip


def edits_schema() -> Any:
    """Columns of the table `edits`."""
    pa = arrow()
    texts = [pa.field(n, pa.string(), nullable=False) for n in ("id", "when", "who", "op", "what", "content", "detail")]
    ids = [pa.field(n, pa.large_binary(), nullable=False) for n in ("added", "removed")]
    return pa.schema([
        pa.field("number", pa.int64(), nullable=False), pa.field("sealed", pa.bool_(), nullable=False), *texts,
        pa.field("restores", pa.int64()), *ids,
    ])  # fmt: skip


def record(edit: Edit, *, sealed: bool) -> dict[str, Any]:
    """An edit as a row of the table `edits`."""
    names = ("number", "id", "when", "who", "op", "what", "content", "restores")
    return {n: getattr(edit, n) for n in names} | {
        "sealed": sealed, "detail": json.dumps(edit.detail),
        "added": edit.added.astype("<i8").tobytes(), "removed": edit.removed.astype("<i8").tobytes(),
    }  # fmt: skip


def edit(record: dict[str, Any]) -> Edit:
    """Inverse of `record`.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    ids = {n: np.frombuffer(record[n], "<i8").astype(np.int64) for n in ("added", "removed")}
    kept = {k: v for k, v in record.items() if k != "sealed"}
    detail = parsed(record["detail"])
    for name, kind in _DETAIL.get(record["op"], {}).items():
        if not isinstance(detail[name], kind):
            raise TypeError(f"{name} is {detail[name]!r:.60}, expected {kind.__name__}")
    if not all(isinstance(tag, str) for tag in detail.get("tags", ())):
        raise TypeError("tags that are no texts")
    return Edit(**(kept | ids | {"detail": detail}))


def to_arrow(ids: Ids, rows: Rows) -> Any:
    """Rows as a table."""
    pa = arrow()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.bank.vectors.ravel()), rows.space.dim)
    columns = {
        "id": pa.array(ids), "key": rows.keys(), "label": rows.bank.labels,
        **{name: [str(t) for t in rows.column(name)] for name in TEXTS},
        "width": rows.size[:, 0], "height": rows.size[:, 1], "written": np.full(len(rows), time.time()),
        "digest": pa.array([d.tobytes() for d in rows.digests], pa.binary(32)),
        "thumbnail": pa.array(list(rows.thumbnails) or [None] * len(rows), pa.large_binary()), "vector": vectors,
    }  # fmt: skip
    schema = rows_schema(rows.space.dim)
    return pa.table([pa.array(columns[f.name], f.type) if f.name != "vector" else vectors for f in schema], schema)


def gather(uri: str, batches: Any, ids: Ids, space: FeatureSpace) -> tuple[Rows, NDArray[np.void]]:
    """Rows out of record batches in any order, put into the order of `ids`, each copied once."""
    n = len(ids)
    by_id = np.argsort(ids, kind="stable")
    in_order = ids[by_id]
    seen = np.zeros(n, bool)
    vectors, keys = np.empty((n, space.dim), np.float32), np.empty((n, 32), np.uint8)
    labels, size, digests = np.empty(n, np.uint8), np.empty((n, 2), np.int32), np.empty(n, "V32")
    texts: dict[str, Any] = {name: np.full(n, "", dtype=object) for name in TEXTS}
    for batch in batches:
        there = batch.column("id").to_numpy()
        at = np.searchsorted(in_order, there)
        known = (at < n) & (in_order[np.minimum(at, n - 1)] == there) if n else np.zeros(len(there), bool)
        if not known.any():
            continue
        place = by_id[at[known]]
        seen[place] = True
        vectors[place] = batch.column("vector").flatten().to_numpy().reshape(-1, space.dim)[known]
        keys[place] = _hex(np.array(batch.column("key").to_pylist(), object)[known])
        labels[place] = batch.column("label").to_numpy()[known]
        for j, name in enumerate(("width", "height")):
            size[place, j] = batch.column(name).to_numpy()[known]
        digests[place] = np.frombuffer(b"".join(batch.column("digest").to_pylist()), "V32")[known]
        for name, values in texts.items():
            values[place] = np.array(batch.column(name).to_pylist(), object)[known]
    if not seen.all():
        raise FormatError(f"{uri}: {int((~seen).sum())} of {n} rows of this version are gone from the store")
    bank_texts = {name: texts.pop(name) for name in TEXTS if name not in EXTRA_TEXTS}
    return Rows(FeatureBank(vectors, labels, keys, space, **bank_texts), **texts, size=size), digests


def _hex(keys: Sequence[str] | NDArray[np.object_]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 32)
