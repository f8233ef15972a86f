"""`univfd detectors`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._shared import PATH, download_progress

if TYPE_CHECKING:
    from ..calibration import Calibration


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
    """What a detector is made of and what it promises: encoder, classifier, thresholds, bank."""
    from ..calibration import Calibration
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
    params = " ".join(f"{name}={value}" for name, value in manifest["classifier"]["params"].items())
    click.echo(printable(f"classifier   {manifest['classifier']['name']} {params}".rstrip()))
    if "bank_space" in manifest:  # which `describe` says of the bank
        space = manifest["space"]
        about = f"{space['backbone']} {'+'.join(space['taps'])} {space['view']}, {space['dim']} values"
        click.echo(printable(f"reads        {about}; the bank's are the first"))
    for what, text in _promises(Calibration.from_dict(manifest["calibration"])):
        click.echo(printable(f"{what:<12} {text}"))
    describe(load_bank(folder, manifest))


def _promises(calibration: Calibration) -> Iterator[tuple[str, str]]:
    """What makes an image fake, real or unsure, and how often that may be wrong: a word and a sentence each."""
    from ..writers import in_percent

    def bound(share: float | None, n: int, class_: str, called: str) -> str:
        if share is None:
            return "nothing is promised"
        sure = "" if calibration.confidence is None else f", at {in_percent(calibration.confidence)}% confidence"
        return f"at most {in_percent(share)}% of {class_} images like the {n} it was set on are called {called}{sure}"

    c = calibration
    apart = c.real_below < c.fake_above
    below = "below" if apart or c.max_miss is not None else "not above"
    yield "fake", f"score above {c.fake_above:.6g}: {bound(c.max_fpr, c.n_real, 'real', 'fake')}"
    yield "real", f"score {below} {c.real_below:.6g}: {bound(c.max_miss, c.n_fake, 'fake', 'real')}"
    doubts = ["between the two"] if apart else ["on the threshold"] if c.max_miss is not None else []
    if c.max_fpr is not None:
        doubts.append("where a degradation voids the promise")
    if c.known_within is not None:
        doubts.append(f"farther than {c.known_within:.3g} (cosine) from every image of the bank")
    yield "unsure", "; ".join(doubts) or "never"
    if c.slope is None or c.intercept is None:
        yield "probability", "none"
    else:
        yield "probability", f"1 / (1 + exp(-({c.slope:.4g} score {c.intercept:+.4g})))"
    if c.data:
        yield "set on", c.data
    for i, group in enumerate(c.groups):
        own = "too few for a promise" if group.fake_above is None else f"by itself fake above {group.fake_above:.4g}"
        yield "" if i else "groups", f"{group.n:>6}  {group.group or '(not named)'}: {own}"
    if c.named_within is not None:
        yield "generator", f"named within {c.named_within:.3g} (cosine) of one of its images"


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
