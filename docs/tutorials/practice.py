"""Makes a collection to practise on out of a few labelled pictures: many crops of each.

    univfd demo --save pictures
    python docs/tutorials/practice.py pictures practice

Crops of one photograph are alike, so every figure that is computed on them looks far too sure of itself. They are for
learning the commands, and for nothing else. The manifest says which crops belong together (`source`, `group`); with
--pretend it does not, for commands that need more pictures than there are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from univfd.datasets import open_dataset
from univfd.images import decode
from univfd.types import Label

SIDES = (320, 512)


def crops(pixels: np.ndarray, number: int, seed: int) -> list[Image.Image]:
    """Squares of 320 to 512 pixels (or the whole short side), anywhere in the picture, every second one mirrored."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    made = []
    for i in range(number):
        side = int(rng.integers(SIDES[0], min(SIDES[1], height, width) + 1))
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        cut = Image.fromarray(pixels[top : top + side, left : left + side])
        made.append(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else cut)
    return made


def make(data: str, folder: Path, *, reals: int, fakes: int, pretend: bool = False) -> int:
    """Write the crops and `manifest.jsonl`; gives the number of crops.

    Args:
        data: labelled pictures, as every command takes them.
        folder: to make.
        reals: crops of each real picture.
        fakes: crops of each generated picture.
        pretend: do not say which crops belong together.
    """
    folder.mkdir()
    rows = []
    for seed, sample in enumerate(open_dataset(data)):
        name = Path(sample.ref.name).stem
        real = sample.label is Label.REAL
        place = folder / sample.label.word / (name if real else sample.generator)
        place.mkdir(parents=True, exist_ok=True)
        for i, crop in enumerate(crops(decode(sample.ref).pixels, reals if real else fakes, seed)):
            file = place / f"{name}-{i:03}.jpg"
            crop.save(file, quality=90)
            row = {"file": str(file.relative_to(folder)), "label": sample.label.word, "generator": sample.generator}
            together = {} if pretend else {"source": name, "group": name}
            rows.append(row | together | {"family": "" if real else "diffusion"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="labelled pictures, for example those of `univfd demo --save`")
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--reals", type=int, default=20, help="crops of each real picture")
    parser.add_argument("--fakes", type=int, default=8, help="crops of each generated picture")
    parser.add_argument("--pretend", action="store_true", help="as if every crop were a picture of its own")
    given = parser.parse_args()
    number = make(given.data, given.folder, reals=given.reals, fakes=given.fakes, pretend=given.pretend)
    print(f"{number} crops in {given.folder}")
