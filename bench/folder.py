"""`univfd detect FOLDER` on a machine with nothing else to do: how busy its cores are, and what a large picture costs.

python bench/folder.py DATA [-n 2000] [-o bench/folder.json]

DATA has `manifest.jsonl`. The folder holds `-n` files, half JPEG, half PNG, of 0.1 to 12 megapixels (log-uniform),
made from a tenth as many pictures of DATA and linked under ten names each: nothing of the line is kept by content. Then
48 of the files are judged with and without one picture of 100 megapixels among them. Peak memory is the process's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from univfd.datasets import open_dataset
from univfd.images import decode

NAMES = 10  # of each file
LEAST, MOST = 0.1e6, 12e6  # pixels
FEW = 48
LARGE = (10_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = made(args.data, Path(scratch) / "files", args.n // NAMES)
        folder = linked(files, Path(scratch) / "folder", args.n)
        result: dict[str, Any] = {
            "cores": len(os.sched_getaffinity(0)),
            "mean_megapixels": round(float(np.mean([pixels_of(f) for f in files])) / 1e6, 2),
            "gigabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e9, 2),
            "load_average_before": os.getloadavg()[0],
            "folder": judged(folder, Path(scratch) / "rows.jsonl"),
        }
        few = linked(files, Path(scratch) / "few", FEW)
        result["few"] = judged(few, Path(scratch) / "few.jsonl")
        noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(LARGE, Image.Resampling.BICUBIC).save(few / "large.jpg", quality=85)
        result["few_and_a_large_one"] = judged(few, Path(scratch) / "large.jsonl")
        raised = result["few_and_a_large_one"]["peak_mb"] - result["few"]["peak_mb"]
        result["large_one_raises_peak_mb"] = raised
        result["large_one_decoded_mb"] = {"3 bytes a pixel": 300, "4 bytes a pixel": 400}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def made(data: Path, folder: Path, count: int) -> list[Path]:
    """So many pictures of the data, scaled to sizes drawn at random, JPEG and PNG in turns."""
    folder.mkdir()
    samples, rng, files = list(open_dataset(data)), np.random.default_rng(0), []
    for i, sample in enumerate(samples[:: max(1, len(samples) // count)][:count]):
        picture = Image.fromarray(decode(sample.ref).pixels)
        factor = math.sqrt(math.exp(rng.uniform(math.log(LEAST), math.log(MOST))) / (picture.width * picture.height))
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        file = folder / f"{i:04d}.{'png' if i % 2 else 'jpg'}"
        options: dict[str, Any] = {"compress_level": 1} if i % 2 else {"quality": 90}
        picture.resize(size, Image.Resampling.BICUBIC).save(file, **options)
        files.append(file)
    return files


def linked(files: list[Path], folder: Path, count: int) -> Path:
    """A folder of so many names for the files, in turns."""
    folder.mkdir()
    for i in range(count):
        file = files[i % len(files)]
        os.link(file, folder / f"{i:05d}{file.suffix}")
    return folder


def pixels_of(file: Path) -> int:
    with Image.open(file) as picture:
        return picture.width * picture.height


def judged(folder: Path, rows: Path) -> dict[str, float]:
    """The command on a folder: seconds, share of the cores that it had, peak memory; start and imports included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "univfd", "-q", "detect", str(folder), "-o", str(rows)]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    lines = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    if status or any(line["status"] != "ok" for line in lines):
        raise SystemExit(f"{folder}: status {status}, {len(lines)} rows, not all ok")
    cpu = used.ru_utime + used.ru_stime
    return {
        "images": len(lines),
        "wall_seconds": round(wall, 1),
        "cpu_seconds_an_image": round(cpu / len(lines), 4),
        "share_of_cores": round(cpu / wall / len(os.sched_getaffinity(0)), 3),
        "peak_mb": used.ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
