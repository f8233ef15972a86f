"""Neighbour indexes on synthetic banks: time, memory, size and recall against exact search.

python bench/index.py SCRATCH [--rows 720000] [--dtype float32] [--kinds lance,ivf,hnsw,exact] [-o bench/index.json]

Rows are drawn around 2,000 centres, with a spectrum that falls off as that of image features does; queries are drawn
anew from the same law and are not in the bank. SCRATCH needs room for the vectors and a tenth more; what is made there
is deleted. Every kind is measured in a process of its own, and its peak of resident memory is that process's. Times
depend on what else the machine does: the load average is written beside them, and CPU time, which hardly depends on
it. The file gets one entry for each number of rows and type; others in it are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from univfd import registry
from univfd.bank import FeatureBank
from univfd.index import ANY, LanceRows, NeighborIndex, Where, open_index
from univfd.search import Distances, nearest_in_blocks, to_unit
from univfd.types import FeatureSpace, FloatArray, Label

DIM, K, CENTRES, SPREAD = 768, 9, 2_000, 0.7
QUERIES, CHECKED, SINGLE = 1_000, 300, 200
BLOCK = 25_000
WITHIN = {"any": ANY, "real": Where(Label.REAL), "fake": Where(Label.FAKE)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--rows", type=int, default=720_000)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--kinds", default="lance,ivf,hnsw,exact")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(STAGES[args.stage](args.scratch, args.rows, args.dtype)))
        return
    args.scratch.mkdir(parents=True)
    every = json.loads(args.output.read_text("utf-8")) if args.output and args.output.exists() else {}
    name = f"{args.rows} {args.dtype}"
    result: dict[str, Any] = every.setdefault(name, {}) | {"cores": os.cpu_count(), "dim": DIM, "k": K}
    try:
        kinds = args.kinds.split(",")
        for stage in ["make", *(["lance-build"] if "lance" in kinds else []), *kinds]:
            result[stage] = in_process(stage, args)
            print(stage, json.dumps(result[stage]), flush=True)
            if args.output:
                args.output.write_text(json.dumps(every | {name: result}, indent=1) + "\n", "utf-8")
    finally:
        shutil.rmtree(args.scratch)


def in_process(stage: str, args: argparse.Namespace) -> Any:
    command = [sys.executable, __file__, str(args.scratch), "--stage", stage, "--rows", str(args.rows)]
    before = os.getloadavg()[1]
    start = time.perf_counter()
    done = subprocess.run([*command, "--dtype", args.dtype], stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    loads = {"load_before": round(before, 1), "load_after": round(os.getloadavg()[1], 1)}
    return figures | {"stage_seconds": round(time.perf_counter() - start, 1)} | loads


def drawn(n: int, seed: list[int]) -> FloatArray:
    """Rows of the law, of length 1."""
    spectrum = (np.arange(1, DIM + 1) ** -0.5).astype(np.float32)
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, DIM), dtype=np.float32)
    rows *= np.float32(SPREAD)
    rows += centres[rng.integers(0, CENTRES, n)]
    rows *= spectrum
    return to_unit(rows)


def parts(rows: int, dtype: str) -> Iterator[tuple[Any, FloatArray, Any]]:
    """Numbers, vectors as they are stored, labels."""
    for start in range(0, rows, BLOCK):
        n = min(BLOCK, rows - start)
        labels = np.random.default_rng([2, start]).integers(0, 2, n).astype(np.uint8)
        yield np.arange(start, start + n), drawn(n, [1, start]).astype(dtype), labels


def make(scratch: Path, rows: int, dtype: str) -> dict[str, Any]:
    """The table, the queries and the true distances of some of them."""
    import lancedb
    import pyarrow as pa

    queries = drawn(QUERIES, [3, 0])
    true = {name: np.empty((CHECKED, 0)) for name in WITHIN}
    kind = pa.list_(pa.float32() if dtype == "float32" else pa.float16(), DIM)
    schema = pa.schema([("vector", kind), ("label", pa.uint8())])

    def batches() -> Iterator[Any]:
        for numbers, vectors, labels in parts(rows, dtype):
            unit = to_unit(vectors.astype(np.float32))
            for label in Label:
                of = labels == label
                near = nearest_in_blocks(queries[:CHECKED], [(numbers[of], unit[of])], K)[0]
                for name in (label.word, "any"):
                    true[name] = np.sort(np.concatenate([true[name], near], axis=1), axis=1)[:, :K]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
            yield pa.record_batch([column, pa.array(labels)], schema=schema)

    lancedb.connect(str(scratch / "db")).create_table("rows", pa.RecordBatchReader.from_batches(schema, batches()))
    np.savez(scratch / "queries.npz", queries=queries, **true)  # type: ignore[arg-type]
    return {"vectors_mb": megabytes(scratch / "db")}


def lance_build(scratch: Path, rows: int, dtype: str) -> dict[str, Any]:
    before = megabytes(scratch / "db")
    index = registry.load("index", "lance").build(LanceRows.open(scratch / "db"), scratch / "lance")
    size = megabytes(scratch / "db") - before
    return built(index) | {"size_mb": size, "bytes_a_row": round(size * 1e6 / rows), "peak_mb": peak()}


def lance(scratch: Path, rows: int, dtype: str) -> dict[str, Any]:
    start = time.perf_counter()
    index = open_index(LanceRows.open(scratch / "db"), scratch / "lance")
    return {"open_seconds": round(time.perf_counter() - start, 2)} | searched(index, scratch)


def faiss(kind: str) -> Any:
    def stage(scratch: Path, rows: int, dtype: str) -> dict[str, Any]:
        folder = scratch / kind
        index = registry.load("index", "faiss").build(in_memory(rows, dtype), folder, kind=kind)
        return built(index) | {"size_mb": megabytes(folder)} | searched(index, scratch)

    return stage


def exact(scratch: Path, rows: int, dtype: str) -> dict[str, Any]:
    return searched(open_index(in_memory(rows, dtype)), scratch, single=7, batches=1)


def in_memory(rows: int, dtype: str) -> FeatureBank:
    vectors, labels = np.empty((rows, DIM), np.float32), np.empty(rows, np.uint8)
    for numbers, part, of in parts(rows, dtype):
        vectors[numbers], labels[numbers] = part, of
    empty = np.full(rows, "", dtype=object)
    space = FeatureSpace("synthetic", "", ("proj",), "native", "0" * 16, DIM)
    return FeatureBank(vectors, labels, np.zeros((rows, 32), np.uint8), space, empty, empty, empty, empty)


def built(index: NeighborIndex) -> dict[str, Any]:
    m = index.manifest
    assert m is not None
    stored = {"k": m.recall.k, "queries": m.recall.queries, **m.recall.mean}
    return {"build_seconds": m.seconds, "parameters": m.parameters, "effort": m.effort, "recall_stored": stored}


def searched(index: NeighborIndex, scratch: Path, *, single: int = SINGLE, batches: int = 5) -> dict[str, Any]:
    """Times of single queries and of batches of 1,000, recall on queries that are not in the bank."""
    with np.load(scratch / "queries.npz") as file:
        data = dict(file)
    queries = data["queries"]
    one = timed([lambda i=i: index.search(queries[i : i + 1], K) for i in range(single)])
    both = timed([
        lambda i=i: [index.search(queries[i : i + 1], K, Where(label)) for label in Label] for i in range(single)
    ])  # fmt: skip
    many = timed([lambda: index.search(queries, K)] * batches)
    recall = {name: share(index.search(queries[:CHECKED], K, w)[0], data[name]) for name, w in WITHIN.items()}
    return {
        "single_ms_p50": one["p50"],
        "single_ms_p95": one["p95"],
        "single_cpu_ms": one["cpu"],
        "both_classes_ms_p50": both["p50"],
        "batch_ms_a_query_p50": round(many["p50"] / len(queries), 3),
        "batch_ms_a_query_best": round(many["best"] / len(queries), 3),
        "batch_cpu_ms_a_query": round(many["cpu"] / len(queries), 3),
        "recall": recall,
        "peak_mb": peak(),
    }


def timed(calls: list[Any]) -> dict[str, float]:
    """Milliseconds of each call; the first tenth (of many) warms up."""
    seconds, cpu = [], time.process_time()
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(1000 * (time.perf_counter() - start))
    cpu = 1000 * (time.process_time() - cpu) / len(calls)
    kept = seconds[len(seconds) // 10 :]
    tail = float(np.quantile(kept, 0.95))
    return {"p50": round(statistics.median(kept), 2), "p95": round(tail, 2), "best": min(kept), "cpu": round(cpu, 2)}


def share(near: Distances, true: Distances) -> float:
    return round(float((near <= true[:, -1:] + 1e-9).mean()), 4)


def megabytes(folder: Path) -> int:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6)


def peak() -> int:
    """The most memory that this process has had, in MB."""
    line = next(x for x in Path("/proc/self/status").read_text("utf-8").splitlines() if x.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1000)


STAGES = {
    "make": make,
    "lance-build": lance_build,
    "lance": lance,
    "ivf": faiss("ivf"),
    "hnsw": faiss("hnsw"),
    "exact": exact,
}

if __name__ == "__main__":
    main()
