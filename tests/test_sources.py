from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import encoded, picture
from univfd.datasets import open_dataset
from univfd.errors import DataError, FileAccessError, TruncatedImageError, UsageError
from univfd.images import decode
from univfd.sources import expand, image_column, one_each, read_bytes
from univfd.types import Failure, ImageRef


def names(items: object) -> list[str]:
    return [Path(i.name if isinstance(i, ImageRef) else i.image).name for i in expand(items)]


def test_folder_is_walked_sorted_by_name_and_content(tmp_path: Path) -> None:
    jpeg = encoded(picture(0, 32, 32))
    for name in ("b.JPG", "a.jpeg", "sub/c.png", "no_extension", "notes.txt", "sub/.hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"just words" if name == "notes.txt" else jpeg)
    assert names(tmp_path) == ["a.jpeg", "b.JPG", "no_extension", ".hidden.png", "c.png"]


def test_glob_and_a_real_name_with_brackets(tmp_path: Path) -> None:
    for name in ("x1.png", "x2.png", "y[1].png"):
        (tmp_path / name).write_bytes(encoded(picture(0, 32, 32), "PNG"))
    assert names(str(tmp_path / "x*.png")) == ["x1.png", "x2.png"]
    assert names(str(tmp_path / "y[1].png")) == ["y[1].png"]
    assert [type(i) for i in expand(str(tmp_path / "z*.png"))] == [Failure]


def test_what_cannot_be_reached_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "self").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    failures = {Path(i.image).name: i for i in expand(tmp_path) if isinstance(i, Failure)}
    assert set(failures) == {"loop.png", "broken.jpg", "self", "pipe.jpg"}
    assert all(f.error == "access" for f in failures.values())
    assert "link loop" in failures["self"].message
    assert "regular file" in failures["pipe.jpg"].message


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(raw)).write_bytes(encoded(picture(0, 32, 32), "PNG"))
    (only,) = expand(tmp_path)
    assert isinstance(only, ImageRef)
    assert only.name.endswith("caf\\xe9.png")
    only.name.encode()
    assert read_bytes(only).startswith(b"\x89PNG")


def test_tar_members_are_read_by_offset(tmp_path: Path) -> None:
    images = {f"000{i}.jpg": encoded(picture(i, 64, 48)) for i in range(3)}
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in {**images, "0000.json": b"{}"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    refs = [i for i in expand(tmp_path) if isinstance(i, ImageRef)]
    assert [Path(r.name).name for r in refs] == list(images)
    assert [read_bytes(r) for r in reversed(refs)] == list(reversed(images.values()))


def test_a_damaged_tar_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar" * 100)
    (only,) = expand(tmp_path / "x.tar")
    assert isinstance(only, Failure)
    assert "tar" in only.message


def test_bytes_file_objects_arrays_and_pillow_images() -> None:
    pixels = picture(1, 40, 30)
    png = encoded(pixels, "PNG")
    refs = list(expand([png, io.BytesIO(png), pixels, Image.fromarray(pixels)]))
    assert len(refs) == 4
    for ref in refs:
        assert isinstance(ref, ImageRef)
        np.testing.assert_array_equal(decode(ref).pixels, pixels)


@pytest.mark.parametrize(
    "bad", [3, None, np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_things_are_refused(bad: object) -> None:
    with pytest.raises(UsageError, match=r"expected RGB|cannot read an image"):
        list(expand(bad))
    png = encoded(picture(0, 32, 32), "PNG")
    assert [type(r) for r in expand([png, bad, png])] == [ImageRef, Failure, ImageRef]


def test_one_input_gives_one_row_however_given(tmp_path: Path) -> None:
    paths = ["/nonexistent/a.jpg", "nul\0byte.jpg", str(tmp_path / "b.png")]
    assert len(list(expand(paths))) == 3


def test_no_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ordinary user sees it (root may read everything)."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(0, 32, 32), "PNG"))

    def forbid(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    (ref,) = expand(secret)
    monkeypatch.setattr(Path, "read_bytes", forbid)
    with pytest.raises(FileAccessError, match="no permission to read it; check its access rights"):
        decode(ref)
    monkeypatch.setattr(os, "scandir", forbid)
    (folder,) = expand(tmp_path)
    assert isinstance(folder, Failure)
    assert "no permission" in folder.message


def test_a_damaged_header_inside_a_tar_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(5):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 600
            tar.addfile(info, io.BytesIO(b"x" * 600))
    data = bytearray(path.read_bytes())
    data[2 * 1536 + 100] ^= 255
    path.write_bytes(data)
    found = list(expand(path))
    assert [type(f) for f in found] == [ImageRef, ImageRef, Failure]
    path.write_bytes(data[:2300])
    second = list(expand(path))[1]
    assert isinstance(second, ImageRef)
    with pytest.raises(TruncatedImageError):
        read_bytes(second)
    path.write_bytes(data[: 1536 + 100])  # in the second header
    assert [f.error for f in expand(path) if isinstance(f, Failure)] == ["truncated"]
    path.write_bytes(data[:100])  # in the first
    assert [f.error for f in expand(path) if isinstance(f, Failure)] == ["not-an-image"]


@pytest.mark.parametrize("name", ["a.tar.gz", "A.TGZ", "a.tar.bz2", "a.tbz", "a.tar.xz", "a.tar.zst", "a.tar.lzma"])
def test_a_compressed_tar_says_what_to_do(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0.png").write_bytes(encoded(picture(0, 32, 32), "PNG"))
    (tmp_path / name).write_bytes(gzip.compress(b"whatever it holds"))
    (tmp_path / "notes.gz").write_bytes(gzip.compress(b"no tar by name"))
    assert [type(i) for i in expand(tmp_path)] == [ImageRef]
    assert f"{name} was passed over: a compressed tar" in caplog.text
    (alone,) = expand(tmp_path / name)
    assert isinstance(alone, Failure)
    assert (alone.error, "unpack it" in alone.message) == ("unsupported", True)
    (tmp_path / name).write_bytes(encoded(picture(0, 32, 32), "PNG"))  # what it holds counts for more
    assert [type(i) for i in expand([tmp_path / name, tmp_path])] == [ImageRef] * 3


def test_an_empty_path_is_no_folder() -> None:
    (only,) = expand("")
    assert isinstance(only, Failure)


def test_a_glob_that_matches_folders_and_what_is_in_them(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "sub/sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(0, 32, 32), "PNG"))
    assert sorted(names(str(tmp_path / "**"))) == ["a.png", "b.png", "c.png"]


def test_the_callers_pillow_image_is_not_touched() -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    image = Image.open(buffer)
    image.seek(1)
    (ref,) = expand(image)
    assert isinstance(ref, ImageRef)
    decode(ref)
    assert image.tell() == 1


def test_surrogates_that_stand_for_no_byte() -> None:
    (only,) = expand("\ud800.png")
    assert isinstance(only, Failure)
    only.image.encode()


def test_an_image_in_a_tar_is_known_by_its_bytes_where_its_name_says_nothing(tmp_path: Path) -> None:
    png = encoded(picture(0, 32, 32), "PNG")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in {"a.b/plain": png, "note": b"BN", "empty": b"", "x.PNG": b"no image"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    refs = [r for r in expand(tmp_path) if isinstance(r, ImageRef)]
    assert [Path(r.name).name for r in refs] == ["plain", "x.PNG"]
    assert read_bytes(refs[0]) == png


def test_columns_of_tables(tmp_path: Path) -> None:
    """Paths, bytes and what the `datasets` library stores; pandas, polars, Arrow, NumPy."""
    jpeg = encoded(picture(0, 32, 32))
    paths = [str(tmp_path / f"{i}.jpg") for i in range(2)]
    for path in paths:
        Path(path).write_bytes(jpeg)
    stored = [{"bytes": jpeg, "path": "a.jpg"}, {"bytes": None, "path": paths[1]}]
    for column in ([*paths], [jpeg, jpeg], stored):
        for made in (
            pa.array(column),
            pa.chunked_array([column]),
            pd.Series(column),
            pl.Series(column),
            np.array(column, object),
        ):
            refs = list(expand(made))
            assert [read_bytes(r) for r in refs] == [jpeg, jpeg], (type(made), column)
    assert [Path(r.name).name for r in expand(pa.array(stored))] == ["a.jpg", "1.jpg"]
    empty = list(expand(pd.Series([paths[0], None, float("nan")])))
    assert [type(i) for i in empty] == [ImageRef, Failure, Failure]
    for table in (pa.table({"path": paths}), pd.DataFrame({"path": paths}), pl.DataFrame({"path": paths})):
        with pytest.raises(UsageError, match=r"a table; give one column of it"):
            list(expand(table))


def test_a_stored_path_is_one_file_and_nothing_else(tmp_path: Path) -> None:
    """A data set from elsewhere cannot make the program walk a folder or open an address."""
    (tmp_path / "x.jpg").write_bytes(encoded(picture(0, 32, 32)))
    for path in (str(tmp_path), str(tmp_path / "*.jpg"), "https://localhost:1/x.jpg", "a\0b"):
        (ref,) = expand([{"bytes": None, "path": path}])
        with pytest.raises(FileAccessError):
            read_bytes(ref)
    (nothing,) = expand([{"bytes": None, "path": None}])
    assert isinstance(nothing, Failure)
    assert nothing.error == "empty"


def test_one_each_keeps_the_number_of_inputs(tmp_path: Path) -> None:
    jpeg = encoded(picture(0, 32, 32))
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg)
    assert [type(i) for i in one_each([jpeg, tmp_path / "a.jpg", "gone.jpg"])] == [ImageRef, ImageRef, Failure]
    with pytest.raises(UsageError, match=r"input 0 .* holds several images"):
        list(one_each([tmp_path]))
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"input 1 .* holds no image"):
        list(one_each([jpeg, tmp_path / "none"]))


def test_links_in_a_tar_are_followed_within_it(tmp_path: Path) -> None:
    """GNU tar writes the second of two hard links as a link to the first."""
    path = tmp_path / "s.tar"
    jpeg = encoded(picture(0, 64, 48))
    links = [
        ("d/early.jpg", tarfile.SYMTYPE, "../a.jpg"), ("b.jpg", tarfile.LNKTYPE, "a.jpg"),
        ("plain", tarfile.LNKTYPE, "a.jpg"), ("c.jpg", tarfile.SYMTYPE, "./d/early.jpg"),
        ("words.txt", tarfile.LNKTYPE, "notes"), ("out.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("up.jpg", tarfile.SYMTYPE, "../a.jpg"), ("one.jpg", tarfile.SYMTYPE, "two.jpg"),
        ("two.jpg", tarfile.SYMTYPE, "one.jpg"), ("folder", tarfile.DIRTYPE, ""), ("pipe.jpg", tarfile.FIFOTYPE, ""),
    ]  # fmt: skip
    with tarfile.open(path, "w") as tar:
        for name, kind, target in links[:1]:
            _add_link(tar, name, kind, target)
        for name, data in (("a.jpg", jpeg), ("notes", b"just words, and no picture")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind, target in links[1:]:
            _add_link(tar, name, kind, target)
    found = list(expand(path))
    images = [f for f in found if isinstance(f, ImageRef)]
    assert [i.name.removeprefix(f"{path}/") for i in images] == ["d/early.jpg", "a.jpg", "b.jpg", "plain", "c.jpg"]
    assert {read_bytes(i) for i in images} == {jpeg}
    failures = {Path(f.image).name: f.message for f in found if isinstance(f, Failure)}
    assert list(failures) == ["out.jpg", "up.jpg", "one.jpg", "two.jpg", "pipe.jpg"]
    assert failures["out.jpg"] == "a link to /etc/passwd, which is no file of this tar; skipped"
    assert "not a regular file" in failures["pipe.jpg"]


def _add_link(tar: tarfile.TarFile, name: str, kind: bytes, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def test_a_pipe_that_is_called_a_parquet_file_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "ParquetFile", lambda *_, **__: pytest.fail("opened: a pipe would be waited for"))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encoded(picture(0, 32, 32), "PNG"))
    os.mkfifo(tmp_path / "x.parquet")
    image, pipe = expand(tmp_path)
    assert isinstance(image, ImageRef)
    assert isinstance(pipe, Failure)
    assert pipe.message == "not a regular file (a pipe, socket or device); skipped"
    with pytest.raises(DataError, match="lie in no label folder"):
        list(open_dataset(tmp_path))
    with pytest.raises(FileAccessError, match="not a regular file"):
        image_column(tmp_path / "x.parquet")
