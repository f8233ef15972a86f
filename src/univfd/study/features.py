"""Frozen features of a study's images, kept between runs, and the pictures themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..backbones import Backbone, cpus
from ..embedding import NO_MEMORY, space_of
from ..embedding_cache import EmbeddingCache, Keyed, embed_missing
from ..errors import InputError, MissingExtraError
from ..images import DEFAULT_MAX_PIXELS, decode
from ..perturbations import perturbation
from ..pipeline import ordered_map
from ..types import Failure, FeatureSpace, FloatArray, ImageRef, Pixels
from ..views import View
from .data import Data, Rows

Watch = Callable[[str, int, int], None]
"""`(what, done, in all)`; called often."""


@dataclass(frozen=True)
class Work:
    """How images are worked on.

    Attributes:
        batch_size: images a batch of the encoder; default: sized for the machine.
        workers: reading and decoding threads; default: one per CPU.
        max_pixels: larger images are refused.
        watch: told how far it is.
    """

    batch_size: int | None = None
    workers: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    watch: Watch = lambda *_: None


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder under a view; each image is embedded once, see `univfd.embedding_cache`.

    Attributes:
        backbone: the encoder, opened for its taps.
        view: how crops are cut.
        perturb: laid on every picture first.
        cache: folder of all kept embeddings; None: the user's.
        work: how.
    """

    backbone: Backbone
    view: View
    perturb: str = "clean"
    cache: Path | None = None
    work: Work = field(default_factory=Work)

    @cached_property
    def space(self) -> FeatureSpace:
        """Of the vectors."""
        return space_of(self.backbone, self.view)

    def embed(self, data: Data, rows: Rows | None = None, *, then: str = "") -> FloatArray:
        """Vectors `(n, D)` of the images at `(n,)` rows (default: all); nan in the row of one that failed.

        Args:
            data: the images.
            rows: which.
            then: another perturbation, after the encoder's own.
        """
        wanted = np.arange(len(data)) if rows is None else rows
        vectors, failures = self._embed(data, wanted, then)
        found = np.full((len(wanted), self.space.dim), np.nan, np.float32)
        found[[f is None for f in failures]] = vectors
        return found

    def failures(self, data: Data) -> list[Failure | None]:
        """For each image why it cannot be embedded, or None."""
        return self._embed(data, np.arange(len(data)), "")[1]

    def slice_of(self, tap: str) -> slice:
        """Columns of a tap (of a view that gives one crop or their mean)."""
        taps, entry = self.backbone.taps, self.backbone.entry
        start = sum(entry.tap_dim(t) for t in taps[: taps.index(tap)])
        return slice(start, start + entry.tap_dim(tap))

    def _embed(self, data: Data, rows: Rows, then: str) -> tuple[FloatArray, list[Failure | None]]:
        kept = EmbeddingCache(self.space, chained(self.perturb, then), self.cache)
        images = [Keyed(data.samples[i].ref, data.keys[i]) for i in rows]
        what = f"{kept.perturb}: embedding with {self.space.backbone} {_short(self.space.taps)} {self.space.view}"
        done, total = 0, len({i.sha256 for i in images})

        def advance(n: int) -> None:
            nonlocal done
            done += n
            self.work.watch(what, done, total)

        work = self.work
        failed = embed_missing(
            kept, self.backbone, self.view, images, on_done=advance,
            batch_size=work.batch_size, workers=work.workers, max_pixels=work.max_pixels,
        )  # fmt: skip
        batch = kept.batch(images, failed)
        return batch.embeddings.vectors, [item if isinstance(item, Failure) else None for item in batch.items]


def chained(*chains: str) -> str:
    """Perturbations after one another, as one chain."""
    return "+".join(c for c in chains if c not in {"", "clean"}) or "clean"


def pictures(data: Data, rows: Rows, perturb: str, work: Work) -> Iterator[Pixels | Failure]:
    """Decoded pictures, one after the other, in bounded memory."""
    lay = perturbation(perturb)

    def load(ref: ImageRef) -> Pixels | Failure:
        try:
            return lay(decode(ref, max_pixels=work.max_pixels).pixels)
        except (InputError, MissingExtraError) as error:
            return Failure(ref.name, error.code, str(error))
        except MemoryError:
            return Failure(ref.name, InputError.code, NO_MEMORY)

    workers = work.workers or cpus()
    refs = [data.samples[i].ref for i in rows]
    loaded = ordered_map(load, refs, workers=workers, ahead=2 * workers)
    for n, picture in enumerate(loaded, start=1):
        yield picture
        work.watch("decoding", n, len(refs))


def _short(taps: tuple[str, ...]) -> str:
    return "+".join(taps) if len(taps) < 4 else f"{len(taps)} taps"
