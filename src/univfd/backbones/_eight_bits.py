"""A cut graph whose large matrix products are of 8-bit integers.

Weights: int8, one scale per output channel. Activations: uint8, one scale per token, taken from that token alone; a
batch changes a crop only where float32 in between rounds otherwise and a value falls on the next step. A few channels
are far larger than the others in every picture and would leave those a few steps of 255; they are split into equal
parts, which the product adds up again (outlier channel splitting, Zhao et al., ICML 2019). In the first block, whose
errors all others pass on, what rounding leaves goes through a second product of 8 bits. Sums of integers are exact.
Products for the class token alone stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..types import FloatArray
from ..weights import values_of
from ._first_token import constants_of
from ._reads import tensors_read

_PARTS = 32  # columns that a product gets for channels that are split
_UINT8, _INT8, _MIDDLE = 255, 127, 128  # the largest values, and what 0 becomes where signed ones become unsigned
_LEAST = np.float32(1e-12)  # scale of a token that is all zeros
_FINE_BLOCKS = 1  # the first, whose activations go through two products
_FINE = 254  # parts of a step, in the second product
_EVERY = 8  # of the tokens that show where the zero point should lie
_DOMAIN = "com.microsoft"
_AXES_ARE_INPUTS = 18  # opset from which ReduceMax takes its axes as a tensor


@dataclass(frozen=True)
class _Quantisation:
    """How a tensor of tokens becomes integers.

    Attributes:
        parts: `(K,)`, into how many each channel is split.
        zero_point: the integer that 0 becomes; less than the middle for values that are hardly negative.
    """

    parts: NDArray[np.int64]
    zero_point: int

    @classmethod
    def of(cls, largest: FloatArray, rows: FloatArray) -> _Quantisation:
        """From the largest size of each channel `(K,)`, and some of the tokens `(R, K)`."""
        parts = _parts(largest)
        low, high = -(rows / parts).min(axis=1), (rows / parts).max(axis=1)
        zeros = np.arange(1, _UINT8)[:, None]
        scales = np.maximum(np.maximum(high / (_UINT8 - zeros), low / zeros), _LEAST)
        return cls(parts, int(zeros[np.square(scales).mean(axis=1).argmin(), 0]))


@dataclass(frozen=True)
class Rewritten:
    """A graph of integers.

    Attributes:
        graph: serialised; the one that was given if there was nothing to replace.
        products: how many were replaced.
        saturates: whether its weights are unsigned, for a CPU whose other products are wrong, see `saturates`.
    """

    graph: bytes
    products: int
    saturates: bool


def in_eight_bits(graph: bytes, folder: Path, inputs: FloatArray) -> Rewritten:
    """The graph with products of integers in place of those that all tokens go through.

    Args:
        graph: as `univfd.backbones._cut.cut` makes it; what is not replaced stays in the file of weights.
        folder: where that file is.
        inputs: `(N, 3, S, S)`, normalised: pictures that show which channels are large.
    """
    model = onnx.load_from_string(graph)
    products = _products(model.graph)
    read = list(dict.fromkeys(n.input[0] for n in products))
    quantisations = _quantisations(model, read, folder, inputs) if read else {}
    products = [n for n in products if n.input[0] in quantisations]
    if not products:
        return Rewritten(graph, 0, saturates=False)
    unsigned = saturates()
    _Rewriting(model, folder, quantisations, unsigned=unsigned).replace(products)
    return Rewritten(model.SerializeToString(), len(products), saturates=unsigned)


def _products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Products of something with a matrix of weights."""
    constants = constants_of(graph)
    matrices = {name for name, c in constants.items() if len(c.dims) == 2 and c.data_type == TensorProto.FLOAT}
    return [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in matrices and n.input[0] not in constants]


def _quantisations(
    model: onnx.ModelProto, tensors: Sequence[str], folder: Path, inputs: FloatArray
) -> dict[str, _Quantisation]:
    """How to round those of the tensors `(..., K)` that have more than one row a crop, by what is in them."""
    from ._kept_graph import brief_session

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors)
    session = brief_session(shown.SerializeToString(), folder)
    largest: dict[str, FloatArray] = {}
    some: dict[str, list[FloatArray]] = {}
    for one in np.split(inputs, len(inputs)):
        for name, values in zip(tensors, session.run(list(tensors), {"pixels": one}), strict=True):
            rows = values.reshape(-1, values.shape[-1])
            if len(rows) > 1:
                largest[name] = np.maximum(largest.get(name, np.float32(0)), np.abs(rows).max(axis=0))
                some.setdefault(name, []).append(rows[::_EVERY].copy())
    return {name: _Quantisation.of(largest[name], np.concatenate(some[name])) for name in largest}


def _parts(largest: FloatArray) -> NDArray[np.int64]:
    """Into how many parts each channel `(K,)` is split, so that the largest part is least."""
    # In eighths of octaves, so that the choice hangs on rounding hardly anywhere.
    sizes = np.exp2(np.round(np.log2(np.maximum(largest, _LEAST)) * 8) / 8)
    parts = np.ones(len(sizes), np.int64)
    for _ in range(_PARTS):
        parts[np.argmax(sizes / parts)] += 1
    return parts


def saturates() -> bool:
    """Whether this machine's product of uint8 with int8 adds pairs in 16 bits, as x86 CPUs without VNNI do."""
    import onnxruntime

    size = 64
    weights = numpy_helper.from_array(np.full((size, size), _INT8, np.int8), "weights")
    made = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weights"], ["y"])], "saturates",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [size, size])], [weights],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((size, size), _UINT8, np.uint8)})
    return bool((sums != size * _INT8 * _UINT8).any())


@dataclass(frozen=True)
class _Integers:
    """A tensor of integers: its name, its zero point, and how many of them make one of the tokens' scales."""

    name: str
    zero_point: int
    in_a_step: int = 1


class _Rewriting:
    """Replaces products of a graph; each tensor of tokens is quantised once."""

    def __init__(
        self, model: onnx.ModelProto, folder: Path, quantisations: dict[str, _Quantisation], *, unsigned: bool
    ) -> None:
        self._model, self._graph = model, model.graph
        self._folder, self._quantisations = folder, quantisations
        self._unsigned = unsigned
        self._opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
        self._weights = constants_of(self._graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            for tensor in tensors_read(node):
                self._readers.setdefault(tensor, []).append(node)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._quantised: dict[str, tuple[list[_Integers], str]] = {}  # tensor -> its integers, its tokens' scales
        self._fine = _tensors_before(self._graph, f"block.{_FINE_BLOCKS}")

    def replace(self, products: Iterable[onnx.NodeProto]) -> None:
        """Put integers in the place of these products and of the biases that follow them."""
        chosen = {n.output[0] for n in products}
        gone = set()
        for node in self._graph.node:
            if node.output[0] in chosen:
                gone.add(self._product(node))
            elif node.output[0] not in gone:
                self._nodes.append(node)
        used = {t for n in self._nodes for t in tensors_read(n)}
        kept = [i for i in self._graph.initializer if i.name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*kept, *self._constants.values()])
        if all(o.domain != _DOMAIN for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))

    def _product(self, node: onnx.NodeProto) -> str:
        """Add the nodes of a product; the name of what they compute."""
        tokens, weight = node.input
        matrix = self._value(weight)
        scale = np.maximum(np.abs(matrix).max(axis=0) / np.float32(_INT8), _LEAST).astype(np.float32)
        integers = np.rint(matrix / scale).astype(np.int8)[_columns(self._quantisations[tokens].parts)]
        bias, result = self._bias(node)
        if self._unsigned:
            integers = (integers.astype(np.int16) + _MIDDLE).astype(np.uint8)
        rounded, scales = self._quantise(tokens)
        name = f"{node.output[0]}.int8"
        weights = [self._constant(f"{name}.weights", integers), self._constant(f"{name}.scales", scale)]
        sums = [self._sum(part, weights, f"{name}.{i}") for i, part in enumerate(rounded)]
        total = sums[0] if len(sums) == 1 else self._add("Add", sums, f"{name}.sum")
        self._add("Mul", [total, scales], f"{name}.scaled")
        self._add("Add", [f"{name}.scaled", self._constant(f"{name}.bias", bias)], result)
        return result

    def _sum(self, tokens: _Integers, weights: list[str], name: str) -> str:
        """Add the product of integers with weights and their scales; what it gives is in the tokens' scales."""
        integers, scales = weights
        zeros = [self._zero(tokens.zero_point), *([self._zero(_MIDDLE)] if self._unsigned else [])]
        read = [tokens.name, integers, self._number(1 / tokens.in_a_step), scales, *zeros]
        return self._add("MatMulIntegerToFloat", read, name, domain=_DOMAIN)

    def _bias(self, node: onnx.NodeProto) -> tuple[FloatArray, str]:
        """The constant `(M,)` that is added to a product (`(1,)`, 0, if there is none), and the name of the sum."""
        (product,) = node.output
        readers = self._readers.get(product, [])
        shown = any(o.name == product for o in self._graph.output)
        if len(readers) == 1 and readers[0].op_type == "Add" and not shown:
            others = [t for t in readers[0].input if t in self._weights and len(self._weights[t].dims) == 1]
            if others:
                return self._value(others[0]), readers[0].output[0]
        return np.zeros(1, np.float32), product

    def _quantise(self, tokens: str) -> tuple[list[_Integers], str]:
        """Add the nodes that make integers of a tensor of tokens; those, and the name of the tokens' scales."""
        if tokens not in self._quantised:
            name, zero = f"{tokens}.int8", self._quantisations[tokens].zero_point
            share = self._constant(f"{name}.share", (1 / self._quantisations[tokens].parts).astype(np.float32))
            parts = self._add("Mul", [tokens, share], f"{name}.parts")
            ends = [
                self._add("Mul", [self._reduced(op, parts, f"{name}.{op}"), self._number(step)], f"{name}.{op}.step")
                for op, step in (("ReduceMax", 1 / (_UINT8 - zero)), ("ReduceMin", -1 / zero))
            ]
            scale = self._add("Max", [*ends, self._constant("least", _LEAST)], f"{name}.scale")
            steps = self._add("Div", [parts, scale], f"{name}.steps")
            coarse = self._add("QuantizeLinear", [steps, self._number(1), self._zero(zero)], f"{name}.coarse")
            found = [_Integers(self._repeated(tokens, coarse), zero)]
            if tokens in self._fine:
                back = self._add("DequantizeLinear", [coarse, self._number(1), self._zero(zero)], f"{name}.back")
                left = self._add("Sub", [steps, back], f"{name}.left")
                read = [left, self._number(1 / _FINE), self._zero(_MIDDLE)]
                fine = self._add("QuantizeLinear", read, f"{name}.fine")
                found.append(_Integers(self._repeated(tokens, fine), _MIDDLE, _FINE))
            self._quantised[tokens] = found, scale
        return self._quantised[tokens]

    def _repeated(self, tokens: str, integers: str) -> str:
        """Add the nodes that give each channel once and then the further parts of those that are split."""
        parts = self._quantisations[tokens].parts
        again = self._constant(f"{tokens}.int8.again", _columns(parts)[len(parts) :])
        further = self._add("Gather", [integers, again], f"{integers}.further", axis=-1)
        return self._add("Concat", [integers, further], f"{integers}.all", axis=-1)

    def _reduced(self, op: str, tensor: str, name: str) -> str:
        if self._opset < _AXES_ARE_INPUTS:
            return self._add(op, [tensor], name, axes=[-1], keepdims=1)
        return self._add(op, [tensor, self._constant("last", np.array([-1], np.int64))], name, keepdims=1)

    def _zero(self, zero: int) -> str:
        return self._constant(f"zero.{zero}", np.uint8(zero))

    def _number(self, value: float) -> str:
        return self._constant(f"number.{value}", np.float32(value))

    def _value(self, name: str) -> FloatArray:
        return np.asarray(values_of(self._weights[name], self._folder), np.float32)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        named = f"univfd.int8.{name}"
        if named not in self._constants:
            self._constants[named] = numpy_helper.from_array(np.asarray(value), named)
        return named

    def _add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self._nodes.append(helper.make_node(op, inputs, [output], **attributes))  # type: ignore[arg-type]
        return output


def _columns(parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of a matrix of all parts, whose each column is: every channel once, then the further parts of those split."""
    channels = np.arange(len(parts))
    return np.concatenate([channels, np.repeat(channels, parts - 1)])


def _tensors_before(graph: onnx.GraphProto, end: str) -> set[str]:
    """What is read by the nodes up to the one that makes a tensor; nothing if none does."""
    found: set[str] = set()
    for node in graph.node:
        found.update(node.input)
        if end in node.output:
            return found
    return set()
