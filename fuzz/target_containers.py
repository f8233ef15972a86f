"""What a picture says of its origin: the walks over JPEG, PNG and WebP files, and all that reads what they find."""

from __future__ import annotations

import json
import zlib

from harness import pictures, refused
from univfd.provenance import _generators, _metadata
from univfd.provenance._containers import Blocks, split
from univfd.provenance._inspect import answer
from univfd.provenance.findings import Finding
from univfd.sources import sniff

_XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:i='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' i:DigitalSourceType='x/digitalCapture'/>"
    b"</rdf:RDF></x:xmpmeta>"
)


def seeds() -> list[bytes]:
    """A picture of each format, some with texts, XMP and IPTC."""
    jpeg, png, webp = (pictures()[name] for name in ("JPEG", "PNG", "WEBP"))
    app1 = b"http://ns.adobe.com/xap/1.0/\0" + _XMP
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0d\x1c\x02\x6e\0\x08A credit\0"
    texts = _chunk(b"tEXt", b"parameters\0a fox\nSteps: 20, Sampler: Euler a, Seed: 1, Model: m")
    texts += _chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b'{"1": {"class_type": "K", "inputs": {"text": "x"}}}'))
    texts += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP)
    texts += _chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\n45786966")
    return [
        *pictures().values(),
        jpeg[:2] + _segment(0xE1, app1) + _segment(0xED, iptc) + _segment(0xFE, b"comment") + jpeg[2:],
        png[:33] + texts + png[33:],
        webp + b"XMP " + len(_XMP).to_bytes(4, "little") + _XMP,
    ]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def one(data: bytes) -> None:
    """As the worker reads it, without the library for C2PA."""
    for format in {sniff(data[:16]), "JPEG", "PNG", "WEBP"} - {""}:
        blocks = Blocks()
        with refused():
            blocks = split(data, format)
        findings_of(blocks)


def findings_of(blocks: Blocks) -> None:
    """All findings, on their way out of the worker and into the parent."""
    texts, findings = _metadata.gather(blocks)
    findings += [*_metadata.declared(texts), *_generators.recognise(texts)]
    said = json.loads(json.dumps(answer("none", findings, [])).encode("utf-8"))
    for each in said["findings"]:
        Finding.from_dict(each)
