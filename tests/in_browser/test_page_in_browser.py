"""The page of the service in a real browser, asking a real process: `./test browser`."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import executable
from page_of import choose, hand_over, page_of, saved
from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser, Page, sync_playwright

from conftest import encoded, picture
from serving import Server, serving
from univfd import calibration
from univfd.conditions import conditions
from univfd.detector import Detector
from univfd.images import decode
from univfd.server.problems import BY_CODE
from univfd.types import ImageRef

REFUSED = "Failed to load resource"
HOSTILE = "<img src=x onerror=alert(1)>\"'.png"


def graded(grid: float, seed: int = 1, size: tuple[int, int] = (320, 256), format: str = "PNG") -> bytes:
    """A picture with the toy's grid: 0 none (real), 1 whole (fake)."""
    pixels = picture(seed, *size).astype(float)
    marked = pixels.copy()
    marked[::2, ::2] = 255 - marked[::2, ::2] // 2
    return encoded((pixels * (1 - grid) + marked * grid).astype(np.uint8), format)


def generated(text: str) -> bytes:
    """A fake with a generator's text in it."""
    texts, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    texts.add_text("parameters", text)
    Image.open(io.BytesIO(graded(1))).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


FAKE, REAL, BETWEEN = graded(1), graded(0), graded(0.14)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])  # root in CI
        yield started
        started.close()


@pytest.fixture(scope="module")
def toy_folder(toy_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    promise = replace(
        toy_detector.calibration, fake_above=1.0, real_below=-1.0, slope=2.0, intercept=0.0, max_fpr=0.01,
        max_miss=0.05, confidence=0.9, n_real=300, n_fake=200, data="pictures of this test",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("detectors") / "toy"
    replace(toy_detector, calibration=promise).save(folder)
    return folder


@pytest.fixture(scope="module")
def server(toy_folder: Path) -> Iterator[Server]:
    with serving("--detector", toy_folder, "--max-bytes", 2) as running:
        yield running


def serious(tab: Page) -> list[str]:
    found = Axe().run(tab).response["violations"]
    return [f"{v['id']} {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in {"serious", "critical"}]


def test_a_chosen_picture_gets_a_verdict_with_its_promise_and_evidence(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        choose(tab, ("a.png", FAKE))
        detail = tab.locator("#detail")
        assert detail.locator(".headline").inner_text() == "Looks AI-generated"
        assert "At most 1% of real pictures are called AI-generated." in detail.inner_text()
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
        assert copied.endswith("A signal, not proof.")
        assert "1%" in copied
        choose(tab, ("b.png", REAL))
        tab.click("#rows button >> text=b.png")
        assert detail.locator(".headline").inner_text() == "Looks real"
        assert "At most 5% of AI-generated pictures are called real." in detail.inner_text()


def bar_text(tab: Page) -> str:
    return tab.locator("#detail .bar").get_attribute("aria-label") or ""


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
    texts = {c.code: c.text for c in seen}
    assert {"tiny", "small", "flat"} <= texts.keys()
    frames = io.BytesIO()
    Image.fromarray(picture(0)).save(frames, "GIF", save_all=True, append_images=[Image.fromarray(picture(1))])
    notes = decode(ImageRef("x", frames.getvalue())).notes
    assert notes
    with page_of(server, browser) as tab:
        for text in [*texts.values(), calibration.BETWEEN, *notes]:
            assert tab.evaluate("(text) => remarkCode(text)", text), text
        missing = tab.evaluate("(codes) => codes.filter((c) => !knows('e_' + c))", list(BY_CODE))
        other = {
            "access", "input", "usage", "unknown-name", "missing-extra", "output-exists", "conflict", "weights",
            "offline", "download", "checksum", "cache", "format", "stale-index", "feature-space", "data", "service",
            "request", "error",
        }  # fmt: skip
        assert set(missing) <= other  # those are no matter of a picture: the message of the service says it


def test_hostile_names_and_metadata_stay_text(browser: Browser, server: Server, tmp_path: Path) -> None:
    prompt = "<script>alert(1)</script><img src=http://192.0.2.1/x onerror=alert(2)>\n"
    prompt += "Steps: 20, Sampler: Euler, Model: <b>m</b>"
    names = [
        HOSTILE,
        "photo\u202egnp.exe",
        "a" * 300 + ".png",
        "{score}&lt;b&gt;$&.png",
        "</style><script>alert(3)</script>",
    ]
    with page_of(server, browser) as tab:
        choose(tab, *[(name, generated(prompt)) for name in names])
        for name in names:
            tab.locator("#rows button").nth(names.index(name)).click()
            assert tab.locator("#detail-title").inner_text() == name.replace("\u202e", "\\u202e")
            assert tab.locator("#detail script, #detail b, #detail [onerror]").count() == 0
        assert "made by AI" in tab.locator("#detail .origin").inner_text()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1200
        tab.click("#report-all")
        file = saved(tab, "#save", tmp_path)
        assert "<script" not in file.read_text("utf-8")
        check_report(browser, file, names[0])


def check_report(browser: Browser, file: Path, name: str) -> str:
    """Open a saved report without a network; gives its text."""
    asked: list[str] = []
    context = browser.new_context()
    context.route("**/*", lambda route: (asked.append(route.request.url), route.continue_())[1])
    tab = context.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.goto(file.as_uri())
    text = tab.locator("body").inner_text()
    assert tab.locator("script, [onerror], iframe, link").count() == 0
    assert name in text
    sizes = tab.evaluate("[...document.images].map((i) => i.naturalWidth)")
    assert sizes
    assert all(sizes)
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert said == []
    assert serious(tab) == []
    context.close()
    return text


def test_a_report_to_attach_to_a_case(browser: Browser, server: Server, tmp_path: Path) -> None:
    import hashlib

    with page_of(server, browser) as tab:
        choose(tab, ("case.png", FAKE))
        tab.click("#report-one")
        tab.locator("#report-title").wait_for()
        assert tab.evaluate("document.activeElement.id") == "report-title"
        assert not tab.locator("#work").is_visible()
        file = saved(tab, "#save", tmp_path)
        assert re.match(r"univfd-case\.png-[0-9a-f]{8}-\d{4}-\d\d-\d\d\.html", file.name)
        text = check_report(browser, file, "case.png")
        for part in (
            hashlib.sha256(FAKE).hexdigest(), "Looks AI-generated", "toy@",
            "real below -1.0000, AI-generated above 1.0000", "At most 1% of real pictures", "320 × 256 pixels, PNG",
            "Nearest known pictures", "What the file says of its own origin", "A signal, not proof.",
            "Limits of this report",
        ):  # fmt: skip
            assert part in text, part
        tab.emulate_media(media="print")
        assert not tab.locator("#save").is_visible()
        assert not tab.locator("header").is_visible()
        assert tab.locator("#paper").is_visible()
        assert tab.pdf().startswith(b"%PDF")
        tab.emulate_media(media="screen")
        tab.click("#back")
        assert tab.evaluate("document.activeElement.id") == "report-one"
        assert tab.locator("#detail").is_visible()


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


def test_all_of_it_by_keyboard(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        reached = []
        for _ in range(3):
            tab.keyboard.press("Tab")
            reached.append(tab.evaluate("document.activeElement.id"))
        assert reached[:2] == ["language", "files"]
        assert tab.evaluate("getComputedStyle(document.querySelector('#files + label')).outlineStyle") == "none"
        tab.keyboard.press("Shift+Tab")
        assert tab.evaluate("getComputedStyle(document.querySelector('#files + label')).outlineStyle") == "solid"
        choose(tab, ("a.png", FAKE), ("b.png", REAL))
        tab.locator("#rows button").nth(1).focus()
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "detail-title"
        tab.focus("#report-one")
        tab.keyboard.press("Enter")
        tab.locator("#report-title").wait_for()
        tab.focus("#back")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "report-one"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_nothing_serious(browser: Browser, server: Server, scheme: str, width: int) -> None:
    with page_of(server, browser, scheme=scheme, width=width, expected=(REFUSED,)) as tab:
        found = {"empty": serious(tab)}
        for name, data in (("fake", FAKE), ("real", REAL), ("unsure", graded(1, size=(200, 240))), ("bad", b"no")):
            choose(tab, (name, data))
            if name != "fake":  # one alone is shown without a table
                tab.locator("#rows button").last.click()
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            found[name] = serious(tab)
        tab.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        tab.click("#report-all")
        tab.locator("#report-title").wait_for()
        found["report"] = serious(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert not any(found.values()), found


def test_a_key_is_asked_for_and_forgotten(browser: Browser, toy_folder: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    command = [sys.executable, "-m", "univfd", "serve", "keygen", "--key-file", str(keys), "--name", "desk"]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with (
        serving("--detector", toy_folder, "--key-file", keys) as locked,
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
        "error": {"code": "missing-extra", "message": "install univfd[provenance]", "what_to_do": "ask the operator"}
    }
    with page_of(server, browser, expected=(REFUSED,)) as tab:
        tab.route("**/v1/detect*provenance=true", lambda route: route.fulfill(status=501, body=json.dumps(error)))
        choose(tab, ("a.png", FAKE), ("b.png", REAL))
        assert "AI-generated: 1, real: 1, unsure: 0, failed: 0" in tab.locator("#counts").inner_text()
        tab.click("#rows button >> text=a.png")
        assert "Not looked at" in tab.locator("#detail .origin").inner_text()


def test_the_heat_map_lies_over_the_picture(browser: Browser, tmp_path: Path) -> None:
    with serving("--deadline", 120) as real_one, page_of(real_one, browser) as tab:
        choose(tab, ("wide.png", encoded(picture(3, 1100, 1060), "PNG")))
        tab.click("#heat-button")
        tab.locator("#strength").wait_for(timeout=120_000)
        assert tab.evaluate("document.activeElement.id") in {"strength", "detail-title"}
        shown, over = tab.locator("#detail .picture > img"), tab.locator("#detail .overlay > img")
        tab.locator(".overlay > img[style*=width]").wait_for()
        outer, inner = shown.bounding_box(), over.bounding_box()
        assert outer is not None
        assert inner is not None
        assert (inner["x"], inner["y"], inner["width"]) == pytest.approx(
            (outer["x"], outer["y"], outer["width"]), abs=2
        )
        assert inner["height"] > outer["height"] + 10  # the legend below is cut off
        tab.focus("#strength")
        tab.keyboard.press("Home")
        assert tab.evaluate("document.querySelector('.overlay').style.opacity") == "0"
        tab.keyboard.press("End")
        assert tab.evaluate("document.querySelector('.overlay').style.opacity") == "1"
        assert serious(tab) == []
        tab.click("#report-one")
        tab.locator("#paper .thumbs img").nth(1).wait_for()
        check_report(browser, saved(tab, "#save", tmp_path), "wide.png")


def test_nobody_else_is_asked_and_the_watch_would_notice(browser: Browser, server: Server) -> None:
    codes = [
        "fetch('http://192.0.2.1/').catch(() => {})",
        "document.body.append(Object.assign(new Image(), {src: 'http://192.0.2.1/a.png'}))",
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'alert(1)'}))",
    ]
    for code in codes:
        with pytest.raises(AssertionError, match="Content Security Policy"), page_of(server, browser) as tab:
            tab.evaluate(code)
