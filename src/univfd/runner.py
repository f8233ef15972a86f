"""Many images into one file: every row kept as it comes, a killed run resumed, a finished result never overwritten.

While a run is under way its rows go to a journal beside the output (`FILE.partial`, JSON Lines, one write a row).
When the last row is there the output is written in its own format and moved into place at once; then the journal goes.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from . import registry
from .errors import FormatError, OutputExistsError, UsageError
from .sources import Source, expand
from .storage import cannot_write, locked, parsed, replace_file
from .types import Failure, ImageRef
from .writers import FLAT_COLUMNS, Row, Writer, flat

log = logging.getLogger(__name__)

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

_TAIL = 1 << 16
_JOURNAL = "jsonl"
_STATES = ("ok", "failed")
_VOID = "void"  # of a line of the journal: the failed row of this name above it counts no more
_VOID_MARK = b'"void"'
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)  # where a slash says nothing of what is inside what
_T = TypeVar("_T")

Line = Callable[[Iterable[ImageRef | Failure]], Iterator[Any]]
"""What gives one value with `to_dict()` per reference, in order: `Detector.detect` with its options bound."""


def journal_of(output: Path) -> Path:
    """Where the rows of an unfinished run are."""
    return output.with_name(output.name + ".partial")


def format_of(path: Path) -> str:
    """The format that a file name asks for.

    Raises:
        UsageError: an ending that no format has.
    """
    added = {f".{name}": name for name in registry.names("writers") if name not in (*SUFFIXES.values(), "text")}
    known = SUFFIXES | added  # a plug-in's writer is asked for by its name
    if path.suffix.lower() not in known:
        raise UsageError(f"{path}: the format is not clear from the name; end it in one of {', '.join(known)}")
    return known[path.suffix.lower()]


def writer(format: str) -> Any:
    """The writer class of a format, see `univfd.writers`.

    Raises:
        UnknownNameError, MissingExtraError: see `univfd.registry.load`.
    """
    return registry.load("writers", format)


def stream(line: Line, images: Iterable[Source], writer: Writer) -> Generator[Row, None, None]:
    """Write rows to an open writer as they come, and yield each."""
    try:
        for item in line(expand(images)):
            row = item.to_dict()
            writer.write(row)
            yield row
    finally:
        writer.close()


def run(
    line: Line, images: Iterable[Source], output: Path, format: str, *, detector: str, resume: bool = False,
    retry: bool = False,
) -> Generator[Row, None, None]:  # fmt: skip
    """Write one row per image into a file and yield each row, those of an earlier run first.

    Args:
        line: gives the rows.
        images: inputs.
        output: the file to make.
        format: name of a writer.
        detector: identity of the detector; an earlier run by another one is not continued.
        resume: go on where an earlier run of the same output stopped (or take up what has come since it ended). What
            failed then keeps its row: most failures are of the file itself.
        retry: with `resume`: what failed then, and is among the inputs, is judged again; the new row comes behind
            those that are kept, that of a folder or tar is dropped for the first new row from inside. A name that has
            several rows keeps them.

    Raises:
        OutputExistsError: the output, or the journal of an unfinished run, is there and `resume` was not asked for.
        UsageError: the earlier run was by another detector, or with provenance where this one is without, or the other
            way round; or `retry` without `resume`.
        UnivFDError: the output cannot be written.
        OSError: as `line` and `images` raise it.
    """
    if retry and not resume:
        raise UsageError("retry needs resume: there must be an earlier run")
    format_writer = writer(format)
    journal = journal_of(output)
    elsewhere: list[OSError] = []
    try:
        with (
            locked(journal),
            _without_trace(journal) as taken_up,
            _open_journal(journal, output, format_writer, detector, resume) as file,
        ):
            taken_up.append(file.tell())
            named: Counter[str] = Counter()
            shown: dict[str, set[int]] = {}
            waiting: dict[str, Row] = {}
            for row in _noting(_earlier(journal, named, waiting, retry), elsewhere):
                _same_detector(row, detector, output)
                for name, value in _options_of(row, format).items():
                    shown.setdefault(name, set()).add(value)
                yield row
            again = frozenset(waiting)
            keeper = writer(_JOURNAL)(file)
            compared = False
            for item in _noting(line(_remaining(expand(images), named, again)), elsewhere):
                row = item.to_dict()
                compared = compared or _same_options(row, shown, output, format)
                for name in _answered(row["image"], waiting):
                    del waiting[name]
                    keeper.write({"image": name, "status": _VOID})  # first: at worst it is judged once more
                keeper.write(row)
                yield row
            yield from waiting.values()
            file.close()
            _finish(journal, output, format_writer)
    except OSError as error:
        if any(error is other for other in elsewhere):
            raise
        raise cannot_write(output, error) from error


def _noting(items: Iterable[_T], errors: list[OSError]) -> Iterator[_T]:
    """The same items; an error of the system on the way to them is noted: it says nothing of the output."""
    try:
        yield from items
    except OSError as error:
        errors.append(error)
        raise


@contextmanager
def _without_trace(journal: Path) -> Iterator[list[int]]:
    """Remove a journal that this run began and added no row to: it would only stand in the way of the next run.

    Gives a list for the bytes that were taken up from a finished output.
    """
    own = not journal.exists()
    taken_up: list[int] = []
    try:
        yield taken_up
    finally:
        if own and journal.exists() and journal.stat().st_size <= sum(taken_up):
            journal.unlink()


def _open_journal(journal: Path, output: Path, format_writer: type[Writer], detector: str, resume: bool) -> IO[bytes]:
    """The journal, open behind its last whole row; a finished output is taken up into a new one."""
    if not resume:
        for path in (output, journal):
            if path.exists():
                what = "is there already" if path == output else "is an unfinished run"
                raise OutputExistsError(f"{path} {what}; results are never overwritten. Use --resume or another name")
    if output.exists() and not journal.exists():
        # Under another name until it is complete: a journal must never hold fewer rows than the output it came from.
        copy = journal.with_name(f".{journal.name}.copy")
        try:
            with copy.open("wb") as file:
                keeper = writer(_JOURNAL)(file)
                for row in _checked(_rows_of(format_writer, output), output):
                    _same_detector(row, detector, output)
                    keeper.write(row)
            copy.rename(journal)
        finally:
            copy.unlink(missing_ok=True)
    begun = journal.open("r+b" if journal.exists() else "x+b")
    begun.truncate(_whole_rows(begun))
    begun.seek(0, 2)
    return begun


def _rows_of(format_writer: type[Writer], output: Path) -> Iterator[Any]:
    """The rows of a finished output; what a plug-in's `read` raises at once, it raises as they are gone through."""
    yield from format_writer.read(output)


def _checked(rows: Iterable[Any], path: Path, states: Sequence[str] = _STATES) -> Iterator[Row]:
    """Rows of an earlier run, refused where they are none.

    Raises:
        FormatError: what cannot be read, or is no row.
    """
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict) or not isinstance(row.get("image"), str) or row.get("status") not in states:
                raise FormatError(f"{path}, row {number} is no result of this program. Choose another output")
            _check_columns(row)
            yield row
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; Arrow's, of damage, have none
            raise
        raise FormatError(
            f"{path} is no result of this program (after row {number}: {error}). Choose another output"
        ) from error


def _check_columns(row: Row) -> None:
    """That a row can be written in any format.

    Raises:
        LookupError, TypeError, AttributeError, OverflowError: a value that is missing, or of another kind.
    """
    for (name, kind), value in zip(FLAT_COLUMNS, flat(row).values(), strict=True):
        if value is None:
            continue
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r:.60}, expected {kind.__name__}")
        if isinstance(value, int):  # JSON's may be larger than any column's
            float(value) if kind is float else value.to_bytes(8, "little", signed=True)


def _earlier(journal: Path, named: Counter[str], waiting: dict[str, Row], retry: bool) -> Iterator[Row]:
    """The rows of an earlier run that stay as they are.

    Args:
        journal: what the earlier run left.
        named: is given how many rows each name has.
        waiting: with `retry`, is given the failed rows to be judged again, by name. Of several rows of one name nothing
            says which is whose, so these stay.
        retry: see `run`.
    """
    if retry:
        several = Counter(row["image"] for row in _standing(journal))
    for row in _standing(journal):
        name = row["image"]
        named[name] += 1
        if retry and row["status"] == "failed" and several[name] == 1:
            waiting[name] = row
        else:
            yield row


def _answered(name: str, waiting: Mapping[str, Row]) -> list[str]:
    """The failed rows that a new row replaces: the image's own, and those of folders and tars around it."""
    around = [] if _ADDRESS.match(name) else [name[: m.start()] for m in re.finditer("/", name)]
    return [n for n in (name, *around) if n in waiting]


def _standing(journal: Path) -> Iterator[Row]:
    """The rows of a journal but those that were judged again since."""
    void = _void(journal)
    for row in _checked(writer(_JOURNAL).read(journal), journal, (*_STATES, _VOID)):
        if row["status"] == "failed" and void[row["image"]]:
            void[row["image"]] -= 1
        elif row["status"] != _VOID:
            yield row


def _void(journal: Path) -> Counter[str]:
    """How many failed rows of a name count no more.

    Raises:
        FormatError: a line that is no row.
    """
    with journal.open("rb") as file:  # few lines have it, and a journal may have millions
        lines = (parsed(line) for line in file if _VOID_MARK in line and line.endswith(b"\n"))
        return Counter(row["image"] for row in _checked(lines, journal, (*_STATES, _VOID)) if row["status"] == _VOID)


def _whole_rows(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line; a kill may have cut the line after it."""
    end = file.seek(0, 2)
    while end:
        start = max(0, end - _TAIL)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _same_detector(row: Row, detector: str, output: Path) -> None:
    if row.get("detector", detector) != detector:
        raise UsageError(
            f"{output} was begun by {row['detector']}; this is {detector} (another bank, other thresholds, or a "
            "lossy engine). Choose another output"
        )


def _options_of(row: Row, format: str) -> dict[str, int]:
    """What a row shows of the options of its run, as far as its format does; nothing, where it failed.

    Args:
        row: as it was written, or read back.
        format: of the output. CSV and Parquet have one neighbour whatever was asked for, a plug-in's format who knows.
    """
    if row["status"] != "ok" or format not in SUFFIXES.values():
        return {}
    shown = {}
    if row.get("provenance", "not asked for") is not None:  # None: no file was read, which flat formats leave empty
        shown["provenance"] = int("provenance" in row)
    if format in {"jsonl", "json"}:
        shown["neighbours"] = max(len(row.get(side, [])) for side in ("nearest_fake", "nearest_real"))
    return shown


def _same_options(row: Row, earlier: Mapping[str, Container[int]], output: Path, format: str) -> bool:
    """Whether a row of this run shows its options: the first that does is compared with the rows of an earlier run.

    With the same options and the same detector all verdicts show the same, also where a bank has few rows or none.

    Args:
        row: of this run.
        earlier: all values of `_options_of` in the rows of the earlier one.
        output: for the message.
        format: of the output.

    Raises:
        UsageError: some rows would have provenance, and others not. Another number of neighbours is only remarked upon:
            a page of evidence may be made of the rest of a run.
    """
    shown = _options_of(row, format)
    differing = [name for name, value in shown.items() if value not in earlier.get(name, [value])]
    if "provenance" in differing:
        words = ("without", "with") if shown["provenance"] else ("with", "without")
        raise UsageError(
            f"{output} was begun {words[0]} provenance; this run is {words[1]} it. Give the same options, or choose "
            "another output"
        )
    if differing:
        log.warning("%s: rows of the earlier run have another number of neighbours than this run's", output)
    return bool(shown)


def _remaining(
    refs: Iterable[ImageRef | Failure], named: Counter[str], again: Container[str]
) -> Iterator[ImageRef | Failure]:
    """References without those that have a row, by name, each as often as it has one; and those of `again`."""
    for ref in refs:
        name = ref.name if isinstance(ref, ImageRef) else ref.image
        known = named[name] > 0
        if known:
            named[name] -= 1
        if not known or name in again:
            yield ref


def _finish(journal: Path, output: Path, format_writer: type[Writer]) -> None:
    """The journal becomes the output."""
    if format_writer is writer(_JOURNAL) and not _void(journal):
        replace_file(journal, output)
        return
    scratch = output.with_name(f".{output.name}.tmp")
    try:
        with scratch.open("wb") as file:
            formatted = format_writer(file)
            for row in _standing(journal):
                formatted.write(row)
            formatted.close()
        replace_file(scratch, output)
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()
    journal.unlink()
