"""Parts of the service, and its client, without a process of their own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import toy_samples
from serving import form
from univfd import errors, remote
from univfd.detector import Detector
from univfd.embedding import Loaded, loader
from univfd.errors import (
    BusyError,
    FormatError,
    RateLimitedError,
    RequestError,
    SlowUploadError,
    UnauthorizedError,
    UsageError,
)
from univfd.misses import file_miss
from univfd.remote import RemoteDetector
from univfd.server import keys, limits, uploads
from univfd.server.engine import Engine
from univfd.server.limits import Limits, Memory, RateLimiter
from univfd.server.problems import ANSWERS, BY_CODE
from univfd.server.running import check_address, hosts_of
from univfd.server.uploads import Form
from univfd.sources import expand
from univfd.types import Failure, ImageRef, Label, Verdict

ROOT = Path(__file__).parent.parent


def tree(kind: type[errors.UnivFDError]) -> set[type[errors.UnivFDError]]:
    return {kind}.union(*(tree(sub) for sub in kind.__subclasses__() if sub.__module__ == errors.__name__))


def test_every_error_has_one_answer() -> None:
    assert set(ANSWERS) == tree(errors.UnivFDError)
    assert len(BY_CODE) == len(ANSWERS)
    for kind, answer in ANSWERS.items():
        assert 400 <= answer.status < 600, kind
        assert answer.what_to_do
        assert re.search(rf"{kind.__name__} +{kind.code}\b", errors.__doc__ or ""), f"{kind.__name__} is not drawn"


def test_plain_detect_and_keygen_need_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['univfd', 'serve', 'keygen', '--key-file', 'k', '--name', 'a']\n"
        "import univfd.cli.detect, univfd.remote, univfd.cli._judging\n"
        "try: univfd.cli.main()\n"
        "except SystemExit: print(sorted({'fastapi', 'uvicorn', 'pydantic', 'prometheus_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv = ['univfd', 'serve']\nfrom univfd.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "univfd[server]" in done.stderr


def test_keys_are_kept_as_hashes_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = keys.generate(file, "a"), keys.generate(file, "b")
    known = keys.Keys(file)
    assert (known.check(f"Bearer {first}"), known.check(f"bearer {second}")) == ("a", "b")
    for wrong in (None, "", first, "Bearer ", f"Bearer {first[:20]}", f"Bearer {first}{second}", "Bearer \udcff"):
        with pytest.raises(UnauthorizedError):
            known.check(wrong)
    file.write_text("nonsense\n")
    with pytest.raises(UnauthorizedError):
        known.check(f"Bearer {first}")
    with pytest.raises(FormatError, match="line 1"):
        keys.Keys(file)
    with pytest.raises(UsageError):
        keys.generate(tmp_path / "other", "no spaces")
    with pytest.raises(UsageError):
        keys.Keys(tmp_path / "absent")


def test_the_rate_of_one_caller_is_not_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    rate = RateLimiter(60)
    for _ in range(60):
        rate.take("a")
    with pytest.raises(RateLimitedError):
        rate.take("a")
    rate.take("b")
    now = 1.0
    rate.take("a")
    with pytest.raises(RateLimitedError):
        rate.take("a")
    for i in range(20_000):
        rate.take(str(i))
    assert len(rate._buckets) <= 10_000


def test_addresses() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        check_address(host, keys=False, anonymous=False)
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        check_address(host, keys=True, anonymous=False)
        check_address(host, keys=False, anonymous=True)
        with pytest.raises(UsageError, match="keygen"):
            check_address(host, keys=False, anonymous=False)
    assert "localhost" in hosts_of("127.0.0.1", (), keys=False)
    assert hosts_of("127.0.0.1", (), keys=True) == ()
    assert hosts_of("0.0.0.0", ("A.example",), keys=True) == ("a.example",)


FILES = [("a.png", b"1" * 50), ("b\r.png", b"--univfdtestboundar"), ("c", b""), ("d", b"2" * 101), ("e", b"\r\n" * 9)]


@given(st.lists(st.integers(1, 60), min_size=1))
@settings(max_examples=50, deadline=None)
def test_forms_are_read_alike_however_they_are_cut(cuts: list[int]) -> None:
    body, headers = form([(n.replace("\r", "%0D"), d) for n, d in FILES])
    memory = Memory(10_000)
    parser = Form(headers["Content-Type"].partition("=")[2].encode(), Limits(max_bytes=100, upload_bytes=1000), memory)
    got, at, i = [], 0, 0
    while at < len(body):
        size = cuts[i % len(cuts)]
        got += parser.feed(body[at : at + size])
        at, i = at + size, i + 1
    parser.end()
    assert [(u.name, bytes(u.data), u.too_large) for u in got] == [
        (n.replace("\r", "%0D"), b"" if n == "d" else d, n == "d") for n, d in FILES
    ]
    for upload in got:
        upload.release()
    assert memory.held == 0


def test_forms_that_are_none() -> None:
    def read(body: bytes, memory: Memory) -> None:
        parser = Form(b"x", Limits(max_bytes=100, upload_bytes=1000), memory)
        try:
            parser.feed(body)
            parser.end()
        finally:
            parser.release()

    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'
    for body in (
        b"nothing of the kind",
        b"--x\r\n\r\nno name\r\n--x--\r\n",
        b'--x\r\nContent-Disposition: form-data; name="option"\r\n\r\n1\r\n--x--\r\n',
        part + b"\r\ncut off",
        part + b"A: " + b"a" * 5000 + b"\r\n\r\n1\r\n--x--\r\n",
        part + b"A: a\r\n" * 50 + b"\r\n1\r\n--x--\r\n",
    ):
        memory = Memory(1000)
        with pytest.raises(RequestError):
            read(body, memory)
        assert memory.held == 0
    memory = Memory(10)
    with pytest.raises(BusyError):
        read(part + b"\r\n" + b"1" * 50 + b"\r\n--x--\r\n", memory)
    assert memory.held == 0


def loaded(detector: Detector, n: int) -> list[Loaded]:
    load_one = loader(detector.backbone, detector.view)
    items = [load_one(ref) for ref in expand([s.ref for s in toy_samples()[:n]])]
    return [i for i in items if isinstance(i, Loaded)]


def test_the_engine_gives_each_image_its_own_verdict(toy_detector: Detector) -> None:
    sizes: list[int] = []
    engine = Engine(toy_detector, batch_size=4, wait=0.2, on_batch=lambda n, _: sizes.append(n))
    started, go = threading.Event(), threading.Event()
    engine.call(lambda: (started.set(), go.wait()))
    started.wait()
    images = loaded(toy_detector, 10)
    futures = [engine.judge(image, 1 + i % 3) for i, image in enumerate(images)]
    assert futures[5].cancel()
    failing = engine.call(lambda: 1 / 0)
    go.set()
    for i, (image, future) in enumerate(zip(images, futures, strict=True)):
        if i == 5:
            with pytest.raises(CancelledError):
                future.result()
            continue
        assert future.result().sha256 == image.sha256
        assert len(future.result().nearest_fake) == 1 + i % 3
    with pytest.raises(ZeroDivisionError):
        failing.result()
    engine.close()
    assert sum(sizes) == 9
    assert max(sizes) == 4


def test_the_engine_survives_a_failing_batch(toy_detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(toy_detector, batch_size=4)
    (image,) = loaded(toy_detector, 1)
    with monkeypatch.context() as patched:
        patched.setattr(type(toy_detector.backbone), "embed", lambda self, crops: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.judge(image, 1).result()
    assert engine.judge(image, 1).result().verdict == "real"
    engine.close()


@pytest.fixture
def row(toy_detector: Detector) -> dict[str, object]:
    """The row of a picture, as a service gives it."""
    (verdict,) = toy_detector.detect([toy_samples()[0].ref])
    return verdict.to_dict()


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch, row: dict[str, object]) -> Iterator[tuple[str, list[object]]]:
    """A service whose answers are taken from a list: a status, or None for a connection closed without a word."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    answers: list[object] = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if (status := answers.pop(0) if answers else 200) is None:
                self.close_connection = True
                return
            code = {401: "unauthorized", 415: "not-an-image"}.get(status, "busy")
            error = {"error": {"code": code, "message": "no", "what_to_do": "what you can"}}
            body = json.dumps(row if status == 200 else error).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def test_what_passes_is_tried_again_and_what_does_not_is_not(
    flaky: tuple[str, list[object]], row: dict[str, object]
) -> None:
    url, answers = flaky
    images = [ImageRef(str(i), b"x") for i in range(3)]
    answers += [503, None, 504, 429, None]
    rows = [r.to_dict() for r in RemoteDetector(url).detect(images, requests=1)]
    assert rows == [row | {"image": str(i)} for i in range(3)]
    answers += [415]
    rows = [r.to_dict() for r in RemoteDetector(url).detect(images, requests=1)]
    assert rows[0] == Failure("0", "not-an-image", "no").to_dict()
    answers += [401, 200, 200, 200]
    with pytest.raises(UnauthorizedError, match="What you can"):
        list(RemoteDetector(url).detect(images, requests=1))
    answers[:] = [503] * 8
    with pytest.raises(BusyError):
        list(RemoteDetector(url).detect(images[:1]))
    with pytest.raises(errors.UnreachableError):
        list(RemoteDetector("http://127.0.0.1:9").detect(images[:1]))


def test_keys_go_unencrypted_to_this_machine_alone(caplog: pytest.LogCaptureFixture) -> None:
    RemoteDetector("http://127.0.0.1:1", key="k")
    RemoteDetector("https://example.org", key="k")
    assert not caplog.records
    RemoteDetector("http://example.org", key="k")
    assert "unencrypted" in caplog.text
    for url in ("example.org", "ftp://a", "http://", "http://u@host", "http://h/?q=1"):
        with pytest.raises(UsageError):
            RemoteDetector(url)


class Body:
    """A request whose body comes in pieces, each after a pause of its own."""

    def __init__(self, pieces: list[tuple[float, bytes]]) -> None:
        self.headers: dict[str, str] = {}
        self.scope: dict[str, object] = {}
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for pause, data in self._pieces:
            await asyncio.sleep(pause)
            yield data


def received(pieces: list[tuple[float, bytes]], memory: Memory) -> int:
    async def read() -> int:
        upload = await uploads.one_file(Body(pieces), Limits(), memory)  # type: ignore[arg-type]
        size = len(upload.data)
        upload.release()
        return size

    return asyncio.run(read())


def test_much_at_once_buys_no_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "GRACE_SECONDS", 0.5)
    memory = Memory(1 << 30)
    start = time.monotonic()
    with pytest.raises(SlowUploadError):
        received([(0.0, b"x" * 20_000_000), (30.0, b"x")], memory)
    assert time.monotonic() - start < 15
    assert memory.held == 0
    # Slow but steady for longer than the grace is let through: each piece earns the pause before the next one.
    steady = [(0.1, b"x" * uploads.SLOWEST)] * 10
    assert received(steady, memory) == 10 * uploads.SLOWEST


def test_a_note_with_a_line_separator_leaves_the_folder_usable(tmp_path: Path, toy_detector: Detector) -> None:
    folder = tmp_path / "misses"
    for sample, note in zip(toy_samples(), ("a\u2028b\u0085c\u2029d", "second"), strict=False):
        data = bytes(sample.ref.source)  # type: ignore[arg-type]
        (verdict,) = toy_detector.detect(data)
        assert isinstance(verdict, Verdict)
        status = file_miss(
            folder, data, verdict, Label.REAL, ending=".png", by="feedback", facts={"note": note}, anyway=True
        )
        assert status == "filed"
    text = (folder / "manifest.jsonl").read_bytes()
    assert text.count(b"\n") == len(text.decode().splitlines()) == 2
    # A folder that an earlier version wrote raw characters into is read all the same.
    (folder / "manifest.jsonl").write_text(text.decode().replace("\\u2028", "\u2028"), "utf-8")
    assert file_miss(folder, data, verdict, Label.REAL, ending=".png", by="x", facts={}, anyway=True) == "known"


def test_a_key_file_without_a_last_line_break_takes_another_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first = keys.generate(file, "a")
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    second = keys.generate(file, "b")
    known = keys.Keys(file)
    assert (known.check(f"Bearer {first}"), known.check(f"Bearer {second}")) == ("a", "b")
