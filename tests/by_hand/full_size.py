"""The recipes at full size: all blocks of each network of the catalogue, random weights, against `transformers`.

Takes some minutes and 8 GB of memory, so it is not collected with the other tests. By hand, after `./test torch`:

    .venv-torch/bin/python -m pytest -s tests/by_hand/full_size.py

A file that `transformers` writes for such a model has the length of the published one, to the byte: its tensors have
the same names, types and shapes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from univfd.catalogue import HubSource, entry
from with_torch.test_recipes import NAMES, both, cosine


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    described = entry(name)
    ours, theirs, file = both(name, described.blocks, tmp_path)
    print(f"{name}: largest difference {np.abs(ours - theirs).max():.1e}, smallest cosine {cosine(ours, theirs):.10f}, "
          f"mean magnitude {np.abs(theirs).mean():.2f}")  # fmt: skip
    assert cosine(ours, theirs) > 1 - 1e-9
    source = described.sources[0]
    assert isinstance(source, HubSource)
    if "dinov2" in name:  # the others' files hold text towers too
        assert file.stat().st_size == source.bytes
