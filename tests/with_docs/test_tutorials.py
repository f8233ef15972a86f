"""Runs what the tutorials and the README tell to run, as written, and compares what comes out with what they show."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import DOCS, ROOT, Shell, examples

TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A shell in an empty folder that looks like a clone where it must."""
    folder = tmp_path / "clone"
    (folder / "docs" / "tutorials").mkdir(parents=True)
    for program in (DOCS / "tutorials").glob("*.py"):
        shutil.copy(program, folder / "docs" / "tutorials")
    monkeypatch.chdir(folder)
    opened = Shell(folder)
    yield opened
    opened.close()


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial(page: Path, shell: Shell) -> None:
    shown = page.read_text("utf-8")
    ran = 0
    for example in examples(page, shell):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            example.evaluate()
        ran += 1
        printed = out.getvalue().strip()
        assert not printed or f"```text\n{printed}\n```" in shown, f"{page.name} does not show: {printed}"
    assert ran >= 5


HOW_TO = ["audit.md", "heatmaps.md", "provenance.md", "bank.md"]


@pytest.mark.parametrize("name", HOW_TO)
def test_python_of_a_how_to_guide(name: str, shell: Shell) -> None:
    """With `photo.jpg`, labelled data in `DATA` and a tagged bank store `faces`, as these pages take for granted."""
    for command in (
        "univfd -q demo --save pictures",
        "python docs/tutorials/practice.py pictures DATA --reals 20 --fakes 8",
        "cp pictures/real/imgaug/quokka.jpg photo.jpg",
        "univfd bank import faces default && univfd bank tag faces good",
    ):
        if "faces" not in command or name == "bank.md":
            said, code = shell.run(command)
            assert code == 0, said
    ran = [example.evaluate() for example in examples(DOCS / name)]
    assert ran


def test_python_of_the_readme(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    said, code = shell.run("univfd -q demo --save folder && cp folder/real/imgaug/quokka.jpg photo.jpg")
    assert code == 0, said
    ran = [example.evaluate() for example in examples(ROOT / "README.md")]
    assert ran
    assert len(capsys.readouterr().out.splitlines()) == 13
    assert os.getcwd() == str(shell.folder)  # noqa: PTH109
