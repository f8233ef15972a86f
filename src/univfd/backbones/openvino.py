"""A prepared graph on OpenVINO (extra `openvino`), on the CPU."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from ..catalogue import Entry
from ..downloads import Progress
from ..engines import ENGINES, Engine
from ..errors import EngineError
from ..parity import Parity
from ..types import FloatArray, Pixels
from ..weights import GRAPH, WEIGHTS, ensure
from . import check_crops, square_grid
from ._kept_graph import cut_graph

log = logging.getLogger(__name__)


class OpenVinoBackbone:
    """See `univfd.backbones.Backbone`. One batch at a time: a second thread waits for the first."""

    def __init__(
        self,
        entry: Entry,
        taps: tuple[str, ...],
        threads: int,
        progress: Progress | None,
        engine: Engine = ENGINES["openvino"],
    ) -> None:
        self.entry = replace(entry, lossy=engine.lossy)
        self.taps = taps
        self.engine = engine.name
        self.parity: Parity | None = None
        self._folder = ensure(entry, progress=progress)
        self._config = {**engine.options, "INFERENCE_NUM_THREADS": str(threads)}
        self._lock = threading.Lock()
        self._request = self._open(taps)
        self._patch_requests: dict[int, Any] = {}

    def _open(self, taps: tuple[str, ...]) -> Any:
        """A request of the graph that ends behind the taps. OpenVINO finds weights only beside a graph on disk."""
        try:
            graph = cut_graph(self._folder, taps, self.entry.prefix, self.entry.preprocess.size)
            with _beside(self._folder / WEIGHTS) as scratch:
                (scratch / GRAPH).write_bytes(graph)
                core = openvino.Core()
                _warn_of_no_bfloat16(core, self.engine, self._config)
                model = core.read_model(scratch / GRAPH)
                return core.compile_model(model, "CPU", self._config).create_infer_request()
        except Exception as error:
            # OpenVINO raises RuntimeError for all that can go wrong, and protobuf types of its own.
            raise EngineError(
                f"engine {self.engine!r} cannot open {self.entry.name} ({str(error)[:200]}). Take another (cpu)"
            ) from error

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, D)` float32, see `univfd.backbones.Backbone.embed`."""
        check_crops(crops, self.entry)
        return self.embed_normalised(self.entry.preprocess.normalise(crops))

    def embed_normalised(self, inputs: FloatArray) -> FloatArray:
        """`(N, 3, S, S)` float32, already normalised -> `(N, D)` float32. For parity checks; else use `embed`."""
        with self._lock:
            outputs = self._request.infer({"pixels": inputs})
            values = [outputs[tap] for tap in self.taps]
            return np.ascontiguousarray(np.concatenate(values, axis=1), dtype=np.float32)

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, g, g, W)` float32, see `univfd.backbones.PatchBackbone.patch_tokens`."""
        check_crops(crops, self.entry)
        self.entry.tap_dim(f"mean.{block}")
        with self._lock:
            if block not in self._patch_requests:
                self._patch_requests[block] = self._open((f"patches.{block}",))
            outputs = self._patch_requests[block].infer({"pixels": self.entry.preprocess.normalise(crops)})
            return square_grid(np.array(outputs[0]), self.entry)


def _warn_of_no_bfloat16(core: openvino.Core, engine: str, config: dict[str, str]) -> None:
    """OpenVINO takes float32 silently where the CPU has no bfloat16."""
    if config["INFERENCE_PRECISION_HINT"] == "bf16" and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        log.warning(
            "this CPU computes no bfloat16: engine %s is no faster here than openvino, and counts as lossy", engine
        )


@contextmanager
def _beside(weights: Path) -> Iterator[Path]:
    """A folder for a graph, with its weights in it. They are linked (OpenVINO follows no symbolic links) or copied."""
    real = weights.resolve()
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix=f".tmp-{real.parent.name}-", dir=real.parent.parent)
            scratch = Path(stack.enter_context(made))
            (scratch / weights.name).hardlink_to(real)
        except OSError:  # a read-only cache, or a file system without links
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shutil.copyfile(real, scratch / weights.name)
        yield scratch


PLUGIN = OpenVinoBackbone
