"""`univfd suites`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from . import DONE, USAGE
from ._shared import PATH

if TYPE_CHECKING:
    from ..suites import Check


@click.group()
def command() -> None:
    """Published benchmarks: what is in them, where to get them, whether a folder holds one. Nothing is downloaded."""


@command.command("list")
def list_suites() -> None:
    """The suites that come with the package."""
    from .. import suites

    for name in suites.names():
        suite = suites.open_suite(name)
        click.echo(f"{name:<20} {len(suite.subsets):>3} subsets  {suite.title}")


@command.command()
@click.argument("suite")
def info(suite: str) -> None:
    """What a suite holds, where to get it, how it must lie on disk. SUITE is a name or a TOML file."""
    from ..suites import open_suite

    found = open_suite(suite)
    for key in ("name", "title", "url", "get", "root", "citation", "licence", "note"):
        if value := getattr(found, key):
            _echo(f"{key:<9} {value}")
    for archive in found.archives:
        _echo(f"{'archive':<9} {archive.file}  md5 {archive.md5}")
    for subset in found.subsets:
        click.echo()
        _echo(f"{subset.name}  {subset.title}" + (f" ({subset.family})" if subset.family else ""))
        if subset.folder != (".",):
            _echo(f"  in    {' or '.join(subset.folder)}")
        for word, patterns in (("real", subset.real), ("fake", subset.fake)):
            n = subset.count.get(word)
            _echo(f"  {word}  {', '.join(patterns) or '(none)'}" + (f"  {n:,} images" if n else ""))


@command.command()
@click.argument("suite")
@click.argument("root", type=PATH)
@click.option("--subset", "subsets", multiple=True, metavar="NAME", help="Only this subset; repeatable.")
@click.option("--checksums", is_flag=True, help="Read every image and give each subset's digest; check archives too.")
def check(suite: str, root: Path, subsets: tuple[str, ...], checksums: bool) -> int:
    """Say whether the folder ROOT holds a suite as it was published. Exit code 2 if it does not."""
    from ..suites import open_suite, verify

    found = open_suite(suite)
    wrong = 0
    for result in found.check(root, only=subsets):
        lines, digest = result.problems(), ""
        try:
            digest = _digest(result) if checksums and not result.found.problems else ""
        except InputError as error:  # of one file: the other subsets get their lines
            lines.append(str(error))
        if digest and result.subset.sha256 not in {"", digest}:
            lines.append(f"{result.subset.name}: other images; expected the digest {result.subset.sha256}")
        counts = ", ".join(f"{n:,} {word}" for word, n in result.images.items())
        _echo(f"{'wrong' if lines else 'ok':<6} {result.subset.name:<24} {counts}".rstrip())
        for line in [f"digest {digest}"] * bool(digest) + lines:
            _echo(f"       {line}")
        wrong += bool(lines)
    for archive in found.archives if checksums else ():
        same = verify(archive, root)
        _echo(f"{'not there' if same is None else 'ok' if same else 'wrong':<6} {archive.file}")
        wrong += same is False
    if wrong:
        _echo(f"expected: {found.root}. From {found.url}: {found.get}", err=True)
    return USAGE if wrong else DONE


def _echo(text: str, *, err: bool = False) -> None:
    """A line; a suite of the user's own may be a stranger's."""
    from ..writers import printable_lines

    click.echo(printable_lines(text), err=err)


def _digest(result: Check) -> str:
    from ..suites import fingerprint

    return fingerprint(result.subset.samples(result.found))
