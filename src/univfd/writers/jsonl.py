"""JSON Lines: one row a line, complete evidence; the format to stream, to resume and to keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..storage import parsed
from . import Row, json_of


class JsonlWriter:
    """See `univfd.writers.Writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, row: Row) -> None:
        """One line, flushed: what is written survives a kill."""
        self._stream.write(json_of(row).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing ends the file."""

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """Every complete line; a last line cut off by a kill is left out."""
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield parsed(line)


PLUGIN = JsonlWriter
