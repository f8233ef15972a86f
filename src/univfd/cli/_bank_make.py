"""`univfd bank`: making a store, taking a plain bank in, giving one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..wording import counted
from ._bank_shared import said
from ._shared import PATH, download_progress, space_options

_SPACE = (("backbone", "backbone"), ("tap", "taps"), ("view", "view"))  # options and their parameters


@click.command()
@click.argument("store")
@click.option("--detector", help="Take the feature space of this detector (a shipped one's name, or a folder).")
@space_options
@click.pass_context
def create(
    ctx: click.Context, store: str, detector: str | None, backbone: str, taps: tuple[str, ...], view: str
) -> None:
    """Make an empty STORE: a folder, or an address such as s3://bucket/prefix.

    The feature space of all its rows is fixed now.
    """
    from ..backbones import open_backbone
    from ..detector_folder import bank_space, locate, read_manifest
    from ..embedding import space_of
    from ..store import BankStore
    from ..views import view as named_view

    _require_own_name(store)
    if detector is not None:
        told = [f"--{n}" for n, p in _SPACE if ctx.get_parameter_source(p) is click.core.ParameterSource.COMMANDLINE]
        if told:
            raise UsageError(f"--detector says what the space is; leave out {', '.join(told)}")
        space = bank_space(read_manifest(locate(detector)))
    else:
        with download_progress(ctx) as downloading:
            space = space_of(open_backbone(backbone, taps=taps, progress=downloading), named_view(view))
    made = BankStore.create(store, space)
    click.echo(f"version 0: {made.uri}, {space.backbone} {'+'.join(space.taps)} {space.view}, {space.dim} values")


@click.command("import")
@click.argument("store")
@click.argument("bank")
@click.pass_context
def import_(ctx: click.Context, store: str, bank: str) -> None:
    """Take a bank into a new STORE, row by row as it is.

    BANK is a folder of `univfd bank build`, or a detector (name or folder), whose bank it is. To add a bank to a store
    that has rows, use `merge`.
    """
    from ..errors import FormatError
    from ..store import BankStore, Rows
    from ..store.adding import add_rows

    rows = Rows.of(bank_of(bank), batch=f"import of {Path(bank).name}")
    try:
        made = BankStore.open(store)
    except FormatError:
        _require_own_name(store)
        made = BankStore.create(store, rows.space)  # refuses what is something else
    seen = made.snapshot()
    if len(seen.rows):
        raise UsageError(
            f"{store} has {counted(len(seen.rows), 'row')} already; use 'univfd bank merge {store} {bank}'"
        )
    said(ctx, store, add_rows(made, rows, f"bank {Path(bank).name}", "import", seen))


def _require_own_name(store: str) -> None:
    """That a new store does not take the name of a version of another one.

    Raises:
        UsageError: it would.
    """
    from ..store.naming import is_address, locate

    place, version = locate(store)
    if version is not None and not is_address(place) and Path(place).exists():
        raise UsageError(f"{store} means version {version!r} of {place}; choose a name without '@' for a new store")


def bank_of(name: str) -> Any:
    """A bank folder, or the bank of a detector.

    Raises:
        FormatError: neither can be read, or the detector's bank lies where it may not.
    """
    from ..bank import MANIFEST, FeatureBank
    from ..detector_folder import load_bank, locate, read_manifest

    if (Path(name) / MANIFEST).is_file():
        return FeatureBank.load(name)
    folder = locate(name)
    return load_bank(folder, read_manifest(folder))


@click.command()
@click.argument("store")
@click.argument("output", type=PATH)
@click.option("--dtype", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
              help="Of the vectors on disk; only float32 is exact.")  # fmt: skip
def export(store: str, output: Path, dtype: Any) -> None:
    """Write STORE[@VERSION] as a plain bank folder, which needs no LanceDB."""
    from dataclasses import replace

    from ..bank import as_stored
    from ._bank_shared import snapshot_of

    snapshot = snapshot_of(store)
    snapshot.bank.save(output, dtype=dtype)
    written = replace(snapshot.bank, vectors=as_stored(snapshot.bank.vectors, dtype))
    click.echo(
        f"{counted(len(snapshot.rows), 'row')} of version {snapshot.edit.number} -> {output}, digest {written.digest}"
    )


MAKING = (create, import_, export)
