"""`--ray` of several commands: the same work on a Ray cluster (`univfd.distributed`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..sources import Source, display_name
from ..wording import counted
from . import DONE, FLAGGED, UNREADABLE
from ._shared import logging_steps, option_group, remark, watching

if TYPE_CHECKING:
    from ..detector import Detector
    from ..distributed.cluster import Cluster
    from ..distributed.running import Report
    from ..distributed.workers import Work
    from ..store.adding import Embed

_KEY = "univfd.ray"
_FILES = {".parquet", ".jsonl", ".json", ".csv"}
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of Ray say.

    Attributes:
        cluster: where to run.
        partition: images a partition; None: not said.
        image_column: column of Parquet inputs.
    """

    cluster: Cluster
    partition: int | None
    image_column: str | None

    def work(
        self, *, batch_size: int | None, workers: int | None, threads: int | None, max_pixels: float,
        engine: str | None = None,
    ) -> Work:  # fmt: skip
        """How each actor works: by default with as many threads as it has CPUs."""
        from ..distributed.workers import Work

        cpus = self.cluster.cpus
        return Work(threads or cpus, workers or cpus, batch_size, round(max_pixels * 1e6), engine)


def _noted(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Options of Ray are kept beside the command's own; `asked` reads them."""
    if ctx.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT:
        ctx.meta.setdefault(_KEY, {})[parameter.name] = value


_option = partial(click.option, expose_value=False, callback=_noted)
cluster_options = option_group(
    _option("--ray", is_flag=False, flag_value="local", metavar="[ADDRESS]",
            help="Work on a Ray cluster: auto or HOST:PORT; without an address one of this machine, for this run."),
    _option("--ray-actors", metavar="MIN[:MAX]", help="Actors to keep, and to grow to.  [default: 1, and all CPUs]"),
    _option("--ray-cpus", type=click.IntRange(1), help="CPUs of each actor.  [default: 1]"),
    _option("--ray-gpus", type=click.FloatRange(0), help="GPUs of each actor.  [default: 0]"),
)  # fmt: skip
ray_options = option_group(
    cluster_options,
    _option("--partition", type=click.IntRange(1), help="Images a partition (with --ray).  [default: 512]"),
)  # fmt: skip


def asked(ctx: click.Context) -> Asked | None:
    """What was asked of Ray; None without `--ray`.

    Raises:
        UsageError: options of Ray without it, an address or bounds that are none.
        MissingExtraError: the extra is not installed.
    """
    given: dict[str, Any] = ctx.meta.get(_KEY, {})
    if not given:
        return None
    if "ray" not in given:
        raise UsageError(f"{', '.join('--' + n.replace('_', '-') for n in given)}: of --ray, which was not given")
    from ..registry import missing_extra

    try:
        import pyarrow  # noqa: F401

        from ..distributed.cluster import Cluster
    except ModuleNotFoundError as error:
        raise missing_extra("--ray", error) from error
    least, most = _bounds(given.get("ray_actors", "1"))
    cluster = Cluster(given["ray"], given.get("ray_cpus", 1), given.get("ray_gpus", 0), least, most)
    return Asked(cluster, given.get("partition"), ctx.params.get("image_column"))


def _bounds(text: str) -> tuple[int, int | None]:
    least, colon, most = text.partition(":")
    if not least.isdecimal() or int(least) < 1 or (colon and not most.isdecimal()):
        raise UsageError(f"--ray-actors {text}: expected MIN or MIN:MAX, 1 or more")
    return int(least), int(most) if colon else None


def own_engine(engine: str | None) -> str | None:
    """What the machine that starts the run computes with: it needs no GPU of the actors', but their loss, if any.

    Args:
        engine: of the actors.
    """
    from ..engines import DEFAULT, ENGINES

    return DEFAULT if engine in ENGINES and not ENGINES[engine].lossy else engine


def refuse(ctx: click.Context, *names: str) -> None:
    """Refuse options that say nothing on a cluster.

    Raises:
        UsageError: one was given.
    """
    given = [n for n in names if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT]
    if given:
        words = ", ".join("--" + n.replace("_", "-") for n in given)
        raise UsageError(f"{words}: not with --ray, which writes Parquet partitions of verdicts into a folder")


def place(output: Path | None) -> str:
    """The output as an absolute path, or as the URL that it was before it became a `Path`.

    Raises:
        UsageError: there is none.
    """
    if output is None:
        raise UsageError("--ray needs -o/--output: a folder that all nodes see, or a URL such as s3://bucket/prefix")
    url = _URL.match(str(output))
    if output.suffix.lower() in _FILES and not url and not output.is_dir():
        raise UsageError(
            f"-o {display_name(output)}: with --ray the output is a folder of Parquet partitions, and this is named "
            "like a file; name a folder"
        )
    if not url:
        return str(output.absolute())
    rest = re.sub(r"(=https?):/(?!/)", r"\1://", str(output)[url.end() :])  # an endpoint in the address is one too
    return f"{url[1]}://{'/' if url[1].lower() == 'file' else ''}{rest}"


def detect_on(
    ctx: click.Context, on: Asked, detector: Detector, inputs: Iterable[Source], output: Path | None, work: Work, *,
    neighbors: int, resume: bool, fail_on: Iterable[str],
) -> int:  # fmt: skip
    """`univfd detect --ray`: exit codes as without."""
    from ..distributed.running import detect
    from ..distributed.stores import Folder

    folder = Folder(place(output))
    with _progress(ctx, folder.place) as on_done:
        report = detect(
            detector, inputs, folder, on.cluster, work, neighbors=neighbors, size=on.partition,
            image_column=on.image_column, resume=resume, on_done=on_done,
        )  # fmt: skip
    _say(ctx, report, folder.place)
    if not report.images:
        remark(ctx, "there was nothing to judge; check the paths")
        return UNREADABLE
    if any(report.counts.get(verdict) for verdict in fail_on):
        return FLAGGED
    return UNREADABLE if report.counts.get("failed") else DONE


def embed_on(
    ctx: click.Context, on: Asked, backbone: str, opened: Any, cut: Any, inputs: Iterable[Source], output: Path,
    work: Work, *, perturb: str, resume: bool,
) -> int:  # fmt: skip
    """`univfd embed --ray`."""
    from ..distributed.running import embed
    from ..distributed.stores import Folder

    folder = Folder(place(output))
    with _progress(ctx, folder.place) as on_done:
        report = embed(
            _everywhere(backbone), opened, cut, inputs, folder, on.cluster, work, perturb=perturb, size=on.partition,
            image_column=on.image_column, resume=resume, on_done=on_done,
        )  # fmt: skip
    _say(ctx, report, folder.place)
    if not report.images:
        remark(ctx, "there was nothing to embed; check the paths")
        return UNREADABLE
    return UNREADABLE if report.counts.get("failed") else DONE


def embedding_on(on: Asked, backbone: str, work: Work) -> Embed:
    """What `store.adding.prepare` embeds with on a cluster."""
    from ..distributed.cached import embed_missing

    def embed(kept: Any, images: Any, on_done: Callable[[int], None]) -> Any:
        return embed_missing(kept, _everywhere(backbone), images, on.cluster, work, on_done=on_done)

    return embed


def _everywhere(backbone: str) -> str:
    """The same encoder from any working directory: a shipped name goes before a folder, as in `catalogue.entry`."""
    from ..catalogue import names

    return backbone if backbone in names() or not Path(backbone).is_dir() else str(Path(backbone).absolute())


def _say(ctx: click.Context, report: Report, where: str) -> None:
    counts = ", ".join(f"{n} {word}" for word, n in report.counts.items()) or "none"
    before = f" ({report.done_before} were there)" if report.done_before else ""
    remark(ctx, f"{counted(report.images, 'image')}: {counts}")
    remark(
        ctx,
        f"{counted(report.partitions, 'partition')}{before}, {report.seconds:.1f} s, "
        f"{counted(report.workers, 'worker')} -> {where}",
    )


@contextmanager
def _progress(ctx: click.Context, where: str) -> Iterator[Callable[[str, int, int], None]]:
    """Says how far a run is; if it is interrupted, how it goes on."""
    try:
        with _telling(ctx) as tell:
            yield tell
    except KeyboardInterrupt:
        remark(ctx, f"\ncomplete partitions are kept in {where}; the same command with --resume goes on")
        raise


@contextmanager
def _telling(ctx: click.Context) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal; else a line now and then, for the log of a long run."""
    if ctx.obj["quiet"] or sys.stderr.isatty():
        with watching(ctx) as show:
            yield lambda what, done, total: show(what, done, total or done)
        return
    with logging_steps(ctx) as step:
        yield step
