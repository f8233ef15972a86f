"""Image towers of timm and OpenCLIP, each with its own library's preprocessing.

Names: `timm:MODEL`, `timm:MODEL:TAG`, `openclip:MODEL:TAG`; `MODEL@SIZE` asks for another input size. A `TAG` that ends
in `.safetensors` is a file of this machine; the tag `random` gives seeded random weights, for tests.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .. import registry
from ..downloads import offline
from ..errors import DownloadError, FormatError, OfflineError, UsageError
from ..views import PreprocessSpec

log = logging.getLogger(__name__)

RANDOM = "random"
_SEED = 0
_NAME = re.compile(r"(?P<scheme>timm|openclip):(?P<model>[^:@]+)(?:@(?P<size>\d+))?(?::(?P<tag>.+))?")


@dataclass(frozen=True)
class Asked:
    """A name, taken apart."""

    scheme: str
    model: str
    size: int | None
    tag: str

    @property
    def file(self) -> Path | None:
        """The checkpoint of this machine that was asked for."""
        is_path = "/" in self.tag or "\\" in self.tag or self.tag.endswith(".safetensors")
        return Path(self.tag).expanduser().resolve() if is_path else None


@dataclass(frozen=True)
class Tower:
    """An image tower that has been built.

    Attributes:
        name: by which it is known in feature spaces; a checkpoint's folder is no part of it.
        reopen: by which `open_backbone` finds it again, where that is not the name.
        model: `(N, 3, S, S)` -> `(N, P)`.
        blocks: transformer blocks, in order; empty where the model has none that can be tapped.
        prefix: tokens before the patch tokens.
        has_cls: whether the first of them is a class token.
        batch_first: whether the blocks' tokens are `(N, T, W)`, not `(T, N, W)`.
        preprocess: from the library's own configuration.
    """

    name: str
    reopen: str
    model: Any
    blocks: tuple[Any, ...]
    prefix: int
    has_cls: bool
    batch_first: bool
    preprocess: PreprocessSpec


def build(name: str) -> Tower:
    """Build a tower by its name, fetching its weights through its library at first use.

    Raises:
        UsageError: not such a name, or a model that cannot be had that way.
        UnknownNameError: the library has no such model or tag.
        DownloadError: the library could not deliver the weights.
        OfflineError: `UNIVFD_OFFLINE` is set and the weights are no file of this machine.
        FormatError: a checkpoint does not fit the model.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise UsageError(f"{name!r}: expected timm:MODEL, timm:MODEL:TAG or openclip:MODEL:TAG, MODEL@SIZE for a size")
    asked = Asked(found["scheme"], found["model"], int(found["size"]) if found["size"] else None, found["tag"] or "")
    file = asked.file
    if asked.size == 0:
        raise UsageError(
            f"{name!r}: crops of 0 pixels show nothing; expected a size above 0, or none for the model's own"
        )
    if file and (file.suffix != ".safetensors" or not file.is_file()):
        raise UsageError(f"{name!r}: {file} is no .safetensors file; pickled checkpoints are not read")
    if not file and asked.tag != RANDOM and offline():
        raise OfflineError(f"UNIVFD_OFFLINE forbids {name!r} to fetch weights; give a file, {asked.scheme}:MODEL:FILE")
    # Random weights must not move the caller's own random numbers.
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return _timm(asked) if asked.scheme == "timm" else _openclip(asked)


def _timm(asked: Asked) -> Tower:
    timm = _imported("timm")
    arch, _, tag = asked.model.partition(".")
    own = asked.tag if asked.file or asked.tag == RANDOM else ""
    tag = tag if own else asked.tag or tag
    if arch not in timm.list_models():
        raise registry.unknown("timm model", arch, timm.list_models())
    full = f"{arch}.{tag}" if tag else arch
    if full not in (known := [arch, *timm.list_models(f"{arch}.*", pretrained=True)]):
        raise registry.unknown(f"pretrained {arch} of timm", full, known)
    sized = {"img_size": asked.size} if asked.size else {}
    with _library_errors(full, asked, fetches=not own):
        model = timm.create_model(full, pretrained=not own, num_classes=0, **sized)
    if asked.file:
        module = sys.modules[timm.models.model_entrypoint(arch).__module__]
        _fill(model, asked.file, getattr(module, "checkpoint_filter_fn", None))
    given = model.pretrained_cfg.get("tag") or ""
    canonical = arch if own or not given else f"{arch}.{given}"
    config = timm.data.resolve_model_data_config(model)
    size = asked.size or _square(config["input_size"][1:], full)
    spec = PreprocessSpec(size, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
    return _tower(_names(asked, canonical), model, model, spec)


def _tower(names: tuple[str, str], model: Any, trunk: Any, spec: PreprocessSpec) -> Tower:
    """A tower that is, or has inside it, a model of timm."""
    blocks, prefix = tuple(getattr(trunk, "blocks", ())), getattr(trunk, "num_prefix_tokens", 0)
    return Tower(*names, model, blocks, prefix, getattr(trunk, "cls_token", None) is not None, True, spec)


def _openclip(asked: Asked) -> Tower:
    library = _imported("open_clip")
    if asked.model not in library.list_models():
        raise registry.unknown("OpenCLIP model", asked.model, library.list_models())
    tags = library.list_pretrained_tags_by_model(asked.model)
    if not asked.file and asked.tag not in {RANDOM, *tags}:
        raise registry.unknown(f"pretrained {asked.model} of OpenCLIP", asked.tag, tags)
    weights = None if asked.tag == RANDOM else str(asked.file or asked.tag)
    if weights and not asked.file:
        _check_activation(library, asked)
    with _library_errors(f"{asked.model}:{asked.tag}", asked, fetches=bool(weights) and not asked.file):
        whole = library.create_model(asked.model, pretrained=weights, force_image_size=asked.size)
    visual = whole.visual
    config = visual.preprocess_cfg
    size = _square(config["size"], asked.model)
    spec = PreprocessSpec(size, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
    names = _names(asked, asked.model)
    if hasattr(visual, "trunk"):
        return _tower(names, visual, visual.trunk, spec)
    transformer = getattr(visual, "transformer", None)
    blocks = tuple(getattr(transformer, "resblocks", ()))
    return Tower(*names, visual, blocks, 1, True, getattr(transformer, "batch_first", True), spec)


def _check_activation(library: Any, asked: Asked) -> None:
    """The library only warns where the model's activation is not the one that the weights were trained with."""
    wanted = bool((library.get_pretrained_cfg(asked.model, asked.tag) or {}).get("quick_gelu"))
    got = bool((library.get_model_config(asked.model) or {}).get("quick_gelu"))
    if wanted and not got:
        raise UsageError(
            f"{asked.model} has another activation than the weights {asked.tag!r} were trained with; take "
            f"openclip:{asked.model}-quickgelu:{asked.tag}"
        )


def _names(asked: Asked, model: str) -> tuple[str, str]:
    """Name in feature spaces, and what to open it by."""
    start = f"{asked.scheme}:{model}" + (f"@{asked.size}" if asked.size else "")
    if asked.file:
        return f"{start}:{asked.file.name}", f"{start}:{asked.file}"
    own = asked.tag and (asked.scheme == "openclip" or asked.tag == RANDOM)
    return f"{start}:{asked.tag}" if own else start, ""


def _fill(model: Any, file: Path, convert: Callable[[Any, Any], Any] | None) -> None:
    """Load a checkpoint; every tensor of the model must be in it, since a missing one would stay random."""
    try:
        state = load_file(str(file))
        state = convert(state, model) if convert else state
        missing = model.load_state_dict(state, strict=False).missing_keys
    except Exception as error:  # the library's own conversion looks into tensors of any shape
        raise FormatError(f"{file} does not fit the model: {str(error)[:300]}") from error
    if missing:
        raise FormatError(f"{file} does not fit the model: it lacks {len(missing)} tensors, {missing[0]} first")


@contextmanager
def _library_errors(what: str, asked: Asked, *, fetches: bool) -> Iterator[None]:
    """Say which weights are fetched, and make what the library raises one of our errors."""
    if fetches:
        log.warning("taking the weights of %s from its library's cache, or downloading them once", what)
    try:
        yield
    except Exception as error:
        # What a library and its HTTP client raise is not part of their contracts.
        said = str(error)[:300]
        if asked.size and isinstance(error, TypeError):  # the model's code takes no size
            raise UsageError(f"{what} cannot be built for input size {asked.size}: {said}") from error
        if fetches:
            raise DownloadError(f"the weights of {what} could not be fetched or loaded: {said}") from error
        raise FormatError(f"{what} could not be built: {said}") from error


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # torchvision, which both libraries import, raises whatever comes where it was built for another PyTorch.
        raise UsageError(
            f"{module} is installed but cannot be imported: {str(error)[:300]}. Are torch and torchvision of releases "
            "that belong together?"
        ) from error


def _square(size: Any, what: str) -> int:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(set(sides)) != 1:
        raise UsageError(f"{what} takes crops of {sides}; only square ones are cut here")
    return int(sides[0])
