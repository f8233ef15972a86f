from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import encoded, picture
from univfd.datasets import open_dataset
from univfd.errors import DataError, FileAccessError
from univfd.sources import read_bytes
from univfd.types import Label

PNG = encoded(picture(0, 32, 32), "PNG")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def seen(path: Path) -> list[tuple[str, Label, str, str]]:
    return [(Path(s.ref.name).name, s.label, s.generator, s.source) for s in open_dataset(path)]


@pytest.mark.parametrize(("real", "fake"), [("0_real", "1_fake"), ("real", "fake"), ("nature", "ai"), ("Real", "FAKE")])
def test_generator_above_the_label_folder(tmp_path: Path, real: str, fake: str) -> None:
    tree(tmp_path, f"progan/{real}/a.png", f"progan/{fake}/b.v2.PNG")
    expected = [("a.png", Label.REAL, "", "progan"), ("b.v2.PNG", Label.FAKE, "progan", "progan")]
    assert sorted(seen(tmp_path)) == expected


def test_generator_below_the_label_folder_and_classes_below_that(tmp_path: Path) -> None:
    tree(tmp_path, "fake/sdxl/cat/x.png", "real/coco/y.png")
    assert seen(tmp_path) == [("x.png", Label.FAKE, "sdxl", "sdxl"), ("y.png", Label.REAL, "", "coco")]


def test_class_folders_above_the_label_folder(tmp_path: Path) -> None:
    tree(tmp_path, "progan/cat/0_real/a.png", "progan/cat/1_fake/b.png")
    assert [s[1] for s in seen(tmp_path)] == [Label.REAL, Label.FAKE]


def test_the_label_is_never_a_substring(tmp_path: Path) -> None:
    """`realistic` and `deepfake` are no label folders; the deepest one counts."""
    tree(tmp_path, "fake_or_real/realistic/fake/a.png", "fake_or_real/real/deepfake-news/b.png", "fake/x/real/c.png")
    assert {(n, label) for n, label, *_ in seen(tmp_path)} == {
        ("a.png", Label.FAKE), ("b.png", Label.REAL), ("c.png", Label.REAL),
    }  # fmt: skip


def test_a_root_that_is_called_like_a_label_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images in \. lie in no label folder"):
        seen(tree(tmp_path / "real", "a.png"))


def test_only_some_splits(tmp_path: Path) -> None:
    tree(tmp_path, "train/real/a.png", "val/real/b.png", "test/fake/c.png")
    assert [Path(s.ref.name).name for s in open_dataset(tmp_path, splits=["train", "val"])] == ["a.png", "b.png"]
    with pytest.raises(DataError, match="of the split 'trian'; splits of these data: test, train, val"):
        list(open_dataset(tmp_path, splits=["trian"]))
    with pytest.raises(DataError, match="splits of these data: none is named"):
        list(open_dataset(tree(tmp_path / "flat", "real/a.png"), splits=["test"]))


def test_nothing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        seen(tmp_path)
    with pytest.raises(DataError, match="is no data set"):
        seen(tmp_path / "gone")
    tree(tmp_path, "real/a.png")
    (tmp_path / "real" / "loop.png").symlink_to("loop.png")
    good, bad = open_dataset(tmp_path)
    assert good.label is bad.label is Label.REAL
    with pytest.raises(FileAccessError, match="leads back to itself"):
        read_bytes(bad.ref)


def test_manifests(tmp_path: Path) -> None:
    rows = [
        {
            "file": "x/a.png",
            "label": "fake",
            "generator": "sdxl",
            "source": "web",
            "license": "CC0",
            "group": "g",
            "n": 1,
        },
        {"file": "b.png", "label": 0, "generator": None, "source": "coco"},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for path in (tmp_path, tmp_path / "manifest.jsonl"):
        first, second = open_dataset(path)
        assert (first.label, first.generator, first.source, first.licence, first.group) == (
            1,
            "sdxl",
            "web",
            "CC0",
            "g",
        )
        assert first.ref.source == tmp_path / "x" / "a.png"
        assert first.extra == {"n": 1}
        assert (second.label, second.generator, second.source) == (0, "", "coco")
    (tmp_path / "t.csv").write_text("file,label,source\na.png,real,coco\n")
    assert [s.source for s in open_dataset(tmp_path / "t.csv")] == ["coco"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file": "a.png"}\n', "row 1: no column 'label'"),
        ('{"file": "a.png", "label": "maybe"}\n', "row 1: label 'maybe' is not one of"),
        ('{"file": "a.png", "label": "real"}\nnonsense\n', "line 2 is no JSON"),
    ],
)
def test_bad_manifests_name_the_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        list(open_dataset(tmp_path / "m.jsonl"))


@pytest.mark.parametrize("row", ["[1, 2]", '{"file": null, "label": "real"}', '"text"'])
def test_rows_that_are_no_rows(tmp_path: Path, row: str) -> None:
    (tmp_path / "m.jsonl").write_text(row + "\n")
    with pytest.raises(DataError, match="row 1 is"):
        list(open_dataset(tmp_path / "m.jsonl"))


def test_a_byte_order_mark_and_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufefffile,label\na.png,real\n".encode())
    assert len(list(open_dataset(tmp_path / "t.csv"))) == 1
    (tmp_path / "t.csv").write_bytes("file,label\n\xe9.png,real\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(open_dataset(tmp_path / "t.csv"))
