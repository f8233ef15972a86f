"""The networks that can be trained, by name: `resnet50`, `small`, `clip`, `clip:BACKBONE`, `timm:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import registry
from ..catalogue import entry
from ..downloads import offline
from ..errors import DownloadError, FormatError, OfflineError, UsageError
from ..torchfile import read_tensors
from ..views import PreprocessSpec
from ..weights import GRAPH, ensure
from . import CLIP
from ._clip import ClipTower, weights_of
from ._resnet import ResNet

HUB = "hub"
_IMAGENET = PreprocessSpec(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")
_HEAD_SPREAD = 0.02  # of the last layer's first weights, as in Wang et al.'s code
_HEAD_WIDTH = 64  # of CLIP's attention heads, in all of its sizes


@dataclass(frozen=True)
class Network:
    """A network without its last layer, that layer, and what a backbone's entry must say of it.

    Attributes:
        name: as it was asked for.
        title: for people.
        encoder: `(N, 3, S, S)` normalised -> `(N, D)`.
        head: `(N, D)` -> `(N, 1)`, the logit of fake.
        preprocess: what the encoder wants.
        recipe: which makes a graph of the encoder's weights; empty: PyTorch exports it.
        lr: learning rate that the paper gives for such a network.
        options: of the recipe.
        blocks: transformer blocks that can be tapped.
        width: of their tokens.
        prefix: tokens before the patch tokens.
    """

    name: str
    title: str
    encoder: nn.Module
    head: nn.Linear
    preprocess: PreprocessSpec
    recipe: str
    lr: float = 1e-4
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: int = 0
    width: int = 0
    prefix: int = 0

    def whole(self) -> nn.ModuleDict:
        """Both parts, for the optimiser and the checkpoints."""
        return nn.ModuleDict({"encoder": self.encoder, "head": self.head})

    def logits(self, x: Tensor) -> Tensor:
        """`(N, 3, S, S)` normalised -> `(N,)`."""
        out: Tensor = self.head(self.encoder(x)).squeeze(1)
        return out


def build(arch: str, pretrained: str | None = None) -> Network:
    """A network to train; its last layer, and what `pretrained` does not give, is random (PyTorch's generator).

    Args:
        arch: its name.
        pretrained: file of weights to begin with, `.safetensors` or a PyTorch state dict (`.pth`), of the network's own
            names (torchvision's for `resnet50`, the hub's for `clip`); `hub`: what timm fetches. CLIP begins with its
            own weights where none are given, the others at random.

    Raises:
        UnknownNameError: no such network.
        FormatError: weights that do not fit.
        MissingExtraError: timm is not installed.
        OfflineError, DownloadError: weights that cannot be fetched.
    """
    kind, _, name = arch.partition(":")
    if kind not in _KINDS or (bool(name) != (kind == "timm") and kind != "clip"):
        raise registry.unknown("network", arch, [*_KINDS, "timm:NAME", "clip:BACKBONE"])
    if pretrained == HUB and kind != "timm":
        raise UsageError(f"--pretrained {HUB} is for networks of timm; give {arch} a file of weights")
    return _KINDS[kind](name, pretrained)


def _resnet50(name: str, pretrained: str | None) -> Network:
    return _resnet("resnet50", "ResNet-50", ResNet((3, 4, 6, 3)), pretrained)


def _small(name: str, pretrained: str | None) -> Network:
    return _resnet("small", "ResNet-14 of a quarter of the width", ResNet((1, 1, 1, 1), 16), pretrained)


def _resnet(name: str, title: str, encoder: ResNet, pretrained: str | None) -> Network:
    if pretrained:
        state = {k: v for k, v in _read(Path(pretrained)).items() if not k.startswith("fc.")}
        _fill(encoder, state, pretrained)
    return Network(name, title, encoder, _head(encoder, _IMAGENET), _IMAGENET, "resnet-safetensors")


def _clip(name: str, pretrained: str | None) -> Network:
    described = entry(name or CLIP)
    if pretrained:
        state = {k: v for k, v in _read(Path(pretrained)).items() if k.startswith(("vision_model.", "visual_"))}
        state.pop("vision_model.embeddings.position_ids", None)
    else:
        state = weights_of(ensure(described) / GRAPH)
    kernel = state.get("vision_model.embeddings.patch_embedding.weight")
    if kernel is None:
        raise FormatError(f"{pretrained or described.name} holds no image tower of CLIP")
    heads, patch = described.recipe_options.get("heads", described.width // _HEAD_WIDTH), int(kernel.shape[-1])
    encoder = ClipTower(
        size=described.preprocess.size, patch=patch, width=described.width, blocks=described.blocks, heads=heads,
        proj=described.proj,
    )  # fmt: skip
    _fill(encoder, state, pretrained or described.name)
    return Network(
        name=f"clip:{described.name}",
        title=f"{described.title}, trained from end to end",
        encoder=encoder,
        head=_head(encoder, described.preprocess),
        preprocess=described.preprocess,
        recipe="clip-safetensors",
        lr=5e-5,
        options={"heads": heads, "patch": patch, "activation": "quick_gelu"},
        blocks=described.blocks,
        width=described.width,
        prefix=described.prefix,
    )


def _timm(name: str, pretrained: str | None) -> Network:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise registry.missing_extra(f"the network timm:{name}", error) from error
    if name.partition(".")[0] not in timm.list_models():
        raise registry.unknown("network of timm", name, timm.list_models())
    if pretrained == HUB and offline():
        raise OfflineError(f"UNIVFD_OFFLINE forbids to fetch the weights of timm:{name}; give a file")
    try:
        encoder = timm.create_model(name, pretrained=pretrained == HUB, num_classes=0)
    except Exception as error:  # what the library and its HTTP client raise is not part of their contracts
        kind = DownloadError if pretrained == HUB else UsageError
        raise kind(f"timm:{name} could not be made: {str(error)[:300]}") from error
    if pretrained and pretrained != HUB:
        _fill(encoder, _read(Path(pretrained)), pretrained, spare=True)
    config = timm.data.resolve_model_data_config(encoder)
    sides = tuple(config["input_size"][1:])
    if sides[0] != sides[1]:
        raise UsageError(f"timm:{name} takes crops of {sides}; only square ones are cut here")
    spec = PreprocessSpec(sides[0], tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
    return Network(f"timm:{name}", f"{name} of timm", encoder, _head(encoder, spec), spec, "")


def _head(encoder: nn.Module, spec: PreprocessSpec) -> nn.Linear:
    """The last layer, as wide as the encoder's answer to a blank crop."""
    was = encoder.training
    try:
        with torch.no_grad():
            shape = tuple(encoder.eval()(torch.zeros(1, 3, spec.size, spec.size)).shape)
    except Exception as error:  # the network's own code says in its own way which sizes it takes
        said = str(error)[:300] or type(error).__name__
        raise UsageError(f"the network takes no crop of {spec.size} x {spec.size} pixels: {said}") from error
    encoder.train(was)
    if len(shape) != 2:
        raise UsageError(f"the network gives {shape} for one crop; expected (1, D)")
    head = nn.Linear(shape[1], 1)
    nn.init.normal_(head.weight, 0.0, _HEAD_SPREAD)
    nn.init.zeros_(head.bias)
    return head


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UsageError(f"--pretrained {file}: no such file")
    if file.suffix != ".safetensors":
        return {name: torch.from_numpy(values) for name, values in read_tensors(file).items()}
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{file} cannot be read: {error}") from error


def _fill(encoder: nn.Module, state: dict[str, Tensor], where: str, *, spare: bool = False) -> None:
    """Load weights; a missing one would stay random, a spare one is another network's unless that is allowed."""
    try:
        missing, unexpected = encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise FormatError(f"{where} does not fit the network: {str(error)[:300]}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or (unexpected and not spare):
        what = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the network has not"
        raise FormatError(f"{where} does not fit the network: it {what}")


_KINDS: dict[str, Callable[[str, str | None], Network]] = {
    "resnet50": _resnet50,
    "small": _small,
    "clip": _clip,
    "timm": _timm,
}
