"""`univfd audit`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..wording import counted
from . import DONE, FLAGGED, UNREADABLE
from ._shared import PATH, max_pixels_option, progress, remark

if TYPE_CHECKING:
    from ..audit import Audit, Tell
    from ..matching import Encoder, Matched
    from ..metrics import Estimate
    from ..types import Sample

STATES = ("fit", "doubtful", "unfit")  # as in `univfd.audit`, which imports much
_NO_INTERVAL = "no interval: the fakes, or the reals beside them, are all of one group, which says nothing about others"


@click.command()
@click.argument("data", type=PATH)
@click.option(
    "--suite", metavar="NAME", help="DATA is the root of this suite (see `univfd suites`), or of a TOML file."
)
@click.option("--subset", "subsets", multiple=True, metavar="NAME", help="Only this subset of the suite; repeatable.")
@click.option("--partial", is_flag=True, help="Take other numbers of images than the suite was published with.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.option("--fail-on", type=click.Choice(STATES[1:]), help="Exit code 1 for this verdict or a worse one.")
@click.option("--match", "folder", type=PATH, help="Folder to make: a copy of DATA with the bias taken out.")
@click.option("--format", type=click.Choice(["jpeg", "webp", "png"]), help="Of --match.  [default: jpeg]")
@click.option("--quality", type=click.IntRange(1, 100), help="Of --match, JPEG and WebP.  [default: 85]")
@click.option(
    "--size", "sizes", type=click.IntRange(8, 16383), multiple=True,
    help="Side of the pictures of --match; repeat to allow several.  [default: 128, 192, 256, 384, 512, 768, 1024]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of folds, intervals and pairs.")
@click.option("--workers", type=click.IntRange(1), help="Reading threads.  [default: one per CPU]")
@max_pixels_option
@click.pass_context
def command(
    ctx: click.Context, data: Path, suite: str | None, subsets: tuple[str, ...], partial: bool, as_json: bool,
    fail_on: str | None, folder: Path | None, format: str | None, quality: int | None, sizes: tuple[int, ...],
    seed: int, workers: int | None, max_pixels: float,
) -> int:  # fmt: skip
    """Is a labelled collection fit for measuring detectors, or do format and size give the fakes away?

    A detector that sees only metadata (format, size, bytes, JPEG tables, embedded data) is trained and tested on
    held-out images. An AUROC above 0.6 means that scores on this collection say nothing. DATA is as for `univfd fit`.
    """
    from ..audit import audit
    from ..backbones import cpus
    from ..datasets import open_dataset
    from ..writers import printable

    samples = _reader(data, suite, subsets, partial)
    encoder = _encoder(folder, format, quality, sizes)
    threads, limit = workers or cpus(), round(max_pixels * 1e6)
    with progress(ctx, "headers") as advance:
        found = audit(samples(), seed=seed, workers=threads, max_pixels=limit, on_done=advance)
    for failure in found.failures:
        remark(ctx, printable(f"left out {failure.image}: {failure.message}"))
    matched = again = None
    if folder is not None:
        from ..matching import SIZES, write_matched

        if not as_json:
            _say(_table(found))  # the list may take a while
        with progress(ctx, "images measured and written") as advance:
            matched = write_matched(
                samples(), folder, encoder=encoder, sizes=sizes or SIZES, seed=seed, workers=threads,
                max_pixels=limit, on_done=advance,
            )  # fmt: skip
        again = audit(open_dataset(folder), seed=seed, workers=threads)
    if as_json:
        click.echo(json.dumps(_record(found, matched, again), indent=1))
    elif matched is not None and again is not None:
        _say(["", *_matched(matched), "", *_table(again)])
    else:
        _say(_table(found))
    unreadable = bool(found.failures) or (matched is not None and matched.unreadable > 0)
    if fail_on and STATES.index((again or found).verdict) >= STATES.index(fail_on):
        return FLAGGED
    return UNREADABLE if unreadable else DONE


def _reader(data: Path, suite: str | None, subsets: tuple[str, ...], partial: bool) -> Callable[[], Iterator[Sample]]:
    """What opens DATA, as often as it is needed."""
    from ..datasets import open_dataset
    from ..suites import open_suite

    if suite is None:
        if subsets or partial:
            raise UsageError("--subset and --partial are of a suite; name it with --suite")
        return lambda: open_dataset(data)
    opened = open_suite(suite)
    return lambda: opened.samples(data, only=subsets, partial=partial)


def _say(lines: list[str]) -> None:
    from ..writers import printable

    for line in lines:
        click.echo(printable(line))


def _encoder(folder: Path | None, format: str | None, quality: int | None, sizes: tuple[int, ...]) -> Encoder:
    """The encoder that the options ask for.

    Raises:
        UsageError: options of `--match` without it, or a quality for PNG.
        OutputExistsError: the folder is there already.
    """
    from ..matching import Encoder
    from ..storage import require_new

    if folder is None:
        given = {"--format": format, "--quality": quality, "--size": sizes or None}
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise UsageError(f"{', '.join(useless)}: only with --match FOLDER, which writes images")
        return Encoder()
    require_new(folder)
    if format == "png":
        return Encoder("png", quality)
    return Encoder(format or "jpeg", 85 if quality is None else quality)  # type: ignore[arg-type]


def _table(found: Audit) -> list[str]:
    from ..metadata_detector import MIN_N

    lines = [f"verdict  {found.verdict}", *(f"  - {reason}" for reason in found.reasons), ""]
    lines += [f"{'metadata only: AUROC on':<24}  {'value':>5}  95 % interval   n"]
    for check in found.checks:
        n = counted(check.auroc.n, "generator" if check.generators else "image")
        lines.append(f"  {check.name:<22}  {_estimate(check.auroc)}  {n}; {check.protocol}")
    if any(math.isnan(check.auroc.low) for check in found.checks):
        lines.append(f"({_NO_INTERVAL})")
    if found.tells:
        width = max(len(t.feature) for t in found.tells)
        lines += ["", f"{'by itself':<{width}}  AUROC       fakes       reals"]
        lines += [f"{t.feature:<{width}}  {t.auroc:.3f}  {_value(t, t.fake)}  {_value(t, t.real)}" for t in found.tells]
        lines.append(
            "(on all images, none held out: the verdict goes by the rows above, which ask what holds for others)"
        )
    for check in found.checks:
        if check.generators:
            width = max(9, *(len(g) for g, _ in check.generators))
            lines += ["", f"{'generator':<{width}}  {'n':>6}  AUROC  95 % interval"]
            lines += [f"{g:<{width}}  {a.n:>6}  {_estimate(a)}" for g, a in check.generators]
            if any(a.n < MIN_N for _, a in check.generators):
                lines.append(f"(fewer than {MIN_N} images do not count in the mean)")
            if any(math.isnan(a.low) for _, a in check.generators):
                lines.append(f"({_NO_INTERVAL})")
    total = counted(found.fakes + found.reals, "file")
    left = f"{len(found.failures)} could not be read, {counted(found.copies, 'is a copy', 'are copies')}"
    return [*lines, "", f"{total}: {found.fakes} fake, {found.reals} real; {left}"]


def _estimate(value: Estimate) -> str:
    return str(value).replace(" [", "  [")


def _value(tell: Tell, value: float) -> str:
    from ..audit import readable

    return f"{value:>10.1%}" if tell.flag else f"{readable(value):>10}"


def _matched(matched: Matched) -> list[str]:
    left = ", ".join(f"{n} {reason}" for reason, n in matched.to_dict()["left_out"].items()) or "none"
    pairs = counted(matched.pairs, "pair")
    lines = [f"{matched.folder}: {pairs} of one fake and one real; left out: {left}"]
    return lines + [f"  - {text}" for text in matched.remarks]


def _record(found: Audit, matched: Matched | None, again: Audit | None) -> dict[str, Any]:
    if matched is None or again is None:
        return found.to_dict()
    return found.to_dict() | {"matched": matched.to_dict() | {"audit": again.to_dict()}}
