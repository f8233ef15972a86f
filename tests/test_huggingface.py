"""Data sets of the `datasets` library as inputs, as labelled collections, and with verdicts; the pipeline's shape."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import dill
import numpy as np
import pytest
from datasets.fingerprint import Hasher
from PIL import Image

from commands import run as command
from conftest import encoded, picture, toy_samples
from test_architecture import run
from univfd.building import build_bank
from univfd.calibration import Calibration
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.errors import DataError, EmptyFileError, TruncatedImageError, UsageError
from univfd.integrations.huggingface import VerdictColumns, add_verdicts, dataset_refs, dataset_samples, pipeline
from univfd.types import Failure, Label, Verdict
from univfd.views import view
from univfd.writers import FLAT_COLUMNS

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["real", "fake"]),
        "generator": datasets.Value("string"),
    }
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the library's outlives a test, and it cannot reach a hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return [encoded(picture(i, 64, 64)) for i in range(4)]


@pytest.fixture(scope="module")
def calibrated(toy_detector: Detector) -> Detector:
    """It is unsure of scores between -1 and 1."""
    return replace(toy_detector, calibration=Calibration(slope=1.0, intercept=0.0, fake_above=1.0, real_below=-1.0))


def made(jpegs: list[bytes]) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(jpegs)],
        "label": [i % 2 for i in range(len(jpegs))],
        "generator": ["", "sdxl"] * (len(jpegs) // 2),
    }
    return datasets.Dataset.from_dict(rows, features=FEATURES, split="train")


def scores(detector: Detector, images: Any) -> list[float]:
    """Rounded where the sum over a batch rounds."""
    return [round(item.score, 9) for item in detector.detect(images)]


def test_a_data_set_is_an_input_and_its_bytes_are_what_is_judged(toy_detector: Detector, jpegs: list[bytes]) -> None:
    whole = made(jpegs)
    expected = scores(toy_detector, jpegs)
    verdicts = list(toy_detector.detect(whole))
    assert [v.score for v in verdicts] == pytest.approx(expected)
    assert [v.image for v in verdicts] == ["train/0", "train/1", "train/2", "train/3"]
    assert [v.format for v in verdicts] == ["JPEG"] * 4
    assert all(v.sha256 for v in verdicts)
    assert scores(toy_detector, whole.to_iterable_dataset()) == expected
    assert scores(toy_detector, whole.select([2, 0])) == [expected[2], expected[0]]
    assert scores(toy_detector, whole.with_format("numpy")) == expected
    assert scores(toy_detector, whole["image"]) == pytest.approx(expected)  # decoded by the other library


def test_images_as_paths_and_pillow_objects(toy_detector: Detector, jpegs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpegs[0])
    paths = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / "x.jpg")]}, features=datasets.Features(image=datasets.Image())
    )
    assert scores(toy_detector, paths) == scores(toy_detector, [jpegs[0]])
    text = datasets.Dataset.from_dict({"file": [str(tmp_path / "x.jpg")]})
    assert scores(toy_detector, dataset_refs(text, "file")) == scores(toy_detector, [jpegs[0]])

    def rows() -> Iterator[dict[str, Any]]:
        yield {"picture": Image.open(io.BytesIO(jpegs[0]))}

    unknown = datasets.IterableDataset.from_generator(rows)
    assert scores(toy_detector, dataset_refs(unknown, "picture")) == scores(toy_detector, [jpegs[0]])


def test_damage_is_a_row_and_does_not_end_the_iteration(toy_detector: Detector, jpegs: list[bytes]) -> None:
    damaged = [jpegs[0], jpegs[1][:400], b"", jpegs[3]]
    for form in (made(damaged), made(damaged).to_iterable_dataset()):
        found = list(toy_detector.detect(form))
        assert [type(item) for item in found] == [Verdict, Failure, Failure, Verdict]
        assert [found[1].error, found[2].error] == ["truncated", "empty"]


def test_the_column_is_named_where_it_is_not_clear(toy_detector: Detector, jpegs: list[bytes]) -> None:
    second = datasets.Dataset.from_dict(
        {"mask": [{"bytes": j, "path": None} for j in jpegs]}, features=datasets.Features(mask=datasets.Image())
    )
    two = datasets.concatenate_datasets([made(jpegs), second], axis=1)
    with pytest.raises(UsageError, match="2 columns of images among image, mask; name"):
        list(toy_detector.detect(two))
    assert scores(toy_detector, dataset_refs(two, "mask")) == scores(toy_detector, jpegs)
    with pytest.raises(UsageError, match="no column 'img'; it has: image, label, generator, mask"):
        list(dataset_refs(two, "img"))
    with pytest.raises(UsageError, match="0 columns of images among a"):
        list(toy_detector.detect(datasets.Dataset.from_dict({"a": [1]})))


def test_labelled_collections(jpegs: list[bytes]) -> None:
    whole = made(jpegs)
    for form, split in ((whole, "train"), (whole.to_iterable_dataset(), "")):  # the library forgets its split
        found = list(dataset_samples(form))
        assert [s.label for s in found] == [Label.REAL, Label.FAKE] * 2
        assert [(s.generator, s.split) for s in found[:2]] == [("", split), ("sdxl", split)]
    both = datasets.DatasetDict(
        train=whole, test=datasets.Dataset.from_dict(whole[:2], features=FEATURES, split="test")
    )
    assert [s.split for s in dataset_samples(both)] == ["train"] * 4 + ["test"] * 2
    odd = whole.cast_column("label", datasets.ClassLabel(names=["photo", "render"]))
    named = dataset_samples(odd, classes={"photo": "real", "render": Label.FAKE})
    assert [s.label for s in named] == [Label.REAL, Label.FAKE] * 2
    with pytest.raises(DataError, match="train/0: label 'photo' is not one of: real, fake"):
        list(dataset_samples(odd))
    with pytest.raises(DataError, match="class 'photo' is not among the given ones: x"):
        list(dataset_samples(odd, classes={"x": "real"}))
    with pytest.raises(DataError, match="no 'label'; the columns are: generator"):
        list(dataset_samples(whole.remove_columns("label")))


def test_bytes_of_images_are_in_no_sample(jpegs: list[bytes]) -> None:
    """Neither the image's own, where its column is one of bytes, nor other columns'."""
    rows = {"image": jpegs, "mask": jpegs, "label": ["real"] * 4, "note": list("abcd")}
    plain = datasets.Dataset.from_dict(rows)
    untold = plain.to_iterable_dataset()
    untold.info.features = None
    assert untold.features is None
    for form in (plain, plain.to_iterable_dataset(), untold):
        assert [s.extra for s in dataset_samples(form, image="image")] == [{"note": note} for note in "abcd"]


def test_a_saved_data_set_is_read_by_the_commands(toy_detector: Detector, tmp_path: Path) -> None:
    known = toy_samples()[:12]
    rows = {
        "image": [{"bytes": s.ref.source, "path": None} for s in known],
        "label": [int(s.label) for s in known],
        "generator": [s.generator for s in known],
    }
    whole = datasets.Dataset.from_dict(rows, features=FEATURES)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, test=whole.select([0])).save_to_disk(tmp_path / "splits")
    assert [s.split for s in open_dataset(tmp_path / "splits")] == ["train"] * 12 + ["test"]
    command("fit", tmp_path / "one", "-o", tmp_path / "mine", "--backbone", "toy", "--uncalibrated")
    expected = build_bank(toy_detector.backbone, view("native"), known, added="x").bank
    fitted = build_bank(toy_detector.backbone, view("native"), open_dataset(tmp_path / "one"), added="x").bank
    np.testing.assert_array_equal(fitted.vectors, expected.vectors)
    np.testing.assert_array_equal(fitted.keys, expected.keys)
    assert (tmp_path / "mine" / "detector.json").is_file()
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="no readable data set of the datasets library"):
        list(open_dataset(tmp_path / "one"))


def test_verdicts_as_columns(toy_detector: Detector, jpegs: list[bytes]) -> None:
    whole = made([b"", *jpegs[1:]])
    for form in (whole, whole.to_iterable_dataset()):
        judged = add_verdicts(form, toy_detector, batch_size=1)
        assert judged.features["image"] == whole.features["image"]
        rows = list(judged.cast_column("image", datasets.Image(decode=False)))  # which the library cannot decode
        assert [r["univfd_status"] for r in rows] == ["failed", "ok", "ok", "ok"]
        assert rows[0]["univfd_error"] == "empty"
        assert [r["univfd_score"] for r in rows[1:]] == pytest.approx(scores(toy_detector, jpegs[1:]))
        assert [r["label"] for r in rows] == [0, 1, 0, 1]
        assert rows[2]["image"]["bytes"] == jpegs[2]
    new = {name.removeprefix("univfd_") for name in judged.features if name.startswith("univfd_")}
    assert new == {n for n, _ in FLAT_COLUMNS if n != "image" and not n.startswith("provenance_")}
    with pytest.raises(UsageError, match=r"the data set has univfd_attribution, .* already; give another prefix"):
        add_verdicts(judged, toy_detector)


def test_no_column_is_overwritten_where_the_data_set_does_not_know_its_columns(
    toy_detector: Detector, jpegs: list[bytes]
) -> None:
    rows = datasets.IterableDataset.from_generator(lambda: ({"image": j, "univfd_verdict": "mine"} for j in jpegs))
    assert rows.features is None
    with pytest.raises(UsageError, match="the data set has univfd_verdict already; give another prefix"):
        list(add_verdicts(rows, toy_detector, image="image"))
    judged = list(add_verdicts(rows, toy_detector, image="image", prefix="x_"))
    assert [(r["univfd_verdict"], r["x_status"]) for r in judged] == [("mine", "ok")] * 4


def test_verdicts_keep_the_format_of_a_data_set(toy_detector: Detector, jpegs: list[bytes]) -> None:
    for whole in (made(jpegs), made(jpegs).select([])):
        assert add_verdicts(whole, toy_detector).format["type"] is None
        chosen = add_verdicts(whole.with_format("numpy", columns=["label"], dtype=np.float32), toy_detector).format
        assert (chosen["type"], chosen["format_kwargs"]) == ("numpy", {"dtype": np.float32})
        assert chosen["columns"][0] == "label"
        assert "univfd_score" in chosen["columns"]
        assert not {"image", "generator"} & set(chosen["columns"])
        every = add_verdicts(whole.with_format("numpy"), toy_detector)
        assert every.format["columns"] == every.column_names
    turned = made(jpegs).with_transform(lambda batch: {"n": [len(batch["univfd_verdict"])]})
    assert add_verdicts(turned, toy_detector)[:3] == {"n": [3]}


def test_no_rows_have_the_columns_too_and_splits_are_named(toy_detector: Detector, jpegs: list[bytes]) -> None:
    judged = add_verdicts(made(jpegs).select([]), toy_detector)
    assert list(judged["univfd_verdict"]) == []
    assert judged.features == add_verdicts(made(jpegs), toy_detector).features
    splits = datasets.DatasetDict({"train": made(jpegs), "test": made(jpegs)})
    for call in (lambda: add_verdicts(splits, toy_detector), lambda: list(toy_detector.detect(splits))):
        with pytest.raises(UsageError, match=r"several splits \(train, test\); choose one"):
            call()


def test_the_cache_of_a_map_knows_the_detector(toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "toy")
    first = VerdictColumns(tmp_path / "toy")
    assert Hasher.hash(VerdictColumns(tmp_path / "toy")) == Hasher.hash(first)
    assert Hasher.hash(VerdictColumns(tmp_path / "toy", max_pixels=5)) != Hasher.hash(first)
    shutil.rmtree(tmp_path / "toy")
    other = replace(toy_detector, calibration=Calibration(slope=1.0, intercept=0.0, fake_above=1.0, real_below=-1.0))
    other.save(tmp_path / "toy")
    assert Hasher.hash(VerdictColumns(tmp_path / "toy")) != Hasher.hash(first)
    with pytest.raises(UsageError, match=r"toy is toy@.* now; this was made for toy@"):
        dill.loads(dill.dumps(first))({"image": []})


def test_a_map_in_other_processes_opens_the_detector_by_name(toy_folder: Path, jpegs: list[bytes]) -> None:
    stored = {"image": [{"bytes": j, "path": None} for j in jpegs]}
    columns = VerdictColumns(toy_folder)
    again = dill.loads(dill.dumps(columns))
    assert again(stored)["univfd_score"] == columns(stored)["univfd_score"]
    with pytest.raises(UsageError, match="an open detector cannot go to another process"):
        dill.loads(dill.dumps(VerdictColumns(columns._detector)))(stored)


def rounded(results: Iterable[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Sums of a batch are added up in another order than those of one image, on some processors."""
    return [[d | {"score": round(d["score"], 9)} for d in each] for each in results]


def test_one_image_a_list_a_generator_a_data_set(calibrated: Detector, jpegs: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpegs[0])
    pipe = pipeline(calibrated)
    chances = [item.probability for item in calibrated.detect(jpegs)]
    one = pipe(str(tmp_path / "x.jpg"))
    assert {d["label"]: d["score"] for d in one} == pytest.approx({"fake": chances[0], "real": 1 - chances[0]})
    assert one[0]["score"] >= one[1]["score"]
    assert pipe(Image.open(tmp_path / "x.jpg"))[0]["score"] == one[0]["score"]
    alone = [pipe(j) for j in jpegs]
    assert rounded(pipe(jpegs)) == rounded(alone)
    for several in (iter(jpegs), made(jpegs), made(jpegs).to_iterable_dataset()):
        results = pipe(several, top_k=1)
        assert not isinstance(results, list)
        assert rounded(results) == rounded([each[:1] for each in alone])
    assert pipe([]) == []


def test_unsure_shows_beside_the_labels(calibrated: Detector, jpegs: list[bytes]) -> None:
    (verdict,) = replace(
        calibrated, calibration=replace(calibrated.calibration, fake_above=1e6, real_below=-1e6)
    ).detect([jpegs[0]])
    assert verdict.verdict == "unsure"
    unsure = pipeline(replace(calibrated, calibration=replace(calibrated.calibration, fake_above=1e6, real_below=-1e6)))
    for each in unsure(jpegs[0]):
        assert each["verdict"] == "unsure"
        assert each["reasons"] == list(verdict.reasons)


def test_what_a_pipeline_refuses(
    toy_detector: Detector, calibrated: Detector, jpegs: list[bytes], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is not calibrated and gives no probabilities"):
        pipeline(toy_detector)
    pipe = pipeline(calibrated)
    with pytest.raises(EmptyFileError):
        pipe(b"")
    with pytest.raises(TruncatedImageError):
        pipe([jpegs[0], jpegs[1][:400]])
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(jpegs[0])
    with pytest.raises(UsageError, match="several images"):
        pipe([tmp_path])
    with pytest.raises(UsageError, match="top_k is 0"):
        pipe(jpegs[0], top_k=0)
    rows = pipeline(calibrated, unreadable="row")([b"", jpegs[0]])
    assert (rows[0][0]["label"], rows[0][0]["score"], rows[0][0]["error"]) == ("failed", None, "empty")
    assert len(rows[1]) == 2


def test_a_table_is_no_list_of_images(calibrated: Detector, jpegs: list[bytes]) -> None:
    """Going through one gives the names of its columns."""
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    classify = pipeline(calibrated, unreadable="row")
    for table in (pd.DataFrame({"image": jpegs}), pl.DataFrame({"image": jpegs}), pa.table({"image": jpegs})):
        with pytest.raises(UsageError, match=r"a table; give one column of it \(table\['path'\]\)"):
            classify(table)
        assert len(list(classify(table["image"]))) == 4


def test_the_pipeline_imports_no_library_of_theirs() -> None:
    code = (
        "import sys, univfd.integrations.huggingface, univfd.datasets; "
        "print(sorted({'datasets', 'transformers', 'torch', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_a_device_in_the_place_of_a_file_is_a_row(toy_detector: Detector) -> None:
    endless = datasets.Dataset.from_dict({"file": ["/dev/zero", "/dev/null"]})
    found = list(toy_detector.detect(dataset_refs(endless, "file")))
    assert [item.error for item in found if isinstance(item, Failure)] == ["access", "access"]
