"""What the container file and the systemd unit start, started here without either."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import encoded, picture
from serving import serving
from univfd.detector import Detector
from univfd.server import keys
from univfd.server.limits import Limits
from univfd.server.uploads import GRACE_SECONDS

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
UNIT = (ROOT / "deploy" / "univfd.service").read_text("utf-8")


def arguments(command: list[str], key_file: Path) -> list[str]:
    """Of `univfd serve`, at a port of the test's and with its file of keys."""
    values = command[command.index("serve") + 1 :]
    values[values.index("--key-file") + 1] = str(key_file)
    at = values.index("--port")
    assert values[at + 1] == "8000"
    return values[:at] + values[at + 2 :]


@pytest.mark.parametrize("where", ["container", "unit"])
def test_the_entry_command_serves_with_keys(where: str, tmp_path: Path, toy_detector: Detector) -> None:
    toy_detector.save(tmp_path / "toy")
    key = keys.generate(tmp_path / "keys", "test")
    if where == "container":
        assert json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1]) == ["univfd"]  # type: ignore[index]
        command = json.loads(re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]
    else:
        command = re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[1].split()  # type: ignore[index]
    with serving(*arguments(command, tmp_path / "keys"), "--detector", tmp_path / "toy") as server:
        image = encoded(picture(0))
        assert server.ask("POST", "/v1/detect", image)[0] == 401
        assert server.ask("POST", "/v1/detect", image, {"Authorization": f"Bearer {key}"})[0] == 200
        check = json.loads(re.search(r"HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]
        here = [sys.executable, *check[1:2], check[2].replace(":8000", f":{server.port}")]
        assert subprocess.run(here, check=False).returncode == 0
        assert server.stop() == 0
        assert subprocess.run(here, check=False, capture_output=True).returncode != 0


def test_the_container_is_confined() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001$", last, re.MULTILINE)
    assert "read_only: true" in COMPOSE
    assert "no-new-privileges:true" in COMPOSE
    assert "DynamicUser=yes" in UNIT


def test_the_linter_of_container_files_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run([linter, "-"], input="FROM python\n", capture_output=True, text=True, check=False)
    assert "DL3006" in bad.stdout


def test_its_extras_are_those_that_a_plain_environment_is_checked_with() -> None:
    extras = re.search(r"pip install --no-cache-dir \"\.\[(.*)\]\"", DOCKERFILE)[1]  # type: ignore[index]
    assert f"[{extras}]" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert set(extras.split(",")) <= set(
        tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    )


def test_it_is_given_the_time_to_finish() -> None:
    longest = 2 * Limits().deadline + GRACE_SECONDS
    assert int(re.search(r"TimeoutStopSec=(\d+)", UNIT)[1]) > longest  # type: ignore[index]
    assert int(re.search(r"stop_grace_period: (\d+)s", COMPOSE)[1]) > longest  # type: ignore[index]


def test_it_decides_with_the_rows_of_a_bank_store(tmp_path: Path, toy_detector: Detector) -> None:
    toy_detector.save(tmp_path / "toy")
    image = tmp_path / "a.jpg"
    image.write_bytes(encoded(picture(0)))

    def univfd(*command: object) -> bytes:
        return subprocess.run(
            [sys.executable, "-m", "univfd", *map(str, command)], capture_output=True, check=True
        ).stdout

    univfd("bank", "import", tmp_path / "store", tmp_path / "toy" / "bank")
    univfd("bank", "add", tmp_path / "store", image, "--label", "fake", "--generator", "new")
    options = ("--detector", tmp_path / "toy", "--bank", tmp_path / "store")
    here = json.loads(univfd("detect", image, "--jsonl", *options))
    with serving(*options) as server:
        there = server.json("POST", "/v1/detect", image.read_bytes())[1]
    assert there["detector"] == here["detector"] != toy_detector.identity
    assert there["nearest_fake"][0]["generator"] == here["nearest_fake"][0]["generator"] == "new"
