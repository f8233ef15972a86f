"""NumPy's linear algebra on one thread, where the encoder works at the same time.

A BLAS wakes its threads for each product, however small, and they turn round for a while waiting for the next one: that
costs the encoder more than so small products ever gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, the BLAS libraries of the process use one thread.

    The number is one of the whole process. Of several Python threads that ask, the first decides, and the others change
    nothing (`threadpoolctl`).
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> Any:
    """Of the libraries that are loaded by now: NumPy's is, and the line uses no other."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
