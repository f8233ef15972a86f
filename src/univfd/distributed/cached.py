"""The embedding cache, filled by a cluster: what `univfd bank add --ray` embeds with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..embedding_cache import SHARD, EmbeddingCache, Keyed
from ..errors import FileAccessError, UnivFDError
from ..pipeline import batched
from ..types import Embeddings, Failure
from ..wording import counted
from .cluster import Cluster, connected, over_tables
from .entry import entry_of, table_of
from .vectors import batch_of
from .workers import Embedder, Encoder, Work


def embed_missing(
    kept: EmbeddingCache,
    backbone: str,
    images: Iterable[Keyed | Failure],
    cluster: Cluster,
    work: Work,
    *,
    shard: int = SHARD,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[str, Failure]:
    """What `embedding_cache.embed_missing` does, with the encoder on a cluster; embeddings come back to this machine.

    Returns:
        The failures, by sha256.
    """
    distinct = {i.sha256: i for i in images if isinstance(i, Keyed)}
    missing = [i for i in distinct.values() if not kept.has(i.sha256, work.max_pixels)]
    on_done(len(distinct) - len(missing))
    if not missing:
        return {}
    numbered = batched(enumerate(entry_of(i.ref) for i in missing), shard)
    tables = [
        table_of([e for _, e in part]).append_column("ordinal", [[n for n, _ in part]]) for part in numbered
    ]  # fmt: skip
    failures: dict[str, Failure] = {}
    arguments = {"encoder": Encoder(backbone, kept.space, kept.perturb), "work": work}
    with connected(cluster) as ray:
        for table in over_tables(ray, cluster, Embedder, arguments, tables, shard):
            failures |= _keep(kept, [missing[n] for n in table["ordinal"].to_pylist()], table)
            on_done(len(table))
            for n in table["ordinal"].to_pylist():
                distinct.pop(missing[n].sha256, None)
    lost = sum(i.sha256 in distinct for i in missing)
    if lost:
        raise UnivFDError(
            f"{counted(lost, 'image was', 'images were')} not embedded: the workers died again and again. Run it again"
        )
    return failures


def _keep(kept: EmbeddingCache, images: list[Keyed], table: Any) -> dict[str, Failure]:
    """Keep what came back, as one shard; failures by sha256."""
    batch, failures, good, rows = batch_of(table, kept.space), {}, [], []
    row = -1
    for image, item in zip(images, batch.items, strict=True):
        if isinstance(item, Failure):
            failures[image.sha256] = item
            continue
        row += 1
        if item.sha256 == image.sha256:
            good.append(item)
            rows.append(row)
        else:
            failures[image.sha256] = Failure(item.name, FileAccessError.code, "the file changed during the run")
    kept.add(good, Embeddings(batch.embeddings.vectors[rows], kept.space))
    return failures
