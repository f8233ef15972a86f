"""Parquet files of images as inputs: one row an image, whatever is wrong with it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import run
from conftest import encoded, picture
from univfd.benchmark.rows import read_rows
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.errors import DataError, FormatError, TruncatedImageError, UsageError
from univfd.images import decode
from univfd.sources import expand, in_column, read_bytes
from univfd.types import Failure, ImageRef, Verdict

PICTURES = [encoded(picture(i, 240, 240), "PNG") for i in range(5)]


def shard(path: Path, values: list[Any], column: str = "image", group: int = 2, **others: list[Any]) -> Path:
    pq.write_table(pa.table({column: values, **others}), path, row_group_size=group)
    return path


def test_names_of_columns_that_are_no_text_are_damage(toy_detector: Detector, tmp_path: Path) -> None:
    path = shard(tmp_path / "shard.parquet", PICTURES[:2], label_x=[0, 1])
    path.write_bytes(path.read_bytes().replace(b"label_x", b"label_\xff"))
    (row,) = toy_detector.detect(path)
    assert isinstance(row, Failure)
    assert row.error == "not-an-image"
    with pytest.raises(DataError, match="no readable Parquet file"):
        list(open_dataset(path))
    with pytest.raises(FormatError, match="cannot be read as score rows"):
        read_rows(path)


def test_rows_in_order_with_the_bad_ones_in_their_place(toy_detector: Detector, tmp_path: Path) -> None:
    good = PICTURES
    rows = [good[0], b"", good[1], None, good[2][:400], good[3], b"no image"]
    structs = [{"bytes": value, "path": f"{i}.png"} for i, value in enumerate(rows)]
    plain = shard(tmp_path / "plain.parquet", rows)
    nested = shard(tmp_path / "nested.parquet", structs, "photo")
    for path in (plain, nested):
        got = list(toy_detector.detect(path))
        assert [g.image for g in got] == [f"{path}/{i}" for i in range(7)]
        errors = [g.error if isinstance(g, Failure) else "" for g in got]
        assert errors == ["", "empty", "", "empty", "truncated", "", "not-an-image"]
    files = [tmp_path / f"{i}.png" for i in (0, 2, 5)]
    for file, i in zip(files, (0, 2, 5), strict=True):
        file.write_bytes(rows[i])  # type: ignore[arg-type]
    expected = [v.score for v in toy_detector.detect(files) if isinstance(v, Verdict)]
    assert [v.score for v in toy_detector.detect(plain) if isinstance(v, Verdict)] == expected


def test_a_file_that_is_named_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    numbers = shard(tmp_path / "numbers.parquet", [1, 2, 3], "n")
    text = tmp_path / "text.parquet"
    text.write_text("not at all")
    whole = shard(tmp_path / "whole.parquet", PICTURES).read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole[: len(whole) // 2])
    for path, words in (
        (numbers, "without a column of image bytes"),
        (text, "not a readable"),
        (cut, "not a readable"),
    ):
        (failure,) = list(expand(path))
        assert isinstance(failure, Failure)
        assert failure.error == "not-an-image"
        assert words in failure.message


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", [bytes(np.random.default_rng(i).bytes(5000)) for i in range(4)])
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    refs = [r for r in expand(path) if isinstance(r, ImageRef)]
    assert len(refs) == 4
    assert len(read_bytes(refs[0])) == 5000
    with pytest.raises(TruncatedImageError, match="row group 1 is damaged"):
        read_bytes(refs[2])


def test_in_a_folder_only_those_with_images_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard(tmp_path / "images.parquet", PICTURES[:2])
    shard(tmp_path / "rows.parquet", ["a.png"], "file", label=["real"])
    (tmp_path / "c.png").write_bytes(PICTURES[2])
    with caplog.at_level(logging.WARNING):
        refs = list(expand(tmp_path))
    assert [Path(r.name).relative_to(tmp_path).as_posix() for r in refs if isinstance(r, ImageRef)] == [
        "c.png",
        "images.parquet/0",
        "images.parquet/1",
    ]
    assert "1 file " in caplog.text
    assert [decode(r).pixels.shape for r in refs if isinstance(r, ImageRef)] == [(240, 240, 3)] * 3


def test_a_column_that_is_named_is_read(tmp_path: Path) -> None:
    """Of several columns of bytes none may have a usual name; names of rows lead back to the same column."""
    first, second = PICTURES[:3], PICTURES[2:]
    many = shard(tmp_path / "a.parquet", first, "front", back=second)
    (tmp_path / "b").mkdir()
    shard(tmp_path / "b" / "c.parquet", [{"bytes": data, "path": "x"} for data in second], "back")
    (tmp_path / "b" / "notes.txt").write_text("words")
    (tmp_path / "b" / "d.parquet").write_bytes(b"no parquet")
    assert [isinstance(ref, Failure) for ref in expand(many)] == [True]
    found = list(in_column([str(tmp_path)], "back"))
    names = [ref.name if isinstance(ref, ImageRef) else f"failed {ref.image}" for ref in found]
    numbers = range(3)
    assert names == [
        *(f"{tmp_path}/a.parquet/{i}" for i in numbers),
        *(f"{tmp_path}/b/c.parquet/{i}" for i in numbers),
        f"failed {tmp_path}/b/d.parquet",
    ]
    assert [read_bytes(ref) for ref in found if isinstance(ref, ImageRef)] == 2 * second
    for ref in found:
        if isinstance(ref, ImageRef):
            assert list(in_column([ref.name], "back")) == [ref]
    [absent, gone] = in_column([f"{many}/3", str(tmp_path / "none.parquet")], "back")
    assert isinstance(absent, Failure)
    assert "holds no image of this name" in absent.message
    assert isinstance(gone, Failure)
    with pytest.raises(UsageError, match=r"a\.parquet has no column 'side'; it has front, back"):
        list(in_column([str(many)], "side"))


def test_a_named_column_of_something_else_fails_row_by_row(toy_detector: Detector, tmp_path: Path) -> None:
    """`bytes` of a number or of a list would be bytes, of no image that anyone stored."""
    path = shard(tmp_path / "a.parquet", [7, None], "n", words=["x", None], lists=[[1, 2], None])
    for column, kind in (("n", "int"), ("words", "str"), ("lists", "list")):
        wrong, lacking = toy_detector.detect(in_column([str(path)], column))
        assert isinstance(wrong, Failure)
        assert wrong.message == f"the row holds no bytes of an image but {kind}"
        assert isinstance(lacking, Failure)
        assert lacking.error == "empty"


def test_what_this_package_wrote_is_passed_over_below_a_folder(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", PICTURES[:2])
    own = pa.table({"image": PICTURES[:1]}).replace_schema_metadata({"univfd": "1"})
    pq.write_table(own, tmp_path / "b.parquet")
    assert len(list(in_column([str(tmp_path)], "image"))) == 2
    assert len(list(in_column([str(tmp_path / "b.parquet")], "image"))) == 1


def test_commands_take_the_column(toy_folder: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", PICTURES[:3], "front", back=PICTURES[2:])
    keys = [hashlib.sha256(data).hexdigest() for data in PICTURES[2:]]
    result = run("detect", path, "--image-column", "back", "--detector", toy_folder, "--jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["image"], row["sha256"]) for row in rows] == [(f"{path}/{i}", key) for i, key in enumerate(keys)]
    run("embed", path, "--image-column", "back", "--backbone", "toy", "-o", tmp_path / "vectors")
    embedded = (tmp_path / "vectors" / "rows.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["sha256"] for line in embedded] == keys
    with pytest.raises(UsageError, match="has no column 'side'"):
        run("detect", path, "--image-column", "side", "--detector", toy_folder)


def test_labels_come_from_the_row(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.parquet", PICTURES[:2], label=["real", "fake"], generator=["", "sdxl"], note=["a", "b"])
    samples = list(open_dataset(path))
    assert [(s.label.word, s.generator, s.extra["note"]) for s in samples] == [("real", "", "a"), ("fake", "sdxl", "b")]
    assert read_bytes(samples[1].ref) == PICTURES[1]
    with pytest.raises(DataError, match=r"x\.parquet/0: label 'perhaps'"):
        list(open_dataset(shard(path, PICTURES[:1], label=["perhaps"])))
    with pytest.raises(DataError, match="no 'label'"):
        list(open_dataset(shard(path, PICTURES[:1])))


def test_other_columns_of_bytes_are_not_kept(tmp_path: Path) -> None:
    """Those of a whole collection would not fit into memory."""
    mask = {"bytes": PICTURES[1], "path": None}
    others = {
        "label": ["real", "fake"], "note": ["a", "b"], "boxes": [[1, 2], []], "mask": [mask, mask],
        "thumb": [b"x", None], "crops": [[b"x"], []], "inner": [{"masks": [mask]}] * 2, "place": [{"x": 1}] * 2,
    }  # fmt: skip
    path = shard(tmp_path / "x.parquet", PICTURES[:2], **others)
    assert [s.extra for s in open_dataset(path)] == [
        {"note": "a", "boxes": [1, 2], "place": {"x": 1}},
        {"note": "b", "boxes": [], "place": {"x": 1}},
    ]
    listed = shard(tmp_path / "rows.parquet", ["a.png", "b.png"], "file", **others)
    assert [s.extra["note"] for s in open_dataset(listed)] == ["a", "b"]
    assert not {"mask", "thumb", "crops", "inner"} & set(next(iter(open_dataset(listed))).extra)
    both = shard(tmp_path / "two.parquet", PICTURES[:2], mask=[mask, mask])
    with pytest.raises(DataError, match="no 'label'"):
        list(open_dataset(both))


def test_a_listing_for_a_cluster_names_the_rows(tmp_path: Path) -> None:
    """Shards that lie in a walked folder, beside other images."""
    from univfd.distributed.entry import table_of
    from univfd.distributed.listing import entries, references

    shard(tmp_path / "images.parquet", [{"bytes": b, "path": None} for b in (*PICTURES[:3], None)])
    (tmp_path / "a.png").write_bytes(PICTURES[4])
    alone = list(expand(tmp_path))
    there = list(references(table_of(entries([tmp_path]))))
    for one, other in zip(alone, there, strict=True):
        assert isinstance(one, ImageRef)
        if isinstance(other, Failure):
            assert (other.image, other.error) == (one.name, "empty")
        else:
            assert (other.name, read_bytes(other)) == (one.name, read_bytes(one))
    assert [isinstance(r, Failure) for r in there] == [False, False, False, False, True]
