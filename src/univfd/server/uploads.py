"""The bodies of requests: counted while they stream, in memory alone, given up on where too large or too slow."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from ..errors import EmptyFileError, RequestError, SlowUploadError, TooLargeError
from ..wording import counted
from ..writers import printable
from .limits import Limits, Memory
from .problems import BODY_READ

_LONGEST_NAME = 200
_LONGEST_HEADER = 2000
_MOST_HEADERS = 16
_FORM_BYTES = 64 << 10
"""Of a form around one file: boundaries and headers."""


GRACE_SECONDS = 20.0
"""That a client may be silent, or behind `SLOWEST`."""
SLOWEST = 8 << 10
"""Bytes a second that a client must keep up."""


class Upload:
    """One file of a request; its bytes count in `Memory` until it is released.

    Attributes:
        name: that the client gave it, made printable; for the answer alone, it is no path.
        data: its bytes.
        too_large: more came than one image may have; they were thrown away.
    """

    def __init__(self, name: str, limits: Limits, memory: Memory) -> None:
        self.rename(name)
        self.data: bytearray | bytes = bytearray()
        self.too_large = False
        self._most, self._memory = limits.max_bytes, memory

    def rename(self, name: str) -> None:
        """Give it another name, made printable as the client's is."""
        self.name = printable(name)[:_LONGEST_NAME]

    def whole(self) -> bytes:
        """Its bytes, which go on being counted; no more can be added."""
        self.data = bytes(self.data)
        return self.data

    def add(self, chunk: bytes) -> None:
        """Take more bytes.

        Raises:
            BusyError: there is no room for them.
        """
        if self.too_large or len(self.data) + len(chunk) > self._most:
            self.release()
            self.too_large = True
            return
        self._memory.take(len(chunk))
        self.data += chunk

    def release(self) -> None:
        """Let the bytes go."""
        self._memory.give(len(self.data))
        self.data = bytearray()


async def one_file(request: Request, limits: Limits, memory: Memory) -> Upload:
    """The one image of a request: the body, or the file of a form. Who takes it must release it.

    Raises:
        RequestError: none, several, or a body that is no form.
        EmptyFileError, TooLargeError, SlowUploadError, BusyError: see `Limits`.
    """
    boundary = _boundary(request)
    most = limits.max_bytes + (0 if boundary is None else _FORM_BYTES)
    if boundary is None:
        form, whole = None, [Upload("", limits, memory)]
    else:
        form, whole = Form(boundary, limits, memory), []
    try:
        async for chunk in _chunks(request, limits, most):
            if form is None:
                whole[0].add(chunk)
            else:
                whole += form.feed(chunk)
            if len(whole) > 1:
                raise RequestError("several files were sent; this address takes one, /v1/batch takes many")
            if whole and whole[0].too_large:
                raise _too_large(limits)
        if form is not None:
            form.end()
        if not whole:
            raise RequestError("the form has no file; send one with a filename, or its bytes as the whole body")
        if form is None and not whole[0].data:
            raise EmptyFileError("the body is empty (0 bytes); expected the bytes of one image")
    except BaseException:
        for upload in whole:
            upload.release()
        if form is not None:
            form.release()
        raise
    return whole[0]


async def many_files(request: Request, limits: Limits, memory: Memory) -> AsyncGenerator[Upload, None]:
    """The files of a form, each as soon as it is complete; who takes one must release it.

    Raises:
        RequestError: no form, or none in it.
        TooLargeError: too many.
        SlowUploadError, BusyError: see `Limits`.
    """
    if (boundary := _boundary(request)) is None:
        raise RequestError("expected multipart/form-data with one part a file")
    form, count = Form(boundary, limits, memory), 0
    try:
        async for chunk in _chunks(request, limits, limits.max_batch * (limits.max_bytes + _FORM_BYTES)):
            for upload in form.feed(chunk):
                count += 1
                if count > limits.max_batch:
                    upload.release()
                    raise TooLargeError(f"more than {counted(limits.max_batch, 'file')} in one request")
                yield upload
        form.end()
    finally:
        form.release()
    if not count:
        raise RequestError("the form has no file; send each image as a part with a filename")


class Form:
    """A parser of multipart/form-data that gives files as they end and keeps nothing on disk."""

    def __init__(self, boundary: bytes, limits: Limits, memory: Memory) -> None:
        self._limits, self._memory = limits, memory
        self._header = [b"", b""]
        self._headers, self._disposition = 0, b""
        self._upload: Upload | None = None
        self._done: list[Upload] = []
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self._add(data[start:end]),
                "on_part_end": self._end,
                "on_end": self._end_form,
            },
        )

    def feed(self, chunk: bytes) -> list[Upload]:
        """Take bytes; gives the files that end in them.

        Raises:
            RequestError: these are no form.
            BusyError: see `Upload.add`.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise RequestError(f"the body is not multipart/form-data: {error}") from error
        done, self._done = self._done, []
        return done

    def end(self) -> None:
        """Check that the form is whole.

        Raises:
            RequestError: it is not.
        """
        if not self._ended:
            raise RequestError("the form is cut off: its last boundary did not come")

    def release(self) -> None:
        """Let go of files that were not handed out."""
        for upload in (*self._done, *([self._upload] if self._upload else [])):
            upload.release()
        self._done, self._upload = [], None

    def _begin(self) -> None:
        self._header = [b"", b""]
        self._headers, self._disposition = 0, b""

    def _add_header(self, which: int, data: bytes) -> None:
        self._header[which] += data
        if len(self._header[which]) > _LONGEST_HEADER or self._headers > _MOST_HEADERS:
            raise RequestError("a part of the form has headers that are too long, or too many")

    def _end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._headers += 1
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            raise RequestError("a part of the form has no filename, so it is no file; options belong into the address")
        self._upload = Upload(options[b"filename"].decode("utf-8", "replace"), self._limits, self._memory)

    def _add(self, data: bytes) -> None:
        if self._upload is not None:
            self._upload.add(data)

    def _end(self) -> None:
        if self._upload is not None:
            self._done.append(self._upload)
            self._upload = None

    def _end_form(self) -> None:
        self._ended = True


async def _chunks(request: Request, limits: Limits, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Only the time that the client is waited for counts, not what is done in between."""
    if int(request.headers.get("content-length", "0")) > most:  # h11 lets only digits through
        raise _too_large(limits)
    stream, seen, credit = request.stream(), 0, GRACE_SECONDS
    while True:
        start = time.monotonic()
        try:
            with anyio.fail_after(credit):
                chunk = await anext(stream)
        except StopAsyncIteration:
            request.scope[BODY_READ] = True
            return
        except TimeoutError as error:
            raise SlowUploadError(f"after {seen} bytes the rest came too slowly, or not at all") from error
        except ClientDisconnect as error:
            request.scope[BODY_READ] = True
            raise RequestError("the client went away before its request was whole") from error
        # Never over the grace: who sent much at once could else be silent for most of an hour, all of it in memory.
        credit = min(GRACE_SECONDS, credit - (time.monotonic() - start) + len(chunk) / SLOWEST)
        seen += len(chunk)
        if seen > most:
            raise _too_large(limits)
        if chunk:
            yield chunk


def _boundary(request: Request) -> bytes | None:
    """The boundary of a form; None where the body is no form."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        return None
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise RequestError("multipart/form-data without a usable boundary in Content-Type")
    return boundary


def _too_large(limits: Limits) -> TooLargeError:
    return TooLargeError(f"over the limit of {limits.max_bytes / 1e6:g} MB for one image")
