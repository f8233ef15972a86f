"""`univfd bank index`: search in a store that is too large for memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..wording import counted
from ._bank_shared import echo_json, json_option, open_at, open_newest
from ._shared import remark

if TYPE_CHECKING:
    from ..store.indexing import Built


@click.group()
def index() -> None:
    """Search in a STORE of more than 200,000 rows, which is then decided with where it lies.

    One index serves all versions; rows that come after it are searched one by one.
    """


@index.command()
@click.argument("store")
@click.option(
    "--aim", type=click.FloatRange(0, 1, min_open=True), help="Share of the nearest rows to find.  [default: 0.985]"
)
@json_option
@click.pass_context
def build(ctx: click.Context, store: str, aim: float | None, as_json: bool) -> None:
    """Build the index of STORE, or build it anew, and measure how many of the nearest rows it finds.

    An interrupted build changes no version; run it again.
    """
    from ..store.indexing import build as make

    opened = open_newest(store)
    made = make(opened, aim=aim)
    if as_json:
        echo_json(asdict(made))
        return
    _describe(made)
    if made.manifest.recall.worst < made.manifest.recall.aim:
        remark(ctx, "that is less than was aimed at; a lower --aim searches faster, exact search is for small stores")


@index.command()
@click.argument("store")
@json_option
def info(store: str, as_json: bool) -> None:
    """Tell what the index of STORE was built for, what it finds, and which rows it lacks.

    Raises:
        UsageError: it has none.
    """
    from ..store.indexing import built, unindexed

    opened, version = open_at(store)
    if version is not None:
        raise UsageError(f"{store}: the index is of all versions; name the store without '@{version}'")
    found = built(opened.tables)
    if found is None:
        raise UsageError(f"{store} has no index; make one with 'univfd bank index build {store}'")
    tip, waiting = opened.history().tip, unindexed(opened)
    stale = tip.content != found.content
    if as_json:
        echo_json(asdict(found) | {"newest": tip.number, "stale": stale, "unindexed": waiting})
        return
    _describe(found)
    if stale:
        click.echo(f"stale        the newest version is {tip.number}, with other rows; the recall is that of then")
    alone = counted(waiting, "row is", "rows are")
    click.echo(f"unindexed    {alone} searched one by one{'; build it again' if waiting > 10_000 else ''}")


def _describe(found: Built) -> None:
    from ..writers import printable

    m = found.manifest
    click.echo(printable(f"built        for version {found.version} ({m.rows:,} rows), {found.when}, by {found.who}"))
    click.echo(f"kind         {m.parameters['kind']}, {m.parameters['lists']} lists, {m.library}; {m.seconds:.0f} s")
    said = ", ".join(f"{name} {mean:.4f} +- {m.recall.error[name]:.4f}" for name, mean in m.recall.mean.items())
    click.echo(f"recall@{m.recall.k:<6}{said} (of {m.recall.queries} rows of the bank)")
    click.echo(f"effort       {m.effort['probes']} lists, {m.effort['refined']} candidates a neighbour")


@index.command()
@click.argument("store")
def drop(store: str) -> None:
    """Take the index out of STORE. The rows stay."""
    from ..store.indexing import drop as take_out

    click.echo("the index was dropped" if take_out(open_newest(store)) else "there was no index")


INDEX = (index,)
