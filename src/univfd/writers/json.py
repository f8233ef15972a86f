"""One JSON array of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..storage import parsed
from . import Row, json_of


class JsonWriter:
    """See `univfd.writers.Writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._count = 0

    def write(self, row: Row) -> None:
        """One element."""
        self._stream.write(b",\n" if self._count else b"[\n")
        self._stream.write(json_of(row).encode())
        self._count += 1

    def close(self) -> None:
        """The closing bracket."""
        self._stream.write(b"\n]\n" if self._count else b"[]\n")

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """All rows."""
        yield from parsed(path.read_bytes())


PLUGIN = JsonWriter
