"""A feature bank's folder: manifest and arrays, and a search in what was read."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

from harness import MARK, file_of, folder, parts, refused
from univfd.bank import FeatureBank
from univfd.types import Label

SPACE = {
    "backbone": "toy", "weights": "", "taps": ["proj"], "view": "native", "preprocessing": "0", "dim": 4,
    "normalised": False,
}  # fmt: skip


def seeds() -> list[bytes]:
    """Whole banks of each type."""
    return [_bank("float32"), _bank("int8"), _bank("float16")]


def _bank(dtype: str) -> bytes:
    arrays = {"vectors": np.eye(2, 4).astype(dtype), "labels": np.array([0, 1], np.uint8),
              "keys": np.zeros((2, 32), np.uint8)}  # fmt: skip
    arrays |= {name: np.zeros(2, np.uint32) for name in ("generator", "source", "licence", "added")}
    if dtype == "int8":
        arrays["scale"] = np.ones(4, np.float32)
    columns = {name: ["x"] for name in ("generator", "source", "licence", "added")}
    manifest = {"kind": "feature bank", "schema": 2, "rows": 2, "space": SPACE, "dtype": dtype, "columns": columns}
    return json.dumps(manifest).encode() + MARK + save(arrays)


def one(data: bytes) -> None:
    """Load it; search, count and name its rows."""
    manifest, arrays = parts(data, 2)
    file_of(manifest, "bank/bank.json")
    file_of(arrays, "bank/bank.safetensors")
    with refused():
        bank = FeatureBank.load(folder() / "bank")
        assert np.isfinite(bank.vectors).all()
        assert len(bank.digest) == 16
        for label in Label:
            found = bank.nearest(np.ones((1, bank.space.dim), np.float32), 2, label=label)
            for near in bank.neighbors(*found)[0]:
                json.dumps(near.to_dict(), ensure_ascii=False, allow_nan=False).encode()
            bank.counts("generator", label)
