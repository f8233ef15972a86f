"""`bench run`, `report` and `compare`: rows are the detector's own verdicts, figures come from the rows alone."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, roc_auc_score

from conftest import toy_samples
from univfd import metrics
from univfd.backbones import Backbone, open_backbone
from univfd.benchmark import compare as comparing
from univfd.benchmark import rendering, tables
from univfd.benchmark.figures import CellFigures, Part, figures, worst
from univfd.benchmark.rows import COLUMNS, Scores, read_rows, write_rows
from univfd.benchmark.run import open_detectors, run
from univfd.building import assemble, build_bank
from univfd.calibrating import score
from univfd.calibration import Calibration
from univfd.cli import group
from univfd.collection import gather
from univfd.datasets import open_dataset
from univfd.detector import Detector, linear_detector
from univfd.embedding import space_of
from univfd.errors import (
    DataError,
    FormatError,
    MissingExtraError,
    OutputExistsError,
    UnivFDError,
    UnknownNameError,
    UsageError,
)
from univfd.metrics import Absent, Estimate
from univfd.types import Failure, Label, Sample
from univfd.views import view

PERTURBATIONS = ("clean", "jpeg:60")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 48 pictures, one of them twice, and a file that is no picture; generators, sources, groups."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, sample in enumerate(toy_samples()):
        (folder / f"{i}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
        row = {"file": f"{i}.png", "label": sample.label.word, "generator": sample.generator, "source": sample.source}
        rows.append(row | {"group": f"pair{i}" if i < 4 else "", "family": "gan" if sample.generator else ""})
    (folder / "again.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "bad.png").write_bytes(b"\x89PNG that is all")
    rows += [rows[1] | {"file": "again.png"}, rows[1] | {"file": "bad.png"}]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two on one feature space, the first with a probability and room for unsure."""
    folder = tmp_path_factory.mktemp("detectors")
    toy, cut, samples = open_backbone("toy"), view("native"), toy_samples()
    built = build_bank(toy, cut, samples[:14], added="2026-01-01").bank
    linear = assemble("linear", toy, cut, built, "linear", {})
    replace(linear, calibration=Calibration(3.0, -2.0, 0.5, 0.1, max_fpr=0.1)).save(folder / "linear")
    assemble("knn", toy, cut, built, "knn", {"k": 3}).save(folder / "knn")
    return [str(folder / "linear"), str(folder / "knn")]


@pytest.fixture(scope="module")
def opened(detectors: list[str]) -> list[Detector]:
    return open_detectors(detectors)


@pytest.fixture(scope="module")
def samples(data: Path) -> list[Sample]:
    return list(open_dataset(data))


@pytest.fixture(scope="module")
def finished(samples: list[Sample], opened: list[Detector], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run(samples, opened, folder, data="toy", perturbations=PERTURBATIONS, cache=folder.parent / "cache")
    assert (done.rows, done.failed) == (200, 4)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "scores.parquet").to_pylist()


class Coarse:
    """An encoder on an engine that loses precision: near vectors, in a space of their own."""

    def __init__(self, inner: Backbone) -> None:
        self.entry, self.taps, self._inner = replace(inner.entry, lossy="coarse"), inner.taps, inner

    def embed(self, crops: np.ndarray) -> np.ndarray:
        return self._inner.embed(crops).astype(np.float16).astype(np.float32)


# Rows


def test_thresholds_are_not_set_on_lossy_scores(opened: list[Detector], data: Path) -> None:
    coarse = replace(opened[0], backbone=Coarse(opened[0].backbone))
    with pytest.raises(UsageError, match="calibrate on one in float32"):
        score(coarse, gather(data))


def test_a_lossy_engine_has_embeddings_of_its_own_and_judges_them(
    samples: list[Sample], opened: list[Detector], tmp_path: Path
) -> None:
    exact = opened[0]
    coarse = replace(exact, name="coarse", backbone=Coarse(exact.backbone))
    assert coarse.space == exact.space == exact.reads != coarse.reads
    done = run(samples[:6], [exact, coarse], tmp_path / "run", data="toy", cache=tmp_path / "cache")
    assert (done.rows, done.failed) == (12, 0)
    rows = rows_of(tmp_path / "run")
    assert [r["identity"] for r in rows] == [exact.identity] * 6 + [coarse.identity] * 6
    here, there = ([r["score"] for r in rows if r["detector"] == d.name] for d in (exact, coarse))
    assert here != there
    assert here == pytest.approx(there, abs=0.1)
    said = json.loads((tmp_path / "run" / "run.json").read_text())["spaces"]
    assert said == {d.name: d.reads.to_dict() for d in (exact, coarse)}
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {exact.reads.digest, coarse.reads.digest}


def test_rows_are_what_the_detector_says(finished: Path, samples: list[Sample], opened: list[Detector]) -> None:
    rows = iter(rows_of(finished))
    for perturb in PERTURBATIONS:
        for detector in opened:
            known = {key.tobytes().hex() for key in detector.bank.keys}
            verdicts = detector.detect([s.ref for s in samples], perturb=perturb)
            for sample, verdict in zip(samples, verdicts, strict=True):
                row = next(rows)
                assert list(row) == [name for name, _ in COLUMNS]
                assert (row["perturbation"], row["detector"], row["identity"]) == (
                    perturb, detector.name, detector.identity,
                )  # fmt: skip
                assert (row["image"], row["label"]) == (sample.ref.name, sample.label.word)
                assert (row["generator"], row["source"]) == (sample.generator, sample.source)
                assert (row["group"], row["family"]) == (sample.group, "gan" if row["family"] else "")
                assert (row["fake_above"], row["real_below"]) == (
                    detector.calibration.fake_above, detector.calibration.real_below,
                )  # fmt: skip
                if isinstance(verdict, Failure):
                    assert (row["status"], row["verdict"], row["score"], row["width"]) == ("failed", "", None, None)
                    assert row["error"] == f"{verdict.error}: {verdict.message}"
                    continue
                assert (row["status"], row["error"]) == ("ok", "")
                for name in ("sha256", "format", "width", "height", "verdict", "probability"):
                    assert row[name] == getattr(verdict, name)
                assert row["score"] == pytest.approx(verdict.score, abs=1e-12)
                assert row["in_bank"] == (verdict.sha256 in known)
    assert next(rows, None) is None


def test_the_record_says_what_was_run(finished: Path, opened: list[Detector]) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert (record["kind"], record["schema"], record["images"]) == ("bench", 1, 50)
    assert record["detectors"] == [d.identity for d in opened]
    assert record["perturbations"] == list(PERTURBATIONS)
    assert (record["rows"], record["failed"]) == (200, 4)
    assert [p.name for p in finished.iterdir() if p.name.startswith(".")] == []


def test_the_data_digest_is_of_contents_and_labels_alone(
    finished: Path, samples: list[Sample], opened: list[Detector], tmp_path: Path
) -> None:
    cache = finished.parent / "cache"
    run(samples[::-1], opened[:1], tmp_path / "back", data="other name", cache=cache)
    run(
        [replace(samples[0], label=Label.FAKE), *samples[1:]],
        opened[:1],
        tmp_path / "x",
        data="",
        cache=cache,
    )
    digests = [
        json.loads((f / "run.json").read_text())["data_digest"] for f in (finished, tmp_path / "back", tmp_path / "x")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_what_is_odd_is_said(
    samples: list[Sample], opened: list[Detector], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = [*samples, replace(samples[0], label=Label.FAKE)]
    run(both, opened[:1], tmp_path / "run", data="", cache=finished.parent / "cache")
    assert "2 of 51 images are the same file as another one" in caplog.text
    assert "1 file is given as real and as fake" in caplog.text
    assert "linear was made of 14 of these images: its figures flatter it" in caplog.text


def test_a_second_run_asks_the_encoder_nothing(
    finished: Path, samples: list[Sample], opened: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [s for s in samples if "bad" not in s.ref.name]
    monkeypatch.setattr(type(opened[0].backbone), "embed", lambda *_: pytest.fail("the encoder was called"))
    monkeypatch.setattr("univfd.embedding.decode", lambda *_, **__: pytest.fail("a picture was decoded"))
    run(good, opened, tmp_path / "run", data="toy", perturbations=PERTURBATIONS, cache=finished.parent / "cache")
    assert [r for r in rows_of(finished) if "bad" not in r["image"]] == rows_of(tmp_path / "run")


def test_one_pass_of_the_encoder_serves_all_detectors_of_a_space(
    samples: list[Sample], opened: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, seen = opened[0].backbone, []
    assert all(d.backbone is encoder for d in opened)
    embed = type(encoder).embed
    monkeypatch.setattr(type(encoder), "embed", lambda self, crops: (seen.append(len(crops)), embed(self, crops))[1])
    run(samples, opened, tmp_path / "run", data="toy", perturbations=PERTURBATIONS, cache=tmp_path / "cache")
    assert sum(seen) == 48 * len(PERTURBATIONS)


KILLED = """
import os, signal, sys
from pathlib import Path
from univfd.backbones.toy import ToyBackbone
from univfd.benchmark.run import open_detectors, run
from univfd.datasets import open_dataset

data, first, second, output, cache, at = sys.argv[1:]
left = int(at)

def event(name, arguments=()):
    global left
    last = name == "os.rename" and str(arguments[1]).endswith("scores.parquet")
    if name != "encoder" and not str(arguments[0]).startswith((output, cache)):  # what it reads of packages
        return
    if name in ("open", "os.rename", "os.remove", "os.mkdir", "encoder"):
        left -= 1
        if left == 0 or (int(at) < 0 and last):
            os.kill(os.getpid(), signal.SIGKILL)

embed = ToyBackbone.embed
ToyBackbone.embed = lambda self, crops: (event("encoder"), embed(self, crops))[1]
samples, detectors = list(open_dataset(data)), open_detectors([first, second])
sys.addaudithook(event)
run(samples, detectors, Path(output), data="toy", perturbations=("clean", "jpeg:60"), cache=Path(cache), shard=4,
    batch_size=2, resume=True)
"""


def test_killed_ten_times_at_random_and_resumed_it_ends_in_the_same_rows(
    data: Path, detectors: list[str], finished: Path, tmp_path: Path
) -> None:
    """It kills itself (SIGKILL) at a random one of its encoder calls and its operations on its own files, and once at
    the very last.
    """
    rng = random.Random(0)
    output, cache = tmp_path / "run", tmp_path / "cache"
    kept = []
    for at in [*(rng.randrange(2, 22) for _ in range(10)), -1]:
        command = [sys.executable, "-c", KILLED, data, *detectors, output, cache, at]
        killed = subprocess.run([str(part) for part in command], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (output / "scores.parquet").exists()
        kept.append(len(list(cache.rglob("*.safetensors"))))
    assert kept == sorted(kept)
    assert len(set(kept)) > 4, "most kills came before anything was done"
    subprocess.run([str(part) for part in [*command[:-1], 0]], check=True, capture_output=True)
    assert rows_of(output) == rows_of(finished)
    assert (output / "scores.parquet").read_bytes() == (finished / "scores.parquet").read_bytes()
    assert {p.name for p in output.iterdir()} == {"run.json", "scores.parquet"}


def test_results_are_not_overwritten_and_other_runs_not_continued(
    finished: Path, samples: list[Sample], opened: list[Detector], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = finished.parent / "cache"
    before = (finished / "scores.parquet").read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        run(samples, opened, finished, data="toy", perturbations=PERTURBATIONS, cache=cache)
    assert run(samples, opened, finished, data="toy", perturbations=PERTURBATIONS, cache=cache, resume=True).rows == 200
    assert "is finished already" in caplog.text
    for options in ({"detectors": opened[:1]}, {"samples": samples[1:]}, {"perturbations": ("clean",)}):
        asked: dict[str, Any] = {"samples": samples, "detectors": opened, "perturbations": PERTURBATIONS} | options
        with pytest.raises(UsageError, match="was begun with"):
            run(asked["samples"], asked["detectors"], finished, data="toy", perturbations=asked["perturbations"],
                cache=cache, resume=True)  # fmt: skip
    assert (finished / "scores.parquet").read_bytes() == before
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_bytes((finished / "run.json").read_bytes())
    with pytest.raises(OutputExistsError, match="is an unfinished run"):
        run(samples, opened, unfinished, data="toy", perturbations=PERTURBATIONS, cache=cache)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(FormatError, match="not a bench folder"):
        run(samples, opened, tmp_path / "foreign", data="toy", perturbations=PERTURBATIONS, cache=cache, resume=True)


def test_calls_that_make_no_sense(samples: list[Sample], opened: list[Detector], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="no images were given"):
        run([], opened, out, data="")
    with pytest.raises(UsageError, match="2 detectors of the name 'knn'"):
        run(samples, [opened[1], opened[1]], out, data="")
    with pytest.raises(UsageError, match="2 perturbations 'clean'"):
        run(samples, opened, out, data="", perturbations=("clean", "clean"))
    with pytest.raises(UnknownNameError, match="no perturbation is called"):
        run(samples, opened, out, data="", perturbations=("jpg:60",))
    assert not list(tmp_path.iterdir())


def test_without_pyarrow_it_says_what_to_install(
    samples: list[Sample], opened: list[Detector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'univfd\[parquet\]'"):
        run(samples, opened, tmp_path / "run", data="")


# Figures from rows that are written here


def made_rows(n: int = 240, seed: int = 0, **options: Any) -> Iterator[dict[str, list[Any]]]:
    """Rows of detectors `a` (with a probability) and `b` (without): `n` images, three generators, four sources."""
    rng = np.random.default_rng(seed)
    subset = options.get("subset", False)
    for detector in ("a", "b"):
        columns: dict[str, list[Any]] = {name: [] for name, _ in COLUMNS}
        for i in range(n):
            fake = i % 3 == 0
            generator = f"gen|{(i // 3) % 3}" if fake else ""
            score = round(float(rng.normal(1.2 * fake, 1)), 2)
            failed = i % 40 == 7
            row = {
                "image": f"{i}.png", "sha256": f"{i:064x}", "label": "fake" if fake else "real", "generator": generator,
                "family": "gan" if generator.endswith("0") else "diffusion" if fake else "",
                "source": f"site_{i % 4}", "group": f"g{i // 6}" if i < 60 else "",
                "subset": f"s{(i // 3) % 3}" if subset else "", "split": "test", "format": "PNG",
                "width": 64, "height": 64, "perturbation": "clean", "detector": detector, "identity": f"{detector}@1",
                "status": "ok", "error": "", "score": score,
                "probability": 1 / (1 + np.exp(-2 * score)) if detector == "a" else None,
                "verdict": "fake" if score > 0.8 else "real" if score < -0.3 else "unsure",
                "fake_above": 0.8, "real_below": -0.3, "in_bank": i == 0,
            }  # fmt: skip
            if failed:
                row |= {"status": "failed", "error": "input: no", "score": None, "probability": None, "verdict": ""}
            row |= options.get("change", lambda _: {})(row)
            for name, value in row.items():
                columns[name].append(value)
        yield columns


def scores_of(path: Path, **options: Any) -> Scores:
    write_rows(path, made_rows(**options))
    return read_rows(path)


def found(part: Part, name: str) -> Estimate:
    value = part.figures[name]
    assert isinstance(value, Estimate), value
    return value


def test_figures_are_scikit_learns_over_the_rows(tmp_path: Path) -> None:
    scores = scores_of(tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    a, b = figures(scores, rounds=20)
    for cell in (a, b):
        rows = [r for r in table if r["detector"] == cell.detector and r["status"] == "ok"]
        assert cell.failed == (sum(i % 40 == 7 and i % 3 == 0 for i in range(240)), 4)
        assert (cell.in_bank, cell.calibrated) == (1, cell.detector == "a")
        parts = [(cell.overall, rows)]
        for g in cell.generators:
            parts.append((g, [r for r in rows if r["label"] == "real" or r["generator"] == g.name]))
            assert g.against == "all reals"
        parts += [(f, [r for r in rows if r["label"] == "real" or r["family"] == f.name]) for f in cell.families]
        for part, own in parts:
            y, s = np.array([r["label"] == "fake" for r in own], int), np.array([r["score"] for r in own])
            half = s > 0 if cell.detector == "b" else np.array([r["probability"] > 0.5 for r in own])
            assert (part.n_fake, part.n_real) == (y.sum(), (1 - y).sum())
            expected = {
                "auroc": roc_auc_score(y, s), "ap": average_precision_score(y, s),
                "accuracy_half": accuracy_score(y, half), "accuracy_threshold": accuracy_score(y, s > 0.8),
                "fake_accuracy_threshold": (s > 0.8)[y == 1].mean(), "unsure": ((s <= 0.8) & (s >= -0.3)).mean(),
                "tpr_at_5_oracle": metrics.tpr_at_fpr(y, s, 0.05),
            }  # fmt: skip
            if cell.detector == "a":
                p = np.array([r["probability"] for r in own])
                expected |= {"brier": brier_score_loss(y, p), "ece": metrics.expected_calibration_error(y, p)}
            for name, value in expected.items():
                assert found(part, name).value == pytest.approx(value, abs=1e-9)
            assert found(part, "auroc").low <= found(part, "auroc").value <= found(part, "auroc").high
            assert found(part, "auroc").n == len(own)
        for source in cell.sources:
            own = [r for r in rows if r["label"] == "real" and r["source"] == source.name]
            share, hits = found(source, "false_alarms"), sum(r["score"] > 0.8 for r in own)
            exact = binomtest(hits, len(own)).proportion_ci(0.95, method="exact")
            assert share.value == pytest.approx(hits / len(own))
            assert share.low <= exact.low + 1e-9
            assert share.high >= exact.high - 1e-9
    assert isinstance(a.means["ap"], Estimate)
    assert a.means["ap"].value == pytest.approx(np.mean([found(g, "ap").value for g in a.generators]))
    assert a.means["ap"].n == 3
    assert b.overall.figures["ece"] == Absent("no probability: the detector is not calibrated")


def test_shares_of_a_source_are_about_its_groups(tmp_path: Path) -> None:
    def apart(row: dict[str, Any]) -> dict[str, Any]:
        return {"group": ""}

    def crops(row: dict[str, Any]) -> dict[str, Any]:
        """The images of site_1 are of four scenes that share their score; those of site_2 of one; those of site_3 of
        four that raise no alarm.
        """
        scene = int(row["image"].removesuffix(".png")) % 16 // 4
        if row["label"] == "fake" or row["status"] != "ok" or row["source"] == "site_0":
            return {"group": ""}
        groups = {"site_1": f"scene {scene}", "site_2": "all", "site_3": f"other {scene}"}
        alarm = scene == 0 and row["source"] != "site_3"
        return {"group": groups[row["source"]], "score": 2.0 * alarm, "verdict": "fake" if alarm else "real"}

    for change in (apart, crops):
        cell = figures(scores_of(tmp_path / f"{change.__name__}.parquet", change=change), rounds=200)[0]
        for source in cell.sources:
            share = found(source, "false_alarms")
            exact = binomtest(round(share.value * source.n_real), source.n_real).proportion_ci(0.95, method="exact")
            if change is apart or source.name == "site_0":
                assert (share.low, share.high) == pytest.approx((exact.low, exact.high))
            elif source.name == "site_1":
                assert share.low == 0
                assert share.high > exact.high + 0.2
            elif source.name == "site_3":
                assert (share.value, share.low, share.n) == (0, 0, source.n_real)
                assert share.high == pytest.approx(1 - 0.025 ** (1 / 4)), "four scenes, whatever the images"
            else:
                assert np.isnan([share.low, share.high]).all()


def test_a_generator_is_tested_against_the_reals_of_its_subset(tmp_path: Path) -> None:
    scores = scores_of(tmp_path / "x.parquet", subset=True)
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    for g in figures(scores, rounds=5)[0].generators:
        s = f"s{g.name[-1]}"
        rows = [r for r in table if (r["detector"], r["status"], r["subset"]) == ("a", "ok", s)]
        assert g.against == f"reals of {s}"
        assert (g.n_fake, g.n_real) == (
            sum(r["label"] == "fake" for r in rows),
            sum(r["label"] == "real" for r in rows),
        )
        y = [r["label"] == "fake" for r in rows]
        assert found(g, "ap").value == pytest.approx(average_precision_score(y, [r["score"] for r in rows]), abs=1e-9)


def test_the_worst_of_each_is_named_among_those_with_enough_images(tmp_path: Path) -> None:
    def lone(row: dict[str, Any]) -> dict[str, Any]:
        """Image 0 is a generator of its own, and always missed; the reals of site_1 always raise an alarm."""
        if row["image"] == "0.png":
            return {"generator": "lone", "score": -9.0}
        return {"score": 5.0, "verdict": "fake"} if row["source"] == "site_1" and row["label"] == "real" else {}

    cell = figures(scores_of(tmp_path / "x.parquet", change=lone), rounds=5)[0]
    lowest = min(cell.generators, key=lambda g: found(g, "auroc").value)
    assert lowest.name == "lone"
    named = worst(cell.generators, "auroc")
    assert named is not None
    assert named.names == min((g for g in cell.generators if g.n_fake >= 5), key=lambda g: found(g, "auroc").value).name
    assert np.isnan(found(lowest, "auroc").low), "one image has no interval"
    assert str(found(lowest, "auroc")) == "0.000"
    source = worst(cell.sources, "false_alarms")
    assert source is not None
    assert source.names == "site_1"
    assert worst([lowest], "auroc") is None


def test_where_several_are_the_worst_alike_none_is_named_alone(tmp_path: Path) -> None:
    """The fakes of two generators are always missed, those of the third found; every real is taken for real."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        fake = row["label"] == "fake"
        score = 9.0 if row["generator"] == "gen|2" else -9.0 if fake else 0.0
        return {"score": score, "verdict": "fake" if score > 0 else "real"} if row["status"] == "ok" else {}

    cells = figures(scores_of(tmp_path / "x.parquet", change=change), rounds=5)
    named = worst(cells[0].generators, "auroc")
    assert named is not None
    assert named.names == "gen|0, gen|1 (2 of 3 alike)"
    assert named.value.value == 0
    sources = worst(cells[0].sources, "false_alarms")
    assert sources is not None
    assert sources.names == "none: all 4 are alike"
    assert sources.value.n == min(p.n_real for p in cells[0].sources)
    assert worst(cells[0].generators[:1], "auroc").names == "gen|0"  # type: ignore[union-attr]
    written = tables.files(cells)
    assert "| gen\\|0, gen\\|1 (2 of 3 alike) | 0.000 [" in written["main.md"].replace("\\[", "[")
    assert "| none: all 4 are alike | 0.000 [" in written["main.md"].replace("\\[", "[")


def test_a_mean_over_one_generator_has_the_interval_of_its_own(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        if row["label"] != "fake":
            return {"group": ""}
        alone = {"generator": "gen|0", "group": "", "family": "gan"}
        return alone | ({"score": 9.0, "verdict": "fake"} if row["status"] == "ok" else {})

    scores = scores_of(tmp_path / "x.parquet", change=change)
    cell = figures(scores, rounds=20)[0]
    (own,) = cell.generators
    for name in ("recall", "auroc", "fake_accuracy_half"):
        assert cell.means[name] == replace(found(own, name), n=1)
    assert cell.means["recall"].low == pytest.approx(0.025 ** (1 / own.n_fake))  # type: ignore[union-attr]
    differences = comparing.compare(scores, scores, [("a", "b")], "recall", rounds=20)[0].differences
    mean, of_one = (next(d for d in differences if d.of == kind) for kind in ("mean over generators", "generator"))
    assert mean.difference == replace(of_one.difference, n=1)
    assert mean.difference.low < 0 < mean.difference.high  # type: ignore[union-attr]


def test_a_mean_that_is_not_there_says_why(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {"generator": row["image"]} if row["label"] == "fake" else {}

    few = figures(scores_of(tmp_path / "x.parquet", change=change), rounds=5)
    assert few[0].means["ap"] == Absent("no generator has 5 judged images")
    many = figures(scores_of(tmp_path / "y.parquet"), rounds=5)
    assert many[1].means["ece"] == Absent("no probability: the detector is not calibrated")


@pytest.mark.parametrize("only", ["real", "fake"])
def test_one_class_alone_gives_dashes_with_reasons(tmp_path: Path, only: str) -> None:
    def fail_others(row: dict[str, Any]) -> dict[str, Any]:
        if row["label"] == only:
            return {}
        return {"status": "failed", "error": "x", "score": None, "probability": None, "verdict": ""}

    scores = scores_of(tmp_path / "x.parquet", change=fail_others)
    cells = figures(scores, rounds=5)
    part = cells[0].overall
    other = "fake" if only == "real" else "real"
    assert part.figures["auroc"] == Absent(f"no {other} was judged")
    assert found(part, f"{only}_accuracy_half").n > 0
    assert isinstance(part.figures[f"{other}_accuracy_half"], Absent)
    files = tables.files(cells)
    assert f"\N{EM DASH} (no {other} was judged)" in files["main.md"]
    assert f"--- (no {other} was judged)" in files["main.tex"]
    assert f"no {other} was judged" in files["figures.csv"]


def test_nothing_judged_and_no_threshold(tmp_path: Path) -> None:
    failed = {"status": "failed", "error": "x", "score": None, "probability": None, "verdict": ""}
    cells = figures(scores_of(tmp_path / "x.parquet", change=lambda _: failed), rounds=5)
    assert cells[0].overall.figures["unsure"] == Absent("no image was judged")
    assert tables.files(cells)
    cells = figures(
        scores_of(tmp_path / "y.parquet", change=lambda _: {"fake_above": None, "real_below": None}), rounds=5
    )
    assert cells[0].overall.figures["accuracy_threshold"] == Absent("the detector has no threshold")
    assert isinstance(cells[0].overall.figures["accuracy_half"], Estimate)


# Tables


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[CellFigures]:
    return figures(scores_of(tmp_path_factory.mktemp("rows") / "x.parquet"), rounds=50)


def test_every_table_has_n_in_every_cell_and_no_line_falls_apart(cells: list[CellFigures]) -> None:
    files = tables.files(cells)
    assert {name.rpartition(".")[2] for name in files} == {"md", "tex", "csv"}
    for name, text in files.items():
        if name.endswith(".md"):
            lines = [line for line in text.splitlines() if line.startswith("|")]
            assert len({line.replace("\\|", "").count("|") for line in lines}) == 1, name
            for line in lines:
                for cell in line.replace("\\|", "").split("|"):
                    assert ("[" in cell) <= ("n=" in cell)
        elif name.endswith(".tex"):
            rows = [line for line in text.splitlines() if line.endswith("\\\\")]
            assert rows
            assert len({row.replace(r"\&", "").count("&") for row in rows}) == 1, name
            assert "_" not in text.replace(r"\_", ""), "outside mathematics it stops LaTeX"
        else:
            assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1, name
    assert "gen\\|0" in files["generators.md"]
    assert "wrong among decided" in files["verdicts.md"]


def test_the_csv_of_all_figures_is_complete(cells: list[CellFigures]) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.files(cells)["figures.csv"])))
    named = {(r["detector"], r["of"], r["name"], r["figure"]): r for r in rows}
    assert len(named) == len(rows)
    for c in cells:
        for name in metrics.FIGURES:
            for part, of in [(c.overall, "all"), *((g, "generator") for g in c.generators)]:
                row, value = named[c.detector, of, part.name, name], part.figures[name]
                if isinstance(value, Estimate):
                    assert float(row["value"]) == pytest.approx(value.value, abs=1e-9)
                    assert int(row["n"]) == value.n
                else:
                    assert (row["value"], row["reason"]) == ("", value.reason)
            assert (c.detector, "mean over generators", "", name) in named
        assert (c.detector, "all", "all", "risk_at_coverage_0.5") in named


def test_a_report_is_the_same_bytes_each_time_and_overwrites_nothing(finished: Path, tmp_path: Path) -> None:
    texts = [tables.files(figures(read_rows(finished / "scores.parquet"), rounds=50)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert rendering.write_files(tmp_path / "tables", texts[0])
    assert not rendering.write_files(tmp_path / "tables", texts[1])
    with pytest.raises(OutputExistsError, match="holds something else"):
        rendering.write_files(tmp_path / "tables", texts[0] | {"main.md": "other"})
    assert (tmp_path / "tables" / "main.md").read_text() == texts[0]["main.md"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"image": f"{r['detector']}{r['image']}"}, "column 'image' differs"),
        (lambda r: {"score": None} if r["image"] == "5.png" else {}, "no score"),
        (lambda r: {"probability": None} if r["image"] == "5.png" else {}, "some have none"),
        (lambda r: {"fake_above": 1.0} if r["image"] == "5.png" else {}, "thresholds differ"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        scores_of(tmp_path / "x.parquet", change=change)


def test_files_that_are_no_rows(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(FormatError, match="cannot be read"):
        read_rows(tmp_path / "x.parquet")
    pq.write_table(pq.read_table(finished / "scores.parquet").drop_columns(["score"]), tmp_path / "y.parquet")
    with pytest.raises(FormatError, match="lacks the columns score"):
        read_rows(tmp_path / "y.parquet")
    write_rows(tmp_path / "z.parquet", [])
    with pytest.raises(FormatError, match="holds no rows"):
        read_rows(tmp_path / "z.parquet")
    chunks = list(made_rows(12))
    write_rows(tmp_path / "w.parquet", [chunks[0], {k: v[:5] for k, v in chunks[1].items()}])
    with pytest.raises(FormatError, match="different numbers of images"):
        read_rows(tmp_path / "w.parquet")


# Comparison


def test_a_difference_is_paired_and_its_interval_narrower(tmp_path: Path) -> None:
    """B's scores are A's with a little noise: two hard sets in common, one small difference."""
    rng = np.random.default_rng(5)

    def near(row: dict[str, Any]) -> dict[str, Any]:
        state = np.random.default_rng(int(row["sha256"], 16))
        score = float(state.normal(row["label"] == "fake", 1)) + (
            0.3 * float(rng.normal()) if row["detector"] == "b" else 0
        )
        return {"score": score if row["status"] == "ok" else None}

    scores = scores_of(tmp_path / "x.parquet", change=near)
    result = comparing.compare(scores, scores, [("a", "b")], rounds=400)[0]
    whole, mean = result.differences[:2]
    assert (whole.of, mean.of) == ("all", "mean over generators")
    assert {d.name for d in result.differences if d.of == "generator"} == {"gen|0", "gen|1", "gen|2"}
    assert {d.name for d in result.differences if d.of == "family"} == {"gan", "diffusion"}
    for d in result.differences:
        assert isinstance(d.first, Estimate)
        assert isinstance(d.second, Estimate)
        assert isinstance(d.difference, Estimate)
        assert d.difference.value == pytest.approx(d.first.value - d.second.value)
        assert d.difference.low <= d.difference.value <= d.difference.high
    assert isinstance(whole.difference, Estimate)
    assert isinstance(whole.first, Estimate)
    assert whole.difference.high - whole.difference.low < 0.5 * (whole.first.high - whole.first.low)
    assert whole.difference.low < 0 < whole.difference.high or whole.difference.value != 0


def test_runs_are_matched_by_contents_in_any_order(
    finished: Path, samples: list[Sample], opened: list[Detector], tmp_path: Path
) -> None:
    run(samples[::-1], opened, tmp_path / "back", data="", perturbations=PERTURBATIONS, cache=finished.parent / "cache")
    first, second = (read_rows(f / "scores.parquet") for f in (finished, tmp_path / "back"))
    pairs = comparing.pairs_of(first, second, [])
    assert pairs == [("linear", "linear"), ("knn", "knn")]
    for result in comparing.compare(first, second, pairs, "balanced_accuracy_half", rounds=20):
        for d in result.differences:
            assert isinstance(d.difference, Estimate)
            assert (d.difference.value, d.difference.low, d.difference.high) == (0, 0, 0)


def test_different_images_are_an_error_that_names_them(tmp_path: Path) -> None:
    whole, less = scores_of(tmp_path / "x.parquet"), scores_of(tmp_path / "y.parquet", n=238)
    with pytest.raises(DataError, match=r"2 of 240 images of the first are not in the second \(238.png, 239.png\)"):
        comparing.compare(whole, less, [("a", "a")])
    swapped = scores_of(tmp_path / "z.parquet", change=lambda r: {"label": "real"} if r["image"] == "0.png" else {})
    with pytest.raises(DataError, match=r"or other labels of them: 1 of 240 .*\(0.png\)"):
        comparing.compare(whole, swapped, [("a", "a")])


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    scores = scores_of(tmp_path / "x.parquet")
    other = scores_of(tmp_path / "y.parquet", change=lambda _: {"perturbation": "blur:1"})
    with pytest.raises(DataError, match="no perturbation in common: clean and blur:1"):
        comparing.compare(scores, other, [("a", "a")])
    with pytest.raises(UnknownNameError, match="no figure is called 'aurok'"):
        comparing.compare(scores, scores, [("a", "b")], "aurok")
    with pytest.raises(UsageError, match="which detectors"):
        comparing.pairs_of(scores, scores, [])
    with pytest.raises(UsageError, match="1 detector was named"):
        comparing.pairs_of(scores, scores, ["a"])
    with pytest.raises(UnknownNameError, match="no detector of this run is called 'c'"):
        comparing.pairs_of(scores, scores, ["a", "c"])
    uncalibrated = comparing.compare(scores, scores, [("a", "b")], "ece", rounds=5)[0]
    assert uncalibrated.differences[0].difference == Absent("no probability: the detector is not calibrated")


def test_images_that_one_could_not_judge_are_left_out_and_counted(tmp_path: Path) -> None:
    def fails(row: dict[str, Any]) -> dict[str, Any]:
        failed = {"status": "failed", "error": "x", "score": None, "probability": None, "verdict": ""}
        return failed if row["detector"] == "b" and row["image"] == "1.png" else {}

    scores = scores_of(tmp_path / "x.parquet", change=fails)
    result = comparing.compare(scores, scores, [("a", "b")], rounds=5)
    assert result[0].left_out == 1
    assert isinstance(result[0].differences[0].difference, Estimate)
    assert result[0].differences[0].difference.n == 240 - 6 - 1
    text = rendering.markdown(comparing.table(result, "auroc"))
    assert "could not judge them: 1 under clean" in text
    assert "a@1 was made of 1 of these images" in text


# The command line


def univfd(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "univfd", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, check=False)


def test_bench_on_the_command_line(data: Path, detectors: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_it = ("bench", "run", data, "--detectors", ",".join(detectors), "--perturb", "clean,jpeg:60", "-o", out)
    done = univfd(*run_it, UNIVFD_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (3, ""), "one image cannot be read, four times"
    assert "jpeg:60: judging with knn: 50 images" in done.stderr
    assert "200 rows, 4 failed" in done.stderr
    assert list((tmp_path / "home" / "embeddings").rglob("*.safetensors"))
    assert univfd(*run_it).returncode == 2
    report = univfd("bench", "report", out, "--rounds", 20)
    assert report.returncode == 0
    assert report.stdout == (out / "tables" / "main.md").read_text()
    assert "34 files -> " in report.stderr
    compared = univfd("bench", "compare", out, "--detectors", "linear,knn", "--metric", "ap", "-o", tmp_path / "ap")
    assert compared.returncode == 0
    assert compared.stdout == (tmp_path / "ap" / "compare.md").read_text()
    assert compared.stdout.startswith("# AP: ")
    for arguments, message in (
        (("compare", out), "which detectors"),
        (("report", tmp_path), "is not a bench folder"),
        (("run", tmp_path / "nowhere", "-o", tmp_path / "x"), "is no data set"),
        (("run", data, "--partial", "-o", tmp_path / "x"), "are of a suite"),
    ):
        with pytest.raises(UnivFDError, match=message):
            group.main(["bench", *map(str, arguments)], standalone_mode=False)


def test_a_suite_is_run_subset_by_subset(data: Path, detectors: list[str], tmp_path: Path) -> None:
    """Two test sets that share a folder of reals; the generators are tested against those."""
    for i in range(4):
        for place, number in (("real", 2 * i), ("a", 2 * i + 1), ("b", 2 * i + 9)):
            (tmp_path / "root" / place).mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / place / f"{i}.png").write_bytes((data / f"{number}.png").read_bytes())
    sets = [f'[[subset]]\nname = "{name}"\nfamily = "gan"\nreal = "real"\nfake = "{name}"\n' for name in "ab"]
    head = 'name = "mine"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n'
    (tmp_path / "mine.toml").write_text(head + "".join(sets))
    out = tmp_path / "run"
    arguments = ["bench", "run", tmp_path / "mine.toml", "--root", tmp_path / "root", "--detectors", detectors[0]]
    arguments += ["-o", out, "--cache", tmp_path / "cache"]
    assert group.main(list(map(str, arguments)), standalone_mode=False) == 0
    assert [(r["subset"], r["label"]) for r in rows_of(out)] == [
        (name, label) for name in "ab" for label in ("real", "fake") for _ in range(4)
    ]
    assert json.loads((out / "run.json").read_text())["suite"] == str(tmp_path / "mine.toml")
    generators = figures(read_rows(out / "scores.parquet"), rounds=5)[0].generators
    assert [(g.name, g.n_fake, g.n_real, g.against) for g in generators] == [
        ("a", 4, 4, "reals of a"), ("b", 4, 4, "reals of b"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="genimage is a suite"):
        group.main(["bench", "run", "genimage", "-o", str(tmp_path / "x")], standalone_mode=False)


def test_a_detector_that_carries_its_encoder_is_opened_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by a relative path, with the encoder's folder inside the detector's."""
    monkeypatch.chdir(tmp_path)
    own = Path("encoder")
    own.mkdir()
    text = (resources.files("univfd.catalogue") / "toy.toml").read_text("utf-8")
    (own / "backbone.toml").write_text(text, "utf-8")
    encoder = open_backbone(own)
    space = space_of(encoder, view("native"))
    linear_detector("mine", encoder, view("native"), np.zeros(space.dim), 0.5).save("carrier", carry_backbone=True)
    (found,) = open_detectors(["carrier"])
    assert found.backbone.entry.folder is not None
    assert found.backbone.entry.folder.resolve() == (tmp_path / "carrier" / "backbone").resolve()


def test_a_resumed_run_records_the_code_that_made_its_rows(
    finished: Path, samples: list[Sample], opened: list[Detector], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def resumed(output: Path) -> dict[str, Any]:
        run(samples, opened, output, data="toy", perturbations=PERTURBATIONS, cache=finished.parent / "cache",
            resume=True)  # fmt: skip
        return json.loads((output / "run.json").read_text())  # type: ignore[no-any-return]

    with monkeypatch.context() as stopped:
        stopped.setattr("univfd.benchmark.run.write_rows", lambda *_: 1 / 0)
        for name in ("same", "older"):
            with pytest.raises(ZeroDivisionError):
                resumed(tmp_path / name)
    begun = json.loads((tmp_path / "older" / "run.json").read_text())
    (tmp_path / "older" / "run.json").write_text(json.dumps(begun | {"univfd": "0.0.9", "code": "old"}))
    record = resumed(tmp_path / "older")
    assert [record[key] for key in ("univfd", "code", "software")] == [begun[k] for k in ("univfd", "code", "software")]
    assert record["begun_by"] == {"univfd": "0.0.9", "code": "old", "software": begun["software"]}
    assert "was begun by univfd 0.0.9 (code old" in caplog.text
    assert "begun_by" not in resumed(tmp_path / "same")
