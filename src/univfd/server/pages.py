"""The two HTML pages, each answered as one document that asks nobody else, and the policy that holds the browser to it.

Styles and scripts are files of their own here (`<link rel="stylesheet" href="x.css">`, `<script src="x.js">`) and are
put into the page when it is first read.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from fastapi.responses import HTMLResponse

_STYLE_FILE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
_SCRIPT_FILE = re.compile(r'<script src="([\w.]+)"></script>')
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _hashes(found: list[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


@cache
def _read(name: str) -> tuple[str, str]:
    text = _STYLE_FILE.sub(lambda found: f"<style>{_file(found[1])}</style>", _file(name))
    scripts, styles = _SCRIPT.findall(text), _STYLE.findall(text)
    parts = [_file(found) for found in _SCRIPT_FILE.findall(text)]
    text = _SCRIPT_FILE.sub(lambda found: f"<script>{_file(found[1])}</script>", text)
    return text, (
        f"default-src 'none'; script-src {_hashes(scripts + parts)}; style-src {_hashes(styles)}; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(name: str) -> HTMLResponse:
    """A file of this folder; its own scripts and styles count, no others, and it can ask nobody but this service."""
    text, policy = _read(name)
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(text, headers=headers)
