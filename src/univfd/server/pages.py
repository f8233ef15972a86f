"""The two HTML pages, each one file without outside requests, and the policy that holds the browser to that."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi.responses import HTMLResponse

_SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)


@cache
def _read(name: str) -> tuple[str, str]:
    text = (resources.files(__package__) / name).read_text("utf-8")
    scripts = [hashlib.sha256(found.encode()).digest() for found in _SCRIPT.findall(text)]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in scripts) or "'none'"
    return text, (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(name: str) -> HTMLResponse:
    """A file of this folder; its own scripts run, no others, and it can ask nobody but this service."""
    text, policy = _read(name)
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)
