"""`univfd completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ..errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell, e.g. `eval "$(univfd completion bash)"`."""
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(found(ctx.find_root().command, {}, "univfd", "_UNIVFD_COMPLETE").source())
