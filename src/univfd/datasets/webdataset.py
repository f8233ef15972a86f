"""WebDataset shards: uncompressed tars of images, each with `.json` or `.cls` beside it. Nothing is unpacked.

A sample is a run of members with one key: the member's name up to the first dot of its last part. `KEY.json` holds
named values as a manifest's row does, `label` among them; `KEY.cls` is `0`, `1`, `real` or `fake`. Where a name has
dots of its own (`a.v2.jpg`, `a.v2.json`), what has the image's whole name but the ending belongs to it. The split is
what the values say, or the folder of the shard, if it is called `train`, `val` or `test`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..sources import (
    PACKED_TAR,
    TarMember,
    files_below,
    image_files,
    is_packed_tar,
    is_tar,
    read_bytes,
    tar_members,
    tar_ref,
)
from ..storage import parsed
from ..types import Failure, Sample
from ._rows import SPLITS, sample_of


def read_webdataset(path: Path) -> Iterator[Sample]:
    """Samples of a shard or of a folder of shards, shards sorted by path, members in their order.

    Raises:
        DataError: no shards; a compressed shard; a damaged one (what it held has no label any more); an image without
            label; images beside the shards.
    """
    found = False
    for file in files_below(path) if path.is_dir() else [path]:
        if isinstance(file, Path) and is_packed_tar(file.name):
            raise DataError(f"{file}: {PACKED_TAR}")
    for shard in image_files(path) if path.is_dir() else [path]:
        if isinstance(shard, Failure):
            raise DataError(f"{shard.image}: {shard.message}")
        if not is_tar(shard):
            raise DataError(f"{shard} lies beside tar shards, which tells no label; move it away, or unpack the shards")
        folders = shard.relative_to(path).parts[:-1] if shard != path else ()
        split = next((SPLITS[f.lower()] for f in folders if f.lower() in SPLITS), "")
        for sample in _shard(shard):
            found = True
            yield sample if sample.split or not split else replace(sample, split=split)
    if not found:
        raise DataError(f"{path} holds no images")


def _shard(shard: Path) -> Iterator[Sample]:
    runs = groupby(tar_members(shard), key=_key)
    for _, run in runs:
        group = list(run)
        _refuse_damage(shard, group)
        try:
            yield from _samples([m for m in group if isinstance(m, TarMember)])
        except DataError:
            for _, later in runs:  # the values may lie behind the damage: then that is what to mend
                _refuse_damage(shard, later)
            raise


def _refuse_damage(shard: Path, members: Iterable[TarMember | Failure]) -> None:
    for member in members:
        if isinstance(member, Failure):
            raise DataError(f"{shard}: {member.message}. Labels are lost with it; get the shard again")


def _key(member: TarMember | Failure) -> str:
    if isinstance(member, Failure):
        return "\0"  # no member is called so
    name = PurePosixPath(member.name)
    return str(name.parent / name.name.partition(".")[0])


def _samples(group: list[TarMember]) -> Iterator[Sample]:
    """The samples of the members of one key, most often a single one."""
    values = [m for m in group if PurePosixPath(m.name).suffix.lower() in {".json", ".cls"} and not m.image]
    images = [m for m in group if m.image]
    taken: set[TarMember] = set()
    for image in images:
        where = tar_ref(image).name
        beside = [m for m in values if _stem(m.name) in {_stem(image.name), image.name}]
        if not beside and len(images) == 1:
            beside = values  # of its key: with one image, they can only be its own
        if not beside or not taken.isdisjoint(beside):
            raise DataError(f"{where} has no label of its own; expected {_stem(image.name)}.json or .cls next to it")
        taken.update(beside)
        row, labels = _row(beside, where)
        told = [sample_of(row | {"label": label}, tar_ref(image), where) for label in labels]
        if len({sample.label for sample in told}) > 1:
            raise DataError(f"{where} has two labels: {', '.join(map(repr, labels))}")
        yield told[0] if told else sample_of(row, tar_ref(image), where)


def _stem(name: str) -> str:
    """A member's name without its ending."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix else name


def _row(values: list[TarMember], where: str) -> tuple[dict[str, Any], list[Any]]:
    """The named values of an image from its `.json` and `.cls`, and every label that they state."""
    row: dict[str, Any] = {}
    labels = []
    for member in values:
        text = read_bytes(tar_ref(member))
        try:
            data = {"label": text.decode().strip()} if member.name.lower().endswith(".cls") else parsed(text)
        except ValueError as error:
            raise DataError(f"{where}: {member.name} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise DataError(f"{where}: {member.name} holds {data!r:.40}; expected named values, 'label' among them")
        labels += [data.pop("label")] if "label" in data else []
        row |= data
    return row, labels


PLUGIN = read_webdataset
