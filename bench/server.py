"""The service: its rate over the line's on the same images, latency, and what it does at three times its rate.

python bench/server.py DATA [-n 384] [--minutes 10] [--detector FOLDER] [-o FILE]

DATA has `manifest.jsonl`. A server process is asked from this one over loopback; line and service take turns. Then
requests come at three times the rate at which the service answered, whether or not earlier ones are answered, and its
memory is looked at every five seconds. Ends with 1 where something of `holds` does not.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.sources import read_bytes

TURNS = 4
CLIENTS, QUEUE = 24, 32
TIMES, SAMPLE_SECONDS = 3, 5.0
WARM_SHARE = 0.2
"""Of the overload that passes before memory counts: buffers of every size have been needed by then."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=384)
    parser.add_argument("--detector", default="default", help="shipped name or folder")
    parser.add_argument("--minutes", type=float, default=0.5, help="of overload")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    images = [read_bytes(s.ref) for s in islice(cycle(open_dataset(args.data)), args.n)]
    command = [
        sys.executable,
        "-m",
        "univfd",
        "serve",
        "--port",
        "0",
        "--queue",
        str(QUEUE),
        "--detector",
        args.detector,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = urlsplit(server.stderr.readline().split()[2]).netloc
        try:
            while ask(address, "GET", "/readyz", b"")[0] != 200:
                time.sleep(0.1)
            result = compared(load(args.detector), images, address)
            rate = float(result["images_per_second_of_the_service_here"])
            result["at_three_times_its_rate"] = overload(images, address, server.pid, TIMES * rate, 60 * args.minutes)
            result["afterwards"] = {"status": ask(address, "POST", "/v1/detect", images[0])[0]}
        finally:
            server.terminate()
            server.wait()
    result["holds"] = holds = judged(result)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")
    sys.exit(not all(holds.values()))


def judged(result: dict[str, Any]) -> dict[str, bool]:
    """What must be so."""
    over = result["at_three_times_its_rate"]
    return {
        "service has 90 % of the line's rate": result["service_rate_over_the_line"]["median"] >= 0.9,
        "no errors below capacity": result["errors"] == 0,
        "nothing but 200 and 503 above it": set(over["answers"]) == {"200", "503"},
        "half of the refusals within 0.1 s, 99 % within 1 s": (
            over["seconds_of_a_503"]["p50"] < 0.1 and over["seconds_of_a_503"]["p99"] < 1
        ),
        "it goes on answering at 80 % of its rate": (
            over["images_per_second"] >= 0.8 * result["images_per_second_of_the_service_here"]
        ),
        "memory flat: under 5 % and 50 MB more in the last fifth than in the first": (
            over["memory_mb"]["last_fifth"] - over["memory_mb"]["first_fifth"]
            < min(50, 0.05 * over["memory_mb"]["first_fifth"])
        ),
        "it answers afterwards": result["afterwards"]["status"] == 200,
    }


def compared(detector: Detector, images: list[bytes], address: str) -> dict[str, Any]:
    """Line and service in turns over the same images."""
    chunk = len(images) // TURNS
    ratios, seconds, line_seconds, service_seconds = [], [], 0.0, 0.0
    for turn in range(TURNS):
        part = images[turn * chunk : (turn + 1) * chunk]
        start = time.perf_counter()
        for _ in detector.detect(part):
            pass
        line = time.perf_counter() - start
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(lambda data: ask(address, "POST", "/v1/detect", data), part))
        service = time.perf_counter() - start
        wrong = Counter(status for status, _ in answers if status != 200)
        assert not wrong, wrong
        seconds += [taken for _, taken in answers]
        ratios.append(line / service)
        line_seconds, service_seconds = line_seconds + line, service_seconds + service
    return {
        "images": chunk * TURNS,
        "clients": CLIENTS,
        "service_rate_over_the_line": {
            "median": round(statistics.median(ratios), 3),
            "all": np.round(ratios, 3).tolist(),
        },
        "images_per_second_of_the_line_here": round(chunk * TURNS / line_seconds, 2),
        "images_per_second_of_the_service_here": round(chunk * TURNS / service_seconds, 2),
        "seconds_an_answer": quantiles(seconds),
        "errors": 0,
    }


def overload(images: list[bytes], address: str, pid: int, rate: float, seconds: float) -> dict[str, Any]:
    """Requests at a rate, whatever becomes of those before; memory by the clock."""
    start, ended = time.monotonic(), threading.Event()
    samples: list[tuple[float, int]] = []

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append((time.monotonic() - start, memory(pid)))

    watching = threading.Thread(target=watch)
    watching.start()
    futures, late = [], 0.0
    with ThreadPoolExecutor(8 * QUEUE) as pool:  # more than it can hold, so that requests are not held back here
        for number in range(round(rate * seconds)):
            wait = start + number / rate - time.monotonic()
            time.sleep(max(0.0, wait))
            late = max(late, -wait)
            futures.append(pool.submit(ask, address, "POST", "/v1/detect", images[number % len(images)]))
    ended.set()
    watching.join()
    taken = time.monotonic() - start
    answers = [f.result() for f in futures]
    return {
        "places": QUEUE,
        "seconds": round(taken, 1),
        "requests_per_second": round(len(answers) / taken, 2),
        "latest_start_seconds": round(late, 3),
        "answers": {str(k): n for k, n in sorted(Counter(status for status, _ in answers).items())},
        "images_per_second": round(sum(s == 200 for s, _ in answers) / taken, 2),
        "seconds_of_a_200": quantiles([t for s, t in answers if s == 200]),
        "seconds_of_a_503": quantiles([t for s, t in answers if s == 503]),
        "memory_mb": flatness(samples),
    }


def flatness(samples: list[tuple[float, int]]) -> dict[str, Any]:
    """Medians of the first and last fifth after the warming up, the extremes, and MB a minute of a straight line."""
    warm = samples[round(WARM_SHARE * len(samples)) :]
    minutes, sizes = np.array(warm).T if len(warm) > 1 else np.array([[0.0, 1.0], [np.nan, np.nan]])
    fifth = max(1, len(sizes) // 5)
    return {
        "samples": len(sizes),
        "first_fifth": float(np.median(sizes[:fifth])),
        "last_fifth": float(np.median(sizes[-fifth:])),
        "least": float(sizes.min()),
        "most": float(sizes.max()),
        "a_minute": round(float(np.polyfit(minutes / 60, sizes, 1)[0]), 2),
    }


def ask(address: str, method: str, path: str, body: bytes) -> tuple[int, float]:
    """Status and seconds of one request on a connection of its own."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request(method, path, body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, time.perf_counter() - start


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and worst."""
    values = np.quantile(seconds, (0.5, 0.99, 1.0)) if seconds else np.full(3, np.nan)
    return dict(zip(("p50", "p99", "worst"), np.round(values, 3).tolist(), strict=True))


def memory(pid: int) -> int:
    """Resident memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
