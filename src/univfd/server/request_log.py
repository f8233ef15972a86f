"""A line of JSON for each request: whose key, which address, what came of it. Neither images nor their names."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from ..storage import cannot_write

log = logging.getLogger(__name__)


class RequestLog:
    """Appends to a file, which may be moved away or deleted meanwhile (logrotate): it is made anew then.

    Several processes may write the same file. A line that cannot be written whole is lost, the others stay whole; that
    is said in the service's own log, once until one can be written again, and the request is answered all the same.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, for its owner alone (mode 600): it names keys.

        Raises:
            UnivFDError: it cannot be written.
        """
        self._path, self._failing = path, False
        try:
            os.close(self._open())
        except OSError as error:
            raise cannot_write(path, error) from error

    def add(self, *, key: str, path: str, status: int, images: int, seconds: float) -> None:
        """Add a line.

        Args:
            key: name of the caller's key; empty: none was asked for, or it was refused.
            path: of the route, not what the caller wrote.
            status: of the answer.
            images: that were taken in.
            seconds: until it was sent.
        """
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "key": key, "path": path, "status": status,
            "images": images, "seconds": round(seconds, 4),
        }  # fmt: skip
        try:
            self._append(f"{json.dumps(line)}\n".encode())
        except OSError as error:
            if not self._failing:
                log.error("requests are not logged: %s", cannot_write(self._path, error))
            self._failing = True
        else:
            self._failing = False

    def _append(self, line: bytes) -> None:
        descriptor = self._open()  # each time: a file costs less to open than to watch
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # half a line, from when the disk was full
                line = b"\n" + line
            if (written := os.write(descriptor, line)) < len(line):
                raise OSError(f"{written} of {len(line)} bytes")
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
