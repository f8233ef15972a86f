"""Verdicts from a service (`univfd serve`) in place of a detector of this machine; the standard library is enough."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

from . import errors as e
from .pipeline import ordered_map
from .remote_row import remote_row
from .sources import read_bytes
from .storage import parsed
from .types import Failure, ImageRef

log = logging.getLogger(__name__)

REQUESTS = 8
"""Requests at a time: enough to fill the batches of the service."""
MAP_REQUESTS = 2
"""With heat maps: a service draws no more at a time, and refuses the others."""
_ATTEMPTS, _LATE_ATTEMPTS = 8, 3
_SECONDS, _CONNECT_SECONDS = 120.0, 15.0
_PATIENCE = 180.0  # seconds of attempts that come to nothing
_QUOTA_PATIENCE = 900.0  # seconds in which nothing at all was let through by the service's rate
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONGEST_ANSWER = 64 << 20
_AGAIN, _TOO_MANY = {502, 503, 504}, 429
_OF_THE_IMAGE = {e.TooLargeError.code, e.MissingExtraError.code, e.SlowUploadError.code, e.InputError.code}
_OF_THE_IMAGE |= {kind.code for kind in e.InputError.__subclasses__()} | {e.DeadlineError.code}
_REFUSALS = {kind.code: kind for kind in e.ServiceError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class RemoteRow:
    """A row as `univfd detect` writes it, from a service.

    Attributes:
        row: of a verdict or failure.
        heatmap: a PNG file, if asked for.
    """

    row: Mapping[str, Any]
    heatmap: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(self.row)


class _Call:
    """One walk over images, which whoever asked for it may stop: its connections, and what its threads wait for."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.open: set[http.client.HTTPConnection] = set()

    def close(self) -> None:
        """Let the connections go; its threads have ended."""
        for connection in self.open:
            connection.close()

    def stop(self) -> None:
        """End all waiting; nothing is asked any more."""
        self.stopped.set()
        for connection in list(self.open):
            if (waiting := connection.sock) is not None:
                with suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)


class RemoteDetector:
    """The detector behind an address. Threads may share it; each has a connection of its own.

    What is passing (no answer, 502, 503, 504) is tried again for some minutes at most. A rate of the service (429) is
    kept: where it has let one request wait, the others wait behind that one.
    """

    def __init__(self, url: str, *, key: str = "") -> None:
        """Look at the address; nothing is asked yet.

        Args:
            url: of the service, `http://` or `https://`.
            key: that it asks for.

        Raises:
            UsageError: no such address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:  # a port that is no number, brackets that do not close
            raise e.UsageError(f"{url!r} is no address of a service: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
            raise e.UsageError(f"{url!r} is no address of a service; expected http(s)://HOST[:PORT]")
        if not parts.path.isascii() or any(c <= " " or c == "\x7f" for c in parts.path):
            raise e.UsageError(f"{url!r} is no address of a service: its path has blanks or other signs to be escaped")
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise e.UsageError(f"{url!r} is no address of a service: no host is called so") from None
        if not key.isascii() or not key.isprintable():
            raise e.UsageError("the key has signs that no key has (a line break at its end?); give it as it was made")
        if key and parts.scheme == "http" and not _is_this_machine(parts.hostname):
            log.warning("the key is sent to %s unencrypted; use https", parts.hostname)
        self.url, self._path = url, parts.path.rstrip("/")
        self._host, self._port, self._secure = parts.hostname, port, parts.scheme == "https"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._own, self._told = threading.local(), False
        self._turn = threading.Lock()  # of one that waits for the service's rate
        self._let_through = 0.0  # when something last was
        self._identity = ""  # of the detector that answers
        self._most: int | None = None  # bytes of an image, where the service has said so

    def about(self) -> dict[str, Any]:
        """Name, identity and promise of the detector that answers: see `GET /v1/detectors`.

        Raises:
            ServiceError: it does not answer, or refuses.
        """
        status, answer = self._ask(_Call(), "GET", "/v1/detectors", b"")
        if status != 200 or not answer.get("detectors"):
            raise _refusal(self.url, status, answer)
        limits = answer.get("limits")
        most = limits.get("max_bytes") if isinstance(limits, dict) else None
        self._most = most if type(most) is int else None
        listed = answer["detectors"]
        first: dict[str, Any] = listed[0] if isinstance(listed, list) and isinstance(listed[0], dict) else {}
        texts = all(isinstance(first.get(name), str) for name in ("name", "identity"))
        if not texts or not isinstance(first.get("promise"), dict) or type(first.get("bank_rows")) is not int:
            raise e.ServiceError(f"{self.url} says nothing of its detector that univfd serve would say")
        self._identity = first["identity"]
        return first

    def detect(
        self,
        refs: Iterable[ImageRef | Failure],
        *,
        neighbors: int = 1,
        heatmap: bool = False,
        provenance: bool = False,
        requests: int = REQUESTS,
    ) -> Iterator[RemoteRow]:
        """One row per reference, in order.

        Args:
            refs: the images.
            neighbors: rows of evidence of each class.
            heatmap: ask for a heat map of each.
            provenance: ask what the files say of their origin; None in the row of an image that could not be judged.
            requests: at a time.

        Raises:
            ServiceError: it does not answer, refuses the caller, or has another detector than it had at first; what is
                wrong with one image is a row.
        """
        options = (
            {"neighbors": neighbors} | ({"heatmap": 1} if heatmap else {}) | ({"provenance": 1} if provenance else {})
        )
        call = _Call()
        one = partial(self._one, call=call, path=f"/v1/detect?{urlencode(options)}", provenance=provenance)
        try:
            yield from ordered_map(one, refs, workers=requests, ahead=2 * requests, ending=call.stop)
        finally:
            call.close()

    def _one(self, ref: ImageRef | Failure, *, call: _Call, path: str, provenance: bool) -> RemoteRow:
        beside = {"provenance": None} if provenance else {}
        if isinstance(ref, Failure):
            return RemoteRow(ref.to_dict() | beside)
        try:
            data = read_bytes(ref)
            if not data:
                raise e.EmptyFileError("the file is empty (0 bytes); expected an image")
        except e.InputError as error:
            return RemoteRow(Failure(ref.name, error.code, str(error)).to_dict() | beside)
        if self._most is not None and len(data) > self._most:
            told = f"{len(data)} bytes; the service takes {self._most} at most for one image"
            return RemoteRow(Failure(ref.name, e.TooLargeError.code, told).to_dict() | beside)
        status, answer = self._ask(call, "POST", path, data)
        if status == 200:
            picture = answer.pop("heatmap", None)
            answer.pop("promise", None)
            try:
                shown = base64.b64decode(picture["base64"]) if picture else None
                row = remote_row(answer) | {"image": ref.name}
                if row.get("provenance") is not None:
                    row["provenance"] = row["provenance"] | {"image": ref.name}
                self._require_same(row["detector"])
                return RemoteRow(row, shown)
            except (TypeError, KeyError, ValueError) as error:
                raise e.ServiceError(f"{self.url} gave an answer that is none of univfd serve: {error}") from error
        problem = _problem(answer)
        if problem.get("code") in _OF_THE_IMAGE:
            return RemoteRow(Failure(ref.name, problem["code"], str(problem.get("message"))).to_dict() | beside)
        raise _refusal(self.url, status, answer)

    def _require_same(self, identity: str) -> None:
        self._identity = self._identity or identity
        if identity != self._identity:
            raise e.ServiceError(
                f"{self.url} has another detector now, {identity}; it was {self._identity}. What is there stays; judge "
                "the rest into another file"
            )

    def _ask(self, call: _Call, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer.

        Raises:
            UnreachableError: there is none, or not one of this service.
        """
        with ExitStack() as turn:
            waiting = False
            while True:
                if not waiting:
                    with self._turn:  # behind one that waits for the rate
                        pass
                status, wait, answer = self._persist(call, method, path, body)
                now = time.monotonic()
                if status != _TOO_MANY:
                    self._let_through = now
                    return status, answer
                if not waiting:
                    turn.enter_context(self._turn)
                    waiting, since = True, max(now, self._let_through)
                if now + wait - max(since, self._let_through) > _QUOTA_PATIENCE:
                    return status, answer
                self._tell("takes no more images for now: keeping to its rate")
                self._pause(call, max(wait, _FIRST_PAUSE))

    def _persist(self, call: _Call, method: str, path: str, body: bytes) -> tuple[int, float, dict[str, Any]]:
        """Ask until there is an answer that is not passing, or no hope; status, seconds to wait, JSON."""
        start, late = time.monotonic(), 0
        for attempt in range(_ATTEMPTS):
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.5)
            last = attempt == _ATTEMPTS - 1 or time.monotonic() - start > _PATIENCE
            self._pause(call, 0)
            try:
                status, wait, answer = self._once(call, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                self._forget(call)
                last = last or time.monotonic() - start > _PATIENCE
                if last or call.stopped.is_set() or isinstance(error, ssl.SSLCertVerificationError):
                    raise e.UnreachableError(
                        f"{self.url} does not answer: {str(error) or type(error).__name__}"
                    ) from error
            else:
                late += _problem(answer).get("code") == e.DeadlineError.code
                if status not in _AGAIN or last or late == _LATE_ATTEMPTS:
                    return status, wait, answer
                pause = max(pause, min(wait, _LONGEST_PAUSE))
            if attempt:
                self._tell(f"does not answer, or has no place: trying again, up to {_ATTEMPTS} times")
            self._pause(call, pause)
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, call: _Call, seconds: float) -> None:
        if call.stopped.wait(seconds):
            raise e.UnreachableError(f"{self.url} was not waited for: stopped")

    def _tell(self, what: str) -> None:
        """Once, whichever thread it is."""
        if not self._told:
            self._told = True
            log.warning("%s %s", self.url, what)

    def _once(self, call: _Call, method: str, path: str, body: bytes) -> tuple[int, float, dict[str, Any]]:
        connection = self._connection(call)
        kind = {"Content-Type": "application/octet-stream"} if body else {}
        if connection.sock is None:
            connection.connect()
        if call.stopped.is_set():  # what is stopped from here on ends the request too
            raise ConnectionAbortedError("stopped")
        connection.sock.settimeout(_SECONDS)
        try:
            connection.request(method, self._path + path, body or None, self._headers | kind)
        except (BrokenPipeError, ConnectionResetError):
            if not body:
                raise  # else it may have been refused before it was read: the answer says why, where it came through
        response = connection.getresponse()
        text = response.read(_LONGEST_ANSWER)
        if response.will_close:
            self._forget(call)
        wait = response.headers.get("Retry-After", "")
        try:
            answer = parsed(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):  # of a proxy, perhaps
            answer = {"error": {"code": "service", "message": f"an answer that is none of univfd serve: {text[:80]!r}"}}
        return response.status, float(wait) if wait.isdecimal() and len(wait) < 6 else 0.0, answer

    def _connection(self, call: _Call) -> http.client.HTTPConnection:
        if getattr(self._own, "connection", None) is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            made = kind(self._host, self._port or kind.default_port, timeout=_CONNECT_SECONDS)
            self._own.connection = made
            call.open.add(made)
        connection: http.client.HTTPConnection = self._own.connection
        return connection

    def _forget(self, call: _Call) -> None:
        if (connection := getattr(self._own, "connection", None)) is not None:
            connection.close()
            call.open.discard(connection)
            self._own.connection = None


_OWN_ADVICE = {
    "unauthorized": "name the variable of the environment that holds your key of this service: --key-env NAME"
}
"""In the place of what the service says to do, where a caller of this program does something else."""


def _refusal(url: str, status: int, answer: Mapping[str, Any]) -> e.ServiceError:
    problem = _problem(answer)
    kind = _REFUSALS.get(problem.get("code", ""), e.ServiceError)
    what = _OWN_ADVICE.get(problem.get("code", ""), problem.get("what_to_do", ""))
    advice = f". {what[:1].upper()}{what[1:]}" if what else ""
    return kind(f"{url} refused ({status}): {problem.get('message', 'without a reason')}{advice}")


def _problem(answer: Mapping[str, Any]) -> dict[str, str]:
    """What an answer says is wrong, as far as it says it in words."""
    said = answer.get("error")
    return {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
