"""The service on a Ray of this machine, started as the documentation says: `./test ray`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from conftest import encoded, picture, toy_samples
from serving import Server, form
from univfd.detector import Detector
from univfd.errors import UsageError
from univfd.server import keys, ray_serve

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(c) for c in children] + [d for c in children for d in descendants(int(c))]


def replicas(pid: int) -> list[int]:
    """Processes of our replicas; Ray gives them a title."""
    return [d for d in descendants(pid) if _title(d).startswith(b"ray::ServeReplica:univfd:")]


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_detector: Detector) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    toy_detector.save(folder / "toy")
    return folder


DRIVER = """
import json, sys, threading
import ray
from ray import serve
from univfd.server.ray_serve import app
settings, port = json.loads(sys.argv[1]), int(sys.argv[2])
ray.init(address="local", num_cpus=4, include_dashboard=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(app(settings), name="univfd", route_prefix="/")
print("running", flush=True)
sys.stdin.read()
serve.shutdown()
"""
"""A Ray of its own, whatever else runs here; four CPUs for it, however many there are."""


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    key = keys.generate(folder / "keys", "test")
    settings = {"replicas": 2, "key_file": str(folder / "keys"), "detector": str(folder / "toy"), "max_bytes": 2}
    port = free_port()
    command = [sys.executable, "-c", DRIVER, json.dumps(settings), str(port)]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder
        )
    running = Server(process, f"http://127.0.0.1:{port}")
    try:
        while (line := process.stdout.readline()) != "running\n":  # type: ignore[union-attr]
            assert line, (folder / "log").read_text()
        assert len(replicas(process.pid)) == 2
        yield running, {"Authorization": f"Bearer {key}"}
    finally:
        process.communicate(timeout=60)


def test_a_killed_replica_is_replaced_and_requests_go_on(
    server: tuple[Server, dict[str, str]], toy_detector: Detector
) -> None:
    running, key = server
    data = [bytes(s.ref.source) for s in toy_samples()[:8]]  # type: ignore[arg-type]
    expected = [v.verdict for v in toy_detector.detect([s.ref for s in toy_samples()[:8]])]  # type: ignore[union-attr]
    assert [running.json("POST", "/v1/detect", d, key)[1]["verdict"] for d in data] == expected
    before = replicas(running.process.pid)
    answers: list[tuple[float, int]] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            answers.append((time.monotonic(), running.ask("POST", "/v1/detect", data[0], key)[0]))

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    time.sleep(1)
    os.kill(before[0], signal.SIGKILL)
    killed = time.monotonic()
    until = killed + 60
    while len(set(replicas(running.process.pid)) - {before[0]}) < 2 or time.monotonic() < killed + 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    ended.set()
    for client in clients:
        client.join()
    assert not [s for at, s in answers if at < killed - 0.5 and s != 200]
    # Only what the killed one had in its hands is lost, and a moment later nobody notices.
    assert sum(s != 200 for _, s in answers) <= len(clients)
    assert not [s for at, s in answers if at > killed + 1 and s != 200]
    assert Counter(s for at, s in answers if at > killed + 1)[200] > 10
    assert before[1] in replicas(running.process.pid)


def test_refusals_and_streams_come_through(server: tuple[Server, dict[str, str]]) -> None:
    running, key = server
    image = encoded(picture(0))
    for expected, code, body, headers in (
        (401, "unauthorized", image, {}),
        (401, "unauthorized", image, {"Authorization": key["Authorization"][:-1]}),
        (403, "forbidden", image, key | {"Origin": "https://example.org"}),
        (413, "too-large", b"x" * 2_000_001, key),
        (415, "not-an-image", b"<svg/>", key),
    ):
        got, answer = running.json("POST", "/v1/detect", body, headers)
        assert (got, answer["error"]["code"]) == (expected, code)
    body, kind = form([("a", image), ("b", b"no"), ("c", image)])
    lines = [json.loads(line) for line in running.ask("POST", "/v1/batch", body, key | kind)[2].splitlines()]
    assert [(row["image"], row["status"]) for row in lines] == [("a", "ok"), ("b", "failed"), ("c", "ok")]


def test_the_file_for_serve_run_has_settings_that_are_known() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray_serve.yaml").read_text("utf-8"))
    (application,) = config["applications"]
    assert config["http_options"]["host"] == "127.0.0.1"
    assert application["import_path"] == f"{ray_serve.__name__}:{ray_serve.app.__name__}"
    assert ray_serve.Settings.model_validate(application["args"]).replicas == 2


def test_it_is_not_served_to_strangers_and_options_are_checked() -> None:
    with pytest.raises(UsageError, match="keygen"):
        ray_serve.app({})
    with pytest.raises(ValidationError, match="replica"):
        ray_serve.app({"allow_anonymous": "true", "replica": "2"})
    assert ray_serve.Settings.model_validate({"max_bytes": "2", "cpus": "3"}).limits().max_bytes == 2_000_000
