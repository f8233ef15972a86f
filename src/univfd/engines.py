"""What computes a prepared graph: engines by name, which of them are here, and which `auto` takes.

`cpu` is ONNX Runtime in float32, the reference: scores are equal to 1e-5 whatever the batch and the threads. The others
must pass the gate (`univfd.parity`) on the machine that they run on. Those in float32 round elsewhere, and share the
reference's feature space. One that is lossy by design has its own; a detector made in float32 may judge its vectors,
but its bank does not take them in.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import registry
from .errors import MissingExtraError
from .parity import FLOAT32_COSINE, LOSSY_COSINE

log = logging.getLogger(__name__)

AUTO, DEFAULT = "auto", "cpu"
VARIABLE = "UNIVFD_ENGINE"
_GPU = "remove onnxruntime, then pip install onnxruntime-gpu"


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to compute a prepared graph.

    Attributes:
        name: what the user says.
        install: how it gets onto a machine.
        file: in the registry `backbones`.
        provider: ONNX Runtime's execution provider; empty for another library.
        options: of the provider (`{cache}`: the folder for what it compiles), or of the other library.
        below: providers that take what this one cannot compute, before the CPU does.
        cosine: least accepted cosine to the reference, on fixed inputs.
        lossy: names the loss, where there is one by design: part of the feature space, so another way to lose has
            another name. Empty: float32.
    """

    name: str
    install: str
    file: str = "onnx"
    provider: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    below: tuple[str, ...] = ()
    cosine: float = FLOAT32_COSINE
    lossy: str = ""


_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
_TENSORRT_OPTIONS = {
    "trt_fp16_enable": "0", "trt_bf16_enable": "0", "trt_int8_enable": "0", "trt_engine_cache_enable": "1",
    "trt_engine_cache_path": "{cache}",
}  # fmt: skip
_OPENVINO_OPTIONS = {"NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO"}

CPU = Engine("cpu", "it comes with univfd", provider="CPUExecutionProvider")
ENGINES = {
    engine.name: engine
    for engine in (
        CPU,
        Engine("cpu-int8", "it comes with univfd", file="int8", provider="CPUExecutionProvider", cosine=LOSSY_COSINE,
               lossy="int8"),
        Engine("cuda", f"an NVIDIA GPU with CUDA and cuDNN; {_GPU}", provider="CUDAExecutionProvider",
               options=_CUDA_OPTIONS),
        Engine("tensorrt", f"an NVIDIA GPU with TensorRT; {_GPU} and tensorrt", provider="TensorrtExecutionProvider",
               options=_TENSORRT_OPTIONS, below=("CUDAExecutionProvider",)),
        Engine("coreml", "macOS, whose onnxruntime has it", provider="CoreMLExecutionProvider",
               # the neural engine computes in float16
               options={"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}),
        Engine("directml", "Windows; remove onnxruntime, then pip install onnxruntime-directml",
               provider="DmlExecutionProvider"),
        Engine("openvino", "pip install 'univfd[openvino]'", file="openvino",
               options={**_OPENVINO_OPTIONS, "INFERENCE_PRECISION_HINT": "f32"}),
        Engine("openvino-bf16", "a CPU with bfloat16; pip install 'univfd[openvino]'", file="openvino",
               options={**_OPENVINO_OPTIONS, "INFERENCE_PRECISION_HINT": "bf16"}, cosine=LOSSY_COSINE, lossy="bf16"),
        Engine("cuda-tf32", f"an NVIDIA GPU with CUDA and cuDNN; {_GPU}", provider="CUDAExecutionProvider",
               options={**_CUDA_OPTIONS, "use_tf32": "1"}, cosine=LOSSY_COSINE, lossy="tf32"),
        Engine("tensorrt-fp16", f"an NVIDIA GPU with TensorRT; {_GPU} and tensorrt",
               provider="TensorrtExecutionProvider", options={**_TENSORRT_OPTIONS, "trt_fp16_enable": "1"},
               below=("CUDAExecutionProvider",), cosine=LOSSY_COSINE, lossy="fp16"),
    )
}  # fmt: skip
_AUTO = ("cuda", "directml", "coreml", "cpu")
"""Tried in this order. TensorRT compiles for minutes before the first image, and OpenVINO for seconds: by name only."""


def asked(engine: str | None) -> str:
    """The engine that is meant: the argument, else `UNIVFD_ENGINE`, else `cpu`."""
    return engine or os.environ.get(VARIABLE) or DEFAULT


def candidates(name: str, providers: Collection[str], has_library: Callable[[str], bool]) -> list[Engine]:
    """The engines to try, best first: one where it is named.

    Args:
        name: of an engine, or `auto`.
        providers: ONNX Runtime's execution providers on this machine.
        has_library: whether a library is installed.

    Raises:
        UnknownNameError: no such engine.
        MissingExtraError: a named engine that is not here; says what to install.
    """

    def is_here(engine: Engine) -> bool:
        return engine.provider in providers if engine.provider else has_library(engine.file)

    if name == AUTO:
        return [ENGINES[n] for n in _AUTO if is_here(ENGINES[n])]
    if name not in ENGINES:
        raise registry.unknown("engine", name, [AUTO, *ENGINES])
    if not is_here(ENGINES[name]):
        here = ", ".join(n for n, engine in ENGINES.items() if is_here(engine))
        raise MissingExtraError(f"engine {name!r} is not on this machine; it needs: {ENGINES[name].install}. "
                                f"Here are: {here}")  # fmt: skip
    return [ENGINES[name]]


def provider_list(engine: Engine, cache: Path) -> list[tuple[str, dict[str, str]]]:
    """What ONNX Runtime takes as `providers`: the engine's own first, the CPU last.

    Args:
        engine: one of ONNX Runtime's.
        cache: folder for what a provider compiles.
    """
    options = {engine.provider: {name: value.format(cache=cache) for name, value in engine.options.items()}}
    options |= {provider: dict(_CUDA_OPTIONS) for provider in engine.below}
    return list((options | {CPU.provider: {}}).items())
