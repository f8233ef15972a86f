"""Threads and batches, bounded: what keeps decoding ahead of the encoder without holding a folder in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(function: Callable[[In], Out], items: Iterable[In], *, workers: int, ahead: int) -> Iterator[Out]:
    """`map` in threads that keeps the order and never runs more than `ahead` items in front of the consumer.

    Args:
        function: called in the threads; what it raises comes out of the iterator at that item's turn.
        items: consumed lazily, in the consumer's thread.
        workers: threads.
        ahead: bound on items that are taken and not yet yielded; at least `workers`.
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
        pool.shutdown(wait=True, cancel_futures=True)


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
