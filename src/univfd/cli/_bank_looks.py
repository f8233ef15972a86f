"""`univfd bank`: looking at a store, and filing what it got wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from . import DONE, UNREADABLE
from ._bank_shared import LABEL, SHOWN, deciding_with, echo_json, json_option, open_at, snapshot_of
from ._shared import PATH, download_progress, remark


@click.command()
@click.argument("store")
@json_option
def log(store: str, as_json: bool) -> None:
    """List the versions of STORE: who did what, when, newest first."""
    from ..writers import printable

    opened = _of_all_versions(store)
    history = opened.history()
    if as_json:
        echo_json([e.to_dict() for e in history.edits if e.number >= history.first])
        return
    tags: dict[int, list[str]] = {}
    for name, number in history.tags().items():
        tags.setdefault(number, []).append(name)
    for e in reversed([e for e in history.edits if e.number >= history.first]):
        names = f" [{', '.join(tags[e.number])}]" if e.number in tags else ""
        rows = f"+{len(e.added)} -{len(e.removed)}"
        line = f"{e.number:>5}  {e.when}  {e.content[:12]}  {rows:<14} {e.op:<9} {e.what} ({e.who}){names}"
        click.echo(printable(line))


@click.command()
@click.argument("store")
@click.argument("first")
@click.argument("second", required=False)
@json_option
def diff(store: str, first: str, second: str | None, as_json: bool) -> None:
    """Tell which rows of STORE came and went from version FIRST to version SECOND (or the newest)."""
    from ..store.history import difference
    from ..writers import printable

    opened = _of_all_versions(store)
    history = opened.history()
    a, b = history.resolve(first), history.resolve(second)
    came, went = difference(history.ids(a), history.ids(b))
    listed = {"came": _listed(opened, came), "went": _listed(opened, went)}
    if as_json:
        echo_json({"from": a, "to": b} | listed)
        return
    click.echo(f"version {a} -> {b}: +{len(came)} -{len(went)} rows")
    for sign, rows in (("+", listed["came"]), ("-", listed["went"])):
        for row in rows:
            place = row["generator"] or row["source"] or "(not named)"
            click.echo(printable(f"{sign} {row['key'][:16]}  {row['label']}  {place}"))


def _of_all_versions(store: str) -> Any:
    opened, version = open_at(store)
    if version is not None:
        raise UsageError(f"{store}: this command reads all versions; name the store without '@{version}'")
    return opened


def _listed(store: Any, ids: Any) -> list[dict[str, str]]:
    from ..types import Label

    rows = store.rows(ids)
    return [
        {"key": key, "label": Label(int(rows.bank.labels[i])).word}
        | {name: str(rows.column(name)[i]) for name in ("generator", "source", "batch")}
        for i, key in enumerate(rows.keys())
    ]


@click.command()
@click.argument("store")
@click.option("--near", type=click.FloatRange(0, 2), default=0.01, show_default=True,
              help="Cosine distance within which two pictures are nearly the same.")  # fmt: skip
@json_option
def doctor(store: str, near: float, as_json: bool) -> None:
    """Look for what may be wrong with STORE, and suggest what to remove. Nothing is changed."""
    from ..store.doctor import command_of, examine
    from ..store.naming import locate
    from ..writers import printable

    found = examine(snapshot_of(store).rows, near=near)
    if as_json:
        echo_json([f.to_dict() for f in found])
        return
    for f in found:
        click.echo(f"{f.kind:<14} {printable(f.text)}")
        if f.rows and not f.remove:
            click.echo(f"{'':<14} {' '.join(k[:16] for k in f.rows[:SHOWN])}{' ...' if len(f.rows) > SHOWN else ''}")
        if command := command_of(locate(store)[0], f):
            click.echo(f"{'':<14} {command}")
    if not found:
        click.echo("nothing found")


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option("--truth", type=LABEL, required=True, help="What the images really are.")
@click.option("--suite", type=PATH, default=Path("misses"), show_default=True, help="Folder to file them in.")
@click.option("--detector", default="default", show_default=True, help="The one that was wrong.")
@click.option("--bank", help="STORE[@VERSION] that it decides with.")
@click.option("--generator", default="", help="Of fakes.")
@click.option("--source", default="", help="Where the images come from.")
@click.option("--licence", default="", help="Of the images.")
@click.option("--note", default="", help="A remark.")
@click.option("--anyway", is_flag=True, help="File images too that this detector judges rightly.")
@json_option
@click.pass_context
def miss(
    ctx: click.Context, images: tuple[str, ...], truth: str, suite: Path, detector: str, bank: str | None,
    generator: str, source: str, licence: str, note: str, anyway: bool, as_json: bool,
) -> int:  # fmt: skip
    """File wrong verdicts into a folder that `univfd bench run` takes, so that they do not come back unseen."""
    from ..detector import load
    from ..store.misses import file_misses
    from ..types import Failure, Label
    from ..writers import printable

    if generator and truth == "real":
        raise UsageError("--generator is of fakes; say where reals come from with --source")

    with download_progress(ctx) as downloading:
        opened = load(detector, progress=downloading)
    if bank is not None:
        opened = deciding_with(opened, bank)
    facts = {"generator": generator, "source": source, "licence": licence, "note": note}
    done = file_misses(suite, opened, list(images), Label.parse(truth), facts=facts, anyway=anyway)
    if as_json:
        echo_json([d.to_dict() if isinstance(d, Failure) else {"image": d.image, "status": d.status,
                   "verdict": d.verdict.verdict} for d in done])  # fmt: skip
    else:
        words = {"filed": "filed", "known": "there already", "right": "not filed: the verdict is right"}
        for d in done:
            text = d.message if isinstance(d, Failure) else f"{words[d.status]} (called {d.verdict.verdict})"
            click.echo(printable(f"{d.image}: {text}"))
        remark(ctx, f"run them with: univfd bench run {suite} --detectors {detector} -o RUN")
    return UNREADABLE if any(isinstance(d, Failure) for d in done) else DONE


LOOKS = (log, diff, doctor, miss)
