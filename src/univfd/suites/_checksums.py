"""Checksums of what was published, and of what lies on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..pipeline import ordered_map
from ..sources import read_bytes
from ..types import Label, Sample, data_digest


@dataclass(frozen=True, slots=True)
class Archive:
    """A published file, and its checksum."""

    file: str
    md5: str


def verify(archive: Archive, folder: Path) -> bool | None:
    """Whether a published file that lies in a folder has its checksum; None where it is not there."""
    path = folder / archive.file
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == archive.md5


def fingerprint(samples: Iterable[Sample], *, workers: int = 4) -> str:
    """`data_digest` of these images; every file is read.

    Raises:
        InputError: a file that cannot be read.
    """
    return data_digest(ordered_map(_pair, samples, workers=workers, ahead=2 * workers))


def _pair(sample: Sample) -> tuple[str, Label]:
    try:
        return hashlib.sha256(read_bytes(sample.ref)).hexdigest(), sample.label
    except InputError as error:
        raise type(error)(f"{sample.ref.name}: {error}") from error
