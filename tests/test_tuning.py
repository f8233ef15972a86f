"""What was measured is used, on this machine and for this encoder, where the user gives nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import encoded, picture
from univfd import tuning
from univfd.backbones.toy import ToyBackbone
from univfd.detector import Detector
from univfd.storage import write_json
from univfd.tuning import Work, candidates, tune, tuned, tuned_for
from univfd.types import Verdict


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_candidates_use_every_cpu_and_begin_with_the_default() -> None:
    for processors in (1, 2, 3, 8):
        works = candidates(processors)
        assert works[0] == Work(processors, 1, tuning.default_batch(), processors)
        assert all((w.threads or 0) * w.streams == processors for w in works)
        assert {w.streams for w in works} >= {1, processors}
    assert {w.streams for w in candidates(8, several_streams=False)} == {1}


def test_the_fastest_is_taken_where_it_is_worth_it(
    toy_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_detector.save(tmp_path / "toy")
    monkeypatch.setattr(tuning, "cpus", lambda: 4)
    rates = {1: 10.0, 2: 10.1, 4: 10.2}
    monkeypatch.setattr(tuning, "_seconds", lambda detector, pictures, work: len(pictures) / rates[work.streams])
    assert tune(tmp_path / "toy", images=3, rounds=1)[0].work.streams == 1  # two percent are noise
    assert tuned_for("toy").streams == 1
    rates[4] = 12.0
    assert tune(tmp_path / "toy", images=3, rounds=1)[0].work.streams == 4
    assert tuned_for("toy") == tuned("toy", "") == candidates(4)[-2]
    assert tuned_for("toy", "openvino") == Work()
    assert tuned_for("timm:something") == Work()
    monkeypatch.setattr(tuning, "fingerprint", lambda: "another machine")
    assert tuned_for("toy") == Work()


def test_what_is_given_by_hand_comes_first() -> None:
    measured = Work(threads=1, streams=4, batch_size=8, workers=4)
    assert measured.by_hand(None, None, None) == measured
    assert measured.by_hand(None, 16, None) == Work(1, 4, 16, 4)
    assert measured.by_hand(4, None, 2) == Work(4, 1, 8, 2)  # threads are those of one stream


def test_a_damaged_record_is_a_remark(own_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tuning._place("toy", "", "cpu")
    place.parent.mkdir(parents=True)
    place.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert tuned_for("toy") == Work()
    assert "run 'univfd tune' again" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [{"threads": "x"}, {"threads": 1.5}, {"streams": 0}, {"streams": None}, {"workers": True}, {"batch_size": -1}],
)
def test_wrong_values_in_a_record_are_a_remark_too(
    wrong: dict[str, object], own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tuning._place("toy", "", "cpu")
    place.parent.mkdir(parents=True)
    for work, found in (({"threads": 2}, Work(threads=2)), ({"threads": 2} | wrong, Work())):
        write_json(place, tuning.KIND, tuning.SCHEMA, {"work": work})
        assert tuned_for("toy") == found
    assert "expected a whole number of at least 1" in caplog.text


def test_rows_do_not_depend_on_streams(toy_detector: Detector) -> None:
    data = [encoded(picture(i, 240, 240), "PNG") if i % 5 else b"broken" for i in range(40)]
    one, many = (list(toy_detector.detect(data, batch_size=3, streams=s)) for s in (1, 4))
    assert [type(r) for r in one] == [type(r) for r in many]
    scores = [[r.score for r in rows if isinstance(r, Verdict)] for rows in (one, many)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-12)
    assert [r.sha256 for r in one if isinstance(r, Verdict)] == [r.sha256 for r in many if isinstance(r, Verdict)]


@pytest.mark.parametrize(("engine", "streams"), [("cpu", {1, 2, 4}), ("torch", {1})])
def test_several_streams_are_measured_where_the_opened_encoder_takes_them(
    toy_detector: Detector, engine: str, streams: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = ToyBackbone(replace(toy_detector.backbone.entry, engine=engine), ("proj",), 1, None)
    monkeypatch.setattr(tuning, "load", lambda *_, **__: SimpleNamespace(backbone=backbone))
    monkeypatch.setattr(tuning, "cpus", lambda: 4)
    monkeypatch.setattr(tuning, "_seconds", lambda detector, pictures, work: 1.0)
    assert {m.work.streams for m in tune("any", images=1, rounds=1)} == streams


@pytest.mark.parametrize(("engine", "several"), [("cpu", True), ("cpu-int8", True), ("openvino", False)])
def test_engines_that_any_thread_may_call_are_tried_with_several_streams(
    engine: str, several: bool, toy_detector: Detector
) -> None:
    backbone = ToyBackbone(toy_detector.backbone.entry, ("proj",), 1, None)
    backbone.engine, backbone.parity = engine, None  # type: ignore[attr-defined]
    assert tuning._takes_several(backbone) == several
