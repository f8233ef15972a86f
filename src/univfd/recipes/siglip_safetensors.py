"""SigLIP's image tower from a `.safetensors` file (Hugging Face names) -> an ONNX graph, without PyTorch.

The network is Zhai et al. 2023 (arXiv 2303.15343), whose second version (arXiv 2502.14786) has the same image tower at
a fixed size: patches with learned positions and no class token, pre-norm blocks with tanh-approximated GELU, a final
norm, and a head in which one learned query (the probe) attends to all tokens.
"""

from __future__ import annotations

from pathlib import Path

from ..catalogue import Entry
from ._builder import Builder, convert, gelu_tanh

_EPSILON = 1e-6


def siglip_safetensors(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. `recipe_options`: `heads`, `patch` (pixels).

    Raises:
        FormatError: the file does not hold the network that the entry describes.
    """
    convert(published, entry, out, _EPSILON, _network, prefix=0)


def _network(make: Builder) -> None:
    stem = "vision_model.embeddings"
    patches = make.patches(f"{stem}.patch_embedding", bias=True)
    position = make.weight(f"{stem}.position_embedding.weight", (make.grid**2, make.width))
    tokens = make.blocks(make.add("Add", [patches, make.constant("position", position)]), gelu_tanh)
    _head(make, make.norm(tokens, "vision_model.post_layernorm"), "vision_model.head")


def _head(make: Builder, tokens: str, at: str) -> None:
    """`(N, T, W)` -> `proj` `(N, W)`."""
    width, heads = make.width, make.options["heads"]
    joined = make.weight(f"{at}.attention.in_proj_weight", (3 * width, width))
    biases = make.weight(f"{at}.attention.in_proj_bias", (3 * width,))
    probe = make.weight(f"{at}.probe", (1, 1, width))[0, 0]
    # The query is the same for every picture: its product is taken here.
    query = (joined[:width] @ probe + biases[:width]) * (width // heads) ** -0.5
    key, value = (
        make.heads(make.affine(tokens, f"head.{name}", joined[rows], biases[rows]))
        for name, rows in (("key", slice(width, 2 * width)), ("value", slice(2 * width, 3 * width)))
    )
    mixed = make.attended(make.constant("head.query", query.reshape(1, heads, 1, width // heads)), key, value)
    mixed = make.add("Reshape", [mixed, make.ints("head.join", 0, width)])
    mixed = make.linear(mixed, f"{at}.attention.out_proj", width, width)
    inner = make.mlp(make.norm(mixed, f"{at}.layernorm"), f"{at}.mlp", gelu_tanh)
    make.add("Add", [mixed, inner], name="proj")


PLUGIN = siglip_safetensors
