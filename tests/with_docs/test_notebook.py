"""The notebook runs from beginning to end, and is kept without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def kept() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(kept: nbformat.NotebookNode) -> None:
    nbformat.validate(kept)
    for cell in kept.cells:
        assert not cell.metadata
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert set(kept.metadata) == {"kernelspec", "language_info"}


def test_it_runs(kept: nbformat.NotebookNode, tmp_path: Path) -> None:
    done = nbformat.from_dict(kept)
    NotebookClient(done, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {kind for cell in done.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())}
    assert {"text/html", "image/png"} <= shown
    tables = ["".join(out["data"].get("text/html", "")) for cell in done.cells for out in cell.get("outputs", ())]
    verdicts = next(text for text in tables if "nearest_fake_distance" in text)
    assert all(name in verdicts for name in ("ruin.jpg", "flux_dev_checkpoint.webp"))
    assert any("not-an-image" in text for text in tables)
    grown = next(text for text in tables if "verdict after" in text)
    assert grown.count("<td>True</td>") == 4
    assert "<td>demo</td>" in grown
