"""Listings, audits, matching, calibration and their commands at the edges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import commands
from conftest import encoded, picture
from univfd import pairing, samples
from univfd.calibration import Calibration
from univfd.cli._ray import place
from univfd.detector import Detector
from univfd.distributed.entry import table_of
from univfd.distributed.listing import entries, references
from univfd.errors import FormatError, OutputExistsError, UnivFDError
from univfd.evaluation import Cohort
from univfd.metadata_detector import at_random
from univfd.pairing import find_pairs
from univfd.sources import expand
from univfd.suites import open_suite
from univfd.types import Failure, ImageRef, Label, Verdict


def univfd(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "univfd", *map(str, arguments)], capture_output=True)


def shard(path: Path, n: int, group: int | None = None) -> Path:
    pq.write_table(
        pa.table({"image": [encoded(picture(i, 40, 30)) for i in range(n)]}), path, row_group_size=group or n
    )
    return path


def by_workers(*inputs: object) -> list[ImageRef | Failure]:
    """As a worker of a cluster reads a listing."""
    return list(references(table_of(list(entries(inputs, image_column="image")))))


def damage(path: Path, group: int) -> None:
    column = pq.ParquetFile(path).metadata.row_group(group).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(raw)


def test_a_shard_that_is_listed_twice_has_its_rows_twice(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", 5)
    twice = by_workers(str(path), str(path))
    assert [r.name for r in twice] == [f"{path}/{i}" for i in range(5)] * 2
    assert [type(r.source) for r in twice if isinstance(r, ImageRef)] == [bytes] * 10


def test_rows_that_a_shard_no_longer_has_are_failures(tmp_path: Path, toy_detector: Detector) -> None:
    path = shard(tmp_path / "a.parquet", 8)
    listed = table_of(list(entries([str(path)], image_column="image")))
    waiting = list(expand(path))
    shard(path, 3)
    found = list(references(listed))
    assert [type(r) for r in found] == [ImageRef] * 3 + [Failure] * 5
    assert {r.error for r in found if isinstance(r, Failure)} == {"truncated"}
    rows = list(toy_detector.detect(waiting))
    assert [type(r) for r in rows] == [Verdict] * 3 + [Failure] * 5
    assert {r.error for r in rows if isinstance(r, Failure)} == {"truncated"}


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path, toy_detector: Detector) -> None:
    path = shard(tmp_path / "a.parquet", 10, 2)
    damage(path, 1)
    alone = list(toy_detector.detect(path))
    there = by_workers(str(path))
    assert [type(r) for r in alone] == [Verdict] * 2 + [Failure] * 2 + [Verdict] * 6
    assert [r.error if isinstance(r, Failure) else "" for r in alone] == [
        r.error if isinstance(r, Failure) else "" for r in there
    ]


def test_file_urls_are_walked_as_paths_are(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(picture(1), "PNG"))
    Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.png")).write_bytes(encoded(picture(2), "PNG"))
    (folder / "loop").symlink_to(folder)
    of_url = [(e.name, e.kind) for e in entries([folder.as_uri()])]
    assert of_url == [(e.name, e.kind) for e in entries([folder])]
    assert len(of_url) == 3


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("file:///tmp/x", "file:///tmp/x"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://b/x?endpoint_override=http://h:9000", "s3://b/x?endpoint_override=http://h:9000"),
        ("s3://b/x?scheme=https&endpoint_override=https://h", "s3://b/x?scheme=https&endpoint_override=https://h"),
    ],
)
def test_addresses_survive_being_paths(given: str, meant: str) -> None:
    assert place(Path(given)) == meant


def cohort(groups: list[str], labels: list[int]) -> Cohort:
    nothing = np.array([""] * len(labels))
    return Cohort(np.array(labels, np.uint8), nothing, nothing, np.array(groups))


@pytest.mark.parametrize(("fakes", "reals"), [((4, 200), (1, 40)), ((1, 60), (4, 240)), ((1, 60), (1, 60))], ids=str)
def test_classes_of_few_groups_are_not_told_by_their_shares(fakes: tuple[int, int], reals: tuple[int, int]) -> None:
    """Both classes of one law; a fold that held all of a class left nothing to train on, and its scores were 0."""
    groups = [f"f{i % fakes[0]}" for i in range(fakes[1])] + [f"r{i % reals[0]}" for i in range(reals[1])]
    rng = np.random.default_rng(5)
    table = rng.uniform(1, 100, (len(groups), 3))
    from univfd.metadata import Features

    check = at_random(
        cohort(groups, [1] * fakes[1] + [0] * reals[1]),
        Features(("a", "b", "c"), table.astype(np.float32), (False,) * 3),
        seed=0,
    )
    assert 0.38 < check.auroc.value < 0.62


def test_many_groups_on_pure_noise_are_near_a_half() -> None:
    rng = np.random.default_rng(1)
    from univfd.metadata import Features

    groups = [f"{label}{i % 6}" for label in "fr" for i in range(150)]
    values = [
        at_random(
            cohort(groups, [1] * 150 + [0] * 150),
            Features(("a", "b"), rng.normal(50, 9, (300, 2)).astype(np.float32), (False,) * 2),
            seed=s,
        ).auroc.value
        for s in range(4)
    ]
    assert 0.42 < np.mean(values) < 0.58


def test_pairs_of_two_large_groups_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every real was asked for every fake, at each size and within each caliper."""
    n, asked = 1500, []
    whole = pairing._Groups.may_join
    monkeypatch.setattr(pairing._Groups, "may_join", lambda self, a, b: asked.append(a) or whole(self, a, b))
    labels = [Label.FAKE] * n + [Label.REAL] * n
    pairs, _ = find_pairs(labels, ["f"] * n + ["r"] * n, [{64: 1000 + i % 7} for i in range(2 * n)])
    assert pairs == []
    assert len(asked) <= len(pairing.CALIPERS) * n


def test_a_large_group_in_the_way_hides_no_pair() -> None:
    """600 reals of one film are nearer to each fake than the reals that it may be paired with."""
    labels = [Label.FAKE] * 40 + [Label.REAL] * 660
    groups = [f"f{i // 2}" for i in range(40)] + ["film"] * 600 + [f"r{i // 2}" for i in range(60)]
    sizes = [100_000 + i for i in range(40)] + [100_020] * 600 + [100_300 + i for i in range(60)]
    pairs, _ = find_pairs(labels, groups, [{64: n} for n in sizes])
    assert len(pairs) == 40


def test_copies_of_one_file_are_not_compared_with_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd.scan import Copy, _Seen, _Tally
    from univfd.types import Sample

    tally, compared = _Tally(), []
    whole = Copy.__eq__
    monkeypatch.setattr(Copy, "__eq__", lambda self, other: compared.append(self) or whole(self, other))
    for i in range(3_000):
        ref = ImageRef(f"{i}.jpg", tmp_path / f"{i}.jpg")
        tally.add(_Seen(Sample(ref, Label.REAL), "ab" * 32, None, "JPEG", 10, 10, 100))
    assert len(compared) < 3_000  # of four and a half million pairs
    assert len(tally.report().copies[0].files) == 3_000


def test_a_score_on_both_thresholds_is_no_promised_real() -> None:
    promised = Calibration(fake_above=0.5, real_below=0.5, max_fpr=0.05, max_miss=0.05, confidence=0.9)
    assert [promised.verdict(s) for s in (0.4, 0.5, 0.6)] == ["real", "unsure", "fake"]
    assert Calibration(fake_above=0.0, real_below=0.0).verdict(0.0) == "real"
    assert Calibration(fake_above=0.5, real_below=0.5, max_fpr=0.05, confidence=0.9).verdict(0.5) == "real"


@pytest.mark.parametrize("value", ["nan", "1e-9", "0", "-1", "inf"])
def test_a_limit_of_pixels_is_at_least_one(value: str, tmp_path: Path) -> None:
    done = univfd("scan", tmp_path, "--max-pixels", value)
    assert done.returncode == 2
    assert b"--max-pixels" in done.stderr


@pytest.mark.parametrize(
    ("value", "said"), [("5%", "write 0.05 for 5 %"), ("1", "write 0.01 for 1 %"), ("2.5", "0.025")]
)
def test_percent_are_told_how_to_be_written(value: str, said: str, tmp_path: Path) -> None:
    done = univfd("calibrate", "--real", tmp_path, "--max-fpr", value, "-o", tmp_path / "x")
    assert done.returncode == 2
    assert said in done.stderr.decode()


SUITE = """
name = "x"
title = "t"
url = "u"
get = "g"
root = "r"
citation = "c"
licence = "l"
note = ""
[[subset]]
name = "one"
real = {real}
fake = ["fake/**"]
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("real/s/a.jpg", "real/s/b.jpg", "fake/g/a.jpg", "fake/g/h/b.jpg"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(len(name) + ord(name[-5]), 40, 30)))
    return tmp_path / "d"


def test_an_image_below_two_patterns_is_one(data: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE.format(real='["real", "real/*", "real"]'))
    suite = open_suite(tmp_path / "s.toml")
    [found] = suite.check(data)
    assert found.images == {"real": 2, "fake": 2}
    assert sum(1 for _ in found.subset.samples(found.found)) == 4


def test_a_pattern_that_python_cannot_take_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE.format(real='"a**b"'))
    with pytest.raises(FormatError, match=r"a\*\*b"):
        open_suite(tmp_path / "s.toml")


def test_an_unreadable_file_is_a_line_of_its_subset(data: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE.format(real='"real"') + '[[archive]]\nfile = "z.zip"\nmd5 = "00"\n')
    (data / "real" / "s" / "zz.jpg").symlink_to(tmp_path / "nowhere")
    done = univfd("suites", "check", tmp_path / "s.toml", data, "--checksums")
    assert done.returncode == 2
    assert b"zz.jpg: no such file" in done.stdout
    assert b"z.zip" in done.stdout


def test_an_interrupted_benchmark_leaves_no_scratch_file(
    data: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from univfd.benchmark import run

    whole = run.write_rows

    def interrupted(path: Path, chunks: object) -> None:
        whole(path, chunks)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    arguments = ["bench", "run", data, "--detectors", toy_folder, "-o", tmp_path / "r"]
    with monkeypatch.context() as now:
        now.setattr(run, "write_rows", interrupted)
        with pytest.raises((KeyboardInterrupt, click.exceptions.Abort)):
            commands.run(*arguments)
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["run.json"]
    commands.run(*arguments, "--resume")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["run.json", "scores.parquet"]


def test_a_benchmark_of_a_folder_whose_name_is_no_unicode(data: Path, toy_folder: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    data.rename(odd)
    done = univfd("bench", "run", odd, "--detectors", toy_folder, "-o", tmp_path / "r", "--cache", tmp_path / "c")
    assert done.returncode == 0, done.stderr


def test_the_demos_images_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    images = [samples.DemoImage(tmp_path / name, Label.FAKE, "o", "g") for name in ("a.jpg", "absent.jpg")]
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UnivFDError):
        samples.save(images, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    samples.save(images[:1], tmp_path / "demo")
    assert (tmp_path / "demo" / "fake" / "g" / "a.jpg").read_bytes() == b"x"
    with pytest.raises(OutputExistsError):
        samples.save(images[:1], tmp_path / "demo")
