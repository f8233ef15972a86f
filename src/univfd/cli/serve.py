"""`univfd serve`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import DONE
from ._shared import PATH, Megapixels, engine_option, option_group, remark

if TYPE_CHECKING:
    from ..detector import Detector

_limits_options = option_group(
    click.option("--queue", type=click.IntRange(1), default=64, show_default=True,
                 help="Images at work or waiting; more get 503. Batches have half as many places of their own."),
    click.option("--deadline", type=click.FloatRange(0.1), default=30, show_default=True, help="Seconds an image."),
    click.option("--max-bytes", type=click.FloatRange(0, 1024, min_open=True), default=25, show_default=True,
                 metavar="MEGABYTES", help="Refuse larger files."),
    click.option("--max-pixels", type=Megapixels(1000), default=100, show_default=True,
                 metavar="MEGAPIXELS", help="Refuse larger images."),
    click.option("--max-batch", type=click.IntRange(1), default=1000, show_default=True, help="Images of one batch."),
    click.option("--connections", type=click.IntRange(1), default=512, show_default=True, help="Open at a time."),
    click.option("--rate", type=click.IntRange(0), default=0, help="Images a minute of one key (or address).  "
                 "[default: any number]"),
    click.option("--heatmaps/--no-heatmaps", default=True, show_default=True,
                 help="Draw heat maps for who asks, two at a time."),
)  # fmt: skip


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@click.option("--bank", metavar="STORE[@VERSION]", help="Decide with the rows of this bank store, as of the start.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="That share the address.")
@click.option("--key-file", type=PATH, help="Ask for keys of this file; see `univfd serve keygen`.")
@click.option("--allow-anonymous", is_flag=True, help="Serve other machines without keys.")
@click.option(
    "--allowed-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Serve under this host name only; repeatable. On loopback without keys: beside localhost.  [default: any]",
)
@click.option("--feedback", type=PATH, metavar="DIR", help="Keep images that callers report as judged wrongly in DIR.")
@click.option(
    "--request-log",
    type=PATH,
    metavar="FILE",
    help="Add a line of JSON to FILE for each request: time, name of the key, status, number of images.",
)
@_limits_options
@click.option("--batch-size", type=click.IntRange(1), help="Images a batch of the encoder.  [default: four per CPU]")
@click.option("--workers", type=click.IntRange(1), help="Decoding threads of a process.  [default: one per CPU]")
@click.option("--threads", type=click.IntRange(1), help="Encoder threads of a process.  [default: CPUs / processes]")
@engine_option
@click.pass_context
def command(
    ctx: click.Context, host: str, port: int, detector: str, bank: str | None, processes: int, key_file: Path | None,
    allow_anonymous: bool, hosts: tuple[str, ...], feedback: Path | None, request_log: Path | None, queue: int,
    deadline: float, max_bytes: float, max_pixels: float, max_batch: int, connections: int, rate: int, heatmaps: bool,
    batch_size: int | None, workers: int | None, threads: int | None, engine: str | None,
) -> int:  # fmt: skip
    """Answer over HTTP what `univfd detect` answers, for other programs and machines.

    Listens on this machine alone unless told otherwise. Ends on SIGTERM or Ctrl-C, when what it took is answered.
    """
    if ctx.invoked_subcommand is not None:
        return DONE
    from ..backbones import cpus
    from ..detector_folder import locate, read_manifest

    try:
        from ..server.app import create_app
        from ..server.limits import Limits
        from ..server.running import check_address, hosts_of, run
    except ModuleNotFoundError as error:
        from .. import registry

        raise registry.missing_extra("univfd serve", error) from error
    check_address(host, keys=key_file is not None, anonymous=allow_anonymous)
    read_manifest(locate(detector))
    limits = Limits.of(
        megabytes=max_bytes, megapixels=max_pixels, queue=queue, max_batch=max_batch, deadline=deadline, rate=rate,
        heatmaps=heatmaps, connections=connections,
    )  # fmt: skip
    threads = threads or max(1, cpus() // processes)
    application = partial(
        create_app, partial(_opened, detector, bank, threads, engine), limits=limits, key_file=key_file,
        feedback=feedback,
        hosts=hosts_of(host, hosts, keys=key_file is not None), workers=workers, batch_size=batch_size,
        request_log=request_log,
    )  # fmt: skip
    application()  # what is wrong with the options is said here, once
    if not ctx.obj["quiet"]:
        logging.getLogger("univfd.server").setLevel(logging.INFO)
    run(
        application, host=host, port=port, limits=limits, processes=processes,
        on_bound=lambda url: remark(ctx, f"listening at {url} (documentation: {url}/docs)"),
    )  # fmt: skip
    return DONE


def _opened(detector: str, bank: str | None, threads: int, engine: str | None) -> Detector:
    from ..detector import load

    opened = load(detector, threads=threads, engine=engine)
    if bank is None:
        return opened
    from ._bank_shared import deciding_with

    return deciding_with(opened, bank)


@command.command()
@click.option("--key-file", type=PATH, required=True, help="File of hashes; made where there is none.")
@click.option("--name", required=True, help="Whose key it is.")
@click.pass_context
def keygen(ctx: click.Context, key_file: Path, name: str) -> int:
    """Make a key: it is printed once, its hash is added to the file. To take it back, delete its line."""
    from ..server.keys import generate

    click.echo(generate(key_file, name))
    remark(ctx, f"its hash is in {key_file}; the key itself is kept nowhere, so keep it now")
    return DONE
