"""Compute the last block for the class token alone, where nobody reads its other tokens.

Attention mixes the tokens; all else in a block treats each by itself. So of the last block the class token needs the
attention's output and what comes behind it for itself only, and the attention needs one query (`_one_query`). The
result is the same up to rounding.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from ._one_query import Reader, Shape, attribute, of_first_token

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Sigmoid", "Tanh", "Erf", "Relu"}
_STARTS, _ENDS = "univfd.first.starts", "univfd.first.ends"  # the axis is 1, like the end


def only_first_token(model: onnx.ModelProto, block: str) -> None:
    """Narrow the tensor `block`, `(N, T, W)`, to its first token, `(N, 1, W)`, in place.

    Nothing changes unless all that reads the tensor is `Gather` of its first token.
    """
    graph = model.graph
    readers = [n for n in graph.node if block in n.input]
    if not readers or block in {o.name for o in graph.output} or not all(_takes_first(graph, n) for n in readers):
        return
    narrowed = _Narrowing(model, block)
    first = narrowed.first(block)
    for node in readers:
        node.input[0] = first
    at = min(i for i, n in enumerate(graph.node) if n in readers)
    nodes = [*graph.node[:at], *narrowed.nodes, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(nodes)
    known = {i.name for i in graph.initializer}
    graph.initializer.extend(c for c in narrowed.constants if c.name not in known)


class _Narrowing:
    """Nodes that compute the first token of a block and of tensors `(N, T, W)` inside it."""

    def __init__(self, model: onnx.ModelProto, block: str) -> None:
        self._block = block
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        shape: dict[str, Shape] = {
            v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in inferred.value_info
        }
        constant = constants_of(model.graph)
        self._rank = {name: len(dims) for name, dims in shape.items()}
        self._constant = {name: tuple(c.dims) for name, c in constant.items()}
        self._maker = {o: n for n in model.graph.node for o in n.output}
        self._attentions = Reader(self._maker, constant, shape)
        self._done: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants = [
            helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value]) for name, value in ((_STARTS, 0), (_ENDS, 1))
        ]

    def first(self, tensor: str) -> str:
        """The name of the tensor's first token."""
        if tensor not in self._done:
            made = f"{tensor}.of.{self._block}.first"
            node = self._maker[tensor]
            # The block before is computed in full in any case.
            inputs = None if tensor.startswith("block.") and tensor != self._block else self._narrowed_inputs(node)
            if inputs is not None:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.name = made
                copy.input[:], copy.output[:] = inputs, [made]
                self.nodes.append(copy)
            elif (found := self._attentions.attention(tensor)) is not None:
                nodes, constants = of_first_token(found, self.first(found.query.tokens), made)
                self.nodes.extend(nodes)
                self.constants.extend(constants)
            else:
                self.nodes.append(helper.make_node("Slice", [tensor, _STARTS, _ENDS, _ENDS], [made]))
            self._done[tensor] = made
        return self._done[tensor]

    def _narrowed_inputs(self, node: onnx.NodeProto) -> list[str] | None:
        """What the node reads where it computes one token; None if it does not treat each token by itself."""
        by_token, others = self._parts(node)
        if not by_token or any(self._rank.get(t) != 3 for t in by_token):
            return None
        if any(t not in self._constant for t in others):
            return None
        return [self.first(t) if t in by_token else t for t in node.input]

    def _parts(self, node: onnx.NodeProto) -> tuple[list[str], list[str]]:
        """The node's inputs that have tokens, and those that should be constants; none of the first if in doubt."""
        inputs = list(node.input)
        if node.op_type in _ELEMENTWISE:
            constants = [t for t in inputs if t in self._constant]
            if all(len(self._constant[t]) < 2 or self._constant[t][-2] == 1 for t in constants):
                return [t for t in inputs if t not in self._constant], constants
        if node.op_type == "MatMul" and len(self._constant.get(inputs[1], ())) == 2:
            return inputs[:1], inputs[1:]
        if node.op_type == "LayerNormalization" and attribute(node, "axis", -1) in {-1, 2}:
            return inputs[:1], inputs[1:]
        if node.op_type == "ReduceMean" and len(inputs) == 1 and attribute(node, "axes", None) in ([-1], [2]):
            return (inputs, []) if attribute(node, "keepdims", 1) else ([], [])
        return [], []


def _takes_first(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Does the node gather index 0 of axis 1?"""
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 1:
        return False
    index = constants_of(graph).get(node.input[1])
    return index is not None and numpy_helper.to_array(index).tolist() in (0, [0])


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph by name, wherever they stand."""
    made = {n.output[0]: a.t for n in graph.node for a in n.attribute if n.op_type == "Constant" and a.name == "value"}
    return made | {i.name: i for i in graph.initializer}
