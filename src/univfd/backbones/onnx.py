"""The default engine: a prepared graph on ONNX Runtime, cut after the last tap that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from ..catalogue import Entry
from ..downloads import Progress, home
from ..engines import CPU, Engine, provider_list
from ..errors import ChecksumError, EngineError
from ..parity import Parity
from ..types import FloatArray, Pixels
from ..weights import GRAPH, ensure
from . import check_crops, square_grid
from ._first_token import only_first_token

_INT64_MAX = np.iinfo(np.int64).max
_AXES_ARE_INPUTS = 18  # opset from which ReduceMean takes its axes as a tensor


class OnnxBackbone:
    """See `univfd.backbones.Backbone`."""

    def __init__(
        self, entry: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None, engine: Engine = CPU
    ) -> None:
        self.entry = replace(entry, lossy=engine.lossy)
        self.taps = taps
        self.engine = engine.name
        self.parity: Parity | None = None
        self._engine = engine
        self._folder = ensure(entry, progress=progress)
        self._threads = threads
        self._session = self._open(taps)
        self._patch_sessions: dict[int, onnxruntime.InferenceSession] = {}

    def _open(self, taps: tuple[str, ...]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.enable_mem_pattern = self._engine.name != "directml"  # which cannot work with it
        # Idle encoder threads that spin would take the CPU from the decoding threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        try:
            graph = cut(self._folder / GRAPH, taps, self.entry.prefix)
            session = onnxruntime.InferenceSession(
                graph, options, providers=provider_list(self._engine, home() / "engines")
            )
        except Exception as error:
            # Protobuf and ONNX Runtime raise types of their own on a damaged file.
            if self._engine is not CPU:
                raise EngineError(f"engine {self.engine!r} does not start ({str(error)[:200]}). Take cpu") from error
            raise ChecksumError(
                f"the prepared graph of {self.entry.name} cannot be opened ({str(error)[:200]}). Run 'univfd models "
                f"verify {self.entry.name}'; if it fails, delete {self._folder} and fetch it again"
            ) from error
        if session.get_providers()[0] != self._engine.provider:  # ONNX Runtime turns to the CPU without an error
            raise EngineError(
                f"engine {self.engine!r} does not start: ONNX Runtime has {self._engine.provider}, but it found no "
                f"device or library for it. It needs: {self._engine.install}"
            )
        return session

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, D)` float32, see `univfd.backbones.Backbone.embed`."""
        check_crops(crops, self.entry)
        return self.embed_normalised(self.entry.preprocess.normalise(crops))

    def embed_normalised(self, inputs: FloatArray) -> FloatArray:
        """`(N, 3, S, S)` float32, already normalised -> `(N, D)` float32. For parity checks; else use `embed`."""
        outputs = self._session.run(list(self.taps), {"pixels": inputs})
        return np.ascontiguousarray(np.concatenate(outputs, axis=1), dtype=np.float32)

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, g, g, W)` float32, see `univfd.backbones.PatchBackbone.patch_tokens`.

        The graph that ends behind the block is opened at the first call and kept.
        """
        check_crops(crops, self.entry)
        self.entry.tap_dim(f"mean.{block}")
        if block not in self._patch_sessions:
            self._patch_sessions[block] = self._open((f"patches.{block}",))
        (tokens,) = self._patch_sessions[block].run(None, {"pixels": self.entry.preprocess.normalise(crops)})
        return square_grid(tokens, self.entry)


def cut(path: Path, taps: tuple[str, ...], prefix: int) -> bytes:
    """The serialised graph that computes the taps and nothing after the last of them.

    Args:
        path: a prepared graph (see `univfd.recipes`); its weights stay in their own file.
        taps: names as in `univfd.backbones.open_backbone`, or `patches.i`: the patch tokens `(N, T, W)` after block i.
        prefix: tokens before the patch tokens.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    for name in dict.fromkeys(taps):
        kind, _, block = name.partition(".")
        if kind == "cls":
            graph.node.append(helper.make_node("Gather", [f"block.{block}", _ints(graph, 0)], [name], axis=1))
        elif kind in {"mean", "patches"}:
            patches = f"patches.{block}" if kind == "patches" else f"patches.{block}.of.mean"
            bounds = [_ints(graph, prefix, vector=True), _ints(graph, _INT64_MAX, vector=True)]
            axis = _ints(graph, 1, vector=True)
            graph.node.append(helper.make_node("Slice", [f"block.{block}", *bounds, axis], [patches]))
            if kind == "mean":
                graph.node.append(_mean(graph, patches, name, opset))
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in dict.fromkeys(taps))
    _prune(graph)
    only_first_token(model, f"block.{_last_block(graph)}")
    _prune(graph)
    return bytes(model.SerializeToString())


def _last_block(graph: onnx.GraphProto) -> int:
    """The last block that is computed."""
    made = {o for n in graph.node for o in n.output}
    return max((int(t.removeprefix("block.")) for t in made if t.startswith("block.")), default=0)


def _mean(graph: onnx.GraphProto, tokens: str, name: str, opset: int) -> onnx.NodeProto:
    if opset < _AXES_ARE_INPUTS:
        return helper.make_node("ReduceMean", [tokens], [name], axes=[1], keepdims=0)
    return helper.make_node("ReduceMean", [tokens, _ints(graph, 1, vector=True)], [name], keepdims=0)


def _ints(graph: onnx.GraphProto, value: int, *, vector: bool = False) -> str:
    name = f"univfd.{'v' if vector else 's'}{value}"
    if all(i.name != name for i in graph.initializer):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1] if vector else [], [value]))
    return name


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Tensors that a node needs, those of the branches and loop bodies inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (o.name for o in attribute.g.output)


def _prune(graph: onnx.GraphProto) -> None:
    """Drop what no output needs."""
    needed = {o.name for o in graph.output}
    nodes = []
    for node in reversed(graph.node):  # a graph's nodes stand in topological order
        if needed.intersection(node.output):
            needed.update(_reads(node))
            nodes.append(node)
    kept = [i for i in graph.initializer if i.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)


PLUGIN = OnnxBackbone
