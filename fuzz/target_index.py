"""The manifest of a neighbour index."""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from harness import file_of, refused
from target_bank import SPACE
from univfd.bank import FeatureBank
from univfd.index import open_index
from univfd.types import Embeddings, FeatureSpace


@cache
def _bank() -> FeatureBank:
    rows = np.eye(4, dtype=np.float32)
    space = FeatureSpace.from_dict(SPACE)
    return FeatureBank.from_rows(Embeddings(rows, space), np.array([0, 1, 0, 1], np.uint8), ["0" * 64] * 4)


def seeds() -> list[bytes]:
    """Of this bank, and of another."""
    recall = {"k": 9, "aim": 0.98, "queries": 3, "mean": {"any": 1.0}, "error": {"any": 0.0}}
    manifest = {
        "kind": "neighbour index", "schema": 1, "index": "faiss", "rows": 4, "dim": 4, "digest": _bank().digest,
        "parameters": {"kind": "ivf"}, "effort": {"probes": 1}, "recall": recall, "seconds": 0.1, "library": "x",
        "files": {"real.faiss": "0" * 64},
    }  # fmt: skip
    return [json.dumps(manifest | more).encode() for more in ({}, {"digest": "0"}, {"files": {}}, {"index": "lance"})]


def one(data: bytes) -> None:
    """Open it beside a bank."""
    place = file_of(data, "index/index.json").parent
    for stale in ("refuse", "exact"):
        with refused():
            open_index(_bank(), place, stale=stale)
