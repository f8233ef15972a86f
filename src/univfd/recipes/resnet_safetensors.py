"""A ResNet of bottleneck blocks from a `.safetensors` file (torchvision's names) -> an ONNX graph, without PyTorch.

The network is He et al. 2016 (arXiv 1512.03385) with the stride on the 3 x 3 convolution, as torchvision and Wang et
al. have it. Depth and width are read off the file. The embedding is the mean over the last block's positions: what the
final linear layer sees. That layer (`fc`) is no part of the encoder.
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
_STAGES = 4
_IGNORED = ("fc.", "num_batches_tracked")


def resnet_safetensors(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. It has no `recipe_options`.

    Raises:
        FormatError: the file does not hold such a network, or one of another width than the entry says.
    """
    if entry.recipe_options:
        raise FormatError(f"{entry.name}: unknown recipe_options {sorted(entry.recipe_options)}; there are none")
    try:
        with safe_open(published, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{published.name} does not hold {entry.title}: {error}") from error
    model = _Builder(tensors, entry).build()
    onnx.checker.check_model(model)
    save(model, out)


class _Builder:
    """Adds nodes one after another; each method gives the name of its result."""

    def __init__(self, tensors: dict[str, NDArray[Any]], entry: Entry) -> None:
        self._left = {k: v for k, v in tensors.items() if not k.startswith(_IGNORED[0]) and not k.endswith(_IGNORED[1])}
        self._entry = entry
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        entry, size = self._entry, self._entry.preprocess.size
        hidden, channels = self._conv("pixels", "conv1", "bn1", 3, kernel=7, stride=2)
        hidden = self._add("Relu", [hidden])
        hidden = self._add("MaxPool", [hidden], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for stage in range(1, _STAGES + 1):
            blocks = sum(name.startswith(f"layer{stage}.") and name.endswith("conv1.weight") for name in self._left)
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                hidden, channels = self._block(hidden, f"layer{stage}.{i}", channels, stride)
        if channels != entry.proj:
            raise FormatError(f"{entry.name}: the network gives {channels} values; expected proj = {entry.proj}")
        if self._left:
            raise FormatError(f"{entry.name}: {sorted(self._left)[0]} has no place in a ResNet of bottleneck blocks")
        self._add("Flatten", [self._add("GlobalAveragePool", [hidden])], name="proj")
        graph = helper.make_graph(
            self._nodes,
            entry.name,
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info("proj", TensorProto.FLOAT, ["batch", entry.proj])],
            self._constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)

    def _block(self, hidden: str, at: str, inputs: int, stride: int) -> tuple[str, int]:
        inner, width = self._conv(hidden, f"{at}.conv1", f"{at}.bn1", inputs)
        inner = self._add("Relu", [inner])
        inner, width = self._conv(inner, f"{at}.conv2", f"{at}.bn2", width, kernel=3, stride=stride)
        inner = self._add("Relu", [inner])
        inner, outputs = self._conv(inner, f"{at}.conv3", f"{at}.bn3", width)
        if f"{at}.downsample.0.weight" in self._left:
            hidden, inputs = self._conv(hidden, f"{at}.downsample.0", f"{at}.downsample.1", inputs, stride=stride)
        if inputs != outputs:
            raise FormatError(f"{self._entry.name}: {at} adds {inputs} channels to {outputs}")
        return self._add("Relu", [self._add("Add", [inner, hidden])]), outputs

    def _conv(
        self, tensor: str, conv: str, norm: str, inputs: int, *, kernel: int = 1, stride: int = 1
    ) -> tuple[str, int]:
        """Convolution without bias, then batch normalisation with the running statistics; and its channels."""
        weight = self._take(f"{conv}.weight", (None, inputs, kernel, kernel))
        outputs = len(weight)
        pad = kernel // 2
        made = self._add(
            "Conv", [tensor, self._constant(f"{conv}.weight", weight)],
            strides=[stride, stride], pads=[pad, pad, pad, pad],
        )  # fmt: skip
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        statistics = [self._constant(name, self._take(name, (outputs,))) for name in names]
        return self._add("BatchNormalization", [made, *statistics], epsilon=_EPSILON), outputs

    def _take(self, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        values = self._left.pop(name, None)
        got = None if values is None else values.shape
        if (
            values is None
            or len(values.shape) != len(shape)
            or any(w not in {None, g} for w, g in zip(shape, values.shape, strict=True))
        ):
            raise FormatError(f"{self._entry.name}: {name} has shape {got}; expected {shape} (None: any)")
        return np.asarray(values, np.float32)

    def _constant(self, name: str, values: NDArray[np.float32]) -> str:
        self._constants.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def _add(self, operator: str, inputs: list[str], *, name: str = "", **attributes: Any) -> str:
        result = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result


PLUGIN = resnet_safetensors
