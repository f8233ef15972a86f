"""The line and the service for as many images as eight hours bring, with what they hold of the machine by the clock.

    python tests/by_hand/soak.py RECORD.jsonl [--real-seconds 600] [--hours 8] [--most-seconds 1500] [--parts line]

First the shipped detector works without a pause for `--real-seconds`, on pictures of a megapixel, as a process of
`univfd detect` that reads names from a pipe and as one of `univfd serve`. The CPU seconds of an image in that stretch
say how many images this machine's cores get through in `--hours` if they do nothing else. As many the `toy` encoder is
then given: what does not depend on the encoder (walks, threads, journals, requests, uploads) has then been done
as often as in those hours. The pictures are small then, so that it fits into less time. `--most-seconds` ends a stretch
all the same, and the summary says how many hours it stood for. Damaged and missing files, batches, feedback, provenance
and broken-off uploads are among the work.

Resident memory, handles, threads, child processes and temporary files are read every few seconds, of the whole process
tree. They must not grow between the second and the last quarter of a stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import encoded, picture, toy_samples
from serving import Server, form, serving
from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.views import view

EVERY = 2.0
"""Seconds between two readings."""
GROWTH_MB, GROWTH_SHARE = 12.0, 0.05
"""Resident memory may differ by so much between the second and the last quarter; what is larger counts."""
CALLERS = 4
AHEAD = 40
"""Names that a line is given before their rows are there."""


@dataclass(frozen=True)
class Reading:
    """What a process and its children hold."""

    second: float
    done: int
    cpu_seconds: float
    rss_mb: float
    handles: int
    threads: int
    processes: int
    temporary: int


def family(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [pid, *(p for child in text.split() for p in family(int(child)))]


def reading(pid: int, start: float, done: int, temporary: Path) -> Reading:
    pages = handles = threads = alive = ticks = 0
    for each in family(pid):
        place = Path("/proc", str(each))
        try:
            pages += int((place / "statm").read_text().split()[1])
            handles += len(list((place / "fd").iterdir()))
            threads += len(list((place / "task").iterdir()))
            ticks += sum(map(int, (place / "stat").read_text().rpartition(")")[2].split()[11:15]))
            alive += 1
        except OSError:  # it ended in between
            continue
    megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    left = sum(len(files) for _, _, files in os.walk(temporary))
    cpu = ticks / os.sysconf("SC_CLK_TCK")
    return Reading(round(time.monotonic() - start, 1), done, cpu, round(megabytes, 1), handles, threads, alive, left)


@contextmanager
def watched(name: str, pid: int, done: Callable[[], int], temporary: Path, record: Path) -> Iterator[list[Reading]]:
    """Read by the clock until the block ends; every reading goes into the record as it comes."""
    readings: list[Reading] = []
    ended, start = threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(EVERY):
            readings.append(reading(pid, start, done(), temporary))
            with record.open("a") as file:
                file.write(json.dumps({"part": name} | asdict(readings[-1])) + "\n")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield readings
    finally:
        ended.set()
        watcher.join()


def require_flat(name: str, readings: list[Reading]) -> str:
    """Compare the second quarter of a stretch with its last; gives the line for the table."""
    quarter = len(readings) // 4
    assert quarter >= 3, f"{name}: only {len(readings)} readings"
    second, last = readings[quarter : 2 * quarter], readings[-quarter:]
    figures = {}
    for what in ("rss_mb", "handles", "threads", "processes", "temporary"):
        before, after = (statistics.median(getattr(r, what) for r in part) for part in (second, last))
        most = max(GROWTH_MB, GROWTH_SHARE * before) if what == "rss_mb" else 2
        figures[what] = f"{before:g} -> {after:g} (most {max(getattr(r, what) for r in readings):g})"
        assert after - before <= most, f"{name}: {what} grew, {figures[what]}"
    seconds, done = readings[-1].second, readings[-1].done
    share = f"{readings[-1].cpu_seconds:.0f} CPU s"
    return f"{name}: n {done}, {seconds:.0f} s, {share}, {done / seconds:.1f}/s, {json.dumps(figures)}"


def toy_detector(folder: Path) -> Path:
    toy, cut = open_backbone("toy"), view("native")
    bank = build_bank(toy, cut, toy_samples(), added="2026-01-01").bank
    assemble("toy", toy, cut, bank, "linear", {}).save(folder / "toy")
    return folder / "toy"


def pictures(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Files of several formats and sizes; every tenth is damaged, empty or no image."""
    folder.mkdir()
    made = []
    for i in range(count):
        rng = random.Random(i)
        format = rng.choice(["JPEG", "PNG", "WEBP"])
        scale = rng.choice([1, 1, 1.3])
        data = encoded(picture(i, int(width * scale), int(height * scale)), format)
        if i % 10 == 9:
            data = [data[: len(data) // 2], b"", b"no image at all", data[:20] + bytes(40) + data[60:]][i // 10 % 4]
        made.append(folder / f"{i:04}.{format.lower()}")
        made[-1].write_bytes(data)
    return made


def line(name: str, files: list[Path], more: Callable[[int, float], bool], options: tuple[object, ...],
         scratch: Path, record: Path) -> list[Reading]:  # fmt: skip
    """One process of `univfd detect` that is given names until there are enough."""
    output, temporary = scratch / f"{name}.jsonl", scratch / f"{name}-tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "univfd", "-q", "detect", "--from-file", "-", "-o", output, *options]
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, env=os.environ | {"TMPDIR": str(temporary)}
    )
    given, start, rng = 0, time.monotonic(), random.Random(name)
    pipe = process.stdin
    assert pipe is not None
    journal = output.with_name(output.name + ".partial")
    counted = Lines(journal)
    with watched(name, process.pid, counted, temporary, record) as readings:
        while more(given, time.monotonic() - start):
            if given - counted() > AHEAD:
                time.sleep(0.05)
                continue
            chosen = rng.choices([*files, scratch / "missing.png"], k=20)
            pipe.write("".join(f"{path}\n" for path in chosen).encode())
            pipe.flush()
            given += len(chosen)
        pipe.close()
        while counted() < given and process.poll() is None:
            time.sleep(0.05)
    assert process.wait(600) == 3, process.returncode  # some cannot be read
    with output.open("rb") as file:
        kinds = Counter(json.loads(row)["status"] for row in file)
    assert kinds.total() == given, (kinds, given)
    print(f"{name}: rows {dict(kinds)}", flush=True)
    assert not list(scratch.glob(f".{name}*")), "something was left beside the output"
    output.unlink()
    return readings


class Lines:
    """Counts the lines of a growing file, reading each byte once; also behind its last name."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self._count = path, 0, 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            path = self._path if self._path.exists() else self._path.with_suffix("")
            if path.exists():
                with path.open("rb") as file:
                    file.seek(self._at)
                    while chunk := file.read(1 << 20):
                        self._at += len(chunk)
                        self._count += chunk.count(b"\n")
            return self._count


def ask(server: Server, rng: random.Random, data: list[bytes], seen: Counter[str]) -> int:
    """One request of a mixture; gives how many images it was about."""
    kind = rng.choices(["single", "provenance", "batch", "feedback", "figures", "broken"], [80, 5, 5, 4, 4, 2])[0]
    one = rng.choice(data)
    images = 1
    if kind == "single":
        status = server.ask("POST", f"/v1/detect?neighbors={rng.randint(1, 5)}", one)[0]
    elif kind == "provenance":
        status = server.ask("POST", "/v1/detect?provenance=true", one)[0]
    elif kind == "batch":
        images = rng.randint(2, 8)
        body, headers = form([(f"{i}.png", rng.choice(data)) for i in range(images)])
        status, _, answer = server.ask("POST", "/v1/batch", body, headers)
        assert status == 503 or answer.count(b"\n") == images
    elif kind == "feedback":
        status = server.ask("POST", "/v1/feedback?truth=" + rng.choice(["real", "fake"]), one)[0]
    elif kind == "figures":
        images, status = 0, server.ask("GET", rng.choice(["/metrics", "/healthz", "/v1/detectors", "/"]))[0]
    else:
        images, status = 0, 0
        with socket.create_connection((server.host, server.port), 10) as connection:  # goes away in the middle
            head = f"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(one) + 9}\r\n\r\n"
            connection.sendall(head.encode() + one)
    seen[f"{kind} {status}"] += 1
    assert status not in {500}, (kind, status)
    return images


def service(name: str, files: list[Path], more: Callable[[int, float], bool], options: tuple[object, ...],
            scratch: Path, record: Path) -> list[Reading]:  # fmt: skip
    """One process of `univfd serve` that several callers ask until there were enough images."""
    temporary = scratch / f"{name}-tmp"
    temporary.mkdir()
    data = [path.read_bytes() for path in files]
    before = f"import os; os.environ['TMPDIR'] = {str(temporary)!r}"
    done, seen, lock = 0, Counter[str](), threading.Lock()
    with serving("--feedback", scratch / f"{name}-misses", *options, before=before) as server:
        start = time.monotonic()

        def caller(number: int) -> None:
            nonlocal done
            rng = random.Random(f"{name}{number}")
            while more(done, time.monotonic() - start):
                images = ask(server, rng, data, seen)
                with lock:
                    done += images

        watching = watched(name, server.process.pid, lambda: done, temporary, record)
        with watching as readings, ThreadPoolExecutor(CALLERS) as pool:
            for ended in [pool.submit(caller, i) for i in range(CALLERS)]:
                ended.result()
        assert server.figure("univfd_images_at_work") == 0
        assert server.stop() == 0
    print(f"{name}: answers {dict(sorted(seen.items()))}", flush=True)
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--real-seconds", type=float, default=600)
    parser.add_argument("--hours", type=float, default=8)
    parser.add_argument("--most-seconds", type=float, default=1500)
    parser.add_argument("--rate", type=float, help="images a second, measured before: leave the first stretch out")
    parser.add_argument("--parts", default="line,server")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        toy = toy_detector(scratch)
        small = pictures(scratch / "small", 120, 96, 80)
        large = [] if given.rate else pictures(scratch / "large", 60, 1200, 900)
        for part in given.parts.split(","):
            work = {"line": line, "server": service}[part]
            rate = given.rate
            if rate is None:
                real = work(f"{part}-real", large, lambda n, s: s < given.real_seconds, (), scratch, given.record)
                rate = cores * real[-1].done / real[-1].cpu_seconds
                print(require_flat(f"{part}, shipped detector", real), flush=True)
            count = round(rate * given.hours * 3600)
            print(f"{given.hours:g} h of {cores} cores at {rate:.2f} images/s are {count} images", flush=True)
            toys = work(
                f"{part}-toy", small, lambda n, s, most=count: n < most and s < given.most_seconds,
                ("--detector", toy), scratch, given.record,
            )  # fmt: skip
            print(require_flat(f"{part}, toy encoder", toys), flush=True)
            print(f"that stands for {toys[-1].done / rate / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
