"""Inputs at their edges: tars with holes, manifests that hold pictures, patterns over loops, streams, odd results."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import run
from conftest import encoded, picture
from univfd import runner
from univfd.calibration import needed_for, threshold_for
from univfd.classifiers.ridge import RidgeProbe
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.errors import DataError, FormatError, TooLargeError, UsageError
from univfd.remote import RemoteDetector
from univfd.sources import expand, read_bytes
from univfd.types import Failure, ImageRef

PNG = encoded(picture(0, 32, 32), "PNG")


def found(*inputs: object) -> list[tuple[str, str]]:
    """Last part of each name, and what it is."""
    items = expand(list(inputs))
    return [(Path(i.name).name, "image") if isinstance(i, ImageRef) else (Path(i.image).name, i.message) for i in items]


# -- tars --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_a_member_with_holes_is_a_row_and_not_another_picture(format: str, tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.write(encoded(picture(1, 64, 64), "BMP"))
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "b.png").write_bytes(PNG)
    subprocess.run(["tar", "-S", f"--format={format}", "-cf", "s.tar", "a.bmp", "b.png"], cwd=tmp_path, check=True)
    (name, message), good = found(tmp_path / "s.tar")
    assert name == "a.bmp"
    assert "stored with holes" in message
    assert good == ("b.png", "image")


def test_of_joined_tars_the_second_is_missed_aloud(tmp_path: Path) -> None:
    for name in "ab":
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo(f"{name}.png")
            info.size = len(PNG)
            tar.addfile(info, io.BytesIO(PNG))
    both = tmp_path / "both.tar"
    both.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    first, (name, message) = found(both)
    assert first == ("a.png", "image")
    assert name == "both.tar"
    assert "more data follow" in message
    assert found(tmp_path / "a.tar") == [first]


def test_a_hard_link_is_to_what_was_there_before_it(tmp_path: Path) -> None:
    pictures = [encoded(picture(i, 16, 16), "PNG") for i in range(2)]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for i, data in enumerate(pictures):
            info = tarfile.TarInfo("a.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            if not i:
                link = tarfile.TarInfo("l.png")
                link.type, link.linkname = tarfile.LNKTYPE, "a.png"
                tar.addfile(link)
    refs = [r for r in expand(tmp_path / "t.tar") if isinstance(r, ImageRef)]
    assert [read_bytes(r) for r in refs] == [pictures[0], pictures[0], pictures[1]]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_manifest_may_have_a_column_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    small = encoded(picture(1, 8, 8), "PNG")
    table = pa.table({"file": ["a.png"], "label": ["real"], "thumbnail": [small]})
    pq.write_table(table, tmp_path / "manifest.parquet")
    (sample,) = open_dataset(tmp_path / "manifest.parquet")
    assert read_bytes(sample.ref) == PNG


def shard(place: Path, label: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [PNG], "label": [label]}), place)


def test_shards_behind_a_link_are_read_and_what_lies_beside_them_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard(tmp_path / "set" / "train" / "a.parquet", "real")
    shard(tmp_path / "elsewhere" / "b.parquet", "fake")
    (tmp_path / "set" / "test").symlink_to(tmp_path / "elsewhere")
    assert [(s.label.word, s.split) for s in open_dataset(tmp_path / "set")] == [("fake", "test"), ("real", "train")]
    (tmp_path / "set" / "stray.png").write_bytes(PNG)
    (tmp_path / "set" / "README.md").symlink_to("nowhere")
    assert len(list(open_dataset(tmp_path / "set"))) == 2
    assert "1 image beside the Parquet shards" in caplog.text
    assert "README.md: no such file" in caplog.text
    (tmp_path / "set" / "c.parquet").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"c\.parquet: no such file"):
        list(open_dataset(tmp_path / "set"))
    pq.write_table(pa.table({"file": [PNG], "label": ["real"]}), tmp_path / "called.parquet")
    assert len(list(open_dataset(tmp_path / "called.parquet"))) == 1


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,label,label\na.png,real,fake\n")
    with pytest.raises(DataError, match="several columns 'label'"):
        list(open_dataset(tmp_path))


# -- patterns ----------------------------------------------------------------------------------------------------------


def test_a_pattern_over_link_loops_finds_each_image_once(tmp_path: Path) -> None:
    for name in ("x.png", "sub/y.png", "sub/z.jpg", ".hidden/h.png", "sub/.k.png", "plain/w.png", "plain/.v.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    for name in ("self", "sub/up", "sub/self"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    items = found(f"{tmp_path}/**/*.png")
    assert [n for n, what in items if what == "image"] == ["w.png", "y.png", "x.png"]
    assert sorted(n for n, what in items if "loop" in what) == ["self", "self", "up"]
    assert [n for n, what in items if "no such file" in what] == ["gone.png"]
    assert [n for n, what in found(f"{tmp_path}/**/[yz].*") if what == "image"] == ["y.png", "z.jpg"]
    assert [n for n, what in found(f"{tmp_path}/**/pl?in") if what == "image"] == [".v.png", "w.png"]


@pytest.mark.parametrize("pattern", ["**/*.png", "d/**", "./d/**/e/*.png", "*/e/**/*.png", "nowhere/**/*.png"])
def test_patterns_below_here_are_those_of_a_shell(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import glob

    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "d/b.png", "d/e/c.png", "d/e/f/g.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(PNG)
    theirs = {str(Path(p)) for p in glob.glob(pattern, recursive=True) if Path(p).is_file()}  # noqa: PTH207
    assert {i.name for i in expand(pattern) if isinstance(i, ImageRef)} == theirs


def test_a_pattern_walks_only_where_it_may_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd.sources import _walk

    for name in ("a/train/x.png", "a/other/y.png", "b/train/deep/z.png", ".cache/train/h.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    assert found(f"{tmp_path}/**/train/../other/*.png") == [("y.png", "image")]
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    opened, honest = [], _walk._open_folder
    monkeypatch.setattr("univfd.sources._walk._open_folder", lambda f, above: opened.append(f) or honest(f, above))
    assert found(f"{tmp_path}/*/train/**/*.png") == [("x.png", "image"), ("z.png", "image")]
    assert {str(f.relative_to(tmp_path)) for f in opened} == {"a/train", "b/train", "b/train/deep"}


# -- streams and lists -------------------------------------------------------------------------------------------------


def test_a_stream_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"b\xff.png")
    file.write_bytes(PNG)
    closed = file.open("rb")
    closed.close()
    with file.open("rb") as good, file.open(encoding="utf-8") as text:
        items = list(expand([closed, text, io.StringIO("x"), good]))
    assert [isinstance(i, Failure) for i in items] == [True, True, True, False]
    assert "binary mode" in items[2].message  # type: ignore[union-attr]
    items[3].name.encode()  # type: ignore[union-attr]


def test_a_list_may_begin_with_a_byte_order_mark(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(0, 240, 240), "PNG"))
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbf" + os.fsencode(tmp_path / "a.png") + b"\r\n")
    (row,) = run("detect", "--from-file", listed, "--detector", toy_folder, "--jsonl").stdout.splitlines()
    assert json.loads(row)["status"] == "ok"


def test_a_folder_s_failed_row_is_called_as_its_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("photos/", "./photos", "photos"):
        (failure,) = expand(typed)
        assert isinstance(failure, Failure)
        assert failure.image == "photos"


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_csv_result_can_be_gone_on_with_whatever_the_names(toy_detector: Detector, tmp_path: Path) -> None:
    out, long = tmp_path / "r.csv", "n" * 140_000
    inputs = [ImageRef(long, encoded(picture(0, 240, 240), "PNG")), ImageRef("", b"no image")]

    def judged(resume: bool) -> list[str]:
        made = runner.run(toy_detector.detect, inputs, out, "csv", detector=toy_detector.identity, resume=resume)
        return [str(r["image"]) for r in made]

    assert judged(resume=False) == judged(resume=True) == [long, ""]
    out.write_text('image,status\n"' + "x" * (1 << 25))
    with pytest.raises(FormatError, match="no result of this program"):
        judged(resume=True)


# -- a service ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://my..host:80", "http://127.0.0.1:9/é", "http://127.0.0.1:1/a b"])
def test_an_address_that_cannot_be_asked_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a service"):
        RemoteDetector(url)


@pytest.mark.parametrize("key", ["abc\n", "schlüssel", "a\x00b"])
def test_a_key_that_is_none_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError, match="signs that no key has") as error:
        RemoteDetector("http://127.0.0.1:9", key=key)
    assert key not in str(error.value)


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "confidence"), [(0.2, 0.36), (0.05, 0.9), (0.01, 0.99), (0.5, 0.5), (0.3, 0.1)])
def test_so_many_images_are_needed_as_the_threshold_takes(rate: float, confidence: float) -> None:
    need = needed_for(rate, confidence)
    threshold_for(np.arange(need, dtype=float), rate, confidence)
    with pytest.raises(DataError):
        threshold_for(np.arange(need - 1, dtype=float), rate, confidence)


def test_a_rate_of_almost_nothing_needs_very_many() -> None:
    assert needed_for(1e-17, 0.9) > 1e17


def test_words_as_labels_are_warned_of() -> None:
    X = np.array([[0.0], [1.0], [0.1], [0.9]], np.float32)
    with pytest.warns(UserWarning, match="higher score means real"):
        RidgeProbe().fit(X, ["real", "fake", "real", "fake"])


def test_what_is_too_large_for_the_service_is_not_sent() -> None:
    remote = RemoteDetector("http://127.0.0.1:9")
    remote._most = 10
    (row,) = remote.detect([ImageRef("a.png", b"x" * 11)])
    assert (row.row["status"], row.row["error"]) == ("failed", TooLargeError.code)


def test_the_names_of_results_can_be_given_again(tmp_path: Path) -> None:
    """A list of the worst of a crawl names members of tars and rows of Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["a.jpg", "./b.jpg", "sub/c.jpg"]
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = encoded(picture(i))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table({"image": [encoded(picture(i)) for i in range(3)]}), tmp_path / "p.parquet")
    for container in ("s.tar", "p.parquet"):
        for ref in expand(tmp_path / container):
            assert isinstance(ref, ImageRef)
            assert [r.source for r in expand(ref.name) if isinstance(r, ImageRef)] == [ref.source]
    for wrong in ("s.tar/absent.jpg", "p.parquet/3", "p.parquet/x"):
        [failure] = expand(tmp_path / wrong)
        assert isinstance(failure, Failure)
        assert "holds no image of this name" in failure.message
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "bare.parquet")
    for name in ("broken.tar/a.jpg", "broken.parquet/0", "bare.parquet/0"):
        [failure] = expand(tmp_path / name)
        assert isinstance(failure, Failure)
        assert failure.image.endswith(name)
        assert "of this name" not in failure.message
    (tmp_path / "plain.txt").write_text("x")
    [failure] = expand(tmp_path / "plain.txt" / "a.jpg")
    assert isinstance(failure, Failure)
    assert "Not a directory" in failure.message


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://example.org/a.jpg", "nothing is fetched from the web"),
        ("HTTP://example.org/a*.jpg", "nothing is fetched from the web"),
        ("s3://bucket/a.jpg", "are read with --ray"),
        ("data:image/png;base64,aaaa", "nothing is fetched from the web"),
    ],
)
def test_an_address_is_no_path(address: str, said: str) -> None:
    [failure] = expand(address)
    assert isinstance(failure, Failure)
    assert (failure.image, failure.error) == (address, "access")
    assert said in failure.message
