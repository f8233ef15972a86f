"""`univfd embed`."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UsageError
from . import DONE, UNREADABLE
from ._ray import asked, embed_on, own_engine, ray_options
from ._shared import (
    PATH,
    collect,
    download_progress,
    engine_option,
    image_column_option,
    images_options,
    progress,
    remark,
    space_options,
    work_options,
)


@click.command()
@images_options
@image_column_option
@click.option("-o", "--output", type=PATH, required=True, help="Folder to make. With --ray also a URL.")
@click.option("--resume", is_flag=True, help="With --ray: complete an earlier run.")
@click.option(
    "--perturb", default="clean", show_default=True, help="Lay a chain on the pixels first: limit:768+jpeg:60"
)
@space_options
@work_options
@engine_option
@ray_options
@click.pass_context
def command(
    ctx: click.Context, images: tuple[str, ...], from_file: str | None, null: bool, image_column: str | None,
    output: Path, resume: bool, perturb: str, backbone: str, taps: tuple[str, ...], view: str, batch_size: int | None,
    workers: int | None, threads: int | None, max_pixels: float, engine: str | None,
) -> int:  # fmt: skip
    """Write the frozen features of images: vectors.npy (N, D) float32 and rows.jsonl, one line an input.

    With --ray: Parquet partitions, one row an input, with a column `vector`.
    """
    from ..backbones import open_backbone
    from ..embedding import embed_images
    from ..embeddings_file import write_embeddings
    from ..sources import in_column
    from ..tuning import tuned_for
    from ..views import view as named_view

    inputs, on = collect(images, from_file, null), asked(ctx)
    if resume and on is None:
        raise UsageError("--resume is of --ray")
    cut = named_view(view)
    work = tuned_for(backbone, engine).by_hand(threads, batch_size, workers)
    with download_progress(ctx) as downloading:
        here = engine if on is None else own_engine(engine)
        opened = open_backbone(backbone, taps=taps, threads=work.threads, progress=downloading, engine=here)
    if on is not None:
        asked_for = on.work(
            batch_size=batch_size, workers=workers, threads=threads, max_pixels=max_pixels, engine=engine
        )
        return embed_on(ctx, on, backbone, opened, cut, inputs, output, asked_for, perturb=perturb, resume=resume)
    images_in = inputs if image_column is None else in_column(inputs, image_column)
    batches = embed_images(
        opened, cut, images_in, perturb=perturb, batch_size=work.batch_size, workers=work.workers, streams=work.streams,
        max_pixels=round(max_pixels * 1e6),
    )  # fmt: skip
    with progress(ctx, "images") as advance:
        done, failed = write_embeddings(output, opened, cut, batches, perturb=perturb, on_done=advance)
    remark(ctx, f"{done} embeddings, {failed} failed -> {output}")
    if not done + failed:
        remark(
            ctx, "no image was found; of a manifest, or any labelled collection, `univfd bank build` keeps the features"
        )
    return UNREADABLE if failed or not done else DONE
