"""The default encoder's weights in a plain PyTorch tower: the reference loop of `stages.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from univfd.catalogue import entry
from univfd.weights import GRAPH, ensure

WIDTH, HEADS, BLOCKS = 768, 12, 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        return self.with_units(x)[0]

    def with_units(self, x: Any) -> tuple[Any, Any]:
        """The block's output, and the units of its MLP."""
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        x = x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, WIDTH))
        h = self.fc1(self.norm2(x))
        units = h * torch.sigmoid(1.702 * h)
        return x + self.fc2(units), units


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 16, 16, bias=False)
        self.cls, self.position = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(197, WIDTH))
        self.norm_pre, self.norm_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.proj = nn.Linear(WIDTH, 512, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, WIDTH), x], dim=1) + self.position
        return self.proj(self.norm_post(self.blocks(self.norm_pre(x))[:, 0]))

    def taps(self, x: Any, names: Sequence[str]) -> list[Any]:
        """`(N, 3, 224, 224)` -> `(N, D)` a tap: `proj`, `cls.i`, `mean.i`, `mlp.i`, as `open_backbone` has them."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm_pre(torch.cat([self.cls.expand(len(x), 1, WIDTH), x], dim=1) + self.position)
        found: dict[str, Any] = {}
        last = max(BLOCKS if n == "proj" else int(n.partition(".")[2]) for n in names)
        for number, block in enumerate(self.blocks[:last], start=1):
            x, units = block.with_units(x)
            found |= {f"cls.{number}": x[:, 0], f"mean.{number}": x[:, 1:].mean(dim=1), f"mlp.{number}": units[:, 0]}
        if "proj" in names:
            found["proj"] = self.proj(self.norm_post(x[:, 0]))
        return [found[name] for name in names]


def encoder(threads: int) -> Callable[[Any], Any]:
    """`(N, 3, 224, 224)` float32 -> `(N, 512)`: the paper's feature, without gradients."""
    torch.set_num_threads(threads)
    tower = Tower().eval()
    tower.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in weights().items()})

    def run(pixels: Any) -> Any:
        with torch.inference_mode():
            return tower(torch.from_numpy(pixels)).numpy().copy()

    return run


def weights() -> dict[str, Any]:
    """The prepared graph's tensors by the names of `Tower`."""
    graph = onnx.load(str(ensure(entry("clip-vit-b-16")) / GRAPH)).graph
    held = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    # Matrices have no names of their own; the product that reads one does.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in held:
            held[node.output[0].strip("/").replace("/", ".") + ".W"] = held[node.input[1]].T
    model, out = "vision_model.", {}
    out["patches.weight"] = held[f"{model}embeddings.patch_embedding.weight"]
    out["cls"], out["position"] = (
        held[f"{model}embeddings.{n}"] for n in ("class_embedding", "position_embedding.weight")
    )
    for mine, theirs in (("norm_pre", "pre_layrnorm"), ("norm_post", "post_layernorm")):
        out |= {f"{mine}.{p}": held[f"{model}{theirs}.{p}"] for p in ("weight", "bias")}
    for i in range(BLOCKS):
        layer = f"{model}encoder.layers.{i}."
        for mine, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
            out |= {f"blocks.{i}.{mine}.{p}": held[f"{layer}{theirs}.{p}"] for p in ("weight", "bias")}
        for mine, theirs in (("out", "self_attn.out_proj"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            out[f"blocks.{i}.{mine}.weight"] = held[f"{layer}{theirs}.MatMul_output_0.W"]
            out[f"blocks.{i}.{mine}.bias"] = held[f"{layer}{theirs}.bias"]
        parts = [f"{layer}self_attn.{p}_proj" for p in "qkv"]
        out[f"blocks.{i}.qkv.weight"] = np.concatenate([held[f"{p}.MatMul_output_0.W"] for p in parts])
        out[f"blocks.{i}.qkv.bias"] = np.concatenate([held[f"{p}.bias"] for p in parts])
    out["proj.weight"] = next(v for v in held.values() if v.shape == (512, WIDTH))
    return out
