"""The encoder: what cutting the graph saves, and whether a degraded copy of a photograph finds its original.

python bench/encoder.py DATA [-o FILE]

DATA has `manifest.jsonl`. Every figure is a ratio, or a share, of one run on one machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import openvino

from univfd.backbones import Backbone, open_backbone
from univfd.backbones._eight_bits import saturates
from univfd.datasets import open_dataset
from univfd.detector import load
from univfd.images import decode
from univfd.perturbations import perturbation
from univfd.types import FloatArray, Label, Pixels, Sample
from univfd.views import view

PHOTOGRAPHS = 200
ROUNDS = 7
NAME = "clip-vit-b-16"
FULL = "full"
PHOTO_SOURCES = ("imagenet_samples", "openimages_taming", "ade20k_taming", "bsds500", "alae_imagenet256",
                 "metadata_extractor_images", "animegan_photo", "photoblog_herschel666", "deb_wallpapers")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    result = cutting() | engines() | retrieval(args.data)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def cutting() -> dict[str, object]:
    """CPU seconds of the graph cut after each of some taps, over those of the full graph; batches of 8, in turn.

    In the full graph all tokens go through all blocks, as in the published encoder: the tap `mean.12` reads them.
    """
    taps: dict[str, tuple[str, ...]] = {
        tap: (tap,) for tap in ("cls.2", "cls.4", "cls.6", "cls.7", "cls.8", "cls.9", "cls.10", "proj")
    }
    taps |= {
        "cls.10@6": ("cls.8@6", "cls.9@6", "cls.10@6"),
        "cls.10@7": ("cls.9@7", "cls.10@7"),
        FULL: ("proj", "mean.12"),
    }
    return {"cpu_time_over_full_graph": over_full({name: open_backbone(NAME, taps=of) for name, of in taps.items()})}


def engines() -> dict[str, object]:
    """The shipped detectors' graphs on the engines for CPUs, over the full graph on the reference; in turn.

    Says which CPU: what a lossy engine saves hangs on it.
    """
    opened = {FULL: open_backbone(NAME, taps=("proj", "mean.12"))}
    for detector, engine in itertools.product(("default", "fast"), ("cpu", "cpu-int8", "openvino", "openvino-bf16")):
        taps = load(detector).space.taps
        opened[f"{detector}, {engine}"] = open_backbone(NAME, taps=taps, engine=engine)
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {
        "engines_over_full_graph": over_full(opened),
        "cpu_computes": sorted(set(capabilities) & {"BF16", "INT8"}),
        "products_of_8_bits": "in 16 bits" if saturates() else "exact",
    }


def over_full(opened: dict[str, Backbone]) -> dict[str, float]:
    """CPU seconds of each encoder over those of the full one, medians of turns."""
    crops = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(ROUNDS):
        for name, backbone in opened.items():
            start = time.process_time()
            backbone.embed(crops)
            seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {name: round(s / median[FULL], 3) for name, s in median.items() if name != FULL}


def retrieval(data: Path) -> dict[str, object]:
    """Share of photographs whose mirrored, cropped, JPEG 40 copy has them as its nearest neighbour (cosine)."""
    photos = [s for s in open_dataset(data) if s.label is Label.REAL and s.source in PHOTO_SOURCES][:PHOTOGRAPHS]
    backbone = open_backbone(NAME)
    cut, spec = view("resize").cut, backbone.entry.preprocess
    pictures = [decode_sample(s) for s in photos]
    originals = embed(backbone, [cut(p, spec).pixels for p in pictures])
    copies = embed(backbone, [cut(degraded(p), spec).pixels for p in pictures])
    found = (copies @ originals.T).argmax(axis=1) == np.arange(len(photos))
    single = embed(backbone, [cut(p, spec).pixels for p in pictures[:16]], batch=1)
    return {
        "photographs": len(photos),
        "copy_found_first": round(float(found.mean()), 4),
        "cosine_of_batches_of_1_and_8_at_least": round(float((single * originals[:16]).sum(axis=1).min()), 7),
    }


def decode_sample(sample: Sample) -> Pixels:
    return decode(sample.ref).pixels


def degraded(pixels: Pixels) -> Pixels:
    """Mirrored, a twentieth cut off each side, JPEG 40."""
    h, w = pixels.shape[0] // 20, pixels.shape[1] // 20
    return perturbation("jpeg:40")(np.ascontiguousarray(pixels[h:-h, w:-w][:, ::-1]))


def embed(backbone: Backbone, crops: list[Pixels], batch: int = 8) -> FloatArray:
    parts = [backbone.embed(np.concatenate(crops[i : i + batch])) for i in range(0, len(crops), batch)]
    vectors = np.concatenate(parts)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    main()
