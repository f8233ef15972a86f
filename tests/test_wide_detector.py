"""A detector whose probe reads more layers than its bank holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from commands import run
from conftest import encoded, picture, toy_samples
from test_bank_commands import folder_of, odd
from univfd.backbones import Backbone, first_taps, open_backbone
from univfd.bank import FeatureBank
from univfd.benchmark.run import run as run_benchmark
from univfd.building import assemble, build_bank, check_bank_taps, with_sizes
from univfd.classifiers.ridge import first_layers
from univfd.classifiers.svm import SupportVectorProbe
from univfd.detector import Detector, load
from univfd.embedding import Batch, embed_images
from univfd.errors import FeatureSpaceError, FormatError, UsageError
from univfd.types import Embeddings, FloatArray, Pixels, Verdict
from univfd.views import view

SIZES = [48, 48]
CUT = view("native")


@pytest.fixture(scope="module")
def both() -> Backbone:
    return open_backbone("toy", taps=("proj", "mean.1"))


@pytest.fixture(scope="module")
def banks(both: Backbone) -> tuple[FeatureBank, FeatureBank]:
    """Of all layers, and of the first."""
    every, first = (build_bank(b, CUT, toy_samples(), added="2026-01-01").bank for b in (both, first_taps(both, 1)))
    return every, first


@pytest.fixture(scope="module")
def wide(both: Backbone, banks: tuple[FeatureBank, FeatureBank]) -> Detector:
    every, first = banks
    narrow = SupportVectorProbe.from_bank(first, {"layers": [48]})
    probe = SupportVectorProbe.from_bank(every, {"layers": SIZES}).beside(first, narrow)
    return Detector("wide", both, CUT, probe, first)


def test_the_score_reads_all_layers_and_the_evidence_those_of_the_bank(
    wide: Detector, banks: tuple[FeatureBank, FeatureBank]
) -> None:
    every, first = banks
    found = [v for v in wide.detect([s.ref for s in toy_samples()]) if isinstance(v, Verdict)]
    assert_allclose([v.score for v in found], wide.classifier.decision_function(every.vectors), atol=1e-6)
    assert [min(v.nearest_real[0].distance, v.nearest_fake[0].distance) < 1e-6 for v in found] == [True] * len(found)
    assert found[0].space == wide.space.digest != first.space.digest
    assert wide.bank_backbone.taps == ("proj",)


def test_rows_of_a_bank_are_scored_by_what_they_hold(wide: Detector, banks: tuple[FeatureBank, FeatureBank]) -> None:
    _, first = banks
    narrow = SupportVectorProbe.from_bank(first, {"layers": [48]})
    assert_array_equal(wide.classifier.decision_function(first.vectors), narrow.decision_function(first.vectors))
    (batch,) = embed_images(wide.bank_backbone, CUT, [encoded(picture(7, 240, 240), "PNG")])
    (judged,) = wide.judge(batch)
    assert judged.score == pytest.approx(narrow.decision_function(batch.embeddings.vectors)[0], abs=1e-9)
    strange = Embeddings(batch.embeddings.vectors, replace(batch.embeddings.space, taps=("mean.1",)))
    with pytest.raises(FeatureSpaceError, match="the images"):
        wide.judge(Batch(batch.items, strange, 0.0))


def test_a_new_generator_s_rows_correct_it_and_are_undone(both: Backbone, wide: Detector) -> None:
    few = [odd(i) for i in range(6)]
    (batch,) = embed_images(wide.bank_backbone, CUT, few)
    rows = FeatureBank.from_rows(batch.embeddings, [1] * 6, [i.sha256 for i in batch.loaded], generator="odd")
    grown = wide.with_bank(wide.bank.add(rows))
    more = [odd(i) for i in range(20, 30)]
    before, after = ([v.score for v in d.detect(more) if isinstance(v, Verdict)] for d in (wide, grown))
    assert np.mean(after) > np.mean(before) + 0.2
    again = grown.with_bank(wide.bank)
    assert [v.score for v in again.detect(more) if isinstance(v, Verdict)] == before
    every = build_bank(both, CUT, toy_samples(), added="2026-01-01").bank
    with pytest.raises(FeatureSpaceError, match="the bank"):
        wide.with_bank(every)


def test_saved_and_loaded_it_is_the_same(wide: Detector, toy_folder: Path, tmp_path: Path) -> None:
    wide.save(tmp_path / "wide")
    manifest = json.loads((tmp_path / "wide" / "detector.json").read_text("utf-8"))
    assert (manifest["schema"], manifest["space"]["dim"], manifest["bank_space"]["dim"]) == (2, 96, 48)
    opened = load(tmp_path / "wide")
    image = encoded(picture(7, 240, 240), "PNG")
    (before,), (after,) = wide.detect(image), opened.detect(image)
    assert isinstance(before, Verdict)
    assert isinstance(after, Verdict)
    assert (opened.identity, after.score, after.nearest_real) == (wide.identity, before.score, before.nearest_real)
    told = run("detectors", "info", tmp_path / "wide").stdout.splitlines()
    assert "reads        toy proj+mean.1 native, 96 values; the bank's are the first" in told
    # One whose bank holds all is written as before, so that older versions read it.
    old = json.loads((toy_folder / "detector.json").read_text("utf-8"))
    assert (old["schema"], "bank_space" in old) == (1, False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bank_space": {"taps": ["mean.1"]}}, FormatError, "not that of the first"),
        ({"bank_space": {"taps": []}}, FormatError, "expected texts, taps"),
        ({"bank_space": {"dim": 96}}, FeatureSpaceError, "another feature space"),
        ({"bank_space": {"dim": 97}}, FormatError, "not that of the first"),
        ({"space": {"taps": ["proj", "mean.1", "cls.1"], "dim": 144}}, FormatError, "cannot be restored"),
        ({"classifier": {"params": {"layers": [24.5, 23.5, 48]}}}, FormatError, "cannot be restored"),
    ],
)
def test_a_manifest_whose_spaces_do_not_fit_is_refused(
    wide: Detector, tmp_path: Path, change: dict[str, dict[str, object]], error: type[Exception], message: str
) -> None:
    wide.save(tmp_path / "wide")
    file = tmp_path / "wide" / "detector.json"
    manifest = json.loads(file.read_text("utf-8"))
    for key, values in change.items():
        manifest[key] |= values
    file.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(error, match=message):
        load(tmp_path / "wide")


def test_a_bank_of_other_layers_than_the_first_is_refused(
    both: Backbone, wide: Detector, banks: tuple[FeatureBank, FeatureBank]
) -> None:
    _, first = banks
    behind = open_backbone("toy", taps=("mean.1", "proj"))
    with pytest.raises(FeatureSpaceError, match="the detector's bank"):
        replace(wide, backbone=behind)
    with pytest.raises(ValueError, match="the probe beside it reads 96"):
        SupportVectorProbe.from_bank(banks[0], {"layers": SIZES}).beside(first)
    narrow = SupportVectorProbe.from_bank(first, {"layers": 1})
    with pytest.raises(ValueError, match=r"the narrow probe has layers 1; the first of this one's are \[48\]"):
        SupportVectorProbe.from_bank(banks[0], {"layers": SIZES}).beside(first, narrow)
    side_by_side = replace(CUT, pool="concat")
    with pytest.raises(UsageError, match="lays crops side by side"):
        check_bank_taps("svm", both, side_by_side, 1)
    assert with_sizes({"layers": "each"}, both, replace(side_by_side, count=2)) == {"layers": SIZES * 2}
    state = wide.classifier.state()
    for missing in ("narrow_intercept", "coef"):
        with pytest.raises(FormatError, match="a linear classifier needs coef"):
            SupportVectorProbe.from_state(
                wide.classifier.get_params(), {k: v for k, v in state.items() if k != missing}, first
            )


def test_first_layers() -> None:
    assert first_layers([3, 3, 12], 6) == [3, 3]
    assert first_layers(0, 6) == 0
    for layers in ([3, 3, 12], 3):
        with pytest.raises(ValueError, match="no number of whole layers"):
            first_layers(layers, 5)


def test_trying_an_addition_out(wide: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wide.save("wide")
    run("bank", "import", "s", "wide")
    folder_of(tmp_path / "few", {f"{i}.png": odd(i) for i in range(5)})
    folder_of(tmp_path / "more", {f"{i}.png": odd(i) for i in range(10, 16)})
    options = ("--label", "fake", "--generator", "odd")
    tried = json.loads(
        run("bank", "what-if", "s", "few", *options, "--test", "more", "--detector", "wide", "--json").stdout
    )
    effects = {e["images"]: e for e in tried["effects"]}
    assert effects["--test"]["moved"] == effects["--test"]["n"] == 6
    run("bank", "add", "s", "few", *options)
    rows = [
        json.loads(r) for r in run("detect", "more", "--detector", "wide", "--bank", "s", "--jsonl").stdout.splitlines()
    ]
    after = effects["--test"]["after"]
    assert sum(r["verdict"] == "fake" for r in rows) == after.get("fake", 0)


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy samples as a folder of the working folder."""
    monkeypatch.chdir(tmp_path)
    for sample in toy_samples():
        place = tmp_path / "data" / sample.label.word / sample.source
        place.mkdir(parents=True, exist_ok=True)
        (place / sample.ref.name).write_bytes(sample.ref.source)  # type: ignore[arg-type]
    return tmp_path / "data"


LAYERS = ("--backbone", "toy", "--tap", "proj", "--tap", "mean.1")
PROBE = ("--classifier", "svm", "--set", "layers=each")


def test_fit_makes_one(collection: Path) -> None:
    rates = ("--max-fpr", "0.1", "--max-miss", "0.1")
    run("fit", collection, "-o", "all", *LAYERS, *PROBE, *rates)
    run("fit", collection, "-o", "less", *LAYERS, *PROBE, *rates, "--bank-taps", "1")
    every, less = load("all"), load("less")
    assert (every.bank.space.dim, less.bank.space.dim, less.space.dim) == (96, 48, 96)
    assert less.classifier.get_params()["layers"] == SIZES
    image = encoded(picture(7, 240, 240), "PNG")
    scores = [v.score for d in (every, less) for v in d.detect(image) if isinstance(v, Verdict)]
    assert scores[0] == scores[1]
    assert less.calibration.fake_above == every.calibration.fake_above
    same = ("--bank-taps", "2", "--uncalibrated")
    run("fit", collection, "-o", "both", *LAYERS, *PROBE, *same)
    assert load("both").bank.space.dim == 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*PROBE, "--bank-taps", "3"), "the first 3 layers; there are 2"),
        (("--bank-taps", "1"), "linear reads what its bank has; ridge and svm can read more layers"),
        (("--classifier", "svm", "--set", "layers=2"), r"proj, mean\.1 are not. Give the size of each"),
    ],
)
def test_a_bank_that_cannot_hold_less_is_refused(collection: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("fit", collection, "-o", "x", *LAYERS, "--uncalibrated", *options)
    assert not Path("x").exists()


def test_a_benchmark_embeds_once_for_detectors_of_which_one_reads_more(
    both: Backbone, wide: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = open_backbone("toy", taps=("proj",))
    narrow = assemble("narrow", few, CUT, build_bank(few, CUT, toy_samples(), added="2026-01-01").bank, "knn", {})
    other = open_backbone("toy", taps=("mean.1",))
    behind = assemble("behind", other, CUT, build_bank(other, CUT, toy_samples(), added="2026-01-01").bank, "knn", {})
    expected = [v.score for v in narrow.detect([s.ref for s in toy_samples()]) if isinstance(v, Verdict)]
    seen: list[tuple[str, ...]] = []
    embed = type(both).embed

    def watched(self: Backbone, crops: Pixels) -> FloatArray:
        seen.append(self.taps)
        return embed(self, crops)

    monkeypatch.setattr(type(both), "embed", watched)
    samples = toy_samples()
    run_benchmark(samples, [narrow, behind, wide], tmp_path / "run", data="toy", cache=tmp_path / "cache")
    assert set(seen) == {("proj", "mean.1"), ("mean.1",)}
    rows = pq.read_table(tmp_path / "run" / "scores.parquet").to_pylist()
    scores = [r["score"] for r in rows if r["detector"] == "narrow"]
    assert scores == expected


def test_a_store_made_for_it_takes_its_bank(wide: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wide.save("wide")
    assert "toy proj native, 48 values" in run("bank", "create", "s", "--detector", "wide").stdout
    run("bank", "merge", "s", "wide")
    (tmp_path / "x.png").write_bytes(encoded(picture(7, 240, 240), "PNG"))
    (row,) = (
        json.loads(r)
        for r in run("detect", "x.png", "--detector", "wide", "--bank", "s", "--jsonl").stdout.splitlines()
    )
    (expected,) = wide.detect("x.png")
    assert isinstance(expected, Verdict)
    assert row["score"] == expected.score


def test_an_encoder_that_the_classifier_does_not_read_is_refused(both: Backbone, wide: Detector) -> None:
    few = open_backbone("toy", taps=("proj",))
    known = assemble("nn", few, CUT, build_bank(few, CUT, toy_samples(), added="2026-01-01").bank, "knn", {})
    for detector, encoder in ((known, both), (wide, few)):
        with pytest.raises(FeatureSpaceError, match="the classifier reads"):
            replace(detector, backbone=encoder)


def test_the_first_layers_of_a_batch(both: Backbone, banks: tuple[FeatureBank, FeatureBank]) -> None:
    (batch,) = embed_images(both, CUT, [s.ref for s in toy_samples()][:3], batch_size=3)
    own, first = batch.embeddings.space, banks[1].space
    assert batch.first(own) is batch
    cut = batch.first(first).embeddings
    assert cut.space == first
    assert cut.vectors.flags.c_contiguous
    assert_array_equal(cut.vectors, batch.embeddings.vectors[:, :48])
    lossy, behind = replace(first, weights="lossy"), replace(first, taps=("mean.1",))
    for wrong in (lossy, behind, replace(own, weights="lossy"), replace(own, dim=144)):
        with pytest.raises(FeatureSpaceError, match="the layers asked for"):
            batch.first(wrong)
