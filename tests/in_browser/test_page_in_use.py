"""What is made of a verdict on the page: reports, heat maps, corrections; and who can use it: `./test browser`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page_of import choose, page_of, saved, serious
from page_pictures import BETWEEN, FAKE, HOSTILE, REAL, REFUSED, generated, graded
from playwright.sync_api import Browser, Page

from conftest import encoded, picture
from serving import Server, serving

pytest_plugins = ["browsing", "page_fixtures"]


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
            "Nearest known pictures", "What the file says of its own origin", "This is an indication, not proof.",
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


def test_a_wrong_verdict_is_reported_after_consent_alone(
    browser: Browser, promising_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "misses"
    with (
        serving("--detector", promising_folder, "--feedback", folder) as taking,
        page_of(taking, browser, expected=(REFUSED,)) as tab,
    ):
        assert "stores only those that you report" in tab.locator("#limits").inner_text()
        sent: list[str] = []
        tab.on("request", lambda r: sent.append(r.url) if "feedback" in r.url else None)
        choose(tab, ("private name.png", FAKE))
        tab.locator("#wrong-button").focus()
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.value") == "real"  # what the verdict is not
        assert tab.locator("input[name=wrong-truth]").count() == 1
        assert "stored" in tab.locator("#wrong-form").inner_text()
        assert serious(tab) == []
        tab.click("#wrong-send")  # without the tick the browser asks for it
        assert tab.evaluate("document.activeElement.id") == "wrong-agree"
        assert not tab.is_checked("#wrong-agree")
        tab.click("#wrong-cancel")
        assert tab.evaluate("document.activeElement.id") == "wrong-button"
        assert (sent, folder.exists()) == ([], False)
        tab.click("#wrong-button")
        tab.fill("#wrong-note", "own <b>photo</b>")
        tab.check("#wrong-agree")
        tab.screenshot(path=tmp_path / "report.png")
        tab.click("#wrong-send")
        tab.locator("#wrong-told >> text=has stored the picture").wait_for()
        assert tab.locator("#wrong-button").count() == 0
        (row,) = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
        assert (row["label"], row["verdict"], row["note"]) == ("real", "fake", "own <b>photo</b>")
        assert (folder / row["file"]).read_bytes() == FAKE
        assert "private" not in json.dumps(row) + "".join(sent)
        tab.select_option("#language", "de")
        assert "Gemeldet: Der Dienst hat das Bild gespeichert." in tab.locator("#wrong-told").inner_text()
        assert serious(tab) == []
        tab.select_option("#language", "en")
        choose(tab, ("again.png", FAKE), ("between.png", BETWEEN))
        tab.click("#rows button >> text=again.png")
        report(tab)
        assert "reported before" in tab.locator("#wrong-told").inner_text()
        tab.click("#rows button >> text=between.png")
        tab.click("#wrong-button")
        assert [tab.locator("input[name=wrong-truth]").nth(i).input_value() for i in range(2)] == ["real", "fake"]
        assert tab.locator("input[name=wrong-truth]:checked").count() == 0
        tab.check("#wrong-agree")
        tab.click("#wrong-send")
        assert len(sent) == 2  # a truth must be told
        tab.check("input[value=fake]")
        tab.click("#wrong-send")
        tab.locator("#wrong-told >> text=has stored").wait_for()
        tab.route("**/v1/feedback*", lambda route: route.abort())
        choose(tab, ("c.png", REAL))
        tab.click("#rows button >> text=c.png")
        report(tab)
        assert "Not reported. The service cannot be reached" in tab.locator("#wrong-told").inner_text()
        assert tab.locator("#wrong-button").is_visible()


def report(tab: Page) -> None:
    tab.click("#wrong-button")
    tab.check("#wrong-agree")
    tab.click("#wrong-send")
    tab.locator("#wrong-form").wait_for(state="detached")


def test_reports_are_offered_only_where_they_are_taken(browser: Browser, server: Server) -> None:
    with page_of(server, browser) as tab:
        choose(tab, ("a.png", FAKE))
        assert tab.locator("#wrong, #wrong-button").count() == 0
        assert "neither stores nor logs them" in tab.locator("#limits").inner_text()
        assert "report" not in tab.locator("#limits").inner_text()


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
