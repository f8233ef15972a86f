"""NumPy's small products on one thread, where the encoder works at the same time.

OpenBLAS, which NumPy's wheels have, wakes its threads for each product, and for a while they turn round waiting for the
next one: that costs the encoder more than a small product ever gains.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_changing = threading.Lock()
_inside = 0
_before: list[tuple[Any, int]] = []


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it OpenBLAS uses one thread, in the whole process; several threads may be within it at a time.

    The last to leave gives it back as many as it had. Other libraries, and an OpenBLAS that counts for each thread
    apart, are left alone.
    """
    global _inside, _before
    with _changing:
        if not _inside:
            _before = [(library, library.num_threads) for library in _libraries()]
            for library, _ in _before:
                _give(library, 1)
        _inside += 1
    try:
        yield
    finally:
        with _changing:
            _inside -= 1
            if not _inside:
                for library, threads in _before:
                    _give(library, threads)


def _give(library: Any, threads: int) -> None:
    # threadpoolctl lets only the thread that set a number first set another; who comes first here need not leave last.
    free = getattr(library, "clear_controlling_thread", lambda force: None)
    free(force=True)
    library.set_num_threads(threads)
    free(force=True)


@cache
def _libraries() -> tuple[Any, ...]:
    """What is loaded by now: NumPy's is, whose products these are."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return tuple(library for library in found if library.threading_layer == "pthreads")
