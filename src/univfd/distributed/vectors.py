"""Embeddings as Arrow tables: what workers write into partitions, or send back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from ..embedding import Batch, Loaded
from ..remarks import Remark
from ..types import Embeddings, Failure, FeatureSpace

_NO_CROPS = np.empty((0, 0, 0, 3), np.uint8)
_TEXTS = ("image", "status", "sha256", "format", "error", "message")


def schema(dim: int) -> pa.Schema:
    """Columns of embedded images; those of the other status are null."""
    texts = [(name, pa.string()) for name in _TEXTS]
    sizes = [("width", pa.int32()), ("height", pa.int32())]
    remark = pa.struct([("code", pa.string()), ("text", pa.string()), ("figures", pa.map_(pa.string(), pa.float64()))])
    lists = [("conditions", pa.list_(remark)), ("notes", pa.list_(remark))]
    return pa.schema([*texts, *sizes, *lists, ("vector", pa.list_(pa.float32(), dim))])


def table_of(batches: Iterable[Batch], space: FeatureSpace) -> pa.Table:
    """Batches as one table, a row an input, in order."""
    rows = []
    for batch in batches:
        vectors = iter(batch.embeddings.vectors)
        for item in batch.items:
            if isinstance(item, Failure):
                rows.append(item.to_dict())
            else:
                row: dict[str, Any] = {"image": item.name, "status": "ok", "sha256": item.sha256, "format": item.format}
                row |= {"width": item.width, "height": item.height, "conditions": _said(item.conditions)}
                rows.append(row | {"notes": _said(item.notes), "vector": next(vectors)})
    return pa.Table.from_pylist(rows, schema=schema(space.dim))


def batch_of(table: pa.Table, space: FeatureSpace) -> Batch:
    """Inverse of `table_of`; the crops are not there any more."""
    items: list[Loaded | Failure] = []
    for row in table.drop_columns(["vector"]).to_pylist():
        if row["status"] == "failed":
            items.append(Failure(row["image"], row["error"], row["message"]))
        else:
            items.append(
                Loaded(row["image"], row["sha256"], row["format"], row["width"], row["height"],
                       _remarks(row["conditions"]), _remarks(row["notes"]), _NO_CROPS, 0.0)
            )  # fmt: skip
    column = table["vector"].combine_chunks().drop_null()
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), space.dim)
    return Batch(tuple(items), Embeddings(vectors, space), 0.0)


def _said(remarks: Iterable[Remark]) -> list[dict[str, Any]]:
    return [{"code": r.code, "text": r.text, "figures": list(r.figures.items())} for r in remarks]


def _remarks(said: Iterable[dict[str, Any]]) -> tuple[Remark, ...]:
    return tuple(Remark(r["code"], r["text"], dict(r["figures"])) for r in said)
