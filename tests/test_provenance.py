"""What files say of their origin: each kind of statement is found where it is, and nothing where nothing is."""

from __future__ import annotations

import csv
import datetime
import errno
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from math import comb
from pathlib import Path

import c2pa
import numpy as np
import pytest
from PIL import Image

import provenance_files as make
from conftest import picture
from univfd.detector import Detector
from univfd.errors import (
    EmptyFileError,
    FileAccessError,
    FormatError,
    NoProvenanceError,
    UnivFDError,
    UnsupportedImageError,
)
from univfd.provenance import Finding, Provenance, ProvenanceReader, read_provenance
from univfd.provenance import _watermark as watermark
from univfd.types import ImageRef

FORMATS = ("JPEG", "PNG", "WEBP")


@pytest.fixture(scope="module")
def signers() -> make.Signers:
    return make.make_signers()


def only(read: Provenance, kind: str) -> Finding:
    [finding] = [f for f in read.findings if f.kind == kind]
    return finding


@pytest.mark.parametrize("format", FORMATS)
def test_content_credentials_have_each_outcome(format: str, signers: make.Signers, tmp_path: Path) -> None:
    anchor = tmp_path / "root.pem"
    anchor.write_text(signers.root)
    data = make.plain(format)
    signed = signers.sign(data, format)
    tampered = bytearray(signed)
    tampered[-40] ^= 1
    broken = signed.replace(b"c2pa.assertions", b"c2pa.assertionz").replace(b"c2cl", b"c2cx")
    assert read_provenance(data).c2pa == "none"
    assert read_provenance(data).findings == ()
    assert read_provenance(signed).c2pa == "valid-unknown-signer"
    assert read_provenance(signed, trust=[anchor]).c2pa == "trusted"
    assert read_provenance(bytes(tampered)).c2pa == "invalid"
    assert read_provenance(bytes(tampered), trust=[anchor]).c2pa == "invalid"
    assert read_provenance(broken).c2pa == "unreadable"
    remote = signers.sign(data, format, remote="http://127.0.0.1:9/manifest.c2pa")
    found = only(read_provenance(remote), "c2pa")
    assert (read_provenance(remote).c2pa, found.claim) == ("remote-only", "")
    assert "http://127.0.0.1:9/manifest.c2pa" in found.found


def test_stripping_leaves_nothing(signers: make.Signers) -> None:
    signed = Image.open(io.BytesIO(signers.sign(make.plain("PNG"), "PNG")))
    buffer = io.BytesIO()
    signed.save(buffer, "PNG")
    read = read_provenance(buffer.getvalue())
    assert (read.c2pa, read.findings, read.claims) == ("none", (), ())
    assert "absence proves nothing" in read.to_dict()["absent"]


@pytest.mark.parametrize(
    ("source_type", "claim"),
    [
        (make.AI, "ai"),
        (make.TYPES + "compositeWithTrainedAlgorithmicMedia", "ai-part"),
        (make.TYPES + "digitalCapture", "camera"),
        (make.TYPES + "digitalArt", ""),
        ("", ""),
    ],
)
def test_declarations_are_read_in_every_outcome(
    source_type: str, claim: str, signers: make.Signers, tmp_path: Path
) -> None:
    anchor = tmp_path / "root.pem"
    anchor.write_text(signers.root)
    signed = signers.sign(make.plain("JPEG"), "JPEG", source_type)
    tampered = signed[:-40] + bytes([signed[-40] ^ 1]) + signed[-39:]
    for data, trust in ((signed, []), (signed, [anchor]), (tampered, [])):
        found = only(read_provenance(data, trust=trust), "c2pa")
        assert found.claim == claim
        assert found.details["signer"] == "Test Press / Test signer"


def test_a_declaration_is_found_in_what_a_picture_was_made_from(signers: make.Signers) -> None:
    generated = signers.sign(make.plain("JPEG"), "JPEG")
    edited = signers.sign(make.plain("JPEG"), "JPEG", "", parent=generated)
    assert only(read_provenance(edited), "c2pa").claim == "ai"
    placed = signers.sign(
        make.plain("JPEG"), "JPEG", make.TYPES + "digitalCapture", parent=generated, extra="componentOf"
    )
    assert only(read_provenance(placed), "c2pa").claim == "ai-part"


def test_a_signer_whose_certificate_ran_out_is_not_trusted(tmp_path: Path) -> None:
    soon = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=3)
    short = make.make_signers(soon)
    anchor = tmp_path / "root.pem"
    anchor.write_text(short.root)
    signed = short.sign(make.plain("JPEG"), "JPEG")
    assert read_provenance(signed, trust=[anchor]).c2pa == "trusted"
    time.sleep(max(0.0, (soon - datetime.datetime.now(datetime.UTC)).total_seconds() + 1.1))
    read = read_provenance(signed, trust=[anchor])
    assert read.c2pa == "invalid"
    assert "expired" in only(read, "c2pa").details["problems"]


def test_the_shipped_trust_lists_are_the_documented_ones(signers: make.Signers) -> None:
    folder = resources.files("univfd.provenance") / "trust"
    readme = (folder / "README.md").read_text("utf-8")
    import univfd.provenance as package

    assert package.TRUST_LIST_DATE in readme
    for name in ("C2PA-TRUST-LIST.pem", "C2PA-TSA-TRUST-LIST.pem"):
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() in readme
        assert data.count(b"-----BEGIN CERTIFICATE-----") >= 20


class _Counting(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Counting,), {"asked": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", handler.asked
    httpd.shutdown()
    httpd.server_close()


def test_no_url_in_a_picture_is_called(server: tuple[str, list[str]], signers: make.Signers) -> None:
    address, asked = server
    remote = signers.sign(make.plain("JPEG"), "JPEG", remote=f"{address}/manifest.c2pa")
    before = len(asked)
    assert read_provenance(remote).c2pa == "remote-only"
    assert len(asked) == before
    with pytest.raises(c2pa.C2paError):  # the same library with its defaults does call it: the trap is a live one
        c2pa.Reader("image/jpeg", io.BytesIO(remote))
    assert len(asked) > before


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("generator", make.GENERATORS)
def test_each_generators_text_is_found_in_each_format(generator: str, format: str) -> None:
    key, text, word, (detail, value) = make.GENERATORS[generator]
    read = read_provenance(make.with_text(format, key, text))
    found = only(read, "aigc-label" if generator == "AIGC label" else "generator")
    assert word in found.found
    assert found.claim == "ai"
    assert found.details[detail] == value
    assert (key if format == "PNG" else "UserComment") in found.where
    assert read.c2pa == "none"


def test_texts_are_found_where_else_programs_put_them() -> None:
    a1111 = make.GENERATORS["A1111"][1]
    comfy = make.GENERATORS["ComfyUI prompt"][1]
    label = make.GENERATORS["AIGC label"][1].replace('"', "&quot;")
    files = {
        "JPEG comment": make.plain("JPEG", comment=a1111.encode()),
        "EXIF Model": make.plain("WEBP", exif=make.exif({0x0110: "prompt:" + comfy})),
        "XMP TC260:AIGC": make.with_xmp("JPEG", make.xmp(f"<TC260:AIGC>{label}</TC260:AIGC>")),
        "XMP xmp:CreatorTool": make.with_xmp("PNG", make.xmp(' xmp:CreatorTool="Midjourney"')),
        "XMP dc:description": make.with_xmp(
            "WEBP",
            make.xmp(f"<dc:description><rdf:Alt><rdf:li>{make._JOB}</rdf:li></rdf:Alt></dc:description>"),
        ),
        "EXIF Software": make.plain("JPEG", exif=make.exif({0x0131: "NovelAI"})),
        "GIF comment": make.plain("GIF", comment=a1111.encode()),
        "EXIF ImageDescription": make.plain("AVIF", exif=make.exif({0x010E: make._JOB})),
    }
    for where, data in files.items():
        found = [f for f in read_provenance(data).findings if f.kind in {"generator", "aigc-label"}]
        assert [f.where for f in found][:1] == [where], where
        assert all(f.claim == "ai" for f in found)


def test_the_label_says_how_sure_it_is() -> None:
    for number, claim in (("1", "ai"), ("2", ""), ("3", "")):
        text = json.dumps({"Label": number, "ContentProducer": "x"})
        assert only(read_provenance(make.with_text("PNG", "AIGC", text)), "aigc-label").claim == claim


def test_ordinary_texts_are_no_generators() -> None:
    texts = {
        "Description": "Steps: to the beach. Sampler of midjourney-like paintings",
        "Comment": json.dumps({"steps": 3, "sampler": "yes"}),
        "prompt": json.dumps({"a": {"b": 1}}),
        "workflow": "send it to the printer",
        "Software": "Adobe Photoshop 25.0",
        "parameters": "f/8, 1/60 s",
        "Author": "Fox",
        "label": json.dumps({"Label": "1"}),
    }
    info = make.PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    assert read_provenance(make.plain("PNG", pnginfo=info)).findings == ()


@pytest.mark.parametrize("format", FORMATS)
def test_iptc_fields_in_xmp(format: str) -> None:
    packet = make.xmp(
        f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{make.AI}"/>'
        "<photoshop:Credit>Made with Google AI</photoshop:Credit>"
        "<Iptc4xmpExt:AISystemUsed>Dreamer 3</Iptc4xmpExt:AISystemUsed>"
    )
    found = [f for f in read_provenance(make.with_xmp(format, packet)).findings if f.kind == "iptc"]
    assert [f.claim for f in found] == ["ai", "ai", "ai"]
    assert {f.where for f in found} == {
        "XMP Iptc4xmpExt:DigitalSourceType", "XMP photoshop:Credit", "XMP Iptc4xmpExt:AISystemUsed",
    }  # fmt: skip
    camera = make.xmp(f' Iptc4xmpExt:DigitalSourceType="{make.TYPES}digitalCapture" photoshop:Credit="Reuters"')
    found = [f for f in read_provenance(make.with_xmp(format, camera)).findings if f.kind == "iptc"]
    assert [f.claim for f in found] == ["camera", ""]


def test_the_credit_of_iptc_records() -> None:
    record = b"\x1c\x02\x6e\x00\x15Edited with Google AI"
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(record).to_bytes(4, "big") + record + b"\0" * (len(record) % 2)
    data = make.plain("JPEG")
    data = data[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    found = only(read_provenance(data), "iptc")
    assert (found.claim, found.where) == ("ai-part", "IPTC Credit")


@pytest.mark.parametrize("format", FORMATS)
def test_camera_facts(format: str) -> None:
    tags = {0x010F: "Canon", 0x0110: "EOS R5", 0x829A: 1 / 64, 0x8827: 200, 0x9003: "2024:01:02 03:04:05"}
    found = only(read_provenance(make.plain(format, exif=make.exif(tags))), "camera")
    assert (found.found, found.claim) == ("camera data: Canon EOS R5", "camera")
    assert found.details["ISO"] == "200"
    bare = read_provenance(make.plain(format, exif=make.exif({0x010F: "Canon", 0x0110: "EOS R5"})))
    assert only(bare, "camera").claim == ""


def test_every_finding_says_what_it_means_and_who_can_forge_it(signers: make.Signers) -> None:
    data = signers.sign(make.with_text("PNG", *make.GENERATORS["A1111"][:2]), "PNG")
    read = read_provenance(data)
    assert [f.kind for f in read.findings] == ["c2pa", "generator"]
    for finding in read.findings:
        assert finding.meaning
        assert finding.forgery
        assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding
    assert any("SynthID" in reason for reason in read.not_checked)
    with pytest.raises(FormatError):
        Finding.from_dict({"kind": "c2pa"})


@pytest.mark.parametrize("name", ["sdxl", "sd1"])
def test_watermarks_that_the_original_package_wrote(name: str) -> None:
    read = read_provenance(Path(__file__).parent / "golden" / f"watermark_{name}.webp")
    assert {"sdxl": "Stable Diffusion XL: 48 of 48", "sd1": "Stable Diffusion 1: 133 of 136"}[name] in only(
        read, "watermark"
    ).found


@pytest.mark.parametrize("generator", watermark.MESSAGES)
@pytest.mark.parametrize(("floating", "swapped"), [(False, False), (True, False), (True, True), (False, True)])
def test_watermarks_of_an_encoder_of_our_own(generator: str, floating: bool, swapped: bool) -> None:
    rgb = picture(5, 322, 290)
    message = {
        "Stable Diffusion 1": "".join(f"{c:08b}" for c in b"StableDiffusionV1"),
        "Stable Diffusion 2": "".join(f"{c:08b}" for c in b"SDV2"),
        "Stable Diffusion XL": f"{0xB3EC907BB19E:b}",
        "FLUX": f"{0b001010101111111010000111100111001111010100101110:b}",
    }[generator]
    found = watermark.read_watermark(make.watermarked(rgb, message, floating=floating, swapped=swapped))
    assert found is not None
    assert found.generator == generator
    assert found.agree >= 0.95 * found.of
    assert watermark.read_watermark(rgb) is None


def test_a_message_of_anyone_else_is_no_watermark_of_these() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        message = "".join(map(str, rng.integers(0, 2, 48)))
        assert watermark.read_watermark(make.watermarked(picture(1), message, floating=True, swapped=False)) is None


def test_the_stated_rate_of_false_alarms() -> None:
    for message in watermark.MESSAGES.values():
        differ, of = watermark.most_differing(len(message)), len(message)
        assert sum(comb(of, i) for i in range(differ + 1)) / 2**of < 1e-8
        assert sum(comb(of, i) for i in range(differ + 2)) / 2**of >= 1e-8
    flat = np.full((300, 300, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    stripes = np.tile(np.repeat(np.array([30, 220], np.uint8), 8), 25)[None, :, None] + np.zeros((400, 1, 3), np.uint8)
    for pixels in (flat, noise, stripes, flat[:100]):
        assert watermark.read_watermark(pixels) is None


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError):
        read_provenance(tmp_path / "missing.jpg")
    with pytest.raises(EmptyFileError):
        read_provenance(b"")
    with ProvenanceReader() as reader, pytest.raises(UnsupportedImageError):
        reader.read(ImageRef("<pixels>", picture(0)))
    with pytest.raises(FileAccessError, match="trust list"):
        ProvenanceReader(trust=[tmp_path / "missing.pem"])
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(FormatError, match="no certificate"):
        ProvenanceReader(trust=[tmp_path / "empty.pem"])


def run(*arguments: str | Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "univfd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, signers: make.Signers) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a-signed.jpg").write_bytes(signers.sign(make.plain("JPEG"), "JPEG"))
    (images / "b-text.png").write_bytes(make.with_text("PNG", *make.GENERATORS["SwarmUI"][:2]))
    (images / "c-plain.webp").write_bytes(make.plain("WEBP"))
    (tmp_path / "root.pem").write_text(signers.root)
    return images


def test_the_command(folder: Path) -> None:
    text = run("provenance", folder, "--trust", folder.parent / "root.pem")
    assert "intact Content Credentials by a trusted signer; the file says: made by AI" in text
    assert "who can forge it: Who holds the signer's key" in text
    assert "text of SwarmUI [PNG text chunk 'parameters']" in text
    assert "no Content Credentials; no claim about its origin found" in text
    (folder / "d-no-image.jpg").write_bytes(b"nothing")
    rows = [json.loads(line) for line in run("provenance", folder, folder / "gone.jpg", "--jsonl", code=3).splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "failed"]
    assert [row.get("c2pa") for row in rows] == ["valid-unknown-signer", "none", "none", "not-read", None]


def test_detect_puts_it_beside_the_verdict(folder: Path, toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "toy")
    (folder / "d-broken.jpg").write_bytes((folder / "a-signed.jpg").read_bytes()[:-300])
    detect = ("detect", folder, "--detector", tmp_path / "toy")
    plain = [json.loads(line) for line in run(*detect, "--jsonl", code=3).splitlines()]
    beside = [json.loads(line) for line in run(*detect, "--jsonl", "--provenance", code=3).splitlines()]
    assert [row["status"] for row in plain] == ["ok", "ok", "ok", "failed"]
    outcomes = []
    for without, with_it in zip(plain, beside, strict=True):
        assert "provenance" not in without
        read = with_it.pop("provenance")
        outcomes.append(read["c2pa"])
        assert read["image"] == with_it["image"]
        assert {**without, "timings": 0} == {**with_it, "timings": 0}  # score, verdict and all else untouched
    assert outcomes == ["valid-unknown-signer", "none", "none", "invalid"]
    run(*detect, "--provenance", "-o", tmp_path / "rows.csv", code=3)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["provenance_claims"] for row in rows] == ["ai", "ai", "", "ai"]
    assert rows[1]["provenance_findings"] == "text of SwarmUI"
    (folder / "e-late.png").write_bytes(make.plain())
    run(*detect, "--provenance", "-o", tmp_path / "rows.csv", "--resume", code=3)
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.DictReader(file))[:4] == rows
    assert "provenance (not in the verdict): intact" in run(*detect, "--provenance", "--explain", code=3)
    run(*detect, "--trust", folder.parent / "root.pem", code=2)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoProvenanceError, match=r"pip install 'univfd\[provenance\]'"):
        read_provenance(make.plain())


def test_a_process_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with ProvenanceReader() as reader:
        monkeypatch.setattr("univfd.provenance._process.subprocess.Popen", refused)
        with pytest.raises(UnivFDError, match=r"does not start.*Too many open files"):
            reader.read(ImageRef("a.png", make.plain()))
