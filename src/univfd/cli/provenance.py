"""`univfd provenance`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from ..sources import Source, expand
from ..types import Failure
from ..writers import json_of, printable
from . import DONE, UNREADABLE
from ._shared import collect, images_options, remark, trust_option

if TYPE_CHECKING:
    from ..provenance import Provenance, ProvenanceReader


@click.command()
@images_options
@click.option("--jsonl", is_flag=True, help="One JSON object a line.")
@trust_option
@click.option(
    "--deadline", type=click.FloatRange(0, 3600, min_open=True), default=10.0, show_default=True, metavar="SECONDS",
    help="Give up on a file after this.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context, images: tuple[str, ...], from_file: str | None, null: bool, jsonl: bool,
    trust: tuple[Path, ...], deadline: float,
) -> int:  # fmt: skip
    """Say what files tell of their own origin, and who can forge each of it; pixels are not judged.

    Content Credentials (C2PA), IPTC and XMP fields, camera data, texts and open watermarks of generators. Nothing is
    fetched from the network. What is not found is unknown.
    """
    from ..provenance import ABSENT, ProvenanceReader

    failed = seen = 0
    with ProvenanceReader(trust=trust, deadline=deadline) as reader:
        for item in _read(reader, collect(images, from_file, null)):
            seen += 1
            failed += isinstance(item, Failure) or item.c2pa == "not-read"
            if jsonl:
                status = {} if isinstance(item, Failure) else {"status": "ok"}
                click.echo(json_of(status | item.to_dict()))
            else:
                click.echo("\n".join(_lines(item)))
    if not seen:
        remark(ctx, "there was nothing to read; check the paths")
        return UNREADABLE
    remark(ctx, ABSENT)
    return UNREADABLE if failed else DONE


def _read(reader: ProvenanceReader, images: Iterable[Source]) -> Iterator[Provenance | Failure]:
    for ref in expand(images):
        if isinstance(ref, Failure):
            yield ref
            continue
        try:
            yield reader.read(ref)
        except InputError as error:
            yield Failure(ref.name, error.code, str(error))


def _lines(item: Provenance | Failure) -> Iterator[str]:
    yield printable(item.image)
    if isinstance(item, Failure):
        yield f"  failed: {printable(item.message)}"
        return
    yield f"  {item.headline}"
    for finding in item.findings:
        yield f"  - {printable(finding.found)} [{printable(finding.where)}]"
        yield f"      means: {printable(finding.meaning)}"
        yield f"      who can forge it: {printable(finding.forgery)}"
        for name, value in finding.details.items():
            yield f"      {printable(name)}: {printable(value)}"
    for reason in item.not_checked:
        yield f"  not checked: {printable(reason)}"
