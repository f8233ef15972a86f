"""The line with OpenBLAS kept to one thread against the same with all of its threads, in turns in one process.

python bench/blas.py DATA [-n 64] [--turns 5] [-o bench/blas.json]

DATA is a labelled data set. Ratios of processor and of wall time, one thread over all, for the default detector and for
one on image statistics, which spends next to nothing in its encoder.
"""

from __future__ import annotations

import argparse
import json
import statistics as figures
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import univfd.detector
import univfd.embedding
from on_ray import statistics
from univfd.blas import one_thread
from univfd.datasets import open_dataset
from univfd.detector import Detector, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    samples = list(open_dataset(args.data))
    paths = [str(s.ref.source) for s in samples[: args.n]]
    result: dict[str, Any] = {"images": args.n, "turns": args.turns}
    for name, detector in (("default", load()), ("statistics", statistics(samples[::4]))):
        seconds(detector, paths, one_thread)  # what is opened at first use
        pairs = [
            (seconds(detector, paths, one_thread), seconds(detector, paths, nullcontext)) for _ in range(args.turns)
        ]
        for i, clock in enumerate(("cpu", "wall")):
            ratios = sorted(round(one[i] / every[i], 3) for one, every in pairs)
            result[f"{name}_{clock}"] = {"median": figures.median(ratios), "all": ratios}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def seconds(detector: Detector, paths: list[str], within: Any) -> tuple[float, float]:
    """Processor and wall seconds of the line."""
    univfd.embedding.one_thread = univfd.detector.one_thread = within  # type: ignore[attr-defined]
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in detector.detect(paths):
        pass
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
