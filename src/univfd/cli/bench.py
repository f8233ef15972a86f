"""`univfd bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..wording import counted
from . import DONE, UNREADABLE
from ._shared import (
    PATH,
    data_options,
    download_progress,
    engine_option,
    remark,
    rounds_option,
    samples_of,
    split_option,
    watching,
    work_options,
)

if TYPE_CHECKING:
    from ..benchmark.rows import Images, Scores
    from ..types import Sample

_OF_THE_PAGE = ("html", "thumbnails", "spectra", "maps", "data", "cache")


@click.group()
def command() -> None:
    """Benchmarks: detectors on labelled images, and what comes out."""


@command.command()
@data_options
@split_option
@click.option("--detectors", default="default", show_default=True, metavar="A,B,...", help="Names or folders.")
@click.option(
    "--perturb", default="clean", show_default=True, metavar="P,Q,...",
    help="Chains to lay on the pixels, each a row of its own: clean,jpeg:85,limit:768+jpeg:60",
)  # fmt: skip
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of the same.")
@click.option("--cache", type=PATH, help="Folder of kept embeddings.  [default: in the user's cache folder]")
@work_options
@engine_option
@click.pass_context
def run(
    ctx: click.Context, data: str, root: Path | None, subsets: tuple[str, ...], partial: bool, splits: tuple[str, ...],
    detectors: str, perturb: str, output: Path, resume: bool, cache: Path | None, batch_size: int | None,
    workers: int | None, threads: int | None, max_pixels: float, engine: str | None,
) -> int:  # fmt: skip
    """Score every image with every detector under every perturbation.

    DATA is a folder of labelled folders, a manifest or tar shards (docs/datasets.md), or with --root a suite. Writes
    OUTPUT/scores.parquet, one row per image, detector and perturbation; 'univfd bench report OUTPUT' makes the
    figures. Embeddings are kept, so that a run that was stopped goes on with --resume where it was, and another
    detector on the same features costs next to nothing.
    """
    from ..benchmark.run import open_detectors
    from ..benchmark.run import run as run_benchmark
    from ..datasets import of_splits
    from ..sources import display_name

    samples = samples_of(data, root, subsets, partial)
    samples = list(of_splits(samples, splits)) if splits else samples
    with download_progress(ctx) as downloading:
        opened = open_detectors(_listed(detectors), threads=threads, progress=downloading, engine=engine)
    try:
        with watching(ctx) as watch:
            finished = run_benchmark(
                samples, opened, output, data=display_name(root or data), suite=data if root else "",
                perturbations=_listed(perturb), cache=cache, resume=resume, batch_size=batch_size, workers=workers,
                max_pixels=round(max_pixels * 1e6), watch=watch,
            )  # fmt: skip
    except KeyboardInterrupt:
        remark(ctx, "\nwhat was embedded is kept; the same command with --resume goes on")
        raise
    remark(
        ctx,
        f"{counted(finished.rows, 'row')}, {finished.failed} failed -> {output}; next: univfd bench report {output}",
    )
    return UNREADABLE if finished.failed else DONE


@command.command()
@click.argument("folder", type=PATH)
@click.option("-o", "--output", type=PATH, help="Folder for the tables.  [default: FOLDER/tables]")
@click.option("--html", type=PATH, help="File for the page.  [default: FOLDER/report.html]")
@click.option("--no-html", is_flag=True, help="Only the tables; the page needs the extra report.")
@click.option(
    "--thumbnails",
    type=click.IntRange(0, 1000),
    default=6,
    show_default=True,
    metavar="N",
    help="Show the N worst false alarms and misses of each detector; 0: none.",
)
@click.option("--spectra/--no-spectra", default=True, show_default=True, help="Mean spectra; reads up to 600 images.")
@click.option(
    "--maps",
    default="pca,tsne",
    show_default=True,
    metavar="M,N,...",
    help="Feature maps: pca, tsne, umap (extra umap); '' for none.",
)
@click.option("--data", metavar="DATA", help="Where the images are now.  [default: where they were]")
@click.option("--cache", type=PATH, help="Folder of kept embeddings.  [default: in the user's cache folder]")
@rounds_option
@click.pass_context
def report(
    ctx: click.Context, folder: Path, output: Path | None, html: Path | None, no_html: bool, thumbnails: int,
    spectra: bool, maps: str, data: str | None, cache: Path | None, rounds: int,
) -> int:  # fmt: skip
    """Make the figures of a run: tables in Markdown, LaTeX and CSV, and a page.

    The main table is printed. The page is one HTML file that asks nothing of the network. It shows file names and
    small copies of the worst cases: think of that before you give it away. The same rows give the same tables and
    page, byte for byte.
    """
    from ..benchmark import rendering, tables
    from ..benchmark.figures import figures
    from ..benchmark.run import SCORES
    from ..downloads import sha256_of
    from ..report.page import Source, page, require_extra

    wanted = _listed(maps)
    given = [n for n in _OF_THE_PAGE if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT]
    if no_html and given:
        raise UsageError(f"{', '.join(f'--{n}' for n in given)}: of the page, which --no-html leaves out")
    if not no_html:
        require_extra(wanted)
    scores = _rows(folder)
    found = figures(scores, rounds=rounds)
    files = tables.files(found)
    output, html = output or folder / "tables", html or folder / "report.html"
    written = rendering.write_files(output, files)
    click.echo(files["main.md"], nl=False)
    remark(ctx, f"{len(files)} files -> {output}" if written else f"{output} holds these very tables already")
    if not no_html:
        run, digest = _manifest(folder), sha256_of(folder / SCORES)
        text = page(
            Source(run, scores, found, rounds, digest, lambda: _samples_again(run, scores.images, data)),
            thumbnails=thumbnails, spectra=spectra, maps=wanted, cache=cache,
        )  # fmt: skip
        written = rendering.write_file(html, text)
        remark(ctx, f"page -> {html}" if written else f"{html} is this very page already")
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


def _samples_again(run: Mapping[str, Any], images: Images, data: str | None) -> list[Sample]:
    """The images of a finished run, as far as they are there now."""
    place = data or str(run.get("data") or "")
    if run.get("suite"):
        subsets = tuple(name for name in images.columns["subset"].names if name)
        return samples_of(str(run["suite"]), Path(place), subsets, partial=True)
    return samples_of(place, None, (), partial=False)


def _manifest(folder: Path) -> dict[str, Any]:
    from ..benchmark.run import KIND, MANIFEST, SCHEMA
    from ..storage import read_json

    return read_json(folder / MANIFEST, KIND, SCHEMA)


def _rows(folder: Path) -> Scores:
    from ..benchmark.rows import read_rows
    from ..benchmark.run import SCORES

    _manifest(folder)
    if not (folder / SCORES).is_file():
        raise UsageError(f"{folder} is an unfinished run; finish it with 'univfd bench run ... -o {folder} --resume'")
    return read_rows(folder / SCORES)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
