"""Thousands of requests made up from the OpenAPI file against a real process.

python tests/by_hand/fuzz_openapi.py 2000 [SEED]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import toy_samples
from openapi_cases import ask_all
from serving import serving
from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.views import view


def main(examples: int, start: int) -> None:
    toy, cut = open_backbone("toy"), view("native")
    bank = build_bank(toy, cut, toy_samples(), added="2026-01-01").bank
    with tempfile.TemporaryDirectory() as folder:
        assemble("toy", toy, cut, bank, "linear", {}).save(Path(folder) / "toy")
        options = ("--max-bytes", 1, "--max-pixels", 1, "--feedback", Path(folder) / "misses")
        with serving("--detector", Path(folder) / "toy", *options) as server:
            begun = time.perf_counter()
            for operation, seen in ask_all(server, examples, start=start).items():
                print(operation, dict(sorted(seen.items())))
            print(f"{time.perf_counter() - begun:.0f} s; images at work: {server.figure('univfd_images_at_work'):.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
