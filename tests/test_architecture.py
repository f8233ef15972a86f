"""Holds the structure: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import univfd

ROOT = Path(univfd.__file__).parent

# A module imports only from lower levels (docs/architecture.md draws them).
LEVELS = [
    {"errors", "_version", "remarks", "card", "wording"},
    {"types", "registry", "palette", "plain_pickle"},
    {
        "sources",
        "views",
        "perturbations",
        "conditions",
        "downloads",
        "pipeline",
        "blas",
        "storage",
        "torchfile",
        "metrics",
        "search",
        "calibration",
        "pairing",
        "spectra",
        "projection",
        "parity",
        "machine",
        "remote_row",
    },
    {"images", "catalogue", "bank", "collection", "suites", "patch_probe", "remote", "engines"},
    {"weights", "index", "attribution", "metadata", "provenance", "detector_folder"},
    {"backbones", "recipes", "classifiers", "datasets", "writers"},
    {"embedding", "evaluation", "scan", "misses"},
    {"detector", "embeddings_file", "metadata_detector", "matching", "embedding_cache"},
    {
        "audit",
        "benchmark",
        "building",
        "calibrating",
        "cnndetection",
        "official",
        "runner",
        "selftest",
        "samples",
        "heatmap",
        "integrations",
        "training",
        "tuning",
    },
    {"distributed", "study", "report", "store", "server"},
    {"experiments"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
PLUGIN_FOLDERS = {"backbones", "recipes", "classifiers", "datasets", "writers", "experiments", "index"}


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p not in {ROOT / "__init__.py", ROOT / "__main__.py"})


def imported(path: Path, root: Path = ROOT, nodes: Iterable[ast.AST] | None = None) -> list[tuple[str, ...]]:
    """Every module of this package that a file imports, wherever in the file, as parts below `univfd`.

    Args:
        path: the file.
        root: of the package.
        nodes: look only at these.
    """
    here = path.relative_to(root).with_suffix("").parts
    package = here[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))) if nodes is None else nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            target = (*base, *(node.module or "").split(".")) if node.module else base
            names = [a.name for a in node.names]
            found += [(*target, n) for n in names] if root.joinpath(*target).is_dir() else [target]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            text = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert not (text or "").startswith("univfd"), f"{path}: imports within the package are relative"
    return [tuple(p for p in f if p) for f in found]


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker looks at."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from executed(node)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = path.relative_to(ROOT).with_suffix("").parts[0]
    assert here in LEVEL, f"{here} has no level: add it to docs/architecture.md and to this test"
    for target in imported(path):
        if not target or target[0] not in LEVEL:
            assert target[0] in {"__version__"}, f"{path}: imports {target}"
        elif target[0] != here:
            assert LEVEL[target[0]] < LEVEL[here], f"{path} (level {LEVEL[here]}) imports {'.'.join(target)}"


def module_of(target: tuple[str, ...], root: Path) -> str:
    """The module that an import of `target` runs: the file itself, or the package that has the name."""
    for parts in (target, target[:-1]):
        if root.joinpath(*parts).with_suffix(".py").is_file() or root.joinpath(*parts, "__init__.py").is_file():
            return ".".join(parts)
    raise AssertionError(f"nothing is called {'.'.join(target)}")


def import_graph(root: Path) -> dict[str, set[str]]:
    """Which modules each module imports, in a function too; types for annotations do not count.

    One thing is left out: a room's front may open a file of its own room when it is asked to (within a function).
    """
    graph: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        tree = ast.parse(path.read_text("utf-8"))
        front = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if front else parts)
        found = {module_of(target, root) for target in imported(path, root, executed(tree))}
        if front:
            at_once = {module_of(target, root) for target in imported(path, root, tree.body)}
            found = {m for m in found if m in at_once or not m.startswith(f"{name}.".lstrip("."))}
        graph[name] = found - {name}
    return graph


def test_no_module_imports_itself_by_a_roundabout_way() -> None:
    """Within a room too, where levels say nothing."""
    graph = import_graph(ROOT)
    assert len(graph) > 200
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_a_circle_within_a_room_would_be_found(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "__init__.py").touch()
    (room / "__init__.py").touch()
    (room / "one.py").write_text("def f():\n    from .two import g\n")
    (room / "two.py").write_text("from . import three\ng = 1\n")
    (room / "three.py").write_text("from ..room.one import f\n")
    with pytest.raises(graphlib.CycleError) as caught:
        list(graphlib.TopologicalSorter(import_graph(tmp_path)).static_order())
    assert set(caught.value.args[1]) == {"room.one", "room.two", "room.three"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_are_reached_through_the_registry_alone(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    for target in imported(path):
        if target and target[0] in PLUGIN_FOLDERS and target[0] != here and len(target) > 1:
            assert not (ROOT / target[0] / f"{target[1]}.py").is_file(), f"{path} imports {'.'.join(target)}"


def test_no_file_outgrows_its_concept() -> None:
    long = {p.name: n for p in modules() if (n := len(p.read_text("utf-8").splitlines())) > 420}
    assert not long


def test_no_function_outgrows_its_concept() -> None:
    """Lines of the body, without signature and docstring."""
    long = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > 40:
                    long[f"{path.name}: {node.name}"] = lines
    assert not long


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_next_to_nothing() -> None:
    loaded = run(
        "import sys, univfd; print(sorted(m for m in sys.modules if m.partition('.')[0] in "
        "{'numpy', 'PIL', 'onnx', 'onnxruntime', 'sklearn', 'scipy', 'pandas', 'torch', 'rich', 'click'}))"
    )
    assert loaded.strip() == "[]"


def test_deciding_imports_no_heavy_library(photo: Path) -> None:
    code = f"""
import sys, univfd
for verdict in univfd.load().detect({str(photo)!r}):
    assert verdict.verdict in ("fake", "real", "unsure"), verdict
heavy = {{"sklearn", "scipy", "pandas", "matplotlib", "torch", "pyarrow", "huggingface_hub", "c2pa", "defusedxml"}}
heavy |= {{"faiss", "lancedb"}}
heavy |= {{"fastapi", "uvicorn", "pydantic", "prometheus_client"}}
assert not {{"univfd.heatmap", "univfd.provenance", "univfd.store"}} & set(sys.modules)
print(sorted(heavy & {{m.partition(".")[0] for m in sys.modules}}))
"""
    assert run(code).strip() == "[]"
