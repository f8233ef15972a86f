"""`univfd bank`: changing a store. Every change is a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..wording import counted
from . import DONE, UNREADABLE
from ._bank_shared import (
    LABEL,
    SHOWN,
    encoder,
    facts_options,
    json_option,
    keys_of,
    open_newest,
    said,
    samples_from,
    say_prepared,
    select_options,
)  # fmt: skip
from ._ray import asked, cluster_options, embedding_on
from ._shared import remark, watching, work_options


@click.command()
@click.argument("store")
@click.argument("data", nargs=-1)
@facts_options
@click.option("--batch", help="Name of this addition, to find its rows by.  [default: date and random digits]")
@click.option("--note", default="", help="A remark, kept with each row.")
@click.option("--near", type=click.FloatRange(0, 2), default=0.01, show_default=True,
              help="Report images within this cosine distance of another row.")  # fmt: skip
@click.option("--skip-near", is_flag=True, help="Leave those images out.")
@click.option("--no-thumbnails", is_flag=True, help="Keep no small pictures in the store.")
@click.option("--dry-run", is_flag=True, help="Only report; change nothing.")
@json_option
@work_options
@cluster_options
@click.pass_context
def add(
    ctx: click.Context, store: str, data: tuple[str, ...], label: str | None, generator: str, source: str, family: str,
    licence: str, batch: str | None, note: str, near: float, skip_near: bool, no_thumbnails: bool, dry_run: bool,
    as_json: bool, batch_size: int | None, workers: int | None, threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Add images to STORE, as one version.

    With --label DATA are files, folders, globs or tars of one class; without it they are labelled data sets as for
    `bank build`. Files that are there already are passed over, and what is there under the other label is reported and
    left out. Run the same command again after an interruption: what was embedded is kept.
    """
    from ..store.adding import add as commit
    from ..store.adding import batch_name, prepare

    if generator and label == "real":
        raise UsageError("--generator is of fakes; say where reals come from with --source")
    opened, on = open_newest(store), asked(ctx)
    facts = {"generator": generator, "source": source, "family": family, "licence": licence}
    samples = samples_from(data, label, facts)
    backbone, view = encoder(ctx, opened.space, threads)
    seen = opened.at(indexed=False)
    name = batch or batch_name()
    work = on and on.work(batch_size=batch_size, workers=workers, threads=threads, max_pixels=max_pixels)
    embed = embedding_on(on, opened.space.backbone, work) if on and work else None
    with watching(ctx) as on_done:
        found = prepare(
            seen, backbone, view, samples, near=near, skip_near=skip_near, batch=name, note=note,
            with_thumbnails=not no_thumbnails, batch_size=batch_size, workers=workers,
            max_pixels=round(max_pixels * 1e6), embed=embed, on_done=on_done,
        )  # fmt: skip
    edit = None if dry_run else commit(opened, found, f"{counted(len(found.rows), 'image')} as batch {name}", seen)
    if as_json:
        said(ctx, store, edit, as_json=True, dry_run=dry_run, batch=name, report=found.to_dict())
    else:
        say_prepared(ctx, store, found)
        if dry_run:
            click.echo(f"{len(found.rows)} of {counted(found.images, 'image')} would be added; nothing was changed")
        else:
            said(ctx, store, edit)
    return UNREADABLE if found.failures else DONE


def _chosen(store: Any, keys: list[str], label: str | None, texts: dict[str, str | None]) -> Any:
    from ..store.selecting import select
    from ..types import Label

    snapshot = store.snapshot()
    wanted = {k: v for k, v in texts.items() if v is not None}
    picked = select(snapshot.rows, keys=keys, label=Label.parse(label) if label else None, texts=wanted)
    said = [
        *(f"{len(keys)} keys" for _ in keys[:1]),
        *([label] if label else []),
        *(f"{k} {v}" for k, v in wanted.items()),
    ]
    return snapshot.ids[picked], ", ".join(said)


@click.command()
@click.argument("store")
@click.argument("images", nargs=-1)
@select_options
@click.option("--dry-run", is_flag=True, help="Only say how many; change nothing.")
@json_option
@click.pass_context
def remove(
    ctx: click.Context, store: str, images: tuple[str, ...], keys: tuple[str, ...], label: str | None,
    generator: str | None, source: str | None, family: str | None, batch: str | None, licence: str | None,
    format: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Take rows out of STORE: those of IMAGES or keys, and those that all the other options hold for."""
    from ..writers import printable

    opened = open_newest(store)
    texts = {"generator": generator, "source": source, "family": family, "batch": batch, "licence": licence,
             "format": format}  # fmt: skip
    ids, what = _chosen(opened, keys_of(keys, images), label, texts)
    if dry_run:
        if as_json:
            said(ctx, store, None, as_json=True, dry_run=True, rows=len(ids))
        else:
            click.echo(printable(f"{counted(len(ids), 'row')} would be removed ({what}); nothing was changed"))
        return
    said(ctx, store, opened.remove(ids, what), as_json=as_json)


@click.command()
@click.argument("store")
@click.argument("images", nargs=-1)
@select_options
@click.option("--to", type=LABEL, help="The new label.")
@click.option("--set", "changes", multiple=True, metavar="NAME=TEXT",
              help="New text of a column: generator, source, family, licence, note, group; repeatable.")  # fmt: skip
@json_option
@click.pass_context
def relabel(
    ctx: click.Context, store: str, images: tuple[str, ...], keys: tuple[str, ...], label: str | None,
    generator: str | None, source: str | None, family: str | None, batch: str | None, licence: str | None,
    format: str | None, to: str | None, changes: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Change the label, or what is said, of rows of STORE; they are chosen as for `remove`."""
    from ..types import Label

    wanted: dict[str, Any] = {"label": Label.parse(to)} if to else {}
    allowed = ("generator", "source", "family", "licence", "note", "group")
    for pair in changes:
        name, equals, text = pair.partition("=")
        if not equals or name not in allowed:
            raise UsageError(f"--set {pair}: expected NAME=TEXT with a name of: {', '.join(allowed)}")
        wanted[name] = text
    if not wanted:
        raise UsageError("say what to change, with --to or --set")
    if wanted.get("label") is Label.REAL:
        wanted = {"generator": "", "family": ""} | wanted
    opened = open_newest(store)
    texts = {"generator": generator, "source": source, "family": family, "batch": batch, "licence": licence,
             "format": format}  # fmt: skip
    ids, what = _chosen(opened, keys_of(keys, images), label, texts)
    news = ", ".join(f"{k} {v.word if isinstance(v, Label) else v!r}" for k, v in wanted.items())
    said(ctx, store, opened.relabel(ids, wanted, f"{what}: {news}"), as_json=as_json)


@click.command()
@click.argument("store")
@click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Edits to take back.")
@click.pass_context
def undo(ctx: click.Context, store: str, steps: int) -> None:
    """Bring back the rows of STORE as they were before the last edit. Undoing again goes on from there."""
    said(ctx, store, open_newest(store).undo(steps))


@click.command()
@click.argument("store")
@click.argument("version")
@click.pass_context
def checkout(ctx: click.Context, store: str, version: str) -> None:
    """Make the rows of an earlier VERSION (a number or a tag) of STORE the newest version."""
    said(ctx, store, open_newest(store).checkout(version))


@click.command()
@click.argument("store")
@click.argument("name")
@click.pass_context
def tag(ctx: click.Context, store: str, name: str) -> None:
    """Give a version of STORE (STORE@7, or the newest) a NAME."""
    from ._bank_shared import open_at

    opened, version = open_at(store)
    said(ctx, store, opened.tag(name, version))


@click.command()
@click.argument("store")
@click.argument("other")
@json_option
@click.pass_context
def merge(ctx: click.Context, store: str, other: str, as_json: bool) -> None:
    """Add to STORE the rows of OTHER that it does not have: a store (OTHER@VERSION), a bank folder or a detector."""
    from dataclasses import replace

    from ..errors import FormatError
    from ..store import Rows
    from ..store.adding import merge as join
    from ._bank_make import bank_of
    from ._bank_shared import open_at

    opened = open_newest(store)
    try:
        theirs, version = open_at(other)
        snapshot = theirs.snapshot(version)
        pictures = theirs.thumbnails(snapshot.ids)
        rows = replace(snapshot.rows, thumbnails=tuple(pictures.get(int(i)) for i in snapshot.ids))
    except FormatError as error:
        try:
            rows = Rows.of(bank_of(other), batch=f"merge of {Path(other).name}")
        except UsageError:
            raise error from None
    edit, same, conflicts = join(opened, rows, f"{Path(other).name}")
    said(ctx, store, edit, as_json=as_json, doubles=same, conflicts=[c.to_dict() for c in conflicts])
    if not as_json:
        remark(
            ctx,
            f"{counted(same, 'row is', 'rows are')} there already, {len(conflicts)} under the other label (kept as "
            "they are here)",
        )
        for c in conflicts[:SHOWN]:
            remark(ctx, f"  {c.key[:16]}: {c.known.word} here, {c.label.word} there")


@click.command()
@click.argument("store")
@click.option("--forget", is_flag=True, help="Keep the newest version only; earlier ones are gone for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def compact(ctx: click.Context, store: str, forget: bool, yes: bool) -> None:
    """Tidy STORE up: remove rows that no version has (of interrupted edits, after a day), join small files."""
    from ..writers import printable

    opened = open_newest(store)
    if forget and not yes:
        lost = opened.history().lost()
        tags = f" (and the tags {printable(', '.join(lost))})" if lost else ""
        click.confirm(f"forget all versions of {store} but the newest{tags}?", abort=True, err=True)
    click.echo(f"removed {counted(opened.compact(forget=forget), 'row')} of no version")


EDITS = (add, remove, relabel, undo, checkout, tag, merge, compact)
