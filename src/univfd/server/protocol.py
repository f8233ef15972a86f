"""HTTP/1.1 of uvicorn, with an end to clients that hold a connection open and do nothing with it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .problems import RETRY_SECONDS, body_of

HEAD_SECONDS = 10.0
"""For the whole head of a request, from the connection's or the head's first byte."""
WRITE_SECONDS = 60.0
"""That a client may leave an answer unread."""


class GuardedProtocol(H11Protocol):
    """`limit_concurrency` of the configuration bounds open connections, not requests: those have an answer of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0)  # else what is little and never read starts no clock
        if self._most is not None and len(self.connections) > self._most:
            self._refuse(503, "busy", "too many connections", f"try again after {RETRY_SECONDS} seconds")
            return
        self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the clock runs while a head is not whole."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._answering():
            self._stop("_head")
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def on_response_complete(self) -> None:
        """Wait for the next request; the keep-alive timeout holds until its first byte."""
        super().on_response_complete()
        self._stop("_head")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop("_head")
        self._stop("_unread")
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        self._stop("_unread")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer in the shape of all errors."""
        self._refuse(400, "request", msg, "send HTTP/1.1 with a head of at most 16 KiB")

    def _answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _too_slow(self) -> None:
        self._head = None
        self._refuse(408, "slow-upload", f"no whole request came within {HEAD_SECONDS:.0f} seconds", "send it faster")

    def _refuse(self, status: int, code: str, message: str, what_to_do: str) -> None:
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if not (self._answering() and cycle.response_started):  # else this would get into the middle of the answer
            if cycle is not None:
                cycle.disconnected = True  # what the application would still say is not sent
            body = json.dumps(body_of(code, message, what_to_do)).encode()
            words = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
            retry = f"Retry-After: {RETRY_SECONDS}\r\n" if status == 503 else ""
            head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(f"{head}{retry}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _stop(self, timer: str) -> None:
        handle = getattr(self, timer, None)
        if handle is not None:
            handle.cancel()
            setattr(self, timer, None)
