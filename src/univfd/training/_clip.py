"""CLIP's image tower in PyTorch, with the hub's names of its weights, and these weights out of a prepared graph.

The recipe `clip-safetensors` is the same network as an ONNX graph.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import FormatError
from ..weights import values_of

_EPSILON = 1e-5
_STEM = "vision_model.embeddings."
# What the recipe `clip-safetensors` calls them in its graphs.
_ALIASES = {"patch": f"{_STEM}patch_embedding.weight", "cls": f"{_STEM}class_embedding",
            "position": f"{_STEM}position_embedding.weight"}  # fmt: skip


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for part in ("q", "k", "v", "out"):
            self.add_module(f"{part}_proj", nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.get_submodule(f"{p}_proj")(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in "qkv")
        mixed = functional.scaled_dot_product_attention(*parts)
        out: Tensor = self.get_submodule("out_proj")(mixed.transpose(1, 2).flatten(2))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, _EPSILON), nn.LayerNorm(width, _EPSILON)
        self.self_attn = _Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        inner = self.mlp["fc1"](self.layer_norm2(x))
        out: Tensor = x + self.mlp["fc2"](inner * torch.sigmoid(1.702 * inner))  # QuickGELU
        return out


class ClipTower(nn.Module):
    """`(N, 3, S, S)` normalised -> `(N, proj)`: the projected embedding, not of unit length.

    Args:
        size: S, in pixels.
        patch: side of a patch, in pixels.
        width: of the tokens.
        blocks: number of transformer blocks.
        heads: of the attention.
        proj: dimension of the embedding.
    """

    def __init__(self, *, size: int, patch: int, width: int, blocks: int, heads: int, proj: int) -> None:
        super().__init__()
        embeddings = nn.Module()
        embeddings.class_embedding = nn.Parameter(torch.zeros(width))
        embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        embeddings.position_embedding = nn.Embedding((size // patch) ** 2 + 1, width)
        layers = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.vision_model = nn.ModuleDict(
            {
                "embeddings": embeddings,
                "pre_layrnorm": nn.LayerNorm(width, _EPSILON),  # the name that the published weights have
                "encoder": nn.ModuleDict({"layers": layers}),
                "post_layernorm": nn.LayerNorm(width, _EPSILON),
            }
        )
        self.visual_projection = nn.Linear(width, proj, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.vision_model
        patches = parts["embeddings"].patch_embedding(x).flatten(2).transpose(1, 2)
        cls = parts["embeddings"].class_embedding.expand(len(x), 1, -1)
        x = torch.cat([cls, patches], dim=1) + parts["embeddings"].position_embedding.weight
        x = parts["pre_layrnorm"](x)
        for block in parts["encoder"]["layers"]:
            x = block(x)
        out: Tensor = self.visual_projection(parts["post_layernorm"](x[:, 0]))
        return out


def weights_of(graph: Path) -> dict[str, Tensor]:
    """The tower's weights under their published names, out of a prepared graph.

    Biases and norms have their names in the graph. A matrix has the name of the bias that is added to its product;
    the one without is the projection.

    Args:
        graph: `graph.onnx` of a CLIP backbone in the cache.

    Raises:
        FormatError: the graph of another network.
    """
    model = onnx.load(str(graph), load_external_data=False).graph
    constants = {i.name: values_of(i, graph.parent) for i in model.initializer}
    products = {n.output[0]: n.input[1] for n in model.node if n.op_type == "MatMul" and n.input[1] in constants}
    named = {_ALIASES.get(k, k): v for k, v in constants.items() if k in _ALIASES or k.startswith("vision_model.")}
    for node in model.node:
        bias = next((t for t in node.input if t.endswith(".bias")), "")
        product = next((t for t in node.input if t in products), "")
        if node.op_type == "Add" and bias and product:
            named[bias.removesuffix("bias") + "weight"] = constants[products[product]].T
    if "proj" not in products:
        raise FormatError(f"{graph} is not the graph of a CLIP image tower: it has no projection")
    named["visual_projection.weight"] = constants[products["proj"]].T
    return {name: torch.tensor(v.reshape(-1) if name == _ALIASES["cls"] else v) for name, v in named.items()}
