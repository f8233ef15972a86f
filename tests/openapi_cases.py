"""Requests made up from the OpenAPI file, sent to a real process; what it answers must be what the file says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest import SkipTest

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from conftest import encoded, picture
from mutations import mutated
from serving import Server

FILE = Path(__file__).parent.parent / "docs" / "openapi.json"
QUIET = list(HealthCheck)
NOT_TOLD = [schemathesis.checks.positive_data_acceptance]  # whether bytes are an image is no matter of the file


def files() -> list[bytes]:
    """Whole pictures, and a damaged or hostile one of each kind."""
    whole = [encoded(picture(0, 96, 80), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    return whole + [data for _, data in mutated(whole, 36, seed=2)]


def ask_all(server: Server, examples: int, *, start: int = 0) -> dict[str, Counter[int]]:
    """Ask every operation; a server error or an answer that the file does not describe raises.

    Args:
        server: what is asked.
        examples: requests of each operation, half of them against the file's rules.
        start: of the generator of chance.

    Returns:
        For each operation, how often each status was answered.
    """
    pictures = st.one_of(st.sampled_from(files()), st.binary(max_size=400))
    schemathesis.openapi.media_type("application/octet-stream", pictures)
    schemathesis.openapi.format("binary", pictures)
    schema = schemathesis.openapi.from_path(FILE)
    rejecting = schema.config.checks.negative_data_rejection
    rejecting.expected_statuses = [*rejecting.expected_statuses, "413"]  # too many bytes are noticed before their form
    answers: dict[str, Counter[int]] = {}
    for operation in (found.ok() for found in schema.get_all_operations()):
        seen = answers.setdefault(operation.label, Counter())
        for mode in GenerationMode:
            try:
                _ask(server, operation.as_strategy(generation_mode=mode), max(1, examples // 2), seen, start)
            except (SkipTest, Unsatisfiable):
                if mode is GenerationMode.POSITIVE or operation.label.startswith("POST"):
                    raise  # only an operation without options has nothing that could be wrong
    return answers


def _ask(server: Server, cases: Any, examples: int, seen: Counter[int], start: int) -> None:
    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(cases)
    def one(case: Any) -> None:
        answer = case.call_and_validate(base_url=server.url, timeout=60, excluded_checks=NOT_TOLD)
        seen[answer.status_code] += 1

    one()
