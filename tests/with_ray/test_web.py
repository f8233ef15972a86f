"""Images at addresses of the web as inputs of runs on Ray, on servers of this machine; fsspec needs aiohttp for it."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from typing import Any, ClassVar

import pytest

from conftest import encoded, picture
from univfd.distributed import stores
from univfd.distributed.entry import table_of
from univfd.distributed.listing import entries, references
from univfd.types import Failure, ImageRef

PNG = encoded(picture(0, 32, 32), "PNG")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0)


class Stumbling(http.server.BaseHTTPRequestHandler):
    """Answers 503 to the first requests for a path; then gives the image, the first time only a part of it."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_HEAD(self) -> None:
        self.asked[self.path] += 1
        self.send_response(503 if self.asked[self.path] <= 2 else 200)
        self.send_header("Content-Length", str(len(PNG)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.asked["cut" + self.path] += self.asked[self.path] > 2
        self.wfile.write(PNG[:20] if self.asked["cut" + self.path] == 1 else PNG)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_web_server_that_stumbles_is_asked_again_and_one_that_is_gone_is_no_missing_file() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stumbling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        top = f"http://127.0.0.1:{server.server_port}"
        listed = table_of(entries([f"{top}/a.png"]))
        (ref,) = references(listed)
        server.shutdown()
    assert ref == ImageRef(f"{top}/a.png", PNG)
    (lost,) = references(listed)
    (never,) = entries([f"{top}/b.png"])
    assert isinstance(lost, Failure)
    for message in (lost.message, never.message):
        assert "no such file" not in message
        assert "onnect" in message


class Web(http.server.BaseHTTPRequestHandler):
    """Gives an image, or the status that a path begins with."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:4]) if self.path[1:4].isdecimal() else 200)
        self.send_header("Content-Length", str(len(PNG)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(PNG)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_addresses_of_the_web_keep_their_names_and_errors() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        top = f"http://127.0.0.1:{server.server_port}"
        found = list(entries([f"{top}/a%41.png?size=2", *(f"{top}/{n}.png" for n in (404, 403, 500))]))
        (ref, *_) = references(table_of(found))
        server.shutdown()
    assert [e.name for e in found[::2]] == [f"{top}/a%41.png?size=2", f"{top}/403.png"]
    assert ref == ImageRef(found[0].name, PNG)
    assert "no such file" in found[1].message
    assert "no permission" in found[2].message
    assert "HTTP status 500" in found[3].message
