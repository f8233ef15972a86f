"""Cut a prepared graph after the last tap that is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ._first_token import only_first_token
from ._held import hold
from ._reads import tensors_read
from ._units import units_of

_BLOCK = re.compile(r"block\.\d+(@\d+)?")
_INT64_MAX = np.iinfo(np.int64).max
_AXES_ARE_INPUTS = 18  # opset from which ReduceMean takes its axes as a tensor


def cut(path: Path, taps: tuple[str, ...], prefix: int, *, narrow: bool = True) -> bytes:
    """The serialised graph that computes the taps and nothing after the last of them.

    Args:
        path: a prepared graph (see `univfd.recipes`); its weights stay in their own file.
        taps: names as in `univfd.backbones.open_backbone`, or `patches.i`: the patch tokens `(N, T, W)` after block i.
        prefix: tokens before the patch tokens.
        narrow: compute for the class token alone what nobody reads of the others, see `only_first_token`.

    Raises:
        FormatError: a tap with `@` of a graph whose blocks do not follow from one another alone; a tap `mlp.b` of one
            whose blocks do not end in the two layers of an MLP.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    pixels = [i for i in graph.input if i.name not in constants]  # old exports list constants among the inputs
    del graph.input[:]
    graph.input.extend(pixels)
    opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    units = set()
    for name in dict.fromkeys(taps):
        kind, _, block = name.partition(".")
        if kind in {"cls", "mlp"}:
            tokens = _held(graph, *map(int, block.split("@"))) if "@" in block else f"block.{block}"
            if kind == "mlp":
                tokens = units_of(graph, tokens)
                units.add(tokens)
            graph.node.append(helper.make_node("Gather", [tokens, _ints(graph, 0)], [name], axis=1))
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
    # From the last to the first: what reads units besides a tap is gone once their block is narrowed.
    for tokens in [o for n in reversed(graph.node) for o in n.output if narrow and (_BLOCK.fullmatch(o) or o in units)]:
        only_first_token(model, tokens)
        _prune(graph)
    return bytes(model.SerializeToString())


def _held(graph: onnx.GraphProto, block: int, held: int) -> str:
    one = _ints(graph, 1, vector=True)
    return hold(graph, block, held, _ints(graph, 0, vector=True), (one, _ints(graph, _INT64_MAX, vector=True), one))


def _mean(graph: onnx.GraphProto, tokens: str, name: str, opset: int) -> onnx.NodeProto:
    if opset < _AXES_ARE_INPUTS:
        return helper.make_node("ReduceMean", [tokens], [name], axes=[1], keepdims=0)
    return helper.make_node("ReduceMean", [tokens, _ints(graph, 1, vector=True)], [name], keepdims=0)


def _ints(graph: onnx.GraphProto, value: int, *, vector: bool = False) -> str:
    name = f"univfd.{'v' if vector else 's'}{value}"
    if all(i.name != name for i in graph.initializer):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1] if vector else [], [value]))
    return name


def _prune(graph: onnx.GraphProto) -> None:
    """Drop what no output needs."""
    needed = {o.name for o in graph.output}
    nodes = []
    for node in reversed(graph.node):  # a graph's nodes stand in topological order
        if needed.intersection(node.output):
            needed.update(tensors_read(node))
            nodes.append(node)
    kept = [i for i in graph.initializer if i.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)
