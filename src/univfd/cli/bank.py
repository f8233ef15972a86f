"""`univfd bank`."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..wording import counted
from . import DONE, UNREADABLE
from ._bank_edits import EDITS
from ._bank_index import INDEX
from ._bank_looks import LOOKS
from ._bank_make import MAKING
from ._bank_trials import TRIALS
from ._shared import (
    PATH,
    download_progress,
    kept_embeddings,
    progress,
    remark,
    space_options,
    split_option,
    work_options,
)

if TYPE_CHECKING:
    from ..bank import FeatureBank


@click.group()
def command() -> None:
    """Banks of features of known real and fake images.

    `build` makes a plain folder. The other commands work on a bank store (extra `bank`), which keeps every version.
    STORE is a folder or an s3:// address; STORE@7 or STORE@TAG means an earlier version.
    """


for each in (*MAKING, *EDITS, *LOOKS, *TRIALS, *INDEX):
    command.add_command(each)


@command.command()
@click.argument("data", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder to make.")
@split_option
@space_options
@work_options
@click.pass_context
def build(
    ctx: click.Context, data: Path, output: Path, splits: tuple[str, ...], backbone: str, taps: tuple[str, ...],
    view: str, batch_size: int | None, workers: int | None, threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Embed a labelled collection into a new bank.

    DATA is a folder of real and fake images (0_real/1_fake, real/fake, nature/ai, or any with dataset.toml), a
    manifest (.jsonl, .csv, .parquet) with the columns file, label, generator, source, or WebDataset tar shards.
    Embeddings are kept in the cache folder for the next time.
    """
    from ..backbones import open_backbone
    from ..building import build_bank
    from ..datasets import open_dataset
    from ..storage import require_new
    from ..views import view as named_view

    require_new(output)
    with download_progress(ctx) as downloading:
        opened = open_backbone(backbone, taps=taps, threads=threads, progress=downloading)
    cut = named_view(view)
    kept = kept_embeddings(ctx, opened, cut)
    with progress(ctx, "images") as advance:
        built = build_bank(
            opened, cut, open_dataset(data, splits=splits), added=today(), batch_size=batch_size, workers=workers,
            max_pixels=round(max_pixels * 1e6), kept=kept, on_done=advance,
        )  # fmt: skip
    built.bank.save(output)
    for failure in built.failures:
        remark(ctx, f"left out {failure.image}: {failure.message}")
    describe(built.bank)
    return UNREADABLE if built.failures else DONE


@command.command()
@click.argument("bank")
def info(bank: str) -> None:
    """What is in a bank folder, or in a STORE[@VERSION]."""
    from ..bank import MANIFEST, FeatureBank
    from ..writers import printable
    from ._bank_shared import snapshot_of

    if (Path(bank) / MANIFEST).is_file():
        describe(FeatureBank.load(bank))
        return
    snapshot = snapshot_of(bank)
    edit = snapshot.edit
    click.echo(printable(f"store        {snapshot.name}"))
    click.echo(printable(f"version      {edit.number}, {edit.when}, {edit.op} by {edit.who}: {edit.what}"))
    click.echo(f"content      {edit.content}")
    describe(snapshot.bank)


def describe(bank: FeatureBank) -> None:
    """Print the contents of a bank."""
    from ..types import Label
    from ..writers import printable

    space = bank.space
    click.echo(f"bank         {counted(len(bank), 'row')}, digest {bank.digest}")
    about = f"{space.backbone} {'+'.join(space.taps)} {space.view}"
    click.echo(f"space        {printable(about)}, {space.dim} values, {space.digest}")
    for label, column in ((Label.REAL, "source"), (Label.FAKE, "generator")):
        counts = bank.counts(column, label)  # type: ignore[arg-type]
        click.echo(f"{label.word:<12} {counted(sum(counts.values()), 'row')}, {counted(len(counts), column)}")
        for name, n in counts.items():
            click.echo(f"{'':<12} {n:>6}  {printable(name) or '(not named)'}")


def today() -> str:
    """The date, ISO."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
