"""The page of the service in a real browser, asking a real process: `./test browser`."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from page_of import bar_text, choose, hand_over, page_of, saved, serious
from page_pictures import BETWEEN, FAKE, HOSTILE, REAL, REFUSED, graded
from PIL import Image
from playwright.sync_api import Browser

from conftest import picture
from serving import Server, serving
from univfd.calibration import Calibration
from univfd.conditions import CODES, conditions
from univfd.images import decode
from univfd.remarks import Remark
from univfd.server.problems import BY_CODE
from univfd.types import ImageRef
from univfd.views import Crops

pytest_plugins = ["browsing", "page_fixtures"]


def test_a_chosen_picture_gets_a_verdict_with_its_promise_and_evidence(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        choose(tab, ("a.png", FAKE))
        detail = tab.locator("#detail")
        assert detail.locator(".headline").inner_text() == "Looks AI-generated"
        assert (
            "At most 1% of real pictures like those that the detector was calibrated on are called"
            in detail.inner_text()
        )
        assert "90% confidence" in detail.inner_text()
        assert re.match(r"Score 2\.\d\d\. Real below -1.00, AI-generated above 1.00", bar_text(tab))
        rows = detail.locator("section", has_text="Nearest known").locator("tbody tr").all_inner_texts()
        assert sorted(row.split("\t")[0] for row in rows) == ["AI-generated"] * 3 + ["real"] * 3
        assert all(re.search(r"\t0\.\d{3}\t", row) for row in rows)
        assert any("g0" in row for row in rows)
        assert "Content Credentials: none" in detail.locator(".origin").inner_text()
        assert "absence proves nothing" in detail.locator(".origin").inner_text()
        assert not tab.locator("#batch").is_visible()
        assert tab.locator("#status").inner_text() == "a.png: Looks AI-generated."
        tab.click("#copy")
        copied = tab.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("a.png (sha256 ")
        assert copied.endswith("This is an indication, not proof.")
        assert re.search(r"At most 1% of real pictures like the \d+ that the detector was calibrated on", copied)
        assert "whether this picture is like those is not known" in copied
        assert "score" not in copied
        choose(tab, ("b.png", REAL))
        tab.click("#rows button >> text=b.png")
        assert detail.locator(".headline").inner_text() == "Looks real"
        assert "At most 5% of AI-generated pictures like those are called real." in detail.inner_text()
        assert "That does not rule one out" in detail.locator("#quote").inner_text()


def test_the_needle_stands_where_the_score_is(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        for name, data, side in (("a", FAKE, 1), ("b", REAL, -1), ("c", BETWEEN, 0)):
            choose(tab, (name, data))
            if name != "a":
                tab.click(f"#rows button >> text={name}")
            boxes = [tab.locator(f"#detail .bar .{kind}").nth(i).bounding_box() for kind, i in
                     (("tick", 0), ("tick", 1), ("needle", 0))]  # fmt: skip
            low, high, needle = (box["x"] + box["width"] / 2 for box in boxes if box)
            assert low < high
            score = float(re.findall(r"-?\d+\.\d\d", bar_text(tab))[0])
            assert needle == pytest.approx((low + high) / 2 + score * (high - low) / 2, abs=3)
            assert (needle > high) - (needle < low) == side


def test_drop_and_paste(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        hand_over(tab, "drop", {"dropped.png": FAKE})
        assert tab.locator("#detail-title").inner_text() == "dropped.png"
        hand_over(tab, "paste", {"image.png": REAL})
        assert [r.split("\t")[1:3] for r in tab.locator("#rows tr").all_inner_texts()] == [
            ["dropped.png", "Looks AI-generated"], ["image.png", "Looks real"],
        ]  # fmt: skip
        hand_over(tab, "paste", {})
        assert "no file" in tab.locator("#status").inner_text()


def test_a_batch_of_twenty_is_a_table_to_sort_and_save(browser: Browser, server: Server, tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(17)] + ["=HYPERLINK(1).png", "-1+1.png", HOSTILE]
    files = [(name, graded(i % 2, seed=i)) for i, name in enumerate(names)]
    with page_of(server, browser, expected=(REFUSED,)) as tab:
        choose(tab, *files, ("no.png", b"no image"), ("empty.png", b""), ("big.png", b"x" * 2_000_001))
        assert tab.locator("#counts").inner_text() == "AI-generated: 10, real: 10, unsure: 0, failed: 3"
        shown = [row.split("\t")[1] for row in tab.locator("#rows tr").all_inner_texts()]
        assert shown == [*names, "no.png", "empty.png", "big.png"]
        assert tab.locator("#rows img[onerror]").count() == 0
        for direction in ("ascending", "descending"):
            tab.click("#heads button >> text=Score")
            assert tab.locator(f"#heads th[aria-sort={direction}]").inner_text() == "Score"
            texts = [row.split("\t")[3] for row in tab.locator("#rows tr").all_inner_texts()]
            assert texts[-3:] == [""] * 3
            scores = [float(text) for text in texts[:-3]]
            assert scores == sorted(scores, reverse=direction == "descending")
        assert tab.evaluate("document.activeElement.textContent") == "Score"
        tab.click("#rows button >> text=no.png")
        assert "not a picture that is read here" in tab.locator("#detail").inner_text()
        assert "What to do: " in tab.locator("#detail").inner_text()
        table = saved(tab, "#csv", tmp_path).read_text("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(table)))
        assert len(lines) == 23
        assert {line["file"] for line in lines} >= {"'=HYPERLINK(1).png", "'-1+1.png", HOSTILE, "no.png"}
        judged = [line for line in lines if line["status"] == "ok"]
        assert [float(line["score"]) for line in judged] == pytest.approx(scores, abs=0.006)
        assert {(line["fake_above"], line["max_fpr"], len(line["sha256"])) for line in judged} == {("1", "0.01", 64)}
        assert sorted(line["error"] for line in lines if line["status"] == "failed") == [
            "empty", "not-an-image", "too-large",
        ]  # fmt: skip
        tab.click("#clear")
        assert tab.locator("#rows tr").count() == 0
        assert not tab.locator("#batch").is_visible()


def test_unsure_says_why_and_copies_are_warned_of(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        choose(tab, ("between.png", BETWEEN))
        detail = tab.locator("#detail")
        assert detail.locator(".headline").inner_text() == "Unsure"
        assert "the score lies between the two thresholds" in detail.inner_text()
        assert "not of this picture" in detail.locator(".promise").inner_text()
        assert detail.locator(".warning").count() == 0
        choose(tab, ("small.png", graded(1, size=(200, 240))), ("copy.jpg", graded(0, size=(1024, 768), format="JPEG")))
        tab.click("#rows button >> text=small.png")
        assert "small: 200 × 240 pixels, below 256 on the short side" in detail.inner_text()
        assert "copy from the web (only 200 × 240 pixels, PNG)" in detail.locator(".warning").inner_text()
        tab.click("#rows button >> text=copy.jpg")
        assert "may be a copy from the web (only 1024 × 768 pixels, JPEG)" in detail.locator(".warning").inner_text()


def test_remarks_of_the_service_are_known_in_every_language(browser: Browser, server: Server) -> None:
    rng = np.random.default_rng(0)
    seen = [
        *conditions(picture(0, 40, 40)),
        *conditions(picture(0, 240, 240)),
        *conditions(np.zeros((512, 512, 3), np.uint8)),
    ]
    blocks = np.kron(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    seen += conditions(blocks)
    assert {"tiny", "small", "flat"} <= {c.code for c in seen}
    seen += [Remark(c, "English") for c in (*CODES, "between", "unlike")]
    seen += Calibration(1.0, 0.0, known_within=0.1).doubts(0.5, 0.2, ())
    frames = io.BytesIO()
    Image.fromarray(picture(0)).save(frames, "GIF", save_all=True, append_images=[Image.fromarray(picture(1))])
    notes = [*decode(ImageRef("x", frames.getvalue())).notes, *Crops(picture(0), 1.5).notes]
    assert len(notes) == 2
    with page_of(server, browser) as tab:
        for kind, remark in [*(("reason", r) for r in seen), *(("note", n) for n in notes)]:
            said = tab.evaluate("([kind, text, coded]) => remark(kind, text, coded)", [kind, "?", remark.coded()])
            assert "?" not in said["text"]
            assert "{" not in said["text"] or not remark.figures, said
        other = tab.evaluate("remark('reason', 'new: 3', {code: 'new', figures: {n: 3}})")
        assert other["text"] == "new: 3"  # of a newer service
        missing = tab.evaluate("(codes) => codes.filter((c) => !knows('e_' + c))", list(BY_CODE))
        other = {
            "access", "input", "usage", "unknown-name", "missing-extra", "no-provenance", "conflict", "weights",
            "offline", "download", "checksum", "cache", "format", "stale-index", "feature-space", "data", "service",
            "request", "error", "engine",
        }  # fmt: skip
        assert set(missing) <= other  # those are no matter of a picture: the message of the service says it


def test_the_language_can_be_switched(browser: Browser, server: Server) -> None:
    with page_of(server, browser, locale="de-AT") as tab:  # by the browser's wish
        assert tab.evaluate("document.documentElement.lang") == "de"
        choose(tab, ("a.png", BETWEEN))
        assert tab.locator(".headline").inner_text() == "Unentschieden"
        assert "der Wert liegt zwischen den beiden Schwellen" in tab.locator("#detail").inner_text()
        tab.select_option("#language", "en")
        assert tab.locator(".headline").inner_text() == "Unsure"
        tab.click("#report-one")
        tab.select_option("#language", "de")
        tab.locator("#report-title >> text=Bericht").wait_for()
        tables = tab.evaluate("WORDS")
        first = tables["en"]
        for name, words in tables.items():
            assert words.keys() == first.keys(), name
            for key, text in words.items():
                assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", first[key])), (name, key)
        used = tab.evaluate("[...document.querySelectorAll('[data-t]')].map((n) => n.dataset.t)")
        assert set(used) <= first.keys()
        assert not re.search(r"\{\w+\}|undefined|NaN", tab.locator("body").inner_text())


def test_a_key_is_asked_for_and_forgotten(browser: Browser, promising_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    command = [sys.executable, "-m", "univfd", "serve", "keygen", "--key-file", str(keys), "--name", "desk"]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with (
        serving("--detector", promising_folder, "--key-file", keys) as locked,
        page_of(locked, browser, expected=(REFUSED,), ready=False) as tab,
    ):
        tab.locator("#key-form").wait_for()
        assert serious(tab) == []
        choose(tab, ("a.png", FAKE))
        assert "wants a valid key" in tab.locator("#detail").inner_text()
        tab.fill("#key", "wrong")
        tab.keyboard.press("Enter")
        tab.locator("#status >> text=did not take").wait_for()
        tab.fill("#key", key)
        tab.keyboard.press("Enter")
        tab.locator(".headline >> text=Looks AI-generated").wait_for()  # tried again
        assert tab.input_value("#key") == ""
        assert tab.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
        assert key not in tab.content()


def test_a_busy_service_is_asked_again(browser: Browser, server: Server) -> None:
    error = {"error": {"code": "busy", "message": "all places are taken", "what_to_do": "try again"}}
    asked: list[str] = []
    with page_of(server, browser, expected=(REFUSED,)) as tab:

        def once(route: object) -> None:
            asked.append("x")
            if len(asked) == 1:
                route.fulfill(status=503, headers={"Retry-After": "1"}, body=json.dumps(error))  # type: ignore[attr-defined]
            else:
                route.fallback()  # type: ignore[attr-defined]

        tab.route("**/v1/detect*", once)
        choose(tab, ("a.png", FAKE))
        assert tab.locator(".headline").inner_text() == "Looks AI-generated"
        assert len(asked) == 2


def test_without_the_extra_for_provenance_verdicts_are_given(browser: Browser, server: Server) -> None:
    error = {
        "error": {"code": "no-provenance", "message": "install univfd[provenance]", "what_to_do": "ask the operator"}
    }
    with page_of(server, browser, expected=(REFUSED,)) as tab:
        tab.route("**/v1/detect*provenance=true", lambda route: route.fulfill(status=501, body=json.dumps(error)))
        choose(tab, ("a.png", FAKE), ("b.png", REAL))
        assert "AI-generated: 1, real: 1, unsure: 0, failed: 0" in tab.locator("#counts").inner_text()
        tab.click("#rows button >> text=a.png")
        assert "Not looked at" in tab.locator("#detail .origin").inner_text()
