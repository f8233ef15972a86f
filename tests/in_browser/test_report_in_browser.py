"""The report in a real browser: `./test browser`. Any request but for the file itself fails the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

from conftest import encoded, picture
from score_rows import hostile_run, write_run
from univfd.benchmark.figures import figures
from univfd.benchmark.rows import read_rows
from univfd.benchmark.run import KIND, MANIFEST, SCHEMA, SCORES
from univfd.report.page import Source, page
from univfd.storage import read_json
from univfd.types import ImageRef, Label, Sample

pytest_plugins = ["browsing"]

SIZES = [(1400, 900), (390, 844)]


@contextmanager
def opened(
    browser: Browser, file: Path, *, width: int, height: int, script: bool = True, scheme: str = "light"
) -> Iterator[Page]:
    """A page that was loaded; fails on requests, dialogs and complaints, also after loading."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, java_script_enabled=script, color_scheme=scheme,  # type: ignore[arg-type]
    )  # fmt: skip
    wrong: list[str] = []

    def watch(route: Route) -> None:
        url = route.request.url
        if url == file.as_uri() or url.startswith("data:"):
            route.continue_()
        else:
            wrong.append(f"request {url}")
            route.abort()

    context.route("**/*", watch)
    tab = context.new_page()
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("console", lambda message: wrong.append(f"console {message.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"error {error}"))
    tab.goto(file.as_uri())
    tab.wait_for_timeout(200)  # goto waited for all that the page loads; this is for what comes later
    yield tab
    tab.wait_for_timeout(100)
    context.close()
    assert wrong == []


def written(folder: Path, target: Path, samples: list[Sample] | None = None) -> Path:
    scores = read_rows(folder / SCORES)
    run = read_json(folder / MANIFEST, KIND, SCHEMA)
    source = Source(run, scores, figures(scores, rounds=20), 20, "0" * 64, (lambda: samples) if samples else None)
    target.write_text(page(source), "utf-8")
    return target


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    generators = [f"generator {i}" for i in range(30)]
    return written(write_run(folder / "run", n=600, generators=generators), folder / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return written(hostile_run(folder / "run"), folder / "report.html")


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_one_outside_request(
    browser: Browser, report: Path, hostile: Path, width: int, height: int, scheme: str
) -> None:
    for file in (report, hostile):
        with opened(browser, file, width=width, height=height, scheme=scheme) as tab:
            assert tab.locator("script, iframe, object, embed").count() == 0
            assert tab.locator("svg").count() == 12
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            tab.mouse.wheel(0, 100_000)
            tab.evaluate("document.querySelectorAll('nav a').forEach(a => a.click())")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_watch_notices_what_it_watches_for(browser: Browser, tmp_path: Path) -> None:
    bad = {
        "request": '<img src="http://192.0.2.1/a.png">',
        "console": '<meta http-equiv="Content-Security-Policy" content="script-src \'none\'"><script>alert(1)</script>',
        "dialog": "<script>alert(1)</script>",
    }
    for what, body in bad.items():
        file = tmp_path / f"{what}.html"
        file.write_text(f"<!DOCTYPE html><title>x</title><link rel=icon href='data:,'>{body}")
        with pytest.raises(AssertionError, match=what), opened(browser, file, width=800, height=600):
            pass


def test_its_policy_stops_what_would_get_through(browser: Browser, report: Path, tmp_path: Path) -> None:
    """Were a name to become markup after all, it still could not fetch or run anything: a server hears nothing."""
    heard: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = report.read_text("utf-8")
    assert text.count("Content-Security-Policy") == 1
    bad = f'<img src="http://127.0.0.1:{server.server_port}/a"><script>alert(1)</script></main>'
    for name, page_text in (("with", text), ("without", text.replace("Content-Security-Policy", "Nothing"))):
        file = tmp_path / f"{name}.html"
        file.write_text(page_text.replace("</main>", bad), "utf-8")
        context = browser.new_context()
        tab = context.new_page()
        said: list[str] = []
        tab.on("dialog", lambda dialog, said=said: (said.append(dialog.message), dialog.dismiss()))  # type: ignore[misc]
        tab.goto(file.as_uri())
        tab.wait_for_timeout(200)  # goto waited for all that the page loads; this is for what comes later
        context.close()
        assert (heard, said) == (([], []) if name == "with" else (["/a"], ["1"]))  # what it would do, it does without
    server.shutdown()
    server.server_close()


def test_the_main_table_can_be_read_without_scripts(browser: Browser, report: Path) -> None:
    with opened(browser, report, width=1400, height=900, script=False) as tab:
        table = tab.locator("#main table")
        assert table.is_visible()
        assert table.locator("tbody tr").count() == 4
        assert table.locator("caption").inner_text().startswith("Every detector under every perturbation")
        cell = table.locator("tbody td").first
        text = cell.inner_text().split()
        assert 0 <= float(text[0]) <= 1
        assert text[-2] == "n"
        box = table.bounding_box()
        assert box is not None
        assert box["width"] <= 1400  # all of it at a glance
        assert cell.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_heads_stay_while_a_long_table_is_scrolled(browser: Browser, report: Path) -> None:
    with opened(browser, report, width=900, height=700) as tab:
        place = tab.locator("#generators .scroll").first
        place.scroll_into_view_if_needed()
        assert place.evaluate("e => e.scrollHeight > e.clientHeight + 200")
        head, first = place.locator("thead"), place.locator("tbody th").first
        place.evaluate("e => { e.scrollTop = 400; e.scrollLeft = 50 }")
        outer, stays, gone = place.bounding_box(), head.bounding_box(), first.bounding_box()
        assert outer is not None
        assert stays is not None
        assert gone is not None
        assert abs(stays["y"] - outer["y"]) < 3
        assert gone["y"] < stays["y"]
        assert abs(gone["x"] - outer["x"]) < 3


def test_light_and_dark_and_print(browser: Browser, report: Path) -> None:
    inks = set()
    for scheme in ("light", "dark"):
        with opened(browser, report, width=1400, height=900, scheme=scheme) as tab:
            paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            inks.add((paper, tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")))
            tab.emulate_media(media="print")
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert tab.locator("#generators .scroll").first.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
    assert len({paper for paper, _ in inks}) == len({ink for _, ink in inks}) == 2


def test_pictures_are_in_the_file(browser: Browser, tmp_path: Path) -> None:
    rows = []
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i), "PNG"))
        rows.append(tmp_path / f"{i}.png")
    folder = write_run(tmp_path / "run", n=20, perturbations=("clean",), images=[str(r) for r in rows])
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(folder / SCORES)
    digests = pa.array([hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in table["image"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("sha256"), "sha256", digests), folder / SCORES)
    samples = [Sample(ImageRef(str(r), r), Label(i % 2)) for i, r in enumerate(rows)]
    file = written(folder, tmp_path / "report.html", samples)
    with opened(browser, file, width=1400, height=900) as tab:
        sizes = tab.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth])")
        assert sorted(sizes) == [[True, 128]] * 4 + [[True, 160]] * 24  # spectra, small copies
