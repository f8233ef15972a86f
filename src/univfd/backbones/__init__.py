"""Frozen encoders behind one narrow waist: `Backbone.embed`.

An engine is one file of this folder: `(entry, taps, threads, progress) -> Backbone`. What an encoder is comes from
its catalogue entry, so that a new encoder of a known engine is one TOML file. An engine whose encoders have names of
their own (`SCHEMES`) is `(name, taps, threads, device) -> Backbone`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .. import engines, registry
from ..catalogue import Entry, entry
from ..downloads import Progress
from ..errors import UsageError
from ..machine import cpus
from ..parity import Parity
from ..types import FeatureSpace, FloatArray, Pixels
from ..views import PreprocessSpec

SCHEMES = {"timm": "timm", "openclip": "open_clip"}
"""Names `SCHEME:...` of encoders that a library has, not the catalogue, and the library; their engine is `torch`."""

_LIBRARIES_ENGINE, _GRAPH_ENGINE = "torch", "onnx"


class Backbone(Protocol):
    """A frozen encoder, opened for certain taps."""

    entry: Entry
    taps: tuple[str, ...]

    def embed(self, crops: Pixels) -> FloatArray:
        """Encode crops.

        Args:
            crops: `(N, S, S, 3)` uint8, S = `entry.preprocess.size`.

        Returns:
            `(N, D)` float32: the taps' values side by side, not normalised. Row i depends on crop i alone.
        """
        ...


@runtime_checkable
class PatchBackbone(Backbone, Protocol):
    """An encoder that also shows its patches. Engines need not have this; whoever wants it checks with `isinstance`."""

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """Encode crops up to a block and keep the patches apart.

        Args:
            crops: `(N, S, S, 3)` uint8, S = `entry.preprocess.size`.
            block: counted from 1; the mean of its patch tokens is the tap `mean.block`.

        Returns:
            `(N, g, g, W)` float32: g x g patches from top left, each a cell of S/g pixels; W values each.

        Raises:
            UnknownNameError: no such block.
            UsageError: crops of another size or type, or patches that are no square grid.
        """
        ...


@runtime_checkable
class EngineBackbone(Backbone, Protocol):
    """An encoder whose graph runs on one of several engines.

    Attributes:
        engine: its name.
        parity: its vectors beside the reference's; None for the reference.
    """

    engine: str
    parity: Parity | None


def open_backbone(
    name: str | Path,
    *,
    taps: Sequence[str] = ("proj",),
    threads: int | None = None,
    progress: Progress | None = None,
    device: str | None = None,
    engine: str | None = None,
) -> Backbone:
    """Open an encoder, fetching its weights at first use.

    Args:
        name: catalogue name, a folder with `backbone.toml`, or, with the extra `timm`, `timm:MODEL[:TAG]` or
            `openclip:MODEL:TAG`.
        taps: layers to give, side by side: `proj` (the projected embedding, the paper's feature), `cls.i` (CLS token
            after block i, counted from 1), `mean.i` (mean of its patch tokens), `cls.i@k` (CLS token after block i;
            patch tokens stand still after block k < i - 1), `mlp.i` and `mlp.i@k` (the class token's units in the MLP
            of block i, after their activation). The last three are of encoders with a graph. Blocks after the last tap
            are not computed.
        threads: for the encoder; default: the CPUs this process may use.
        progress: called while downloading.
        device: `cpu`, `cuda` or `auto`, for `timm:` and `openclip:`; default: `UNIVFD_DEVICE`, else `auto`.
        engine: what computes the graph of the other encoders: a name of `univfd.engines.ENGINES`, or `auto`; default:
            `UNIVFD_ENGINE`, else `cpu`. `timm:` and `openclip:` have `torch` alone.

    Raises:
        UnknownNameError: no such backbone or tap.
        UsageError: no taps, or a device or engine that this backbone cannot use.
        MissingExtraError: its engine needs a package that is not installed.
        EngineError: the engine that was named does not start, or computes wrong vectors on this machine.
        WeightsError: see `univfd.weights.ensure`.
    """
    scheme, colon, _ = str(name).partition(":")
    if colon and scheme in SCHEMES:
        if not taps:
            raise UsageError(f"no taps were asked for; {name} has proj")
        if importlib.util.find_spec(SCHEMES[scheme]) is None:
            raise registry.missing_extra(f"a backbone {scheme}:...", ModuleNotFoundError(name=SCHEMES[scheme]))
        if engine not in {None, engines.AUTO, _LIBRARIES_ENGINE}:
            raise UsageError(f"{name} runs on PyTorch; engine {engine!r} is for encoders with a graph")
        make: Any = registry.load("backbones", _LIBRARIES_ENGINE)
        named: Backbone = make(str(name), tuple(taps), threads or cpus(), device)
        return named
    described = entry(name)
    for tap in taps:
        described.tap_dim(tap)
    if not taps:
        raise UsageError(f"no taps were asked for; {described.name} has: {', '.join(described.taps)}")
    if device not in {None, "auto", "cpu"}:
        raise UsageError(f"{described.name}: device {device!r} is for timm: and openclip: names; name an engine")
    if described.engine == _LIBRARIES_ENGINE:
        raise UsageError(f"{described.name}: the engine {described.engine!r} has no entries; give a name timm:MODEL")
    if described.engine == _GRAPH_ENGINE:
        from ._gate import open_prepared

        return open_prepared(described, tuple(taps), threads or cpus(), progress, engines.asked(engine))
    if described.engine in {name for e in engines.ENGINES.values() for name in (e.name, e.file)}:
        raise UsageError(f"{described.name}: write engine = 'onnx', and name {described.engine!r} when it is opened")
    if engine not in {None, engines.AUTO, described.engine}:
        raise UsageError(f"{described.name} is computed by {described.engine!r} alone, not by {engine!r}")
    opened: Backbone = registry.load("backbones", described.engine)(described, tuple(taps), threads or cpus(), progress)
    return opened


def check_crops(crops: Pixels, described: Entry) -> None:
    """Refuse crops of another size or type than the encoder takes.

    Raises:
        UsageError: says what was got and what was expected.
    """
    size = described.preprocess.size
    if crops.ndim != 4 or crops.shape[1:] != (size, size, 3) or crops.dtype != np.uint8:
        raise UsageError(f"crops of shape {crops.shape} and type {crops.dtype}; expected (N, {size}, {size}, 3) uint8")


def square_grid(tokens: FloatArray, described: Entry) -> FloatArray:
    """Patch tokens `(N, g * g, W)` -> `(N, g, g, W)`.

    Raises:
        UsageError: they are no square grid.
    """
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise UsageError(f"{described.name} has {tokens.shape[1]} patch tokens, which are no square grid")
    return np.ascontiguousarray(tokens.reshape(len(tokens), side, side, -1), dtype=np.float32)


class _FirstTaps:
    """See `first_taps`; it computes all of them, and is a `Backbone` alone, whatever the other can do besides."""

    def __init__(self, backbone: Backbone, taps: int) -> None:
        self._backbone = backbone
        self.entry, self.taps = backbone.entry, backbone.taps[:taps]
        self._dim = sum(map(self.entry.tap_dim, self.taps))

    def embed(self, crops: Pixels) -> FloatArray:
        """See `Backbone.embed`."""
        return np.ascontiguousarray(self._backbone.embed(crops)[:, : self._dim])


def first_taps(backbone: Backbone, taps: int) -> Backbone:
    """An opened encoder that gives the values of so many of its taps, the first; itself where it has no more."""
    return backbone if taps >= len(backbone.taps) else _FirstTaps(backbone, taps)


def feature_space(described: Entry, taps: Sequence[str], view: str, crops_side_by_side: int = 1) -> FeatureSpace:
    """The space of the vectors that this encoder gives under this view.

    Args:
        described: the backbone's entry.
        taps: as given to `open_backbone`.
        view: the view's name.
        crops_side_by_side: 1 where the crops' embeddings are averaged, their number where they are concatenated.
    """
    return FeatureSpace(
        backbone=described.name,
        weights=described.sha256,
        taps=tuple(taps),
        view=view,
        preprocessing=described.preprocess.digest(described.preparation + described.lossy),
        dim=sum(described.tap_dim(t) for t in taps) * crops_side_by_side,
    )


__all__ = [
    "Backbone",
    "EngineBackbone",
    "Entry",
    "PatchBackbone",
    "PreprocessSpec",
    "check_crops",
    "cpus",
    "feature_space",
    "first_taps",
    "open_backbone",
    "square_grid",
]
