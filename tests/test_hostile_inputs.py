"""Inputs made to hurt: bombs, tricks with paths, devices, loops. Each is a row or an error, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import PEAK_MEMORY, encoded, picture
from mutations import chunk
from score_rows import write_run
from univfd.benchmark.rows import read_rows
from univfd.benchmark.run import SCORES
from univfd.datasets import open_dataset
from univfd.errors import (
    DataError,
    FileAccessError,
    FormatError,
    InputError,
    ServiceError,
    TooManyPixelsError,
    UsageError,
)
from univfd.images import decode
from univfd.metadata import read_metadata
from univfd.provenance._credentials import _outcome
from univfd.remote import RemoteDetector
from univfd.sources import expand, read_bytes
from univfd.storage import parsed
from univfd.suites import open_suite
from univfd.types import Failure, ImageRef


def png_head(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png_of_zeros(side: int) -> bytes:
    """A whole picture of one colour: a thousandth of what it unpacks to."""
    rows = zlib.compress(bytes((3 * side + 1) * side), 9)
    return png_head(side, side) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_that_goes_on(side: int) -> bytes:
    """A small picture whose data unpack to a hundred times more than it needs."""
    return png_head(side, side) + chunk(b"IDAT", zlib.compress(bytes(100 << 20), 9)) + chunk(b"IEND", b"")


def webp_that_says(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(0, 64, 64), "WEBP", lossless=True))
    at = body.index(b"VP8L") + 9
    bits = (width - 1) | (height - 1) << 14
    body[at : at + 4] = bits.to_bytes(4, "little")
    return bytes(body)


def tiff_that_says(width: int, height: int, strips: int = 1) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, strips, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, strips, 8)]  # fmt: skip
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + b"".join(struct.pack("<HHII", *e) for e in entries) + b"\0" * 4


def gif_of_frames(count: int) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (300, 300), 255 * i) for i in range(2)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=20)
    whole = buffer.getvalue()
    frame = whole[whole.rindex(b"\x21\xf9") : -1]
    return whole[:-1] + frame * (count // 10) + b";"


def gif_that_says(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(0, 64, 64), "GIF"))
    body[6:10] = struct.pack("<HH", width, height)
    return bytes(body)


def avif_that_says(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(0, 64, 64), "AVIF"))
    at = body.index(b"ispe") + 8
    body[at : at + 8] = struct.pack(">II", width, height)
    return bytes(body)


def bmp_that_says(width: int, height: int) -> bytes:
    body = bytearray(encoded(picture(0, 64, 64), "BMP"))
    body[18:26] = struct.pack("<ii", width, height)
    return bytes(body)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png header": lambda: png_head(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""),
    "png of zeros": lambda: png_of_zeros(12_000),
    "png that goes on": lambda: png_that_goes_on(64),
    "png text": lambda: png_head(8, 8) + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(300 << 20), 9)),
    "png profile": lambda: png_head(8, 8) + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(300 << 20), 9)),
    "webp": lambda: webp_that_says(16_384, 16_384),
    "tiff": lambda: tiff_that_says(2**31 - 1, 2**31 - 1),
    "tiff strips": lambda: tiff_that_says(16, 16, strips=2**31 - 1),
    "gif frames": lambda: gif_of_frames(20_000),
    "gif screen": lambda: gif_that_says(65_535, 65_535),
    "avif": lambda: avif_that_says(60_000, 60_000),
    "bmp": lambda: bmp_that_says(60_000, 60_000),
    "bmp upside down": lambda: bmp_that_says(8, -(2**31)),
}

_CHILD = f"""
{PEAK_MEMORY}
from univfd.errors import InputError
from univfd.images import decode
from univfd.metadata import read_metadata
from univfd.types import ImageRef
before = peak_kib()
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        data = file.read()
    for read in (lambda r: decode(r, max_pixels=100_000_000), read_metadata):
        try:
            read(ImageRef("x", data))
            print("taken")
        except InputError as error:
            print(type(error).__name__)
print(peak_kib() - before)
"""


def test_pictures_that_unpack_to_more_than_they_are_stay_small(tmp_path: Path) -> None:
    """All in one process, whose memory tells; the limit is 100 megapixels, the service's."""
    files = []
    for name, make in BOMBS.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(make())
    assert all(f.stat().st_size < 3 << 20 for f in files)
    done = subprocess.run([sys.executable, "-c", _CHILD, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, grown = done.stdout.split()
    assert len(said) == 2 * len(BOMBS)
    told = dict(zip(BOMBS, said[::2], strict=True))
    too_many = {"png header", "png of zeros", "tiff", "webp", "gif screen", "bmp"}
    assert {told[name] for name in too_many} <= {"TooManyPixelsError", "TruncatedImageError", "UnsupportedImageError"}
    assert told["gif frames"] == "taken"  # the first frame
    assert int(grown) < 600 << 10, f"{grown} KiB more than before"


def test_the_limit_holds_before_pixels_are_made() -> None:
    with pytest.raises(TooManyPixelsError, match="144 megapixels"):
        decode(ImageRef("x", png_of_zeros(12_000)), max_pixels=100_000_000)
    with pytest.raises(TooManyPixelsError):
        read_metadata(ImageRef("x", png_of_zeros(12_000)), max_pixels=100_000_000)


def member(name: str, body: bytes = b"", **values: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for key, value in values.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + body + b"\0" * (-len(body) % 512)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + b"\0" * 1024


def rows(path: Path) -> list[ImageRef | Failure]:
    return list(expand(path))


def test_members_of_a_tar_are_read_in_place_whatever_they_are_called(tmp_path: Path) -> None:
    small = encoded(picture(0, 32, 32), "PNG")
    names = ["../../escaped.png", "/etc/absolute.png", "a/../../b.png", "C:\\x.png", "x\0y.png", "-rf.png"]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.tar"
    path.write_bytes(tar(*(member(name, small) for name in names)))
    before = sorted(tmp_path.rglob("*"))
    found = rows(path)
    assert [read_bytes(ref) for ref in found if isinstance(ref, ImageRef)] == [small] * len(names)
    assert all(ref.name.startswith(f"{path}/") for ref in found if isinstance(ref, ImageRef))
    assert sorted(tmp_path.rglob("*")) == before


def test_links_out_of_a_tar_and_its_devices_are_rows_without_an_image(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    path = tmp_path / "x.tar"
    path.write_bytes(tar(*(member(f"{i}.png", type=kind, linkname="/etc/passwd") for i, kind in enumerate(kinds))))
    found = rows(path)
    assert [(Path(f.image).name, f.error) for f in found if isinstance(f, Failure)] == [
        (f"{i}.png", "access") for i in range(5)
    ]
    assert len(found) == 5


def numbered(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A header whose size is these 12 bytes, with a checksum that is right."""
    head = bytearray(member(name))
    head[124:136], head[156:157] = size, kind
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head[:512]):06o}\0 ".encode()
    return bytes(head)


@pytest.mark.parametrize(
    "content",
    [
        numbered("a.png", b"\xff" * 12),  # -1: back to the beginning, and so on
        numbered("a.png", b"\xff" * 10 + b"\xfe\x00"),  # -512
        numbered("a.png", b"\x80" + b"\xff" * 11),  # 2 to the power of 88
        numbered("a.bin", b"\x80" + b"\xff" * 11),
        numbered("a", b"\x80\0\0\0\0\0\0\xff\xff\xff\xff\xff", b"L"),  # a name of a terabyte
        numbered("a", b"\xff" * 12, b"L"),
        numbered("a", b"\xff" * 12, b"x"),
        b"".join(member("x", b"a\0", type=tarfile.GNUTYPE_LONGNAME) for _ in range(3000)),  # names of names
        member("x", b"9" * 100_000, type=tarfile.XHDTYPE) + member("a.png", b"x"),
        member("x", b"17 size=999999999\n", type=tarfile.XHDTYPE) + member("a.png", b"x"),
        member("x", b"14 size=-9999\n", type=tarfile.XHDTYPE) + member("a.png", b"x"),
        gzip.compress(tar(member("a.png", b"x"))),
    ],
    ids=["size -1", "size -512", "size 2^88", "size 2^88 of no image", "long name", "long name -1", "pax -1", "names",
         "pax digits", "pax size", "pax size below 0", "gzip"],
)  # fmt: skip
def test_headers_of_a_tar_are_not_believed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content + b"\0" * 1024)
    failed = 0
    for found in rows(path):
        try:
            failed += isinstance(found, Failure)
            if isinstance(found, ImageRef):
                read_bytes(found)
        except InputError:
            failed += 1
    assert failed
    with pytest.raises(DataError):
        list(open_dataset(path))


def test_a_zip_in_a_tar_is_no_image(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50 << 20))
    (tmp_path / "x.tar").write_bytes(tar(member("bomb.zip", inner.getvalue()), member("bomb.png", inner.getvalue())))
    (only,) = rows(tmp_path / "x.tar")
    assert isinstance(only, ImageRef)  # by its name
    with pytest.raises(InputError):
        decode(only)


def test_pages_of_parquet_are_not_unpacked_without_end(tmp_path: Path) -> None:
    """A column of a few kilobytes that unpacks to 200 MB: it is no image, and memory is that of its row group."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [bytes(200 << 20)]}), path, compression="zstd")
    assert path.stat().st_size < 1 << 20
    (only,) = rows(path)
    assert isinstance(only, ImageRef)
    with pytest.raises(InputError):
        decode(only)


def manifest(folder: Path, file: str) -> ImageRef:
    (folder / "m.csv").write_text(f'file,label\n"{file}",fake\n')
    (sample,) = open_dataset(folder / "m.csv")
    return sample.ref


def test_a_manifest_cannot_name_what_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for file in ("pipe.png", "/dev/zero", "/dev/stdin", "loop.png", ".", "missing.png", "../" * 90 + "etc", "a" * 5000):
        with pytest.raises(FileAccessError):
            decode(manifest(tmp_path, file))


def test_a_folder_with_loops_pipes_and_devices_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "null.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.mkfifo(tmp_path / "a" / "pipe without an ending")
    (tmp_path / "a" / "x.png").write_bytes(encoded(picture(0, 32, 32), "PNG"))
    found = rows(tmp_path)
    assert [Path(f.name).name for f in found if isinstance(f, ImageRef)] == ["x.png"]
    failed = {Path(f.image).name: f.message for f in found if isinstance(f, Failure)}
    assert {"up", "self", "null.png", "pipe.png"} <= set(failed)
    assert "device" in failed["null.png"]


def test_a_suite_stays_below_its_root(tmp_path: Path) -> None:
    text = 'name = "x"\ntitle = "x"\nurl = "u"\nget = "g"\nroot = "r"\n[[subset]]\nname = "a"\nreal = "0_real"\n'
    (tmp_path / "s.toml").write_text(text)
    assert open_suite(tmp_path / "s.toml").name == "x"
    archive = '[[archive]]\nmd5 = "0"\nfile = '
    for bad in (
        text.replace("0_real", "../x"), text.replace("0_real", "/etc"), text.replace("0_real", "a\\\\..\\\\x"),
        text.replace("0_real", "C:\\\\x"), text + archive + '"../x"\n', text + archive + '"/etc/passwd"\n',
        text.replace('"r"', "3"), text + "[[archive]]\nfile = 3\nmd5 = 4\n", "subset = 3\n", "archive = [1]\n" + text,
    ):  # fmt: skip
        (tmp_path / "s.toml").write_text(bad)
        with pytest.raises(FormatError):
            open_suite(tmp_path / "s.toml")


def test_pixels_given_directly_are_checked_too() -> None:
    with pytest.raises(TooManyPixelsError):
        decode(ImageRef("x", np.zeros((2000, 2000, 3), np.uint8)), max_pixels=1_000_000)


@pytest.mark.parametrize("url", ["http://host:abc", "http://host:99999", "http://[::1", "host", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="no address of a service"):
        RemoteDetector(url)


def answered(status: int, body: bytes) -> RemoteDetector:
    """The client of a service that answers so to everything."""
    remote = RemoteDetector("http://127.0.0.1:9")
    remote._once = lambda call, method, path, sent: (status, 0.0, parsed(body))  # type: ignore[method-assign]
    return remote


ROW = {
    "status": "ok", "image": "a", "verdict": "fake", "score": 1.0, "probability": 0.9, "attribution": "g",
    "nearest_fake": [{"label": "fake", "distance": 0.1, "generator": "g", "source": "s", "key": "0", "row": 1}],
    "nearest_real": [], "sha256": "0", "width": 1, "height": 1, "format": "PNG", "view": "native", "detector": "d",
    "space": "s", "reasons": [], "reason_codes": [], "notes": ["n"], "note_codes": [{"code": "c"}],
    "timings": {"load": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"}, {"verdict": "certainly"}, {"verdict": ["fake"]}, {"score": "1"}, {"score": None},
        {"score": float("nan")}, {"score": True}, {"probability": 2}, {"nearest_fake": {}}, {"nearest_fake": [{}]},
        {"nearest_real": [3]}, {"notes": "n"}, {"notes": [1]}, {"note_codes": [{}]}, {"width": -1}, {"timings": []},
        {"provenance": []}, {"provenance": {"c2pa": "none", "claims": [], "headline": "h", "findings": [{}]}},
        {"heatmap": "x"}, {"heatmap": {"base64": "\N{SNOWMAN}"}},
    ],
)  # fmt: skip
def test_rows_of_a_service_are_checked(change: dict[str, object]) -> None:
    (whole,) = answered(200, json.dumps(ROW).encode()).detect([ImageRef("x", b"x")], requests=1)
    assert whole.to_dict() == ROW | {"image": "x"}
    with pytest.raises(ServiceError, match="none of univfd serve"):
        list(answered(200, json.dumps(ROW | change).encode()).detect([ImageRef("x", b"x")], requests=1))


@pytest.mark.parametrize("body", [b"{}", b'{"detectors": 3}', b'{"detectors": [[]]}', b'{"detectors": [{"name": 1}]}'])
def test_what_a_service_says_of_itself_is_checked(body: bytes) -> None:
    with pytest.raises(ServiceError):
        answered(200, body).about()
    with pytest.raises(ServiceError):
        answered(500, b'{"error": ' + body + b"}").about()


@pytest.mark.parametrize(
    "store",
    [
        {"manifests": []}, {"manifests": {"a": []}, "active_manifest": "a"}, {"active_manifest": {}},
        {"validation_results": "x"}, {"validation_results": {"activeManifest": {"failure": [1, None], "success": 3}}},
        {"manifests": {"a": {"assertions": ["x", {"label": 1, "data": []}], "ingredients": ["y", {}],
                             "claim_generator_info": "z", "signature_info": "s"}}, "active_manifest": "a"},
    ],
)  # fmt: skip
def test_credentials_of_any_shape_are_a_finding(store: dict[str, object]) -> None:
    """What the C2PA library hands on is JSON that the maker of a file wrote."""
    outcome, (finding,) = _outcome(store)
    assert (outcome, finding.kind) == ("invalid", "c2pa")


def test_score_rows_of_other_types_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", n=20)
    table = pq.read_table(run / SCORES)
    assert len(read_rows(run / SCORES).cells) == 4
    for name, kind in (("score", pa.string()), ("fake_above", pa.string()), ("image", pa.binary())):
        at = table.schema.get_field_index(name)
        pq.write_table(table.set_column(at, name, table[name].cast(kind)), tmp_path / f"{name}.parquet")
        with pytest.raises(FormatError):
            read_rows(tmp_path / f"{name}.parquet")
