"""`univfd bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from . import DONE, UNREADABLE
from ._shared import (
    PATH,
    data_options,
    download_progress,
    remark,
    rounds_option,
    samples_of,
    watching,
    work_options,
)

if TYPE_CHECKING:
    from ..benchmark.rows import Scores


@click.group()
def command() -> None:
    """Benchmarks: detectors on labelled images, and what comes out."""


@command.command()
@data_options
@click.option("--detectors", default="default", show_default=True, metavar="A,B,...", help="Names or folders.")
@click.option(
    "--perturb", default="clean", show_default=True, metavar="P,Q,...",
    help="Chains to lay on the pixels, each a row of its own: clean,jpeg:85,limit:768+jpeg:60",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of the same.")
@click.option("--cache", type=PATH, help="Folder of kept embeddings.  [default: in the user's cache folder]")
@work_options
@click.pass_context
def run(
    ctx: click.Context, data: str, root: Path | None, subsets: tuple[str, ...], partial: bool, detectors: str,
    perturb: str, output: Path, resume: bool, cache: Path | None, batch_size: int | None, workers: int | None,
    threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Score every image with every detector under every perturbation.

    DATA is a folder of labelled folders, a manifest or tar shards (docs/datasets.md), or with --root a suite. Writes
    OUTPUT/scores.parquet, one row per image, detector and perturbation; 'univfd bench report OUTPUT' makes the
    figures. Embeddings are kept, so that a run that was stopped goes on with --resume where it was, and another
    detector on the same features costs next to nothing.
    """
    from ..benchmark.run import open_detectors
    from ..benchmark.run import run as run_benchmark

    samples = samples_of(data, root, subsets, partial)
    with download_progress(ctx) as downloading:
        opened = open_detectors(_listed(detectors), threads=threads, progress=downloading)
    try:
        with watching(ctx) as watch:
            finished = run_benchmark(
                samples, opened, output, data=str(root or data), suite=data if root else "",
                perturbations=_listed(perturb), cache=cache, resume=resume, batch_size=batch_size, workers=workers,
                max_pixels=round(max_pixels * 1e6), watch=watch,
            )  # fmt: skip
    except KeyboardInterrupt:
        remark(ctx, "\nwhat was embedded is kept; the same command with --resume goes on")
        raise
    remark(ctx, f"{finished.rows} rows, {finished.failed} failed -> {output}; next: univfd bench report {output}")
    return UNREADABLE if finished.failed else DONE


@command.command()
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for the tables.  [default: FOLDER/tables]")
@rounds_option
@click.pass_context
def report(ctx: click.Context, folder: Path, output: Path | None, rounds: int) -> int:
    """Make the figures of a run, from its rows alone: tables in Markdown, LaTeX and CSV.

    The main table is printed. The same rows give the same tables, byte for byte.
    """
    from ..benchmark import rendering, tables
    from ..benchmark.figures import figures

    output = output or folder / "tables"
    files = tables.files(figures(_rows(folder), rounds=rounds))
    written = rendering.write_files(output, files)
    click.echo(files["main.md"], nl=False)
    remark(ctx, f"{len(files)} files -> {output}" if written else f"{output} holds these very tables already")
    return DONE


@command.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH, required=False)
@click.option("--detectors", metavar="X,Y", help="One of the first run, one of the second (or both of the only one).")
@click.option("--metric", default="auroc", show_default=True, help="A figure of figures.csv, such as ap or recall.")
@click.option("-o", "--output", type=PATH, help="Folder for the table as Markdown, LaTeX and CSV.")
@rounds_option
@click.pass_context
def compare(
    ctx: click.Context, first: Path, second: Path | None, detectors: str | None, metric: str, output: Path | None,
    rounds: int,
) -> int:  # fmt: skip
    """Tell by how much a figure differs between two runs on the same images, or two detectors of one run.

    The interval of the difference is from paired redrawn sets. Without --detectors, each detector that both runs have
    is compared with itself.
    """
    from ..benchmark import compare as comparing
    from ..benchmark import rendering

    ours = _rows(first)
    theirs = ours if second is None else _rows(second)
    pairs = comparing.pairs_of(ours, theirs, _listed(detectors) if detectors else [])
    found = comparing.compare(ours, theirs, pairs, metric, rounds=rounds)
    names = (str(first), str(first if second is None else second))
    table = comparing.table(found, metric, names)
    for name in sorted(set(comparing.perturbations(ours)) ^ set(comparing.perturbations(theirs))):
        remark(ctx, f"not compared: {name}, which only one of the runs has")
    click.echo(rendering.markdown(table), nl=False)
    if output is not None:
        files = rendering.files_of(table)
        written = rendering.write_files(output, files)
        remark(ctx, f"{len(files)} files -> {output}" if written else f"{output} holds this very table already")
    return DONE


def _rows(folder: Path) -> Scores:
    from ..benchmark.rows import read_rows
    from ..benchmark.run import KIND, MANIFEST, SCHEMA, SCORES
    from ..storage import read_json

    read_json(folder / MANIFEST, KIND, SCHEMA)
    if not (folder / SCORES).is_file():
        raise UsageError(f"{folder} is an unfinished run; finish it with 'univfd bench run ... -o {folder} --resume'")
    return read_rows(folder / SCORES)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
