"""The service: its rate over the line's on the same images, latency, and what it does at three times its places.

python bench/server.py DATA [-n 384] [-o FILE]

DATA has `manifest.jsonl`. A server process is asked from this one over loopback; line and service take turns.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.sources import read_bytes

TURNS = 4
CLIENTS, QUEUE = 24, 32
OVERLOAD_SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=384)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    images = [read_bytes(s.ref) for s in islice(cycle(open_dataset(args.data)), args.n)]
    command = [sys.executable, "-m", "univfd", "serve", "--port", "0", "--queue", str(QUEUE)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = urlsplit(server.stderr.readline().split()[2]).netloc
        try:
            while ask(address, "GET", "/readyz", b"")[0] != 200:
                time.sleep(0.1)
            result = compared(load(), images, address) | {
                "at_three_times_its_places": overload(images, address, server.pid)
            }
        finally:
            server.terminate()
            server.wait()
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def compared(detector: Detector, images: list[bytes], address: str) -> dict[str, object]:
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


def overload(images: list[bytes], address: str, pid: int) -> dict[str, object]:
    """Three times as many clients as places, each asking again at once."""
    until = time.monotonic() + OVERLOAD_SECONDS
    before = memory(pid)

    def client(number: int) -> list[tuple[int, float]]:
        mine, answers = cycle(images[number:] + images[:number]), []
        while time.monotonic() < until:
            status, taken = ask(address, "POST", "/v1/detect", next(mine))
            answers.append((status, taken))
            if status == 503:
                time.sleep(0.2)
        return answers

    with ThreadPoolExecutor(3 * QUEUE) as pool:
        answers = [a for each in pool.map(client, range(3 * QUEUE)) for a in each]
    return {
        "places": QUEUE,
        "clients": 3 * QUEUE,
        "answers": {str(k): n for k, n in sorted(Counter(status for status, _ in answers).items())},
        "images_per_second": round(sum(s == 200 for s, _ in answers) / OVERLOAD_SECONDS, 2),
        "seconds_of_a_200": quantiles([t for s, t in answers if s == 200]),
        "seconds_of_a_503": quantiles([t for s, t in answers if s == 503]),
        "memory_before_and_after_mb": [before, memory(pid)],
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
