"""An output format: one line of a Markdown table an image. `-o report.md` finds it by its name, `md`.

What UnivFD asks of a writer is the protocol `univfd.writers.Writer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


class MarkdownWriter:
    """Takes rows in order.

    Args:
        stream: where to; it belongs to the caller.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._line("image", "verdict", "score")
        self._line("---", "---", "---")

    def write(self, row: Mapping[str, Any]) -> None:
        """One line; a failure has its error in place of a verdict."""
        failed = row["status"] == "failed"
        verdict = row["error"] if failed else row["verdict"]
        self._line(row["image"], verdict, "" if failed else f"{row['score']:+.3f}")

    def close(self) -> None:
        """Nothing ends the file; the stream stays open."""

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """Only needed to take up a finished file again with `--resume`."""
        raise ValueError(f"{path}: a Markdown table cannot be resumed; use .jsonl")

    def _line(self, *cells: str) -> None:
        # File names come from strangers: nothing of them may end a cell or a line.
        safe = ["".join(c if c.isprintable() else " " for c in cell).replace("|", "\\|") for cell in cells]
        self._stream.write(f"| {' | '.join(safe)} |\n".encode())
