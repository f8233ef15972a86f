"""A dynamically quantised ONNX graph -> float32 products with its own, dequantised, weights.

ONNX Runtime's dynamic quantisation turns every matrix product into DynamicQuantizeLinear, MatMulInteger, Cast and Mul.
The activations' 8 bits are chosen per batch, and signed 8-bit weights saturate the 16-bit sums of CPUs without VNNI:
the result depends on the batch and on the machine. The weights themselves (int8, one scale per output channel) are
fine, so each such group becomes one MatMul with the weight `(W - zero point) * scale`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..catalogue import Entry
from ..errors import FormatError
from ._graph import rename, save


def dequantise(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. `recipe_options`: names of the input, the projection and the blocks; products to be replaced.

    Raises:
        FormatError: the graph is not the one that the entry describes, or its `recipe_options` are not what is needed.
    """
    try:
        model = _dequantised(published, entry)
    except FormatError:
        raise
    except Exception as error:  # of protobuf too, whose own type differs between its versions
        said = f"{type(error).__name__}: {error}"
        raise FormatError(f"{entry.name}: {published.name} and recipe_options do not go together ({said})") from error
    save(model, out)


def _dequantised(published: Path, entry: Entry) -> onnx.ModelProto:
    options = entry.recipe_options
    model = onnx.load(str(published))
    graph = model.graph
    replaced = _replace_products(graph)
    if replaced != options["quantised"]:
        raise FormatError(f"{entry.name}: {replaced} quantised products; expected {options['quantised']}")
    blocks = {options["block"].format(i=i): f"block.{i + 1}" for i in range(entry.blocks - 1)}
    blocks[options["last_block"]] = f"block.{entry.blocks}"
    names = {options["input"]: "pixels", options["proj"]: "proj"} | blocks
    if lacking := sorted(names.keys() - {t.name for t in graph.input} - {o for n in graph.node for o in n.output}):
        raise FormatError(f"{entry.name}: {published.name} has no tensors {', '.join(lacking[:3])}")
    rename(graph, names)
    output = next((o for o in graph.output if o.name == "proj"), None)
    if output is None:
        raise FormatError(f"{entry.name}: {published.name} has no output {options['proj']!r}")
    del graph.output[:]
    graph.output.append(output)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def _replace_products(graph: onnx.GraphProto) -> int:
    """Replace every quantised product by a float32 one, in place; their number."""
    constants = {i.name: i for i in graph.initializer}
    maker = {o: n for n in graph.node for o in n.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for tensor in node.input:
            users.setdefault(tensor, []).append(node)

    replacement: dict[str, onnx.NodeProto] = {}  # output of the group's last node -> the new product
    gone: set[str] = set()  # outputs of the nodes that go
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        _, weight, zero_of_activation, zero = node.input
        quantise = maker[zero_of_activation]
        cast = users[node.output[0]][0]
        rescale = users[cast.output[0]][0]
        scales = maker[next(t for t in rescale.input if t != cast.output[0])]
        scale = next(t for t in scales.input if t in constants)

        values = numpy_helper.to_array(constants[weight]).astype(np.float32)
        values -= numpy_helper.to_array(constants[zero]).astype(np.float32)
        values *= numpy_helper.to_array(constants[scale])
        name = weight.removesuffix("_quantized")
        graph.initializer.append(numpy_helper.from_array(values, name))
        result = rescale.output[0]
        replacement[result] = helper.make_node("MatMul", [quantise.input[0], name], [result], name=node.name)
        gone.update(o for n in (quantise, node, cast, scales) for o in n.output)

    nodes = [replacement.get(n.output[0], n) for n in graph.node if n.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {t for n in nodes for t in n.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return len(replacement)


PLUGIN = dequantise
