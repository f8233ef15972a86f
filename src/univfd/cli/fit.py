"""`univfd fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..wording import counted
from . import DONE, UNREADABLE
from ._shared import (
    PATH,
    download_progress,
    kept_embeddings,
    progress,
    remark,
    settings,
    space_options,
    split_option,
    work_options,
)
from .bank import today


class _Rate(click.FloatRange):
    """A share between 0 and 1; who writes percent is told how."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse percent by name."""
        try:
            percent = float(str(value).rstrip("% "))
        except ValueError:
            percent = 0.0
        if str(value).endswith("%") or 1 <= percent < 100:
            self.fail(f"{value}: expected a share; write {percent / 100:g} for {percent:g} %", param, ctx)
        return super().convert(value, param, ctx)


RATE = _Rate(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("data", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the detector to make.")
@click.option("--classifier", default="linear", show_default=True, help="knn, linear, ridge or svm.")
@click.option(
    "--set", "params", multiple=True, metavar="NAME=VALUE",
    help="Parameter of the classifier: k=9, C=0.1, layers=each (tap by its direction).",
)  # fmt: skip
@click.option(
    "--bank-taps",
    type=click.IntRange(min=1),
    metavar="N",
    help="The bank keeps the first N taps; the score (ridge, svm) reads all.",
)
@click.option(
    "--max-fpr", type=RATE, default=0.05, show_default=True, help="Promised share of reals called fake, at most."
)
@click.option(
    "--max-miss", type=RATE, default=0.05, show_default=True, help="Promised share of fakes called real, at most."
)
@click.option("--uncalibrated", is_flag=True, help="No thresholds and probability: decide at score 0.")
@split_option
@space_options
@work_options
@click.pass_context
def command(
    ctx: click.Context, data: Path, output: Path, classifier: str, params: tuple[str, ...], max_fpr: float,
    max_miss: float, bank_taps: int | None, uncalibrated: bool, splits: tuple[str, ...], backbone: str,
    taps: tuple[str, ...], view: str, batch_size: int | None, workers: int | None, threads: int | None,
    max_pixels: float,
) -> int:  # fmt: skip
    """Make a detector of a labelled collection: a bank, a classifier, and thresholds with promised error rates.

    DATA is as for `univfd bank build`. The promises are fixed on scores with one generator, and one fold of the real
    sources, held out at a time; they need several generators and sources. Embeddings are kept in the cache folder, so
    that another classifier on the same images needs no encoder.
    """
    from ..backbones import open_backbone
    from ..building import assemble, build_bank, check_bank_taps, check_classifier, check_enough, fit_detector
    from ..datasets import open_dataset
    from ..sources import display_name
    from ..storage import require_new
    from ..views import view as named_view

    require_new(output)
    values = settings(params)
    check_classifier(classifier, values)
    samples = list(open_dataset(data, splits=splits))
    if not uncalibrated:
        check_enough(samples, max_fpr=max_fpr, max_miss=max_miss)
    cut = named_view(view)
    with download_progress(ctx) as downloading:
        opened = open_backbone(backbone, taps=taps, threads=threads, progress=downloading)
    check_bank_taps(classifier, opened, cut, bank_taps)
    kept, rates = kept_embeddings(ctx, opened, cut), {"max_fpr": max_fpr, "max_miss": max_miss}
    with progress(ctx, "images") as advance:
        built = build_bank(
            opened, cut, samples, added=today(), batch_size=batch_size, workers=workers,
            max_pixels=round(max_pixels * 1e6), kept=kept, on_done=advance,
        )  # fmt: skip
    name = display_name(output.name)
    if uncalibrated:
        made = assemble(name, opened, cut, built.bank, classifier, values, bank_taps=bank_taps)
    else:
        made = fit_detector(name, opened, cut, built, classifier, values, **rates, bank_taps=bank_taps)
    made.save(output)
    for failure in built.failures:
        remark(ctx, f"left out {failure.image}: {failure.message}")
    more = "it promises nothing" if uncalibrated else f"what it promises: univfd detectors info {output}"
    remark(ctx, f"{counted(len(built.bank), 'image')} -> {output}; {more}")
    if not uncalibrated and made.calibration.slope is None:
        remark(
            ctx,
            "held-out fakes score no higher than reals: this detector does not tell new generators, and gives no "
            "probability. More generators, more images or another classifier may help",
        )
    return UNREADABLE if built.failures else DONE
