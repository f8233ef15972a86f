"""Numbers in sentences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import univfd
from univfd.wording import counted

SOURCES = sorted(Path(univfd.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("n", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("image",), "2 images"),
        (1, ("family", "families"), "1 family"),
        (3, ("family", "families"), "3 families"),
        (1, ("row is", "rows are"), "1 row is"),
        (2375, ("row is", "rows are"), "2,375 rows are"),
    ],
)
def test_one_is_one(n: int, words: tuple[str, ...], said: str) -> None:
    assert counted(n, *words) == said


def test_no_message_leaves_the_number_to_its_reader() -> None:
    """Such as `1 image(s)`."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                words = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
                assert not re.search(r"^ [a-z ]+\(s\)| [a-z]+\(s\)[ ,;]", words), f"{path}:{node.lineno}: {words}"
