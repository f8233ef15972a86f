"""The page of `univfd detect --explain-html`: what it says, and that nothing in it but its own markup is markup."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import click
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commands import run
from conftest import encoded, picture, toy_samples
from test_report import OWN, Read
from univfd.backbones import Backbone
from univfd.building import assemble, build_bank
from univfd.calibration import UNCALIBRATED, of_groups
from univfd.cli.detect import _summary
from univfd.errors import MissingExtraError, OutputExistsError
from univfd.report.evidence import EvidencePage
from univfd.store import BankStore
from univfd.views import view

HOSTILE = "<script>fetch('http://192.0.2.1/a')</script>\"><img src=http://192.0.2.1/b onerror=alert(1)>{{ 7 * 7 }}"


@pytest.fixture
def here(toy: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the detector `nn`, the store `s` whose newest rows have thumbnails and a hostile generator, and
    `photos`: three images of hostile names and one that is broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("univfd.embedding_cache.home", lambda: tmp_path / "cache")
    cut = view("native")
    assemble("nn", toy, cut, build_bank(toy, cut, toy_samples(), added="2026-01-01").bank, "knn", {"k": 1}).save("nn")
    run("bank", "import", "s", "nn")
    fake = picture(1000, 240, 240)
    fake[:, ::3] = 255 - fake[:, ::3]
    Path("f.png").write_bytes(encoded(fake, "PNG"))
    run("bank", "add", "s", "f.png", "--label", "fake", "--generator", HOSTILE, "--source", "</td></section>&lt;")
    photos = Path("photos") / "<script>alert(1)<" / "script>"  # a path may hold the end of a script
    photos.mkdir(parents=True)
    fake[0, 0] ^= 1
    (photos / '"><img src=x onerror=alert(1)>{{ 7 * 7 }}.png').write_bytes(encoded(fake, "PNG"))
    (photos / "javascript:alert(1)\u202e\x07.png").write_bytes(encoded(picture(2, 240, 240), "PNG"))
    (photos / "']]>&lt;!--.png").write_bytes(encoded(picture(4, 240, 240), "PNG"))
    (photos / "http:broken<b>.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_a_page_says_what_the_rows_say_and_asks_nobody(here: Path) -> None:
    result = run(
        "detect", "photos", "--detector", "nn", "--bank", "s", "--explain-html", "page.html", "--jsonl", code=3
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    html = Path("page.html").read_text("utf-8")
    read = Read(html)  # closes what it opens
    assert {tag for tag, _ in read.elements} <= OWN
    assert not [name for _, given in read.elements for name in given if name.startswith("on") or name == "srcset"]
    assert not re.findall(r"@import|url\(", html)
    for name in ("src", "href"):
        assert all(value.startswith(("data:", "#")) for value in read.values(name))
    policy = next(a["content"] for t, a in read.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:")
    assert "{{ 7 * 7 }}" in read.text
    assert HOSTILE in read.text

    edit = BankStore.open("s").history().tip
    assert f"s:2@{edit.content[:12]}" in read.text
    for row in rows:
        if row["status"] == "failed":
            assert row["message"] in read.text
            continue
        assert f"{row['score']:+.4f}" in read.text
        assert row["detector"] in read.text
        assert len(row["nearest_fake"]) == len(row["nearest_real"]) == 3
        for n in (*row["nearest_fake"], *row["nearest_real"]):
            assert f"distance {n['distance']:.4f}" in read.text
            assert f"row {n['row']}, sha256 {n['key'][:16]}" in read.text
            assert n["source"] in read.text
    judged = [row for row in rows if row["status"] == "ok"]
    pictures = [base64.b64decode(v.partition(",")[2]) for v in read.values("src", "img")]
    assert all(Image.open(io.BytesIO(p)).format == "JPEG" for p in pictures)
    of_new = sum(n["generator"] == HOSTILE for row in judged for n in row["nearest_fake"])
    assert of_new >= 1
    assert len(pictures) == len(judged) + of_new == 3 + of_new  # each image, and the one row that has a thumbnail
    new = [sum(n["generator"] == HOSTILE for n in row["nearest_fake"]) for row in judged]
    assert read.text.count("no picture") == sum(6 - n for n in new if n)  # nowhere beside images without any
    assert "images themselves are not here" not in read.text
    assert "fake above" in read.text
    assert "this detector was not calibrated" in read.text


def test_a_page_lists_its_images_by_score(here: Path) -> None:
    result = run(
        "detect", "photos", "--detector", "nn", "--bank", "s", "--explain-html", "page.html", "--jsonl", code=3
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    html = Path("page.html").read_text("utf-8")
    links = re.findall(r'<th scope="row"><a href="#(image-\d+)">(.*?)</a>', html)
    assert len(links) == len(rows) == 4
    ids = re.findall(r'<section id="(image-\d+)"', html)
    scores = {f"image-{i + 1}": row.get("score") for i, row in enumerate(rows)}
    assert set(ids) == {target for target, _ in links} == set(scores)
    ordered = [scores[target] for target, _ in links]
    assert ordered[-1] is None  # what could not be judged
    assert ordered[:-1] == sorted(ordered[:-1], reverse=True)
    assert len(set(ordered)) == 4
    listed = Read(html[html.index('<section id="counts"') :].removesuffix("</main>\n</body>\n</html>\n"))
    for row in rows:
        if row["status"] == "ok":
            assert f"{row['score']:+.4f}" in listed.text
    assert '<a href="#counts">' in html[: html.index("<main>")]


def test_a_page_goes_with_files_heat_maps_and_promises_apart(here: Path, toy: Backbone) -> None:
    """Beside `-o` and `--resume`; without a store; what was not judged in this run has no small copy."""
    Path("p").mkdir()
    for i in range(3):
        Path(f"p/{i}.png").write_bytes(encoded(picture(20 + i, 240, 240), "PNG"))
    run("detect", "p/0.png", "--detector", "nn", "-o", "rows.jsonl")
    resumed = run("detect", "p", "--detector", "nn", "-o", "rows.jsonl", "--resume", "--explain-html", "page.html")
    read = Read(Path("page.html").read_text("utf-8"))
    assert len(read.values("src", "img")) == 2
    assert "3 images: " in resumed.stderr
    assert " -> rows.jsonl, page.html\n" in resumed.stderr
    assert sum(tag == "section" for tag, _ in read.elements) == 3 + 1
    assert read.text.count("The bank's images themselves are not here") == 1
    assert "no picture" not in read.text
    with pytest.raises(OutputExistsError, match=r"page\.html exists already"):
        run("detect", "p", "--detector", "nn", "--explain-html", "page.html")
    run("detect", "p", "--detector", "nn", "-o", "rows.csv")
    run("detect", "p", "--detector", "nn", "-o", "rows.csv", "--resume", "--explain-html", "again.html")
    assert "read back from a table" in Path("again.html").read_text("utf-8")


def test_what_a_file_says_of_its_origin_is_on_the_page_and_inert(here: Path) -> None:
    Path("p").mkdir()
    small = Image.fromarray(picture(30, 240, 240))
    small.save(
        "p/a.png", pnginfo=texts(parameters=f"a cat {HOSTILE}\nSteps: 20, Sampler: Euler a, Seed: 1, Size: 240x240")
    )
    result = run("detect", "p", "--detector", "nn", "--provenance", "--explain-html", "page.html", "--jsonl")
    provenance = json.loads(result.stdout)["provenance"]
    html = Path("page.html").read_text("utf-8")
    read = Read(html)
    assert {tag for tag, _ in read.elements} <= OWN
    assert provenance["headline"] in read.text
    assert provenance["findings"]
    for finding in provenance["findings"]:
        assert finding["found"] in read.text
        assert finding["forgery"] in read.text
    run("detect", "p", "--detector", "nn", "--provenance", "-o", "rows.csv")
    run("detect", "p", "--detector", "nn", "--provenance", "-o", "rows.csv", "--resume", "--explain-html", "again.html")
    again = Read(Path("again.html").read_text("utf-8"))
    assert {tag for tag, _ in again.elements} <= OWN
    assert provenance["findings"][0]["found"] in again.text
    assert f"Content Credentials: {provenance['c2pa']}; the file says: {provenance['claims'][0]}" in again.text
    Path("q").mkdir()
    small.save("q/plain.png")
    run("detect", "q", "--detector", "nn", "--provenance", "-o", "plain.csv")
    run(
        "detect", "q", "--detector", "nn", "--provenance", "-o", "plain.csv", "--resume", "--explain-html", "plain.html"
    )
    told = Read(Path("plain.html").read_text("utf-8")).text
    assert "Says of its origin" in told
    assert "Content Credentials: none" in told
    run("detect", "p", "--detector", "nn", "--explain-html", "without.html")
    assert "Says of its origin" not in Path("without.html").read_text("utf-8")


def texts(**values: str) -> PngInfo:
    found = PngInfo()
    for name, value in values.items():
        found.add_text(name, value)
    return found


def test_a_page_made_meanwhile_is_kept_and_small_promises_are_no_zero(tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    promised = replace(UNCALIBRATED, max_fpr=0.001, max_miss=0.05, confidence=0.9, n_real=3000, n_fake=60)
    options = {"detector": "d", "calibration": promised, "bank": "b"}
    first, second = EvidencePage(path, **options), EvidencePage(path, **options)  # type: ignore[arg-type]
    with second:
        pass
    made = path.read_text("utf-8")
    assert "at most 0.1 % of real images" in made
    assert "at most 5 % of fake images" in made
    assert "with 90 % confidence" in made
    path.write_text("of the second run", "utf-8")
    with pytest.raises(OutputExistsError), first:
        pass
    assert path.read_text("utf-8") == "of the second run"
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]


def test_the_summary_says_a_small_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("univfd.cli.detect.remark", lambda ctx, text: said.append(text))
    promised = replace(UNCALIBRATED, max_fpr=0.001, n_real=3000)
    _summary(cast(click.Context, None), Counter(fake=1), promised)
    assert said[1] == (
        "'fake' is set so that at most 0.1% of real images like the 3000 it was calibrated on are called fake. "
        "A verdict is a signal, not proof."
    )


def test_the_summary_says_how_sure_a_promise_is_and_what_speaks_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `univfd detectors info` does, of a detector that was fitted on images that come in groups."""
    said: list[str] = []
    monkeypatch.setattr("univfd.cli.detect.remark", lambda ctx, text: said.append(text))
    data = f"scores; {of_groups(72, 'real', 24)}; {of_groups(60, 'fake', 5)}"
    promised = replace(UNCALIBRATED, max_fpr=0.05, confidence=0.9, n_real=72, data=data)
    _summary(cast(click.Context, None), Counter(fake=1), promised, Path("rows.csv"), Path("page.html"))
    assert said == [
        "1 image: 1 fake -> rows.csv, page.html",
        "'fake' is set so that at most 5% of real images like the 72 it was calibrated on are called fake, at 90% "
        "confidence. But its 72 real images are of 24 groups: a promise takes images as independent, so this one may "
        "be broken more often than it says. A verdict is a signal, not proof.",
    ]


def test_a_page_is_whole_or_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "univfd.report.evidence.EvidencePage.add", lambda *_: (_ for _ in ()).throw(RuntimeError("cut"))
    )
    with pytest.raises(RuntimeError, match="cut"):
        run("detect", "photos", "--detector", "nn", "--explain-html", "page.html")
    assert not [p.name for p in here.iterdir() if "page" in p.name]


def test_without_jinja2_the_extra_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="jinja2"):
        run("detect", "photos", "--detector", "nn", "--explain-html", "page.html")
    assert not Path("page.html").exists()
    code = "import sys; sys.modules['jinja2'] = None; from univfd.cli import main; main()"
    command = [sys.executable, "-c", code, "detect", "photos", "--detector", "nn", "--explain-html", "page.html"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""  # said before anything is judged
    assert (
        ended.stderr
        == "univfd: error: this report needs jinja2, which is not installed: pip install 'univfd[report]'\n"
    )


def test_an_error_with_standard_output_closed_keeps_its_code() -> None:
    code = "import sys; sys.stdout.close(); from univfd.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, "detect", "--resume", "x.png"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
