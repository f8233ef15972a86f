"""Threads and batches, bounded: what keeps decoding ahead of the encoder without holding a folder in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    *,
    workers: int,
    ahead: int,
    ending: Callable[[], object] = lambda: None,
) -> Iterator[Out]:
    """`map` in threads that keeps the order and never runs more than `ahead` items in front of the consumer.

    Args:
        function: called in the threads; what it raises comes out of the iterator at that item's turn.
        items: consumed lazily, in the consumer's thread.
        workers: threads.
        ahead: bound on items that are taken and not yet yielded; at least `workers`.
        ending: called before the threads are waited for, at the end or where the consumer stops: what they wait for
            themselves can be ended there.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="univfd-load")
    pending: deque[Future[Out]] = deque()
    source = iter(items)
    try:
        for item in source:
            pending.append(pool.submit(function, item))
            if len(pending) >= max(ahead, workers):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for waiting in pending:
            waiting.cancel()
        ending()
        pool.shutdown(wait=True, cancel_futures=True)


class Budget:
    """A bound on what several threads hold at a time, in any unit."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until there is room, and hold it: who came first goes first, or a large one would wait for ever.

        What is larger than the budget waits until it is alone.
        """
        amount, place = min(amount, self._total), object()
        with self._changed:
            self._waiting.append(place)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is place and self._left >= amount)
                self._left -= amount
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
