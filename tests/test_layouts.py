"""The same small collection in every layout gives the same samples."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from conftest import encoded, picture
from layouts import LAYOUTS, add, items, write
from univfd.backbones import Backbone
from univfd.building import build_bank
from univfd.datasets import open_dataset
from univfd.errors import DataError, FileAccessError, NotAnImageError
from univfd.sources import read_bytes
from univfd.types import Label, Sample
from univfd.views import view

PNG = encoded(picture(0, 32, 32), "PNG")


def told(sample: Sample) -> tuple[object, ...]:
    return (
        read_bytes(sample.ref), sample.label, sample.generator, sample.source, sample.family, sample.split,
        sample.extra.get("class"),
    )  # fmt: skip


def expected() -> set[tuple[object, ...]]:
    rows = [(item.data, item.row) for item in items()]
    return {
        (d, Label.parse(r["label"]), r["generator"], r["source"], r["family"], r["split"], r["class"]) for d, r in rows
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_samples(layout: str, tmp_path: Path) -> None:
    samples = list(open_dataset(LAYOUTS[layout](tmp_path)))
    assert len(samples) == len(items())
    assert set(map(told, samples)) == expected()


def placed(root: Path, *names: str) -> set[tuple[str, Label, str, str, str, str]]:
    for name in names:
        write(root / name, PNG)
    return {
        (s.ref.name.rpartition("/")[2], s.label, s.generator, s.source, s.split, s.extra.get("class", ""))
        for s in open_dataset(root)
    }


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    """ProGAN's test set has a class of trains beside the nineteen others; GenImage has splits of that name."""
    progan, vqdm = ("train/0_real/a.png", "sofa/1_fake/b.png"), ("train/ai/c.png", "val/nature/d.png")
    assert placed(tmp_path, *(f"progan/{p}" for p in progan), *(f"vqdm/{p}" for p in vqdm)) == {
        ("a.png", Label.REAL, "", "progan", "", "train"),
        ("b.png", Label.FAKE, "progan", "progan", "", "sofa"),
        ("c.png", Label.FAKE, "vqdm", "vqdm", "train", ""),
        ("d.png", Label.REAL, "", "vqdm", "val", ""),
    }  # fmt: skip


def test_folders_without_images_do_not_hide_a_split(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "notes.json", b"{}")
    found = placed(tmp_path, "Training/real/coco/a.png", "validation/fake/sdxl/b.png")
    assert {(f[3], f[4]) for f in found} == {("coco", "train"), ("sdxl", "val")}


def test_where_no_folder_names_it_the_root_or_the_file_does(tmp_path: Path) -> None:
    root = tmp_path / "biggan"
    assert placed(root, "0_real/a.png", "1_fake/b.png") == {
        ("a.png", Label.REAL, "", "biggan", "", ""), ("b.png", Label.FAKE, "biggan", "biggan", "", ""),
    }  # fmt: skip
    progan = tmp_path / "progan"
    write(progan / "dataset.toml", b'generator = "progan"\nsource = "lsun"\n')
    assert placed(progan, "sofa/0_real/a.png", "sofa/1_fake/b.png") == {
        ("a.png", Label.REAL, "", "lsun", "", "sofa"), ("b.png", Label.FAKE, "progan", "progan", "", "sofa"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ('real = ["cocoo"]', "names 'cocoo', but there is no first folder of that name; there is coco"),
        ('real = ["sdxl/x"]', "no first folder"),
        ('real = ["coco"]\n[family]\nsdxlturbo = "diffusion"', "no generator of that name"),
        ('real = ["coco"]\nsource = "x"', "leave out generator and source"),
        ('reals = ["coco"]', "reals is not known"),
        ("real = [1]", "expected real = "),
        ("family = 3", "expected real = "),
        ('real = "coco"', "expected real = "),
        ("real = [", "is no TOML"),
    ],
)
def test_a_slip_in_dataset_toml_is_refused(tmp_path: Path, stated: str, message: str) -> None:
    write(tmp_path / "dataset.toml", stated.encode())
    with pytest.raises(DataError, match=message):
        placed(tmp_path, "coco/a.png", "sdxl/b.png")


def test_folders_that_tell_no_label_are_named_before_anything_is_given(tmp_path: Path) -> None:
    for i in range(7):
        write(tmp_path / f"class{i}" / "x.png", PNG)
    write(tmp_path / "a" / "real" / "x.png", PNG)
    with pytest.raises(DataError, match=r"class0, class1, class2, class3, class4 and 2 more .*dataset\.toml"):
        next(open_dataset(tmp_path))
    write(tmp_path / "dataset.toml", b'real = ["a"]')
    write(tmp_path / "x.png", PNG)
    with pytest.raises(DataError, match="lie in no class folder"):
        next(open_dataset(tmp_path))


def test_what_cannot_be_reached_is_a_sample_where_its_label_is_told(tmp_path: Path) -> None:
    (tmp_path / "gan" / "1_fake").mkdir(parents=True)
    (tmp_path / "gan" / "1_fake" / "loop").symlink_to(tmp_path / "gan" / "1_fake")
    (tmp_path / "gan" / "1_fake" / "gone.png").symlink_to("nowhere.png")
    write(tmp_path / "gan" / "1_fake" / "bad.tar", b"no tar" * 100)
    write(tmp_path / "gan" / "0_real" / "text.png", b"not an image")
    samples = {Path(s.ref.name).name: s for s in open_dataset(tmp_path)}
    assert {(name, s.label, s.source) for name, s in samples.items()} == {
        ("loop", Label.FAKE, "gan"), ("gone.png", Label.FAKE, "gan"), ("bad.tar", Label.FAKE, "gan"),
        ("text.png", Label.REAL, "gan"),
    }  # fmt: skip
    with pytest.raises(FileAccessError, match="link loop"):
        read_bytes(samples["loop"].ref)
    with pytest.raises(FileAccessError, match="no such file"):
        read_bytes(samples["gone.png"].ref)
    with pytest.raises(NotAnImageError, match="not a readable"):
        read_bytes(samples["bad.tar"].ref)


def test_such_a_sample_goes_down_the_line_as_a_failure(toy: Backbone, tmp_path: Path) -> None:
    write(tmp_path / "coco" / "0_real" / "a.png", PNG)
    (tmp_path / "coco" / "0_real" / "loop").symlink_to(tmp_path / "coco")
    built = build_bank(toy, view("native"), open_dataset(tmp_path), added="2026-01-01")
    assert len(built.bank) == 1
    assert [(Path(f.image).name, f.error) for f in built.failures] == [("loop", "access")]


def test_a_closed_folder_is_a_sample_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "gan" / "0_real" / "a.png", PNG)
    write(tmp_path / "gan" / "1_fake" / "b.png", PNG)
    scandir = os.scandir

    def closed(name: str):
        def forbid(path: os.PathLike[str]):
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", forbid)

    closed("1_fake")
    good, bad = open_dataset(tmp_path)
    assert (good.label, bad.label, bad.generator) == (Label.REAL, Label.FAKE, "gan")
    closed("gan")
    with pytest.raises(DataError, match=r"no permission.*do not tell whether it is real or fake"):
        list(open_dataset(tmp_path))


def test_names_that_are_no_unicode_are_escaped_everywhere(tmp_path: Path) -> None:
    write(tmp_path / os.fsdecode(b"caf\xe9/1_fake/\xff.png"), PNG)
    (only,) = open_dataset(tmp_path)
    assert only.generator == only.source == r"caf\xe9"
    assert read_bytes(only.ref) == PNG


def shard(path: Path, **members: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            add(tar, name.replace("__", "."), data)
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a__png": PNG}, "a.png has no label of its own; expected a.json or .cls"),
        ({"a__png": PNG, "a__cls": b"7"}, "label '7' is not one of"),
        ({"a__png": PNG, "a__json": b"{"}, "a.json cannot be read"),
        ({"a__png": PNG, "a__json": b"[1]"}, r"holds \[1\]; expected named values"),
        ({"a__png": PNG, "a__json": b'{"x": 1}'}, "no 'label'"),
        ({"a__png": PNG, "a__json": b'{"label": "real"}', "a__cls": b"1"}, "has two labels"),
        ({"a__jpg": PNG, "a__seg__png": PNG, "a__cls": b"1"}, r"a.seg.png has no label of its own"),
        ({"a__jpg": PNG, "a__png": PNG, "a__cls": b"1"}, r"a.png has no label of its own"),
        ({"b__png": PNG, "a__cls": b"1"}, "b.png has no label of its own"),
        ({"a__txt": b"BMW in the rain"}, "holds no images"),
    ],
)
def test_shards_that_tell_no_label(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_dataset(shard(tmp_path / "s.tar", **members)))


def test_labels_of_one_key_go_to_their_own_image(tmp_path: Path) -> None:
    values = b'{"label": "fake"}'
    members = {"a__v1__png": PNG, "a__v1__cls": b"1", "a__v1__json": values}
    members |= {"a__v2__json": b'{"label": 0}', "a__v2__png": PNG + b"2"}
    found = {(read_bytes(s.ref)[-1:], s.label) for s in open_dataset(shard(tmp_path / "s.tar", **members))}
    assert found == {(PNG[-1:], Label.FAKE), (b"2", Label.REAL)}


def test_a_name_that_comes_twice_is_not_dropped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in (("a.png", PNG), ("a.png", PNG), ("a.cls", b"1")):
            add(tar, name, data)
    with pytest.raises(DataError, match=r"a\.png has no label of its own"):
        list(open_dataset(tmp_path / "s.tar"))


def test_shards_are_read_by_offset_and_damage_is_said(tmp_path: Path) -> None:
    whole = shard(tmp_path / "d" / "s.tar", a__png=PNG, a__cls=b"1", b__png=PNG, b__cls=b"0")
    samples = list(open_dataset(tmp_path / "d"))
    assert [read_bytes(s.ref) for s in reversed(samples)] == [PNG, PNG]
    write(tmp_path / "d" / "beside.png", PNG)
    with pytest.raises(DataError, match=r"beside\.png lies beside tar shards"):
        list(open_dataset(tmp_path / "d"))
    (tmp_path / "d" / "beside.png").unlink()
    write(tmp_path / "d" / "t.tar.gz", b"packed")
    with pytest.raises(DataError, match=r"t\.tar\.gz: a compressed tar"):
        list(open_dataset(tmp_path / "d"))
    (tmp_path / "d" / "t.tar.gz").unlink()
    data = bytearray(whole.read_bytes())
    data[1024 + 512 * (len(PNG) // 512) + 100] ^= 255  # the header of the second member
    whole.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged at byte .* Labels are lost with it"):
        list(open_dataset(tmp_path / "d"))


def test_which_reader(tmp_path: Path) -> None:
    for name in ("manifest.jsonl", "manifest.csv"):
        write(tmp_path / name, b"")
    with pytest.raises(DataError, match="has 2 manifests"):
        open_dataset(tmp_path)
    write(tmp_path / "x.tar.gz", b"")
    with pytest.raises(DataError, match="is no data set"):
        open_dataset(tmp_path / "x.tar.gz")
    write(tmp_path / "x.parquet", b"nothing")
    with pytest.raises(DataError, match="no readable Parquet"):
        list(open_dataset(tmp_path / "x.parquet"))


def test_manifest_columns(tmp_path: Path) -> None:
    row = {"file": "a.png", "label": 1, "family": "gan", "split": "test", "subset": "s", "generator": None, "n": [1]}
    write(tmp_path / "m.jsonl", json.dumps(row).encode())
    (only,) = open_dataset(tmp_path / "m.jsonl")
    assert (only.family, only.split, only.subset, only.generator, only.extra) == ("gan", "test", "s", "", {"n": [1]})
    write(tmp_path / "m.csv", b"file,label\na.png,real,more\n")
    with pytest.raises(DataError, match="more fields than the table has columns"):
        list(open_dataset(tmp_path / "m.csv"))


def test_a_parquet_manifest_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd.errors import MissingExtraError

    write(tmp_path / "m.parquet", b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"univfd\[parquet\]"):
        list(open_dataset(tmp_path / "m.parquet"))
