"""The documentation against the code: nothing is undocumented, nothing that it names is missing, no link is dead."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import univfd
from documents import DOCS, ROOT, anchors, called, commands, examples, links, matches, pages, shell_lines, transcript
from univfd import cli, errors, perturbations, registry

sys.path.insert(0, str(DOCS / "_ext"))

import generated

PAGES = pages()
COMMANDS = [path for path, _ in commands(cli.group, ()) if path]
QUICK = sorted((DOCS / "explanation").glob("*.md"))


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return generated.pages()


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_link_is_dead(page: Path, reference: dict[str, str]) -> None:
    for path, anchor in links(page):
        if path.startswith("generated/") or "/generated/" in path:
            assert re.sub(r".*generated/", "", path) in reference, f"{named(page)} leads to {path}, which is not made"
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{named(page)} leads to {path}, which is not there"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{named(page)} leads to {path}#{anchor}, a heading that is not there"


def test_no_link_of_the_reference_is_dead(reference: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "page.md").touch()
    for name, text in reference.items():
        (tmp_path / "page.md").write_text(text, "utf-8")
        for path, anchor in links(tmp_path / "page.md"):
            if path not in reference:
                target = (DOCS / "generated" / name).parent / path
                assert target.resolve().is_file(), f"{name} leads to {path}"
                assert not anchor or anchor in anchors(target.resolve()), f"{name} leads to {path}#{anchor}"


def test_git_passes_over_what_the_tutorials_leave_in_a_clone() -> None:
    ignored = set((ROOT / ".gitignore").read_text("utf-8").split())
    made = r"(?: -o| --output| --save| --match|practice\.py pictures) ([\w.]+)"
    lines = [line for page in (DOCS / "tutorials").glob("*.md") for line in shell_lines(page)]
    names = {name for line in lines for name in re.findall(made, line)}
    assert {"pictures", "practice", "study", "sink", "probe", "run"} <= names
    left = {name for name in names if not {f"/{name}", f"/{name}/"} & ignored}
    assert not left, f"git sees what a tutorial makes: {', '.join(sorted(left))}"


def test_every_page_is_in_the_table_of_contents_once(reference: dict[str, str]) -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert len(listed) == len(set(listed))
    for line in listed:
        made = line.removeprefix("generated/")
        assert {f"{made}.md", f"{made}.rst"} & set(reference) or (DOCS / f"{line}.md").is_file(), line
    more = re.findall(r"^\.\./(.*)$", reference["more.md"], re.MULTILINE)
    written = {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES if p.is_relative_to(DOCS)}
    assert written - {"index"} <= {*listed, *more}, "see docs/index.md"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_on_a_page_that_somebody_wrote(path: tuple[str, ...]) -> None:
    """And not only in the reference: in code that runs it, or in a table of the page about its group."""
    told = any(tuple(found[: len(path)]) == path for p in PAGES for line in shell_lines(p) for found, _ in called(line))
    grouped = len(path) > 1 and any(
        re.search(rf"`[^`]*\b{re.escape(path[-1])}\b[^`]*`", p.read_text("utf-8")) for p in PAGES if path[0] in p.stem
    )
    assert told or grouped, f"no page says what `univfd {' '.join(path)}` is for"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_name_commands_and_options_that_exist(page: Path) -> None:
    for line in shell_lines(page):
        for path, options in called(line):
            assert path, f"{named(page)}: no such command: {line}"
            command: click.Command = cli.group
            known = {"--help", "-h"} | options_of(command)
            for word in path:
                assert isinstance(command, click.Group)
                inner = command.get_command(click.Context(command), word)
                assert inner is not None
                command = inner
                known |= options_of(command)
            assert set(options) <= known, f"{named(page)}: {line}"


def options_of(command: click.Command) -> set[str]:
    return {text for option in command.params for text in (*option.opts, *option.secondary_opts)}


def test_the_reference_has_every_command(reference: dict[str, str]) -> None:
    for path in COMMANDS:
        if len(path) == 1:
            assert f"(commands/{path[0]}.rst)" in reference["commands.md"]
            assert f".. click:: univfd.cli.{path[0]}:command" in reference[f"commands/{path[0]}.rst"]


def test_the_reference_has_every_error(reference: dict[str, str]) -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.UnivFDError)]
    for kind in kinds:
        assert re.search(rf"^\| {kind.__name__} \| `{kind.code}` \| \S", reference["errors.md"], re.MULTILINE), kind
    assert len(kinds) > 30


def test_the_reference_has_every_address_of_the_service(reference: dict[str, str]) -> None:
    """Read out of the source, not out of the application that the page is made from."""
    source = (ROOT / "src" / "univfd" / "server" / "routes.py").read_text("utf-8")
    told = [(n.func.attr, n.args[0].value) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)
            and isinstance(n.func, ast.Attribute) and n.func.attr in {"get", "post"} and n.args
            and isinstance(n.args[0], ast.Constant) and str(n.args[0].value).startswith("/")]  # fmt: skip
    assert len(told) >= 9
    by_hand = (DOCS / "server.md").read_text("utf-8")
    for method, path in told:
        assert f"\n## {method.upper()} {path}\n" in reference["http.md"]
        assert f"{method.upper()} {path}" in by_hand, f"docs/server.md does not have {path}"
    rows = re.findall(r"^\| `\w+` \|.*$", reference["http.md"], re.MULTILINE)
    assert len(rows) > 10
    assert not [row for row in rows if row.endswith("|  |")], "every option of an address says what it means"


def test_the_reference_has_every_name(reference: dict[str, str]) -> None:
    text = reference["names.md"]
    for kind in registry.KINDS:
        part = text.partition(f"## {generated.KINDS[kind][0]}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `([\w-]+)` \| \S", part, re.MULTILINE) == registry.names(kind)
    folder = ROOT / "src" / "univfd"
    for listed in ("catalogue/*.toml", "suites/*.toml", "detectors/*"):
        for file in folder.glob(listed):
            assert f"| `{file.stem}` |" in text, file
    for module in ("views", "perturbations"):
        tree = ast.parse((folder / f"{module}.py").read_text("utf-8"))
        marked = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.decorator_list]
        assert marked
        assert all(re.search(rf"^\| `{name}` \| \S", text, re.MULTILINE) for name in marked)


def test_the_reference_has_every_public_name(reference: dict[str, str]) -> None:
    for name in set(univfd.__all__) - {"__version__"}:
        assert f":: univfd.{name}\n" in reference["python.rst"]


@pytest.mark.parametrize("page", QUICK, ids=named)
def test_examples_on_pages_of_explanation(page: Path) -> None:
    for example in examples(page):
        example.evaluate()


def test_a_transcript_is_compared_with_what_is_printed() -> None:
    (first, said), (second, more) = transcript("$ a \\\n  b\n1\n2\n$ c\n")
    assert (first, said, second, more) == ("a \\\n  b", ["1", "2"], "c", [])
    assert matches(["score 0.958", "..."], ["score 0.957", "x", "y"])
    assert matches(["a ... c", "...", "end"], ["a b c", "1", "2", "end"])
    assert not matches(["score 0.958"], ["score 0.955"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["...", "end"], ["1", "2"])
    assert matches([], ["whatever it prints"])


def test_the_contributors_examples_run(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder as a package of somebody else: its file, the entry point, the folder with the entry, as written."""
    page = DOCS / "contributing.md"
    encoder, *others = examples(page)
    assert photo.parent == tmp_path
    entry, entry_point = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "colours.py").write_text(str(encoder.parsed))
    (tmp_path / "colours-folder").mkdir()
    (tmp_path / "colours-folder" / "backbone.toml").write_text(entry)
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    names = re.sub(r'\[project.entry-points."(.*)"\]', r"[\1]", entry_point).replace('"', "")
    (info / "entry_points.txt").write_text(names)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(perturbations, "_PERTURBATIONS", dict(perturbations._PERTURBATIONS))
    for example in (encoder, *others):
        example.evaluate()
    assert capsys.readouterr().out == "(1, 64) 1.0\nTrue\n"
    made = encoder.document.namespace
    X, y = np.vstack([np.zeros((20, 3)), np.ones((20, 3))]).astype(np.float32), np.repeat([0, 1], 20)
    assert (made["Centroid"]().fit(X, y).predict(X) == y).all()
    counted = CliRunner().invoke(made["command"], ["photo.jpg", "colours-folder"])
    assert counted.output == "1\n", "a photo, and a folder without images"


VERSIONS = ("as they are", "same size", "JPEG 85", "web copy")
TABLES = (DOCS / "accuracy.md").read_text("utf-8")  # a build writes it anew, and not the pages that repeat some of it


def explained(page: str) -> str:
    """A page of `explanation/` on one line."""
    return re.sub(r"\s+", " ", (DOCS / "explanation" / f"{page}.md").read_text("utf-8"))


def figures(method: str, version: str) -> tuple[float, ...]:
    """Mean AUROC, the same strict, fakes and reals called fake, unsure."""
    start = f"| `{method}` | {version} | "
    head, row = (
        next(line for line in TABLES.splitlines() if line.startswith(begin)).strip("| ").split(" | ")
        for begin in ("| method | images |", start)
    )
    cells = dict(zip(head, row, strict=True))
    names = ("mean AUROC over generators", "mean AUROC, strict", "fakes called fake", "reals called fake", "unsure")
    return tuple(float(cells[name].split()[0]) for name in names)


def column(table: str, title: str, *, least: int) -> Callable[[str], list[float]]:
    """The values of a version's column in a table of generators or sources, of those with so many images."""
    text = TABLES[TABLES.index(f"## {table}") :]
    rows = [line.strip("| ").split(" | ") for line in text[: text.index("\n## ")].splitlines() if line.startswith("| ")]
    return lambda version: [
        float(row[rows[0].index(title.format(version))].split()[0]) for row in rows[2:] if int(row[1]) >= least
    ]


@pytest.mark.parametrize("method", ["default", "fast", "neighbors"])
def test_the_readme_has_the_tables_figures(method: str) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    _, strict, fakes, reals, unsure = figures(method, "same size")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{method}`, "))
    told = [float(n) for n in re.findall(r"(?<=\| )[\d.]+(?= [%\[])", row)]
    np.testing.assert_allclose(told, [strict, 100 * fakes, 100 * reals, 100 * unsure], atol=0.51)
    assert f"| {strict:.3f} [" in row
    of = [figures("default", v) for v in VERSIONS]
    said = re.sub(r"\s+", " ", readme)
    assert f"has {of[0][1]:.3f}, through JPEG 85 alone {of[2][1]:.3f}, on web copies" in said
    assert f"it is {of[1][0]:.3f} at one size, {of[0][0]:.3f} as they are, {of[2][0]:.3f} and {of[3][0]:.3f}" in said


def test_the_explanations_have_the_tables_figures() -> None:
    promise, limits = explained("promise"), explained("limits")
    assert "found={:.2f}, false_alarms={:.3f}".format(*figures("default", "same size")[2:4]) in promise
    halves = r"the promise in ([\d.]+)%; the plain 95 % quantile of the same halves in ([\d.]+)%"
    ((broken, usual),) = re.findall(halves, TABLES)
    assert f"the promise was broken in {broken} %" in promise
    assert f"broke it in {usual} % of 200 trials" in promise
    for version in ("as they are", "web copy"):
        assert f" {100 * figures('default', version)[2]:.0f} %" in limits
    low = column("AUROC per generator held out", "`default`, {}", least=5)
    fewest = column("AUROC per generator held out", "n", least=5)
    (worst, n), (next_worst, m) = sorted(zip(low("same size"), fewest(""), strict=True))[:2]
    assert f"AUROC of {worst:.2f} (n = {n:.0f}; the next worst {next_worst:.2f}, n = {m:.0f})" in limits
    assert f"has {min(low('JPEG 85')):.2f} and {min(low('web copy')):.2f}" in limits
    high = column("False alarms per real source", "`default`, {}", least=20)
    alarms = [100 * max(high(version)) for version in ("same size", "web copy")]
    assert "has {:.0f} % false alarms at the same size".format(*alarms) in limits
    assert " and {1:.0f} % as web copies".format(*alarms) in limits
    sources = TABLES[TABLES.index("## False alarms per real source") : TABLES.index("## After processing")]
    for name, k, n in re.findall(r"\(`(\w+)`\) \| (\d+) of (\d+):", explained("ethics")):
        cells = next(line for line in sources.splitlines() if line.startswith(f"| {name} ")).split(" | ")
        assert (cells[1], cells[3].split()[0]) == (n, f"{int(k) / int(n):.3f}")
