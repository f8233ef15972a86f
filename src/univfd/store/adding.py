"""Images into a store: what is new is embedded, looked at, and added as one version.

The embeddings go through the embedding cache, so an addition that was interrupted goes on where it was when the same
command is run again; until its one commit at the end the store is as it was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import Backbone
from ..bank import FeatureBank
from ..embedding import Batch, Loaded, space_of
from ..embedding_cache import EmbeddingCache, Keyed, embed_missing, keyed
from ..errors import ConflictError
from ..images import DEFAULT_MAX_PIXELS
from ..sources import Source
from ..types import Embeddings, Failure, Label, Sample
from ..views import View
from .admission import Double, Near, doubles, near_rows
from .history import Change, Edit, History
from .naming import now
from .rows import Rows
from .snapshot import LargeSnapshot, Snapshot
from .store import BankStore
from .thumbnails import thumbnails

OnDone = Callable[[str, int, int], None]
Embed = Callable[[EmbeddingCache, Sequence[Keyed], Callable[[int], None]], dict[str, Failure]]
"""Embeds what the cache lacks and keeps it, calling back with numbers of images; gives the failures by sha256."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows that could be added, and what there is to say about the images.

    Attributes:
        images: number of images given.
        rows: of the new ones.
        names: of the new ones.
        doubles: files that are in the bank already, or were given twice.
        conflicts: files that are there under the other label; they are left out.
        near: new images that are nearly the same as another row; with `skip_near` they are not among the rows.
        failures: what could not be read.
    """

    images: int
    rows: Rows
    names: tuple[str, ...]
    doubles: tuple[Double, ...]
    conflicts: tuple[Double, ...]
    near: tuple[Near, ...]
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "images": self.images,
            "new": len(self.rows),
            "doubles": [d.to_dict() for d in self.doubles],
            "conflicts": [d.to_dict() for d in self.conflicts],
            "near": [n.to_dict() for n in self.near],
            "failures": [f.to_dict() for f in self.failures],
        }


def prepare(
    snapshot: Snapshot | LargeSnapshot,
    backbone: Backbone,
    view: View,
    samples: Sequence[Sample],
    *,
    near: float | None,
    skip_near: bool = False,
    batch: str = "",
    note: str = "",
    with_thumbnails: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: Path | None = None,
    embed: Embed | None = None,
    on_done: OnDone = lambda *_: None,
) -> Prepared:
    """Embed what a version does not have; the store is not touched.

    Args:
        snapshot: the version.
        backbone: the encoder of the store's space.
        view: the view of it.
        samples: the images, with what is known about them.
        near: see `admission.near_rows`; None: do not look.
        skip_near: leave out what is near to a row that is there, or stays.
        batch: name of the addition, in each row.
        note: in each row.
        with_thumbnails: keep a small JPEG of each new image.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images are refused.
        cache: root of the embedding cache; default: the user's.
        embed: in place of this machine's encoder, see `univfd.distributed.cached`.
        on_done: called with what is done, how many and of how many.

    Raises:
        FeatureSpaceError: the encoder is not the store's.
    """
    snapshot.bank.space.require(space_of(backbone, view), "the encoder")
    total = len(samples)
    hashed = list(keyed(samples, workers=workers, on_done=_counter(on_done, "files", total)))
    given = [(s, k) for s, k in zip(samples, hashed, strict=True) if isinstance(k, Keyed)]
    new, same, other = doubles([(k.ref.name, k.sha256, s.label) for s, k in given], known_labels(snapshot))
    wanted = [given[i] for i in new]
    result = _embedded(
        backbone, view, [k for _, k in wanted], batch_size=batch_size, workers=workers, max_pixels=max_pixels,
        cache=cache, embed=embed, on_done=_counter(on_done, "images", len(wanted)),
    )  # fmt: skip
    good = [each for each, item in zip(wanted, result.items, strict=True) if isinstance(item, Loaded)]
    rows = _rows([s for s, _ in good], result.loaded, result.embeddings, batch, note)
    names = tuple(k.ref.name for _, k in good)
    if with_thumbnails and good:
        made = thumbnails([k.ref for _, k in good], workers=workers, max_pixels=max_pixels)
        rows = replace(rows, thumbnails=tuple(made))
    alike: list[Near] = []
    if near is not None and good:
        labels = [s.label for s, _ in good]
        alike = near_rows(names, rows.keys(), labels, rows.bank.vectors, snapshot.bank, near, leaving_out=skip_near)
    if skip_near:
        near_keys = {n.key for n in alike}
        stay = [i for i, key in enumerate(rows.keys()) if key not in near_keys]
        rows, names = rows.take(stay), tuple(names[i] for i in stay)
    failed = [i for i in (*hashed, *result.items) if isinstance(i, Failure)]
    return Prepared(total, rows, names, tuple(same), tuple(other), tuple(alike), tuple(failed))


def known_labels(snapshot: Snapshot | LargeSnapshot) -> dict[str, Label]:
    """The label of each image of a version, by its sha256 in hex."""
    digits = snapshot.bank.keys.tobytes().hex()
    labels = map(Label, snapshot.bank.labels.tolist())
    return {digits[64 * i : 64 * i + 64]: label for i, label in enumerate(labels)}


def embedded(
    backbone: Backbone,
    view: View,
    images: Source | Iterable[Source],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    cache: Path | None = None,
) -> Batch:
    """Images as one batch, through the embedding cache; see `prepare`."""
    options: Any = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels, "cache": cache}
    return _embedded(backbone, view, list(keyed(images, workers=workers)), **options)


def _embedded(
    backbone: Backbone,
    view: View,
    found: Sequence[Keyed | Failure],
    *,
    batch_size: int | None,
    workers: int | None,
    max_pixels: int,
    cache: Path | None,
    embed: Embed | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Batch:
    kept = EmbeddingCache(space_of(backbone, view), root=cache)
    failures = embed(kept, [f for f in found if isinstance(f, Keyed)], on_done) if embed else embed_missing(
        kept, backbone, view, found, batch_size=batch_size, workers=workers, max_pixels=max_pixels, on_done=on_done
    )  # fmt: skip
    return kept.batch(found, failures)


def add(store: BankStore, prepared: Prepared, what: str, seen: Snapshot | LargeSnapshot) -> Edit | None:
    """Add what was prepared, as one version; None where there is nothing new.

    Args:
        store: the store.
        prepared: of a version of this store.
        what: in words.
        seen: the version. What came since under the same keys is left out.
    """
    return add_rows(store, prepared.rows, what, "add", seen, prepared.to_dict() | {"near": len(prepared.near)})


def add_rows(
    store: BankStore,
    rows: Rows,
    what: str,
    op: str,
    seen: Snapshot | LargeSnapshot,
    report: Mapping[str, Any] | None = None,
) -> Edit | None:
    """Add rows whose keys a version does not have, as one new version.

    Raises:
        ConflictError: another process has added some of them meanwhile, under the other label.
    """
    if not len(rows):
        return None
    ids = store.append(rows)
    keys, labels = rows.keys(), list(map(Label, rows.bank.labels.tolist()))
    detail = {k: v if isinstance(v, int) else len(v) for k, v in (report or {}).items()}

    def plan(history: History) -> Change | None:
        fresh = np.ones(len(ids), bool)
        if history.tip.id != seen.edit.id:  # another process was here meanwhile
            there = store.keys(history.ids(history.tip.number))
            others = [
                key for key, label in zip(keys, labels, strict=True) if key in there and there[key][1] is not label
            ]
            if others:
                raise ConflictError(
                    f"{store.uri}: another process added {len(others)} of these {len(keys)} images meanwhile under "
                    f"the other label (the first: key {others[0][:16]}); nothing was changed. Run the command again"
                )
            fresh = np.array([key not in there for key in keys])
        return Change(op, what, ids[fresh], detail=detail) if fresh.any() else None

    return store.commit(plan)


def merge(store: BankStore, rows: Rows, what: str) -> tuple[Edit | None, int, list[Double]]:
    """Add the rows of another bank that this store does not have.

    Returns:
        The new version, the number of rows that were there already, and those that are there under the other label
        (the store's own label stays).
    """
    seen = store.snapshot()
    store.space.require(rows.space, "the bank to merge")
    theirs = list(map(Label, rows.bank.labels.tolist()))
    new, same, other = doubles(
        [(k[:12], k, label) for k, label in zip(rows.keys(), theirs, strict=True)], known_labels(seen)
    )
    edit = add_rows(store, rows.take(new), what, "merge", seen, {"doubles": len(same), "conflicts": len(other)})
    return edit, len(same), other


def batch_name() -> str:
    """A name for an addition that was given none."""
    return f"{now()[:10]}-{uuid.uuid4().hex[:6]}"


def _rows(samples: list[Sample], loaded: list[Loaded], embeddings: Embeddings, batch: str, note: str) -> Rows:
    def texts(values: Iterable[str]) -> Any:
        made = np.empty(len(samples), dtype=object)
        made[:] = list(values)
        return made

    bank = FeatureBank.from_rows(
        embeddings,
        [s.label for s in samples],
        [i.sha256 for i in loaded],
        generator=[s.generator for s in samples],
        source=[s.source for s in samples],
        licence=[s.licence for s in samples],
        added=now(),
    )
    n = len(samples)
    return Rows(
        bank,
        family=texts(s.family for s in samples),
        group=texts(s.group for s in samples),
        note=texts([note] * n),
        batch=texts([batch] * n),
        format=texts(i.format for i in loaded),
        size=np.array([(i.width, i.height) for i in loaded], np.int32).reshape(n, 2),
    )


def _counter(on_done: OnDone, what: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        on_done(what, done, total)

    return advance
