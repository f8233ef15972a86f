"""A detector's folder: manifest, classifier, patch probe, beside a bank that is whole; and a verdict by it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from safetensors.numpy import save

from harness import MARK, file_of, folder, parts, refused
from univfd.backbones import Backbone, open_backbone
from univfd.bank import FeatureBank
from univfd.detector import load
from univfd.detector_folder import BANK
from univfd.embedding import Batch, Loaded, space_of
from univfd.types import Embeddings
from univfd.views import view


@cache
def _toy() -> Backbone:
    return open_backbone("toy")


def _bank() -> None:
    if not (folder() / "detector" / BANK).exists():
        space = space_of(_toy(), view("native"))
        rows = np.random.default_rng(0).standard_normal((4, space.dim)).astype(np.float32)
        bank = FeatureBank.from_rows(
            Embeddings(rows, space), np.array([0, 1, 0, 1], np.uint8), [f"{i:064x}" for i in range(4)],
            generator=["", "g", "", "g"], source="s",
        )  # fmt: skip
        (folder() / "detector").mkdir(exist_ok=True)
        bank.save(folder() / "detector" / BANK)


def seeds() -> list[bytes]:
    """A linear one, nearest neighbours, a ridge probe with what it remembers of a bank, and one with a patch probe."""
    space = space_of(_toy(), view("native"))
    dim, vector = space.dim, np.ones(space.dim)
    calibration: dict[str, Any] = {"fake_above": 0.5, "real_below": -0.5, "slope": 1.0, "intercept": 0.0,
                                   "max_fpr": 0.05, "known_within": 0.3, "named_within": 0.1,
                                   "groups": [{"group": "x", "n": 3, "fake_above": None}]}  # fmt: skip
    base = {"kind": "detector", "schema": 1, "name": "x", "space": space.to_dict(), "calibration": calibration,
            "bank": BANK}  # fmt: skip
    linear = save({"coef": vector, "intercept": np.zeros(1)})
    ridge = save({"coef": vector, "intercept": np.zeros(1), "known": np.zeros((4, 9), np.uint8),
                  "centre": vector.astype(np.float32), "spread": vector.astype(np.float32)})  # fmt: skip
    probe = {"space": space.to_dict() | {"taps": ["mean.1"]}, "data": "x"}
    made = (
        ({"name": "linear", "params": {}}, linear, {}),
        ({"name": "knn", "params": {"k": 1, "balanced": True}}, save({"scale": np.ones(2)}), {}),
        ({"name": "ridge", "params": {"alpha": 0.3, "balanced": True, "between": 1.0}}, ridge, {}),
        ({"name": "linear", "params": {"C": 0.01}}, linear, {"patch_probe": probe}),
    )
    patches = save({"coef": np.ones(dim, np.float32), "intercept": np.zeros(1)})
    return [json.dumps(base | {"classifier": c} | more).encode() + MARK + patches + MARK + state
            for c, state, more in made]  # fmt: skip


def one(data: bytes) -> None:
    """Load it and let it judge."""
    manifest, patches, state = parts(data, 3)
    _bank()
    for name, body in (("detector", manifest), ("patch_probe", patches), ("classifier", state)):
        file_of(body, f"detector/{name}.{'json' if name == 'detector' else 'safetensors'}")
    with refused():
        detector = load(folder() / "detector", backbone=_toy())
        vectors = np.ones((1, detector.space.dim), np.float32)
        item = Loaded("x", "0" * 64, "PNG", 9, 9, (), (), np.empty((0, 0, 0, 3), np.uint8), 0.0)
        (verdict,) = detector.judge(Batch((item,), Embeddings(vectors, detector.space), 0.0), neighbors=2)
        json.dumps(verdict.to_dict(), ensure_ascii=False, allow_nan=False).encode()
