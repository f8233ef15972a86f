"""Parts of the service, and its client, without a process of their own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
from univfd.server.feedback import file_wrong
from univfd.server.guards import LOOPBACK_NAMES
from univfd.server.limits import Limits, Memory, RateLimiter
from univfd.server.monitoring import Monitor
from univfd.server.problems import ANSWERS, BY_CODE
from univfd.server.running import check_address, hosts_of
from univfd.server.service import Options, Service
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
    assert set(hosts_of("127.0.0.1", ("A.example",), keys=False)) == {*LOOPBACK_NAMES, "a.example"}
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


FIRST = b"the first"


def forty() -> list[ImageRef]:
    return [ImageRef(str(i), b"x" if i else FIRST) for i in range(40)]


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch, row: dict[str, object]) -> Iterator[tuple[str, list[object]]]:
    """A service whose answers are taken from a list: a status, a row, None for a connection closed without a word, or
    seconds of silence. An image of the bytes `FIRST` has its row whenever it comes: which is asked first is chance.
    """
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    answers: list[object] = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            first = FIRST in self.rfile.read(int(self.headers["Content-Length"]))
            if (status := answers.pop(0) if answers and not first else 200) is None:
                self.close_connection = True
                return
            if isinstance(status, float):  # seconds until the client gives up
                time.sleep(status)
                self.close_connection = True
                return
            said = status if isinstance(status, dict) else row
            status = 200 if isinstance(status, dict) else status
            code = {401: "unauthorized", 415: "not-an-image", 429: "rate-limited", 504: "deadline"}.get(status, "busy")
            error = {"error": {"code": code, "message": "no", "what_to_do": "what you can"}}
            body = json.dumps(said if status == 200 else error).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    server.block_on_close = False
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
    with pytest.raises(UnauthorizedError, match="--key-env NAME"):
        list(RemoteDetector(url).detect(images, requests=1))
    answers[:] = [503] * 12  # what was under way may have taken one
    with pytest.raises(BusyError):
        list(RemoteDetector(url).detect(images[:1]))
    with pytest.raises(errors.UnreachableError):
        list(RemoteDetector("http://127.0.0.1:9").detect(images[:1]))


def test_a_deadline_that_is_always_met_is_a_row_and_the_next_image_has_its_turn(
    flaky: tuple[str, list[object]], row: dict[str, object]
) -> None:
    url, answers = flaky
    answers += [504] * 3
    rows = [r.to_dict() for r in RemoteDetector(url).detect([ImageRef("a", b"x"), ImageRef("b", b"x")], requests=1)]
    assert rows == [Failure("a", "deadline", "no").to_dict(), row | {"image": "b"}]
    assert not answers


def test_a_rate_is_kept_to_however_long_it_takes(flaky: tuple[str, list[object]], row: dict[str, object]) -> None:
    url, answers = flaky
    images = [ImageRef(str(i), b"x") for i in range(12)]
    answers += [429] * 40  # of eight threads each would have been refused five times and more
    rows = [r.to_dict() for r in RemoteDetector(url).detect(images)]
    assert rows == [row | {"image": str(i)} for i in range(12)]
    assert not answers


def test_a_service_that_lets_nothing_through_is_given_up(
    flaky: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = flaky
    monkeypatch.setattr(remote, "_QUOTA_PATIENCE", 0.2)
    answers += [429] * 10_000
    start = time.monotonic()
    with pytest.raises(errors.ServiceError):
        list(RemoteDetector(url).detect([ImageRef(str(i), b"x") for i in range(20)]))
    assert time.monotonic() - start < 20


def test_another_detector_in_the_middle_of_a_run_ends_it(
    flaky: tuple[str, list[object]], row: dict[str, object]
) -> None:
    url, answers = flaky
    images = [ImageRef(str(i), b"x") for i in range(3)]
    answers += [row, row | {"detector": "other@2"}]
    rows = RemoteDetector(url).detect(images, requests=1)
    assert next(rows).to_dict() == row | {"image": "0"}
    with pytest.raises(errors.ServiceError, match=r"has another detector now, other@2; it was .*@"):
        next(rows)


def test_the_name_of_the_file_is_in_its_provenance_too(flaky: tuple[str, list[object]], row: dict[str, object]) -> None:
    url, answers = flaky
    said = {"image": "image", "c2pa": "none", "headline": "", "claims": [], "findings": []}
    answers += [row | {"provenance": said}]
    (got,) = RemoteDetector(url).detect([ImageRef("a.jpg", b"x")], provenance=True)
    assert got.row["provenance"]["image"] == "a.jpg"


@pytest.mark.parametrize("busy", [True, False])
def test_stopping_ends_what_threads_wait_for(
    flaky: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """They wait for their next attempt, or for an answer that does not come."""
    url, answers = flaky
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE", 60.0)
    answers += ([503] if busy else [30.0]) * 24
    rows = RemoteDetector(url).detect(forty(), requests=4)
    next(rows)
    time.sleep(0.3)
    start = time.monotonic()
    rows.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 15


def test_nothing_is_asked_once_it_is_stopped(flaky: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by who waits behind one that keeps to the rate, nor by a thread that takes the next image."""
    url, answers = flaky
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 60.0)
    answers += [200] * 4 + [429] * 8 + [20.0] * 20
    rows = RemoteDetector(url).detect(forty(), requests=4)
    next(rows)
    time.sleep(0.5)
    start, left = time.monotonic(), len(answers)
    rows.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10
    time.sleep(0.3)
    assert len(answers) == left


def test_a_wait_that_is_longer_than_anybody_has_is_not_begun(
    flaky: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = flaky
    honest = RemoteDetector._once

    def tomorrow(self: RemoteDetector, *args: Any) -> tuple[int, float, dict[str, Any]]:
        status, _, answer = honest(self, *args)
        return status, 86_400.0, answer

    monkeypatch.setattr(RemoteDetector, "_once", tomorrow)
    answers += [429]
    with pytest.raises(RateLimitedError):
        list(RemoteDetector(url).detect([ImageRef("a", b"x")]))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="handles are told by Linux")
def test_walks_leave_no_connection_behind(flaky: tuple[str, list[object]]) -> None:
    client = RemoteDetector(flaky[0])
    counts = []
    for _ in range(4):
        assert len(list(client.detect([ImageRef(str(i), b"x") for i in range(16)]))) == 16
        names = [str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()]
        counts.append(sum(name.startswith("socket:") for name in names))
    assert counts[-1] <= counts[0] + 8  # those of the other end, which closes later


def test_one_that_is_stopped_leaves_another_of_the_same_client_alone(
    flaky: tuple[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = flaky
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.5)
    client, images = RemoteDetector(url), [ImageRef(str(i), b"x") for i in range(8)]
    answers += [200] * 4 + [503] * 6
    stopped, other = client.detect(images, requests=2), client.detect(images, requests=2)
    next(stopped)
    next(other)
    stopped.close()  # type: ignore[attr-defined]
    assert len(list(other)) == 7


def test_an_address_of_ipv6_has_the_port_of_its_scheme() -> None:
    for url, port in (("http://[::1]", 80), ("https://[2001:db8::5]/", 443), ("http://[::1]:8000", 8000)):
        connection = RemoteDetector(url)._connection(remote._Call())
        assert (connection.host, connection.port) == (url.partition("[")[2].partition("]")[0], port)


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


def service(opening: Callable[[], Detector], **limits: Any) -> Service:
    return Service(opening, Limits(**{"deadline": 300.0} | limits), Monitor())


@cache
def png() -> bytes:
    return bytes(toy_samples()[0].ref.source)  # type: ignore[arg-type]


def uploaded(into: Service, data: bytes) -> uploads.Upload:
    upload = uploads.Upload("x", into.limits, into.memory)
    upload.add(data)
    return upload


def gauge(of: Service, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", of.monitor.page().decode(), re.MULTILINE)
    assert found
    return float(found[1])


def test_bytes_count_for_as_long_as_they_are_in_memory(toy_detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def slow_loader(*given: Any, **more: Any) -> Callable[[ImageRef], Any]:
        load_one = loader(*given, **more)

        def load(ref: ImageRef) -> Any:
            waiting.set()
            assert go_on.wait(300)
            return load_one(ref)

        return load

    monkeypatch.setattr("univfd.server.service.loader", slow_loader)

    async def ask(keep: bool) -> None:
        server = service(lambda: toy_detector)
        server.start()
        await server.opened()
        waiting.clear(), go_on.clear()
        upload = uploaded(server, png())
        task = asyncio.create_task(server.single(upload, Options(), reported=keep))
        await asyncio.to_thread(waiting.wait, 300)
        assert server.memory.held == gauge(server, "univfd_upload_bytes") == len(png())
        go_on.set()
        assert isinstance((await task)[0], Verdict)
        assert server.memory.held == (len(png()) if keep else 0)
        upload.release()
        assert server.memory.held == gauge(server, "univfd_upload_bytes") == 0
        await asyncio.to_thread(server.close)

    asyncio.run(ask(False))
    asyncio.run(ask(True))


def test_a_detector_that_cannot_be_opened_is_tried_again_and_its_error_stays_here(
    toy_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("univfd.server.service._FIRST_PAUSE", 0.2)
    errors_then = [UsageError("/secret/place"), errors.MissingExtraError("secret"), errors.ChecksumError("/secret")]
    tries = 0
    may_open = threading.Event()

    def opening() -> Detector:
        nonlocal tries
        tries += 1
        if errors_then:
            raise errors_then.pop(0)
        assert may_open.wait(300)
        return toy_detector

    async def ask() -> None:
        server = service(opening)
        server.start()
        with pytest.raises(errors.NotReadyError) as first:
            await server.opened()
        with pytest.raises(errors.NotReadyError) as second:
            _ = server.detector
        assert first.value is not second.value
        assert "secret" not in f"{first.value}{second.value}"
        while errors_then or server._why_not is not errors.WeightsError:
            await asyncio.sleep(0.02)
        with pytest.raises(errors.WeightsError) as third:
            server.admit()
        assert "secret" not in str(third.value)
        may_open.set()
        while server._opened is None:
            await asyncio.sleep(0.02)
        assert server.detector is toy_detector
        await asyncio.to_thread(server.close)

    asyncio.run(ask())
    assert tries == 4


def test_closing_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    def opening() -> Detector:
        raise FormatError("damaged")

    async def ask() -> None:
        server = service(opening)
        server.start()
        with pytest.raises(errors.NotReadyError):
            await server.opened()
        await asyncio.to_thread(server.close)
        assert not server._opening.is_alive()

    asyncio.run(ask())


class BrokenReader:
    """A reader of provenance that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, ref: ImageRef) -> Any:
        raise self._error

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [FormatError("/secret/place"), errors.DeadlineError("not done in time")])
def test_a_verdict_stands_without_provenance(toy_detector: Detector, error: Exception) -> None:
    async def ask() -> None:
        server = service(lambda: toy_detector)
        server._provenance = BrokenReader(error)  # type: ignore[assignment]
        server.start()
        await server.opened()
        item, beside = await server.single(uploaded(server, png()), Options(provenance=True))
        assert isinstance(item, Verdict)
        assert beside["provenance"]["c2pa"] == "not-read"
        assert "/secret" not in json.dumps(beside)
        assert 'outcome="deadline"' not in server.monitor.page().decode()
        await asyncio.to_thread(server.close)

    asyncio.run(ask())


def test_words_of_errors_for_callers_are_one_thing(toy_detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(*given: Any, **more: Any) -> Any:
        raise FormatError("/secret/place")

    monkeypatch.setattr(Service, "_judge", failing)

    async def ask() -> None:
        server = service(lambda: toy_detector)
        item, _ = await (await server.begin(uploaded(server, png()), Options()))
        assert isinstance(item, Failure)
        assert (item.error, item.message) == ("format", "the service cannot do this; its log says why")

    asyncio.run(ask())


def test_heat_maps_have_few_places_and_can_be_switched_off(
    toy_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Picture:
        def __init__(self, detector: Detector) -> None:
            pass

        def keep(self, ref: ImageRef, pixels: Any) -> None:
            pass

        def draw(self) -> str:
            assert go_on.wait(300)
            return "map"

    monkeypatch.setattr("univfd.server.service._Picture", Picture)
    go_on = threading.Event()

    async def ask() -> None:
        server = service(lambda: toy_detector, maps=2)
        server.start()
        await server.opened()
        drawing = [asyncio.create_task(server.single(uploaded(server, png()), Options(heatmap=True))) for _ in range(2)]
        while not server._maps.locked():
            await asyncio.sleep(0.01)
        with pytest.raises(BusyError, match="2 heat maps"):
            server.admit(heatmap=True)
        third = uploaded(server, png())
        with pytest.raises(BusyError, match="2 heat maps"):
            await server.single(third, Options(heatmap=True))
        server.admit()
        go_on.set()
        assert [beside["heatmap"] for _, beside in await asyncio.gather(*drawing)] == ["map", "map"]
        server.admit(heatmap=True)
        await asyncio.to_thread(server.close)
        off = service(lambda: toy_detector, maps=0)
        off._opened = server._opened
        with pytest.raises(errors.ForbiddenError, match="switched off"):
            off.admit(heatmap=True)

    asyncio.run(ask())


def test_limits_in_the_units_of_the_command_line() -> None:
    def of(megabytes: float, heatmaps: bool = True) -> Limits:
        return Limits.of(
            megabytes=megabytes, megapixels=100, queue=64, max_batch=1000, deadline=30, rate=0, heatmaps=heatmaps
        )

    assert of(25) == Limits()
    assert (of(200).max_bytes, of(200).upload_bytes) == (200_000_000, 800_000_000)
    assert of(25, heatmaps=False).maps == 0


def test_a_name_given_in_the_address_is_as_printable_as_a_file_s(toy_detector: Detector) -> None:
    upload = uploaded(service(lambda: toy_detector), b"1")
    upload.rename("a\x1b[2J\u202e" + "b" * 300)
    assert upload.name.startswith("a\\x1b[2J\\u202eb")
    assert len(upload.name) == 200


def test_who_is_over_the_rate_is_told_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    rate = RateLimiter(2)
    rate.take("a"), rate.take("a")
    now = 10.0
    with pytest.raises(RateLimitedError) as refused:
        rate.take("a")
    assert refused.value.seconds == pytest.approx(20)


def test_a_batch_is_no_larger_than_a_minute_allows() -> None:
    """A larger one would be told to come again, for ever."""
    of = {"megabytes": 25, "megapixels": 100, "queue": 4, "deadline": 9, "heatmaps": True}
    assert [Limits.of(**of, max_batch=1000, rate=rate).max_batch for rate in (0, 600, 2000)] == [1000, 600, 1000]  # type: ignore[arg-type]


def test_keys_that_could_not_be_read_for_a_moment_are_let_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    key = keys.generate(file, "ann")
    known, honest = keys.Keys(file), keys.read
    assert known.check(f"Bearer {key}") == "ann"
    file.touch()

    def refused(path: Path) -> dict[str, str]:
        raise UsageError(f"file of keys {path}: Permission denied")

    monkeypatch.setattr(keys, "read", refused)
    for _ in range(3):
        with pytest.raises(UnauthorizedError):
            known.check(f"Bearer {key}")
    assert caplog.text.count("Permission denied") == 1
    monkeypatch.setattr(keys, "read", honest)  # as after `chown`, which leaves size, time and inode as they were
    assert known.check(f"Bearer {key}") == "ann"


def test_two_keys_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys.generate(file, "ann")
    file.write_text(file.read_text() * 2)
    with pytest.raises(FormatError, match=r"line \d: a second key of the same name"):
        keys.read(file)


@pytest.mark.parametrize(
    "limit", [{"deadline": float("inf")}, {"megabytes": float("nan")}, {"megapixels": float("inf")}]
)
def test_limits_are_finite(limit: dict[str, float]) -> None:
    given = {"megabytes": 25.0, "megapixels": 100.0, "deadline": 30.0} | limit
    with pytest.raises(UsageError, match="expected finite numbers"):
        Limits.of(**given, queue=64, max_batch=1000, rate=0, heatmaps=True)


def test_a_file_without_keys_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    keys.Keys(tmp_path / "keys")
    assert "has no key yet, so nobody is let in" in caplog.text


def test_the_folder_for_feedback_has_a_limit_in_bytes(
    tmp_path: Path, toy_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [bytes(s.ref.source) for s in toy_samples()[:2]]  # type: ignore[arg-type]
    verdicts = [v for data in images for v in toy_detector.detect(data)]
    truths = [Label.REAL if v.verdict == "fake" else Label.FAKE for v in verdicts]  # type: ignore[union-attr]
    monkeypatch.setattr("univfd.server.feedback.MOST_BYTES", len(images[0]) + len(images[1]) - 1)
    assert file_wrong(tmp_path / "m", images[0], verdicts[0], truths[0], {}) == "filed"  # type: ignore[arg-type]
    with pytest.raises(errors.ForbiddenError, match="full"):
        file_wrong(tmp_path / "m", images[1], verdicts[1], truths[1], {})  # type: ignore[arg-type]
    assert len(list((tmp_path / "m").glob("*/*"))) == 1
