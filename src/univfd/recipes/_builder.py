"""What the recipes for vision transformers share: ONNX nodes made one after another from a `.safetensors` file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError, safe_open

from ..catalogue import Entry
from ..errors import FormatError
from ._graph import save

_OPSET = 17


def convert(
    published: Path,
    entry: Entry,
    out: Path,
    epsilon: float,
    network: Callable[[Builder], None],
    *,
    prefix: int,
    options: frozenset[str] = frozenset(),
) -> None:
    """Write the prepared form of a published file.

    Args:
        published: a `.safetensors` file.
        entry: the backbone that it should hold.
        out: folder for the prepared form.
        epsilon: of the layer norms.
        network: adds the nodes from `pixels` to `proj`.
        prefix: tokens that it puts before those of the patches.
        options: names of its `recipe_options`, besides `heads` and `patch`.

    Raises:
        FormatError: the file does not hold the network that the entry describes, or its `recipe_options` are wrong.
    """
    known = {"heads", "patch", *options}
    if unknown := sorted(entry.recipe_options.keys() - known):
        raise FormatError(f"{entry.name}: unknown recipe_options {unknown}; known: {sorted(known)}")
    if entry.prefix != prefix:
        raise FormatError(
            f"{entry.name}: prefix = {entry.prefix}; {entry.recipe} makes {prefix} tokens before the patches"
        )
    for name in ("heads", "patch"):
        value = entry.recipe_options.get(name, 1)
        if type(value) is not int or value < 1:
            raise FormatError(f"{entry.name}: recipe_options.{name} = {value!r:.80}; expected a whole number from 1")
    if entry.width % (heads := entry.recipe_options.get("heads", 1)):
        raise FormatError(f"{entry.name}: width {entry.width} is no multiple of recipe_options.heads = {heads}")
    try:
        with safe_open(published, framework="numpy") as tensors:
            make = Builder(tensors, entry, epsilon)
            network(make)
            model = make.model()
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{published.name} does not hold {entry.title}: {error}") from error
    except KeyError as error:
        raise FormatError(f"{entry.name}: recipe_options lacks {error}, which {entry.recipe} needs") from error
    except (TypeError, ValueError, ArithmeticError) as error:  # a text for a number, a patch of 0 pixels
        given = dict(entry.recipe_options)
        raise FormatError(f"{entry.name}: {entry.recipe} cannot use recipe_options {given}: {error}") from error
    onnx.checker.check_model(model)
    save(model, out)


class Builder:
    """Most methods add nodes and give the name of their result. `at` is the start of a layer's names in the file.

    Attributes:
        entry: the backbone that the file should hold.
        options: its `recipe_options`.
        width: of the tokens.
    """

    def __init__(self, tensors: Any, entry: Entry, epsilon: float) -> None:
        self.entry, self.options, self.width = entry, entry.recipe_options, entry.width
        self._tensors = tensors
        self._epsilon = epsilon
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """The prepared form, from `pixels` to `proj`."""
        entry, size = self.entry, self.entry.preprocess.size
        graph = helper.make_graph(
            self._nodes,
            entry.name,
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info("proj", TensorProto.FLOAT, ["batch", entry.proj])],
            list(self._constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)

    @property
    def grid(self) -> int:
        """Patches a side."""
        return int(self.entry.preprocess.size // self.options["patch"])

    def patches(self, at: str, *, bias: bool) -> str:
        """Patch convolution, `(N, 3, S, S)` -> `(N, grid^2, W)`."""
        patch = self.options["patch"]
        inputs = ["pixels", self.constant("patch", self.weight(f"{at}.weight", (self.width, 3, patch, patch)))]
        if bias:
            inputs.append(self.constant("patch.bias", self.weight(f"{at}.bias", (self.width,))))
        patches = self.add("Conv", inputs, strides=[patch, patch])
        patches = self.add("Reshape", [patches, self.ints("flat", 0, self.width, -1)])
        return self.add("Transpose", [patches], perm=[0, 2, 1])

    def class_token(self, token: NDArray[np.float32], patches: str) -> str:
        """Put a token `(W,)` before the patches of each picture."""
        bounds = [self.ints("zero", 0, vector=True), self.ints("one", 1, vector=True)]
        batch = self.add("Slice", [self.add("Shape", ["pixels"]), *bounds])
        shape = self.add("Concat", [batch, self.ints("cls_shape", 1, self.width)], axis=0)
        expanded = self.add("Expand", [self.constant("cls", token[None, None]), shape])
        return self.add("Concat", [expanded, patches], axis=1)

    def attention(self, tokens: str, query_key_value: list[str], out: str) -> str:
        """Self-attention; the names are those of its four linear layers in the file."""
        query, key, value = (self.heads(self.linear(tokens, at, self.width, self.width)) for at in query_key_value)
        query = self.add("Transpose", [query], perm=[0, 2, 1, 3])
        query = self.add("Mul", [query, self.scalar("scale", (self.width // self.options["heads"]) ** -0.5)])
        mixed = self.attended(query, key, value)
        mixed = self.add("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", [mixed, self.ints("join", 0, 0, self.width)])
        return self.linear(mixed, out, self.width, self.width)

    def heads(self, tokens: str) -> str:
        """`(N, T, W)` -> `(N, T, heads, W / heads)`."""
        heads = self.options["heads"]
        return self.add("Reshape", [tokens, self.ints("split", 0, 0, heads, self.width // heads)])

    def attended(self, query: str, key: str, value: str) -> str:
        """Scaled query `(N or 1, heads, Q, C)`, key and value `(N, T, heads, C)` -> `(N, heads, Q, C)`."""
        scores = self.add("MatMul", [query, self.add("Transpose", [key], perm=[0, 2, 3, 1])])
        weights = self.add("Softmax", [scores], axis=-1)
        return self.add("MatMul", [weights, self.add("Transpose", [value], perm=[0, 2, 1, 3])])

    def blocks(self, tokens: str, activation: Callable[[Builder, str], str]) -> str:
        """The pre-norm blocks of CLIP and SigLIP, which have the same names in their files."""
        for i in range(self.entry.blocks):
            at = f"vision_model.encoder.layers.{i}"
            parts = [f"{at}.self_attn.{part}_proj" for part in "qkv"]
            mixed = self.attention(self.norm(tokens, f"{at}.layer_norm1"), parts, f"{at}.self_attn.out_proj")
            tokens = self.add("Add", [tokens, mixed])
            inner = self.mlp(self.norm(tokens, f"{at}.layer_norm2"), f"{at}.mlp", activation)
            tokens = self.add("Add", [tokens, inner], name=f"block.{i + 1}")
        return tokens

    def mlp(self, tokens: str, at: str, activation: Callable[[Builder, str], str]) -> str:
        """Two linear layers, four times as wide between them."""
        inner = activation(self, self.linear(tokens, f"{at}.fc1", self.width, 4 * self.width))
        return self.linear(inner, f"{at}.fc2", 4 * self.width, self.width)

    def norm(self, tensor: str, at: str, *, name: str = "") -> str:
        """Layer norm."""
        parts = [self.constant(f"{at}.{p}", self.weight(f"{at}.{p}", (self.width,))) for p in ("weight", "bias")]
        return self.add("LayerNormalization", [tensor, *parts], name=name, axis=-1, epsilon=self._epsilon)

    def linear(self, tensor: str, at: str, inputs: int, outputs: int) -> str:
        """Linear layer with bias."""
        weight, bias = self.weight(f"{at}.weight", (outputs, inputs)), self.weight(f"{at}.bias", (outputs,))
        return self.affine(tensor, at, weight, bias)

    def affine(self, tensor: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """`x W^T + b`, W `(outputs, inputs)`."""
        product = self.add("MatMul", [tensor, self.constant(f"{name}.weight", weight.T)])
        return self.add("Add", [product, self.constant(f"{name}.bias", bias)])

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A tensor of the file.

        Raises:
            FormatError: it has another shape.
        """
        values = np.asarray(self._tensors.get_tensor(name), np.float32)
        if values.shape != shape:
            raise FormatError(f"{self.entry.name}: {name} has shape {values.shape}; expected {shape}")
        return values

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A tensor of the graph, added once."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def ints(self, name: str, *values: int, vector: bool = False) -> str:
        """A shape or an index."""
        return self.constant(name, np.array(values if vector or len(values) > 1 else values[0], np.int64))

    def scalar(self, name: str, value: float) -> str:
        """A number."""
        return self.constant(name, np.array(value, np.float32))

    def add(self, operator: str, inputs: list[str], *, name: str = "", **attributes: Any) -> str:
        """One node."""
        result = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result


def quick_gelu(make: Builder, x: str) -> str:
    """`x sigmoid(1.702 x)`."""
    gate = make.add("Sigmoid", [make.add("Mul", [x, make.scalar("quick_gelu", 1.702)])])
    return make.add("Mul", [x, gate])


def gelu(make: Builder, x: str) -> str:
    """`x (1 + erf(x / sqrt 2)) / 2`."""
    return _gated(make, x, make.add("Erf", [make.add("Mul", [x, make.scalar("gelu.scale", 0.5**0.5)])]))


def gelu_tanh(make: Builder, x: str) -> str:
    """`x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`."""
    cube = make.add("Mul", [make.add("Mul", [x, x]), x])
    bent = make.add("Add", [x, make.add("Mul", [cube, make.scalar("gelu.cubic", 0.044715)])])
    return _gated(make, x, make.add("Tanh", [make.add("Mul", [bent, make.scalar("gelu.scale", (2 / np.pi) ** 0.5)])]))


def _gated(make: Builder, x: str, sign: str) -> str:
    gate = make.add("Mul", [make.add("Add", [sign, make.scalar("gelu.one", 1.0)]), make.scalar("gelu.half", 0.5)])
    return make.add("Mul", [x, gate])
