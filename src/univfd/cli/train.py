"""`univfd train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..wording import counted
from . import DONE, UNREADABLE
from ._shared import PATH, Number, download_progress, max_pixels_option, progress, remark

if TYPE_CHECKING:
    from ..training.splits import Split
    from ..training.state import Epoch

SHARE = Number(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("data", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the detector to make.")
@click.option("--arch", default="resnet50", show_default=True, help="resnet50, small, clip[:BACKBONE] or timm:NAME.")
@click.option("--pretrained", metavar="FILE", help="Weights to begin with (.safetensors, .pth); 'hub' lets timm fetch.")
@click.option("--validation", type=PATH, help="Another collection to validate on.  [default: part of DATA]")
@click.option(
    "--validate-by",
    type=click.Choice(["source", "generator", "image"]),
    default="source",
    show_default=True,
    help="What is not split between the two parts of DATA.",
)
@click.option("--validation-share", type=SHARE, default=0.2, show_default=True, help="Of each class, about.")
@click.option("--max-images", type=click.IntRange(2), help="Train on so many at most, half of each class.")
@click.option("--augment", type=Number(0, 1), default=0.5, show_default=True, help="Probability of blur, and of JPEG.")
@click.option(
    "--short-side",
    type=click.IntRange(0),
    help="Scale pictures to it first; 0: leave them as they are.  [default: 256; in proportion for crops but 224]",
)
@click.option("--perturb", default="clean", show_default=True, help="Laid on every picture first: jpeg:85, ...")
@click.option(
    "--view", default="native", show_default=True, help="How the detector cuts: native, resize, five, grid-N."
)
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True, help="At most.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images a step.")
@click.option("--lr", type=Number(0, 1, min_open=True), help="Learning rate.  [default: 1e-4; CLIP 5e-5]")
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Epochs without a gain until the rate falls to a tenth; training ends below 1e-6.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all chance.")
@click.option("--resume", is_flag=True, help="Go on behind the last whole epoch of an unfinished run.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where PyTorch computes.",
)
@click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one per CPU]")
@click.option("--threads", type=click.IntRange(1), help="PyTorch's threads.  [default: one per CPU]")
@max_pixels_option
@click.pass_context
def command(
    ctx: click.Context, data: Path, output: Path, arch: str, pretrained: str | None, validation: Path | None,
    validate_by: str, validation_share: float, max_images: int | None, augment: float, short_side: int | None,
    perturb: str, view: str, epochs: int, batch_size: int, lr: float | None, patience: int, seed: int, resume: bool,
    device: str, workers: int | None, threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Train a network to tell real from fake, as Wang et al. 2020 do: what the paper compares with. Needs PyTorch.

    DATA is as for `univfd bank build`. Meanwhile FOLDER.partial holds a checkpoint of each epoch; the detector needs no
    PyTorch. A trained network knows the generators it saw; prefer a frozen encoder (`univfd fit`) for use.
    """
    from ..datasets import open_dataset
    from ..storage import require_new
    from ..training.run import Plan, checkpoints_of, fetch, train
    from ..training.splits import parted

    require_new(output)
    others = None if validation is None else list(open_dataset(validation))
    parts = parted(
        list(open_dataset(data)), others, by=validate_by, share=validation_share, most=max_images, seed=seed
    )  # fmt: skip
    _say_parts(ctx, parts)
    plan = Plan(arch, pretrained, epochs, batch_size, lr, patience, augment, short_side, perturb, view, seed)
    with download_progress(ctx) as downloading:
        fetch(arch, pretrained, downloading)
    with _epochs_told(ctx, checkpoints_of(output)) as ended, progress(ctx, "images") as advance:
        made = train(
            parts, output, plan, resume=resume, device=device, workers=workers, threads=threads,
            max_pixels=round(max_pixels * 1e6), on_done=advance, on_epoch=ended,
            on_failure=lambda failure: remark(ctx, f"left out {failure.image}: {failure.message}"),
        )  # fmt: skip
    if made.failures:
        remark(ctx, f"left out {counted(len(made.failures), 'image')} that could not be read")
    remark(ctx, f"epoch {made.best.number} of {len(made.epochs)} -> {output}")
    return UNREADABLE if made.failures else DONE


@contextmanager
def _epochs_told(ctx: click.Context, checkpoints: Path) -> Iterator[Callable[[Epoch], None]]:
    """What is called after each epoch; whatever ends the run early, it is said where the epochs are kept."""
    kept = 0

    def ended(epoch: Epoch) -> None:
        nonlocal kept
        kept = epoch.number
        remark(ctx, _line(epoch))

    try:
        yield ended
    except BaseException:
        if kept and checkpoints.exists():
            epochs = counted(kept, "epoch is", "epochs are")
            remark(ctx, f"\n{epochs} kept in {checkpoints}; the same command with --resume goes on")
        raise


def _say_parts(ctx: click.Context, parts: Split) -> None:
    for name, part in (("training", parts.train), ("validation", parts.validation)):
        fakes = [s for s in part if s.label]
        sources, generators = {s.source for s in part if not s.label}, {s.generator for s in fakes}
        remark(ctx, f"{name}: {len(part) - len(fakes)} real of {counted(len(sources), 'source')}, {len(fakes)} fake of "
                    f"{counted(len(generators), 'generator')}")  # fmt: skip
    remark(ctx, f"validation: {parts.how}")
    if parts.left_out:
        remark(ctx, f"left out {counted(parts.left_out, 'image')}: neither train nor val in the data's own split")


def _line(epoch: Epoch) -> str:
    accuracy = f"accuracy {epoch.accuracy:.4f} (real {epoch.real:.4f}, fake {epoch.fake:.4f})"
    return f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation {accuracy}, lr {epoch.lr:g}, {epoch.seconds:.0f} s"
