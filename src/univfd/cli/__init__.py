"""The command line. One file a command; this module finds them, runs one and maps errors to exit codes.

Exit codes: 0 done; 1 something was flagged (with `--fail-on`); 2 wrong use, or a machine that refuses (an output that
cannot be written, no memory, no threads); 3 some inputs could not be read, or heat maps not written; 4 weights are
missing or wrong; 70 a mistake of this program; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM), both with everything
put in order. Where both 1 and 3 apply it is 1. Data go to stdout, words and progress to stderr.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import pkgutil
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import click

from .._version import __version__
from ..errors import UnivFDError, WeightsError
from ._process import Terminated, forget_output, listen_for_termination, open_streams

DONE, FLAGGED, USAGE, UNREADABLE, WEIGHTS, INTERNAL, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 143


class _Commands(click.Group):
    """Commands are the modules of this folder; only the one that runs is imported."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # before click, which would end with 1: that means "flagged" here
            forget_output()
            return DONE

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With a word on what was probably meant: people give a picture, or a word of their own."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0]
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            if Path(name).exists():
                near = [f"detect {name}"]
            elif not near and name in _OTHER_WORDS:
                near = ["detect"]
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean 'univfd {near[0]}'?", ctx) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        return command


_OTHER_WORDS = {"analyse", "analyze", "check", "classify", "explain", "judge", "predict", "run"}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="univfd")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks on stderr; errors only.")
@click.pass_context
def group(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    """Detect AI-generated images: frozen CLIP features, nearest neighbours over a bank, or one linear layer."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="univfd: %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Lines("univfd: %(message)s"))
    logging.getLogger("univfd").setLevel(level)
    if not verbose:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else each attempt is four lines; the last one is told
    warnings.filterwarnings("ignore", module="PIL")  # remarks of the decoders; what matters becomes a row
    ctx.obj = {"quiet": quiet}


def main() -> NoReturn:
    """Entry point: run a command, say errors in one line, end with the documented code."""
    open_streams()
    listen_for_termination()
    try:
        code = _run()
    except KeyboardInterrupt as again:  # a second one, while the first was being answered
        code = TERMINATED if isinstance(again, Terminated) else INTERRUPTED
    _end(code)


def _run() -> int:
    """Run a command; its exit code."""
    try:
        code = group.main(prog_name="univfd", standalone_mode=False)
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort) as error:
        terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
        click.echo(f"\nunivfd: {'terminated' if terminated else 'interrupted'}", err=True)
        return TERMINATED if terminated else INTERRUPTED
    except WeightsError as error:
        return _say(error, WEIGHTS)
    except UnivFDError as error:
        return _say(error, USAGE)
    except MemoryError:
        return _say("there is not enough memory; lower --batch-size, --workers or --max-pixels", USAGE)
    except OSError as error:
        from ..sources import display_name

        return _say(f"{display_name(str(error.filename or 'output'))}: {error.strerror or error}", USAGE)
    except Exception as error:  # a mistake of ours: show all of it, and never end with a code that means something else
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return _say("this machine starts no more threads (ulimit -u); lower --workers and --threads", USAGE)
        traceback.print_exc()
        return INTERNAL
    return code if isinstance(code, int) else DONE


def _say(error: UnivFDError | str, code: int) -> int:
    """Say an error. Names of files and of what is in them come from strangers: nothing in them does anything."""
    click.echo(f"univfd: error: {_safe(str(error))}", err=True)
    return code


def _usage(error: click.ClickException) -> int:
    """Click's own words, which repeat what was typed; an argument may come from a stranger through a shell's `*`."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx is not None:
        click.echo(f"{ctx.get_usage()}\nTry '{ctx.command_path} {ctx.help_option_names[0]}' for help.\n", err=True)
    click.echo(f"Error: {_safe(error.format_message())}", err=True)
    return USAGE


def _safe(text: str) -> str:
    from ..writers import printable_lines

    return printable_lines(text, below="  ")


class _Lines(logging.Formatter):
    """Log lines in which names of strangers do nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback below it as it is."""
        message, _, trace = super().format(record).partition("\nTraceback (most recent call last)")
        return _safe(message) + (f"\nTraceback (most recent call last){trace}" if trace else "")


def _end(code: int) -> NoReturn:
    """Leave; all is done, so that a signal that comes now just ends the process."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    try:
        if sys.stdout is not None and not sys.stdout.closed:  # as an error may have left it
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            code = _say(f"output: {error.strerror or error}", code or USAGE)
        forget_output()
    sys.exit(code)
