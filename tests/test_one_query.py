"""The last block for the class token alone: which attention is rewritten, and that what is not keeps its values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from univfd.backbones._first_token import only_first_token

TOKENS, WIDTH, HEADS = 6, 8, 2
EACH = WIDTH // HEADS
Change = Callable[["Block"], None]


class Block:
    """One attention block with a residual, `x` to `block.1`; its parts may be exchanged before it is built."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.constants: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.split, self.joined = [0, 0, HEADS, EACH], [0, 0, WIDTH]
        self.biased, self.axis, self.softmax_perm = "qkv", -1, [0, 2, 1, 3]
        self.scales: dict[str, object] = {"q": 0.5}
        self.extra: dict[str, Callable[[str], str]] = {}
        self.tokens = {"q": "n", "k": "n", "v": "n"}

    def constant(self, values: object, kind: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape))

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [out or f"t{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def projected(self, part: str) -> str:
        made = self.add("MatMul", self.tokens[part], self.weight(WIDTH, WIDTH))
        if part in self.biased:
            made = self.add("Add", made, self.weight(WIDTH))
        made = self.add("Reshape", made, self.constant(self.split, np.int64))
        made = self.extra.get(f"split {part}", lambda t: t)(made)
        made = self.add("Transpose", made, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3])
        made = self.extra.get(part, lambda t: t)(made)
        return self.add("Mul", made, self.constant(self.scales[part])) if part in self.scales else made

    def model(self, opset: int) -> onnx.ModelProto:
        self.add("Add", "x", self.weight(WIDTH), out="block.0")
        self.add("Mul", "block.0", self.weight(WIDTH), out="n")
        self.add("Mul", "block.0", self.weight(WIDTH), out="other")
        query, key, value = (self.projected(part) for part in "qkv")
        scores = self.extra.get("scores", lambda t: t)(self.add("MatMul", query, key))
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=self.axis), value)
        mixed = self.add(
            "Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant(self.joined, np.int64)
        )
        self.add("Add", "block.0", self.add("MatMul", mixed, self.weight(WIDTH, WIDTH)), out="block.1")
        self.add("Gather", "block.1", self.constant(0, np.int64), out="cls", axis=1)
        shaped = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "block", [shaped("x", TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
            [shaped("cls", TensorProto.FLOAT, ["batch", WIDTH])], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def computed(model: onnx.ModelProto, pictures: int) -> np.ndarray:
    onnx.checker.check_model(model)
    tokens = np.random.default_rng(1).standard_normal((pictures, TOKENS, WIDTH), dtype=np.float32)
    (out,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["cls"], {"x": tokens})
    return np.asarray(out)


def rewritten(change: Change, opset: int = 17) -> bool:
    """Whether attention has one query; the class token is what it was in any case."""
    block = Block()
    change(block)
    model = block.model(opset)
    expected = [computed(model, n) for n in (1, 3)]
    only_first_token(model, "block.1")
    for n, before in zip((1, 3), expected, strict=True):
        np.testing.assert_allclose(computed(model, n), before, atol=2e-5)
    return any(n.op_type == "Softmax" and "first" in n.output[0] for n in model.graph.node)


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18])
def test_plain_attention_in_every_opset(opset: int) -> None:
    assert rewritten(lambda block: None, opset)


def scaled_all(block: Block) -> None:
    block.scales = {"q": 0.5, "k": [0.7], "v": 1.3}


def without_biases(block: Block) -> None:
    block.biased = ""


def without_scale(block: Block) -> None:
    block.scales = {}


def open_count(block: Block) -> None:
    block.split, block.joined = [-1, TOKENS, HEADS, EACH], [-1, TOKENS, WIDTH]


def last_axis_by_number(block: Block) -> None:
    block.axis = 3


@pytest.mark.parametrize("change", [scaled_all, without_biases, without_scale, open_count, last_axis_by_number])
def test_other_ways_of_writing_it(change: Change) -> None:
    assert rewritten(change)


def windows(block: Block) -> None:
    block.split = [-1, TOKENS // 2, HEADS, EACH]
    block.joined = [-1, TOKENS, WIDTH]


def heads_that_are_tokens(block: Block) -> None:
    block.split, block.joined = [0, 2 * TOKENS, HEADS // 2, EACH], [0, TOKENS, WIDTH]


def softmax_over_queries(block: Block) -> None:
    block.axis = 2


def bias_by_token(block: Block) -> None:
    block.extra["k"] = lambda tensor: block.add("Add", tensor, block.weight(TOKENS))


def bias_by_place_in_a_head(block: Block) -> None:
    block.extra["split q"] = lambda tensor: block.add("Add", tensor, block.weight(EACH))


def scale_by_head(block: Block) -> None:
    block.scales["q"] = block.rng.standard_normal((HEADS, 1, 1))


def scale_by_place(block: Block) -> None:
    block.scales["v"] = block.rng.standard_normal(EACH)


def keys_of_other_tokens(block: Block) -> None:
    block.tokens["k"] = "other"


def values_of_other_tokens(block: Block) -> None:
    block.tokens["v"] = "other"


def masked(block: Block) -> None:
    block.extra["scores"] = lambda tensor: block.add("Add", tensor, block.weight(TOKENS))


def keys_that_are_squared(block: Block) -> None:
    block.extra["k"] = lambda tensor: block.add("Mul", tensor, tensor)


@pytest.mark.parametrize(
    "change",
    [windows, heads_that_are_tokens, softmax_over_queries, bias_by_token, bias_by_place_in_a_head, scale_by_head,
     scale_by_place, keys_of_other_tokens, values_of_other_tokens, masked, keys_that_are_squared],
)  # fmt: skip
def test_what_is_no_plain_attention_is_computed_as_it_stands(change: Change) -> None:
    assert not rewritten(change)
