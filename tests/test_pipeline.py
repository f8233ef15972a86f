from __future__ import annotations

import threading
import time

import pytest

from univfd.pipeline import Budget, batched, ordered_map


def test_order_is_kept_whatever_finishes_first() -> None:
    def slow_when_even(i: int) -> int:
        time.sleep(0.01 if i % 2 == 0 else 0)
        return i * i

    assert list(ordered_map(slow_when_even, range(60), workers=4, ahead=8)) == [i * i for i in range(60)]


def test_never_further_ahead_than_asked() -> None:
    started: list[int] = []
    stream = ordered_map(started.append, range(1000), workers=2, ahead=6)
    for taken in range(1, 20):
        next(stream)
        time.sleep(0.005)
        assert len(started) <= taken + 6


def test_an_error_comes_out_at_its_turn_and_ends_the_threads() -> None:
    def fails_at_3(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    stream = ordered_map(fails_at_3, range(100), workers=2, ahead=4)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(stream)
    assert not [t for t in threading.enumerate() if t.name.startswith("univfd-load")]


def test_a_consumer_that_stops_early_ends_the_threads() -> None:
    stream = ordered_map(lambda i: i, range(10_000), workers=3, ahead=9)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("univfd-load")]


def test_batches() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


def test_a_budget_is_never_overdrawn_and_the_large_wait_until_they_are_alone() -> None:
    budget, held, most = Budget(10), [0], [0]
    lock = threading.Lock()

    def hold(amount: int) -> None:
        with budget.hold(amount):
            with lock:
                held[0] += amount
                most[0] = max(most[0], held[0])
                assert amount <= 10 or held[0] == amount
            time.sleep(0.002)
            with lock:
                held[0] -= amount

    list(ordered_map(hold, [3, 4, 25, 1, 9, 10, 2, 2, 2, 30, 5] * 3, workers=6, ahead=12))
    assert most[0] == 30
    assert held[0] == 0


def test_a_budget_is_given_back_after_an_error() -> None:
    budget = Budget(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), budget.hold(1):
            raise ValueError("x")
