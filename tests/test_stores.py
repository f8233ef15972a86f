"""URLs of stores, and what is read from and written to stores that fail now and then: on stand-ins of this machine."""

from __future__ import annotations

import errno
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from conftest import encoded, picture
from univfd import registry
from univfd.distributed import listing, plans, stores
from univfd.distributed.entry import Entry, table_bytes, table_of
from univfd.distributed.listing import entries, references
from univfd.distributed.stores import Folder, open_store
from univfd.distributed.urls import refuse_keys
from univfd.errors import UnivFDError, UsageError
from univfd.types import Failure, ImageRef

PNG = encoded(picture(0, 32, 32), "PNG")
ODD = [
    "a",
    "a#1.png",
    "b",
    "b?x.png",
    "c%41.png",
    "cA.png",
    "c%3Fx.png",
    "100%.png",
    "d e.png",
    "ä::b.png",
    "x:y@z.png",
]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0)


@pytest.fixture
def memory() -> Iterator[Any]:
    """A store in memory, under `memory://`."""
    system = fsspec.filesystem("memory")
    yield system
    for path in list(system.store):
        system.rm(path)


def parquet_of(*images: bytes) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": list(images)}), file, row_group_size=2)
    return file.getvalue()


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_names_of_objects_lead_back_to_them(memory: Any) -> None:
    for name in ODD:
        memory.pipe(f"/bucket/in/{name}", PNG + name.encode())
    found = list(entries(["memory://bucket/in"]))
    assert {e.place.decode() for e in found} == {f"/bucket/in/{name}" for name in ODD}
    for entry in found:
        (again,) = entries([entry.name])
        assert again == entry
        (ref,) = references(table_of([again]))
        assert isinstance(ref, ImageRef)
        assert ref.source == PNG + Path(entry.place.decode()).name.encode()
    assert "memory://bucket/in/a#1.png" in {e.name for e in found}


def test_file_urls_follow_the_rule_of_all_others(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / name).write_bytes(PNG)
        for url in ((tmp_path / name).as_uri(), f"file://{tmp_path}/{name.replace('%', '%25').replace('?', '%3F')}"):
            assert [(e.name, e.kind) for e in entries([url])] == [(f"{tmp_path}/{name}", "file")]
    (refused,) = entries([f"file://{tmp_path}/b?x.png"])
    assert (refused.kind, refused.error) == ("failure", "access")
    assert "%3F" in refused.message


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEYID:HIDDEN@pictures/y?region=x",
        "s3://KEYID:HID/DEN@pictures/y",
        "s3://:HIDDEN@pictures",
        "sftp://me:HIDDEN@host:22/x",
        "s3://KEY:8/HIDDEN@bucket/y",
        "sftp://me:HID?DEN@host/x",
        "zip://dir/x.png::sftp://me:HIDDEN@host/b.zip",
        "abfs://c@account.dfs.core.windows.net/x?client_secret=HIDDEN",
        "s3://b/x?region=x&secret_key=HIDDEN",
    ],
)
def test_keys_in_a_url_are_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    for ask in (lambda: list(entries([url])), lambda: Folder(url).names(), lambda: open_store(url)):
        with pytest.raises(UsageError, match="environment") as refused:
            ask()
        assert "HID" not in str(refused.value)


def test_what_has_no_keys_is_not_refused(memory: Any) -> None:
    memory.pipe("/host:80/a:b@2x.png", PNG)
    assert [e.kind for e in entries(["memory://host:80/a:b@2x.png"])] == ["object"]
    for url in (
        "github://org:repo@main/dir/a.png",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/k@2.png",
        "http://host:8000/a@2x.png?size=2&key=5",
        "s3://bucket/a:b@2x.png?region=eu&endpoint_override=minio:9000",
    ):
        refuse_keys(url)


def test_members_of_a_chain_have_names_of_their_own_that_lead_back(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("d/a.png", "d/b.png"):
            archive.writestr(name, PNG)
    found = list(entries([f"zip://d::file://{tmp_path}/b.zip"]))
    assert [e.name for e in found] == [f"zip://d/{n}.png::file://{tmp_path}/b.zip" for n in "ab"]
    assert [e.name for e in entries([found[1].name])] == [found[1].name]


def test_a_store_without_a_host_keeps_its_scheme(memory: Any) -> None:
    memory.pipe("/x.png", PNG)
    (entry,) = entries(["memory:///x.png"])
    assert entry.name == "memory:///x.png"
    assert entries(["memory://"]).__next__().name == "memory:///x.png"


def test_what_arrow_cannot_take_apart_is_for_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def known(url: str) -> Any:
        asked.append(url)
        return fsspec.filesystem("memory"), "/x"

    monkeypatch.setattr(fsspec.core, "url_to_fs", known)
    stores._opened.cache_clear()
    for url in ("abfs://container/x", "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/x/y.png"):
        open_store(url)
    stores._opened.cache_clear()
    assert len(asked) == 2
    with pytest.raises(UsageError, match="regoin") as refused:
        open_store("s3://b/a.png?regoin=HIDDEN")
    assert "HIDDEN" not in str(refused.value)
    (failed,) = entries(["github://x/a.png"])  # it lacks the name of a repository: a TypeError of fsspec's
    assert (failed.kind, failed.name) == ("failure", "github://x/a.png")


def test_a_list_of_urls_opens_its_store_once_and_is_read_by_many(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        memory.pipe(f"/one/{i}.png", PNG)
        memory.pipe(f"/two/{i}.png", PNG)
    stores._opened.cache_clear()
    found = list(entries([f"memory://{bucket}/{i}.png" for i in range(8) for bucket in ("one", "two")]))
    assert stores._opened.cache_info().misses == 2
    assert len({e.store for e in found}) == 2
    together = threading.Barrier(8, timeout=30)
    monkeypatch.setattr(listing, "read_object", lambda *_: b"x" if together.wait() >= 0 else b"")
    assert all(isinstance(r, ImageRef) for r in references(table_of(found)))


def test_a_listing_with_whole_urls_is_still_read(memory: Any) -> None:
    memory.pipe("/b/x.png", PNG)
    (ref,) = references(table_of([Entry("memory://b/x.png", "object", "memory://b/x.png", b"/b/x.png")]))
    assert ref == ImageRef("memory://b/x.png", PNG)


# -- one row for each input --------------------------------------------------------------------------------------------


def test_what_is_named_has_a_row_in_a_bucket_as_on_disk(memory: Any, tmp_path: Path) -> None:
    shard = parquet_of(PNG, PNG, PNG)
    rows_alone = io.BytesIO()
    pq.write_table(pa.table({"label": [1, 2]}), rows_alone)
    there = {
        "a.png": PNG, "note": b"<html>404", "shard.parquet": shard, "x.tar.gz": b"\x1f\x8b0000", "p.tgz": PNG,
        "bad.parquet": b"PAR1 no", "none.parquet": rows_alone.getvalue(), "data.pq": shard,
    }  # fmt: skip
    for name, data in there.items():
        (tmp_path / name).write_bytes(data)
        memory.pipe(f"/in/{name}", data)

    def rows(top: str, name: str, **options: Any) -> list[tuple[str, ...]]:
        kinds = {"object": "file"}
        found = list(entries([f"{top}{name}"], **options))
        return [(e.name.removeprefix(top), kinds.get(e.kind, e.kind), e.error, e.column) for e in found]

    for name in ["", *there]:
        assert rows("memory://in/", name) == rows(f"{tmp_path}/", name), name
    assert rows("memory://in/", "shard.parquet") == [(f"shard.parquet/{i}", "row", "", "image") for i in range(3)]
    for name in ("data.pq", "note", "shard.parquet"):
        options = {"image_column": "image"}
        assert rows("memory://in/", name, **options) == rows(f"{tmp_path}/", name, **options) != []
    found = [r.source for r in references(table_of(entries(["memory://in/shard.parquet"]))) if isinstance(r, ImageRef)]
    assert found == [PNG] * 3


def test_what_a_prefix_has_that_is_no_image_is_counted_once(memory: Any, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "note", "words.txt"):
        memory.pipe(f"/in/{name}", PNG if name == "a.png" else b"words")
    assert len(list(entries(["memory://in"]))) == 1
    assert caplog.text.count("passed over 2 files in memory://in: no images") == 1


def test_one_odd_input_is_a_row(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/in/a.png", PNG)
    given = ["nosuch://x/a.png", "memory://in/a.png", "s3://b/a.png?regoin=x", "s3://b//a.png?region=us-east-1"]
    found = list(entries(given))
    assert [(e.name, e.kind) for e in found if e.kind == "object"] == [("memory://in/a.png", "object")]
    unknown, mistyped, empty = (e for e in found if e.kind == "failure")
    assert (unknown.name, unknown.error) == (given[0], "access")
    assert "regoin" in mistyped.message
    assert "s3fs" not in mistyped.message
    assert "no usable path" in empty.message
    long = [str(tmp_path / ("x" * 300)), "a\0b"]
    assert [(e.kind, e.error) for e in entries(long, image_column="image")] == [("failure", "access")] * 2


def test_one_path_is_one_input(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    for one in (str(tmp_path / "a.png"), tmp_path / "a.png", (tmp_path / "a.png").as_uri()):
        assert [e.name for e in entries(one)] == [f"{tmp_path}/a.png"]


# -- a store that fails now and then -----------------------------------------------------------------------------------


class Hiccups(LocalFileSystem):
    """The disk as a store: every third opening, read or write of a thread fails, and the first."""

    asked = threading.local()  # of all threads together one could meet with failures alone

    def _stumble(self) -> None:
        count = self.asked.count = getattr(self.asked, "count", 0) + 1
        if count % 3 == 1:
            raise OSError(errno.EIO, "SlowDown: please reduce your request rate")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._stumble()
        file, whole = super()._open(path, mode=mode, **options), self

        class Opened(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def writable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def seek(self, offset: int, whence: int = 0) -> int:
                return int(file.seek(offset, whence))

            def tell(self) -> int:
                return int(file.tell())

            def read(self, size: int = -1) -> Any:
                whole._stumble()
                return file.read(size)

            def write(self, data: Any) -> Any:
                whole._stumble()
                return file.write(data)

            def close(self) -> None:
                file.close()
                super().close()

        return Opened()


@pytest.fixture
def hiccups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is also the store `slow://it`."""
    system = pafs.PyFileSystem(pafs.FSSpecHandler(Hiccups(skip_instance_cache=True)))
    monkeypatch.setattr(Hiccups, "asked", threading.local())
    monkeypatch.setattr(stores, "_opened", lambda store: (system, str(tmp_path)))
    return tmp_path


def test_shards_and_tars_are_asked_for_again(hiccups: Path) -> None:
    images = [encoded(picture(i, 40, 30), "PNG") for i in range(7)]
    (hiccups / "s.parquet").write_bytes(parquet_of(*images))
    with tarfile.open(hiccups / "t.tar", "w") as tar:
        for i, data in enumerate(images):
            member = tarfile.TarInfo(f"{i}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for options in ({}, {"image_column": "image"}):
        found = list(references(table_of(entries(["slow://it/s.parquet"], **options))))
        assert [r.source if isinstance(r, ImageRef) else r for r in found] == images
    found = list(references(table_of(entries(["slow://it/t.tar"]))))
    assert [r.source if isinstance(r, ImageRef) else r for r in found] == images


def test_a_partition_is_uploaded_again(hiccups: Path) -> None:
    folder = Folder("slow://it/run")
    folder.put("rows/part-0000000.parquet", b"rows")
    assert folder.names("rows") == {"part-0000000.parquet"}
    assert folder.has("rows/part-0000000.parquet")
    assert folder.read("rows/part-0000000.parquet") == b"rows"


def test_a_store_that_stays_silent_is_an_error_of_the_rows(hiccups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hiccups / "s.parquet").write_bytes(parquet_of(PNG, PNG))
    listed = table_of(entries(["slow://it/s.parquet"]))

    def silent(self: Any) -> None:
        raise OSError(errno.EIO, "SlowDown")

    monkeypatch.setattr(Hiccups, "_stumble", silent)
    assert [r.error for r in references(listed) if isinstance(r, Failure)] == ["access"] * 2
    with pytest.raises(UnivFDError, match="cannot be written"):
        Folder("slow://it/run").put("rows/part-0000000.parquet", b"rows")


def test_a_failed_upload_leaves_nothing(hiccups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = Folder("slow://it/run"), stores._write

    def half(system: Any, path: str, data: bytes) -> None:
        whole(system, path, data[:2])
        raise OSError(errno.ENOSPC, "no room")

    folder.put("rows/part-0000000.parquet", b"rows")  # the folder is there already for the next one
    with monkeypatch.context() as now:
        now.setattr(stores, "_write", half)
        with pytest.raises(UnivFDError, match=r"^slow://it/run: rows/p cannot be written"):
            folder.put("rows/p", b"rows")
    assert [p.name for p in (hiccups / "run" / "rows").iterdir()] == ["part-0000000.parquet"]


def test_a_run_is_not_read_below_its_inputs_in_buckets_either(memory: Any) -> None:
    memory.pipe("/in/images.parquet", parquet_of(PNG, PNG))
    for name, table in (("listing", table_of([])), ("rows", _verdicts())):
        memory.pipe(f"/in/run/{name}/part-0000000.parquet", table if isinstance(table, bytes) else table_bytes(table))
    for options in ({}, {"image_column": "image"}):
        assert [e.name for e in entries(["memory://in"], **options)] == [
            f"memory://in/images.parquet/{i}" for i in (0, 1)
        ]


def _verdicts() -> bytes:
    file = io.BytesIO()
    writer = registry.load("writers", "parquet")(file)
    writer.write(Failure("a.png", "access", "no").to_dict())
    writer.close()
    return file.getvalue()


# -- the place of output -----------------------------------------------------------------------------------------------


def test_output_into_a_file_url_is_output_into_the_folder(tmp_path: Path) -> None:
    folder = Folder((tmp_path / "a b#%41" / "run").as_uri())
    assert folder == Folder(str(tmp_path / "a b#%41" / "run"))
    with folder.alone():
        folder.put("rows/part-0000000.parquet", b"rows")
    assert (tmp_path / "a b#%41" / "run" / "rows" / "part-0000000.parquet").read_bytes() == b"rows"
    with pytest.raises(UsageError, match="file:///PATH"):
        Folder("file://elsewhere/run")


def test_a_write_that_was_killed_leaves_no_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk as no object store: `local` as pyarrow knows it."""
    folder, whole = Folder(f"local://{tmp_path}/run"), stores._write

    def killed(system: Any, path: str, data: bytes) -> None:
        whole(system, path, data[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(stores, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.put("rows/part-0000000.parquet", b"rows")
    assert list((tmp_path / "run" / "rows").iterdir())
    assert folder.names("rows") == set()
    folder.put("rows/part-0000000.parquet", b"rows")
    assert folder.names("rows") == {"part-0000000.parquet"}
    assert folder.read("rows/part-0000000.parquet") == b"rows"


def test_a_run_of_an_earlier_version_says_why_its_inputs_are_others(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/in/a.png", PNG)
    (tmp_path / "b.png").write_bytes(PNG)
    of_disk, of_url = list(entries([tmp_path / "b.png"])), list(entries(["memory://in"]))

    def begun(name: str, found: list[Entry], *, resume: bool = False) -> plans.Plan:
        return plans.begin(Folder(str(tmp_path / name)), {}, lambda: found, 10, resume, lambda *_: None)

    begun("disk", of_disk)
    begun("url", [of_url[0]._replace(store="memory://in/a.png")])
    for name in ("disk", "url"):
        manifest = tmp_path / name / "run.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 1}))
    assert begun("disk", of_disk, resume=True).images == 1
    with pytest.raises(UsageError, match="a version that listed URLs otherwise"):
        begun("url", of_url, resume=True)
