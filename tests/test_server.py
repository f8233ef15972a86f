"""The service as a process on loopback: what it answers, to whom, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from conftest import encoded, picture, toy_samples
from serving import Server, form, serving
from univfd.detector import Detector
from univfd.server.keys import generate
from univfd.server.request_log import RequestLog


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [bytes(s.ref.source) for s in toy_samples()]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    feedback = tmp_path_factory.mktemp("feedback") / "misses"
    with serving("--detector", toy_folder, "--max-bytes", 2, "--max-pixels", 1, "--feedback", feedback) as running:
        running.feedback = feedback  # type: ignore[attr-defined]
        yield running


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs between two runs, last digits included (they depend on the batch)."""
    return rounded({k: v for k, v in row.items() if k not in {"timings", "promise"}})


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


def named(detector: Detector, data: bytes, neighbors: int = 1) -> dict[str, Any]:
    (item,) = detector.detect(data, neighbors=neighbors)
    row = json.loads(json.dumps(item.to_dict()))
    return {k: v for k, v in row.items() if k != "timings"} | {"image": "x"}


def test_one_image_is_answered_with_the_row_of_detect(
    server: Server, toy_detector: Detector, images: list[bytes]
) -> None:
    for neighbors in (1, 3):
        status, row = server.json("POST", f"/v1/detect?neighbors={neighbors}&name=x", images[1])
        assert status == 200
        assert row["promise"] == {
            "fake_above": 0.0, "real_below": 0.0, "max_fpr": None, "max_miss": None, "confidence": None, "n_real": 0,
            "n_fake": 0, "data": "", "known_within": None, "about": "nothing is promised", "void_under": [],
        }  # fmt: skip
        assert plain(row) == named(toy_detector, images[1], neighbors)
    body, headers = form([("x", images[1])])
    assert plain(server.json("POST", "/v1/detect", body, headers)[1]) == named(toy_detector, images[1])


def test_a_batch_is_answered_in_order_and_bad_images_are_rows(
    server: Server, toy_detector: Detector, images: list[bytes]
) -> None:
    files = [("x", data) for data in images[:20]]
    files[3:3] = [("bad", b"no image"), ("big", b"x" * 2_100_000), ("cut", images[0][:200]), ("empty", b"")]
    body, headers = form(files)
    status, told, text = server.ask("POST", "/v1/batch", body, headers)
    assert (status, told["content-type"]) == (200, "application/x-ndjson")
    rows = [json.loads(line) for line in text.splitlines()]
    codes = [(r["image"], r["error"]) for r in rows if r["status"] == "failed"]
    assert codes == [("bad", "not-an-image"), ("big", "too-large"), ("cut", "truncated"), ("empty", "empty")]
    assert [plain(r) for r in rows if r["status"] == "ok"] == [named(toy_detector, d) for d in images[:20]]


def test_requests_at_the_same_time_share_batches_and_get_their_own_answers(server: Server, images: list[bytes]) -> None:
    alone = [plain(server.json("POST", "/v1/detect?name=x", d)[1]) for d in images]
    before = server.figure("univfd_encoder_batch_images_count")
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda d: server.json("POST", "/v1/detect?name=x", d)[1], images))
    assert [{k: v for k, v in r.items() if k not in {"timings", "promise"}} for r in together] == alone
    assert server.figure("univfd_encoder_batch_images_count") - before < len(images)


def huge() -> bytes:
    return encoded(np.zeros((1100, 1000, 3), np.uint8), "PNG")


@pytest.mark.parametrize(
    ("status", "code", "path", "body", "headers"),
    [
        (415, "not-an-image", "/v1/detect", b"<svg/>", {}),
        (422, "truncated", "/v1/detect", encoded(picture(1))[:3000], {}),
        (422, "empty", "/v1/detect", b"", {}),
        (413, "too-many-pixels", "/v1/detect", huge(), {}),
        (413, "too-large", "/v1/detect", b"x" * 2_000_001, {}),
        (413, "too-large", "/v1/detect", (b"x" * 65536 for _ in range(500)), {}),
        (413, "too-large", "/v1/detect", form([("a", b"x" * 2_000_001)])[0], form([])[1]),
        (422, "request", "/v1/detect", form([("a", b"1"), ("b", b"2")])[0], form([])[1]),
        (422, "request", "/v1/detect", form([])[0], form([])[1]),
        (422, "request", "/v1/detect", form([("a", b"1")])[0][:-9], form([])[1]),
        (422, "request", "/v1/detect", b"x", {"Content-Type": "multipart/form-data"}),
        (422, "request", "/v1/batch", b"x", {}),
        (422, "request", "/v1/detect?neighbors=0", b"x", {}),
        (422, "request", "/v1/detect?neighbours=1", b"x", {}),
        (422, "request", "/v1/feedback", b"x", {}),
        (422, "usage", "/v1/detect?heatmap=true", encoded(picture(1)), {}),
        (403, "forbidden", "/v1/detect", b"x", {"Origin": "https://example.org"}),
        (403, "forbidden", "/v1/detect", b"x", {"Origin": "http://["}),
        (403, "forbidden", "/v1/detect", b"x", {"Host": "example.org"}),
        (422, "request", "/v1/batch?heatmap=true", form([("a", b"1")])[0], form([])[1]),
        (404, "not-found", "/v1/nothing", b"x", {}),
        (405, "method-not-allowed", "/v1/detectors", b"x", {}),
    ],
)  # fmt: skip
def test_every_refusal_has_the_one_shape(
    server: Server, status: int, code: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    got, answer = server.json("POST", path, body, headers)
    assert (got, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"code", "message", "what_to_do"}
    assert all(answer["error"].values())


def test_five_gigabytes_are_refused_by_their_first(server: Server) -> None:
    start = time.monotonic()
    status, answer = server.json("POST", "/v1/detect", b"x", {"Content-Length": str(5 << 30)})
    assert (status, answer["error"]["code"]) == (413, "too-large")
    assert time.monotonic() - start < 5


def test_heads_that_are_too_long_or_no_http(server: Server) -> None:
    for head in (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000, b"\x16\x03\x01 no http\r\n\r\n"):
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(head)
            told, body = connection.recv(1000).split(b"\r\n\r\n")
            assert told.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body)["error"]["code"] == "request"


def test_a_mistake_of_ours_is_told_without_its_words(toy_folder: Path) -> None:
    broken = "import univfd.server.service as s\nasync def f(*a): raise RuntimeError('secret')\ns.Service.single = f"
    with serving("--detector", toy_folder, before=broken) as server:
        status, headers, text = server.ask("POST", "/v1/detect", b"x")
    assert (status, json.loads(text)["error"]["code"]) == (500, "internal")
    assert b"secret" not in text
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_a_slash_too_many_is_no_address(server: Server) -> None:
    status, headers, _ = server.ask("POST", "/v1/detect/", b"x", {"Host": "evil.example"})
    assert status in {403, 404}
    assert "location" not in headers


def test_every_image_that_was_refused_is_counted_once(server: Server, images: list[bytes]) -> None:
    names = [f'univfd_images_total{{outcome="{code}"}}' for code in ("too-large", "empty", "not-an-image")]
    before = [server.figure(name) for name in names]
    assert server.ask("POST", "/v1/detect", b"x" * 26_000_000)[0] == 413
    assert server.ask("POST", "/v1/detect", b"")[0] == 422
    assert server.ask("POST", "/v1/detect", b"no image")[0] == 415
    assert [server.figure(name) - b for name, b in zip(names, before, strict=True)] == [1, 1, 1]


def test_the_detector_and_the_limits_are_told(server: Server, toy_detector: Detector) -> None:
    _, answer = server.json("GET", "/v1/detectors")
    (row,) = answer["detectors"]
    assert (row["identity"], row["bank_rows"], row["heatmaps"]) == (toy_detector.identity, 48, False)
    assert (answer["limits"]["max_bytes"], answer["limits"]["max_pixels"], answer["feedback"]) == (2e6, 1e6, True)


def test_the_pages_are_whole_and_ask_nobody_else(server: Server) -> None:
    for path in ("/", "/docs"):
        status, headers, text = server.ask("GET", path)
        assert status == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "connect-src 'self'" in headers["content-security-policy"]
        assert b"http://" not in text
        assert b"https://" not in text


def test_feedback_files_wrong_verdicts_only(server: Server, images: list[bytes]) -> None:
    folder: Path = server.feedback  # type: ignore[attr-defined]
    path = "/v1/feedback?name=a.png&note=seen&truth="
    before = server.figure("univfd_images_total")
    assert server.json("POST", path + "fake", images[1])[1]["status"] == "right"
    assert not folder.exists()
    assert server.json("POST", path + "real", images[1])[1]["status"] == "filed"
    assert server.json("POST", path + "real", images[1])[1]["status"] == "known"
    assert server.json("POST", path + "real", b"no image")[0] == 415
    assert server.figure("univfd_images_total") == before  # the share of fakes is that of what was asked
    assert server.figure('univfd_feedback_total{status="right"}') == 1
    assert server.figure('univfd_feedback_total{status="filed"}') == 1
    (line,) = (folder / "manifest.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["label"], row["verdict"], row["note"], row["name"]) == ("real", "fake", "seen", "a.png")
    assert (folder / row["file"]).read_bytes() == images[1]
    from univfd.datasets import open_dataset

    (sample,) = open_dataset(folder)
    assert sample.label.word == "real"


def test_provenance_stands_beside_the_verdict(server: Server, images: list[bytes]) -> None:
    alone = server.json("POST", "/v1/detect", images[0])[1]
    row = server.json("POST", "/v1/detect?provenance=true", images[0])[1]
    assert row.pop("provenance")["c2pa"] == "none"
    row.pop("timings")
    row.pop("promise")
    assert plain(alone) == row


def test_provenance_without_its_extra_refuses_the_request_and_no_image(toy_folder: Path, images: list[bytes]) -> None:
    body, headers = form([("a.png", images[0])])
    with serving("--detector", toy_folder, before="import sys; sys.modules['c2pa'] = None") as server:
        for path in ("detect", "batch"):
            status, problem = server.json("POST", f"/v1/{path}?provenance=true", body, headers)
            assert (status, problem["error"]["code"]) == (501, "no-provenance")
        assert server.ask("POST", "/v1/batch", body, headers)[0] == 200
        assert server.figure("univfd_images_total") == 2  # the refused one of `detect`, the judged one of the batch


def test_no_answer_holds_what_is_unseen(server: Server, images: list[bytes]) -> None:
    name = "a\u202eb\x9b"
    for path in (f"/v1/detect?name={quote(name)}", f"/v1/detect?{quote(name)}=1"):
        _, _, text = server.ask("POST", path, images[0])
        assert all(c.isprintable() or c == "\n" for c in text.decode())
    body, headers = form([(name, images[0])])
    _, _, text = server.ask("POST", "/v1/batch", body, headers)
    assert all(c.isprintable() or c == "\n" for c in text.decode())


def test_keys(toy_folder: Path, images: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make = [sys.executable, "-m", "univfd", "serve", "keygen", "--key-file", str(file), "--name"]
    key = subprocess.run([*make, "desk"], capture_output=True, text=True, check=True).stdout.strip()
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert subprocess.run([*make, "desk"], capture_output=True, check=False).returncode == 2
    with serving("--detector", toy_folder, "--key-file", file, "--rate", 5) as server:

        def status(value: str | None) -> tuple[int, str]:
            headers = {} if value is None else {"Authorization": value}
            code, answer = server.json("POST", "/v1/detect", images[0], headers)
            return code, answer.get("error", {}).get("code", "")

        for wrong in (None, "Bearer", "Bearer x", f"Bearer {key[:-1]}", f"Bearer {key}x", f"Basic {key}", "Bearer é"):
            assert status(wrong) == (401, "unauthorized"), wrong
        assert [status(f"Bearer {key}")[0] for _ in range(5)] == [200] * 5
        refused, told, _ = server.ask("POST", "/v1/detect", images[0], {"Authorization": f"Bearer {key}"})
        assert refused == 429
        assert 1 <= int(told["retry-after"]) <= 12
        assert server.ask("GET", "/metrics")[0] == 401
        assert server.ask("GET", "/healthz")[0] == 200
        file.write_text("# taken back\n")
        assert status(f"Bearer {key}") == (401, "unauthorized")


def test_a_line_for_each_request_with_the_key_s_name(toy_folder: Path, images: list[bytes], tmp_path: Path) -> None:
    file, lines = tmp_path / "keys", tmp_path / "requests.jsonl"
    key = {"Authorization": f"Bearer {generate(file, 'desk')}"}
    with serving("--detector", toy_folder, "--key-file", file, "--request-log", lines, "--processes", 2) as server:
        body, headers = form([("secret name.png", image) for image in images[:3]])
        for _ in range(4):
            assert server.ask("POST", "/v1/detect?name=secret", images[0], key)[0] == 200
        assert server.ask("POST", "/v1/batch", body, headers | key)[0] == 200
        lines.rename(tmp_path / "older.jsonl")  # as logrotate does it
        assert server.ask("POST", "/v1/detect", images[0], {"Authorization": "Bearer wrong"})[0] == 401
        assert server.ask("GET", "/secret")[0] == 404
        assert server.stop() == 0
    rows = [json.loads(line) for name in ("older.jsonl", lines.name) for line in (tmp_path / name).open()]
    asked = [(row["key"], row["path"], row["status"], row["images"]) for row in rows if row["path"] != "/readyz"]
    judged = [("desk", "/v1/detect", 200, 1)] * 4 + [("desk", "/v1/batch", 200, 3)]
    refused = [("", "/v1/detect", 401, 0), ("", "other", 404, 0)]
    assert sorted(asked) == sorted(judged + refused)  # a line is written behind the answer, in either process
    assert all(row["time"].endswith("+00:00") and 0 <= row["seconds"] < 60 for row in rows)
    assert "secret" not in "".join(map(json.dumps, rows))
    assert lines.stat().st_mode & 0o077 == 0


def test_requests_are_answered_where_they_cannot_be_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = tmp_path / "log" / "requests.jsonl"
    lines.parent.mkdir()
    log = RequestLog(lines)
    told = {"key": "desk", "path": "/v1/detect", "status": 200, "images": 1, "seconds": 0.1}
    log.add(**told)
    lines.parent.rename(tmp_path / "gone")
    for _ in range(3):
        log.add(**told)
    assert caplog.text.count("requests are not logged") == 1
    assert str(lines) in caplog.text
    (tmp_path / "gone").rename(lines.parent)
    log.add(**told)
    assert len(lines.read_text().splitlines()) == 2


def test_a_full_disk_leaves_whole_lines_in_the_request_log(tmp_path: Path) -> None:
    lines = tmp_path / "requests.jsonl"
    code = (
        "import resource, signal, sys, pathlib; from univfd.server.request_log import RequestLog\n"
        "log = RequestLog(pathlib.Path(sys.argv[1])); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "add = lambda: log.add(key='desk', path='/v1/detect', status=200, images=1, seconds=0.1)\n"
        "add(); resource.setrlimit(resource.RLIMIT_FSIZE, (200, -1)); add(); add()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)); add()"
    )
    subprocess.run([sys.executable, "-c", code, str(lines)], check=True)
    found = lines.read_text().splitlines()
    whole = [line for line in found if line.endswith("}")]
    assert [json.loads(line)["key"] for line in whole] == ["desk"] * 2
    assert len(found) == 3


def test_a_request_log_that_cannot_be_written(toy_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "univfd", "serve", "--detector", str(toy_folder), "--request-log", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert str(tmp_path) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_strangers_are_not_served_without_a_key(toy_folder: Path) -> None:
    command = [sys.executable, "-m", "univfd", "serve", "--host", "0.0.0.0", "--detector", str(toy_folder)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "--allow-anonymous" in refused.stderr


def test_not_ready_until_it_has_judged(tmp_path: Path, toy_detector: Detector) -> None:
    folder = tmp_path / "broken"
    toy_detector.save(folder)
    (folder / "classifier.safetensors").write_bytes(b"damaged")
    with serving("--detector", folder, ready=False) as server:
        time.sleep(1)
        assert server.ask("GET", "/healthz")[0] == 200
        status, _, text = server.ask("GET", "/readyz")
        assert status == 503
        assert json.loads(text)["error"]["code"] == "not-ready"
        assert str(tmp_path) not in text.decode()
        assert server.ask("POST", "/v1/detect", b"x")[0] == status


def test_detect_from_a_server_writes_what_detect_writes(server: Server, toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, sample in enumerate(toy_samples()[:12]):
        (folder / f"{i:02}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "empty.jpg").write_bytes(b"")
    for arguments in (["--jsonl"], ["--csv"], ["--explain"], ["--jsonl", "--provenance"]):
        command = [sys.executable, "-m", "univfd", "detect", str(folder), *arguments]
        here, there = (
            subprocess.run([*command, *where], capture_output=True, check=False)
            for where in (["--detector", str(toy_folder)], ["--server", server.url])
        )
        assert here.returncode == there.returncode == 3, there.stderr
        assert here.stderr == there.stderr
        if "--jsonl" in arguments:
            rows = [[json.loads(line) for line in r.stdout.splitlines()] for r in (here, there)]
            for row in (*rows[0], *rows[1]):
                row.pop("timings", None)
                if row.get("provenance"):
                    row["provenance"].pop("seconds")
                    row["provenance"].pop("image")
                if row["status"] == "failed":
                    row.pop("provenance", None)
            assert rounded(rows[0]) == rows[1]
        elif "--csv" in arguments:
            tables = [list(csv.DictReader(io.StringIO(r.stdout.decode()))) for r in (here, there)]
            numbers = ("score", "nearest_fake_distance", "nearest_real_distance")
            values = [[[float(row.pop(n) or 0) for n in numbers] for row in table] for table in tables]
            assert rounded(values[0]) == values[1]
            assert tables[0] == tables[1]
        else:
            assert here.stdout == there.stdout


def test_a_page_of_evidence_from_a_server_has_the_pictures(server: Server, toy_folder: Path, tmp_path: Path) -> None:
    """As a local one has them: the client makes the small copies."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i), "PNG"))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    shown = []
    for where in (["--detector", toy_folder], ["--server", server.url]):
        page = tmp_path / f"{len(shown)}.html"
        images = sorted(tmp_path.glob("*.png"))
        command = [sys.executable, "-m", "univfd", "detect", *images, *where, "--explain-html", page]
        assert subprocess.run(list(map(str, command)), capture_output=True, check=False).returncode == 3
        shown.append(re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', page.read_text()))
    assert len(shown[0]) == 3
    assert shown[1] == shown[0]


def test_the_client_tries_again_and_says_who_refuses(server: Server, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(encoded(picture(1), "PNG"))

    def detect(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "univfd", "detect", str(image), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "--threads" in detect("--server", server.url, "--threads", "2").stderr
    assert "NO_SUCH" in detect("--server", server.url, "--key-env", "NO_SUCH").stderr
    assert "no address" in detect("--server", "ftp://x").stderr
    assert detect("--key-env", "X").returncode == 2


def test_the_real_detector_over_http(default: Detector, photo: Path, tmp_path: Path) -> None:
    images = [photo.read_bytes(), *(encoded(picture(i), quality=85) for i in range(5))]
    with serving("--batch-size", 4) as server, ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(lambda d: server.json("POST", "/v1/detect", d)[1], images))
        heat = server.json("POST", "/v1/detect?heatmap=true", images[0])[1]["heatmap"]
        command = [sys.executable, "-m", "univfd", "detect", str(photo), "--server", server.url]
        assert subprocess.run([*command, "--heatmap", tmp_path / "maps"], check=False).returncode == 0
    assert [m.suffix for m in (tmp_path / "maps").iterdir()] == [".png"]
    for data, row in zip(images, rows, strict=True):
        (verdict,) = default.detect(data)
        assert row["verdict"] == verdict.verdict
        assert row["score"] == pytest.approx(verdict.score, abs=1e-4)
        assert row["detector"] == default.identity
        assert row["promise"]["max_fpr"] == default.calibration.max_fpr
    assert heat["media_type"] == "image/png"
