"""Writes the manual pages of the command line, `docs/man/*.1`, from the commands themselves: run it where help changed.

One page a command, `univfd-bank.1` with the subcommands in it. The wheel installs them as `share/man/man1`. Pages carry
neither date nor version, so they change only where the commands do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from univfd.cli import group

FOLDER = Path(__file__).parent.parent / "docs" / "man"

ENVIRONMENT = (
    ("UNIVFD_HOME", "Folder of weights, demo images and embeddings. Default: the user's cache folder."),
    ("UNIVFD_OFFLINE", "Set to 1, nothing is ever fetched."),
    (
        "UNIVFD_ENGINE",
        "What computes the encoder, where --engine does not say: cpu, openvino, cuda and so on, or auto.",
    ),
    ("UNIVFD_DEVICE", "For encoders that run on PyTorch: cpu, cuda or auto."),
    ("UNIVFD_USER", "Who edits a bank store. Default: the account's name."),
)
EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Something was flagged (with --fail-on). Goes before 3."),
    ("2", "The call is wrong."),
    ("3", "Some inputs could not be read, or heat maps not written."),
    ("4", "Weights are missing or wrong."),
    ("70", "A mistake of this program."),
    ("130", "Interrupted."),
)


def pages() -> dict[str, str]:
    """Every page's text by its file's name."""
    top = context(group, "univfd")
    made = {"univfd.1": page(top)}
    for child in children(top):
        made[f"univfd-{child.info_name}.1"] = page(child)
    return made


def children(ctx: click.Context) -> list[click.Context]:
    """The commands of a group, in its order; hidden ones left out."""
    if not isinstance(ctx.command, click.Group):
        return []
    found = [(name, ctx.command.get_command(ctx, name)) for name in ctx.command.list_commands(ctx)]
    return [context(c, name, ctx) for name, c in found if c is not None and not c.hidden]


def context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """What a command is asked for its help in."""
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def page(ctx: click.Context) -> str:
    """A page in the language of `man`."""
    path = ctx.command_path
    top = ctx.parent is None
    lines = [
        f'.TH {roff(path.replace(" ", "-").upper())} 1 "" "univfd" "UnivFD"',
        ".SH NAME",
        f"{roff(path.replace(' ', '-'))} \\- {roff(short(ctx))}",
        ".SH SYNOPSIS",
        *usage(ctx),
        ".SH DESCRIPTION",
        *described(ctx),
        *options(ctx, ".SH"),
    ]
    inner = children(ctx)
    if inner:
        lines.append(".SH COMMANDS")
    for child in inner:
        lines += [".TP", f"\\fB{roff(child.command_path)}\\fP", roff(short(child))] if top else section(child)
    if top:
        for title, rows in (("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXIT_STATUS)):
            lines.append(f".SH {title}")
            for name, meaning in rows:
                lines += [".TP", f"\\fB{roff(name)}\\fP", roff(meaning)]
    lines += [".SH SEE ALSO", roff(", ".join(also(ctx)))]
    return "\n".join(lines) + "\n"


def section(ctx: click.Context) -> list[str]:
    """A subcommand, and those below it, within the page of their group."""
    own = [f".SS {roff(ctx.command_path)}", *usage(ctx), ".PP", *described(ctx), *options(ctx, "")]
    return own + [line for child in children(ctx) for line in section(child)]


def usage(ctx: click.Context) -> list[str]:
    """The call in one line."""
    return [f"\\fB{roff(ctx.command_path)}\\fP {roff(' '.join(ctx.command.collect_usage_pieces(ctx)))}"]


def described(ctx: click.Context) -> Iterator[str]:
    """The help's paragraphs; one that starts with a backspace (click's mark) keeps its lines."""
    text = inspect.cleandoc(ctx.command.help or "").partition("\f")[0]
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(roff, paragraph.splitlines()[1:]), ".fi")
        else:
            yield roff(" ".join(paragraph.split()))


def options(ctx: click.Context, heading: str) -> list[str]:
    """Every option with its meaning and default."""
    lines = [f"{heading} OPTIONS"] if heading else []
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            name = re.sub(r"(?<!\S)\\-[^\s,]+", lambda found: f"\\fB{found[0]}\\fP", roff(record[0]))
            lines += [".TP", name, roff(" ".join(record[1].split()))]
    return lines


def also(ctx: click.Context) -> list[str]:
    """Other pages."""
    if ctx.parent is not None:
        return ["univfd(1)"]
    return [f"univfd-{child.info_name}(1)" for child in children(ctx)]


def short(ctx: click.Context) -> str:
    """The help's first sentence, without its full stop."""
    first = inspect.cleandoc(ctx.command.help or "").partition("\n\n")[0]
    return re.split(r"(?<=[^.])\.(?:\s|$)|:\s", " ".join(first.split()))[0]


def roff(text: str) -> str:
    """Text that means itself in a page."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    """Write the pages; those of commands that are gone go."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for old in FOLDER.glob("*.1"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, "utf-8")
    click.echo(f"{len(made)} pages -> {FOLDER}")


if __name__ == "__main__":
    main()
