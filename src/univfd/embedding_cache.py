"""Embeddings that are kept between runs: what a second look at the same images costs almost nothing by.

One folder a feature space, perturbation and state of the code in front of the encoder::

    <user cache>/embeddings/<space digest>/<perturbation>/<code digest>/<sha256 of the shard>.safetensors

A vector is found by the sha256 of its image file, and with it what a verdict says besides the score: size, format,
degradations, notes. A shard is written every few hundred images under a temporary name and renamed, so a kill loses
little and several processes may work at once. Its name is the checksum of its contents: a damaged one is noticed,
reported and removed, and its images are embedded again. Failures are not kept: what failed is tried again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ._version import __version__
from .backbones import Backbone, cpus
from .downloads import home, sha256_of
from .embedding import Batch, Loaded, embed_images, space_of
from .errors import FileAccessError, InputError
from .images import DEFAULT_MAX_PIXELS
from .perturbations import perturbation
from .pipeline import batched, ordered_map
from .remarks import Remark
from .sources import Source, expand, read_bytes
from .storage import cannot_write, read_arrays, replace_file
from .types import Embeddings, Failure, FeatureSpace, FloatArray, ImageRef
from .views import View

log = logging.getLogger(__name__)

SCHEMA = 2
SHARD = 256
"""Images of a shard, at most; what a kill can lose."""
_SUFFIX = ".safetensors"
_SCRATCH = ".writing-"
_OPEN_SHARDS = 8  # kept in memory
_LONGEST = 200  # bytes of a folder's name; most systems take 255
_STALE_SECONDS = 86_400
_NO_CROPS = np.empty((0, 0, 0, 3), np.uint8)
_DECIDING = ("images", "perturbations", "views", "conditions", "embedding", "backbones", "engines", "parity")


@dataclass(frozen=True, slots=True)
class Keyed:
    """An image and the sha256 of its file."""

    ref: ImageRef
    sha256: str


@dataclass(frozen=True, eq=False)
class _Shard:
    vectors: FloatArray
    sizes: NDArray[np.int32]
    facts: Sequence[Mapping[str, Any]]


class EmbeddingCache:
    """The kept embeddings of one feature space under one perturbation."""

    def __init__(
        self, space: FeatureSpace, perturb: str = "clean", root: Path | None = None, *, may_fail: bool = False
    ) -> None:
        """Look up what is there; shards whose checksum is wrong are removed, those that cannot be read are not.

        Args:
            space: the feature space.
            perturb: chain of perturbations, see `univfd.perturbations.perturbation`.
            root: folder of all spaces; default: `embeddings` in the user's cache folder.
            may_fail: where a shard cannot be written, say so once and keep it in memory; else that is an error.
        """
        perturbation(perturb)  # refuses what is none: it becomes a folder's name
        self.space = space
        self.perturb = perturb
        steps = (perturb or "clean").replace(":", "-")
        if len(steps) > _LONGEST:  # no folder's name
            steps = hashlib.sha256(steps.encode()).hexdigest()
        self.folder = (root or home() / "embeddings") / space.digest / steps / _code_digest()
        self.software: set[str] = set()
        self._may_fail = may_fail
        self._held: dict[Path, _Shard] = {}
        self._rows: dict[str, tuple[Path, int, int]] = {}
        self._open: OrderedDict[Path, _Shard] = OrderedDict()
        for scratch in self.folder.glob(f"{_SCRATCH}*"):  # of a process that was killed while it wrote
            with suppress(OSError):
                if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                    scratch.unlink()
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                whole = sha256_of(path) == path.stem
            except OSError as error:  # a share that does not answer says nothing of what lies on it
                log.warning("%s cannot be read (%s); it is passed over, and its images are embedded again", path, error)
                continue
            if whole:
                self._index(path)
            else:
                log.warning("%s is damaged; it is removed, and its images are embedded again", path)
                with suppress(OSError):  # a cache that may only be read: it is passed over
                    path.unlink()

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, sha256: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> bool:
        """Whether an image of at most so many pixels is kept (a larger one must be refused as if it were not)."""
        return sha256 in self._rows and self._rows[sha256][2] <= max_pixels

    def add(self, items: Sequence[Loaded], embeddings: Embeddings) -> None:
        """Keep images, as one shard.

        Args:
            items: N images; each has a sha256.
            embeddings: `(N, D)`, in the same order.

        Raises:
            FeatureSpaceError: vectors of another space.
            UnivFDError: the folder cannot be written, and that may not be.
        """
        self.space.require(embeddings.space, "the embeddings to keep")
        if not items:
            return
        facts = [
            {"format": i.format, "conditions": [*map(asdict, i.conditions)], "notes": [*map(asdict, i.notes)]}
            for i in items
        ]
        about = {"schema": SCHEMA, "space": self.space.to_dict(), "perturb": self.perturb, "software": software()}
        arrays: dict[str, NDArray[Any]] = {
            "vectors": embeddings.vectors,
            "keys": np.frombuffer(bytes.fromhex("".join(i.sha256 for i in items)), np.uint8).reshape(-1, 32),
            "sizes": np.array([(i.width, i.height) for i in items], np.int32),
            "facts": _as_bytes(facts),
            "about": _as_bytes(about),
        }
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        scratch = self.folder / f"{_SCRATCH}{os.getpid()}-{time.monotonic_ns()}"
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(content)
            replace_file(scratch, path)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink()
            if not self._may_fail:
                raise cannot_write(self.folder, error) from error
            if not self._held:
                log.warning("embeddings are no longer kept for the next time: %s", cannot_write(self.folder, error))
            self._held[path] = _Shard(embeddings.vectors, arrays["sizes"], facts)
            self._take_up(path, arrays)
        else:
            self._index(path)

    def batch(self, images: Iterable[Keyed | Failure], failures: Mapping[str, Failure]) -> Batch:
        """Images as `embed_images` gives them, out of the cache; the crops are not there any more.

        Args:
            images: each is in the cache, in `failures`, or itself a failure.
            failures: by sha256.
        """
        items: list[Loaded | Failure] = []
        vectors = []
        for image in images:
            if isinstance(image, Failure):
                items.append(image)
            elif image.sha256 in failures:
                items.append(replace(failures[image.sha256], image=image.ref.name))
            else:
                path, row, _ = self._rows[image.sha256]
                shard = self._shard(path)
                items.append(_loaded(image, shard, row))
                vectors.append(shard.vectors[row])
        stacked = np.stack(vectors) if vectors else np.empty((0, self.space.dim), np.float32)
        return Batch(tuple(items), Embeddings(stacked, self.space), 0.0)

    def _index(self, path: Path) -> None:
        """Take up a shard's rows; where two shards have an image, the first one counts."""
        arrays = read_arrays(path, {"keys": (None, 32), "sizes": (None, 2), "vectors": (None, self.space.dim)})
        self.software.add(_from_bytes(arrays["about"])["software"])
        self._take_up(path, arrays)

    def _take_up(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        pixels = arrays["sizes"].astype(np.int64).prod(axis=1)
        for row, key in enumerate(arrays["keys"]):
            self._rows.setdefault(key.tobytes().hex(), (path, row, int(pixels[row])))

    def _shard(self, path: Path) -> _Shard:
        if path in self._held:
            return self._held[path]
        if path not in self._open:
            arrays = read_arrays(path, {})
            self._open[path] = _Shard(arrays["vectors"], arrays["sizes"], _from_bytes(arrays["facts"]))
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]


def keyed(
    images: Source | Iterable[Source], *, workers: int | None = None, on_done: Callable[[int], None] = lambda _: None
) -> Iterator[Keyed | Failure]:
    """The sha256 of each image's file, read in threads; a `Failure` in the place of what cannot be read.

    Args:
        images: see `univfd.sources.expand`.
        workers: reading threads; default: one per CPU.
        on_done: called after each image with 1.
    """
    workers = workers or cpus()
    for item in ordered_map(_keyed, expand(images), workers=workers, ahead=4 * workers):
        yield item
        on_done(1)


def _keyed(ref: ImageRef | Failure) -> Keyed | Failure:
    if isinstance(ref, Failure):
        return ref
    try:
        return Keyed(ref, hashlib.sha256(read_bytes(ref)).hexdigest())
    except InputError as error:
        return Failure(ref.name, error.code, str(error))


def embed_missing(
    kept: EmbeddingCache,
    backbone: Backbone,
    view: View,
    images: Iterable[Keyed | Failure],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    shard: int = SHARD,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[str, Failure]:
    """Embed what the cache lacks, each file once, and keep it.

    The images are taken in shards that do not depend on what is there already, so a run that was killed and taken up
    again puts the same images through the encoder together as one that was not.

    Args:
        kept: the cache, of the space that `backbone` and `view` give.
        backbone: the encoder.
        view: how crops are cut.
        images: from `keyed`.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images are refused.
        shard: images kept at a time.
        on_done: called as images are done, with their number.

    Returns:
        The failures, by sha256.
    """
    kept.space.require(space_of(backbone, view), "the encoder")
    distinct = list({i.sha256: i for i in images if isinstance(i, Keyed)}.values())
    failures: dict[str, Failure] = {}
    for start in range(0, len(distinct), shard):
        part = distinct[start : start + shard]
        missing = [i for i in part if not kept.has(i.sha256, max_pixels)]
        on_done(len(part) - len(missing))
        batches = embed_images(
            backbone, view, [i.ref for i in missing],
            perturb=kept.perturb, batch_size=batch_size, workers=workers, max_pixels=max_pixels,
        )  # fmt: skip
        failures |= _keep(kept, missing, batches, on_done)
    return failures


def embed_through(
    kept: EmbeddingCache,
    backbone: Backbone,
    view: View,
    images: Iterable[Source],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[Batch]:
    """What `embed_images` gives, a shard at a time; what the cache lacks is kept. See `embed_missing`."""
    readers = workers or cpus()
    for part in batched(expand(images), SHARD):
        left = len(part)

        def advance(n: int) -> None:
            nonlocal left
            left -= n
            on_done(n)

        found = list(ordered_map(_keyed, part, workers=readers, ahead=4 * readers))
        failures = embed_missing(
            kept, backbone, view, found, batch_size=batch_size, workers=workers, max_pixels=max_pixels, on_done=advance
        )
        yield kept.batch(found, failures)
        on_done(left)  # files that are there twice, and those that could not be read


def _keep(
    kept: EmbeddingCache, images: list[Keyed], batches: Iterable[Batch], on_done: Callable[[int], None]
) -> dict[str, Failure]:
    """Keep a shard's worth of batches; failures by sha256."""
    items: list[Loaded] = []
    vectors = []
    failures = {}
    expected = iter(images)
    for batch in batches:
        row = 0
        for item in batch.items:
            key = next(expected).sha256
            if isinstance(item, Failure):
                failures[key] = item
                continue
            if item.sha256 == key:
                items.append(replace(item, crops=_NO_CROPS))
                vectors.append(batch.embeddings.vectors[row])
            else:
                failures[key] = Failure(item.name, FileAccessError.code, "the file changed during the run")
            row += 1
        on_done(len(batch.items))
    if items:
        kept.add(items, Embeddings(np.stack(vectors), kept.space))
    return failures


def software() -> str:
    """What an embedding depends on besides space and code, in words."""
    parts = [f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "pillow", "numpy")]
    return ", ".join([f"univfd {__version__}", *parts])


def _loaded(image: Keyed, shard: _Shard, row: int) -> Loaded:
    facts, (width, height) = shard.facts[row], shard.sizes[row]
    return Loaded(
        name=image.ref.name,
        sha256=image.sha256,
        format=facts["format"],
        width=int(width),
        height=int(height),
        conditions=tuple(Remark(**c) for c in facts["conditions"]),
        notes=tuple(Remark(**n) for n in facts["notes"]),
        crops=_NO_CROPS,
        seconds=0.0,
    )


def _as_bytes(data: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(data, ensure_ascii=False).encode(), np.uint8)


def _from_bytes(array: NDArray[Any]) -> Any:
    return json.loads(array.tobytes())


@cache
def _code_digest() -> str:
    """8 hex digits of the code in front of the vector, comments and docstrings apart: a change of it starts anew."""
    here = Path(__file__).parent
    files = [f for name in _DECIDING for f in (sorted((here / name).glob("*.py")) or [here / f"{name}.py"])]
    digest = hashlib.sha256(str(SCHEMA).encode())
    for file in files:
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):  # a string that stands alone says something to people only
                node.body = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]  # type: ignore[attr-defined]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:8]
