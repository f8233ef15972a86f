"""The line keeps OpenBLAS to one thread while it works, and gives the threads back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from conftest import encoded, picture
from univfd import blas
from univfd.blas import one_thread
from univfd.detector import Detector
from univfd.embedding import loader
from univfd.server.engine import Engine
from univfd.types import ImageRef


def threads() -> set[int]:
    return {library.num_threads for library in blas._libraries()}


@pytest.fixture
def several() -> Iterator[None]:
    """A process whose OpenBLAS has three threads, whatever the machine."""
    libraries = blas._libraries()
    assert libraries, "NumPy of this environment has no OpenBLAS of its own"
    before = [library.num_threads for library in libraries]
    for library in libraries:
        blas._give(library, 3)
    yield
    for library, number in zip(libraries, before, strict=True):
        blas._give(library, number)


class Watching:
    """A part of a detector that notes how many threads there are whenever it is called."""

    def __init__(self, part: Any, method: str) -> None:
        self._part, self._method, self.seen = part, method, list[set[int]]()

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self.seen.append(threads())
        return getattr(self._part, name)


@pytest.fixture
def watched(toy_detector: Detector) -> tuple[Detector, Watching, Watching]:
    backbone, classifier = (
        Watching(toy_detector.backbone, "embed"),
        Watching(toy_detector.classifier, "decision_function"),
    )
    return replace(toy_detector, backbone=backbone, classifier=classifier), backbone, classifier  # type: ignore[arg-type]


@pytest.mark.usefixtures("several")
def test_one_thread_within_and_all_of_them_after() -> None:
    with one_thread():
        assert threads() == {1}
        with one_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {3}
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert threads() == {3}


@pytest.mark.usefixtures("several")
def test_the_first_to_enter_need_not_be_the_last_to_leave() -> None:
    entered, left, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with one_thread():
            entered.set()
            left.wait(30)
            seen.append(threads())

    second = threading.Thread(target=other)
    with one_thread():
        second.start()
        assert entered.wait(30)
    assert threads() == {1}
    left.set()
    second.join()
    assert seen == [{1}]
    assert threads() == {3}
    with threadpool_limits(2, user_api="blas"):  # others may still set a number
        assert threads() == {2}
    assert threads() == {3}


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize("streams", [1, 2])
def test_the_line_has_one_thread_and_its_caller_all(streams: int, watched: tuple[Detector, Watching, Watching]) -> None:
    detector, backbone, classifier = watched
    images = [encoded(picture(i)) for i in range(5)]
    loading: list[set[int]] = []
    judged = detector.detect(
        images, batch_size=1, workers=1, streams=streams, on_pixels=lambda *_: loading.append(threads())
    )
    assert [threads() for _ in judged] == [{3}] * 5
    assert classifier.seen == [{1}] * 5
    assert {1} in backbone.seen  # the first at least, which the line waits for
    assert {1} in loading


@pytest.mark.usefixtures("several")
def test_the_service_has_one_thread_while_it_judges(watched: tuple[Detector, Watching, Watching]) -> None:
    detector, backbone, classifier = watched
    served(detector)
    assert backbone.seen == classifier.seen == [{1}]
    assert threads() == {3}


def served(detector: Detector) -> None:
    """One image through the service's thread."""
    engine = Engine(detector, batch_size=2)
    try:
        ready: Any = loader(detector.backbone, detector.view)(ImageRef("x", encoded(picture(1))))
        engine.judge(ready, 1).result(60)
    finally:
        engine.close()


@pytest.mark.usefixtures("several")
def test_a_search_in_many_rows_has_all_threads(
    watched: tuple[Detector, Watching, Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, _, classifier = watched
    monkeypatch.setattr("univfd.detector._FEW_ROWS", len(detector.bank) - 1)
    list(detector.detect([np.zeros((64, 64, 3), np.uint8)]))
    served(detector)
    assert classifier.seen == [{3}, {3}]


def test_a_command_lets_idle_threads_sleep_before_numpy_is_there() -> None:
    """NumPy's OpenBLAS reads it once, while it is imported; what the environment says goes before."""
    code = "import os, sys, univfd.__main__; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], 'numpy' in sys.modules)"
    bare = {k: v for k, v in os.environ.items() if k != "OPENBLAS_THREAD_TIMEOUT"}
    for environment, said in ((bare, "20 False\n"), (bare | {"OPENBLAS_THREAD_TIMEOUT": "26"}, "26 False\n")):
        command = [sys.executable, "-c", code]
        assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout == said
