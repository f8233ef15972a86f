"""The example plug-in, built and installed as users do, and used through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import univfd
from conftest import toy_samples

EXAMPLE = Path(__file__).parent.parent / "examples" / "univfd-plugin-example"
SOURCES = Path(univfd.__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example in it, built by its own build system."""
    target = tmp_path_factory.mktemp("plugin")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index",
               "--no-build-isolation", "--target", target, EXAMPLE]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return target


def univfd_with(target: Path, *args: object, code: int = 0) -> str:
    paths = os.pathsep.join(map(str, (target, SOURCES)))
    result = subprocess.run(
        [sys.executable, "-m", "univfd", *map(str, args)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


def test_its_classifier_and_its_output(installed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i, sample in enumerate(toy_samples()[:12]):
        folder = data / sample.label.word / (sample.generator or sample.source)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(sample.ref.source)
    options = ("--backbone", "toy", "--uncalibrated", "--classifier", "centroid")
    univfd_with(installed, "fit", data, "-o", tmp_path / "mine", *options, "--set", "shift=0.5")
    record = (tmp_path / "mine" / "detector.json").read_text()
    assert '"name": "centroid"' in record
    assert '"shift": 0.5' in record
    (data / "real" / "a|b.png").write_bytes(b"no image")
    univfd_with(installed, "detect", data, "--detector", tmp_path / "mine", "-o", tmp_path / "out.md", code=3)
    lines = (tmp_path / "out.md").read_text().splitlines()
    assert len(lines) == 2 + 13
    assert sum("| fake |" in line for line in lines) == 12  # the shift is more than any score
    assert sum(r"a\|b.png | not-an-image | |" in " ".join(line.split()) for line in lines) == 1
    again = ("detect", data, "--detector", tmp_path / "mine", "-o", tmp_path / "out.md", "--resume")
    said = univfd_with(installed, *again, code=2)
    assert "a Markdown table cannot be resumed; use .jsonl" in said
    assert "Traceback" not in said
    assert [p.name for p in tmp_path.glob("*out.md*")] == ["out.md"]


def test_its_errors_are_the_users(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    said = univfd_with(
        installed, "fit", tmp_path / "x", "-o", tmp_path / "m", "--classifier", "centroid", "--set", "k=1", code=2
    )
    assert "classifier 'centroid' with {'k': 1}" in said
    assert (
        "did you mean"
        in univfd_with(installed, "fit", tmp_path / "x", "-o", "m", "--classifier", "centriod", code=2).lower()
    )
    assert "end it in one of" in univfd_with(installed, "detect", "x.png", "-o", tmp_path / "x.mdd", code=2)
