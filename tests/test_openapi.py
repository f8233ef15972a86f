"""What the OpenAPI file says against what a real process answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from schemathesis.core.failures import FailureGroup

from openapi_cases import ask_all
from serving import serving
from univfd.detector import Detector

LIMITS = ("--max-bytes", 1, "--max-pixels", 1)


@pytest.fixture(scope="module")
def toy_folder(toy_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "toy"
    toy_detector.save(folder)
    return folder


def test_no_request_makes_a_server_error_and_all_answers_are_described(toy_folder: Path, tmp_path: Path) -> None:
    with serving("--detector", toy_folder, *LIMITS, "--feedback", tmp_path / "misses") as server:
        answers = ask_all(server, 24)
        assert server.figure("univfd_images_at_work") == 0
        assert server.figure("univfd_upload_bytes") == 0
    assert len(answers) == 7
    for operation, seen in answers.items():
        assert seen[200], operation
        if operation.startswith("POST"):
            assert seen[422], operation


WRONG = """
import univfd.server.routes as r
row = r._row
r._row = lambda *given: row(*given) | {"surprise": 1}
"""


def test_an_answer_that_is_not_described_would_be_noticed(toy_folder: Path) -> None:
    with serving("--detector", toy_folder, *LIMITS, before=WRONG) as server, pytest.raises(FailureGroup) as found:
        ask_all(server, 20)
    assert "surprise" in str(found.value.exceptions)
