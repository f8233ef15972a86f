"""A line of JSON for each request: whose key, which address, what came of it. Neither images nor their names."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ..storage import cannot_write


class RequestLog:
    """Appends to a file, which may be moved away or deleted meanwhile (logrotate): it is made anew then.

    A line that cannot be written is lost, and said on stderr; the request is answered all the same.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            UnivFDError: it cannot be written.
        """
        try:
            handler = WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error) from error
        self._handler = handler

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
        self._handler.handle(logging.makeLogRecord({"msg": json.dumps(line), "levelno": logging.INFO}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
