"""What a release must not get wrong and no other test sees; docs/releasing.md has the steps."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import univfd

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_version_is_written_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/univfd/_version.py"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == univfd.__version__
    assert json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))["info"]["version"] == univfd.__version__
    assert metadata.version("univfd") == univfd.__version__


def test_every_python_that_is_promised_is_allowed() -> None:
    promised = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert promised[0] == least
    assert all(tuple(map(int, p.split("."))) >= tuple(map(int, least.split("."))) for p in promised)


def test_an_sdist_has_what_its_own_files_name() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for place in included:
        assert (ROOT / place).exists(), place
    assert PROJECT["project"]["readme"] in included
    assert set(PROJECT["project"]["license-files"]) <= set(included)
    assert {"src", "tests", "docs"} <= set(included)
