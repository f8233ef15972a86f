"""What docs/integrations.md shows runs, in one go, as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pytest

from conftest import encoded, picture

PAGE = Path(__file__).parent.parent / "docs" / "integrations.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    places = [*(f"data/{c}/{i}.jpg" for c in ("real", "fake") for i in range(4)), "photos/a.jpg", "photos/b.jpg"]
    for seed, place in enumerate(places):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found = blocks()
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(found) == 7
    printed = capsys.readouterr().out
    for text in ("photos/gone.jpg", "access", "decide__alpha", "train/7", "univfd_verdict", "8 fake", "'score'"):
        assert text in printed
    assert [item.to_dict()["status"] for item in names["items"]] == ["ok", "ok", "failed"]
