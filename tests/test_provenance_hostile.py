"""Hostile files end as findings: no crash, no hang, no leaked handle, no way out of the worker process."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import provenance_files as make
from mutations import chunk, mutated
from univfd.provenance import Provenance, ProvenanceReader, _process, read_provenance
from univfd.types import ImageRef

_HANG = 60.0  # seconds; files take milliseconds, but a test machine may be busy


@pytest.fixture(scope="module")
def reader() -> Iterator[ProvenanceReader]:
    with ProvenanceReader(deadline=_HANG) as opened:
        yield opened


@pytest.fixture(scope="module")
def whole() -> list[bytes]:
    signers = make.make_signers()
    files = [signers.sign(make.plain(format), format) for format in make.MIME]
    files += [make.with_text(format, *make.GENERATORS[name][:2]) for format in make.MIME for name in make.GENERATORS]
    return files + [make.plain(format) for format in ("GIF", "TIFF", "AVIF", "BMP")]


def look(reader: ProvenanceReader, data: bytes) -> Provenance:
    return reader.read(ImageRef("<bytes>", data))


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def worker_pid(reader: ProvenanceReader) -> int:
    process = reader._worker._process
    assert process is not None
    return process.pid


def test_mutated_files_neither_crash_nor_hang_nor_leak(reader: ProvenanceReader, whole: list[bytes]) -> None:
    look(reader, whole[0])
    before, first = handles(), worker_pid(reader)
    seen = set()
    for name, data in mutated(whole, 360, seed=3):
        start = time.perf_counter()
        read = look(reader, data)
        assert time.perf_counter() - start < _HANG, name
        found = " ".join(f.found for f in read.findings)
        assert "Too many open files" not in found, name  # something lazy that the warm-up missed
        assert "process ended" not in found, name
        seen.add(read.c2pa)
    assert worker_pid(reader) == first
    assert handles() == before
    assert {"none", "unreadable", "not-read"} <= seen
    assert look(reader, whole[0]).c2pa == "valid-unknown-signer"  # it still works


def test_a_file_of_ours_cannot_be_read_through_a_picture(reader: ProvenanceReader, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("4711 is the secret")
    packet = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{secret.as_uri()}">]><x><y>&e;</y></x>'
    read = look(reader, make.with_xmp("JPEG", packet.encode()))
    assert "4711" not in json.dumps(read.to_dict())
    assert [f.kind for f in read.findings] == ["unread"]


def test_too_many_texts_are_said(reader: ProvenanceReader) -> None:
    text = chunk(b"tEXt", b"key\0" + b"x" * (1 << 20))
    data = make.plain("PNG")
    read = look(reader, data[:33] + text * 40 + data[33:])
    assert any("32 MiB" in f.found for f in read.findings)


def test_what_no_output_can_take_is_replaced(reader: ProvenanceReader) -> None:
    text = json.dumps({"sui_image_params": {"prompt": "a \ud83d fox"}})
    read = look(reader, make.with_text("PNG", "parameters", text))
    assert json.dumps(read.to_dict(), ensure_ascii=False).encode()
    assert read.findings[0].details["prompt"] == "a ? fox"


def test_thousands_of_findings_are_cut(reader: ProvenanceReader) -> None:
    text = b"".join(
        chunk(b"tEXt", b"Software%d\0Job ID: 01234567-89ab-cdef-0123-456789abcdef" % n) for n in range(3000)
    )
    data = make.plain("PNG")
    read = look(reader, data[:33] + text + data[33:])
    assert len(read.findings) == 101
    assert "more than 100 findings" in read.findings[-1].found


def test_over_the_deadline_is_a_finding_and_the_next_file_is_read() -> None:
    with ProvenanceReader(deadline=30) as reader:
        look(reader, make.plain())
        os.kill(worker_pid(reader), signal.SIGSTOP)  # hangs, as a parser in a loop would
        reader._deadline = 0.5
        start = time.perf_counter()
        read = look(reader, make.plain())
        assert 0.4 < time.perf_counter() - start < 5
        assert (read.c2pa, read.findings[0].kind) == ("not-read", "unread")
        assert "not done within 0.5 s" in read.findings[0].found
        reader._deadline = 30
        assert look(reader, make.plain()).c2pa == "none"


def test_a_crash_is_a_finding_and_the_next_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProvenanceReader() as reader:
        look(reader, make.plain())
        first, before = worker_pid(reader), handles()
        stopped = threading.Event()
        real = _process.write_frame

        def crash(stream: object, body: bytes) -> None:
            if not stopped.is_set():  # in the middle of a file, as a crash in a parser would be
                stopped.set()
                os.kill(first, signal.SIGSEGV)
            real(stream, body)  # type: ignore[arg-type]

        monkeypatch.setattr(_process, "write_frame", crash)
        read = look(reader, make.plain("PNG", compress_level=0))
        assert read.c2pa == "not-read"
        assert "ended (code -11)" in read.findings[0].found
        assert look(reader, make.plain()).c2pa == "none"
        assert worker_pid(reader) != first
        assert handles() == before


_CONFINED = """
import socket
from univfd.provenance._worker import confine
confine(1 << 30)
try:
    {code}
    print("done")
except BaseException as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("socket.socket()", "Too many open files"),
        ("open('/etc/hostname')", "Too many open files"),
        ("bytearray(2 << 30)", "MemoryError"),
    ],
)
def test_the_worker_cannot_open_sockets_or_files_or_take_more_memory(code: str, refused: str) -> None:
    run = [sys.executable, "-c", _CONFINED.format(code=code)]
    assert refused in subprocess.run(run, capture_output=True, text=True, check=True).stdout


def test_a_memory_bomb_ends_the_worker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfd.provenance.MEMORY", 1 << 26)
    buffer = io.BytesIO()
    Image.new("RGB", (4900, 4900)).save(buffer, "PNG")
    with ProvenanceReader() as reader:
        read = look(reader, buffer.getvalue())
        assert read.c2pa == "not-read"
        assert "ended" in read.findings[0].found
        assert look(reader, make.plain()).c2pa == "none"


def test_threads_share_one_worker(reader: ProvenanceReader) -> None:
    files = {name: make.with_text("PNG", *make.GENERATORS[name][:2]) for name in make.GENERATORS}
    found: dict[str, str] = {}

    def work(name: str) -> None:
        found[name] = look(reader, files[name]).findings[0].found

    threads = [threading.Thread(target=work, args=(name,)) for name in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(make.GENERATORS[name][2] in text for name, text in found.items())
    assert len(found) == len(files)


def _in_child(queue: multiprocessing.Queue[str]) -> None:
    queue.put(read_provenance(make.with_text("PNG", *make.GENERATORS["A1111"][:2])).findings[0].found)


def test_a_forked_process_starts_a_worker_of_its_own() -> None:
    read_provenance(make.plain())
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert "AUTOMATIC1111" in queue.get(timeout=60)
    child.join(30)
    assert child.exitcode == 0
    assert read_provenance(make.plain()).c2pa == "none"


def test_the_current_folder_is_never_imported_from(tmp_path: Path) -> None:
    (tmp_path / "c2pa.py").write_text("open('imported', 'w')")
    (tmp_path / "x.png").write_bytes(make.plain())
    run = subprocess.run(
        [sys.executable, "-P", "-m", "univfd", "provenance", "x.png"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "imported").exists()
