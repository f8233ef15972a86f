"""`univfd selftest`."""

from __future__ import annotations

import click

from . import DONE, WEIGHTS
from ._shared import download_progress, engine_option


@click.command()
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@click.option("--threads", type=click.IntRange(1), help="Encoder threads.  [default: one per CPU]")
@engine_option
@click.pass_context
def command(ctx: click.Context, detector: str, threads: int | None, engine: str | None) -> int:
    """Prove that this machine gives the verdicts that the model card speaks of.

    Checks the weights, the embeddings of fixed inputs against stored figures, and that a batch gives what single
    images give; of an engine, that it gives what float32 on the CPU gives. Exit code 4 if any check fails.
    """
    from ..detector import load
    from ..selftest import selftest

    with download_progress(ctx) as downloading:
        opened = load(detector, threads=threads, progress=downloading, engine=engine)
    failed = False
    for check in selftest(opened):
        click.echo(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<8} {check.seen}")
        failed = failed or not check.passed
    return WEIGHTS if failed else DONE
