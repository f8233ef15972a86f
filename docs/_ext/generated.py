"""The pages of the reference that come out of the code: commands, Python names, names to choose from, errors, HTTP.

`pages` knows nothing of Sphinx, so that a test can look at them. As an extension it writes them into `docs/generated`
before Sphinx reads any page.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

import univfd
from univfd import catalogue, cli, conditions, detector_folder, engines, errors, perturbations, registry, suites, views

FOLDER = "generated"
DOCS = Path(__file__).parents[1]
PACKAGE = Path(univfd.__file__).parent

MODULES = {
    "univfd.errors": "",
    "univfd.datasets": "open_dataset",
    "univfd.building": "build_bank, assemble",
    "univfd.heatmap": "heat_map, HeatMap",
    "univfd.provenance": "read_provenance, Provenance, Finding, ProvenanceReader",
    "univfd.audit": "audit, Audit",
    "univfd.matching": "write_matched, Encoder",
    "univfd.store": "BankStore, Snapshot, Edit, Rows",
    "univfd.index": "open_index, choose, NeighborIndex, IndexedBank, LanceRows, Where",
    "univfd.backbones": "Backbone, PatchBackbone, EngineBackbone",
    "univfd.classifiers": "Classifier",
    "univfd.classifiers.ridge": "RidgeProbe",
    "univfd.patch_probe": "fit_patch_probe, PatchProbe",
    "univfd.metrics": "",
    "univfd.study.experiment": "Experiment, Result",
}
"""Modules that the pages speak of, beside `univfd` itself, and what of each is for users (empty: all)."""

KINDS = {
    "backbones": ("Engines of encoders", "what computes an encoder's graph; an encoder's entry names one"),
    "recipes": ("Recipes", "how a published file of weights becomes a graph"),
    "classifiers": ("Classifiers", "`univfd fit --classifier NAME`"),
    "datasets": ("Readers of data sets", "chosen by what DATA is; see [data sets](../datasets.md)"),
    "writers": (
        "Output formats",
        "`univfd detect -o FILE`, by the ending, or `--json`, `--jsonl`, `--csv`, `--parquet`",
    ),
    "experiments": ("Experiments", "`univfd study NAME`; see [the study](../study.md)"),
    "index": ("Indexes of banks", "search in large banks; see [banks of any size](../scaling-bank.md)"),
}


def pages() -> dict[str, str]:
    """Path below `docs/generated` -> Markdown; reStructuredText where a directive of Sphinx makes the whole page."""
    made = {"python.rst": python_page(), "names.md": names_page(), "errors.md": errors_page(), "http.md": http_page()}
    root = click.Context(cli.group, info_name="univfd")
    names = cli.group.list_commands(root)
    made["more.md"] = more_page()
    made["commands.md"] = commands_page(root, names)
    made |= {f"commands/{name}.rst": command_page(name) for name in names}
    return {path: text.rstrip() + "\n" for path, text in made.items()}


def more_page() -> str:
    """Pages that `docs/index.md` does not list yet, so that none is out of reach."""
    listed = set((DOCS / "index.md").read_text("utf-8").splitlines())
    others = sorted(file.stem for file in DOCS.glob("*.md") if file.stem not in listed | {"index"})
    toctree = ["```{toctree}", *(f"../{name}" for name in others), "```"]
    return "\n".join(["# More pages", "", *(toctree if others else ["All pages are in the table of contents."])])


def commands_page(root: click.Context, names: Iterable[str]) -> str:
    """All commands, each with its first sentence, and the options that stand before any of them."""
    lines = ["# Commands", "", (cli.__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    for name in names:
        command = cli.group.get_command(root, name)
        assert command is not None
        lines.append(f"- [`univfd {name}`](commands/{name}.rst): {first(command.help)}")
    toctree = ["```{toctree}", ":hidden:", *(f"commands/{name}" for name in names), "```"]
    return "\n".join(
        [*lines, "", "```{eval-rst}", *_rst(".. click:: univfd.cli:group", ":prog: univfd"), "```", *toctree]
    )


def command_page(name: str) -> str:
    """One command with its subcommands, as `--help` has them."""
    return "\n".join(_rst(f".. click:: univfd.cli.{name}:command", f":prog: univfd {name}", ":nested: full"))


def python_page() -> str:
    """Everything of `univfd.__all__`, then what the other pages use."""
    lines = ["Python", "======", ""]
    lines += ["``import univfd`` loads next to nothing; each name is loaded when it is first used.", ""]
    for name in univfd.__all__:
        if not name.startswith("_"):
            kind = "autoclass" if inspect.isclass(getattr(univfd, name)) else "autofunction"
            members = [":members:"] if kind == "autoclass" else []
            lines += [*_title(f"univfd.{name}"), *_rst(f".. {kind}:: univfd.{name}", *members), ""]
    for module, members in MODULES.items():
        lines += [*_title(module), *_rst(f".. automodule:: {module}", f":members: {members}".rstrip()), ""]
    return "\n".join(lines)


def names_page() -> str:
    """What may stand wherever a command or a function asks for a name."""
    parts = [
        "# Names\n\nWhat may stand where a command or a function asks for a name. A wrong name is answered with the "
        "nearest right ones. Other packages may add to the kinds that are files of a folder: [adding to UnivFD]"
        "(../contributing.md).",
        _section("Detectors", "`--detector NAME`, `univfd.load(NAME)`; a folder does as well", _detectors()),
        _section("Encoders", "`--backbone NAME`; see [encoders](../backbones.md)", _encoders()),
        _section("Layers", "`--tap NAME`, of an encoder", [
            ("proj", "the projected embedding: the paper's feature"),
            ("cls.N", "the class token after block N, counted from 1"),
            ("mean.N", "the mean of the patch tokens after block N"),
        ]),
        _section("Views", "`--view NAME`: how a picture becomes crops", _views()),
        _section("Perturbations", "`--perturb NAME:VALUE`, joined by `+`; `clean` changes nothing", _perturbations()),
        _section("Engines", "`--engine NAME`, `UNIVFD_ENGINE`; see [speed and engines](../performance.md)", _engines()),
        _section("Suites", "`univfd suites info NAME`; see [data sets](../datasets.md#suites)", _suites()),
        _section("Degradations", "codes of the reasons that void a promise (`reason_codes` of a row)",
                 [(code, _CONDITIONS[code]) for code in conditions.CODES]),
    ]  # fmt: skip
    for kind in registry.KINDS:
        title, use = KINDS.get(kind, (kind.capitalize(), "see [adding to UnivFD](../contributing.md)"))
        parts.append(_section(title, use, [(name, _file_says(kind, name)) for name in registry.names(kind)]))
    return "\n\n".join(parts)


def errors_page() -> str:
    """The tree, and of every error its code, what it means, and how it ends a command or a request."""
    from univfd.server.problems import ANSWERS

    tree = (errors.__doc__ or "").partition("::\n\n")[2]
    rows = [
        (kind.__name__, f"`{kind.code}`", first(kind.__doc__), str(exit_code(kind)), str(answer.status),
         answer.what_to_do)
        for kind, answer in ANSWERS.items()
    ]  # fmt: skip
    return "\n".join([
        "# Errors", "",
        "Every error that UnivFD raises on purpose says what was got, what was expected and what to do. One that is "
        "about a single image does not end a run: it becomes a row with `status` `failed` and this code in `error`, "
        "and the command ends with 3.", "",
        "```text", tree.rstrip(), "```", "",
        *_table(("error", "code", "means", "ends a command with", "HTTP status", "what a caller can do"), rows),
    ])  # fmt: skip


def exit_code(kind: type[errors.UnivFDError]) -> int:
    """How the command line ends on an error of this class; one about an image is a row."""
    if issubclass(kind, errors.InputError):
        return cli.UNREADABLE
    return cli.WEIGHTS if issubclass(kind, errors.WeightsError) else cli.USAGE


def http_page() -> str:
    """Every address with its parameters and answers."""
    schema, lines = _application().openapi(), ["# HTTP", ""]
    lines += [
        schema["info"]["description"], "",
        "[The service](../server.md) says how to use it; {download}`openapi.json <../openapi.json>` is this page for "
        "programs.", "",
    ]  # fmt: skip
    for method, path, words in http_routes():
        lines += [f"## {method} {path}", "", words, ""]
        described = schema["paths"].get(path, {}).get(method.lower(), {})
        options = [
            (f"`{p['name']}`", _type_of(p["schema"]), p.get("description", "")) for p in described.get("parameters", [])
        ]
        if options:
            lines += [*_table(("option", "value", "means"), options), ""]
        answers = [(status, said["description"]) for status, said in sorted(described.get("responses", {}).items())]
        if answers:
            lines += [*_table(("status", "when"), answers), ""]
    return "\n".join(lines)


def http_routes() -> Iterator[tuple[str, str, str]]:
    """Method, address and first sentence of each route that the service has."""
    for route in _flat(_application().routes):
        for method in sorted(set(route.methods) - {"HEAD"}):
            words = {"/openapi.json": "This description, for programs."}.get(route.path) or inspect.getdoc(
                route.endpoint
            )
            yield method, route.path, first(words)


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from _flat(route.original_router.routes)
        else:
            yield route


def _application() -> Any:
    from univfd.server.app import create_app

    return create_app()


def first(text: str | None) -> str:
    """The first sentence or paragraph of a docstring, as one line of Markdown."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return re.sub(r"(?<!`)\|", r"\\|", paragraph)


_CONDITIONS = {
    "tiny": "so small that hardly anything is left to see",
    "small": "smaller than the images that the promise is about",
    "flat": "almost all of it is one colour",
    "text": "a page of text, a drawing of lines or a screenshot",
    "recompressed": "heavily compressed, as the JPEG tables or the blocks say",
    "upscaled": "enlarged",
}


def _detectors() -> list[tuple[str, str]]:
    return [(name, _of_detector(name)) for name in detector_folder.shipped()]


def _of_detector(name: str) -> str:
    manifest = detector_folder.read_manifest(detector_folder.locate(name))
    space = manifest["space"]
    return f"classifier `{manifest['classifier']['name']}` on `{space['backbone']}`, {', '.join(space['taps'])}"


def _encoders() -> list[tuple[str, str]]:
    entries = [catalogue.entry(name) for name in catalogue.names()]
    return [(entry.name, f"{entry.title} ({entry.licence})") for entry in entries]


def _views() -> list[tuple[str, str]]:
    grid = [("grid-N", "N x N crops beside each other over the whole picture, N from 2 to 8; their mean counts")]
    return [(name, first(found.cut.__doc__)) for name, found in views._VIEWS.items()] + grid


def _perturbations() -> list[tuple[str, str]]:
    rows = [("clean", "nothing is changed")]
    for name, (function, high, whole) in perturbations._PERTURBATIONS.items():
        values = f"{'a whole number' if whole else 'a number'} above 0" + (f", at most {high:g}" if high < 1e9 else "")
        rows.append((name, f"{first(function.__doc__)} Value: {values}."))
    return rows


def _engines() -> list[tuple[str, str]]:
    rows = [(engine.name, engine.install) for engine in engines.ENGINES.values()]
    return [*rows, (engines.AUTO, "the fastest of those that are here and compute the right vectors")]


def _suites() -> list[tuple[str, str]]:
    opened = [suites.open_suite(name) for name in suites.names()]
    return [(suite.name, suite.title) for suite in opened]


def _file_says(kind: str, name: str) -> str:
    """First words of the file, which is not imported: it may need an extra."""
    file = PACKAGE / kind / f"{name.replace('-', '_')}.py"
    return first(ast.get_docstring(ast.parse(file.read_text("utf-8"))))


def _section(title: str, use: str, rows: Iterable[tuple[str, str]]) -> str:
    table = _table(("name", "is"), [(f"`{name}`", words) for name, words in rows])
    return "\n".join([f"## {title}", "", f"{use}.", "", *table])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _type_of(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    return ", ".join([schema.get("type", "text"), *limits])


def _title(text: str) -> list[str]:
    return [text, "-" * len(text), ""]


def _rst(directive: str, *options: str) -> list[str]:
    return [directive, *(f"   {option}" for option in options), ""]


def write(folder: Path) -> None:
    """Write the pages that have changed, and remove those of what is no more."""
    made = {folder / path: text for path, text in pages().items()}
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    for old in {*folder.rglob("*.md"), *folder.rglob("*.rst")} - set(made):
        old.unlink()


def fill(group: click.Group, context: click.Context) -> None:
    """Put commands that a group only finds by name among those that it holds: sphinx-click looks there alone."""
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if found is not None:
            group.commands[name] = found
        if isinstance(found, click.Group):
            fill(found, click.Context(found, parent=context, info_name=name))


def setup(app: Any) -> dict[str, bool]:
    """As a Sphinx extension."""
    fill(cli.group, click.Context(cli.group, info_name="univfd"))
    app.connect("config-inited", lambda app, config: write(Path(app.srcdir) / FOLDER))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
