"""The first half of the line: source - ImageRef - decode - perturb - view - `Backbone.embed` - Embeddings.

`Detector.detect`, `univfd embed`, `fit` and `bank build` all start here; there is no second way to make a vector.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .backbones import Backbone, cpus, feature_space
from .blas import one_thread
from .conditions import conditions
from .errors import EngineError, InputError, MissingExtraError, UsageError
from .images import DEFAULT_MAX_PIXELS, decode
from .perturbations import perturbation
from .pipeline import Budget, batched, ordered_map
from .remarks import Remark
from .sources import Source, expand
from .types import Embeddings, Failure, FeatureSpace, FloatArray, ImageRef, Pixels
from .views import View, view

_IMAGES_PER_CPU = 4
_MAX_BATCH = 32
_PIXELS_AT_A_TIME = 128_000_000  # of pictures that are in memory at full size; four bytes each
_WAITING_BYTES = 256 << 20  # of crops that wait for the encoder
_MAX_PIECE = 64 * 224 * 224 * 3  # bytes of crops that go through the encoder at a time, whatever the view's number
_NO_PIXELS: Pixels = np.empty((0, 0, 3), np.uint8)

NO_MEMORY = "not enough memory to decode it; lower --max-pixels or --workers"
"""What a failure says of a picture that the memory did not hold."""

OnPixels = Callable[[ImageRef, Pixels], None]
"""Sees the full-size pixels `(H, W, 3)` of an image before they are let go."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is ready for the encoder; its full-size pixels are already let go.

    Attributes:
        name: the input's name.
        sha256: of the encoded bytes; empty for pixels.
        format: of the file; empty for pixels.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        conditions: degradations that void a promise; see `univfd.conditions`.
        notes: what decoding and the view have to say.
        crops: `(n, S, S, 3)` uint8.
        seconds: wall time of reading, decoding and cutting.
    """

    name: str
    sha256: str
    format: str
    width: int
    height: int
    conditions: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    crops: Pixels
    seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs in order, and the embeddings of those that could be loaded.

    Attributes:
        items: one `Loaded` or `Failure` per input.
        embeddings: one row per `Loaded`, in the same order.
        seconds: wall time of the encoder.
    """

    items: tuple[Loaded | Failure, ...]
    embeddings: Embeddings
    seconds: float

    @property
    def loaded(self) -> list[Loaded]:
        """The items that have an embedding."""
        return [i for i in self.items if isinstance(i, Loaded)]

    def first(self, space: FeatureSpace) -> Batch:
        """The batch in a space of only the first layers of its own; itself where that is its own.

        Raises:
            FeatureSpaceError: it is no such space: of other layers or another encoder; or crops lie side by side.
        """
        own = self.embeddings.space
        if space == own:
            return self
        side_by_side = view(own.view).pool == "concat"
        first = own if side_by_side else replace(own, taps=own.taps[: len(space.taps)], dim=min(own.dim, space.dim))
        first.require(space, "the layers asked for")
        vectors = np.ascontiguousarray(self.embeddings.vectors[:, : space.dim])
        return replace(self, embeddings=Embeddings(vectors, space))


def embed_images(
    backbone: Backbone,
    view: View,
    images: Source | Iterable[Source],
    *,
    perturb: str = "clean",
    batch_size: int | None = None,
    workers: int | None = None,
    streams: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_pixels: OnPixels | None = None,
) -> Iterator[Batch]:
    """Embed any number of images; decoding runs in threads while the encoder works, in bounded memory.

    Args:
        backbone: the encoder.
        view: how crops are cut; see `univfd.views.view`.
        images: see `univfd.sources.expand`.
        perturb: chain of perturbations laid on the pixels first, see `univfd.perturbations.perturbation`.
        batch_size: images a batch; default: sized for the machine, see `default_batch`.
        workers: decoding threads; default: one per CPU.
        streams: batches that the encoder works on at a time, each with the threads that it was opened for. Several
            narrow streams can be faster than one wide one; `univfd.tuning` measures it.
        max_pixels: see `univfd.images.decode`.
        on_pixels: called in the loading threads with each reference and the pixels that the crops are cut from.

    Yields:
        Batches in the order of the inputs. An input that cannot be read is a `Failure` in its place.
    """
    load = loader(backbone, view, perturb=perturb, max_pixels=max_pixels, on_pixels=on_pixels)
    for name, value in (("batch_size", batch_size), ("workers", workers), ("streams", streams)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1")
    workers, batch_size = workers or cpus(), batch_size or default_batch()
    waiting = max(1, _WAITING_BYTES // (view.count * 3 * backbone.entry.preprocess.size**2))
    ahead = min(2 * streams * batch_size + workers, max(batch_size, waiting))
    stream = ordered_map(load, expand(images), workers=workers, ahead=ahead)
    encode = partial(embed_loaded, backbone, view)
    batches = batched(stream, batch_size)
    found = map(encode, batches) if streams == 1 else ordered_map(encode, batches, workers=streams, ahead=streams)
    while True:
        with one_thread():  # also for the loading threads, which work while this one waits; not for the caller
            batch = next(found, None)
        if batch is None:
            return
        yield batch


def loader(
    backbone: Backbone,
    view: View,
    *,
    perturb: str = "clean",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_pixels: OnPixels | None = None,
    budget: Budget | None = None,
) -> Callable[[ImageRef | Failure], Loaded | Failure]:
    """What reads, decodes and cuts one image; see `embed_images`. What it gives goes to `embed_loaded`.

    Args:
        backbone: the encoder.
        view: the view.
        perturb: chain laid on the pixels first.
        max_pixels: larger images are refused.
        on_pixels: see `OnPixels`.
        budget: of `pixels_at_a_time`, for several of these that work at a time; default: one of its own.
    """
    return partial(
        _load, view=view, backbone=backbone, budget=budget or pixels_at_a_time(), perturb=perturbation(perturb),
        max_pixels=max_pixels, on_pixels=on_pixels,
    )  # fmt: skip


def pixels_at_a_time() -> Budget:
    """A bound on the pictures that are in memory at full size."""
    return Budget(_PIXELS_AT_A_TIME)


def embed_loaded(backbone: Backbone, view: View, items: Sequence[Loaded | Failure]) -> Batch:
    """Images that a `loader` of the same backbone and view made ready, as one batch of the encoder."""
    start = time.perf_counter()
    loaded = [i for i in items if isinstance(i, Loaded)]
    embeddings = _embed(backbone, view, loaded)
    usable = np.asarray(np.isfinite(embeddings.vectors).all(axis=1))
    if not usable.all():
        fine = iter(usable.tolist())
        items = [i if isinstance(i, Failure) or next(fine) else _without_vector(i, backbone) for i in items]
        embeddings = Embeddings(embeddings.vectors[usable], embeddings.space)
    return Batch(tuple(items), embeddings, time.perf_counter() - start)


def _without_vector(item: Loaded, backbone: Backbone) -> Failure:
    """The row of an image that the encoder divides by zero for, say: one that is black all over."""
    said = f"the encoder {backbone.entry.name} gives values for it that are not finite, so nothing can be said about it"
    return Failure(item.name, InputError.code, said)


def default_batch(processors: int | None = None) -> int:
    """Images a batch where none is asked for: four per CPU (default: of this process), at most 32."""
    return min(_MAX_BATCH, _IMAGES_PER_CPU * (processors or cpus()))


def space_of(backbone: Backbone, view: View, *, float32: bool = False) -> FeatureSpace:
    """The feature space of this encoder under this view.

    Args:
        backbone: an opened encoder.
        view: how crops are cut.
        float32: the space that it has on an engine in float32, whatever engine it is on.
    """
    entry = replace(backbone.entry, lossy="") if float32 else backbone.entry
    return feature_space(entry, backbone.taps, view.name, view.count if view.pool == "concat" else 1)


def _load(
    ref: ImageRef | Failure,
    *,
    view: View,
    backbone: Backbone,
    budget: Budget,
    perturb: Callable[[Pixels], Pixels],
    max_pixels: int,
    on_pixels: OnPixels | None,
) -> Loaded | Failure:
    if isinstance(ref, Failure):
        return ref
    start = time.perf_counter()
    try:
        with ExitStack() as held:
            decoded = decode(ref, max_pixels=max_pixels, on_size=lambda n: held.enter_context(budget.hold(n)))
            height, width = decoded.pixels.shape[:2]
            pixels = perturb(decoded.pixels)
            crops = view.cut(pixels, backbone.entry.preprocess)
            # A perturbed picture is no longer what the file's tables speak of.
            found = conditions(pixels, decoded.quantisation if pixels is decoded.pixels else ())
            if on_pixels is not None:
                on_pixels(ref, pixels)
            decoded = replace(decoded, pixels=_NO_PIXELS)
            del pixels
    except (InputError, MissingExtraError) as error:
        return Failure(ref.name, error.code, str(error))
    except MemoryError:
        return Failure(ref.name, InputError.code, NO_MEMORY)
    return Loaded(
        name=ref.name,
        sha256=decoded.sha256,
        format=decoded.format,
        width=width,
        height=height,
        conditions=found,
        notes=decoded.notes + crops.notes,
        crops=crops.pixels,
        seconds=time.perf_counter() - start,
    )


def as_if_seen(vectors: FloatArray, view: View) -> FloatArray:
    """Vectors `(N, D)` of crops -> those of pictures all of whose crops are this one."""
    return np.tile(vectors, view.count) if view.pool == "concat" else vectors


def _embed(backbone: Backbone, view: View, loaded: list[Loaded]) -> Embeddings:
    space = space_of(backbone, view)
    if not loaded:
        return Embeddings(np.empty((0, space.dim), np.float32), space)
    crops = np.concatenate([i.crops for i in loaded])
    piece = max(1, _MAX_PIECE // crops[0].nbytes)
    parts = [_vectors(backbone, crops[i : i + piece]) for i in range(0, len(crops), piece)]
    vectors = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return Embeddings(_pool(vectors.reshape(len(loaded), -1, vectors.shape[1]), view), space)


def _vectors(backbone: Backbone, crops: Pixels) -> FloatArray:
    """One float32 row for each crop, whatever somebody's engine has come to.

    Raises:
        EngineError: it gives other rows than one of the right length for each crop.
    """
    vectors = np.asarray(backbone.embed(crops))
    wanted = (len(crops), sum(map(backbone.entry.tap_dim, backbone.taps)))
    if vectors.shape != wanted or vectors.dtype.kind != "f":
        raise EngineError(
            f"the engine of {backbone.entry.name} gave {vectors.dtype} values of shape {vectors.shape} for "
            f"{len(crops)} crops; expected floats of shape {wanted}"
        )
    return vectors.astype(np.float32, copy=False)


def _pool(vectors: FloatArray, view: View) -> FloatArray:
    """`(N, n, D)` of n crops -> `(N, D)` (mean) or `(N, n*D)` (side by side)."""
    if view.pool == "concat":
        return vectors.reshape(len(vectors), -1)
    return vectors.mean(axis=1, dtype=np.float32) if vectors.shape[1] > 1 else vectors[:, 0]
