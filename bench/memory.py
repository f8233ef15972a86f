"""Peak memory of the line as the number of images grows: the same images again and again, in one process.

python bench/memory.py DATA [-n 500] [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
from collections import deque
from pathlib import Path

from univfd.datasets import open_dataset
from univfd.detector import load

PASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    samples = list(open_dataset(args.data))
    refs = [s.ref for s in samples[:: max(1, len(samples) // args.n)]]
    detector, peaks = load(), {}
    for i in range(1, PASSES + 1):
        deque(detector.detect(refs), maxlen=0)
        peaks[i * len(refs)] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    text = json.dumps({"peak_memory_mb_after_so_many_images": peaks}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
