"""A split as a manifest, so that other tools can train on the very parts of a study."""

from __future__ import annotations

import json
import os.path
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..sources import display_name
from ..storage import cannot_write, new_contents, require_new
from .data import Data
from .split import LEFT_OUT, TEST, TRAIN, VALIDATION, Split

_WORDS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


def write_manifest(path: Path, data: Data, made: Split) -> dict[str, int]:
    """Write the images of a split as JSON Lines, with `split` train, val or test; what is left out is not in it.

    Args:
        path: must not exist; its folder is what the paths in it are relative to.
        data: the images.
        made: their parts.

    Returns:
        Number of images of each part.

    Raises:
        OutputExistsError: the file is there already.
        UsageError: another ending than `.jsonl`, images that are no files of their own, or names that are no Unicode.
    """
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f"{path}: expected a name that ends in .jsonl, by which readers know the format")
    require_new(path)
    lines = [_line(row) for row in _rows(path, data, made)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_contents(path) as scratch, scratch.open("wb") as file:
            file.writelines(lines)
    except OSError as error:
        raise cannot_write(path, error) from error
    return {word: int((made.part == part).sum()) for part, word in (*_WORDS.items(), (LEFT_OUT, LEFT_OUT))}


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        raise UsageError(
            f"{display_name(row['file'])}: its name or its folder's is no UTF-8, so no manifest can hold it; rename it"
        ) from None


def _rows(path: Path, data: Data, made: Split) -> Iterator[dict[str, Any]]:
    base = path.parent.resolve()
    for sample, part in zip(data.samples, made.part, strict=True):
        if part == LEFT_OUT:
            continue
        if not isinstance(sample.ref.source, Path):
            raise UsageError(f"{sample.ref.name} is no file of its own; a manifest can only name files. Unpack the tar")
        row = {"file": os.path.relpath(sample.ref.source.resolve(), base), "label": sample.label.word}
        for name in ("generator", "source", "group", "licence", "family", "subset"):
            row[name] = getattr(sample, name)
        yield row | {"split": _WORDS[part]}
