"""The parent's side of the worker: start it, give it a file, wait until the deadline, end it where it fails."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import FormatError, NoProvenanceError, UnivFDError
from ._worker import READY, read_frame, write_frame

_LONGEST_ANSWER = 1 << 24
_START_SECONDS = 60.0
_FILES = 1000  # a fresh process after so many: a leak in a library stays small
_NEEDED = ("c2pa", "defusedxml")
# A list of import paths in place of `-m`: the current folder, and what is in it, must never be imported.
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from univfd.provenance._worker import main; main()"


class WorkerFailedError(Exception):
    """The worker did not answer: it was over the deadline, was ended, or answered nonsense."""


def require_extra() -> None:
    """Say early what is missing.

    Raises:
        NoProvenanceError: without the extra `provenance`.
    """
    for module in _NEEDED:
        if importlib.util.find_spec(module) is None:
            raise NoProvenanceError(
                f"provenance needs {module}, which is not installed: pip install 'univfd[provenance]'"
            )


class Worker:
    """One worker process, started when it is first needed and again after a failure; safe to share between threads.

    Args:
        memory: address space of the process, in bytes.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._done = 0
        self._lock = threading.RLock()

    def ask(self, data: bytes, trust: Sequence[Mapping[str, str]], deadline: float) -> dict[str, Any]:
        """Findings about one file.

        Raises:
            WorkerFailedError: no answer. The next file gets a fresh process.
            UnivFDError: the worker cannot be started.
        """
        with self._lock:
            return self._ask(data, trust, deadline)

    def _ask(self, data: bytes, trust: Sequence[Mapping[str, str]], deadline: float) -> dict[str, Any]:
        alive = self._process is not None and self._owner == os.getpid() and self._process.poll() is None
        if not alive or self._done >= _FILES:
            self._start()
        self._done += 1
        head = json.dumps({"trust": list(trust), "cpu_seconds": deadline}).encode()
        answer = self._exchange((head, data), deadline)
        if "error" in answer:
            self.close()
            raise WorkerFailedError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the process and close its pipes."""
        with self._lock:
            process, self._process = self._process, None
        if process is None or self._owner != os.getpid():  # after a fork it is the parent's
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it had not read yet
                    pipe.close()
        process.wait()

    def _start(self) -> None:
        self.close()
        paths = json.dumps([p for p in sys.path if p])
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, paths, str(self._memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **quiet},
            )  # fmt: skip
        except OSError as error:  # no handle, process or memory is left
            raise UnivFDError(f"the process that reads provenance does not start ({error})") from error
        self._owner, self._done = os.getpid(), 0
        try:
            ready = self._exchange((), _START_SECONDS)
        except WorkerFailedError as error:
            raise UnivFDError(f"the process that reads provenance does not start ({error})") from error
        if ready != READY:
            raise UnivFDError("the process that reads provenance does not start")

    def _exchange(self, frames: tuple[bytes, ...], seconds: float) -> dict[str, Any]:
        """Write frames and read the answer; a timer ends the process at the deadline, which ends both."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            for frame in frames:
                write_frame(process.stdin, frame)
            body = read_frame(process.stdout, _LONGEST_ANSWER)
            if body is None:
                raise FormatError("no answer")
            answer = json.loads(body)
            if not isinstance(answer, dict):
                raise FormatError("no object")
            return answer
        except (OSError, ValueError, FormatError, RecursionError) as error:
            code = process.poll() if late.is_set() else _ended(process)
            self.close()
            why = f"not done within {seconds:g} s" if late.is_set() else f"the reading process ended (code {code})"
            raise WorkerFailedError(why) from error
        except BaseException:  # interrupted between question and answer: they would no longer fit together
            self.close()
            raise
        finally:
            timer.cancel()


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1)
    return None
