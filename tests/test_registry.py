from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from univfd import errors, registry
from univfd.errors import MissingExtraError, UnivFDError, UnknownNameError


def test_names_are_the_files() -> None:
    assert registry.names("classifiers") == ["knn", "linear", "ridge", "svm"]
    assert registry.names("recipes") == [
        "clip-safetensors",
        "dequantise",
        "dinov2-safetensors",
        "onnx-as-is",
        "resnet-safetensors",
        "siglip-safetensors",
    ]
    assert {"csv", "json", "jsonl", "parquet", "text"} <= set(registry.names("writers"))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_loads(kind: str) -> None:
    for name in set(registry.names(kind)) - {"torch"}:  # the one that is an extra; tests/with_torch loads it
        found = registry.load(kind, name)
        assert callable(getattr(found, "run", found))


def test_a_plug_in_of_another_distribution(tmp_path: Path) -> None:
    """An installed package adds a classifier by an entry point alone."""
    (tmp_path / "extra_plugin.py").write_text("class Always:\n    pass\n")
    info = tmp_path / "extra_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[univfd.classifiers]\nnearly_always = extra_plugin:Always\n")
    code = (
        "from univfd import registry as r; print(r.names('classifiers'), "
        "*(r.load('classifiers', name).__name__ for name in ('nearly-always', 'nearly_always')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={"PYTHONPATH": str(tmp_path), "PATH": ""})  # fmt: skip
    assert out.stdout == "['knn', 'linear', 'nearly-always', 'ridge', 'svm'] Always Always\n"


def test_unknown_names_propose_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"no classifier is called 'linaer'\. Did you mean linear\?"):
        registry.load("classifiers", "linaer")
    with pytest.raises(UnknownNameError, match="Known: knn, linear, ridge"):
        registry.load("classifiers", "zzz")


def test_a_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith("pyarrow") or m == "univfd.writers.parquet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'univfd\[parquet\]'"):
        registry.load("writers", "parquet")


def test_the_error_tree_is_the_one_that_is_drawn() -> None:
    """Every class, its depth in the tree and its code, against the drawing in the module's docstring."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, UnivFDError)]
    assert len({c.code for c in classes}) == len(classes)
    drawn = {}
    for line in (errors.__doc__ or "").partition("::")[2].splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()
        if words:
            depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
            drawn[words[0]] = (depth, words[1])
    assert drawn == {c.__name__: (len(c.__mro__) - len(UnivFDError.__mro__), c.code) for c in classes}


def test_the_version_is_in_one_place() -> None:
    import univfd

    assert importlib.metadata.version("univfd") == univfd.__version__
