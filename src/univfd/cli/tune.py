"""`univfd tune`."""

from __future__ import annotations

import click

from . import DONE
from ._shared import download_progress, engine_option, remark, watching


@click.command()
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@engine_option
@click.pass_context
def command(ctx: click.Context, detector: str, engine: str | None) -> int:
    """Measure which threads, streams and batches are fastest on this machine; takes about a minute.

    The answer is kept in the user's cache folder, and used by 'detect' and 'embed' wherever --threads, --batch-size and
    --workers are not given. Verdicts do not depend on it. Run it while the machine has nothing else to do.
    """
    from ..tuning import tune

    with download_progress(ctx) as downloading, watching(ctx) as watch:
        measured = tune(detector, engine=engine, progress=downloading, watch=watch)
    click.echo("images/s  streams  threads each  images a batch")
    for one in measured:
        click.echo(f"{one.rate:8.2f}  {one.work.streams:7}  {one.work.threads:12}  {one.work.batch_size:14}")
    remark(ctx, "the first is used from now on")
    return DONE
