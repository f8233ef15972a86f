"""`univfd version`."""

from __future__ import annotations

import platform

import click


@click.command()
def command() -> None:
    """Versions of univfd and of what its results depend on."""
    import numpy
    import onnxruntime
    import PIL

    from .._version import __version__

    click.echo(f"univfd {__version__}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    click.echo(f"onnxruntime {onnxruntime.__version__}, numpy {numpy.__version__}, pillow {PIL.__version__}")
