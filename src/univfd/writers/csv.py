"""CSV, flat, UTF-8, one header line. Cells that a spreadsheet would run as a formula are disarmed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from . import FLAT_COLUMNS, CsvLines, Row, disarmed, flat, unflat

_LONGEST = 1 << 24  # characters of a cell


class CsvWriter:
    """See `univfd.writers.Writer`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        self._csv = CsvLines(self._text)
        self._csv.writerow([name for name, _ in FLAT_COLUMNS])

    def write(self, row: Row) -> None:
        """One line (more, where a file name has a newline: it is quoted)."""
        self._csv.writerow([disarmed(v) for v in flat(row).values()])

    def close(self) -> None:
        """Flush, and leave the stream to its owner."""
        self._text.detach()

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """All rows, with the columns' types.

        Raises:
            ValueError, LookupError, TypeError: what `write` did not write.
        """
        types = dict(FLAT_COLUMNS)
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))  # of the process; a name in a tar may be that long
        with path.open(encoding="utf-8", newline="") as file:
            try:
                for row in csv.DictReader(file):
                    yield unflat({k: _parsed(v, types[k]) for k, v in row.items()})
            except csv.Error as error:
                raise ValueError(str(error)) from error


def _parsed(text: str, kind: type) -> Any:
    if not text:
        return None
    if kind is str:
        return text[1:] if text.startswith("'") else text
    return kind(text)


PLUGIN = CsvWriter
