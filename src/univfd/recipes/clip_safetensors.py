"""CLIP's image tower from a `.safetensors` file (Hugging Face names) -> an ONNX graph, without PyTorch.

The network is Radford et al. 2021 (arXiv 2103.00020): patch convolution, class token, learned positions, pre-norm
transformer blocks with QuickGELU, a final norm on the class token and a projection.
"""

from __future__ import annotations

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
_EPSILON = 1e-5


def clip_safetensors(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. `recipe_options`: `heads`, `patch` (pixels), `activation` (only `quick_gelu`).

    Raises:
        FormatError: the file does not hold the network that the entry describes.
    """
    if entry.recipe_options["activation"] != "quick_gelu":
        raise FormatError(f"{entry.name}: activation {entry.recipe_options['activation']!r}; expected 'quick_gelu'")
    try:
        with safe_open(published, framework="numpy") as tensors:
            model = _Builder(tensors, entry).build()
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{published.name} does not hold {entry.title}: {error}") from error
    onnx.checker.check_model(model)
    save(model, out)


class _Builder:
    """Adds nodes one after another; each method gives the name of its result."""

    def __init__(self, tensors: Any, entry: Entry) -> None:
        self._tensors = tensors
        self._entry = entry
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        entry, size = self._entry, self._entry.preprocess.size
        hidden = self._embed_patches()
        for i in range(entry.blocks):
            hidden = self._block(hidden, f"vision_model.encoder.layers.{i}", f"block.{i + 1}")
        cls = self._add("Gather", [hidden, self._ints("first", 0)], axis=1)
        cls = self._norm(cls, "vision_model.post_layernorm")
        projection = self._weight("visual_projection.weight", (entry.proj, entry.width)).T
        self._add("MatMul", [cls, self._constant("visual_projection", projection)], name="proj")
        graph = helper.make_graph(
            self._nodes,
            entry.name,
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info("proj", TensorProto.FLOAT, ["batch", entry.proj])],
            list(self._constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)

    def _embed_patches(self) -> str:
        width, patch = self._entry.width, self._entry.recipe_options["patch"]
        tokens = (self._entry.preprocess.size // patch) ** 2 + 1
        stem = "vision_model.embeddings."
        kernel = self._weight(stem + "patch_embedding.weight", (width, 3, patch, patch))
        position = self._weight(stem + "position_embedding.weight", (tokens, width))
        cls = self._weight(stem + "class_embedding", (width,))
        patches = self._add("Conv", ["pixels", self._constant("patch", kernel)], strides=[patch, patch])
        patches = self._add("Reshape", [patches, self._ints("flat", 0, width, -1)])
        patches = self._add("Transpose", [patches], perm=[0, 2, 1])
        batch = self._add("Slice", [self._add("Shape", ["pixels"]), self._ints("zero", 0, vector=True),
                                    self._ints("one", 1, vector=True)])  # fmt: skip
        shape = self._add("Concat", [batch, self._ints("cls_shape", 1, width)], axis=0)
        cls_token = self._add("Expand", [self._constant("cls", cls[None, None]), shape])
        hidden = self._add("Concat", [cls_token, patches], axis=1)
        hidden = self._add("Add", [hidden, self._constant("position", position)])
        return self._norm(hidden, "vision_model.pre_layrnorm")

    def _block(self, hidden: str, at: str, name: str) -> str:
        width, heads = self._entry.width, self._entry.recipe_options["heads"]
        split = self._ints("split", 0, 0, heads, width // heads)
        normed = self._norm(hidden, f"{at}.layer_norm1")
        query, key, value = (
            self._add("Reshape", [self._linear(normed, f"{at}.self_attn.{part}_proj", width, width), split])
            for part in "qkv"
        )
        query = self._add("Transpose", [query], perm=[0, 2, 1, 3])
        query = self._add("Mul", [query, self._scalar("scale", (width // heads) ** -0.5)])
        scores = self._add("MatMul", [query, self._add("Transpose", [key], perm=[0, 2, 3, 1])])
        attention = self._add("Softmax", [scores], axis=-1)
        mixed = self._add("MatMul", [attention, self._add("Transpose", [value], perm=[0, 2, 1, 3])])
        mixed = self._add("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self._add("Reshape", [mixed, self._ints("join", 0, 0, width)])
        hidden = self._add("Add", [hidden, self._linear(mixed, f"{at}.self_attn.out_proj", width, width)])
        inner = self._linear(self._norm(hidden, f"{at}.layer_norm2"), f"{at}.mlp.fc1", width, 4 * width)
        gate = self._add("Sigmoid", [self._add("Mul", [inner, self._scalar("quick_gelu", 1.702)])])
        inner = self._add("Mul", [inner, gate])
        return self._add("Add", [hidden, self._linear(inner, f"{at}.mlp.fc2", 4 * width, width)], name=name)

    def _norm(self, tensor: str, at: str) -> str:
        shape = (self._entry.width,)
        scale, bias = (self._constant(f"{at}.{p}", self._weight(f"{at}.{p}", shape)) for p in ("weight", "bias"))
        return self._add("LayerNormalization", [tensor, scale, bias], axis=-1, epsilon=_EPSILON)

    def _linear(self, tensor: str, at: str, inputs: int, outputs: int) -> str:
        weight = self._constant(f"{at}.weight", self._weight(f"{at}.weight", (outputs, inputs)).T)
        bias = self._constant(f"{at}.bias", self._weight(f"{at}.bias", (outputs,)))
        return self._add("Add", [self._add("MatMul", [tensor, weight]), bias])

    def _weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        values = np.asarray(self._tensors.get_tensor(name), np.float32)
        if values.shape != shape:
            raise FormatError(f"{self._entry.name}: {name} has shape {values.shape}; expected {shape}")
        return values

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def _ints(self, name: str, *values: int, vector: bool = False) -> str:
        return self._constant(name, np.array(values if vector or len(values) > 1 else values[0], np.int64))

    def _scalar(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _add(self, operator: str, inputs: list[str], *, name: str = "", **attributes: Any) -> str:
        result = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result


PLUGIN = clip_safetensors
