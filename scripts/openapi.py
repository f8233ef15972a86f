"""Writes docs/openapi.json: what `univfd serve` answers to, for those who write clients. A test holds it to the code."""

from __future__ import annotations

import json
from pathlib import Path

from univfd.server.app import create_app


def text() -> str:
    return json.dumps(create_app().openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent.parent / "docs" / "openapi.json").write_text(text(), "utf-8")
