"""What a file says of its own origin, beside the verdict of the pixels and never blended with it.

Content Credentials (C2PA), IPTC and XMP fields, camera data, the texts and the open watermarks of generators. Needs the
extra `provenance`. No part of it uses the network. Files are parsed in a process of their own with limits on time and
memory, since they come from strangers; what crashes or hangs it becomes a finding (`docs/provenance.md`).
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Self

from ..errors import EmptyFileError, FileAccessError, FormatError, UnsupportedImageError
from ..sources import read_bytes
from ..types import ImageRef
from ._process import Worker, WorkerFailedError, require_extra
from .findings import ABSENT, NOT_CHECKED, Finding, Provenance, unreadable_file

__all__ = ["ABSENT", "DEADLINE", "Finding", "Provenance", "ProvenanceReader", "read_provenance", "require_extra"]

DEADLINE = 10.0
"""Seconds for one file, unless told otherwise."""
MOST_BYTES = 256 << 20
"""Larger files are not looked at."""
MEMORY = 2 << 30
"""Address space of the worker, in bytes."""
TRUST_LIST_DATE = "2026-09-24"
"""Day of the official C2PA trust lists that are shipped (licence and source: `trust/README.md`)."""
_LISTS = {"manifest": "C2PA-TRUST-LIST", "tsa": "C2PA-TSA-TRUST-LIST"}


class ProvenanceReader:
    """Reads files one at a time in one worker process; safe to share between threads.

    Args:
        trust: files of certificates (PEM) whose signers are trusted beside those of the official C2PA trust list.
        deadline: seconds for one file.

    Raises:
        FileAccessError, FormatError: a trust file that cannot be read, or holds no certificate.
        MissingExtraError: without the extra `provenance`.
    """

    def __init__(
        self, *, trust: Sequence[Path | str] = (), deadline: float = DEADLINE, _worker: Worker | None = None
    ) -> None:
        require_extra()
        self._trust = [*_official(), *map(_own, trust)]
        self._deadline = deadline
        self._worker = _worker or Worker(MEMORY)

    def read(self, ref: ImageRef) -> Provenance:
        """All that a file says of its origin.

        Raises:
            InputError: the file cannot be opened, is empty, or the reference holds pixels without a file.
        """
        if not isinstance(ref.source, bytes) and hasattr(ref.source, "__array_interface__"):
            raise UnsupportedImageError("pixels without a file say nothing of their origin; give the encoded file")
        start = time.perf_counter()
        data = read_bytes(ref)
        if not data:
            raise EmptyFileError("the file is empty (0 bytes); expected an image")
        if len(data) > MOST_BYTES:
            return unread(ref.name, f"larger than {MOST_BYTES >> 20} MiB", start)
        try:
            answer = self._worker.ask(data, self._trust, self._deadline)
            findings = tuple(Finding.from_dict(f) for f in answer["findings"])
            skipped = tuple(map(str, answer["not_checked"]))
            return Provenance(ref.name, answer["c2pa"], findings, skipped, time.perf_counter() - start)
        except (WorkerFailedError, FormatError) as error:
            return unread(ref.name, str(error), start)

    def close(self) -> None:
        """End the worker process."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_provenance(
    image: str | Path | bytes | bytearray | memoryview | ImageRef,
    *,
    trust: Sequence[Path | str] = (),
    deadline: float = DEADLINE,
) -> Provenance:
    """What one file says of its origin.

    The first call starts a worker process (a fraction of a second), later ones reuse it.

    Args:
        image: a path, or the bytes of a file.
        trust: see `ProvenanceReader`.
        deadline: seconds, after which the file counts as one that could not be read.

    Raises:
        InputError: the file cannot be opened, or is empty.
        FileAccessError, FormatError: a trust file that cannot be read.
        MissingExtraError: without the extra `provenance`.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        image = ImageRef("<bytes>", bytes(image))
    elif not isinstance(image, ImageRef):
        image = ImageRef(str(image), Path(image))
    return ProvenanceReader(trust=trust, deadline=deadline, _worker=_shared()).read(image)


@cache
def _shared() -> Worker:
    worker = Worker(MEMORY)
    atexit.register(worker.close)
    return worker


@cache
def _official() -> tuple[dict[str, str], ...]:
    folder = resources.files(__package__) / "trust"
    return tuple(
        {"pem": (folder / f"{name}.pem").read_text("utf-8"), "name": f"{name} of {TRUST_LIST_DATE}", "kind": kind}
        for kind, name in _LISTS.items()
    )


def _own(path: Path | str) -> dict[str, str]:
    path = Path(path)
    try:
        pem = path.read_text("utf-8")
    except OSError as error:
        raise FileAccessError(f"trust list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"trust list {path} is no text; expected certificates in PEM") from error
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise FormatError(f"trust list {path} holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)")
    return {"pem": pem, "name": str(path), "kind": "manifest"}


def unread(name: str, why: str, start: float) -> Provenance:
    """What is known of a file that was not read: nothing.

    Args:
        name: of the input.
        why: it was not.
        start: when it was begun with, by `time.perf_counter`.
    """
    return Provenance(name, "not-read", (unreadable_file(why),), NOT_CHECKED, time.perf_counter() - start)
