"""Benchmarks and data sets at their edges: moved collections, numbers of classes, splits, long names."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import run
from conftest import encoded, picture, toy_samples
from test_report import Read
from univfd.benchmark import rendering
from univfd.benchmark.rows import COLUMNS, read_rows, write_rows
from univfd.benchmark.run import run as run_benchmark
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.embedding_cache import EmbeddingCache
from univfd.errors import DataError, UnivFDError, UsageError
from univfd.pairing import CALIPERS, find_pairs
from univfd.types import Label


def laid(folder: Path) -> Path:
    """The toy samples as files in labelled folders."""
    for i, sample in enumerate(toy_samples()):
        place = folder / sample.label.word / (sample.generator or sample.source or "x") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(sample.ref.source)  # type: ignore[arg-type]
    return folder


def pictures_in(page: Path) -> int:
    return len(Read(page.read_text("utf-8")).values("src", "img"))


@pytest.mark.parametrize("elsewhere", ["moved", "far/away", "."])
def test_a_report_finds_pictures_where_the_collection_is_now(
    elsewhere: str, tmp_path: Path, toy_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run speaks of `data/...`; the collection is moved, named by its whole path, or the working folder itself."""
    monkeypatch.chdir(tmp_path)
    laid(Path("data"))
    run_benchmark(list(open_dataset(Path("data"))), [toy_detector], Path("run"), data="data", cache=Path("cache"))
    now = tmp_path / "place" / elsewhere
    now.parent.mkdir(parents=True, exist_ok=True)
    if elsewhere == ".":
        shutil.copytree("data", "place", dirs_exist_ok=True)
        shutil.rmtree("data")
    else:
        shutil.move("data", now)
    report = ["bench", "report", tmp_path / "run", "--rounds", 2, "--thumbnails", 3, "--no-spectra", "--maps", ""]
    run(*report, "--html", "without.html")
    assert pictures_in(Path("without.html")) == 0
    for number, data in enumerate([now, now.relative_to(tmp_path), "."]):
        if data == ".":
            monkeypatch.chdir(now)
        run(*report, "--data", data, "--html", tmp_path / f"{number}.html")
        assert pictures_in(tmp_path / f"{number}.html") == 6


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("old/manifest.jsonl", "new/manifest.jsonl"),
        ("old/manifest.jsonl", "new"),
        ("old", "new/manifest.jsonl"),
        ("old/manifest.jsonl", "new/absolute.jsonl"),
        ("old/shard-0.parquet", "new/shard-0.parquet"),
        ("old/shard-0.parquet", "new/other.parquet"),
        ("old/shard-0.tar", "new/other.tar"),
    ],
)
def test_a_report_finds_pictures_by_manifest_folder_or_shard(
    then: str, now: str, tmp_path: Path, toy_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {f"p/{i}.png": sample for i, sample in enumerate(toy_samples())}
    rows = [{"file": file, "label": sample.label.word} for file, sample in files.items()]
    for file, sample in files.items():
        Path("old", file).parent.mkdir(parents=True, exist_ok=True)
        Path("old", file).write_bytes(sample.ref.source)  # type: ignore[arg-type]
    Path("old/manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if then.endswith(".parquet"):
        contents = [sample.ref.source for sample in files.values()]
        pq.write_table(pa.table({"image": contents, "label": [row["label"] for row in rows]}), then)
    if then.endswith(".tar"):
        with tarfile.open(then, "w") as tar:
            for row in rows:
                tar.add(Path("old", row["file"]), Path(row["file"]).name)
                (Path("old") / "label.cls").write_text(row["label"])
                tar.add("old/label.cls", Path(row["file"]).with_suffix(".cls").name)
    run_benchmark(list(open_dataset(Path(then))), [toy_detector], Path("run"), data=then, cache=Path("cache"))
    Path("old").rename("new")
    if now.startswith("new/other"):
        Path("new", Path(then).name).rename(now)
    if now == "new/absolute.jsonl":
        absolute = [row | {"file": str(tmp_path / "new" / row["file"])} for row in rows]
        Path(now).write_text("\n".join(map(json.dumps, absolute)))
    report = ["bench", "report", "run", "--rounds", 2, "--thumbnails", 3, "--no-spectra", "--maps", ""]
    run(*report, "--data", now, "--html", "page.html")
    assert pictures_in(Path("page.html")) == 6


def test_a_report_of_some_subsets_of_a_suite_has_their_pictures(tmp_path: Path, toy_folder: Path) -> None:
    suite = tmp_path / "mine.toml"
    parts = [f'[[subset]]\nname = "{n}"\nreal = "{n}/real"\nfake = "{n}/fake"\n' for n in ("a", "b")]
    suite.write_text('name = "mine"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n' + "".join(parts))
    laid(tmp_path / "root" / "a")
    run(
        "bench", "run", suite, "--root", tmp_path / "root", "--subset", "a", "--detectors", toy_folder,
        "-o", tmp_path / "run", "--cache", tmp_path / "cache",
    )  # fmt: skip
    page = tmp_path / "page.html"
    run("bench", "report", tmp_path / "run", "--rounds", 2, "--no-spectra", "--maps", "", "--html", page)
    assert pictures_in(page) == 12


def test_options_of_the_page_are_refused_without_one(tmp_path: Path, toy_detector: Detector) -> None:
    run_benchmark(toy_samples()[:20], [toy_detector], tmp_path / "run", data="toy", cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="--thumbnails, --data: of the page, which --no-html leaves out"):
        run("bench", "report", tmp_path / "run", "--no-html", "--data", "x", "--thumbnails", 3)
    assert not (tmp_path / "run" / "tables").exists()
    run("bench", "report", tmp_path / "run", "--no-html", "--rounds", 2)


def test_a_manifest_as_parquet_names_its_classes_as_it_states_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(encoded(picture(1), "PNG"))
    columns = {"file": ["a.png", "b.png", "c.png"], "label": ["real", "real", "fake"]}
    kind = datasets.ClassLabel(names=["fake", "real"])
    features = datasets.Features({"file": datasets.Value("string"), "label": kind})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "list.parquet")
    assert [s.label.word for s in open_dataset(tmp_path / "list.parquet")] == columns["label"]

    table = pq.read_table(tmp_path / "list.parquet")
    odd = table.set_column(1, "label", [[0, 1, 2]]).replace_schema_metadata(table.schema.metadata)
    pq.write_table(odd, tmp_path / "odd.parquet")
    with pytest.raises(DataError, match=r"odd\.parquet, row 3: label 2; the classes are fake, real"):
        list(open_dataset(tmp_path / "odd.parquet"))


def test_images_of_two_splits_are_no_pair() -> None:
    n = 30
    labels = [Label.FAKE] * n + [Label.REAL] * n
    splits = ["train" if i % 7 % 3 else "test" for i in range(2 * n)]
    taken = [{64: 1000 + i % n} for i in range(2 * n)]
    pairs, joined = find_pairs(labels, [""] * 2 * n, taken, splits=splits)
    assert len(pairs) > n / 2
    assert all(splits[p.fake] == splits[p.real] for p in pairs)
    assert all(len({splits[i] for i in range(2 * n) if joined[i] == group}) == 1 for group in Counter(joined))
    free, _ = find_pairs(labels, [""] * 2 * n, taken)
    assert any(splits[p.fake] != splits[p.real] for p in free)
    assert find_pairs(labels, [""] * 2 * n, taken, splits=["train"] * 2 * n)[0] == free


def test_pairs_of_unequal_splits_are_as_narrow_as_they_can_be() -> None:
    """Few pairs can be made within the splits; so few must not look like a failure of the narrow caliper."""
    rng = np.random.default_rng(0)
    labels = [Label.FAKE] * 420 + [Label.REAL] * 420
    splits = ["train"] * 400 + ["test"] * 20 + ["train"] * 20 + ["test"] * 400
    taken = [{64: int(n)} for n in rng.integers(10_000, 11_000, 840)]
    pairs, _ = find_pairs(labels, [""] * 840, taken, splits=splits)
    assert len(pairs) > 20
    assert max(abs(np.log(taken[p.fake][64] / taken[p.real][64])) for p in pairs) <= CALIPERS[0]


def test_a_long_chain_has_a_folder_of_its_own(tmp_path: Path, toy_detector: Detector) -> None:
    chain = "+".join(f"jpeg:{q}" for q in range(60, 96))
    kept = {EmbeddingCache(toy_detector.space, c, tmp_path / "x").folder for c in (chain, chain[:-1] + "4", "jpeg:60")}
    assert len(kept) == 3
    run_benchmark(
        toy_samples()[:6], [toy_detector], tmp_path / "run", data="toy", cache=tmp_path / "cache", perturbations=[chain]
    )
    assert read_rows(tmp_path / "run" / "scores.parquet").cells[0].perturbation == chain


def test_what_refuses_beside_the_score_rows_is_not_said_of_them(tmp_path: Path) -> None:
    def chunks() -> object:
        yield {name: [] for name, _ in COLUMNS}
        raise OSError("the share is gone")

    with pytest.raises(OSError, match="the share is gone") as caught:
        write_rows(tmp_path / "scores.parquet", chunks())  # type: ignore[arg-type]
    assert not isinstance(caught.value, UnivFDError)
    with pytest.raises(UnivFDError, match=r"nowhere/scores\.parquet cannot be written"):
        write_rows(tmp_path / "nowhere" / "scores.parquet", iter(()))


def test_no_row_of_a_table_is_an_argument_in_latex() -> None:
    section = rendering.Section((), [["[3cm] x", 1], ["*", 2]])
    lines = rendering.latex(rendering.Table("t", "T", (), ("name", "n"), (section,))).splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert all(line.startswith("{}") for line in body)


def test_of_a_detector_without_a_bank_it_is_not_known_what_it_was_made_of(
    tmp_path: Path, toy_detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    without = replace(toy_detector, name="net", bank=toy_detector.bank.take([]))
    run_benchmark(toy_samples()[:9], [without], tmp_path / "run", data="toy", cache=tmp_path / "cache")
    assert "net has no bank: whether it was made of these images is not known" in caplog.text
