from __future__ import annotations

import hashlib
import io
import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from commands import run as command
from conftest import encoded, picture
from layouts import LAYOUTS, items, write
from univfd.datasets import open_dataset
from univfd.errors import DataError
from univfd.scan import Report, scan
from univfd.types import Label, data_digest


def scanned(path: Path, **options: bool) -> Report:
    return scan(open_dataset(path), **options)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies across classes and splits, and files that cannot be read, each in its way."""
    root = tmp_path_factory.mktemp("bad")
    for i in range(6):
        write(root / f"train/coco/0_real/{i}.jpg", encoded(picture(i, 64, 48)))
        write(root / f"train/sdxl/1_fake/{i}.png", encoded(picture(10 + i, 64 + i, 64), "PNG"))
    write(root / "test/coco/0_real/again.jpg", encoded(picture(0, 64, 48)))  # train/coco/0_real/0.jpg
    write(root / "test/sdxl/1_fake/real.jpg", encoded(picture(1, 64, 48)))  # train/coco/0_real/1.jpg
    write(root / "train/sdxl/1_fake/0 copy.png", encoded(picture(10, 64, 64), "PNG"))
    write(root / "test/sdxl/1_fake/empty.png", b"")
    write(root / "test/sdxl/1_fake/words.png", b"words")
    write(root / "test/sdxl/1_fake/half.png", encoded(picture(30, 256, 256), "PNG")[:60_000])
    (root / "test/coco/0_real/gone.jpg").symlink_to("nowhere")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_as_a_slow_count_of_the_same_set_in_every_layout(layout: str, tmp_path: Path) -> None:
    report = scanned(LAYOUTS[layout](tmp_path), pixels=True)
    assert report.images == len(items())
    assert not report.failures
    assert not report.copies
    for word in ("real", "fake"):
        mine = [(Image.open(io.BytesIO(i.data)), len(i.data)) for i in items() if i.label == word]
        found = report.classes[word]
        assert found.images == len(mine)
        assert found.formats == Counter(image.format for image, _ in mine)
        for spread, numbers in (
            (found.width, [image.width for image, _ in mine]),
            (found.height, [image.height for image, _ in mine]),
            (found.bytes, [size for _, size in mine]),
        ):
            assert spread is not None
            assert (spread.min, spread.median, spread.max) == (min(numbers), statistics.median(numbers), max(numbers))
    by_split = Counter((i.label, i.name, i.split) for i in items())
    assert report.totals("label", "source", "split") == dict(by_split)
    fakes = Counter((i.row["generator"], i.row["family"]) for i in items())
    assert report.totals("generator", "family") == dict(fakes)
    assert report.digest == data_digest(
        (hashlib.sha256(i.data).hexdigest(), Label.parse(i.label)) for i in reversed(items())
    )


def test_copies_within_and_across(bad: Path) -> None:
    found = {frozenset(Path(f.image).name for f in c.files): c for c in scanned(bad).copies}
    assert {names: (c.across_labels, c.across_splits) for names, c in found.items()} == {
        frozenset({"0.jpg", "again.jpg"}): (False, True),
        frozenset({"1.jpg", "real.jpg"}): (True, True),
        frozenset({"0.png", "0 copy.png"}): (False, False),
    }


def test_a_file_listed_under_two_labels_or_splits_is_a_copy_of_itself_and_one_listed_twice_is_not(
    tmp_path: Path,
) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.png", encoded(picture(ord(name), 32, 32), "PNG"))
    rows = [("a", "real", "test"), ("a", "fake", "test"), ("b", "real", "test"), ("b", "real", "train"),
            ("c", "real", "test"), ("c", "real", "test")]  # fmt: skip
    lines = [json.dumps({"file": f"{f}.png", "label": label, "split": split}) for f, label, split in rows]
    write(tmp_path / "m.jsonl", "\n".join(lines).encode())
    copies = scanned(tmp_path / "m.jsonl").copies
    assert [(c.across_labels, c.across_splits) for c in copies] == [(True, False), (False, True)]


def test_what_cannot_be_read_is_a_row_with_its_reason(bad: Path) -> None:
    report = scanned(bad)
    failed = {Path(f.image).name: (f.error, label) for f, label in report.failures}
    assert failed == {
        "empty.png": ("empty", "fake"), "words.png": ("not-an-image", "fake"), "gone.jpg": ("access", "real")
    }  # fmt: skip
    assert report.images == 19
    assert report.classes["fake"].unreadable == 2
    assert sum(report.classes["fake"].formats.values()) == 9
    deep = scanned(bad, pixels=True)
    assert {Path(f.image).name for f, _ in deep.failures} - set(failed) == {"half.png"}
    assert deep.digest == report.digest  # of bytes, whether they can be decoded or not


def test_told_by_format(bad: Path, tmp_path: Path) -> None:
    report = scanned(bad)
    # reals: 7 JPEG of 7; fakes: 1 JPEG of 9: the rule "PNG is fake" is right on 7/7 and on 8/9
    assert report.told_by_format == pytest.approx((1 + 8 / 9) / 2)
    write(tmp_path / "real" / "x" / "a.jpg", encoded(picture(0, 32, 32)))
    assert scanned(tmp_path).told_by_format is None
    write(tmp_path / "fake" / "x" / "a.jpg", encoded(picture(1, 32, 32)))
    assert scanned(tmp_path).told_by_format == 0.5


def univfd(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "univfd", *map(str, args)], capture_output=True, text=True, check=False
    )


def test_the_command(bad: Path, tmp_path: Path) -> None:
    text = univfd("scan", bad)
    assert text.returncode == 3
    lines = text.stdout.splitlines()
    assert lines[0].startswith("19 images, 3 of them cannot be read; digest ")
    assert "real         8 images of 1 source, 1 cannot be read" in lines
    assert "  format     JPEG 7 (100%)" in lines
    assert "  width      64 to 256, median 66 pixels" in lines
    assert "          8  coco  test 2, train 6" in lines
    assert (
        "copies       3 files have the bytes of another; 1 image is both real and fake, 2 lie in several splits"
        in lines
    )
    first = lines[next(i for i, line in enumerate(lines) if line.startswith("copies")) + 1]
    assert "1.jpg (real, train)" in first
    assert "real.jpg (fake, test)" in first
    formats = (
        "formats      by the format alone 94% of real and fake can be told apart (50% is chance); run univfd audit on"
    )
    assert any(line.startswith(formats) for line in lines)
    assert sum(line.startswith("failed ") for line in lines) == 3
    assert "the file is empty (0 bytes); expected an image" in text.stdout
    assert "\x1b" not in text.stdout

    data = univfd("scan", bad, "--json", "--decode")
    assert data.returncode == 3
    report = json.loads(data.stdout)
    assert report["unreadable"] == len(report["failures"]) == 4
    assert {row["images"] for row in report["counts"] if row["generator"] == "sdxl"} == {7, 4}

    write(tmp_path / "real" / "c" / "a.png", encoded(picture(0, 32, 32), "PNG"))
    assert univfd("scan", tmp_path).returncode == 0
    assert univfd("scan", tmp_path, "--max-pixels", "0.001").returncode == 3
    assert univfd("scan", tmp_path / "gone").returncode == 2


def test_a_suite_is_scanned_below_its_root(tmp_path: Path) -> None:
    write(tmp_path / "r" / "a.png", encoded(picture(0, 32, 32), "PNG"))
    write(tmp_path / "f" / "b.png", encoded(picture(1, 32, 32), "PNG"))
    head = 'name = "n"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n'
    subsets = "".join(f'[[subset]]\nname = "{n}"\nreal = "r"\nfake = "f"\ncount = {{ fake = 2 }}\n' for n in "xy")
    suite = tmp_path / "s.toml"
    suite.write_text(head + subsets)
    refused = univfd("scan", tmp_path, "--suite", suite)
    assert refused.returncode == 2
    assert "y: 1 fake image; expected 2" in refused.stderr
    both = json.loads(univfd("scan", tmp_path, "--suite", suite, "--partial", "--json").stdout)
    assert both["images"] == 4
    assert both["copies"] == []  # the same files in both subsets, as many suites share their reals
    one = json.loads(univfd("scan", tmp_path, "--suite", suite, "--partial", "--subset", "y", "--json").stdout)
    assert {row["subset"] for row in one["counts"]} == {"y"}
    assert "name it with --suite" in univfd("scan", tmp_path, "--partial").stderr


def test_scanning_imports_no_heavy_library(bad: Path) -> None:
    code = f"""
import sys
from univfd.datasets import open_dataset
from univfd.scan import scan
scan(open_dataset({str(bad)!r}), pixels=True)
heavy = {{"sklearn", "scipy", "pandas", "matplotlib", "torch", "pyarrow", "onnx", "onnxruntime"}}
print(sorted(heavy & {{m.partition(".")[0] for m in sys.modules}}))
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_manifest_without_rows_is_no_data_set(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("file,label\n" if name == "x.csv" else "")
    with pytest.raises(DataError, match=f"{name} holds no images"):
        command("scan", tmp_path / name)
