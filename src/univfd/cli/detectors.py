"""`univfd detectors`."""

from __future__ import annotations

from pathlib import Path

import click

from ._shared import PATH, download_progress


@click.group()
def command() -> None:
    """Detectors: what is shipped, what is in one, import of the paper's own."""


@command.command("list")
def list_detectors() -> None:
    """The detectors that come with the package."""
    from ..detector_folder import locate, read_manifest, shipped

    for name in shipped():
        manifest = read_manifest(locate(name))
        space = manifest["space"]
        taps = "+".join(space["taps"])
        click.echo(f"{name:<12} {manifest['classifier']['name']:<8} {space['backbone']} {taps} {space['view']}")


@command.command()
@click.argument("detector", default="default")
@click.option("--card", is_flag=True, help="Print the model card.")
def info(detector: str, card: bool) -> None:
    """What a detector is made of: encoder, classifier, thresholds, bank."""
    from ..detector_folder import CARD, load_bank, locate, read_manifest
    from ..errors import FormatError
    from ..storage import within
    from ..writers import printable, printable_lines
    from .bank import describe

    folder = locate(detector)
    manifest = read_manifest(folder)
    if card:
        if not (folder / CARD).is_file():
            raise FormatError(f"{folder} has no model card")
        click.echo(printable_lines(within(folder / CARD).read_text("utf-8", "replace")))
        return
    click.echo(printable(f"detector     {manifest['name']}"))
    click.echo(printable(f"folder       {folder}"))
    click.echo(printable(f"classifier   {manifest['classifier']['name']} {manifest['classifier']['params']}"))
    for key, value in manifest["calibration"].items():
        click.echo(printable(f"calibration  {key} = {value}"))
    describe(load_bank(folder, manifest))


@command.command("import-official")
@click.argument("head", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder to make.")
@click.pass_context
def import_official(ctx: click.Context, head: Path, output: Path) -> None:
    """Make a detector of the linear layer published with the paper (fc_weights.pth), for CLIP ViT-L/14.

    The encoder's weights (1.7 GB) are fetched from a model hub.
    """
    from ..official import official

    with download_progress(ctx) as downloading:
        official(head, progress=downloading).save(output)
    click.echo(str(output))


@command.command("import-cnndetection")
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder to make.")
def import_cnndetection(file: Path, output: Path) -> None:
    """Make a detector of a network published by Wang et al. 2020 (blur_jpg_prob0.5.pth): a trained ResNet-50.

    The file is read without PyTorch, and nothing in it is run.
    """
    from ..cnndetection import import_cnndetection as make

    make(file, output)
    click.echo(str(output))
