"""Write the figures that `univfd selftest` compares with: embeddings of its fixed crops, 64 values of each tap.

python scripts/selftest_reference.py

To be run only when an encoder is added or its recipe is changed on purpose: after this the self-test proves that
other machines agree with this one.
"""

from __future__ import annotations

import json
from pathlib import Path

from univfd import selftest
from univfd.backbones import open_backbone
from univfd.catalogue import entry
from univfd.parity import fixed_crops

BACKBONES = ("clip-vit-b-16", "toy")
TARGET = Path(__file__).parents[1] / "src" / "univfd" / selftest.REFERENCE


def main() -> None:
    reference = {}
    for name in BACKBONES:
        described = entry(name)
        crops = fixed_crops(described.preprocess.size)
        blocks = range(1, described.blocks + 1 if described.recipe else 1)
        inside = [f"mlp.{b}" for b in blocks]
        held = [f"{kind}.{b}@{k}" for kind in ("cls", "mlp") for k in blocks for b in blocks if k + 1 < b]
        every = (*described.taps, *inside, *held)
        vectors = open_backbone(name, taps=every).embed(crops)
        taps, start = {}, 0
        for tap in every:
            dim = described.tap_dim(tap)
            values = vectors[:, start : start + dim][:, selftest.reference_columns(dim)]
            taps[tap] = [[float(f"{v:.6g}") for v in row] for row in values]
            start += dim
        reference[name] = taps
    TARGET.write_text(json.dumps(reference, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
