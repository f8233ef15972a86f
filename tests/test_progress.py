"""How far a run is, where stderr is no terminal but a log."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import click
import pytest

from univfd.cli import _shared
from univfd.cli._shared import LOG_SECONDS, progress, watching


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def later(self, share: float) -> None:
        """After a share of what lies between two lines."""
        self.now += share * LOG_SECONDS


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_shared, "time", made)
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(_shared, "remark", lambda _, text: lines.append(text))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: False))
    yield lines
    monkeypatch.undo()


def context(*, quiet: bool = False) -> click.Context:
    return click.Context(click.Command("x"), obj={"quiet": quiet})


def test_a_short_run_says_nothing(clock: Clock, said: list[str]) -> None:
    with progress(context(), "images") as advance:
        for _ in range(3):
            clock.later(0.3)
            advance(5)
    assert said == []


def test_a_long_run_says_now_and_then_and_at_the_end_how_far_it_is(clock: Clock, said: list[str]) -> None:
    with progress(context(), "images") as advance:
        for _ in range(5):
            clock.later(0.5)
            advance(7)
    assert said == ["images: 14 after 60 s", "images: 28 after 120 s", "images: 35 after 150 s"]


def test_the_last_line_is_not_said_twice(clock: Clock, said: list[str]) -> None:
    with progress(context(), "images") as advance:
        clock.later(1)
        advance(7)
    assert said == ["images: 7 after 60 s"]


def test_quiet_is_quiet(clock: Clock, said: list[str]) -> None:
    with progress(context(quiet=True), "images") as advance, watching(context(quiet=True)) as watch:
        clock.later(2)
        advance(1)
        watch("clean", 1, 2)
    assert said == []


def test_several_pieces_of_work_are_told_apart(clock: Clock, said: list[str]) -> None:
    with watching(context()) as watch:
        for done in range(1, 4):
            clock.later(0.5)
            watch("clean", done, 3)
        watch("jpeg:85", 1, 3)
        clock.later(1)
        watch("jpeg:85", 2, 3)
        watch("jpeg:85", 3, 3)
    assert said == [
        "clean: 3 images",
        "clean: 2 of 3 after 60 s",
        "jpeg:85: 3 images",
        "jpeg:85: 2 of 3 after 150 s",
        "clean: 3 of 3 after 90 s",
        "jpeg:85: 3 of 3 after 150 s",
    ]


def test_what_is_broken_off_has_no_last_line(clock: Clock, said: list[str]) -> None:
    def broken_off() -> None:
        with progress(context(), "images") as advance:
            clock.later(1)
            advance(7)
            advance(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert said == ["images: 7 after 60 s"]
