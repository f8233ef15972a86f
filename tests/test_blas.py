"""The line keeps NumPy's linear algebra to one thread while it works, and gives the threads back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from conftest import encoded, picture
from univfd.blas import one_thread
from univfd.detector import Detector


def threads() -> set[int]:
    """Of NumPy's BLAS; SciPy has one of its own, which the line does not use."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library.num_threads for library in found if "scipy.libs" not in library.filepath}


@pytest.fixture
def several() -> Iterator[None]:
    """A process whose BLAS has three threads, whatever the machine, and minds this thread, not the first that asked."""
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
    with threadpool_limits(3, user_api="blas"):
        if threads() != {3}:
            pytest.skip(f"the BLAS here does not take a number of threads ({threads()})")
        yield


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
@pytest.mark.parametrize("streams", [1, 2])
def test_the_line_has_one_thread_and_its_caller_all(toy_detector: Detector, streams: int) -> None:
    images = [encoded(picture(i)) for i in range(5)]
    loading: list[set[int]] = []
    judged = toy_detector.detect(
        images, batch_size=1, workers=1, streams=streams, on_pixels=lambda *_: loading.append(threads())
    )
    seen = [threads() for _ in judged]
    assert seen == [{3}] * 5
    assert {1} in loading  # the first ones at least are loaded while the line waits for them
