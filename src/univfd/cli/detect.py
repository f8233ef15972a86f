"""`univfd detect`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..wording import counted
from . import DONE, FLAGGED, UNREADABLE
from ._ray import ray_options
from ._shared import (
    PATH,
    collect,
    engine_option,
    image_column_option,
    images_options,
    progress,
    remark,
    trust_option,
    work_options,
)

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..sources import Source
    from ._explaining import Explaining

FORMATS = ("json", "jsonl", "csv", "parquet")
_EVIDENCE = 3


def _format_options(function: Any) -> Any:
    for name in reversed(FORMATS):
        function = click.option(f"--{name}", "format", flag_value=name, help=f"Rows as {name}.")(function)
    return function


@click.command()
@images_options
@image_column_option
@_format_options
@click.option(
    "-o",
    "--output",
    type=PATH,
    help="Write rows to this file (format by its ending, or as asked). With --ray: a folder to make, or a URL.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where an earlier run into the same --output stopped. Rows that failed are rows: they stay, unless with "
    "--retry.",
)
@click.option(
    "--retry",
    is_flag=True,
    help="With --resume: judge again what failed; the new rows come behind those that are kept.",
)
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@click.option("--bank", metavar="STORE[@VERSION]", help="Decide with the rows of this bank store (see `univfd bank`).")
@click.option(
    "--explain",
    is_flag=True,
    help="Show the three nearest fake and real bank rows of each image (CSV and Parquet: the nearest).",
)
@click.option(
    "--explain-html",
    type=PATH,
    metavar="FILE",
    help="Write verdicts and bank rows as one HTML page, with the judged pictures.",
)
@click.option(
    "--heatmap",
    type=PATH,
    metavar="DIR",
    help="Write a picture into DIR for each judged image: where the score of the patch probe comes from (not what "
    "was edited). Such pictures in DIR are no inputs.",
)
@click.option(
    "--provenance",
    is_flag=True,
    help="Add what each file says of its own origin (Content Credentials, metadata, generator text, open "
    "watermarks). It never changes verdict or score.",
)
@trust_option
@click.option("--server", metavar="URL", help="Ask a service (`univfd serve`) in place of a detector of this machine.")
@click.option("--key-env", metavar="NAME", help="Variable of the environment that holds the key for --server.")
@click.option(
    "--fail-on", type=click.Choice(["fake", "unsure"]), multiple=True,
    help="Exit with 1 if any image gets this verdict; may be repeated.",
)  # fmt: skip
@work_options
@engine_option
@ray_options
@click.pass_context
def command(
    ctx: click.Context, images: tuple[str, ...], from_file: str | None, null: bool, image_column: str | None,
    format: str | None, output: Path | None, resume: bool, retry: bool, detector: str, bank: str | None, explain: bool,
    explain_html: Path | None, heatmap: Path | None, provenance: bool, trust: tuple[Path, ...], server: str | None,
    key_env: str | None, fail_on: tuple[str, ...], batch_size: int | None, workers: int | None, threads: int | None,
    max_pixels: float, engine: str | None,
) -> int:  # fmt: skip
    """Say of each image whether it is AI-generated: fake, real or unsure, with the evidence.

    IMAGES are files, folders (searched recursively), globs and uncompressed tar files. Exactly one row comes out for
    each image; what cannot be read is a row too.
    """
    from .. import runner
    from ._judging import here, there
    from ._ray import asked

    paths = collect(images, from_file, null)
    if (on := asked(ctx)) is not None:
        return _on_cluster(ctx, on, paths)
    _require_fitting(
        format, output, resume=resume, retry=retry, key_env=key_env, server=server, trust=trust, provenance=provenance
    )
    if output is not None:
        format = format or runner.format_of(output)
    neighbors = _EVIDENCE if explain or explain_html else 1
    explaining = _explaining(explain_html, output)
    inputs = _inputs(paths, image_column, heatmap)
    if server is not None:
        judging = there(
            ctx, server, key_env=key_env, neighbors=neighbors, explaining=explaining, heatmap=heatmap,
            provenance=provenance, workers=workers,
        )  # fmt: skip
    else:
        judging = here(
            ctx, detector=detector, bank=bank, neighbors=neighbors, explaining=explaining, heatmap=heatmap,
            provenance=provenance, trust=trust, batch_size=batch_size, workers=workers, threads=threads,
            max_pixels=max_pixels, engine=engine,
        )  # fmt: skip
    if output is not None and format is not None:
        rows = runner.run(judging.line, inputs, output, format, detector=judging.identity, resume=resume, retry=retry)
    else:
        rows = _to_stdout(judging.line, inputs, format, explain)
    shown: Iterator[Any] = rows
    if explaining is not None:
        shown = explaining.rows(
            shown, detector=judging.identity, calibration=judging.calibration, bank=judging.bank,
            pictures=judging.pictures,
        )  # fmt: skip
    counts = _counted(ctx, rows, shown, output)
    _summary(ctx, counts, judging.calibration, *(path for path in (output, explain_html) if path is not None))
    return _outcome(ctx, counts, fail_on, failed=bool(counts["failed"] or (judging.maps and judging.maps.failed)))


def _inputs(paths: Iterable[str], column: str | None, maps: Path | None) -> Iterable[Source]:
    """What is judged: of Parquet files the named column, and no heat maps of an earlier run."""
    from ..sources import in_column
    from ._heatmaps import beyond_maps

    found = paths if column is None else in_column(paths, column)
    return found if maps is None else beyond_maps(found, maps)


def _counted(ctx: click.Context, rows: Generator[Any], shown: Iterator[Any], output: Path | None) -> Counter[str]:
    """Go through `shown`, which goes through `rows`; say how a run that was stopped goes on."""
    from .. import runner

    try:
        return _count(ctx, shown, quiet=output is None and sys.stdout.isatty())
    except (KeyboardInterrupt, Exception) as error:
        rows.close()  # which removes a journal without a new row
        if output is not None and runner.journal_of(output).exists() and not isinstance(error, UsageError):
            kept = runner.journal_of(output)
            remark(ctx, f"\nwhat was done is kept in {kept}; the same command with --resume goes on")
        raise
    finally:
        rows.close()  # its lock and journal, also where the page stopped it


def _outcome(ctx: click.Context, counts: Counter[str], fail_on: tuple[str, ...], *, failed: bool) -> int:
    """The exit code."""
    if not counts.total():
        remark(ctx, "there was nothing to judge; check the paths")
        return UNREADABLE
    if any(counts[verdict] for verdict in fail_on):
        return FLAGGED
    return UNREADABLE if failed else DONE


def _on_cluster(ctx: click.Context, on: Any, inputs: Iterable[Any]) -> int:
    """The same on a Ray cluster."""
    from ._judging import opened
    from ._ray import detect_on, own_engine, place, refuse

    if ctx.params["format"] not in {None, "parquet"}:
        raise UsageError("--ray writes Parquet, partition by partition; leave the format out")
    refuse(ctx, "heatmap", "provenance", "trust", "server", "key_env", "explain", "explain_html", "retry")
    given = ctx.params
    place(given["output"])  # refused before the detector is opened
    detector = opened(ctx, given["detector"], given["bank"], threads=1, engine=own_engine(given["engine"]))
    work = on.work(**{name: given[name] for name in ("batch_size", "workers", "threads", "max_pixels", "engine")})
    return detect_on(
        ctx, on, detector, inputs, given["output"], work, neighbors=1, resume=given["resume"], fail_on=given["fail_on"]
    )


def _require_fitting(
    format: str | None, output: Path | None, *, resume: bool, retry: bool, key_env: str | None, server: str | None,
    trust: tuple[Path, ...], provenance: bool,
) -> None:  # fmt: skip
    """Refuse options that mean nothing without another."""
    if resume and output is None:
        raise UsageError("--resume needs -o/--output: there must be a file to go on with")
    if retry and not resume:
        raise UsageError("--retry needs --resume: there must be an earlier run")
    if format == "parquet" and output is None:
        raise UsageError("--parquet is binary; give it a file with -o FILE")
    if key_env is not None and server is None:
        raise UsageError("--key-env is of --server")
    if trust and not provenance:
        raise UsageError("--trust is of --provenance")


def _explaining(path: Path | None, output: Path | None) -> Explaining | None:
    if path is None:
        return None
    from .. import runner
    from ..report.evidence import PAGE
    from ..report.template import template
    from ..storage import require_new
    from ._explaining import Explaining

    if output is not None and path.resolve() in {output.resolve(), runner.journal_of(output).resolve()}:
        raise UsageError(f"{path} is the file of the rows, or its journal; give the page another name")
    require_new(path)
    template(PAGE)  # which may lack its extra: better said before anything is judged
    return Explaining(path)


def _to_stdout(line: Any, inputs: Iterable[Any], format: str | None, explain: bool) -> Generator[Any, None, None]:
    from .. import runner

    if sys.stdout is None:
        raise UsageError("standard output is closed: there is nowhere to write rows to. Name a file with -o FILE")
    options = {"explain": explain} if format is None else {}
    return runner.stream(line, inputs, runner.writer(format or "text")(sys.stdout.buffer, **options))


def _count(ctx: click.Context, rows: Iterable[Any], quiet: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    if quiet:  # verdicts are running over the terminal; a counter would fight with them
        counts.update(row.get("verdict", "failed") for row in rows)
        return counts
    with progress(ctx, "images") as advance:
        for row in rows:
            counts[row.get("verdict", "failed")] += 1
            advance(1)
    return counts


def _summary(ctx: click.Context, counts: Counter[str], calibration: Calibration, *written: Path) -> None:
    """How many of each verdict, which files were written, and what the verdicts promise."""
    parts = [f"{counts[word]} {word}" for word in ("fake", "unsure", "real", "failed") if counts[word]]
    where = f" -> {', '.join(map(str, written))}" if written else ""
    remark(ctx, f"{counted(counts.total(), 'image')}: {', '.join(parts) or 'none'}{where}")
    if calibration.max_fpr is not None and counts["fake"]:
        from ..writers import in_percent

        sure = calibration.confidence
        remark(
            ctx,
            f"'fake' is set so that at most {in_percent(calibration.max_fpr)}% of real images like the "
            f"{calibration.n_real} it was calibrated on are called fake"
            + ("" if sure is None else f", at {in_percent(sure)}% confidence")
            + (f". But its {caveat}" if (caveat := calibration.caveat("real")) else "")
            + ". A verdict is a signal, not proof.",
        )
    elif counts["real"]:
        remark(
            ctx, "'real': no sign of generation was found. That does not rule it out, least of all by a new generator."
        )
