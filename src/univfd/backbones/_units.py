"""The units of a block's MLP: what its second layer reads.

`mlp.b` is the class token's. They are not linear in the tokens, and a linear layer on them is one of their own MLP.
"""

from __future__ import annotations

import onnx

from ..errors import FormatError
from ..types import UNITS

_WITH_CONSTANT = {"Add", "Mul"}  # a bias, and the scale of a layer


def units_of(graph: onnx.GraphProto, block: str) -> str:
    """The name of the tensor `(N, T, U)` of a block's units after their activation.

    Args:
        graph: a prepared graph.
        block: the block's output.

    Raises:
        FormatError: the block does not end in a sum one part of which is a product with a matrix of weights that makes
            a token out of four times as many units.
    """
    maker = {o: n for n in graph.node for o in n.output}
    constants = {n.output[0]: () for n in graph.node if n.op_type == "Constant"}
    constants |= {i.name: tuple(i.dims) for i in graph.initializer}

    def read_by_last_layer(tensor: str) -> str | None:
        node = maker.get(tensor)
        if node is None:
            return None
        inputs = [t for t in node.input if t not in constants]
        if node.op_type == "MatMul":
            rows, columns = (*constants.get(node.input[1], ()), 0, 0)[:2]
            return inputs[0] if list(node.input[:1]) == inputs and rows == UNITS * columns > 0 else None
        return read_by_last_layer(inputs[0]) if node.op_type in _WITH_CONSTANT and len(inputs) == 1 else None

    end = maker[block]
    found = [u for u in map(read_by_last_layer, end.input) if u is not None] if end.op_type == "Add" else []
    if len(found) != 1:
        raise FormatError(
            f"the units of an MLP cannot be told in this graph: {block} does not end in one that is {UNITS} times as "
            "wide as its tokens. Take cls"
        )
    return found[0]
