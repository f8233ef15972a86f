"""The hand-written pages as tests see them: their links, the commands that they name, and their examples, which run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from doctest import ELLIPSIS
from functools import cache
from itertools import zip_longest
from pathlib import Path

import click
from markdown_it import MarkdownIt
from sybil import Document, Example
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

from univfd.cli import group

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SHELLS = ("", "bash", "console", "sh", "shell")
_MARK = "<<the command ended with"
_PATIENCE = 300  # seconds for a service to say what the page says that it says


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command at or below one, with its name in parts."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


def pages() -> list[Path]:
    """Every hand-written page, README first."""
    return [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "generated" not in p.parts)]


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link and picture that leads to a file of this repository; the path may be empty."""
    for token in MarkdownIt().enable("table").parse(page.read_text("utf-8")):
        for part in token.children or []:
            target = str(part.attrGet("href") or part.attrGet("src") or "")
            if target and not re.match(r"[a-z]+:", target):
                path, _, anchor = target.partition("#")
                yield path, anchor


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as hosts of Markdown and MyST make them."""
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    titles = (tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open")
    words = ("".join(p.content for p in t.children or [] if p.type in {"text", "code_inline"}) for t in titles)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in words}


@cache
def shell_lines(page: Path) -> tuple[str, ...]:
    """Every line on a page that may run something: in blocks, and in running text between backticks."""
    return tuple(_shell_lines(page))


def _shell_lines(page: Path) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(page.read_text("utf-8")):
        if token.type in {"fence", "code_block"} and token.info.strip() in SHELLS:
            lines = re.sub(r"\\\n\s*", "", token.content).splitlines()
            typed = [line[2:] for line in lines if line.startswith("$ ")]
            yield from typed or lines
        yield from (part.content for part in token.children or [] if part.type == "code_inline")


@cache
def called(line: str) -> tuple[tuple[list[str], list[str]], ...]:
    """Each univfd command that a line runs: the path of its names, and the options that are named."""
    return tuple(_called(line)) if "univfd " in line else ()


def _called(line: str) -> Iterator[tuple[list[str], list[str]]]:
    for part in re.split(r"&&|[|;)>`]|\s#\s", line):
        found = re.search(r"(?:^|[\s($])univfd ((?!import )[a-z].*)", part)
        if found and not part.startswith("univfd: "):
            words = found[1].split()
            yield _path(words), [w.partition("=")[0] for w in words if re.match(r"--?[a-z]", w)]


def _path(words: list[str]) -> list[str]:
    command: click.Command | None = group
    context, path = click.Context(group), []
    for word in words:
        inner = command.get_command(context, word) if isinstance(command, click.Group) else None
        if inner is None:
            break
        path, command = [*path, word], inner
    return path


class Shell:
    """A shell that lasts for a page. `univfd` and `python` are those of this environment."""

    def __init__(self, folder: Path) -> None:
        shims = folder.parent / f"{folder.name}-bin"
        shims.mkdir()
        for name, code in (("univfd", "-m univfd"), ("python", "")):
            (shims / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {code} "$@"\n')
            (shims / name).chmod(0o755)
        env = os.environ | {"PATH": f"{shims}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore", "COLUMNS": "80"}
        env["PYTHONPATH"] = f"{ROOT / 'src'}:{env.get('PYTHONPATH', '')}"
        self.folder = folder
        self.process = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=folder, env=env, start_new_session=True,
        )  # fmt: skip

    def run(self, command: str) -> tuple[list[str], int]:
        """Lines of output and of errors, as they come, and the exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{{ {command}\n}} 2>&1 </dev/null; echo '{_MARK}' $?\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if _MARK in line:
                before, _, code = line.rpartition(_MARK)
                return [*lines, *([before] if before else [])], int(code)
            lines.append(line.rstrip())
        raise AssertionError(f"the shell ended in: {command}")

    def start(self, command: str, wanted: list[str]) -> list[str]:
        """Start what does not end by itself, and wait until it has said what is wanted."""
        log = self.folder.parent / f"{self.folder.name}-service.log"
        self.run(f"{command} > {shlex.quote(str(log))} 2>&1 &")
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            said = log.read_text().splitlines() if log.exists() else []
            if len(said) >= len(wanted):
                return said
            time.sleep(0.2)
        return log.read_text().splitlines()

    def close(self) -> None:
        """End the shell and all that it started."""
        self.run("kill $(jobs -p) 2>/dev/null; wait")
        self.process.communicate("exit\n", timeout=60)

    def evaluate(self, example: Example) -> str | None:
        """A block of `$ command` lines, each with what it prints below it; for Sybil."""
        for command, wanted in transcript(str(example.parsed)):
            if command.startswith("univfd serve --"):
                said, code = self.start(command, wanted), 0
            else:
                said, code = self.run(command)
            told = "\n".join(said)
            if not matches(wanted, said):
                return f"$ {command}\nwas to print\n" + "\n".join(wanted) + f"\nbut printed\n{told}"
            if code and not re.search("error|failed", "\n".join(wanted)):
                return f"$ {command}\nended with {code}:\n{told}"
        return None


def transcript(block: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of a block and the lines below each; a line that ends in a backslash goes on."""
    command, output = "", []
    for line in block.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line[2:], []
        elif command.endswith("\\") and not output:
            command = f"{command}\n{line}"
        else:
            output.append(line.rstrip())
    if command:
        yield command, output


def matches(wanted: list[str], said: list[str]) -> bool:
    """Is it what was wanted? `...` stands for anything in a line, or alone for any lines; last digits may differ."""
    if not wanted:
        return True
    if wanted[0].strip() == "...":
        return any(matches(wanted[1:], said[i:]) for i in range(len(said) + 1)) if wanted[1:] else True
    return bool(said) and _like(wanted[0], said[0]) and (matches(wanted[1:], said[1:]) if wanted[1:] else not said[1:])


_NUMBER = re.compile(r"\d+\.\d+")


def _like(wanted: str, said: str) -> bool:
    if "..." in wanted:
        return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), said.rstrip()) is not None
    if _NUMBER.sub("#", wanted) != _NUMBER.sub("#", said.rstrip()):
        return False
    return all(
        a is not None and b is not None and abs(float(a) - float(b)) < 1.5 * 10.0 ** -len(a.partition(".")[2])
        for a, b in zip_longest(_NUMBER.findall(wanted), _NUMBER.findall(said))
    )


def examples(page: Path, shell: Shell | None = None) -> list[Example]:
    """The examples of a page, in order: Python, and where there is a shell, transcripts of it.

    What stands behind a comment `<!--- skip: next -->` is no example.
    """
    parsers = [PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()]
    if shell is not None:
        parsers.append(CodeBlockParser("console", shell.evaluate))
    return list(Document.parse(str(page), *parsers).examples())
