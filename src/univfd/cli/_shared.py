"""Options and helpers that several commands share."""

from __future__ import annotations

import codecs
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import UsageError
from ..wording import counted

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..embedding_cache import EmbeddingCache
    from ..types import Sample
    from ..views import View

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
LOG_SECONDS = 60.0
"""Between two lines on how far a run is, where stderr is no terminal."""


def option_group(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, listed in this order by `--help`."""

    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


def _files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """What the shell completes by itself; an argument of any text would complete to nothing."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


images_options = option_group(
    click.argument("images", nargs=-1, shell_complete=_files),
    click.option("--from-file", metavar="FILE", help="Read more paths from FILE, one a line; - is standard input."),
    click.option("--null", is_flag=True, help="Paths in --from-file end in a NUL byte, not in a newline."),
)
image_column_option = click.option(
    "--image-column", metavar="NAME",
    help="IMAGES are Parquet files, or folders of them, with images in this column.",
)  # fmt: skip
data_options = option_group(
    click.argument("data", shell_complete=_files),
    click.option("--root", type=PATH, help="DATA is a suite (see `univfd suites`), and this the folder of its images."),
    click.option(
        "--subset", "subsets", multiple=True, metavar="NAME", help="Only this subset of the suite; repeatable."
    ),
    click.option("--partial", is_flag=True, help="Take other numbers of images than the suite was published with."),
)
trust_option = click.option(
    "--trust", type=PATH, multiple=True, metavar="FILE",
    help="Certificates (PEM) of signers of Content Credentials to trust beside the official list; repeatable.",
)  # fmt: skip
rounds_option = click.option(
    "--rounds", type=click.IntRange(1), default=1000, show_default=True, help="Redrawn sets of the bootstrap."
)
_workers = click.option("--workers", type=click.IntRange(1), help="Decoding threads.  [default: one per CPU]")


class Number(click.FloatRange):
    """`FloatRange` alone lets nan through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no number."""
        if math.isnan(found := super().convert(value, param, ctx)):
            self.fail(f"{value} is no number", param, ctx)
        return found


class Megapixels(Number):
    """A limit of at least one pixel."""

    def __init__(self, most: float = 1_000_000) -> None:
        super().__init__(1e-6, most)

    def _describe_range(self) -> str:
        """Nothing in the help: a limit of a pixel needs no words."""
        return ""


def kept_embeddings(ctx: click.Context, backbone: Backbone, view: View) -> EmbeddingCache | None:
    """The embedding cache of an encoder and view; None, and a remark, where it cannot be written.

    Says too where the encoder's space is one of its own.
    """
    from ..embedding import space_of
    from ..embedding_cache import EmbeddingCache

    kept = EmbeddingCache(space_of(backbone, view), may_fail=True)
    if loss := backbone.entry.lossy:
        remark(ctx, f"the engine is lossy ({loss}): its feature space is its own, and others refuse what is made")
    try:
        kept.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=kept.folder):
            pass
    except OSError as error:
        remark(ctx, f"embeddings are not kept for the next time: {error}")
        return None
    return kept


max_pixels_option = click.option(
    "--max-pixels", type=Megapixels(), default=200, show_default=True, metavar="MEGAPIXELS",
    help="Refuse larger images.",
)  # fmt: skip
decoding_options = option_group(_workers, max_pixels_option)
work_options = option_group(
    click.option("--batch-size", type=click.IntRange(1), help="Images a batch.  [default: four per CPU]"),
    _workers,
    click.option("--threads", type=click.IntRange(1), help="Encoder threads.  [default: one per CPU]"),
    max_pixels_option,
)
engine_option = click.option(
    "--engine", metavar="NAME",
    help="What computes the encoder: cpu, openvino, cuda, tensorrt, coreml, directml, or auto; at some loss "
    "cpu-int8, openvino-bf16, cuda-tf32, tensorrt-fp16.  [default: UNIVFD_ENGINE, else cpu]",
)  # fmt: skip
space_options = option_group(
    click.option("--backbone", default="clip-vit-b-16", show_default=True,
                 help="Encoder: name, folder, timm:... or openclip:..."),
    click.option("--tap", "taps", multiple=True, default=("proj",), show_default=True,
                 help="Layer: proj, cls.N, cls.N@K, mlp.N, mlp.N@K or mean.N; repeat to put several side by side."),
    click.option("--view", default="native", show_default=True, help="native, resize, five, grid-N."),
)  # fmt: skip


def collect(images: tuple[str, ...], from_file: str | None, null: bool) -> Iterable[str]:
    """The inputs of a command.

    Raises:
        UsageError: none at all.
    """
    if not images and from_file is None:
        raise UsageError("no images given; name files, folders or globs, or use --from-file")
    if null and from_file is None:
        raise UsageError("--null is of --from-file")
    return _chained(images, from_file, b"\0" if null else b"\n")


def _chained(images: tuple[str, ...], from_file: str | None, end: bytes) -> Iterator[str]:
    yield from images
    if from_file is None:
        return
    try:
        file = sys.stdin.buffer if from_file == "-" else Path(from_file).open("rb")  # noqa: SIM115
        with file:
            for number, line in enumerate(_split(file, end)):
                line = line.removeprefix(codecs.BOM_UTF8) if not number else line
                if line:
                    yield line.decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"--from-file {from_file}: {error.strerror}") from error


def _split(file: Any, end: bytes) -> Iterator[bytes]:
    if end == b"\n":
        for line in file:
            yield line.rstrip(b"\r\n")
        return
    rest = b""
    while chunk := file.read(1 << 16):
        *whole, rest = (rest + chunk).split(end)
        yield from whole
    yield rest


class _Log:
    """How far a run is, for the log that stderr is where it is no terminal: a line of each piece of work now and then.

    A piece that takes no longer than `LOG_SECONDS` has no line; one that does has a last one too, when all is over.
    """

    def __init__(self, ctx: click.Context) -> None:
        self._ctx, self._start = ctx, time.monotonic()
        self._last: dict[str, float] = {}
        self._untold: dict[str, str] = {}
        self._told: set[str] = set()

    def step(self, what: str, done: int, total: int = 0) -> None:
        """`done` of a piece of work are done, of `total` where that is known."""
        now = time.monotonic()
        of = f" of {total}" if total else ""
        self._untold[what] = f"{what}: {done}{of} after {now - self._start:.0f} s"
        if now - self._last.setdefault(what, now if self._last else self._start) >= LOG_SECONDS:
            self._say(what, now)

    def end(self) -> None:
        """Say where the pieces that had a line ended."""
        for what in [each for each in self._untold if each in self._told]:
            self._say(what, time.monotonic())

    def _say(self, what: str, now: float) -> None:
        self._last[what] = now
        self._told.add(what)
        remark(self._ctx, self._untold.pop(what))


@contextmanager
def logging_steps(ctx: click.Context) -> Iterator[Callable[[str, int, int], None]]:
    """Lines of a log in place of bars: takes a piece of work, how many are done, and of how many (0: not known)."""
    log = _Log(ctx)
    yield log.step
    log.end()


@contextmanager
def progress(ctx: click.Context, what: str) -> Iterator[Callable[[int], None]]:
    """A counter on stderr, or lines now and then where that is no terminal; gives the function that advances it."""
    if ctx.obj["quiet"]:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        done = 0
        with logging_steps(ctx) as step:

            def count(n: int) -> None:
                nonlocal done
                done += n
                step(what, done, 0)

            yield count
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.fields[rate]}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


@contextmanager
def download_progress(ctx: click.Context) -> Iterator[Callable[[str, int, int], None] | None]:
    """A download bar on stderr, where stderr is a terminal; it appears with the first byte."""
    if ctx.obj["quiet"] or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            bar.start()
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done)
        if done >= total:
            bar.stop()

    try:
        yield show
    finally:
        bar.stop()


def remark(ctx: click.Context, text: str) -> None:
    """Words for a person, on stderr."""
    if not ctx.obj["quiet"]:
        from ..writers import printable_lines

        click.echo(printable_lines(text), err=True)


def settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`--set name=value` pairs; values as JSON where they are JSON, else as text.

    Raises:
        UsageError: a pair without `=`.
    """
    from ..storage import parsed

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected NAME=VALUE")
        try:
            values[name] = parsed(text)
        except ValueError:
            values[name] = text
    return values


split_option = click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME",
    help="Only images of this split (train, val, test ...); repeatable.",
)


def samples_of(source: str, root: Path | None, subsets: tuple[str, ...], partial: bool) -> list[Sample]:
    """The images of a suite (where a root is given) or of a data set, for commands with `--root`.

    `scan` and `audit`, which name the suite with `--suite`, tell them apart themselves.

    Raises:
        UsageError: a suite without a root, or options of a suite without one.
    """
    from ..datasets import open_dataset
    from ..suites import names, open_suite

    if root is not None:
        return list(open_suite(source).samples(root, only=subsets, partial=partial))
    if subsets or partial:
        raise UsageError("--subset and --partial are of a suite; give the folder of its images with --root")
    if source in names() and not Path(source).exists():
        raise UsageError(f"{source} is a suite: give the folder of its images with --root")
    return list(open_dataset(source))


@contextmanager
def watching(ctx: click.Context) -> Iterator[Callable[[str, int, int], None]]:
    """Say on stderr how far it is: bars on a terminal, else a line at the beginning of each piece and now and then."""
    if ctx.obj["quiet"]:
        yield lambda *_: None
        return
    if not sys.stderr.isatty():
        said: set[str] = set()
        with logging_steps(ctx) as step:

            def say(what: str, done: int, total: int) -> None:
                if what not in said:
                    said.add(what)
                    remark(ctx, f"{what}: {counted(total, 'image')}")
                step(what, done, total)

            yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, object] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield show
