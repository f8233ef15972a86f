"""A real process of `univfd serve` on loopback, and a small client for it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


class Server:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        status, _, text = self.ask(method, path, body, headers)
        return status, json.loads(text)

    def figure(self, name: str) -> float:
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def stop(self, seconds: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def form(files: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    boundary = "univfdtestboundary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + data
        for name, data in files
    ]
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@contextmanager
def serving(*args: object, ready: bool = True, before: str = "") -> Iterator[Server]:
    """Serve until the end; `before` is code that the process runs first, to make something slow or short."""
    code = f"{before}\nimport univfd.cli\nunivfd.cli.main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", *map(str, args)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        first = process.stderr.readline()  # type: ignore[union-attr]
        assert first.startswith("listening at "), first + process.communicate()[1]
        server = Server(process, first.split()[2])
        until = time.monotonic() + 60
        while ready and server.ask("GET", "/readyz")[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
