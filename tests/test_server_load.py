"""The service under load, slow clients and signals, as a process on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import toy_samples
from serving import Server, form, serving


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [bytes(s.ref.source) for s in toy_samples()]  # type: ignore[arg-type]


def slowly(port: int, data: bytes, seconds: float) -> bytes:
    """Send the head and a byte a second, then see what is answered."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(data)
        connection.settimeout(0.5)
        answer, until = b"", time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                connection.sendall(b"x")
                continue
            except ConnectionResetError:  # a byte came to the closed socket after the answer
                break
            if not chunk:
                break
            answer += chunk
        return answer


SHORT = "import univfd.server.protocol as p, univfd.server.uploads as u\np.HEAD_SECONDS = u.GRACE_SECONDS = 2.0"


DRAINING = "import univfd.server.problems as p\np._DRAIN_SECONDS = 8.0"


def test_the_time_of_a_refusal_ends_with_its_answer(toy_folder: Path) -> None:
    """What still comes behind it is thrown away for a while, which nobody waits for."""
    with serving("--detector", toy_folder, before=DRAINING) as server:
        name = 'univfd_request_seconds_sum{path="/v1/detect"}'
        before = server.figure(name)
        with socket.create_connection((server.host, server.port), 30) as connection:
            connection.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000000\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 403 ")
            while connection.recv(65536):  # until the server has let go
                pass
        assert 0 < server.figure(name) - before < 6


UNREAD = "import univfd.server.protocol as p\np.WRITE_SECONDS = 20.0"


def waiting_in_the_kernel(server: Server, connection: socket.socket) -> int:
    """Bytes that the server has handed to the kernel and the client has not taken."""
    here, there = f":{server.port:04X}", f":{connection.getsockname()[1]:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(int(w[4].partition(":")[0], 16) for w in lines if w[1].endswith(here) and w[2].endswith(there))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="what waits in the kernel is told by Linux alone")
def test_answers_that_nobody_reads_hold_no_connection(toy_folder: Path) -> None:
    """The kernel takes nearly all, and what is left is too little to stop the service from writing."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving("--detector", toy_folder, "--connections", 2, before=UNREAD) as server:
        unread = []
        for _ in range(2):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect((server.host, server.port))
            unread.append(connection)
            before = -1
            for _ in range(400):  # one more each time, until the kernel takes no more of it
                connection.sendall(asked)
                until = time.monotonic() + 3
                while (now := waiting_in_the_kernel(server, connection)) == before and time.monotonic() < until:
                    time.sleep(0.01)
                if now == before:
                    break
                before = now
            else:
                raise AssertionError("the kernel takes it all")
        assert server.ask("GET", "/healthz")[0] == 503
        until = time.monotonic() + 60
        while server.ask("GET", "/healthz")[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.2)
        for connection in unread:
            connection.close()
        assert server.stop() == 0


def test_slow_clients_are_given_up_on_and_others_served(toy_folder: Path, images: list[bytes]) -> None:
    with serving("--detector", toy_folder, "--connections", 12, before=SHORT) as server:
        head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\n"
        body = head + b"Content-Length: 100000\r\n\r\n"
        with ThreadPoolExecutor(6) as pool:
            slow = [pool.submit(slowly, server.port, data, 10) for data in (head + b"A: ", body) for _ in range(3)]
            assert server.json("POST", "/v1/detect", images[0])[0] == 200
            for answer in (future.result() for future in slow):
                assert answer.startswith(b"HTTP/1.1 408 "), answer
                assert b'"slow-upload"' in answer
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        status, headers, text = server.ask("GET", "/healthz")
        assert (status, headers["retry-after"], json.loads(text)["error"]["code"]) == (503, "2", "busy")
        for connection in idle:
            connection.close()
        assert server.stop() == 0


SLOW = """
import time, univfd.backbones.toy as t
embed = t.ToyBackbone.embed
t.ToyBackbone.embed = lambda self, crops: (time.sleep(0.4), embed(self, crops))[1]
"""


@pytest.fixture
def slow_server(toy_folder: Path) -> Iterator[Server]:
    """An encoder that takes 0.4 seconds a batch of two; four places."""
    with serving("--detector", toy_folder, "--batch-size", 2, "--queue", 4, before=SLOW) as server:
        yield server


def test_at_capacity_it_refuses_at_once_and_goes_on(slow_server: Server, images: list[bytes]) -> None:
    def one(data: bytes) -> tuple[int, float, str]:
        start = time.monotonic()
        status, headers, _ = slow_server.ask("POST", "/v1/detect", data)
        return status, time.monotonic() - start, headers.get("retry-after", "")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, images[:16]))
    assert {status for status, _, _ in answers} == {200, 503}
    assert sum(status == 200 for status, _, _ in answers) >= 4
    assert all(retry == "2" for status, _, retry in answers if status == 503)
    fastest = {kind: min(seconds for status, seconds, _ in answers if status == kind) for kind in (200, 503)}
    assert fastest[503] < fastest[200]  # on a busy machine both take longer
    assert one(images[0])[0] == 200


def test_terminated_under_load_it_answers_what_it_took(slow_server: Server, images: list[bytes]) -> None:
    body, headers = form([("x", d) for d in images[:4]])
    with ThreadPoolExecutor(5) as pool:
        singles = [pool.submit(slow_server.ask, "POST", "/v1/detect", d) for d in images[:3]]
        batch = pool.submit(slow_server.ask, "POST", "/v1/batch", body, headers)
        while slow_server.figure("univfd_images_at_work") < 5:  # batches have two places of their own
            time.sleep(0.01)
        slow_server.process.send_signal(signal.SIGTERM)
        assert [f.result()[0] for f in singles] == [200] * 3
        status, _, text = batch.result()
        assert status == 200
        assert [json.loads(line)["status"] for line in text.splitlines()] == ["ok"] * 4
    assert slow_server.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        slow_server.ask("GET", "/healthz")


def test_the_deadline_is_kept(toy_folder: Path, images: list[bytes]) -> None:
    options = ("--detector", toy_folder, "--batch-size", 2, "--queue", 20, "--deadline", 1.5)
    with serving(*options, before=SLOW) as server, ThreadPoolExecutor(16) as pool:
        start = time.monotonic()
        answers = list(pool.map(lambda d: server.json("POST", "/v1/detect", d), images[:16]))
        assert time.monotonic() - start < 4
        late = [answer["error"]["code"] for status, answer in answers if status == 504]
        assert late
        assert set(late) == {"deadline"}
        assert {status for status, _ in answers} == {200, 504}
        assert server.json("POST", "/v1/detect", images[0])[0] == 200


def test_a_killed_process_is_replaced_and_the_others_go_on(toy_folder: Path, images: list[bytes]) -> None:
    with serving("--detector", toy_folder, "--processes", 2) as server:
        while server.figure("univfd_ready_processes") < 2:
            time.sleep(0.05)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        workers = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        answers = [server.json("POST", "/v1/detect", d)[0] for d in images[:10]]
        assert answers == [200] * 10
        until = time.monotonic() + 90
        while server.figure("univfd_ready_processes") < 2:
            assert time.monotonic() < until
            assert server.ask("GET", "/readyz")[0] == 200
        assert server.stop(90) == 0  # uvicorn may be waiting for a sign of the one that was killed
