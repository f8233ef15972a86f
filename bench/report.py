"""`univfd bench report` on made-up score rows: time and peak memory of the whole command, from rows to tables.

python bench/report.py [-o FILE]

100,000 rows, once as one detector on 100,000 images and once as 20 detectors x perturbations on 5,000; and a million
rows as 20 on 50,000. 30 generators, 30 real sources, three families; a fifth of the images in groups of eight.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from univfd.benchmark.rows import COLUMNS, Columns, write_rows
from univfd.benchmark.run import KIND, MANIFEST, SCHEMA, SCORES
from univfd.storage import write_json

SHAPES = {"1 x 100,000": (1, 100_000), "20 x 5,000": (20, 5_000), "20 x 50,000": (20, 50_000)}
ORIGINS, GROUP = 30, 8
FAMILIES = ("gan", "diffusion", "other")
CHUNK = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    result = {name: measured(*shape) for name, shape in SHAPES.items()}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def measured(cells: int, images: int) -> dict[str, float]:
    """Seconds on the clock, seconds of CPU and peak megabytes of one report in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / MANIFEST, KIND, SCHEMA, {"data": "made up"})
        write_rows(folder / SCORES, (chunk for cell in range(cells) for chunk in rows(cell, images)))
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "univfd", "bench", "report", name], stdout=subprocess.DEVNULL
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise SystemExit("the report failed")
        return {
            "rows": cells * images,
            "seconds_here": round(seconds, 1),
            "cpu_seconds_here": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_memory_mb": usage.ru_maxrss // 1024,
        }


def rows(cell: int, images: int) -> Iterator[Columns]:
    """Rows of one detector under one perturbation."""
    rng = np.random.default_rng(cell)
    for start in range(0, images, CHUNK):
        made = [row(i, cell, float(rng.normal(i % 2, 1))) for i in range(start, min(start + CHUNK, images))]
        yield {name: [r[name] for r in made] for name, _ in COLUMNS}


def row(i: int, cell: int, score: float) -> dict[str, Any]:
    """The row of image i."""
    fake, origin = i % 2 == 1, (i // 2) % ORIGINS
    return {
        "image": f"images/{i}.png", "sha256": f"{i:064x}", "label": "fake" if fake else "real",
        "generator": f"generator {origin}" if fake else "", "family": FAMILIES[origin % 3] if fake else "",
        "source": f"source {origin}", "group": f"group {i // GROUP}" if i % 5 == 0 else "", "subset": "", "split": "",
        "format": "PNG", "width": 512, "height": 512, "perturbation": f"jpeg:{60 + cell // 5}",
        "detector": f"detector {cell % 5}", "identity": f"detector {cell % 5}@0", "status": "ok", "error": "",
        "score": score, "probability": 1 / (1 + float(np.exp(-score))),
        "verdict": "fake" if score > 0.8 else "real" if score < -0.5 else "unsure",
        "fake_above": 0.8, "real_below": -0.5, "in_bank": False,
    }  # fmt: skip


if __name__ == "__main__":
    main()
