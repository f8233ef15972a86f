"""SIGINT and SIGTERM at random moments of `detect`, `fit`, `bank add` and `serve`, from their first line to their last.

    python tests/by_hand/signals.py ROUNDS [SEED]

Each must end with 130 or 143 (or 0, where it was faster), say no traceback and leave nothing unfinished but a journal;
the same command afterwards (with `--resume` for `detect`) must end well.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import toy_samples
from faults import left_over
from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.views import view

IMAGES, COPIES = 16, 3
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def univfd(*args: object, temporary: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "univfd", "-q", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"TMPDIR": str(temporary)},
        restore_signals=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def commands(data: Path, toy: Path, here: Path) -> dict[str, tuple[tuple[object, ...], tuple[object, ...]]]:
    """Each command, and what takes it up again."""
    detect = ("detect", *[data] * COPIES, "--detector", toy, "-o", here / "x.csv", "--batch-size", 2)
    fit = ("fit", data, "-o", here / "new", "--uncalibrated", "--backbone", "toy")
    add = ("bank", "add", here / "s", data / "fake", "--label", "fake", "--generator", "g", "--backbone", "toy")
    html = ("--explain-html", here / "p.html")
    return {"detect": ((*detect, *html), (*detect, "--resume")), "fit": (fit, fit), "bank add": (add[:-2], add[:-2]),
            "serve": (("serve", "--detector", toy, "--port", 0), ())}  # fmt: skip


def seconds_of(args: tuple[object, ...], temporary: Path) -> float:
    start = time.monotonic()
    process = univfd(*args, temporary=temporary)
    assert process.communicate()[1] == b"", args
    assert process.returncode == 0
    return time.monotonic() - start


def one(name: str, here: Path, data: Path, toy: Path, rng: random.Random, longest: float, seen: Counter[str]) -> None:
    temporary = here / "temporary"
    temporary.mkdir(parents=True)
    args, again = commands(data, toy, here)[name]
    if name == "bank add":
        seconds_of(("bank", "create", here / "s", "--detector", toy), temporary)
    which = rng.choice([signal.SIGINT, signal.SIGTERM])
    process = univfd(*args, temporary=temporary)
    time.sleep(rng.uniform(0, longest))
    process.send_signal(which)
    said = process.communicate(timeout=300)[1].decode()
    code = process.returncode
    seen[f"{which.name} {code}"] += 1
    early = code in {-which, 128 + which} and ("Traceback" in said and "univfd" not in said.split("Traceback")[1])
    if early:
        seen["in Python's own start"] += 1
    assert early or "Traceback" not in said, (name, which, said)
    assert code in {0, CODES[which], -which}, (name, which, code, said)
    left = [p for p in left_over(here) if not p.startswith("s/") and p != "temporary/.ses"]
    assert not left, (name, which, left)
    assert {p.name for p in temporary.iterdir()} <= {".ses"}, (name, list(temporary.iterdir()))  # ONNX Runtime's
    if again and code != 0:
        seconds_of(again, temporary)
    if name == "detect":
        assert len((here / "x.csv").read_text("utf-8").splitlines()) == COPIES * IMAGES + 1


def main(folder: Path, rounds: int, rng: random.Random) -> None:
    toy, cut = open_backbone("toy"), view("native")
    detector, data = folder / "toy", folder / "data"
    assemble("toy", toy, cut, build_bank(toy, cut, toy_samples(), added="2026-01-01").bank, "linear", {}).save(detector)
    for i, sample in enumerate(toy_samples()[:IMAGES]):
        target = data / ("fake" if sample.label else "real") / sample.source / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(sample.ref.source))  # type: ignore[arg-type]
    (folder / "first").mkdir()
    longest = seconds_of(commands(data, detector, folder / "first")["detect"][0], folder)
    print(f"undisturbed, detect takes {longest:.1f} s", flush=True)
    for name in commands(data, detector, folder):
        seen: Counter[str] = Counter()
        for i in range(rounds):
            one(name, folder / f"{name}{i}", data, detector, rng, 1.1 * longest, seen)
        print(f"{name}: {rounds} signals, {dict(sorted(seen.items()))}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        given = [int(a) for a in sys.argv[1:]]
        main(Path(scratch), given[0], random.Random(given[1] if len(given) > 1 else 0))
