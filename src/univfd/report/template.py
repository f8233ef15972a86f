"""What the pages of this room share: one style, and an engine in which nothing is markup but what templates say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import registry
from ..writers import printable

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
    environment.filters |= {"plain": lambda text: printable(str(text)), "drawn": Markup}
    environment.globals["style"] = Markup((_HERE / "style.css").read_text("utf-8"))
    return environment.get_template(name)
