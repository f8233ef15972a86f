"""The process around a command: its standard streams and SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same as Ctrl-C, but for the exit code."""


def listen_for_termination() -> None:
    """Let SIGTERM be raised as `Terminated`, unless somebody has other plans for it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def open_streams() -> None:
    """Put the null device where standard streams are closed, or the next file would get their number.

    What is written to a closed stdout is not lost in silence: `sys.stdout` stays None, and who needs it says so.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def forget_output() -> None:
    """Let what nobody can take go nowhere, so that the exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
