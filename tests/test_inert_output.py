"""Names and texts of strangers do nothing, wherever they come out: terminal, tables, pages, figures, log."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

import univfd
from commands import run
from conftest import encoded, picture
from univfd.benchmark.rendering import csv_text
from univfd.types import Failure
from univfd.writers import disarmed, json_of, printable, printable_lines
from univfd.writers.csv import CsvWriter
from univfd.writers.jsonl import JsonlWriter
from univfd.writers.text import TextWriter

STRANGE = (
    "\x1b[2J\x1b[1;31mreal\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\x1b]8;;http://192.0.2.1\x1b\\link\x1b]8;;\x1b\\",
    "a\nreal   p(fake) 0.00  score  -9.000  b.png", "a\r\nb", "\u202egnp.exe", "\u2066x\u2069", "a\u200bb", "\u2028x",
    "\ufeff",
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "\uff1d1+1", '=HYPERLINK("http://192.0.2.1";"x")',
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](http://192.0.2.1)", "![x](http://192.0.2.1)",
    "a|b", "`a`", "%s%n", "{0.__class__}", "x" * 5000, "\x00", "\x7f", "\U000e0041", "--help",
)  # fmt: skip
TEXTS = st.sampled_from(STRANGE) | st.text(min_size=1)
QUICK = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


_CODES = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
HIDING = set(map(chr, (*_CODES, 0x200B, 0x200E, 0x200F, 0x061C, 0x2028, 0x2029, 0xFEFF)))
"""Controls of a terminal, and marks that turn or hide what is read."""


def acts(text: str) -> list[str]:
    """Characters that a terminal obeys, or that turn or hide what is read; line breaks between lines are no such."""
    return [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c != "\n"]


def failure(image: str, message: str = "m") -> dict[str, Any]:
    return Failure(image, "empty", message).to_dict()


def judged(text: str) -> dict[str, Any]:
    near = {"label": "fake", "distance": 0.1, "generator": text, "source": text, "key": text, "row": 1}
    words = {"found": text, "where": text, "meaning": text, "forgery": text, "details": {text: text}}
    origin = {"c2pa": text, "claims": [text], "headline": text, "findings": [{"kind": "iptc", "claim": "", **words}]}
    texts = dict.fromkeys(("image", "attribution", "sha256", "format", "view", "detector", "space"), text)
    return {
        "status": "ok", "verdict": "fake", "score": -1.5, "probability": None, **texts, "nearest_fake": [near],
        "nearest_real": [near], "width": 1, "height": 1, "reasons": [text], "reason_codes": [{"code": text}],
        "notes": [text], "note_codes": [{"code": text}], "timings": {"load": 0.0, "embed": 0.0, "decide": 0.0},
        "provenance": origin,
    }  # fmt: skip


@QUICK
@given(TEXTS)
def test_lines_for_people_hold_nothing_that_acts(text: str) -> None:
    stream = io.BytesIO()
    writer = TextWriter(stream, explain=True)
    for row in (failure(text, text), judged(text)):
        writer.write(row)
    written = stream.getvalue().decode()
    assert not acts(written)
    plain = io.BytesIO()
    writer = TextWriter(plain, explain=True)
    for row in (failure("x", "x"), judged("x")):
        writer.write(row)
    assert written.count("\n") == plain.getvalue().decode().count("\n")  # no name makes a line of its own


@QUICK
@given(TEXTS)
def test_json_lines_are_one_line_without_anything_that_acts_and_keep_every_value(text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        return
    stream = io.BytesIO()
    writer = JsonlWriter(stream)
    writer.write(judged(text))
    written = stream.getvalue().decode()
    assert json.loads(written) == judged(text)
    assert written.count("\n") == 1
    assert not HIDING & set(written.removesuffix("\n"))


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@QUICK
@given(TEXTS)
def test_no_cell_of_a_table_is_a_formula_and_reading_back_is_exact(text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text) or "\0" in text:
        return
    stream = io.BytesIO()
    writer = CsvWriter(stream)
    writer.write(judged(text))
    header, row = cells(stream.getvalue().decode())
    values = dict(zip(header, row, strict=True))
    assert values["score"] == "-1.5"  # a number stays one
    for name in ("image", "detector", "nearest_fake_generator", "notes"):
        assert not values[name].startswith(
            ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
        )
        assert values[name].removeprefix("'") == text


def test_tables_of_reports_are_disarmed_and_their_numbers_are_not() -> None:
    (line,) = cells(csv_text([["=1+1", "-0.25", -3, "+1e-3", "@x", "plain", "'a", "-inf"]]))
    assert line == ["'=1+1", "-0.25", "-3", "+1e-3", "'@x", "plain", "''a", "-inf"]
    assert disarmed(-1.5) == -1.5


@QUICK
@given(TEXTS)
def test_escapes(text: str) -> None:
    assert printable(text).isprintable()
    assert not acts(printable_lines(text))
    assert printable_lines(text, below="  ").count("\n") == text.count("\n")
    assert all(line.startswith("  ") for line in printable_lines(text, below="  ").split("\n")[1:])
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert json.loads(json_of({text: text})) == {text: text}


PATHS = os.environ | {"PYTHONPATH": str(Path(univfd.__file__).parents[1])}


def command(*args: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "univfd", *args], cwd=cwd, capture_output=True, env=PATHS)


def test_errors_and_log_lines_hold_nothing_that_acts(tmp_path: Path) -> None:
    name = "\x1b[31mx\u202e\nreal   p(fake) 0.00  y"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"{name}.txt").write_text("no image")
    for args in (
        ["detectors", "info", name],
        ["bank", "info", name],
        ["scan", name],
        ["suites", "info", name],
        ["-v", "provenance", "d"],
        ["detect", "x.png", f"--{name}"],
        [name],
        ["embed", "d", "-o", f"d/{name}.txt"],
    ):
        done = command(*args, cwd=tmp_path)
        said = (done.stdout + done.stderr).decode()
        assert "x" in said
        assert not acts(said), args
        assert not [line for line in said.splitlines() if line.startswith("real")], args


def test_a_detectors_own_words_hold_nothing_that_acts(toy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "d"))
    record = json.loads((folder / "detector.json").read_text("utf-8"))
    record["name"] = record["calibration"]["data"] = "\x1b[31m\u202ex\nreal"
    (folder / "detector.json").write_text(json.dumps(record), "utf-8")
    (folder / "MODEL_CARD.md").write_text("# \x1b[2J\u202ecard\nline\n", "utf-8")
    assert not acts(run("detectors", "info", folder).output)
    card = run("detectors", "info", folder, "--card").output
    assert not acts(card)
    assert "card\nline" in card


def test_log_lines_of_strange_names_are_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from univfd.cli import _Lines

    record = logging.LogRecord("univfd", logging.WARNING, "", 0, "passed over %s", ("\x1b[2J\nreal",), None)
    line = _Lines("univfd: %(message)s").format(record)
    assert line == "univfd: passed over \\x1b[2J\n  real"


def test_prompts_in_pictures_come_out_as_text(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text(
        "parameters", "\x1b[2J=cmd\u202e <script>alert(1)</script>\nSteps: 20, Sampler: \x9b31m, Seed: 1, Model: =1+1"
    )
    Image.fromarray(picture(0, 64, 64)).save(tmp_path / "x.png", pnginfo=info)
    (tmp_path / "y.jpg").write_bytes(
        encoded(picture(0, 64, 64), "JPEG", comment=b"\x1b]0;x\x07 Midjourney Job ID: \xff")
    )
    text = run("provenance", tmp_path).output
    assert "Steps" not in text or not acts(text)
    assert not acts(text)
    lines = run("provenance", tmp_path, "--jsonl").output.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert not acts("".join(lines))
    prompts = [f["details"].get("prompt", "") for row in rows for f in row["findings"]]
    assert any("<script>" in p and "\x1b" in p for p in prompts)  # the value is what the file has


def test_file_names_of_any_bytes_are_rows(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/\xff\xfe\x1b[2J.png"
    with open(place, "wb") as file:  # noqa: PTH123 -- bytes
        file.write(b"")
    done = command("provenance", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 3
    assert re.search(rb"\\xff\\xfe\\x1b\[2J\.png", done.stdout.replace(b"\\\\", b"\\"))
    assert not acts(done.stdout.decode() + done.stderr.decode())
