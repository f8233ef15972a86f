"""CLIP's image tower from a `.safetensors` file (Hugging Face names) -> an ONNX graph, without PyTorch.

The network is Radford et al. 2021 (arXiv 2103.00020): patch convolution, class token, learned positions, pre-norm
transformer blocks with QuickGELU, a final norm on the class token and a projection.
"""

from __future__ import annotations

from pathlib import Path

from ..catalogue import Entry
from ..errors import FormatError
from ._builder import Builder, convert, quick_gelu

_EPSILON = 1e-5


def clip_safetensors(published: Path, entry: Entry, out: Path) -> None:
    """The recipe. `recipe_options`: `heads`, `patch` (pixels), `activation` (only `quick_gelu`).

    Raises:
        FormatError: the file does not hold the network that the entry describes.
    """
    activation = entry.recipe_options.get("activation")
    if activation != "quick_gelu":
        raise FormatError(f"{entry.name}: activation {activation!r}; expected 'quick_gelu'")
    convert(published, entry, out, _EPSILON, _network, prefix=1, options=frozenset({"activation"}))


def _network(make: Builder) -> None:
    width, stem = make.width, "vision_model.embeddings"
    patches = make.patches(f"{stem}.patch_embedding", bias=False)
    tokens = make.class_token(make.weight(f"{stem}.class_embedding", (width,)), patches)
    position = make.weight(f"{stem}.position_embedding.weight", (make.grid**2 + 1, width))
    tokens = make.add("Add", [tokens, make.constant("position", position)])
    tokens = make.blocks(make.norm(tokens, "vision_model.pre_layrnorm"), quick_gelu)
    cls = make.add("Gather", [tokens, make.ints("first", 0)], axis=1)
    cls = make.norm(cls, "vision_model.post_layernorm")
    projection = make.weight("visual_projection.weight", (make.entry.proj, width)).T
    make.add("MatMul", [cls, make.constant("visual_projection", projection)], name="proj")


PLUGIN = clip_safetensors
