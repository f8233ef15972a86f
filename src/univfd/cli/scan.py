"""`univfd scan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..wording import counted
from . import DONE, UNREADABLE
from ._shared import PATH, Megapixels, progress

if TYPE_CHECKING:
    from ..scan import ClassReport, Copies, Report, Spread

_UNEVEN = 0.6  # balanced accuracy by format alone from which on it is said; the audit's own limit
_SHOWN = 10


@click.command()
@click.argument("data", type=PATH)
@click.option(
    "--suite", metavar="NAME", help="DATA is the root of this suite (see `univfd suites`), or of a TOML file."
)
@click.option("--subset", "subsets", multiple=True, metavar="NAME", help="Only this subset of the suite; repeatable.")
@click.option("--partial", is_flag=True, help="Take other numbers of images than the suite was published with.")
@click.option("--decode", is_flag=True, help="Decode all pixels too: finds files that are damaged behind the header.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON, with every copy and count.")
@click.option("--workers", type=click.IntRange(1), help="Reading threads.  [default: one per CPU]")
@click.option(
    "--max-pixels", type=Megapixels(), default=200, show_default=True,
    metavar="MEGAPIXELS", help="Count larger images as unreadable.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context, data: Path, suite: str | None, subsets: tuple[str, ...], partial: bool, decode: bool,
    as_json: bool, workers: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Say what is in a data set: counts, formats, sizes, copies of one file, files that cannot be read.

    DATA is a folder of labelled folders, a manifest, or tar shards (docs/datasets.md). Nothing is changed. Exit code 3
    if some images cannot be read.
    """
    from ..datasets import open_dataset
    from ..errors import DataError, UsageError
    from ..scan import scan
    from ..suites import open_suite

    if suite is None and (subsets or partial):
        raise UsageError("--subset and --partial are of a suite; name it with --suite")
    samples = open_suite(suite).samples(data, only=subsets, partial=partial) if suite else open_dataset(data)
    with progress(ctx, "images") as advance:
        report = scan(samples, pixels=decode, workers=workers, max_pixels=round(max_pixels * 1e6), on_done=advance)
    if not report.images:
        raise DataError(f"{data} holds no images")
    from ..writers import json_of, printable_lines

    if as_json:
        click.echo(json_of(report.to_dict(), indent=1))
    else:
        for line in _lines(report):
            click.echo(printable_lines(line))
    return UNREADABLE if report.failures else DONE


def _lines(report: Report) -> Iterator[str]:
    images = counted(report.images, "image")
    yield f"{images}, {len(report.failures):,} of them cannot be read; digest {report.digest[:16]}"
    for word, column in (("real", "source"), ("fake", "generator")):
        yield ""
        yield from _class_lines(word, column, report)
    yield ""
    yield from _copy_lines(report.copies)
    if (told := report.told_by_format) is not None:
        remark = "; run univfd audit on the set before you trust a score on it" if told >= _UNEVEN else ""
        yield f"formats      by the format alone {told:.0%} of real and fake can be told apart (50% is chance){remark}"
    yield from _failure_lines(report)


def _class_lines(word: str, column: str, report: Report) -> Iterator[str]:
    from ..writers import printable

    found: ClassReport = report.classes[word]
    named = {key[1:]: n for key, n in report.totals("label", column, "split").items() if key[0] == word}
    names = sorted({name for name, _ in named})
    images = counted(found.images, "image")
    yield f"{word:<12} {images} of {counted(len(names), column)}, {found.unreadable} cannot be read"
    if found.formats:
        total = sum(found.formats.values())
        yield "  format     " + ", ".join(f"{f or 'none'} {n:,} ({n / total:.0%})" for f, n in found.formats.items())
        yield f"  width      {_spread(found.width)} pixels"
        yield f"  height     {_spread(found.height)} pixels"
        yield f"  file       {_spread(found.bytes)} bytes"
    for name in names:
        splits = {split: n for (of, split), n in named.items() if of == name}
        apart = "" if set(splits) == {""} else "  " + ", ".join(f"{s or 'no split'} {n:,}" for s, n in splits.items())
        yield f"  {sum(splits.values()):>9,}  {printable(name) or '(not named)'}{apart}"


def _spread(spread: Spread | None) -> str:
    return f"{spread.min:,} to {spread.max:,}, median {spread.median:,.0f}" if spread else ""


def _copy_lines(copies: tuple[Copies, ...]) -> Iterator[str]:
    from ..writers import printable

    extra = sum(len(c.files) - 1 for c in copies)
    labels, splits = sum(c.across_labels for c in copies), sum(c.across_splits for c in copies)
    yield (
        f"copies       {counted(extra, 'file has', 'files have')} the bytes of another; "
        f"{counted(labels, 'image is', 'images are')} both real and fake, "
        f"{splits} lie in several splits"
    )
    worst_first = sorted(copies, key=lambda c: (not c.across_labels, not c.across_splits))
    for found in worst_first[:_SHOWN]:
        where = [f"{printable(c.image)} ({', '.join(w for w in (c.label, c.split) if w)})" for c in found.files]
        yield "             " + " = ".join(where)
    if len(copies) > _SHOWN:
        yield f"             and {len(copies) - _SHOWN:,} more; --json lists all"


def _failure_lines(report: Report) -> Iterator[str]:
    from ..writers import printable

    for failure, label in report.failures:
        yield f"failed       {failure.error:<16} {label}  {printable(failure.image)}"
        yield f"             {printable(failure.message)}"
