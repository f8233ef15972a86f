"""What millions of images cost: time, machines, bytes and money, from figures that were measured.

python bench/cost.py [bench/ray.json] [--price-core-hour 0.04] [--cores 64] [-o FILE]

The law is arithmetic: start + images x CPU seconds an image x (1 + overhead) / cores. Its constants come from the runs
of one detector; `check` holds it against the run of another.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Costs of one image, and prices. The defaults of prices are examples: put in your own.

    Attributes:
        cpu_seconds: of the whole line for one image, on one core that is free.
        overhead: share of time that the cluster adds.
        start_seconds: until all actors work.
        image_bytes: read for one image.
        row_bytes: written for one image.
        price_core_hour: of one core.
        price_thousand_reads: of 1,000 requests to a bucket; 0 for a file system.
        partition: images a partition.
    """

    cpu_seconds: float
    overhead: float
    start_seconds: float = 15.0
    image_bytes: float = 300_000.0
    row_bytes: float = 120.0
    price_core_hour: float = 0.04
    price_thousand_reads: float = 0.0004
    partition: int = 512


@dataclass(frozen=True, slots=True)
class Plan:
    """A run by arithmetic.

    Attributes:
        images: number of them.
        cores: that work.
        hours: wall time.
        core_hours: of all cores.
        images_per_second: of all cores.
        read_terabytes: of images.
        gigabits_per_second: at which they are read.
        written_gigabytes: of rows.
        partitions: number of them.
        money: cores and requests.
        money_per_million: the same for a million images.
    """

    images: float
    cores: int
    hours: float
    core_hours: float
    images_per_second: float
    read_terabytes: float
    gigabits_per_second: float
    written_gigabytes: float
    partitions: int
    money: float
    money_per_million: float


def plan(images: float, cores: int, costs: Costs) -> Plan:
    """Time, bytes and money of a run."""
    rate = cores / (costs.cpu_seconds * (1 + costs.overhead))
    seconds = costs.start_seconds + images / rate
    core_hours = seconds * cores / 3600
    partitions = int(-(-images // costs.partition))
    requests = images + 4 * partitions  # an image each; listing and rows are written and read
    money = core_hours * costs.price_core_hour + requests / 1000 * costs.price_thousand_reads
    return Plan(
        images=images, cores=cores, hours=seconds / 3600, core_hours=core_hours, images_per_second=rate,
        read_terabytes=images * costs.image_bytes / 1e12, gigabits_per_second=rate * costs.image_bytes * 8 / 1e9,
        written_gigabytes=images * costs.row_bytes / 1e9, partitions=partitions, money=money,
        money_per_million=money / images * 1e6,
    )  # fmt: skip


def start_core_seconds(measured: dict[str, Any]) -> float:
    """CPU seconds of a run on Ray outside the work on partitions: processes, imports, encoders, Ray itself."""
    on_ray: dict[str, float] = measured["ray_two_cpus"]
    return on_ray["cpu_seconds"] - on_ray["worker_cpu_seconds"]


def check(costs: Costs, measured: dict[str, Any], cores: int) -> dict[str, float]:
    """The law against a run of another detector on Ray; of that run only the single process is used to predict.

    Wall time can only agree on a machine that had nothing else to do.
    """
    n, on_ray = measured["images"], measured["ray_two_cpus"]
    law = replace(costs, cpu_seconds=measured["single"]["cpu_seconds"] / n)
    seconds = plan(n, cores, law).hours * 3600
    return {"images": n, "predicted_core_seconds": round(seconds * cores, 1),
            "measured_core_seconds": on_ray["cpu_seconds"], "predicted_seconds": round(seconds, 1),
            "measured_seconds": on_ray["seconds"], "load_average": measured["load_average_after"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="?", default=Path(__file__).with_name("ray.json"))
    parser.add_argument("--detector", default="default", help="which of the measured ones")
    parser.add_argument("--cores", type=int, nargs="+", default=[64, 1000, 10_000])
    parser.add_argument("--price-core-hour", type=float, default=Costs.price_core_hour)
    parser.add_argument("--price-thousand-reads", type=float, default=Costs.price_thousand_reads)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    record = json.loads(args.measured.read_text("utf-8"))
    measured = record[args.detector]
    costs = Costs(
        cpu_seconds=measured["single"]["cpu_seconds"] / measured["images"],
        overhead=max(0.0, measured["ray_two_cpus"]["worker_cpu_seconds"] / measured["single"]["cpu_seconds"] - 1),
        start_seconds=start_core_seconds(measured) / record["cores"],
        row_bytes=measured["ray_two_cpus"]["bytes_a_row"],
        price_core_hour=args.price_core_hour,
        price_thousand_reads=args.price_thousand_reads,
    )
    plans = [plan(n, cores, costs) for n, cores in zip((1e6, 1e8, 1e10), args.cores, strict=True)]
    others = {k: v for k, v in record.items() if isinstance(v, dict) and k != args.detector}
    checks = {name: check(costs, other, record["cores"]) for name, other in others.items()}
    result = {"costs": asdict(costs), "checks": checks, "plans": [asdict(p) for p in plans]}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
