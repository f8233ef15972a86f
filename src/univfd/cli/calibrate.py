"""`univfd calibrate`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..wording import counted
from ..writers import json_of, printable
from . import DONE, UNREADABLE
from ._shared import PATH, download_progress, progress, remark, work_options
from .fit import RATE

if TYPE_CHECKING:
    from ..calibrating import Change, Recalibrated
    from ..calibration import Calibration
    from ..collection import Collection


@click.command()
@click.option("--real", "reals", type=PATH, required=True, multiple=True, metavar="FOLDER",
              help="Folder of real images; each subfolder is a group; repeatable.")  # fmt: skip
@click.option(
    "--fake", "fakes", type=PATH, multiple=True, metavar="FOLDER",
    help="Folder of fake images, to fix the threshold for 'real' and tell the recall; repeatable.",
)  # fmt: skip
@click.option(
    "--max-fpr", type=RATE, default=0.01, show_default=True, help="Promised share of reals called fake, at most."
)
@click.option(
    "--max-miss", type=RATE, default=0.05, show_default=True, help="Promised share of fakes called real, at most."
)
@click.option("--confidence", type=RATE, default=0.9, show_default=True, help="With which each promise holds.")
@click.option("--worst-group", is_flag=True, help="Keep --max-fpr in each group that has images enough for it, too.")
@click.option("--detector", default="default", show_default=True, help="A shipped detector's name, or a folder.")
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the detector to make.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@work_options
@click.pass_context
def command(
    ctx: click.Context, reals: tuple[Path, ...], fakes: tuple[Path, ...], max_fpr: float, max_miss: float,
    confidence: float, worst_group: bool, detector: str, output: Path, as_json: bool, batch_size: int | None,
    workers: int | None, threads: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Fix a detector's thresholds on your own images: at most so many of your real ones will be called fake.

    There are two: a score above `fake above` is called fake, one below `real below` is called real, and one between
    them is unsure. The promise holds for further real images like those given. The classifier is not trained. The
    same file twice counts once, and images that the detector was made of do not count.
    """
    from ..calibrating import check_enough, recalibrate, score, unknown_to
    from ..collection import gather
    from ..detector import load
    from ..sources import display_name
    from ..storage import require_new

    require_new(output)
    given = [gather(*folders) for folders in (reals, fakes) if folders]
    _say_duplicates(ctx, given)
    check_enough(*given, max_fpr=max_fpr, confidence=confidence, max_miss=max_miss)
    with download_progress(ctx) as downloading:
        opened = load(detector, threads=threads, progress=downloading)
    fresh = [unknown_to(opened, collection) for collection in given]
    for collection, known in fresh:
        if known:
            remark(ctx, f"left out {counted(known, 'image')} of {collection.name}: the detector was made of them")
    check_enough(*(c for c, _ in fresh), max_fpr=max_fpr, confidence=confidence, max_miss=max_miss)
    with progress(ctx, "images") as advance:
        scored = [
            score(
                opened, collection, batch_size=batch_size, workers=workers, max_pixels=round(max_pixels * 1e6),
                on_done=advance,
            )
            for collection, _ in fresh
        ]  # fmt: skip
    failures = [f for s in scored for f in s.collection.failures]
    for failure in failures:
        remark(ctx, f"left out {failure.image}: {failure.message}")
    made = recalibrate(
        display_name(output.name), opened, *scored, max_fpr=max_fpr, max_miss=max_miss, confidence=confidence,
        worst_group=worst_group,
    )  # fmt: skip
    made.detector.save(output)
    highest = scored[0].highest(_SHOWN)
    click.echo(json_of(_record(made, highest), indent=1) if as_json else _table(made, highest))
    for text in made.remarks:
        remark(ctx, text)
    remark(ctx, f"{counted(sum(len(s.scores) for s in scored), 'image')} -> {output}")
    return UNREADABLE if failures else DONE


_SHOWN = 3
Highest = list[tuple[str, float]]
"""Names and scores of the real images that score highest."""


def _say_duplicates(ctx: click.Context, given: Iterable[Collection]) -> None:
    for collection in given:
        for name in collection.duplicates:
            remark(ctx, f"counted once: {name} is the same file as an earlier one")


def _table(made: Recalibrated, highest: Highest) -> str:
    new, old = made.detector.calibration, made.old
    names = [printable(g.group) for g in new.groups]
    width = max(12, *map(len, names))
    lines = [f"{'real images':<{width}}  {'n':>6}  fake above"]
    lines += [
        f"{name:<{width}}  {g.n:>6}  {_threshold(g.fake_above)}" for name, g in zip(names, new.groups, strict=True)
    ]
    lines += [
        f"{'chosen':<{width}}  {new.n_real:>6}  {new.fake_above:.4f}",
        "",
        f"promise            at most {new.max_fpr:.3g} of such reals called fake, at {new.confidence:.0%} confidence",
        f"fake above         {old.fake_above:.4f} -> {new.fake_above:.4f}  (a score above it is called fake)",
        f"real below         {old.real_below:.4f} -> {new.real_below:.4f}  ({_called_real(new)})",
        f"reals called fake  {_share(made.real)}  (after: on the images that fixed the threshold)",
        f"fakes called fake  {'unknown: no fakes were judged' if made.fake is None else _share(made.fake)}",
        "highest reals      look at them: a generated image among the reals costs the most",
        *(f"  {score:+.4f}  {printable(name)}" for name, score in highest),
    ]
    return "\n".join(lines)


def _called_real(calibration: Calibration) -> str:
    """What the lower threshold does; it may be the upper one too, see `Calibration.verdict`."""
    if calibration.between:
        return "a score below it is called real, one between the two unsure"
    return f"a score {'not above' if calibration.max_miss is None else 'below'} it is called real"


def _threshold(value: float | None) -> str:
    return "too few" if value is None else f"{value:.4f}"


def _share(change: Change) -> str:
    return f"{change.before} -> {change.after}  of {change.before.n}"


def _record(made: Recalibrated, highest: Highest) -> dict[str, Any]:
    new = made.detector.calibration
    return {
        "detector": made.detector.identity,
        "before": made.old.to_dict(),
        "after": {"groups": []} | new.to_dict(),
        "worst_group": None if new.worst_group is None else new.worst_group.group,
        "reals_called_fake": asdict(made.real) | {"after_is_on_the_images_that_fixed_the_threshold": True},
        "fakes_called_fake": None if made.fake is None else asdict(made.fake),
        "highest_reals": [{"image": name, "score": score} for name, score in highest],
        "remarks": list(made.remarks),
    }
