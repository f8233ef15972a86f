"""Parquet shards that hold the images themselves (extra `parquet`), as the `datasets` library and hubs have them.

One column of encoded images (`image.bytes`, or bytes) and the columns of a manifest: `label`, `generator` and so on;
other columns of bytes (masks, thumbnails) are not read. A number in `label` stands for the class that the file's own
metadata name; where they name none, 0 is real and 1 fake. The split is what the row says, or the folder or beginning of
the shard's name (`train-00000-of-00004.parquet`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import DataError, InputError
from ..sources import IMAGE_SUFFIXES, cell_refs, files_below, image_column, is_parquet, is_tar
from ..types import Failure, Sample
from ..wording import counted
from ._rows import SPLITS, class_names, class_of, plain_columns, sample_of

log = logging.getLogger(__name__)


def read_parquet(path: Path) -> Iterator[Sample]:
    """Samples of a shard or of a folder of shards, shards sorted by path, rows in their order.

    Raises:
        DataError: no shards, a shard that cannot be read or has no images, a row without label.
        MissingExtraError: pyarrow is not installed.
    """
    found, beside = False, 0
    for shard in files_below(path) if path.is_dir() else [path]:
        if isinstance(shard, Failure):
            if is_parquet(Path(shard.image)):
                raise DataError(f"{shard.image}: {shard.message}")
            log.warning("%s: %s", shard.image, shard.message)
            continue
        if not is_parquet(shard):
            beside += shard.suffix.lower() in IMAGE_SUFFIXES or is_tar(shard)
            continue
        found = True
        try:
            column = image_column(shard)
        except (InputError, OSError) as error:
            raise DataError(f"{shard}: {error}. Labels are lost with it; get the shard again") from error
        if column is None:
            raise DataError(f"{shard} has no column of image bytes; expected 'image' or 'bytes'")
        split = _split(shard, path)
        for sample in _shard(shard, column):
            yield sample if sample.split or not split else replace(sample, split=split)
    if not found:
        raise DataError(f"{path} holds no Parquet files")
    if beside:
        log.warning("%s beside the Parquet shards in %s: without a label, so not read", counted(beside, "image"), path)


def _shard(shard: Path, column: str) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = column.partition(".")[0]
    refs = cell_refs(shard, column)
    try:
        with pq.ParquetFile(shard) as file:
            names = class_names(file.schema_arrow)
            others = [name for name in plain_columns(file.schema_arrow) if name != image]
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group, columns=others).to_pylist():
                    ref = next(refs)
                    if "label" in row:
                        row["label"] = class_of(row["label"], names, ref.name)
                    yield sample_of(row, ref, ref.name)
    except (pa.ArrowException, UnicodeError, OSError) as error:
        raise DataError(f"{shard} is no readable Parquet file: {error}") from error


def _split(shard: Path, top: Path) -> str:
    folders = shard.relative_to(top).parts[:-1] if shard != top else ()
    said = [*folders, shard.name.partition(".")[0].partition("-")[0]]
    return next((SPLITS[name.lower()] for name in said if name.lower() in SPLITS), "")


PLUGIN = read_parquet
