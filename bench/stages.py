"""The line by stages, whole, and against other ways to do the same: CPU seconds, wall, peak memory, first result.

python bench/stages.py DATA [-n 200] [--threads 1 2] [--torch-python PYTHON] [-o FILE]
python bench/stages.py --table FILE

DATA has `manifest.jsonl`. Each way runs in a process of its own that is held to so many CPUs (so the figures of one
number of threads are comparable), on the same images in the same order, and looks at a few of them first. With
--torch-python, the interpreter of an environment that has torch, two more: a plain loop over the same encoder in
PyTorch, and the official repository's evaluation loop. Figures of one run on one machine; see docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from univfd.backbones import open_backbone
from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.embedding import default_batch, embed_images
from univfd.engines import ENGINES
from univfd.images import decode
from univfd.machine import machine
from univfd.parity import cosine_loss
from univfd.sources import read_bytes
from univfd.types import FloatArray, ImageRef, Pixels

WARM = 8
TORCH_BATCH = 8
FULL_PASS_GFLOP = 35.1  # ViT-B/16, 197 tokens: 2 x multiply-adds of all products
Stages = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--table", type=Path, metavar="FILE", help="Print the table of an earlier run's -o FILE.")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--torch-python", help="Interpreter of an environment that has torch.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="Only these.")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text("utf-8"))))
        return
    if args.data is None:
        parser.error("DATA or --table FILE")
    if args.way:
        print(json.dumps(WAYS[args.way](args.data, args.n, args.threads[0])))
        return
    ways = args.ways or [w for w in WAYS if args.torch_python or not w.startswith("torch")]
    result: dict[str, Any] = {"machine": machine().get("model name", ""), "images": args.n, "ways": {}}
    for threads in args.threads:
        for way in ways:
            python = args.torch_python if way.startswith("torch") else sys.executable
            result["ways"][f"{way}, {threads} CPU"] = apart(python, way, args, threads)
            print(f"{way}, {threads} CPU: {result['ways'][f'{way}, {threads} CPU']}", file=sys.stderr)
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def table(result: dict[str, Any]) -> str:
    """The run as a table in Markdown."""
    lines = ["| | CPU seconds an image | wall | first result, s | peak MB | of peak |", "| --- " * 6 + "|"]
    for name, seen in result["ways"].items():
        threads = int(name.rpartition(", ")[2].split()[0])
        nested = [(f"{name}: {part}", s) for part, s in seen.items() if isinstance(s, dict)]
        for label, s in nested or [(name, seen)]:
            if "cpu_seconds_an_image" not in s:
                lines.append(f"| {label} | {', '.join(f'{k} {v:.3g}' for k, v in s.items())} | | | | |")
                continue
            gflops = result["ways"].get(f"roofline, {threads} CPU", {}).get("gemm_gflops", 0.0) / threads
            share = (
                FULL_PASS_GFLOP / s["cpu_seconds_an_image"] / gflops if name.startswith("full-pass") and gflops else 0
            )
            cells = [f"{s['cpu_seconds_an_image']:.4f}", f"{s['wall_seconds_an_image']:.4f}"]
            cells += [str(s.get("first_result_seconds", "")), str(s.get("peak_mb", seen.get("peak_mb", "")))]
            lines.append(f"| {label} | {' | '.join(cells)} | {f'{share:.0%}' if share else ''} |")
    return "\n".join(lines)


def apart(python: str, way: str, args: argparse.Namespace, threads: int) -> Any:
    """One way in a process that may use the first `threads` CPUs of this one."""
    allowed = sorted(os.sched_getaffinity(0))[:threads]
    command = [python, __file__, str(args.data), "-n", str(args.n), "--threads", str(threads), "--way", way]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    ).stdout
    return json.loads(said.splitlines()[-1])


class Clock:
    """CPU and wall seconds between two calls, those of finished child processes too."""

    def __init__(self) -> None:
        self.cpu, self.wall = self._now()

    def _now(self) -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime, time.perf_counter()

    def lap(self, images: int) -> dict[str, float]:
        """Seconds an image since the last call."""
        cpu, wall = self._now()
        taken = {
            "cpu_seconds_an_image": (cpu - self.cpu) / images,
            "wall_seconds_an_image": (wall - self.wall) / images,
        }
        self.cpu, self.wall = cpu, wall
        return {name: float(f"{value:.4g}") for name, value in taken.items()}


def peak() -> dict[str, float]:
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def refs_of(data: Path, count: int) -> list[ImageRef]:
    """Evenly spaced over the data set; again from the start where it is too small."""
    refs = [s.ref for s in open_dataset(data)]
    return list(islice(cycle(refs[:: max(1, len(refs) // count)]), count))


def stages(data: Path, count: int, threads: int) -> Any:
    """Each stage over all images before the next, one after the other in one thread (the encoder has `threads`)."""
    detector, refs = load(threads=threads), refs_of(data, count)
    list(detector.detect(refs[:WARM]))
    out: Stages = {}
    clock = Clock()
    encoded = [read_bytes(r) for r in refs]
    out["read"] = clock.lap(count)
    crops: list[Pixels] = []
    decoding, cutting = Clock(), {"cpu_seconds_an_image": 0.0, "wall_seconds_an_image": 0.0}
    for data_of_one in encoded:
        pixels = decode(ImageRef("", data_of_one)).pixels
        cut = Clock()
        crops.append(detector.view.cut(pixels, detector.backbone.entry.preprocess).pixels)
        cutting = {k: cutting[k] + v for k, v in cut.lap(1).items()}
    both = decoding.lap(count)
    out["view"] = {k: float(f"{v / count:.4g}") for k, v in cutting.items()}
    out["decode"] = {k: float(f"{v - out['view'][k]:.4g}") for k, v in both.items()}
    clock = Clock()
    batches = [detector.backbone.embed(np.concatenate(b)) for b in pieces(crops, default_batch())]
    out["encode"] = clock.lap(count)
    vectors = np.concatenate(batches)
    detector.classifier.decision_function(vectors)
    detector.bank.nearest(vectors[:, : detector.bank.space.dim], 1)
    out["classify and look up"] = clock.lap(count)
    verdicts = list(detector.detect(refs[:WARM]))
    clock = Clock()
    with tempfile.TemporaryFile("w") as file:
        for verdict in islice(cycle(verdicts), count):
            file.write(json.dumps(verdict.to_dict()) + "\n")
    out["write"] = clock.lap(count)
    return out | peak()


def line(data: Path, count: int, threads: int) -> Any:
    """`Detector.detect`, as `univfd detect` calls it; the first result counts from the call."""
    detector, refs = load(threads=threads), refs_of(data, count)
    list(detector.detect(refs[:WARM]))
    return judged(detector, refs) | peak()


def narrow_streams(data: Path, count: int, threads: int) -> Any:
    """The line with one encoder thread a stream and as many streams as CPUs."""
    detector, refs = load(threads=1), refs_of(data, count)
    list(detector.detect(refs[:WARM]))
    return judged(detector, refs, streams=threads, batch_size=max(1, default_batch() // threads)) | peak()


def judged(detector: Detector, refs: list[ImageRef], **options: int) -> dict[str, float]:
    clock, start, first = Clock(), time.perf_counter(), 0.0
    for _ in detector.detect(refs, **options):  # type: ignore[arg-type]
        first = first or time.perf_counter() - start
    return clock.lap(len(refs)) | {"first_result_seconds": round(first, 3)}


def process_per_core(data: Path, count: int, threads: int) -> Any:
    """As many processes as CPUs, each with one encoder thread and a share of the images. Their start is not counted."""
    share = count // threads
    command = [sys.executable, __file__, str(data), "--threads", "1", "--way", "share"]
    workers = [
        subprocess.Popen([*command, "-n", str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(threads)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()  # "ready"
    start = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
    wall = (time.perf_counter() - start) / (share * threads)
    cpu = sum(s["cpu_seconds_an_image"] for s in said) / threads
    return {
        "cpu_seconds_an_image": float(f"{cpu:.4g}"),
        "wall_seconds_an_image": float(f"{wall:.4g}"),
        "peak_mb": sum(s["peak_mb"] for s in said),
    }


def share(data: Path, count: int, threads: int) -> Any:
    """One of `process_per_core`: waits for a word before it begins."""
    detector, refs = load(threads=1), refs_of(data, count)
    list(detector.detect(refs[:WARM]))
    print("ready", flush=True)
    sys.stdin.readline()
    return judged(detector, refs, workers=1) | peak()


def full_pass(data: Path, count: int, threads: int) -> Any:
    """The whole encoder in float32 ONNX Runtime on crops that are ready: what "one full pass" means.

    All tokens go through all blocks, as in the published encoder: the tap `mean.12` reads them.
    """
    return encoded_alone("cpu", ("proj", "mean.12"), data, count, threads)


def engines(data: Path, count: int, threads: int) -> Any:
    """The default detector's encoder on every engine that is here."""
    taps, out = load(threads=threads).space.taps, {}
    for name in ("cpu", "openvino", "cpu-int8", "openvino-bf16"):
        out[name] = encoded_alone(name, taps, data, count, threads)
    return out


def encoded_alone(engine: str, taps: Iterable[str], data: Path, count: int, threads: int) -> dict[str, float]:
    backbone = open_backbone("clip-vit-b-16", taps=tuple(taps), threads=threads, engine=ENGINES[engine].name)
    crops = np.random.default_rng(0).integers(0, 256, (default_batch(), 224, 224, 3), dtype=np.uint8)
    backbone.embed(crops)
    clock, turns = Clock(), max(1, count // len(crops))
    for _ in range(turns):
        backbone.embed(crops)
    return clock.lap(turns * len(crops)) | peak()


def parity(data: Path, count: int, threads: int) -> Any:
    """The images by other batches, other threads and every engine that is here, against the default."""
    refs = refs_of(data, count)
    vectors, scores, verdicts = judgements(load(threads=threads), refs)
    out: dict[str, Any] = {
        "scores": {"smallest": float(scores.min()), "largest": float(scores.max()), "n": len(scores)}
    }
    others: dict[str, Callable[[], Judgements]] = {
        "batch of 1": lambda: judgements(load(threads=threads), refs, batch_size=1),
        "1 thread, batch of 5": lambda: judgements(load(threads=1), refs, batch_size=5),
        "cpu-int8, batch of 1": lambda: judgements(load(threads=threads, engine="cpu-int8"), refs, batch_size=1),
    }
    others |= {name: partial(judged_by, name, threads, refs) for name in ("openvino", "cpu-int8", "openvino-bf16")}
    for name, other in others.items():
        theirs = other()
        out[name] = {
            "largest_difference": float(np.abs(theirs[1] - scores).max()),
            "cosine_at_least": round(1 - cosine_loss(theirs[0], vectors), 7),
            "other_verdicts": sum(a != b for a, b in zip(theirs[2], verdicts, strict=True)),
        }
    return out


Judgements = tuple[FloatArray, FloatArray, list[str]]
"""Vectors `(N, D)`, scores `(N,)`, verdicts."""


def judged_by(engine: str, threads: int, refs: list[ImageRef]) -> Judgements:
    """See `judgements`, by the default detector on an engine."""
    return judgements(load(threads=threads, engine=engine), refs)


def judgements(detector: Detector, refs: list[ImageRef], **options: int) -> Judgements:
    """What a detector makes of images, and the vectors by which it does."""
    batches = list(embed_images(detector.backbone, detector.view, refs, **options))  # type: ignore[arg-type]
    verdicts = [v for batch in batches for v in detector.judge(batch)]
    vectors = np.concatenate([batch.embeddings.vectors for batch in batches])
    return vectors, np.array([v.score for v in verdicts]), [str(v.verdict) for v in verdicts]


def roofline(data: Path, count: int, threads: int) -> Any:
    """This machine's matrix-product peak with the encoder's shapes, and bytes a second from memory."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    n, width, inner = default_batch() * 197, 768, 3072
    weights = np.zeros((width, inner), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [n, inner])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((n, width), dtype=np.float32)
    best = min(timed(lambda: session.run(None, {"x": x})) for _ in range(20))
    big = np.ones(64 << 20, np.float32)
    copied = min(timed(big.copy) for _ in range(5))
    return {
        "gemm_gflops": round(2 * n * width * inner / best / 1e9, 1),
        "copy_gb_per_second": round(2 * big.nbytes / copied / 1e9, 1),
        "full_pass_gflop": FULL_PASS_GFLOP,
        "weights_mb": round(86e6 * 4 / 1e6),
    }


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def torch_loop(data: Path, count: int, threads: int) -> Any:
    """The same full pass in plain PyTorch: decode, crop, normalise, encode, one image list after another."""
    from _torch_clip import encoder

    refs = refs_of(data, count)
    model = encoder(threads)
    spec = load_spec()

    def batch(part: list[ImageRef]) -> Any:
        from univfd.views import view

        cut = view("resize").cut
        return spec.normalise(np.concatenate([cut(decode(r).pixels, spec).pixels for r in part]))

    model(batch(refs[:WARM]))
    clock, start, first = Clock(), time.perf_counter(), 0.0
    for part in pieces(refs, TORCH_BATCH):
        model(batch(part))
        first = first or time.perf_counter() - start
    return clock.lap(count) | {"first_result_seconds": round(first, 3)} | peak()


def torch_official(data: Path, count: int, threads: int) -> Any:
    """The official repository's evaluation on a CPU: centre crop, batches, whole encoder, linear layer, sigmoid.

    Its data loader converts each whole picture, crops and makes tensors; its model is the whole encoder and one layer.
    """
    import torch
    from PIL import Image

    from _torch_clip import encoder

    refs, model, spec = refs_of(data, count), encoder(threads), load_spec()
    head = torch.nn.Linear(512, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))

    def item(ref: ImageRef) -> Any:
        image = Image.open(Path(ref.name)).convert("RGB")
        left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
        crop = image.crop((left, top, left + 224, top + 224))  # black where it is smaller, as there
        tensor = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float().div(255)
        return (tensor - mean) / std

    predicted: list[float] = []
    clock, start, first = Clock(), time.perf_counter(), 0.0
    with torch.no_grad():
        for part in pieces(refs, TORCH_BATCH):
            features = torch.from_numpy(model(torch.stack([item(r) for r in part]).numpy()))
            predicted.extend(head(features).sigmoid().flatten().tolist())
            first = first or time.perf_counter() - start
    assert len(predicted) == count
    return clock.lap(count) | {"first_result_seconds": round(first, 3)} | peak()


def load_spec() -> Any:
    from univfd.catalogue import entry

    return entry("clip-vit-b-16").preprocess


def pieces(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


WAYS: dict[str, Callable[[Path, int, int], Any]] = {
    "stages": stages,
    "line": line,
    "narrow-streams": narrow_streams,
    "process-per-core": process_per_core,
    "full-pass": full_pass,
    "engines": engines,
    "parity": parity,
    "roofline": roofline,
    "torch-loop": torch_loop,
    "torch-official": torch_official,
    "share": share,
}


if __name__ == "__main__":
    main()
