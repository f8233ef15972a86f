"""What the commands of `univfd bank` that work on a store share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ._shared import download_progress, option_group, remark

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..detector import Detector
    from ..store import BankStore, Snapshot
    from ..store.adding import Prepared
    from ..types import FeatureSpace, Sample
    from ..views import View

SHOWN = 5
LABEL = click.Choice(["real", "fake"])
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
facts_options = option_group(
    click.option("--label", type=LABEL, help="Class of all images; without it DATA says (folders, manifest, tars)."),
    click.option("--generator", default="", help="Of fakes, where DATA does not say."),
    click.option("--source", default="", help="Where the images come from, where DATA does not say."),
    click.option("--family", default="", help="Kind of generator: gan, diffusion ..., where DATA does not say."),
    click.option("--licence", default="", help="Of the images, where DATA does not say."),
)
select_options = option_group(
    click.option("--key", "keys", multiple=True, metavar="HEX", help="First digits of an image's sha256; repeatable."),
    click.option("--label", type=LABEL, help="Only rows of this class."),
    click.option("--generator", help="Only rows of this generator."),
    click.option("--source", help="Only rows of this source."),
    click.option("--family", help="Only rows of this kind of generator."),
    click.option("--batch", help="Only rows that came with this addition."),
    click.option("--licence", help="Only rows of this licence."),
    click.option("--format", "format", help="Only rows of files of this format."),
)


def open_at(name: str) -> tuple[BankStore, str | None]:
    """A store and the version asked for, of `STORE`, `STORE@7` or `STORE@TAG`."""
    from ..store import BankStore, locate

    place, version = locate(name)
    return BankStore.open(place), version


def open_newest(name: str) -> BankStore:
    """A store that is to be changed.

    Raises:
        UsageError: a version was given too.
    """
    store, version = open_at(name)
    if version is not None:
        raise UsageError(
            f"{name} names version {version}; only the newest can be changed. 'univfd bank checkout' first"
        )
    return store


def snapshot_of(name: str) -> Snapshot:
    """The version that a name asks for."""
    store, version = open_at(name)
    return store.snapshot(version)


def deciding_with(detector: Detector, bank: str) -> Detector:
    """A detector with the rows of STORE[@VERSION]."""
    store, version = open_at(bank)
    return detector.with_bank(store.at(version))


def samples_from(data: tuple[str, ...], label: str | None, facts: dict[str, str]) -> list[Sample]:
    """The images of some places, each of the class that was said or that its place says.

    Args:
        data: with a label whatever `univfd detect` takes; without one data sets.
        label: class of all, or None.
        facts: columns to fill where they are empty; `generator` for fakes only.
    """
    from dataclasses import replace

    from ..datasets import open_dataset
    from ..sources import expand, unreachable_ref
    from ..types import Failure, Label, Sample

    if not data:
        raise UsageError("no images given; name files, folders, globs or tars")
    found: list[Sample] = []
    if label is not None:
        found.extend(
            Sample(unreachable_ref(i) if isinstance(i, Failure) else i, Label.parse(label)) for i in expand(data)
        )
    else:
        for place in data:
            found += open_dataset(place)
    fake_only = {"generator", "family"}
    return [
        replace(s, **{k: v for k, v in facts.items() if v and not getattr(s, k) and (s.label or k not in fake_only)})  # type: ignore[arg-type]
        for s in found
    ]


def encoder(ctx: click.Context, space: FeatureSpace, threads: int | None) -> tuple[Backbone, View]:
    """The encoder of a feature space, opened, and the view."""
    from ..backbones import open_backbone
    from ..embedding import space_of
    from ..views import view

    with download_progress(ctx) as downloading:
        opened = open_backbone(space.backbone, taps=space.taps, threads=threads, progress=downloading)
    cut = view(space.view)
    space.require(space_of(opened, cut), "this version's encoder")
    return opened, cut


def say_prepared(ctx: click.Context, store: str, found: Prepared) -> None:
    """What an addition found, on standard error; of long lists the beginning."""
    from ..writers import printable

    if found.doubles:
        remark(ctx, f"{len(found.doubles)} are there already (the same file)")
    lists = (
        (f"{len(found.conflicts)} are there under the other label, and were left out:", [
            f"{d.image}: given as {d.label.word}, there as {d.known.word}  (key {d.key[:16]})" for d in found.conflicts
        ]),
        (f"{sum(n.conflict for n in found.near)} are nearly the same as a row of the other class; look at them:", [
            f"{n.image} ({n.label.word}): distance {n.distance:.4f} to {n.other[:16]} ({n.other_label.word})"
            for n in found.near if n.conflict
        ]),
        (f"{sum(not n.conflict for n in found.near)} are nearly the same as a row of their class:", [
            f"{n.image}: distance {n.distance:.4f} to {n.other[:16]}" for n in found.near if not n.conflict
        ]),
        (f"{len(found.failures)} could not be read:", [f"{f.image}: {f.message}" for f in found.failures]),
    )  # fmt: skip
    for title, lines in lists:
        if lines:
            remark(ctx, title)
            for line in lines[:SHOWN]:
                remark(ctx, f"  {printable(line)}")
            if len(lines) > SHOWN:
                remark(ctx, f"  and {len(lines) - SHOWN} more: --json lists all")
    if found.conflicts:
        key = found.conflicts[0].key[:16]
        other = found.conflicts[0].label.word
        remark(ctx, f"to change a label: univfd bank relabel {store} --key {key} --to {other}")


def echo_json(data: Any) -> None:
    """Data on standard output."""
    from ..writers import json_of

    click.echo(json_of(data, indent=1))


def keys_of(keys: tuple[str, ...], images: tuple[str, ...]) -> list[str]:
    """Keys that were given, and those of images.

    Raises:
        UsageError: an image that cannot be read, or none at all where some were given.
    """
    from ..embedding_cache import keyed
    from ..types import Failure

    found = []
    for item in keyed(images) if images else ():
        if isinstance(item, Failure):
            raise UsageError(f"{item.image}: {item.message}")
        found.append(item.sha256)
    if images and not found:  # no key would stand for any row
        raise UsageError(f"{' '.join(images)[:200]}: there are no images; nothing was changed")
    return [*keys, *found]


def said(ctx: click.Context, store: str, edit: Any, *, as_json: bool = False, **more: Any) -> None:
    """Say which version was made, or that there was nothing to do."""
    if as_json:
        echo_json({"edit": None if edit is None else edit.to_dict()} | more)
    elif edit is None:
        remark(ctx, f"{store}: nothing to do, no new version")
    else:
        from ..writers import printable

        came = f" (+{len(edit.added)} -{len(edit.removed)} rows)" if len(edit.added) + len(edit.removed) else ""
        click.echo(printable(f"version {edit.number}: {edit.op}, {edit.what}{came}"))
