"""The images of buckets: a prefix is walked as `univfd.sources` walks a folder, an object named itself has a row."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FileAccessError, NotAnImageError, UnsupportedImageError
from ..sources import (
    HEAD,
    IMAGE_SUFFIXES,
    PACKED_TAR,
    display_name,
    explain_os_error,
    failed,
    is_packed_tar,
    is_parquet,
    is_tar,
    sniff,
    tar_entries,
)
from ..types import Failure
from ..wording import counted
from .entry import Entry, entry_of
from .shards import look_into, rows_of, shard_entries
from .stores import Object, Unlisted, look_up, read_head, walk_store
from .urls import display_url, split_url

log = logging.getLogger(__name__)

_TAR_BUFFER = 1 << 20


class Bucket(NamedTuple):
    """Where a URL leads to.

    Attributes:
        url: what was given.
        system: its file system.
        top: the path in it.
    """

    url: str
    system: Any
    top: str

    @property
    def store(self) -> str:
        """What opens the file system again: the same for all URLs of a bucket."""
        return split_url(self.url).store

    def name(self, path: str) -> str:
        """What the user sees of a path."""
        return display_name(display_url(self.url, self.top, path))


def bucket_entries(bucket: Bucket, image_column: str | None) -> Iterator[Entry]:
    """The images that a URL names: of an object, or of a prefix.

    Args:
        bucket: the URL.
        image_column: see `listing.entries`.

    Raises:
        UsageError: a Parquet file lacks the column.
    """
    try:
        info = look_up(bucket.system, bucket.top)
    except OSError as error:
        yield _lost(bucket.name(bucket.top), error)
        return
    if info.type.name == "Directory":
        yield from _walk(bucket, image_column)
    else:
        yield from _of_object(bucket, info.path, image_column)


def _walk(bucket: Bucket, image_column: str | None) -> Iterator[Entry]:
    passed_over = 0
    for each in walk_store(bucket.system, bucket.top):
        name = bucket.name(each.path)
        if isinstance(each, Unlisted):
            yield _lost(name, each.error)
        elif image_column is not None:
            if is_parquet(Path(each.path)):
                yield from shard_entries(bucket.system, bucket.store, each.path, name, image_column, walked=True)
        elif (found := _walked(bucket, each.path)) is not None:
            yield from found
        elif is_packed_tar(each.path):
            log.warning("%s was passed over: %s", name, PACKED_TAR)
        else:
            passed_over += 1
            log.info("passed over %s: not an image by name or content", name)
    if passed_over:
        top = bucket.name(bucket.top)
        log.warning("passed over %s in %s: no images, by name and content", counted(passed_over, "file"), top)


def _walked(bucket: Bucket, path: str) -> Iterator[Entry] | None:
    """The images of an object below a prefix; None where it holds none by name and content."""
    if is_parquet(Path(path)):
        return _walked_shard(bucket, path)
    image = is_tar(Path(path)) or Path(path).suffix.lower() in IMAGE_SUFFIXES or _looks_like_image(bucket, path)
    return _of_object(bucket, path, None) if image else None


def _walked_shard(bucket: Bucket, path: str) -> Iterator[Entry] | None:
    """Its rows, if it has images: results and manifests are Parquet files too."""
    name = bucket.name(path)
    try:
        shard = look_into(bucket.system, path)
    except FileAccessError as error:  # it cannot be told
        return iter([entry_of(failed(name, error))])
    except NotAnImageError as error:
        log.warning("%s was passed over: %s", name, error)
        return None
    return None if shard.images is None else rows_of(shard, bucket.store, path, name)


def _of_object(bucket: Bucket, path: str, image_column: str | None) -> Iterator[Entry]:
    """The image that an object is, or those that it holds."""
    name = bucket.name(path)
    if image_column is not None or is_parquet(Path(path)):
        yield from shard_entries(bucket.system, bucket.store, path, name, image_column)
    elif is_tar(Path(path)):
        yield from _of_tar(bucket, path, name)
    elif is_packed_tar(path) and not _looks_like_image(bucket, path):
        yield entry_of(failed(name, UnsupportedImageError(PACKED_TAR)))
    else:
        yield Entry(name, "object", bucket.store, path.encode())


def _lost(name: str, error: OSError) -> Entry:
    return entry_of(failed(name, FileAccessError(explain_os_error(error))))


def _looks_like_image(bucket: Bucket, path: str) -> bool:
    try:
        return sniff(read_head(bucket.system, path, HEAD)) != ""
    except OSError:
        return True  # it cannot be told; reading it will say why


def _of_tar(bucket: Bucket, path: str, name: str) -> Iterator[Entry]:
    try:
        with io.BufferedReader(Object(bucket.system, path), _TAR_BUFFER) as file:
            for member in tar_entries(file, name):
                if isinstance(member, Failure):
                    yield entry_of(member)
                elif member.image:
                    shown = f"{name}/{display_name(member.name)}"
                    yield Entry(shown, "object", bucket.store, path.encode(), member.offset, member.size)
                else:
                    log.info("passed over %s in %s: not an image by name or content", display_name(member.name), name)
    except OSError as error:
        yield _lost(name, error)
