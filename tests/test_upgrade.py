"""Today's code reads what earlier versions wrote (`golden/make_formats.py`), and says what to do about later ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden.make_formats import samples
from univfd.bank import FeatureBank
from univfd.benchmark import run
from univfd.benchmark.figures import figures
from univfd.benchmark.rows import read_rows
from univfd.calibration import GroupPromise
from univfd.detector import load
from univfd.embeddings_file import read_embeddings
from univfd.errors import FormatError
from univfd.storage import read_json
from univfd.store import BankStore, tables
from univfd.types import Verdict

FORMATS = Path(__file__).parent / "golden" / "formats"
THEN: dict[str, Any] = json.loads((FORMATS / "expected.json").read_text())


@pytest.mark.parametrize("name", ["detector-linear", "detector-knn", "detector-ridge", "detector-wide"])
def test_a_detector_gives_the_scores_it_gave(name: str) -> None:
    detector = load(FORMATS / name)
    if name != "detector-linear":  # a parameter that came later changed its digest, not its scores
        assert detector.identity == THEN[name]["identity"]
    assert detector.calibration.data == ("" if name == "detector-wide" else "made up")
    found = list(detector.detect([s.ref for s in samples(100, 4)], neighbors=2))
    for now, then in zip(found, THEN[name]["verdicts"], strict=True):
        assert isinstance(now, Verdict)
        assert now.score == pytest.approx(then["score"], abs=1e-5)
        assert now.probability == (
            None if then["probability"] is None else pytest.approx(then["probability"], abs=1e-5)
        )
        near = [(n.row, n.generator, n.key) for n in now.nearest_fake]
        assert near == [(row, generator, key) for row, _, generator, key in then["nearest_fake"]]
        assert [n.distance for n in now.nearest_fake] == pytest.approx([n[1] for n in then["nearest_fake"]], abs=1e-6)
        if {d.code for d in now.doubts} <= {"between"}:  # what made others unsure later was not known then
            assert now.verdict == then["verdict"]


def test_the_promise_to_groups_is_kept_on_record() -> None:
    calibration = load(FORMATS / "detector-ridge").calibration
    assert calibration.groups == (GroupPromise("cats", 20, 0.2), GroupPromise("dogs", 10, None))
    assert (calibration.known_within, calibration.named_within) == (0.5, 0.1)


def test_banks_of_every_type_and_schema() -> None:
    exact = load(FORMATS / "detector-linear").bank
    half, eighth = (FeatureBank.load(FORMATS / f"bank-{t}") for t in ("float16", "int8"))
    assert exact.digest == THEN["bank-float16"]["digest"]  # float32 is what it was, to the bit
    assert eighth.digest == THEN["bank-int8"]["digest"]
    assert half.generator.tolist() == eighth.generator.tolist() == THEN["bank-float16"]["generators"]
    np.testing.assert_allclose(half.vectors, exact.vectors, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(eighth.vectors, exact.vectors, atol=np.abs(exact.vectors).max() / 250)


def test_embeddings_are_those_of_todays_encoder() -> None:
    read = read_embeddings(FORMATS / "embeddings")
    detector = load(FORMATS / "detector-linear")
    detector.space.require(read.space, "the embeddings")
    now = [v.score for v in detector.detect([s.ref for s in samples(100, 2)]) if isinstance(v, Verdict)]
    np.testing.assert_allclose(detector.classifier.decision_function(read.vectors), now, atol=1e-5)


def test_a_patch_probe_scores_as_it_did() -> None:
    probe = load(FORMATS / "detector-patches").patch_probe
    assert probe is not None
    assert (probe.block, probe.data) == (1, "made up")
    np.testing.assert_allclose(
        probe.scores(np.eye(48, dtype=np.float32)[:4]), THEN["detector-patches"]["scores"], rtol=1e-6
    )


def test_a_benchmark_run_is_read_and_recognised(tmp_path: Path) -> None:
    scores = read_rows(FORMATS / "bench" / "scores.parquet")
    assert [c.perturbation for c in scores.cells] == ["clean", "jpeg:50"]
    cell = scores.cell("clean", "then-linear")
    assert cell.judged.tolist() == [True] * 6 + [False]
    np.testing.assert_allclose(cell.score[:6], THEN["bench"]["clean"], atol=1e-9)
    clean, jpeg = figures(scores, rounds=20)
    assert clean.identity == jpeg.identity == THEN["bench"]["identity"]
    assert clean.failed == jpeg.failed == (0, 1)
    manifest = json.loads((FORMATS / "bench" / "run.json").read_text())
    assert manifest["detectors"] == [clean.identity]


def test_a_store_has_all_its_versions_and_takes_more(tmp_path: Path) -> None:
    shutil.copytree(FORMATS / "store", tmp_path / "store")
    store = BankStore.open(tmp_path / "store", who="somebody else")
    assert {str(e.number): store.snapshot(e.number).bank.digest for e in store.history().edits} == (
        THEN["store"]["digests"]
    )
    assert store.snapshot().rows.keys() == THEN["store"]["keys"]
    assert len(store.snapshot("sixteen").bank) == 16
    store.remove(store.snapshot().ids[:1], "one")
    assert len(store.snapshot().bank) == len(THEN["store"]["keys"]) - 1
    store.undo()
    assert store.snapshot().bank.digest == store.snapshot(5).bank.digest


def test_a_store_of_a_later_schema_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(tables, "SCHEMA", tables.SCHEMA + 1)
        BankStore.create(tmp_path / "store", load(FORMATS / "detector-linear").space)
    with pytest.raises(FormatError, match=r"of schema 2; this version reads up to 1\. Update univfd to read it"):
        BankStore.open(tmp_path / "store")


def later(folder: Path, manifest: str) -> None:
    record = json.loads((folder / manifest).read_text())
    (folder / manifest).write_text(json.dumps(record | {"schema": record["schema"] + 1}))


@pytest.mark.parametrize(
    ("name", "manifest", "read"),
    [
        ("detector-linear", "detector.json", load),
        ("detector-linear", "bank/bank.json", load),
        ("bank-int8", "bank.json", FeatureBank.load),
        ("embeddings", "embeddings.json", read_embeddings),
        ("bench", "run.json", lambda folder: read_json(folder / "run.json", "bench", run.SCHEMA)),
    ],
)
def test_a_later_schema_is_refused_with_what_to_do(
    name: str, manifest: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    shutil.copytree(FORMATS / name, tmp_path / name)
    for _ in range(2):  # a bank of float32 is of schema 1, and 2 is known
        later(tmp_path / name, manifest)
    with pytest.raises(FormatError, match=r"has schema [34]; this version reads up to [12]\. Update univfd to read it"):
        read(tmp_path / name)
