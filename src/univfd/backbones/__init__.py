"""Frozen encoders behind one narrow waist: `Backbone.embed`.

An engine is one file of this folder: `(entry, taps, threads, progress) -> Backbone`. What an encoder is comes from
its catalogue entry, so that a new encoder of a known engine is one TOML file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .. import registry
from ..catalogue import Entry, entry
from ..downloads import Progress
from ..errors import UsageError
from ..types import FeatureSpace, FloatArray, Pixels
from ..views import PreprocessSpec


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


def open_backbone(
    name: str | Path,
    *,
    taps: Sequence[str] = ("proj",),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Backbone:
    """Open an encoder, fetching its weights at first use.

    Args:
        name: catalogue name, or a folder with `backbone.toml`.
        taps: layers to give, side by side: `proj` (the projected embedding, the paper's feature), `cls.i` (CLS token
            after block i, counted from 1), `mean.i` (mean of its patch tokens). Blocks after the last tap are not
            computed.
        threads: for the encoder; default: the CPUs this process may use.
        progress: called while downloading.

    Raises:
        UnknownNameError: no such backbone or tap.
        WeightsError: see `univfd.weights.ensure`.
    """
    described = entry(name)
    for tap in taps:
        described.tap_dim(tap)
    if not taps:
        raise UsageError(f"no taps were asked for; {described.name} has: {', '.join(described.taps)}")
    engine: Any = registry.load("backbones", described.engine)
    opened: Backbone = engine(described, tuple(taps), threads or cpus(), progress)
    return opened


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        preprocessing=described.preprocess.digest(described.preparation),
        dim=sum(described.tap_dim(t) for t in taps) * crops_side_by_side,
    )


__all__ = ["Backbone", "Entry", "PatchBackbone", "PreprocessSpec", "cpus", "feature_space", "open_backbone"]
