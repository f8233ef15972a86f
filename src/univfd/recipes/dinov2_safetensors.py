"""DINOv2 from a `.safetensors` file (Hugging Face names) -> an ONNX graph, without PyTorch.

The network is Oquab et al. 2023 (arXiv 2304.07193): class token, learned positions, pre-norm transformer blocks with
exact GELU and LayerScale. Its embedding `proj` is the class token after the final norm. The published positions are
those of 37 x 37 patches (518 pixels); for another size they are interpolated as `transformers` does it: bicubic with
a = -0.75, corners not aligned, no antialiasing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..catalogue import Entry
from ._builder import Builder, convert, gelu

_EPSILON = 1e-6
_A = -0.75


def dinov2_safetensors(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. `recipe_options`: `heads`, `patch` (pixels), `grid` (patches a side that the positions are for).

    Raises:
        FormatError: the file does not hold the network that the entry describes.
    """
    convert(published, entry, out, _EPSILON, _network, prefix=1, options=frozenset({"grid"}))


def _network(make: Builder) -> None:
    width, grid = make.width, make.options["grid"]
    patches = make.patches("embeddings.patch_embeddings.projection", bias=True)
    tokens = make.class_token(make.weight("embeddings.cls_token", (1, 1, width))[0, 0], patches)
    published = make.weight("embeddings.position_embeddings", (1, grid**2 + 1, width))[0]
    position = np.concatenate([published[:1], resized(published[1:], grid, make.grid)])
    tokens = make.add("Add", [tokens, make.constant("position", position)])
    for i in range(make.entry.blocks):
        tokens = _block(make, tokens, f"encoder.layer.{i}", f"block.{i + 1}")
    make.norm(make.add("Gather", [tokens, make.ints("first", 0)], axis=1), "layernorm", name="proj")


def _block(make: Builder, tokens: str, at: str, name: str) -> str:
    parts = [f"{at}.attention.attention.{part}" for part in ("query", "key", "value")]
    mixed = make.attention(make.norm(tokens, f"{at}.norm1"), parts, f"{at}.attention.output.dense")
    tokens = make.add("Add", [tokens, _scaled(make, mixed, f"{at}.layer_scale1")])
    inner = make.mlp(make.norm(tokens, f"{at}.norm2"), f"{at}.mlp", gelu)
    return make.add("Add", [tokens, _scaled(make, inner, f"{at}.layer_scale2")], name=name)


def _scaled(make: Builder, tokens: str, at: str) -> str:
    return make.add("Mul", [tokens, make.constant(at, make.weight(f"{at}.lambda1", (make.width,)))])


def resized(positions: NDArray[np.float32], grid: int, wanted: int) -> NDArray[np.float32]:
    """Positions of `grid` x `grid` patches, `(grid^2, W)`, for `wanted` x `wanted` ones, `(wanted^2, W)`."""
    if grid == wanted:
        return positions
    along = _bicubic(grid, wanted)
    square = positions.reshape(grid, grid, -1).astype(np.float64)
    mixed: NDArray[np.float64] = np.einsum("yh,xw,hwd->yxd", along, along, square, optimize=True)
    return np.asarray(mixed.reshape(wanted * wanted, -1), np.float32)


def _bicubic(size: int, wanted: int) -> NDArray[np.float64]:
    """`(wanted, size)`: each row the weights of one output; beyond the edge the edge's value is repeated."""
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        centre = (row + 0.5) * size / wanted - 0.5
        start = int(np.floor(centre)) - 1
        for place in range(start, start + 4):
            x = abs(centre - place)
            near = (_A + 2) * x**3 - (_A + 3) * x**2 + 1
            far = _A * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(place, 0), size - 1)] += near if x <= 1 else far
    return matrix


PLUGIN = dinov2_safetensors
