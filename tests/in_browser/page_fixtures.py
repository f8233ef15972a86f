"""A browser, and a service for its page: a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving import Server, serving
from univfd.detector import Detector


@pytest.fixture(scope="module")
def promising_folder(toy_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    promise = replace(
        toy_detector.calibration, fake_above=1.0, real_below=-1.0, slope=2.0, intercept=0.0, max_fpr=0.01,
        max_miss=0.05, confidence=0.9, n_real=300, n_fake=200, data="pictures of this test",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("detectors") / "toy"
    replace(toy_detector, calibration=promise).save(folder)
    return folder


@pytest.fixture(scope="module")
def server(promising_folder: Path) -> Iterator[Server]:
    with serving("--detector", promising_folder, "--max-bytes", 2) as running:
        yield running
