"""What `./test docs` has built: every command with every option, and every page, in what people read."""

from __future__ import annotations

import html
import re
from pathlib import Path

import click
import pytest

from documents import commands
from univfd import cli

SITE = Path(__file__).parents[2] / "build" / "docs"


def words(page: str) -> str:
    """The text of a page of the site."""
    file = SITE / f"{page}.html"
    assert file.is_file(), f"{file} is not there; ./test docs builds it"
    return html.unescape(re.sub(r"<[^>]*>", "", file.read_text("utf-8")))


@pytest.mark.parametrize("name", cli.group.list_commands(click.Context(cli.group)))
def test_a_commands_page_has_all_of_its_options_with_their_help(name: str) -> None:
    top = cli.group.get_command(click.Context(cli.group), name)
    assert top is not None
    text = re.sub(r"\s+", " ", words(f"generated/commands/{name}"))
    for path, command in commands(top, (name,)):
        assert f"univfd {' '.join(path)}" in text
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in text, (path, option.opts)
                first = " ".join((option.help or "").split()).partition("  ")[0].split("`")[0][:40].strip()
                assert first in text, (path, option.opts, first)


def test_every_page_is_built_and_points_nowhere_else() -> None:
    docs = Path(__file__).parents[2] / "docs"
    pages = [p.relative_to(docs).with_suffix("") for p in docs.rglob("*.*") if p.suffix in {".md", ".rst"}]
    assert len(pages) > 50
    for page in pages:
        text = (SITE / page).with_suffix(".html").read_text("utf-8")
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)\"", text)
        assert not loaded, f"{page} loads {loaded}: the site asks nobody else"
