from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from univfd import registry
from univfd.remarks import Remark
from univfd.types import Failure, FeatureSpace, Label, Neighbor, Timings, Verdict
from univfd.writers import flat

NEAR = Neighbor(3, 0.125, Label.FAKE, "sdxl", "somewhere", "ab" * 32)
REAL = Neighbor(4, 0.25, Label.REAL, "", "bsds", "cd" * 32)
ROWS = [
    Verdict(
        "a photo, \"quoted\".jpg", "fake", 1.5, 0.75, "sdxl", (NEAR,), (REAL,), "ef" * 32, 640, 480, "JPEG", "native",
        "default@1", "space", (),
        (Remark("first-frame", "first of 2"), Remark("upscaled", "upscaled", {"factor": 2.5})), Timings(0.1, 0.2, 0.3),
    ).to_dict(),
    Verdict(
        "новый\nline.png", "unsure", -1.25, None, "", (), (), "", 1, 2, "", "native", "default@1", "space",
        (
            Remark("between", "between the two thresholds"),
            Remark("tiny", "tiny: 1 x 2 pixels", {"width": 1, "height": 2, "least": 64}),
        ), (), Timings(0, 0, 0),
    ).to_dict(),
    Failure("=cmd|' /C calc'!A0.png", "truncated", "+ends early").to_dict(),
    Failure("'apostrophe.png", "access", "no such file").to_dict(),
]  # fmt: skip


@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_complete_formats_give_the_rows_back(format: str, tmp_path: Path) -> None:
    writer = registry.load("writers", format)
    with (tmp_path / "x").open("wb") as file:
        opened = writer(file)
        for row in ROWS:
            opened.write(row)
        opened.close()
    assert list(writer.read(tmp_path / "x")) == ROWS


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_flat_formats_give_the_flat_rows_back(format: str, tmp_path: Path) -> None:
    writer = registry.load("writers", format)
    with (tmp_path / "x").open("wb") as file:
        opened = writer(file)
        for row in ROWS:
            opened.write(row)
        opened.close()
    again = list(writer.read(tmp_path / "x"))
    # CSV has no way to tell an empty text from an absent one.
    blank = (lambda v: v or None) if format == "csv" else (lambda v: v)
    kept = [[{k: blank(v) for k, v in flat(r).items()} for r in rows] for rows in (again, ROWS)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_no_rows_is_still_a_file(format: str, tmp_path: Path) -> None:
    writer = registry.load("writers", format)
    with (tmp_path / "x").open("wb") as file:
        writer(file).close()
    assert list(writer.read(tmp_path / "x")) == []


def test_a_last_line_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b'{"image": "a"}\n{"image": "b')
    assert list(registry.load("writers", "jsonl").read(tmp_path / "x")) == [{"image": "a"}]


def test_csv_cells_are_no_formulas() -> None:
    out = io.BytesIO()
    opened = registry.load("writers", "csv")(out)
    for row in ROWS:
        opened.write(row)
    opened.close()
    cells = [cell for line in csv.reader(io.StringIO(out.getvalue().decode())) for cell in line]
    assert "'=cmd|' /C calc'!A0.png" in cells
    dangerous = [c for c in cells if c.startswith(("=", "+", "@", "-"))]
    assert dangerous == ["-1.25"]


def test_text_cannot_move_the_cursor_or_fake_a_line() -> None:
    out = io.BytesIO()
    writer = registry.load("writers", "text")(out, explain=True)
    writer.write(Failure("\x1b[2Jx\nfake  p(fake) 1.00\x07.png", "access", "bad\rnews").to_dict())
    writer.write(ROWS[0])
    writer.close()
    text = out.getvalue().decode()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2Jx\\nfake" in text
    lines = text.splitlines()
    assert len(lines) == 2 + 1 + 5
    assert lines[3].split() == ["like", "images", "of:", "sdxl"]
    assert lines[4].split() == ["nearest", "fake", "distance", "0.125", "sdxl", "(somewhere)"]


@pytest.mark.parametrize("explain", [False, True])
def test_text_says_why_an_image_is_unsure(explain: bool) -> None:
    out = io.BytesIO()
    writer = registry.load("writers", "text")(out, explain=explain)
    writer.write(ROWS[1])
    writer.close()
    _, *below = out.getvalue().decode().splitlines()
    assert below == ["       unsure: between the two thresholds", "       unsure: tiny: 1 x 2 pixels"]


def test_a_feature_space_round_trip() -> None:
    space = FeatureSpace("b", "w", ("proj", "cls.1"), "native", "p", 4)
    assert FeatureSpace.from_dict(space.to_dict()) == space
