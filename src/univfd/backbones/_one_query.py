"""The attention of one query, which needs neither keys nor values of the tokens.

`q (x K)` is `(q K) x`, a product for each head in place of one for each token, and a mean of values is the value of a
mean. A key's bias adds the same to all scores of a head, which the softmax does not see. So the result is the same up
to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_SPLIT, _SPLIT_KEYS = [0, 2, 1, 3], [0, 2, 3, 1]  # `(N, T, H, C)` to `(N, H, T, C)` and `(N, H, C, T)`


Shape = list[int | str]
"""Length of each axis; where it is open, its symbol."""


@dataclass(frozen=True, slots=True)
class Projection:
    """`scale (tokens weight + bias)`: tokens `(N, T, W)`, weight `(W, H C)`, bias `(H C)` or ""; split: N, T, H, C."""

    tokens: str
    weight: str
    bias: str
    scale: float
    split: Shape


@dataclass(frozen=True, slots=True)
class Attention:
    """Self-attention of H heads with C values each, up to its output `(N, T, H C)`."""

    query: Projection
    key: Projection
    value: Projection
    heads: int
    size: int
    width: int


class _OtherFormError(Exception):
    """The graph is not written as expected."""


class Reader:
    """Finds attention in a graph.

    Args:
        maker: node by output.
        constant: constants by name; of those that lie in a file of their own, dimensions.
        shape: of the other tensors.
    """

    def __init__(
        self,
        maker: Mapping[str, onnx.NodeProto],
        constant: Mapping[str, onnx.TensorProto],
        shape: Mapping[str, Shape],
    ) -> None:
        self._maker, self._constant, self._shape = maker, constant, shape

    def attention(self, output: str) -> Attention | None:
        """The attention that ends in this tensor; None where it has another form than CLIP's and the builder's."""
        try:
            return self._read(output)
        except _OtherFormError:
            return None

    def _read(self, output: str) -> Attention:
        joined, joined_shape = self._made(output, "Reshape"), self._shape.get(output, [])
        mixed = self._made(self._made(joined.input[0], "Transpose", perm=_SPLIT).input[0], "MatMul")
        softmax = self._made(mixed.input[0], "Softmax")
        scores = self._made(softmax.input[0], "MatMul")
        query, key = self._projection(scores.input[0], _SPLIT), self._projection(scores.input[1], _SPLIT_KEYS)
        value = self._projection(mixed.input[1], _SPLIT)
        weights = {tuple(self._dims(p.weight)) for p in (query, key, value)}
        tokens = self._shape.get(query.tokens, [])
        if attribute(softmax, "axis", None) not in {-1, 3} or len(weights) != 1 or len(tokens) != 3:
            raise _OtherFormError
        if (
            len({p.tokens for p in (query, key, value)}) != 1
            or len({tuple(p.split[2:]) for p in (query, key, value)}) != 1
        ):
            raise _OtherFormError
        ((width, across),), (heads, size) = weights, query.split[2:]
        if not isinstance(heads, int) or not isinstance(size, int) or heads * size != across:
            raise _OtherFormError
        # Split and joined, tokens must stay together as they came: else it is attention in windows, or over pictures.
        if not all(_same_tokens(shape, tokens) for shape in (query.split, key.split, value.split, joined_shape)):
            raise _OtherFormError
        return Attention(query, key, value, heads=heads, size=size, width=width)

    def _made(self, tensor: str, operator: str, **attributes: object) -> onnx.NodeProto:
        node = self._maker.get(tensor)
        if node is None or node.op_type != operator:
            raise _OtherFormError
        if any(attribute(node, name, None) != value for name, value in attributes.items()):
            raise _OtherFormError
        return node

    def _projection(self, tensor: str, perm: list[int]) -> Projection:
        tensor, before = self._scaled(tensor)
        transposed = self._made(tensor, "Transpose", perm=perm).input[0]
        split = self._shape.get(transposed, [])
        if len(split) != len(perm):
            raise _OtherFormError
        tensor, behind = self._scaled(self._made(transposed, "Reshape").input[0])
        bias = ""
        added = self._maker.get(tensor)
        if added is not None and added.op_type == "Add":
            bias, tensor = self._constant_and_other(added)
        product = self._made(tensor, "MatMul")
        tokens, weight = product.input
        if len(self._dims(weight)) != 2 or (bias and self._dims(bias) != self._dims(weight)[1:]):
            raise _OtherFormError
        return Projection(tokens, weight, bias, before * behind, split)

    def _scaled(self, tensor: str) -> tuple[str, float]:
        """What is multiplied by constant numbers, and their product."""
        scale = 1.0
        while (node := self._maker.get(tensor)) is not None and node.op_type == "Mul":
            factor, tensor = self._constant_and_other(node)
            scale *= self._scalar(factor)
        return tensor, scale

    def _constant_and_other(self, node: onnx.NodeProto) -> tuple[str, str]:
        fixed = [t for t in node.input if t in self._constant]
        others = [t for t in node.input if t not in self._constant]
        if len(fixed) != 1 or len(others) != 1:
            raise _OtherFormError
        return fixed[0], others[0]

    def _dims(self, tensor: str) -> list[int]:
        return list(self._constant[tensor].dims) if tensor in self._constant else []

    def _scalar(self, tensor: str) -> float:
        constant = self._constant[tensor]
        if constant.data_location == onnx.TensorProto.EXTERNAL or numpy_helper.to_array(constant).size != 1:
            raise _OtherFormError
        return float(numpy_helper.to_array(constant).reshape(()))


def _same_tokens(shape: Shape, tokens: Shape) -> bool:
    """Whether a tensor of as many values has the same pictures on its first axis and the same tokens on its second.

    One of both is enough, since the other axes are known.
    """
    if len(shape) < 3:
        return False
    count, pictures = tokens[1], tokens[0]
    return (isinstance(count, int) and count > 0 and shape[1] == count) or (pictures != "" and shape[0] == pictures)


def of_first_token(found: Attention, first: str, made: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes, and constants that they read, for the first token of the attention's output, `(N, 1, H C)`.

    Args:
        found: the attention.
        first: the first of its tokens, `(N, 1, W)`.
        made: name of the result.
    """
    write = _Writer(made)
    by_head = (found.width, found.heads, found.size)
    keys = write("Transpose", [write("Reshape", [found.key.weight, write.ints(*by_head)])], perm=[1, 2, 0])
    values = write("Transpose", [write("Reshape", [found.value.weight, write.ints(*by_head)])], perm=[1, 0, 2])
    query = write.scaled(write.affine(first, found.query), found.query.scale * found.key.scale)
    query = write("Reshape", [query, write.ints(-1, *by_head[1:])])
    query = write("Transpose", [query], perm=[1, 0, 2])  # (H, N, C)
    asked = write("Transpose", [write("MatMul", [query, keys])], perm=[1, 2, 0])  # (N, W, H)
    scores = write("Transpose", [write("MatMul", [found.query.tokens, asked])], perm=[0, 2, 1])  # (N, H, T)
    weights = write("Softmax", [scores], axis=-1)  # the last axis: before opset 13 those behind it were flattened
    mean = write("MatMul", [weights, found.query.tokens])  # (N, H, W)
    mixed = write("MatMul", [write("Transpose", [mean], perm=[1, 0, 2]), values])  # (H, N, C)
    mixed = write("Transpose", [mixed], perm=[1, 0, 2])
    joined = write("Reshape", [mixed, write.ints(-1, 1, found.heads * found.size)])
    biased = write("Add", [joined, found.value.bias]) if found.value.bias else joined
    write.scaled(biased, found.value.scale, made)
    return write.nodes, write.constants


class _Writer:
    """Adds nodes whose names start alike."""

    def __init__(self, made: str) -> None:
        self._made = made
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        result = name or f"{self._made}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [result], name=result, **attributes))
        return result

    def affine(self, tokens: str, projection: Projection) -> str:
        product = self("MatMul", [tokens, projection.weight])
        return self("Add", [product, projection.bias]) if projection.bias else product

    def scaled(self, tensor: str, factor: float, name: str = "") -> str:
        return self("Mul", [tensor, self._constant(np.array(factor, np.float32))], name)

    def ints(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"{self._made}.c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """A node's attribute as a Python value."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
