"""A disk that refuses: every write of a run under a folder counted, the k-th one (or all from it on) refused.

What Python itself writes is seen: opening for writing, each write of a file, `fsync`, renames, new folders, lock files,
and the arrays of safetensors, whose own code writes them. What other libraries write (LanceDB) is not;
`by_hand/full_disk.py` has a real disk that fills up.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from univfd import storage


class Refusals:
    """Counts the writes below a folder, and refuses some of them.

    Args:
        below: the folder.
        first: number of the first write that is refused; 0: none is.
        once: only that one; otherwise all from it on, as a full disk does.
        error: what it is refused with.
    """

    def __init__(self, below: Path, first: int = 0, *, once: bool = False, error: int = errno.ENOSPC) -> None:
        self.below, self.first, self.once, self.error = str(below), first, once, error
        self.seen: list[str] = []

    def refuses(self, what: str, path: object) -> bool:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.below):
            return False
        self.seen.append(f"{what} {Path(path).name}")
        number = len(self.seen)
        return bool(self.first) and (number == self.first if self.once else number >= self.first)

    def failure(self, path: object) -> OSError:
        return OSError(self.error, os.strerror(self.error), os.fspath(path))  # type: ignore[call-overload]

    def check(self, what: str, path: object) -> None:
        if self.refuses(what, path):
            raise self.failure(path)


class _Raw(io.FileIO):
    """A file whose refused write leaves half of its bytes on the disk, as a disk that fills up does."""

    refusals: Refusals
    cut = False

    def write(self, data: Any) -> int:
        if self.cut or self.refusals.refuses("write", self.name):
            half = memoryview(data).nbytes // 2
            if self.cut or not half:
                self.cut = self.cut and not self.refusals.once
                raise self.refusals.failure(self.name)
            self.cut = True
            return super().write(memoryview(data).cast("B")[:half])
        return super().write(data)


def _opening(refusals: Refusals, real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        below = isinstance(file, str | os.PathLike) and os.fspath(file).startswith(refusals.below)
        if not below or not set(mode) & set("wax+"):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        refusals.check("open", file)
        raw = _Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
        raw.refusals = refusals
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    return opened


@contextmanager
def refusing(refusals: Refusals) -> Iterator[Refusals]:
    """Let the disk refuse while the block runs."""

    def checked(name: str, of: int = 0) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            refusals.check(name, args[of])
            return real(*args, **options)

        return call

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        refusals.check("fsync", str(path.readlink()) if path.exists() else refusals.below)
        fsync(descriptor)

    def create(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            refusals.check("create", path)
        return os_open(path, flags, *args, **options)

    def arrays(tensors: Any, path: Any) -> None:
        if refusals.refuses("arrays", path):
            with real_open(path, "wb") as file:
                file.write(b"half")
            text = f"Error while serializing: I/O error: No space left on device (os error {refusals.error})"
            raise SafetensorError(text)
        save_file(tensors, path)

    fsync, os_open, save_file, real_open = os.fsync, os.open, storage.save_file, io.open
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, checked(name, 1))
        patch.setattr(os, "mkdir", checked("mkdir"))
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "open", create)
        patch.setattr(storage, "save_file", arrays)
        patch.setattr(io, "open", _opening(refusals, io.open))
        patch.setattr(builtins, "open", _opening(refusals, builtins.open))
        yield refusals


def left_over(folder: Path) -> list[str]:
    """Names below a folder that are of unfinished work: scratch files, locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith(".") or "tmp" in p.suffix)
