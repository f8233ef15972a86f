"""The line: its rate over the bare encoder's on the same images already decoded, one image from cold.

python bench/line.py DATA [-n 2000] [-o FILE]

DATA has `manifest.jsonl`. Rates are compared in turns within one run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.embedding import default_batch
from univfd.images import decode
from univfd.types import Failure, ImageRef, Pixels

TURNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    refs = list(islice(cycle([s.ref for s in open_dataset(args.data)]), args.n))
    result = one_image(refs[0]) | rates(load(), refs)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def rates(detector: Detector, refs: list[ImageRef]) -> dict[str, object]:
    """The line and the bare encoder in turns over the same images."""
    crops = [detector.view.cut(decode(r).pixels, detector.backbone.entry.preprocess).pixels for r in refs]
    chunk = len(refs) // TURNS
    line, bare = [], []
    for turn in range(TURNS):
        part = slice(turn * chunk, (turn + 1) * chunk)
        bare.append(encode(detector, crops[part]))
        line.append(detect(detector, refs[part]))
    ratios = [b / a for a, b in zip(line, bare, strict=True)]
    return {
        "images": chunk * TURNS,
        "line_rate_over_bare_encoder": {
            "median": round(statistics.median(ratios), 3),
            "all": np.round(ratios, 3).tolist(),
        },
        "images_per_second_of_the_line_here": round(chunk * TURNS / sum(line), 2),
    }


def encode(detector: Detector, crops: list[Pixels]) -> float:
    start = time.perf_counter()
    for i in range(0, len(crops), default_batch()):
        detector.backbone.embed(np.concatenate(crops[i : i + default_batch()]))
    return time.perf_counter() - start


def detect(detector: Detector, refs: list[ImageRef]) -> float:
    start = time.perf_counter()
    failures = sum(isinstance(item, Failure) for item in detector.detect(refs))
    if failures:
        raise SystemExit(f"{failures} images could not be read")
    return time.perf_counter() - start


def one_image(ref: ImageRef) -> dict[str, object]:
    """CPU seconds of `univfd detect ONE_IMAGE`, all in: start, imports, loading the encoder, deciding; median of 5."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "univfd", "detect", ref.name], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"one_image_cpu_seconds_here": round(statistics.median(seconds), 2)}


if __name__ == "__main__":
    main()
