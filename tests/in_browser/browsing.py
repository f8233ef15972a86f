"""The browser that these tests use: a plugin of pytest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """`UNIVFD_BROWSER`, or the first Chromium on the PATH; without one the tests fail, they are not skipped."""
    given = os.environ.get("UNIVFD_BROWSER")
    found = [given] if given else [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.fail(f"no browser: set UNIVFD_BROWSER, or install one of {', '.join(NAMES)}")
    return str(found[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])  # root in CI
        yield started
        started.close()
