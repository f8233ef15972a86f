"""Lines for people: a verdict a line, its neighbours below it on request. Colours only on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import UsageError
from . import Row, printable

_STYLE = {"fake": "bold red", "real": "green", "unsure": "yellow", "failed": "magenta"}


class TextWriter:
    """See `univfd.writers.Writer`.

    Args:
        stream: where to.
        explain: list the neighbours of each verdict below it, before its reasons and notes.
    """

    def __init__(self, stream: IO[bytes], *, explain: bool = False) -> None:
        from rich.console import Console

        self._text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", write_through=True)
        self._console = Console(file=self._text, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._explain = explain

    def write(self, row: Row) -> None:
        """A line, and below it what explains it."""
        from rich.text import Text

        failed = row["status"] == "failed"
        word = "failed" if failed else row["verdict"]
        if failed:
            middle = f"{row['error']:<22}"
        else:
            chance = "" if row["probability"] is None else f"p(fake) {row['probability']:.2f}  "
            middle = f"{chance}score {row['score']:+7.3f}  "
        line = Text.assemble((f"{word:<7}", _STYLE[word]), middle, printable(row["image"]))
        self._console.print(line)
        if failed:
            self._console.print(Text(f"       {printable(row['message'])}", style="dim"))
        else:
            for below in _explanation(row, self._explain):
                self._console.print(Text(f"       {below}", style="dim"))
        for below in _provenance(row.get("provenance"), self._explain):
            self._console.print(Text(f"       {below}", style="cyan"))

    def close(self) -> None:
        """Leave the stream to its owner."""
        self._text.detach()

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """Text for people is not read back."""
        raise UsageError(f"{path}: text cannot be resumed; use .jsonl, .json, .csv or .parquet")


def _explanation(row: Row, neighbors: bool) -> Iterator[str]:
    if neighbors and row.get("attribution"):
        yield f"like images of: {printable(row['attribution'])}"
    for side in ("nearest_fake", "nearest_real") if neighbors else ():
        for n in row[side]:
            origin = f"{n['generator']} ({n['source']})" if n["generator"] else n["source"]
            yield f"{side.replace('_', ' ')}  distance {n['distance']:.3f}  {printable(origin)}"
    for reason in row.get("reasons", ()):
        yield f"unsure: {printable(reason)}"
    for note in row["notes"]:
        yield f"note: {printable(note)}"


def _provenance(read: Any, explain: bool) -> Iterator[str]:
    """What the file says of itself: apart from the verdict, which knows nothing of it."""
    if not read:
        return
    yield f"provenance (not in the verdict): {printable(read['headline'])}"
    for finding in read["findings"]:
        yield f"  {printable(finding['found'])} [{printable(finding['where'])}]"
        if explain:
            yield f"    means: {printable(finding['meaning'])}"
            yield f"    who can forge it: {printable(finding['forgery'])}"


PLUGIN = TextWriter
