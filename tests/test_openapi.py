"""The OpenAPI file and the tables of the documents against the code, and against what a real process answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from schemathesis.core.failures import FailureGroup

from conftest import encoded, picture
from openapi_cases import ask_all
from serving import serving
from univfd import conditions, errors
from univfd.detector import Detector
from univfd.server.app import create_app
from univfd.server.problems import ANSWERS
from univfd.server.routes import promise
from univfd.server.schema import Promise
from univfd.types import Failure

ROOT = Path(__file__).parent.parent
LIMITS = ("--max-bytes", 1, "--max-pixels", 1)


def test_every_code_is_documented() -> None:
    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    for kind, answer in ANSWERS.items():
        if kind is not errors.UnreachableError:
            assert re.search(rf"\| {answer.status} \|[^|]*`{kind.code}`", text), kind.code


def test_every_code_of_a_reason_or_note_is_documented() -> None:
    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    told = re.findall(r"^\| `([\w-]+)` \| (reason|note) \|", text, re.MULTILINE)
    reasons = {"between", *conditions.CODES, "unlike"}
    assert told == [*((c, "reason") for c in ("between", *conditions.CODES, "unlike")), *told[len(reasons) :]]
    assert {c for c, kind in told if kind == "note"} == {"first-frame", "in-bank", "upscaled"}


def test_a_promise_says_what_it_is_about(default: Detector, toy_detector: Detector) -> None:
    said = promise(default.calibration)
    assert said["max_fpr"] == default.calibration.max_fpr
    assert "nothing is promised of degraded ones" in said["about"]
    assert set(conditions.CODES) <= set(said["void_under"]) <= {*conditions.CODES, "unlike"}
    assert ("unlike" in said["void_under"]) == (said["known_within"] is not None)
    assert promise(toy_detector.calibration)["about"] == "nothing is promised"
    Promise.model_validate(said)


def test_openapi_is_current() -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))
    assert kept == json.loads(json.dumps(create_app().openapi())), "run scripts/openapi.py"


def test_openapi_documents_the_rows(toy_detector: Detector) -> None:
    from univfd.server.schema import FailureRow, VerdictRow

    (verdict,) = toy_detector.detect(encoded(picture(0)))
    names = set(verdict.to_dict())
    assert set(VerdictRow.model_fields) == names | {"promise", "provenance", "heatmap"}
    assert set(FailureRow.model_fields) == set(Failure("a", "b", "c").to_dict()) | {"provenance"}


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
