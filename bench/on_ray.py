"""Ray Data on a real cluster of this machine against the single process, with losses; and the second run.

python bench/on_ray.py DATA [-n 1000] [--cheap 20000] [-o bench/ray.json]

DATA is a labelled data set. Its images are taken in turns, every hundredth input is broken. `-n` images are judged by
the default detector, `--cheap` by one on image statistics, which costs little more than decoding. Three runs each: the
single process with all cores; a head without CPUs and two nodes with one each; and three nodes with one each, of which
one is killed when 30 % is done, and before that, at 15 %, a worker by SIGKILL. CPU seconds are those of all processes
of the cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.distributed import running
from univfd.distributed.cluster import Cluster as Where
from univfd.distributed.stores import Folder
from univfd.distributed.workers import Work
from univfd.runner import run
from univfd.types import Sample
from univfd.views import view

BAD = (b"", b"no image, only words", b"\xff\xd8\xff\xe0 cut")
_TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--cheap", type=int, default=20_000)
    parser.add_argument("--partition", type=int, default=128)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    samples = list(open_dataset(args.data))
    result: dict[str, Any] = {"cores": os.cpu_count()}
    for name, n in (("default", args.n), ("statistics", args.cheap)):
        if n:
            detector = load() if name == "default" else statistics(samples[::4])
            with tempfile.TemporaryDirectory() as scratch:
                inputs = inputs_of(samples, n, Path(scratch))
                result[name] = measure(detector, inputs, args.partition, Path(scratch))
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def statistics(samples: list[Sample]) -> Detector:
    """A detector on image statistics: no weights, and next to no time in the encoder."""
    backbone, cut = open_backbone("toy"), view("native")
    return assemble(
        "statistics", backbone, cut, build_bank(backbone, cut, samples, added="2026-01-01").bank, "linear", {}
    )


def inputs_of(samples: list[Sample], n: int, scratch: Path) -> list[str]:
    """Paths of images in turns; every hundredth is a broken file."""
    broken = []
    for i, data in enumerate(BAD):
        path = scratch / f"broken-{i}.jpg"
        path.write_bytes(data)
        broken.append(str(path))
    good = cycle(str(s.ref.source) for s in samples)
    return [broken[i // 100 % len(BAD)] if i % 100 == 99 else path for i, path in enumerate(islice(good, n))]


def measure(detector: Detector, inputs: list[str], size: int, scratch: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: dict[str, Any] = {"images": len(inputs), "partition": size, "load_average_before": os.getloadavg()[0]}
    single = scratch / "single.parquet"
    with timed(found, "single"):
        for _ in run(detector.detect, inputs, single, "parquet", detector=detector.identity):
            pass
    expected = pq.read_table(single)

    def on_ray(name: str, head: int, trouble: Callable[[Any, int], None] | None = None) -> None:
        out = scratch / name
        with nodes(head) as cluster:
            before = cpu_of_children()
            start = time.perf_counter()

            def watch(what: str, done: int, total: int) -> None:
                if trouble is not None and total:
                    trouble(cluster, done)

            where = Where(address=cluster.address)
            report = running.detect(detector, inputs, Folder(str(out)), where, Work(1, 1), size=size, on_done=watch)
            cpu = cpu_of_children() - before
            found[name] = {"seconds": report.seconds, "cpu_seconds": round(cpu, 1), "partitions": report.partitions}
            found[name] |= {"worker_cpu_seconds": report.worker_cpu, "workers": report.workers}
            start = time.perf_counter()
            running.detect(detector, inputs, Folder(str(out)), where, Work(1, 1), size=size, resume=True)
            found[name]["second_run_seconds"] = round(time.perf_counter() - start, 2)
        ours = pa.concat_tables([pq.read_table(p) for p in sorted((out / "rows").iterdir())])
        found[name] |= differences(ours, expected)
        found[name]["bytes_a_row"] = round(sum(p.stat().st_size for p in (out / "rows").iterdir()) / len(inputs), 1)

    on_ray("ray_two_cpus", 0)
    on_ray("ray_with_losses", 1, losing(len(inputs)))
    one = found["single"]
    for clock in ("seconds", "cpu_seconds"):
        found["ray_two_cpus"][f"overhead_{clock}"] = round(found["ray_two_cpus"][clock] / one[clock] - 1, 3)
    found["load_average_after"] = os.getloadavg()[0]
    return found


def losing(n: int) -> Callable[[Any, int], None]:
    """Kills a worker at 15 %, a node at 30 %."""
    left = ["worker", "node"]

    def trouble(cluster: Any, done: int) -> None:
        if left == ["worker", "node"] and done >= 0.15 * n:
            os.kill(actors(cluster)[0], signal.SIGKILL)
            left.pop(0)
        elif left == ["node"] and done >= 0.3 * n:
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
            left.pop()

    return trouble


def actors(cluster: Any) -> list[int]:
    raylets = {n.all_processes["raylet"][0].process.pid for n in cluster.list_all_nodes()}
    return [pid for pid, parent, name in processes() if parent in raylets and name.startswith("ray::MapWorker")]


def processes() -> Iterator[tuple[int, int, str]]:
    """Process, parent and command line of all processes."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1]), (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue


def cpu_of_children() -> float:
    """CPU seconds of this process and all below it, the ended ones too."""
    parents = {pid: parent for pid, parent, _ in processes()}
    total = 0.0
    for pid in parents:
        above, mine = pid, False
        while above in parents and not mine:
            mine, above = above == os.getpid(), parents[above]
        if mine:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += sum(map(int, fields[11:15])) / _TICK
    return total


def differences(ours: Any, theirs: Any) -> dict[str, Any]:
    """Columns that are not equal, and the largest difference of scores."""
    unequal = [name for name in theirs.schema.names if ours[name] != theirs[name]]
    pairs = zip(ours["score"].to_pylist(), theirs["score"].to_pylist(), strict=True)
    largest = max(abs(a - b) for a, b in pairs if a is not None)
    failed = ours["status"].to_pylist().count("failed")
    return {"columns_that_differ": unequal, "largest_difference_of_scores": largest, "failures": failed}


@contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    start, cpu = time.perf_counter(), time.process_time()
    yield
    spent = {"seconds": round(time.perf_counter() - start, 2), "cpu_seconds": round(time.process_time() - cpu, 1)}
    found[name] = spent


@contextmanager
def nodes(head: int) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
