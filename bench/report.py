"""`univfd bench report` on made-up score rows: time and peak memory of the whole command, from rows to tables and page.

python bench/report.py [-o FILE]

100,000 rows, once as one detector on 100,000 images and once as 20 detectors x perturbations on 5,000; the latter again
with the images (512-pixel JPEG) and their embeddings (3,072 numbers) there, so that the page has maps, spectra and
pictures; and a million rows as 20 on 50,000. 30 generators, 30 real sources, three families; a fifth of the images in
groups of eight.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from univfd.benchmark.rows import COLUMNS, Columns, write_rows
from univfd.benchmark.run import KIND, MANIFEST, SCHEMA, SCORES
from univfd.embedding import Loaded
from univfd.embedding_cache import EmbeddingCache
from univfd.storage import write_json
from univfd.types import Embeddings, FeatureSpace

SHAPES = {
    "1 x 100,000": (1, 100_000, False),
    "20 x 5,000": (20, 5_000, False),
    "20 x 5,000, with pictures": (20, 5_000, True),
    "20 x 50,000": (20, 50_000, False),
}
SPACE = FeatureSpace("clip-vit-b-16", "0" * 64, ("cls.6", "cls.7", "cls.8", "cls.9"), "resize", "0" * 16, 3072)
FIRST = "jpeg:60"
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


def measured(cells: int, images: int, pictures: bool) -> dict[str, float]:
    """Seconds on the clock, seconds of CPU and peak megabytes of one report in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        digests = with_pictures(data, folder / "cache", images) if pictures else [f"{i:064x}" for i in range(images)]
        spaces = {f"detector {i}": SPACE.to_dict() for i in range(5)}
        write_json(folder / MANIFEST, KIND, SCHEMA, {"data": str(data), "spaces": spaces})
        write_rows(folder / SCORES, (chunk for cell in range(cells) for chunk in rows(cell, data, digests)))
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "univfd", "bench", "report", name, "--cache", str(folder / "cache")],
            stdout=subprocess.DEVNULL,
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
            "page_kb": (folder / "report.html").stat().st_size // 1024,
        }


def with_pictures(data: Path, cache: Path, images: int) -> list[str]:
    """Write so many image files, a manifest and embeddings; gives the files' checksums."""
    data.mkdir()
    kept = EmbeddingCache(SPACE, FIRST, cache)
    rng = np.random.default_rng(0)
    digests, listed = [], []
    for i in range(images):
        small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((512, 512), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        (data / f"{i}.jpg").write_bytes(out.getvalue())
        digests.append(hashlib.sha256(out.getvalue()).hexdigest())
        listed.append(json.dumps({"file": f"{i}.jpg", "label": "fake" if i % 2 else "real"}) + "\n")
    (data / "manifest.jsonl").write_text("".join(listed))
    for start in range(0, images, 256):
        keys = digests[start : start + 256]
        vectors = rng.normal(size=(len(keys), SPACE.dim)).astype(np.float32)
        items = [Loaded("", key, "JPEG", 512, 512, (), (), np.empty((0, 0, 0, 3), np.uint8), 0.0) for key in keys]
        kept.add(items, Embeddings(vectors, SPACE))
    return digests


def rows(cell: int, data: Path, digests: Sequence[str]) -> Iterator[Columns]:
    """Rows of one detector under one perturbation."""
    rng = np.random.default_rng(cell)
    for start in range(0, len(digests), CHUNK):
        keys = digests[start : start + CHUNK]
        made = [
            row(i, cell, float(rng.normal(i % 2, 1))) | {"image": str(data / f"{i}.jpg"), "sha256": key}
            for i, key in enumerate(keys, start)
        ]
        yield {name: [r[name] for r in made] for name, _ in COLUMNS}


def row(i: int, cell: int, score: float) -> dict[str, Any]:
    """The row of image i."""
    fake, origin = i % 2 == 1, (i // 2) % ORIGINS
    return {
        "label": "fake" if fake else "real",
        "generator": f"generator {origin}" if fake else "", "family": FAMILIES[origin % 3] if fake else "",
        "source": f"source {origin}", "group": f"group {i // GROUP}" if i % 5 == 0 else "", "subset": "", "split": "",
        "format": "JPEG", "width": 512, "height": 512, "perturbation": f"jpeg:{60 + cell // 5}",
        "detector": f"detector {cell % 5}", "identity": f"detector {cell % 5}@0", "status": "ok", "error": "",
        "score": score, "probability": 1 / (1 + float(np.exp(-score))),
        "verdict": "fake" if score > 0.8 else "real" if score < -0.5 else "unsure",
        "fake_above": 0.8, "real_below": -0.5, "in_bank": False,
    }  # fmt: skip


if __name__ == "__main__":
    main()
