"""A tab on the page of a service; whatever it asks of anyone else, and every complaint, fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route

from serving import Server


@contextmanager
def page_of(
    server: Server, browser: Browser, *, width: int = 1200, scheme: str = "light", locale: str = "en-GB",
    expected: tuple[str, ...] = (), ready: bool = True,
) -> Iterator[Page]:  # fmt: skip
    """Open the page.

    Args:
        expected: parts of the console's lines that the test provokes (a browser reports refusals of HTTP there).
        ready: wait until the page knows its detector.
    """
    options: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "locale": locale}
    context = browser.new_context(**options, permissions=["clipboard-read", "clipboard-write"])
    wrong: list[str] = []

    def watch(route: Route) -> None:
        url = route.request.url
        if url.startswith((server.url, "data:", f"blob:{server.url.rstrip('/')}")):
            route.continue_()
        else:
            wrong.append(f"request {url}")
            route.abort()

    def complaint(text: str) -> None:
        if not any(part in text for part in expected):
            wrong.append(f"console {text}")

    context.route("**/*", watch)
    tab = context.new_page()
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("console", lambda message: complaint(message.text))
    tab.on("pageerror", lambda error: wrong.append(f"error {error}"))
    tab.goto(server.url)
    if ready:
        tab.locator("#identity").filter(has_text="@").wait_for()
    yield tab
    tab.wait_for_timeout(100)
    context.close()
    assert not wrong, wrong


def choose(tab: Page, *files: tuple[str, bytes]) -> None:
    """Choose files as a person would, and wait until all are judged."""
    tab.set_input_files("#files", [{"name": n, "mimeType": "image/png", "buffer": b} for n, b in files])
    done(tab)


def done(tab: Page) -> None:
    tab.locator("#rows tr").first.wait_for(state="attached")
    tab.locator("#progress").wait_for(state="hidden")


def hand_over(tab: Page, event: str, files: dict[str, bytes]) -> None:
    """Drop or paste files: the event that a browser makes, with the files in it."""
    tab.evaluate(
        """([event, files]) => {
          const data = new DataTransfer();
          const type = "image/png";
          for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
          const options = { bubbles: true, cancelable: true };
          if (event === "paste")
            document.body.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: data }));
          else for (const kind of ["dragover", "drop"])
            document.getElementById("drop").dispatchEvent(new DragEvent(kind, { ...options, dataTransfer: data }));
        }""",
        [event, [[name, list(data)] for name, data in files.items()]],
    )
    if files:
        done(tab)


def saved(tab: Page, button: str, folder: Path) -> Path:
    """Press a button that saves a file."""
    with tab.expect_download() as waiting:
        tab.click(button)
    target = folder / waiting.value.suggested_filename
    waiting.value.save_as(target)
    return target


def serious(tab: Page) -> list[str]:
    found = Axe().run(tab).response["violations"]
    return [f"{v['id']} {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in {"serious", "critical"}]


def bar_text(tab: Page) -> str:
    return tab.locator("#detail .bar").get_attribute("aria-label") or ""
