"""Where the browser is that these tests use."""

from __future__ import annotations

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """`UNIVFD_BROWSER`, or the first Chromium on the PATH; without one the tests fail, they are not skipped."""
    given = os.environ.get("UNIVFD_BROWSER")
    found = [given] if given else [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.fail(f"no browser: set UNIVFD_BROWSER, or install one of {', '.join(NAMES)}")
    return str(found[0])
