"""`univfd bank`: trying changes out before they are made, training on a store, thinning it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..wording import counted
from . import DONE, UNREADABLE
from ._bank_shared import (
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
)  # fmt: skip
from ._shared import PATH, download_progress, remark, settings, watching, work_options


@click.command("what-if")
@click.argument("store")
@click.argument("data", nargs=-1)
@facts_options
@click.option("--test", multiple=True, metavar="IMAGES", help="More fakes of that generator, to measure recall on.")
@click.option("--reals", multiple=True, metavar="IMAGES", help="Real images of your own, to measure false alarms on.")
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
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
    from ..store.trying import effect, effect_on_bank
    from ..types import Failure, Label

    opened, version = open_at(store)
    seen = opened.snapshot(version)
    facts = {"generator": generator, "source": source, "family": family, "licence": licence}
    samples = samples_from(data, label, facts)
    with download_progress(ctx) as downloading:
        before = load(detector, threads=threads, progress=downloading).with_bank(seen)
    backbone, view = before.backbone, before.view
    options: Any = {"batch_size": batch_size, "workers": workers, "max_pixels": round(max_pixels * 1e6)}
    with watching(ctx) as on_done:
        found = prepare(seen, before.bank_backbone, view, samples, near=0.01, **options, on_done=on_done)
        grown = seen.bank.add(found.rows.bank)
        after = before.with_bank(grown)
        judged = [
            (name, truth, embedded(backbone, view, images, **options))
            for name, truth, images in (("--test", Label.FAKE, test), ("--reals", Label.REAL, reals))
            if images
        ]
        effects = [effect(name, truth, batch, before, after) for name, truth, batch in judged]
    unread = [i for _, _, batch in judged for i in batch.items if isinstance(i, Failure)]
    inside = {name: _inside(batch, grown) for name, _, batch in judged}
    effects += [effect_on_bank(before, grown, truth) for truth in Label]
    if as_json:
        report = {"report": found.to_dict(), "effects": [e.to_dict() for e in effects], "inside": inside}
        echo_json(report | {"failures": [f.to_dict() for f in unread]})
        return UNREADABLE if found.failures or unread else DONE
    say_prepared(ctx, store, found)
    click.echo(f"{counted(len(found.rows), 'row')} more, {before.name}:")
    _say_effects(ctx, effects, unread, inside)
    if not any(e.moved for e in effects) and len(found.rows):
        remark(
            ctx, f"no score moved: {detector} does not compare with the bank's rows. Take neighbors, or 'bank refit'"
        )
    return UNREADABLE if found.failures or unread else DONE


def _say_effects(ctx: click.Context, effects: list[Any], unread: list[Any], inside: dict[str, int]) -> None:
    from ..writers import printable

    for e in effects:
        _say_effect(e)
    for failure in unread:
        remark(ctx, printable(f"{failure.image}: {failure.message}"))
    for name, number in inside.items():
        if number:
            one = f"image of {name} is in DATA or in the bank, and finds itself"
            several = f"images of {name} are in DATA or in the bank, and find themselves"
            remark(ctx, counted(number, one, several))


def _inside(batch: Any, bank: Any) -> int:
    """How many images of a batch are rows of a bank."""
    there = {key.tobytes() for key in bank.keys}
    return sum(bytes.fromhex(item.sha256) in there for item in batch.loaded)


def _say_effect(e: Any) -> None:
    from ..writers import printable

    click.echo(f"  {e.name} ({e.n} {e.label.word})")
    for word, counts in (("before", e.before), ("after", e.after)):
        parts = ", ".join(f"{counts.get(v, 0)} {v}" for v in ("fake", "unsure", "real"))
        share = e.called_fake(counts)
        click.echo(f"    {word:<7} called fake {getattr(share, 'reason', share)}   ({parts})")
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
@click.option("--classifier", default="ridge", show_default=True, help="knn, linear, ridge or svm.")
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
    from ..sources import display_name
    from ..storage import require_new
    from ..store.trying import refit as train

    require_new(output)
    values = settings(params)
    check_classifier(classifier, values)
    opened, version = open_at(store)
    now = opened.snapshot(version)
    then = None if since is None else opened.snapshot(since)
    backbone, view = encoder(ctx, opened.space, None)
    name = f"{display_name(output.name)}+{now.name}"
    made = train(
        name, now.rows, None if then is None else then.rows, backbone, view, classifier, values,
        max_fpr=max_fpr, max_miss=max_miss,
    )  # fmt: skip
    made.detector.save(output)
    if as_json:
        echo_json({"detector": made.detector.identity, "compared": made.compared, "wrong_before": made.wrong_before,
                   "wrong_after": made.wrong_after, "flips": [f.to_dict() for f in made.flips],
                   "not_compared": made.not_compared})  # fmt: skip
        return
    click.echo(f"{made.detector.identity} -> {display_name(output)}")
    if made.not_compared and then is not None:
        remark(ctx, f"not compared with version {then.edit.number}: {made.not_compared}")
    elif then is not None:
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
        stay = f"{int(found.keep.sum())} of {counted(len(found.keep), 'row')} stay"
        click.echo(f"{stay}. Nearest neighbours (k={k}) on generators "
                   f"and sources that were held out, {counted(found.judged, 'image')}:")  # fmt: skip
        click.echo(f"  AUROC              {found.auroc[0]:.4f} -> {found.auroc[1]:.4f}")
        click.echo(f"  balanced accuracy  {found.accuracy[0]:.4f} -> {found.accuracy[1]:.4f}")
    edit = opened.remove(snapshot.ids[~found.keep], f"condensed to {keep:g}") if apply else None
    if apply or as_json:
        said(ctx, store, edit, as_json=as_json, kept=int(found.keep.sum()), rows=len(found.keep), judged=found.judged,
             auroc=found.auroc, accuracy=found.accuracy)  # fmt: skip


TRIALS = (what_if, refit, condense)
