"""The command in a shell: `python -m`, completion, manual pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from commands import run
from univfd import __version__
from univfd.cli import demo, group

ROOT = Path(__file__).parent.parent
MAN = ROOT / "docs" / "man"
sys.path.insert(0, str(ROOT / "scripts"))
import build_man  # noqa: E402


def walk(ctx: click.Context) -> Iterator[click.Context]:
    """A command and all below it."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            found = ctx.command.get_command(ctx, name)
            assert found is not None
            yield from walk(click.Context(found, info_name=name, parent=ctx, **found.context_settings))


def test_the_module_is_the_command() -> None:
    def called(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "univfd", *args], capture_output=True, text=True, check=False)

    assert called("--version").stdout == f"univfd, version {__version__}\n"
    wrong = called("detcet")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Usage: univfd ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    script = run("completion", shell).output
    assert f"_UNIVFD_COMPLETE={shell}_complete" in script
    assert "univfd" in script.splitlines()[0] + script.splitlines()[-1]


def test_bash_completes(tmp_path: Path) -> None:
    """A bash that has taken the script up is asked what Tab would show."""
    bash = shutil.which("bash")
    assert bash, "this test needs bash"
    command = tmp_path / "univfd"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m univfd "$@"\n')
    command.chmod(0o755)
    asked = """
eval "$(univfd completion bash)"
complete -p univfd
tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _univfd_completion univfd; echo "${COMPREPLY[@]}"; }
tab univfd det
tab univfd detect --heat
tab univfd completion z
tab univfd bank un
"""
    said = subprocess.run(
        [bash, "--norc", "-c", asked], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    ).stdout.splitlines()  # fmt: skip
    assert said[0].endswith("-F _univfd_completion univfd")
    assert said[1:] == ["detect detectors", "--heatmap", "zsh", "undo"]


def test_manual_pages_are_those_of_the_commands() -> None:
    kept = {path.name: path.read_text("utf-8") for path in MAN.glob("*")}
    assert kept == build_man.pages(), "run scripts/build_man.py"


def test_every_command_and_option_is_in_the_manual() -> None:
    """Against the commands themselves, in what a reader of the pages sees."""
    texts = {path.name: shown(path) for path in MAN.glob("*.1")}
    top = click.Context(group, info_name="univfd")
    count = 0
    for ctx in walk(top):
        words = ctx.command_path.split()
        name = "univfd.1" if len(words) == 1 else f"univfd-{words[1]}.1"
        text = texts[name]
        assert " ".join(words) in text, (words, name)
        for param in ctx.command.params:
            for option in (*param.opts, *param.secondary_opts) if isinstance(param, click.Option) else ():
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), (words, option)
                count += 1
    assert count > 200
    assert "--no-such-option" not in texts["univfd-detect.1"]
    assert "UNIVFD_OFFLINE" in texts["univfd.1"]


def shown(path: Path) -> str:
    """A page as text in one line: by groff or mandoc, which must not complain; else with the markup taken out."""
    source = path.read_text("utf-8")
    if groff := shutil.which("groff"):
        command = [groff, "-man", "-Tutf8", "-ww", "-P-c", "-rLL=400n", str(path)]
    elif mandoc := shutil.which("mandoc"):
        command = [mandoc, "-T", "utf8", "-W", "warning", "-O", "width=400", str(path)]
    else:
        return " ".join(re.sub(r"\\f[BPR]|\\&", "", source).replace("\\-", "-").replace("\\e", "\\").split())
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert made.stderr == ""
    return " ".join(re.sub(r".\x08", "", made.stdout).split())


def test_markup_means_itself() -> None:
    assert build_man.roff(".x -y \\z") == "\\&.x \\-y \\ez"
    assert build_man.roff("'tis") == "\\&'tis"


def test_the_wheel_brings_the_manual(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        pages = {Path(n).name for n in archive.namelist() if ".data/data/share/man/man1/" in n}
    assert pages == {path.name for path in MAN.glob("*.1")}


@pytest.mark.parametrize(
    ("typed", "known", "said"),
    [
        (".venv/bin/univfd", False, ".venv/bin/univfd"),
        ("{here}/.venv/bin/univfd", False, ".venv/bin/univfd"),
        ("/elsewhere/bin/univfd", False, "/elsewhere/bin/univfd"),
        (".venv/bin/univfd", True, "univfd"),
        ("/lib/univfd/__main__.py", False, "univfd"),
    ],
)
def test_the_demo_names_a_program_that_can_be_typed(
    typed: str, known: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if known:
        (tmp_path / "univfd").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [typed.format(here=tmp_path), "demo"])
    assert demo._program() == said
