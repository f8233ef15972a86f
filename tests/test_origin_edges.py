"""What files say of their origin, deep pixels and values of the API, at the edges."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import provenance_files as make
from conftest import PEAK_MEMORY, picture
from univfd.benchmark.rendering import Section, Table, latex, markdown
from univfd.classifiers.knn import NearestNeighbor
from univfd.detector import Detector
from univfd.errors import UsageError
from univfd.evaluation import Cohort, rounds
from univfd.images import decode
from univfd.provenance import Provenance, read_provenance
from univfd.provenance._containers import MOST_TEXT
from univfd.types import Embeddings, FeatureSpace, ImageRef, Verdict

AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
TYPE = "Iptc4xmpExt:DigitalSourceType"


def claims(data: bytes) -> tuple[str, ...]:
    return read_provenance(data).claims


def png(key: str, text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, text)
    return make.plain("PNG", pnginfo=info)


def with_segments(*segments: tuple[int, bytes]) -> bytes:
    data = make.plain("JPEG")
    made = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + made + data[2:]


def test_heic_is_read_in_the_confined_process() -> None:
    """Its library was imported when no file could be opened any more."""
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Apple", "iPhone 13"
    exif.get_ifd(0x8769)[0x8827] = 100
    buffer = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.fromarray(picture(1)))
    heif.save(buffer, exif=exif.tobytes(), xmp=make.xmp(f"<{TYPE}>{AI}</{TYPE}>"))
    read = read_provenance(buffer.getvalue())
    assert read.c2pa == "none"
    assert set(read.claims) == {"ai", "camera"}
    assert not [f for f in read.findings if f.kind == "unread"]


@pytest.mark.parametrize(
    "make_one",
    [
        lambda: make.plain("JPEG", exif=make.exif({0x013B: "Beatrice Dalle"})),
        lambda: make.plain("JPEG", exif=make.exif({0x013B: "Marco Dalle Molle"})),
        lambda: png("Author", "Kids who draw things"),
        lambda: png("Source", "Scan of Midjourney magazine p.3"),
        lambda: png("Source", "Midjourney magazine"),
        lambda: png("graph", '{"directed": false, "nodes": [{"type": "x"}], "links": [{"source": 1}]}'),
        lambda: png("graph", '{"nodes": [], "links": []}'),
        lambda: png("Credit", "Not made with Google AI"),
        lambda: with_segments((0xEB, b"JP" + bytes(6) + struct.pack(">I4s", 24, b"TONE") + bytes(16))),
        lambda: with_segments((0xEB, b"JP" + bytes(6) + struct.pack(">I4sI4s", 60, b"jumb", 40, b"jumd") + bytes(40))),
    ],
)  # fmt: skip
def test_what_names_no_generator_is_no_claim(make_one: Callable[[], bytes]) -> None:
    read = read_provenance(make_one())
    assert read.claims == ()
    assert read.c2pa == "none"


@pytest.mark.parametrize(
    "make_one",
    [
        lambda: make.plain("JPEG", exif=make.exif({0x0131: "DALL-E 3"})),
        lambda: make.plain("JPEG", exif=make.exif({0x0131: "DALL·E 3".encode()})),
        lambda: make.plain("JPEG", exif=make.exif({0x0131: "DALLE3"})),
        lambda: make.plain("JPEG", exif=make.exif({0x013B: "Midjourney"})),
        lambda: png("Author", "NovelAI"),
        lambda: png("Software", "dalle-3"),
        lambda: png("Software", "Dalle 3"),
        lambda: png("Software", "draw things"),
        lambda: png("Source", "Stable Diffusion 1D44365E"),
        lambda: png("Author", "Stable Diffusion XL"),
        lambda: png("Source", "stable diffusion v1-5"),
        lambda: png("Author", "Midjourney Bot"),
        lambda: png("Source", "Adobe Firefly Image 3"),
        lambda: png("Source", "Leonardo.AI Phoenix"),
        lambda: png("Software", "stable-diffusion-webui"),
        lambda: png("Software", "Draw Things 1.2"),
        lambda: png("Credit", "Made with Google AI"),
        lambda: png("workflow", '{"nodes": [{"id": 1, "type": "KSampler"}], "links": [[1, 4, 0, 3, 0, "MODEL"]]}'),
        lambda: png("workflow", '{"state": {"lastNodeId": 3}, "nodes": [{"type": "KSampler"}], "links": []}'),
    ],
)  # fmt: skip
def test_what_names_a_generator_is_a_claim(make_one: Callable[[], bytes]) -> None:
    assert claims(make_one()) == ("ai",)


@pytest.mark.parametrize(
    "properties",
    [
        f"<{TYPE}>{AI}</{TYPE}>",
        f' {TYPE}="  {AI} "',
        f'<{TYPE} rdf:resource="{AI}"/>',
        f'<{TYPE}><rdf:Bag><rdf:li rdf:resource="{AI}"/></rdf:Bag></{TYPE}>',
        f'<{TYPE} rdf:parseType="Resource"><rdf:value>{AI}</rdf:value></{TYPE}>',
        f"<{TYPE}><rdf:Bag><rdf:li>{AI}</rdf:li><rdf:li>{CAMERA}</rdf:li></rdf:Bag></{TYPE}>",
        f"<{TYPE}><rdf:Bag><rdf:li>{CAMERA}</rdf:li><rdf:li>{AI}</rdf:li></rdf:Bag></{TYPE}>",
        f"<{TYPE}>digsrctype:trainedAlgorithmicMedia</{TYPE}>",
        f"<{TYPE}>{AI}?lang=en</{TYPE}>",
    ],
)
def test_forms_of_the_digital_source_type(properties: str) -> None:
    assert claims(make.with_xmp("JPEG", make.xmp(properties))) == ("ai",)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_packets_of_16_bits(codec: str) -> None:
    text = "\ufeff" + make.xmp(f"<{TYPE}>{AI}</{TYPE}>").decode() + "  "
    packet = text.encode(codec) if codec != "utf-16" else text[1:].encode(codec)
    assert claims(make.plain("WEBP", xmp=packet)) == ("ai",)


def extended(
    packet: bytes, order: Callable[[list[int]], list[int]], digest: bytes = b"D" * 32
) -> list[tuple[int, bytes]]:
    starts = order(list(range(0, len(packet), 60_000)))
    head = b"http://ns.adobe.com/xmp/extension/\0" + digest
    return [(0xE1, head + struct.pack(">II", len(packet), at) + packet[at : at + 60_000]) for at in starts]


@pytest.mark.parametrize("order", [lambda s: s, lambda s: s[::-1], lambda s: s[1:] + s[:1]])
def test_extended_xmp_in_any_order(order: Callable[[list[int]], list[int]]) -> None:
    padded = make.xmp(f"<dc:rights>{'x' * 130_000}</dc:rights><{TYPE}>{AI}</{TYPE}>")
    assert claims(with_segments(*extended(padded, order))) == ("ai",)
    other = extended(make.xmp(f"<dc:rights>{'y' * 70_000}</dc:rights>"), order, b"E" * 32)
    mixed = [s for pair in zip(extended(padded, order), other, strict=False) for s in pair]
    assert claims(with_segments(*mixed, *extended(padded, order)[len(other) :])) == ("ai",)


def test_extended_xmp_as_long_as_it_may_be() -> None:
    long = make.xmp(f"<dc:rights>{'x' * (MOST_TEXT - 2_000)}</dc:rights><{TYPE}>{AI}</{TYPE}>")
    assert claims(with_segments(*extended(long, lambda s: s))) == ("ai",)


def test_xmp_of_a_gif() -> None:
    data = make.plain("GIF")
    end = data.rindex(b"\x3b")
    trailer = bytes([1, *range(255, -1, -1), 0])
    block = b"\x21\xff\x0bXMP DataXMP" + make.xmp(f"<{TYPE}>{AI}</{TYPE}>") + trailer
    assert claims(data[:end] + block + data[end:]) == ("ai",)


@pytest.mark.parametrize(
    ("tag", "kind", "size"), [(33723, 7, 1), (33723, 1, 1), (33723, 4, 4), (34377, 1, 1), (34377, 7, 1)]
)
def test_iptc_of_a_tiff(tag: int, kind: int, size: int) -> None:
    """Some programs say that the records are 32-bit numbers."""
    credit = b"Made with Google AI"
    records = b"\x1c\x02\x6e" + struct.pack(">H", len(credit)) + credit
    raw = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records if tag == 34377 else records
    raw += bytes(-len(raw) % 4)
    data = grey_tiff(np.zeros((8, 8), np.uint16), 8, False, (tag, kind, len(raw) // size, raw))
    assert claims(data) == ("ai",)


@pytest.mark.parametrize("head", [b"UNICODE\0", b"\0" * 8, b""])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_user_comments_in_every_order(head: bytes, codec: str) -> None:
    text = '{"AIGC": {"Label": "1", "ContentProducer": "someone"}}'
    for end in (b"", bytes(160)):
        assert claims(make.plain("JPEG", exif=make.exif({0x9286: head + text.encode(codec) + end}))) == ("ai",)


@pytest.mark.parametrize("head", [b"ASCII\0\0\0", b"\0" * 8, b""])
def test_user_comments_are_filled_up_with_zeros(head: bytes) -> None:
    text = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: dream"
    read = read_provenance(make.plain("JPEG", exif=make.exif({0x9286: head + text.encode() + bytes(160)})))
    assert read.findings[0].details == {"prompt": "a cat", "model": "dream"}


def test_exif_texts_are_utf_8_where_they_can_be() -> None:
    text = "Porträt 漂亮\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: dream"
    read = read_provenance(make.plain("JPEG", exif=make.exif({0x010E: text.encode()})))
    assert read.findings[0].details["prompt"] == "Porträt 漂亮"
    latin = read_provenance(make.plain("JPEG", exif=make.exif({0x010E: text.replace("漂亮", "").encode("latin-1")})))
    assert latin.findings[0].details["prompt"].strip() == "Porträt"


def test_imagemagick_keeps_xmp_under_the_name_of_its_segment() -> None:
    body = b"http://ns.adobe.com/xap/1.0/\0" + make.xmp(f"<{TYPE}>{AI}</{TYPE}>")
    assert claims(png("Raw profile type APP1", f"\nAPP1\n{len(body)}\n{body.hex()}")) == ("ai",)


def test_paths_and_bytes_of_any_kind(tmp_path: Path) -> None:
    data = make.plain("PNG")
    signers = make.make_signers()
    (tmp_path / "root.pem").write_text(signers.root)
    for one in (bytearray(data), memoryview(data)):
        assert read_provenance(one).c2pa == "none"
    signed = signers.sign(make.plain("JPEG"), "JPEG")
    assert read_provenance(signed, trust=[str(tmp_path / "root.pem")]).c2pa == "trusted"


def grey_tiff(
    samples: np.ndarray, bits: int, white_is_zero: bool, extra: tuple[int, int, int, bytes] | None = None
) -> bytes:
    """A TIFF by hand; `extra`: number, type, count and bytes of one more tag."""
    height, width = samples.shape
    if bits == 12:
        pairs = samples.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        body = packed.tobytes()
    else:
        body = samples.astype("<u2" if bits == 16 else np.uint8).tobytes()
    n = 9 if extra is None else 10
    start = 8 + 2 + 12 * n + 4
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 0 if white_is_zero else 1),
            (273, 4, start), (277, 3, 1), (278, 4, height), (279, 4, len(body))]  # fmt: skip
    fields = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    if extra is not None:
        fields += struct.pack("<HHII", *extra[:3], start + len(body))
        body += extra[3]
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", n) + fields + bytes(4) + body


@pytest.mark.parametrize(("bits", "white_is_zero"), [(8, False), (8, True), (12, False), (16, False), (16, True)])
def test_deep_grey_tiffs_are_what_their_tags_say(bits: int, white_is_zero: bool) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint16), (4, 1))
    stored = (255 - ramp if white_is_zero else ramp) << (bits - 8)
    got = decode(ImageRef("x", grey_tiff(stored, bits, white_is_zero))).pixels
    np.testing.assert_array_equal(got[:, :, 1], ramp)


def gif(screen: int, frame: int) -> bytes:
    """A few bytes that Pillow takes a frame's memory for when it opens them: the frame is to be disposed of."""
    head = b"GIF89a" + struct.pack("<HH", screen, screen) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    control = b"\x21\xf9\x04\x08\0\0\0\0"
    return head + control + b"\x2c" + struct.pack("<HHHH", 0, 0, frame, frame) + b"\0\x02\x02\x44\x01\0;"


@pytest.mark.parametrize(("screen", "frame"), [(60_000, 60_000), (10, 60_000), (60_000, 10)])
@pytest.mark.parametrize("command", [["detect", "--detector", "toydet"], ["scan"]])
def test_a_gif_of_a_few_bytes_takes_no_gigabytes(
    screen: int, frame: int, command: list[str], toy_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "toydet").symlink_to(toy_folder)
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "real" / "x" / "a.gif").write_bytes(gif(screen, frame))
    code = (
        f"{PEAK_MEMORY}\nfrom univfd.__main__ import main; sys.argv = sys.argv[1:]\n"
        "try: main()\nexcept SystemExit: pass\nprint('PEAK', peak_kib() // 1024, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "univfd", *command, "real" if command[0] == "detect" else "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "too-many-pixels" in done.stdout or "megapixels" in done.stdout + done.stderr
    assert int(done.stderr.rpartition("PEAK ")[2]) < 700


def test_a_photograph_with_a_second_picture_is_a_jpeg(toy_detector: Detector) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(1)).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(picture(2))])
    [row] = toy_detector.detect(buffer.getvalue())
    assert isinstance(row, Verdict)
    assert row.format == "JPEG"


EVIL = "a\r\n# head\u2028\\input{x} <img src=x> ![x](http://h/p.png) |"


def test_names_stay_in_their_line_of_a_table() -> None:
    table = Table("t", EVIL, ["note a\nb"], ["a"], [Section((EVIL, EVIL), [[EVIL]])])
    in_latex = latex(table)
    assert "\\input" not in in_latex
    known = ("% ", "\\begin", "\\toprule", "\\midrule", "\\bottomrule", "\\end", "a ", "{}a ")
    assert all(line.startswith(known) or not line for line in in_latex.splitlines())
    in_markdown = markdown(table)
    assert [line[:5].rstrip() for line in in_markdown.splitlines() if line.startswith("#")] == ["# a", "## a"]
    assert "<img" not in in_markdown
    assert "![x]" not in in_markdown


def test_notes_and_records_take_no_markup_of_a_detectors_name() -> None:
    from univfd.benchmark.rendering import marked

    assert marked("<img src=x> [a](b) `c`") == r"&lt;img src=x> \[a\](b) \`c\`"


def test_rounds_hold_out_fakes_without_a_name_alone() -> None:
    """Reals have no generator either, and were all taken for that round."""
    labels = np.repeat([0, 1], 20)
    generator = np.array([""] * 20 + ["a"] * 8 + ["b"] * 8 + [""] * 4)
    source = np.array(["s", "t"] * 10 + ["u"] * 20)
    cohort = Cohort(labels=labels, generator=generator, source=source, group=np.array([""] * 40), judged=None)
    found = {r.generator: r for r in rounds(cohort, folds=2, by_source=False)}
    test = found[""].test
    assert set(test[labels[test] == 1]) == {36, 37, 38, 39}
    assert 0 < (labels[test] == 0).sum() < 20
    assert set(labels[found[""].train]) == {0, 1}


def test_numbers_of_numpy_are_numbers() -> None:
    rng = np.random.default_rng(0)
    vectors, labels = rng.standard_normal((12, 4)).astype(np.float32), np.repeat([0, 1], 6)
    found = NearestNeighbor(k=np.int64(3)).fit(vectors, labels).decision_function(vectors)
    np.testing.assert_array_equal(found, NearestNeighbor(k=3).fit(vectors, labels).decision_function(vectors))
    for k in (np.int64(2), True, 3.0):
        with pytest.raises(ValueError, match="expected an odd number"):
            NearestNeighbor(k=k).fit(vectors, labels)


def test_verdicts_can_be_hashed_and_compared(toy_detector: Detector) -> None:
    rows = [v for v in toy_detector.detect([picture(1, 32, 32), picture(2)]) if isinstance(v, Verdict)]
    assert rows[0].remarks
    assert len({*rows, *rows, pickle.loads(pickle.dumps(rows[0]))}) == 2
    space = FeatureSpace("x", "0" * 64, ("proj",), "resize", "0", 2)
    one, other = (Embeddings(np.zeros((3, 2), np.float32), space) for _ in range(2))
    assert one == one
    assert one != other
    read = read_provenance(make.plain("JPEG", exif=make.exif({0x0131: "Midjourney"})))
    assert isinstance(read, Provenance)
    assert len({read, read}) == 1


def test_counts_of_a_study_begin_at_one() -> None:
    from univfd.experiments import neighbours, spectra

    for count, near in ((6, 0), (6, -1), (0, 2)):
        with pytest.raises(UsageError, match="expected at least 1"):
            neighbours.check(count, near)
    with pytest.raises(UsageError, match="expected at least 1"):
        spectra.run(None, None, 0, most=0)  # type: ignore[arg-type]
