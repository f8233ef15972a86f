"""Manifests and arrays: the JSON and the safetensors file that every folder on disk is made of."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from harness import as_json, file_of, refused
from univfd.storage import parse_json, read_arrays
from univfd.training.state import Checkpoints


def seeds() -> list[bytes]:
    """Of each one."""
    epoch = dict.fromkeys(("loss", "accuracy", "real", "fake", "lr", "seconds"), 0.5) | {"number": 1}
    return [
        save({"a": np.ones((2, 3), np.float32), "b": np.arange(3)}),
        as_json({"kind": "x", "schema": 1, "more": [1, 2.5, None]}),
        as_json({"kind": "training", "schema": 1, "plateau": {}, "epochs": [epoch], "files": {"last": "x"}}),
    ]


def one(data: bytes) -> None:
    """Read it as each."""
    with refused():
        parse_json(data, "here", "x", 1)
    with refused():
        for array in read_arrays(file_of(data, "x.safetensors"), {"a": (None, 3)}).values():
            array.sum()
    file_of(data, "training/run.json")
    kept = Checkpoints(file_of(data, "training/state.json").parent)
    for ask in (kept.read, lambda: kept.arrays("last"), lambda: kept.require({})):
        with refused():
            ask()
