"""Where rows go: one file a format. A row is what `Verdict.to_dict` or `Failure.to_dict` gives.

A writer is `(stream) -> object with write(row) and close()`; a format that can be read back has `read(path)`, which
the runner needs to go on where an earlier run stopped. `PLUGIN` is the class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from csv import writer as csv_writer  # by name: files of this folder are called csv and json
from json import dumps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TextIO

from .. import registry
from ..types import Failure, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

FLAT_COLUMNS: tuple[tuple[str, type], ...] = (
    ("image", str),
    ("status", str),
    ("verdict", str),
    ("score", float),
    ("probability", float),
    ("attribution", str),
    ("nearest_fake_distance", float),
    ("nearest_fake_generator", str),
    ("nearest_fake_source", str),
    ("nearest_real_distance", float),
    ("nearest_real_source", str),
    ("sha256", str),
    ("width", int),
    ("height", int),
    ("format", str),
    ("view", str),
    ("detector", str),
    ("space", str),
    ("reasons", str),
    ("reason_codes", str),
    ("notes", str),
    ("note_codes", str),
    ("error", str),
    ("message", str),
    ("provenance_c2pa", str),
    ("provenance_claims", str),
    ("provenance_findings", str),
)
"""Columns of the flat formats (CSV, Parquet) and of `to_arrow`, with their types."""
_LISTS = ("reasons", "notes")
_CODES = ("reason_codes", "note_codes")


class Writer(Protocol):
    """Takes rows in order."""

    def __init__(self, stream: IO[bytes]) -> None: ...

    def write(self, row: Row) -> None:
        """Take one row; it is on its way to the stream when this returns."""
        ...

    def close(self) -> None:
        """Write what ends the file; the stream stays open."""
        ...

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """The rows of a file that this writer wrote, as far as the format keeps them."""
        ...


def flat(row: Row) -> dict[str, Any]:
    """A row with neighbours and provenance spread into columns, as `FLAT_COLUMNS`; absent values are None."""
    values = {name: row.get(name) for name, _ in FLAT_COLUMNS}
    for side in ("nearest_fake", "nearest_real"):
        for nearest in row.get(side, [])[:1]:
            for part in ("distance", "generator", "source"):
                if f"{side}_{part}" in values:
                    values[f"{side}_{part}"] = nearest[part]
    for name in _LISTS:
        values[name] = "; ".join(row[name]) if name in row else None
    for name in _CODES:
        values[name] = "; ".join(part["code"] for part in row[name]) if name in row else None
    if provenance := row.get("provenance"):
        values["provenance_c2pa"] = provenance["c2pa"]
        values["provenance_claims"] = "; ".join(provenance["claims"])
        values["provenance_findings"] = "; ".join(f["found"] for f in provenance["findings"])
    return values


def to_arrow(items: Iterable[Verdict | Failure | Row]) -> pa.Table:
    """Verdicts and failures as an Arrow table: one row each, in order, with the columns of the Parquet output.

    Pandas and polars take it as it is: `to_arrow(items).to_pandas()`, `polars.from_arrow(to_arrow(items))`.

    Args:
        items: what `Detector.detect` yields, or rows as a writer's `read` gives them back. All are held in memory; a
            large run goes into a file (`univfd.runner.run`).

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        from ._arrow import table_of
    except ModuleNotFoundError as error:
        raise registry.missing_extra("a table of verdicts", error) from error
    return table_of(flat(item.to_dict() if isinstance(item, Verdict | Failure) else item) for item in items)


def unflat(values: Row) -> dict[str, Any]:
    """Inverse of `flat`, as far as it goes."""
    row = {k: v for k, v in values.items() if v is not None and not k.startswith(("nearest_", "provenance_"))}
    row.setdefault("image", "")  # CSV has one word for an empty text and for none
    if row.get("status") == "ok":
        row |= {name: row[name].split("; ") if row.get(name) else [] for name in _LISTS}
        row |= {name: [{"code": c} for c in row[name].split("; ")] if row.get(name) else [] for name in _CODES}
        row.setdefault("probability", None)
        row.setdefault("attribution", "")
        for side in ("nearest_fake", "nearest_real"):
            parts = {p: values.get(f"{side}_{p}") or "" for p in ("generator", "source")}
            distance = values.get(f"{side}_distance")
            row[side] = [] if distance is None else [{"distance": distance, **parts}]
    if c2pa := values.get("provenance_c2pa"):
        claims, found = values.get("provenance_claims"), values.get("provenance_findings")
        row["provenance"] = {
            "c2pa": c2pa,
            "claims": claims.split("; ") if claims else [],
            "findings": [{"found": found}] if found else [],
        }
    return row


_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def disarmed(value: Any) -> Any:
    """A cell that no spreadsheet runs as a formula: names come from strangers.

    A spreadsheet runs a text that begins with one of these signs (the last four are their full-width forms, which it
    takes for the same where the user writes Chinese, Japanese or Korean). A leading apostrophe makes it text. A text
    that begins with an apostrophe gets one more, so that reading back is exact: take one off where there is one.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGINS) else value


class CsvLines:
    """Rows as lines of CSV that end in a line feed, with every cell quoted that holds a line break of any kind.

    Python's writer quotes a carriage return only where its own lines end in one; a spreadsheet takes any for the end.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._csv = csv_writer(self, lineterminator="\r\n")

    def writerow(self, cells: Iterable[Any]) -> None:
        """One line."""
        self._csv.writerow(cells)

    def write(self, line: str) -> None:
        """What Python's writer calls with a whole line."""
        self._stream.write(line.removesuffix("\r\n") + "\n")


_UNSEEN = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def json_of(data: Any, *, indent: int | None = None) -> str:
    """JSON in which control characters and marks that turn the direction of text are escaped, as JSON lets one do.

    A reader gets the very same values; a terminal, or a person, gets no sequence that does something.
    """
    return unseen_escaped(dumps(data, ensure_ascii=False, indent=indent))


def unseen_escaped(text: str) -> str:
    """The text of some JSON, in which such characters are escaped; see `json_of`."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_percent(share: float) -> str:
    """A promised share in percent, without the sign: `0.001` is `0.1`, never `0`."""
    return f"{100 * share:.3g}"


def printable_lines(text: str, *, below: str = "") -> str:
    """Text of several lines, each `printable`.

    Args:
        text: the lines.
        below: what all lines but the first begin with: a message of a name with a line break cannot fake another one.
    """
    return f"\n{below}".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """Text that cannot move the cursor, ring the bell or fake another line: such characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
