"""What the pages of this room share: one style, and an engine in which nothing is markup but what templates say."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from .. import registry
from ..writers import in_percent, printable

_HERE = Path(__file__).parent


def template(name: str) -> Any:
    """A template of this room.

    Raises:
        MissingExtraError: jinja2 is lacking.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise registry.missing_extra("this report", error) from error
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"plain": lambda text: printable(str(text)), "drawn": Markup, "percent": in_percent}
    environment.globals["style"] = Markup((_HERE / "style.css").read_text("utf-8"))
    return environment.get_template(name)


def address(kind: str, data: bytes) -> str:
    """A file as a `data:` address, so that a page holds it itself.

    Args:
        kind: its media type.
        data: its bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
