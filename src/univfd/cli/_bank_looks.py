"""`univfd bank`: looking at a store, and trying changes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import DONE, UNREADABLE
from ._bank_shared import (
    LABEL,
    SHOWN,
    echo_json,
    encoder,
    facts_options,
    json_option,
    open_at,
    open_newest,
    said,
    samples_from,
    say_prepared,
    snapshot_of,
)  # fmt: skip
from ._shared import PATH, download_progress, remark, settings, watching, work_options


@click.command()
@click.argument("store")
@json_option
def log(store: str, as_json: bool) -> None:
    """List the versions of STORE: who did what, when, newest first."""
    from ..writers import printable

    opened, _ = open_at(store)
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

    opened, _ = open_at(store)
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
            click.echo(
                f"{sign} {row['key'][:16]}  {row['label']}  {row['generator'] or row['source'] or '(not named)'}"
            )


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
    from ..writers import printable

    found = examine(snapshot_of(store).rows, near=near)
    if as_json:
        echo_json([f.to_dict() for f in found])
        return
    for f in found:
        click.echo(f"{f.kind:<14} {printable(f.text)}")
        if f.rows and not f.remove:
            click.echo(f"{'':<14} {' '.join(k[:16] for k in f.rows[:SHOWN])}{' ...' if len(f.rows) > SHOWN else ''}")
        if command := command_of(store, f):
            click.echo(f"{'':<14} {command}")
    if not found:
        click.echo("nothing found")


@click.command("what-if")
@click.argument("store")
@click.argument("data", nargs=-1)
@facts_options
@click.option("--test", multiple=True, metavar="IMAGES", help="More fakes of that generator, to measure recall on.")
@click.option("--reals", multiple=True, metavar="IMAGES", help="Real images of your own, to measure false alarms on.")
@click.option("--detector", default="neighbors", show_default=True, help="A shipped detector's name, or a folder.")
@json_option
@work_options
@click.pass_context
def what_if(
    ctx: click.Context, store: str, data: tuple[str, ...], label: str | None, generator: str, source: str, family: str,
    licence: str, test: tuple[str, ...], reals: tuple[str, ...], detector: str, as_json: bool, batch_size: int | None,
    workers: int | None, threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Show what adding DATA to STORE would do to verdicts; nothing is changed.

    DATA is as for `bank add`. Besides --test and --reals the bank's own images are judged, each with its generator or
    source held out of the bank.
    """
    from ..detector import load
    from ..store.adding import embedded, prepare
    from ..store.trying import detector_with, effect, effect_on_bank
    from ..types import Label

    opened, version = open_at(store)
    seen = opened.snapshot(version)
    facts = {"generator": generator, "source": source, "family": family, "licence": licence}
    samples = samples_from(data, label, facts)
    backbone, view = encoder(ctx, opened.space, threads)
    before = detector_with(load(detector, backbone=backbone), seen.rows, seen.name)
    options: Any = {"batch_size": batch_size, "workers": workers, "max_pixels": round(max_pixels * 1e6)}
    with watching(ctx) as on_done:
        found = prepare(seen, backbone, view, samples, near=0.01, **options, on_done=on_done)
        after = before.with_bank(seen.bank.add(found.rows.bank))
        effects = [
            effect(name, truth, embedded(backbone, view, images, **options), before, after)
            for name, truth, images in (("--test", Label.FAKE, test), ("--reals", Label.REAL, reals))
            if images
        ]
    effects += [effect_on_bank(before, after.bank, truth) for truth in Label]
    if as_json:
        echo_json({"report": found.to_dict(), "effects": [e.to_dict() for e in effects]})
        return UNREADABLE if found.failures else DONE
    say_prepared(ctx, store, found)
    click.echo(f"{len(found.rows)} rows more, {before.name}:")
    for e in effects:
        _say_effect(e)
    if not any(e.moved for e in effects) and len(found.rows):
        remark(
            ctx, f"no score moved: {detector} does not compare with the bank's rows. Take neighbors, or 'bank refit'"
        )
    return UNREADABLE if found.failures else DONE


def _say_effect(e: Any) -> None:
    from ..writers import printable

    click.echo(f"  {e.name} ({e.n} {e.label.word})")
    for word, counts in (("before", e.before), ("after", e.after)):
        parts = ", ".join(f"{counts.get(v, 0)} {v}" for v in ("fake", "unsure", "real"))
        click.echo(f"    {word:<7} called fake {e.called_fake(counts)}   ({parts})")
    for flip in e.flips[:SHOWN]:
        click.echo(f"    {flip.before} -> {flip.after}: {printable(flip.image)}")
    if len(e.flips) > SHOWN:
        click.echo(f"    and {len(e.flips) - SHOWN} flips more: --json lists all")


@click.command()
@click.argument("store")
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the detector to make.")
@click.option(
    "--since", help="Version to compare with (a number or a tag); its held-out verdicts against the new ones."
)
@click.option("--classifier", default="ridge", show_default=True, help="knn, linear or ridge.")
@click.option("--set", "params", multiple=True, metavar="NAME=VALUE", help="Parameter of the classifier: k=9, C=0.1")
@click.option("--max-fpr", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
              help="Promised share of reals called fake, at most.")  # fmt: skip
@click.option("--max-miss", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
              help="Promised share of fakes called real, at most.")  # fmt: skip
@json_option
@click.pass_context
def refit(
    ctx: click.Context, store: str, output: Path, since: str | None, classifier: str, params: tuple[str, ...],
    max_fpr: float, max_miss: float, as_json: bool,
) -> None:  # fmt: skip
    """Train a classifier on the rows of STORE[@VERSION] and say what it changes; the store stays as it is."""
    from ..building import check_classifier
    from ..storage import require_new
    from ..store.trying import refit as train

    require_new(output)
    values = settings(params)
    check_classifier(classifier, values)
    opened, version = open_at(store)
    now = opened.snapshot(version)
    then = None if since is None else opened.snapshot(since)
    backbone, view = encoder(ctx, opened.space, None)
    made = train(
        f"{output.name}+{now.name}", now.rows, None if then is None else then.rows, backbone, view, classifier, values,
        max_fpr=max_fpr, max_miss=max_miss,
    )  # fmt: skip
    made.detector.save(output)
    if as_json:
        echo_json({"detector": made.detector.identity, "compared": made.compared, "wrong_before": made.wrong_before,
                   "wrong_after": made.wrong_after, "flips": [f.to_dict() for f in made.flips]})  # fmt: skip
        return
    click.echo(f"{made.detector.identity} -> {output}")
    if then is not None:
        click.echo(
            f"against version {then.edit.number}, each row's generator or source held out: {len(made.flips)} of "
            f"{made.compared} verdicts differ; wrong ones {made.wrong_before} before, {made.wrong_after} after"
        )
        for flip in made.flips[:SHOWN]:
            click.echo(f"  {flip.before} -> {flip.after}: {flip.image[:16]}")


@click.command()
@click.argument("store")
@click.option("--keep", type=click.FloatRange(0, 1, min_open=True, max_open=True), required=True,
              help="Share of each generator's and each source's rows to keep.")  # fmt: skip
@click.option("-k", type=int, default=1, show_default=True, help="Neighbours that the cost is measured with.")
@click.option("--apply", is_flag=True, help="Remove the others, as one version. Without it only the cost is shown.")
@json_option
@click.pass_context
def condense(ctx: click.Context, store: str, keep: float, k: int, apply: bool, as_json: bool) -> None:
    """Keep the rows of STORE that cover the others, and show what it costs in accuracy."""
    from ..store.condensing import condense as thin

    opened = open_newest(store) if apply else open_at(store)[0]
    snapshot = opened.snapshot(None if apply else open_at(store)[1])
    found = thin(snapshot.rows, keep, k=k)
    if not as_json:
        click.echo(f"{int(found.keep.sum())} of {len(found.keep)} rows stay. Nearest neighbours (k={k}) on generators "
                   f"and sources that were held out, {found.judged} images:")  # fmt: skip
        click.echo(f"  AUROC              {found.auroc[0]:.4f} -> {found.auroc[1]:.4f}")
        click.echo(f"  balanced accuracy  {found.accuracy[0]:.4f} -> {found.accuracy[1]:.4f}")
    edit = opened.remove(snapshot.ids[~found.keep], f"condensed to {keep:g}") if apply else None
    if apply or as_json:
        said(ctx, store, edit, as_json=as_json, kept=int(found.keep.sum()), rows=len(found.keep), judged=found.judged,
             auroc=found.auroc, accuracy=found.accuracy)  # fmt: skip


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
            click.echo(f"{d.image}: {text}")
        remark(ctx, f"run them with: univfd bench run {suite} --detectors {detector} -o RUN")
    return UNREADABLE if any(isinstance(d, Failure) for d in done) else DONE


def deciding_with(detector: Any, bank: str) -> Any:
    """A detector with the rows of STORE[@VERSION]."""
    from ..store.trying import detector_with

    snapshot = snapshot_of(bank)
    return detector_with(detector, snapshot.rows, snapshot.name)


LOOKS = (log, diff, doctor, what_if, refit, condense, miss)
