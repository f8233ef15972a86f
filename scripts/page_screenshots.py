"""Makes the pictures of the service's page in `docs/images`, from the demo's images; needs the extras `server`,
`provenance` and `browser`, and a Chromium.

    python scripts/page_screenshots.py --browser /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from univfd.samples import fetch

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BATCH = (
    "flux_depth_lora.webp", "flux_dev_checkpoint.webp", "mixing_controlnets.webp", "depth_t2i_adapter.webp",
    "depth_controlnet.webp", "city.png", "cat.jpg", "quokka.jpg", "ruin.jpg",
)  # fmt: skip


@contextmanager
def service() -> Iterator[str]:
    """The address of a service with the default detector."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "univfd", "serve", "--port", str(port), "--allow-anonymous"]
    with subprocess.Popen(command) as running:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/readyz", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            running.terminate()


def take(tab: Page, name: str, *, whole: bool = False) -> None:
    """A picture of the page, in 256 colours."""
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(path=IMAGES / name, full_page=whole)
    Image.open(IMAGES / name).convert("RGB").quantize(256).save(IMAGES / name, optimize=True)


def main() -> None:
    """Three pictures: a verdict, a batch in the dark, German on a narrow screen."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--browser", default="/usr/bin/chromium", help="path of a Chromium")
    given = options.parse_args()
    known = {image.path.name: str(image.path) for image in fetch()}
    with service() as address, sync_playwright() as play, tempfile.TemporaryDirectory() as scratch:
        chromium = play.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        with chromium.new_page(viewport={"width": 1000, "height": 1120}) as tab:
            tab.goto(address)
            tab.set_input_files("input[type=file]", [known["flux_depth_lora.webp"]])
            tab.click("text=Show where the score comes from")
            tab.wait_for_selector("#detail input[type=range]", timeout=120_000)
            take(tab, "page-verdict.png")
        with chromium.new_page(viewport={"width": 1000, "height": 900}, color_scheme="dark") as tab:
            tab.goto(address)
            words = Path(scratch, "notes.txt")
            words.write_text("no picture", "utf-8")
            tab.set_input_files("input[type=file]", [*(known[name] for name in BATCH), str(words)])
            tab.wait_for_selector("#status:has-text('All done')", timeout=240_000)
            tab.click("th button >> text=Score")
            take(tab, "page-batch.png", whole=True)
        narrow = chromium.new_context(viewport={"width": 390, "height": 1500}, locale="de-DE")
        with narrow.new_page() as tab:
            tab.goto(address)
            tab.set_input_files("input[type=file]", [known["city.png"]])
            tab.wait_for_selector("#detail .headline")
            take(tab, "page-german.png")
        chromium.close()


if __name__ == "__main__":
    main()
