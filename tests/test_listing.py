"""Listings of buckets and of Parquet folders, on stand-ins of this machine: what cannot be reached is a row."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from conftest import encoded, picture
from univfd.distributed import listing, stores
from univfd.distributed.listing import entries


class Bucket:
    """A folder as a bucket, some folders of which do not answer the first times."""

    def __init__(self, silent: dict[str, int]) -> None:
        self._inner = pafs.LocalFileSystem()
        self._silent = silent

    def get_file_info(self, what: Any) -> Any:
        name = Path(what.base_dir if isinstance(what, pafs.FileSelector) else what).name
        if self._silent.get(name, 0) > 0:
            self._silent[name] -= 1
            raise OSError(errno.ETIMEDOUT, "timed out")
        return self._inner.get_file_info(what)

    def open_input_file(self, path: str) -> Any:
        return self._inner.open_input_file(path)


def test_a_folder_of_a_bucket_that_cannot_be_listed_is_a_row_and_the_rest_is_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encoded(picture(0, 32, 32), "PNG"))
    bucket = Bucket({"b": 99, "c": 2, tmp_path.name: 1})
    monkeypatch.setattr(listing, "open_store", lambda url: (bucket, str(tmp_path)))
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0)
    found = list(entries(["s3://it"]))
    assert [(e.kind, Path(e.name).name) for e in found] == [("object", "x.png"), ("failure", "b"), ("object", "x.png")]
    assert found[1].message == "timed out"
    assert found[2].name.endswith("c/x.png")


def test_a_compressed_tar_is_named_in_a_bucket_as_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("w.tgz", "x.png", "y.tar.gz", "z.txt"):
        (tmp_path / name).write_bytes(b"words" if name[0] in "yz" else encoded(picture(0, 32, 32), "PNG"))
    monkeypatch.setattr(listing, "open_store", lambda url: (Bucket({}), str(tmp_path)))
    for place in ("s3://it", tmp_path):
        caplog.clear()
        assert [Path(e.name).name for e in entries([place])] == ["w.tgz", "x.png"]
        assert "y.tar.gz was passed over: a compressed tar" in caplog.text


def test_a_folder_of_parquet_files_may_hold_loops_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **options: _not_a_pipe(path) and really(path, **options))
    pq.write_table(pa.table({"img": [b"one", b"two"]}), tmp_path / "a.parquet")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "z.parquet").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("words")
    os.mkfifo(tmp_path / "pipe.parquet")
    found = list(entries([tmp_path], image_column="img"))
    said = [(e.kind, Path(e.name).relative_to(tmp_path).as_posix()) for e in found]
    failures = [("failure", name) for name in ("pipe.parquet", "self", "z.parquet")]
    assert said == [("row", "a.parquet/0"), ("row", "a.parquet/1"), *failures]
    assert "not a regular file" in found[2].message
    assert "link loop" in found[3].message
    alone = entries([tmp_path / "pipe.parquet", tmp_path / "none"], image_column="img")
    assert [e.kind for e in alone] == ["failure", "failure"]


def _not_a_pipe(path: str) -> bool:
    assert not Path(path).is_fifo(), "it would be waited for"
    return True
