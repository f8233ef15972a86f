"""EXIF, XMP and IPTC: the texts in them, and what they say by themselves: source type, credit, camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ._containers import MOST_TEXT, Blocks, Text
from .findings import Claim, Finding

ANYONE = "Anyone, with a free metadata editor, in seconds; it is as easily removed."
_MOST_VALUE = 1 << 20  # characters of one XMP property

# IPTC's controlled vocabulary, http://cv.iptc.org/newscodes/digitalsourcetype/, and C2PA's additions to it.
SOURCE_TYPES: dict[str, tuple[Claim, str]] = {
    "trainedAlgorithmicMedia": ("ai", "made by a generative model"),
    "trainedAlgorithmicData": ("ai", "data made by a generative model"),
    "compositeWithTrainedAlgorithmicMedia": ("ai-part", "edited with a generative model"),
    "compositeSynthetic": ("ai-part", "put together of parts, at least one of them synthetic"),
    "algorithmicMedia": ("", "made by an algorithm without training data"),
    "algorithmicallyEnhanced": ("", "enhanced by an algorithm"),
    "digitalCapture": ("camera", "captured by a digital camera"),
    "computationalCapture": ("camera", "several captures of a camera, put together by it"),
    "negativeFilm": ("camera", "a scan of a film negative"),
    "positiveFilm": ("camera", "a scan of a slide"),
    "print": ("", "a scan of a print"),
    "digitalArt": ("", "drawn by a person with digital tools"),
    "digitalCreation": ("", "made by a person with digital tools"),
    "dataDrivenMedia": ("", "drawn from data"),
    "virtualRecording": ("", "a recording of a virtual event"),
    "screenCapture": ("", "a screen capture"),
    "humanEdits": ("", "edited by a person"),
    "minorHumanEdits": ("", "edited a little by a person"),
    "compositeCapture": ("", "put together of several captures"),
    "composite": ("", "put together of several parts"),
    "softwareImage": ("", "made by software"),
    "empty": ("", "begun as an empty picture"),
}
_STRONGEST: tuple[Claim, ...] = ("ai", "ai-part", "camera", "")
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_PREFIXES = {
    _IPTC_EXT: "Iptc4xmpExt",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://www.tc260.org.cn/ns/AIGC/1.0/": "TC260",
}
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_GOOGLE = re.compile(r"^\W*(made|created|generated|edited) with google ai\b", re.IGNORECASE)
_EXIF_TEXTS = {0x010E: "ImageDescription", 0x010F: "Make", 0x0110: "Model", 0x0131: "Software", 0x013B: "Artist",
               0x9286: "UserComment", 0x9C9B: "XPTitle", 0x9C9C: "XPComment", 0x9C9E: "XPKeywords"}  # fmt: skip
_CAMERA = {0xA434: "lens", 0x829A: "exposure time (s)", 0x829D: "aperture (f/)", 0x8827: "ISO",
           0x920A: "focal length (mm)", 0x9003: "taken"}  # fmt: skip
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16's byte orders
_EXPOSURE = {"exposure time (s)", "aperture (f/)", "ISO"}
_PLAIN = re.compile(r"[\w .,+()/&-]{1,60}")  # what makers and models look like; prompts and JSON do not


def source_type(uri: str) -> tuple[Claim, str] | None:
    """What a digital source type says, of several the first that speaks of AI; None for one not in the vocabulary."""
    names = [re.split(r"[/:]", re.split(r"[?#]", each)[0].strip(" /"))[-1] for each in uri.split("; ")]
    found = [SOURCE_TYPES[name] for name in names if name in SOURCE_TYPES]
    return min(found, key=lambda f: _STRONGEST.index(f[0]), default=None)


def read_xmp(packet: bytes) -> list[Text]:
    """Every property of an XMP packet that has a text, with `prefix:Name` as key.

    Raises:
        ValueError: no well-formed XML, or XML with a DTD or entities, which no XMP has.
    """
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    trimmed = packet[:MOST_TEXT]
    if not trimmed.startswith((b"\xff\xfe", b"\xfe\xff")):  # there a zero is half of a character
        trimmed = trimmed.strip(b"\0 \r\n\t\xef\xbb\xbf")
    try:
        root = ElementTree.fromstring(trimmed, forbid_dtd=True)
    except (LookupError, OSError) as error:  # OSError: its codec would be loaded from a file, see `_worker`
        raise ValueError("an encoding that no XMP has; expected UTF-8") from error
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    texts = []
    for element in root.iter():
        pairs = [(element.tag, _content(element)), *((k, v.strip()) for k, v in element.attrib.items())]
        for name, value in pairs:
            if isinstance(name, str) and value and not name.startswith(_RDF):
                space, _, local = name.removeprefix("{").rpartition("}")
                key = f"{_PREFIXES.get(space, space)}:{local}"[:200]
                texts.append(Text(key, value[:_MOST_VALUE], f"XMP {key}"))
    return texts


def _content(element: Any) -> str:
    """Text of a property: its own, that of its list, or the resource it points at."""
    own = (element.text or "").strip()
    items = [_value(li) for child in element for li in child if li.tag == f"{_RDF}li"]
    inner = [_value(child) for child in element if child.tag == f"{_RDF}value"]
    return own or "; ".join(i for i in (*items, *inner) if i) or element.attrib.get(f"{_RDF}resource", "").strip()


def _value(element: Any) -> str:
    return (element.text or "").strip() or element.attrib.get(f"{_RDF}resource", "").strip()


def read_exif(block: bytes) -> tuple[list[Text], dict[str, str]]:
    """The texts of an EXIF block, and what it says of a camera."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(b"Exif\0\0" + block)
    detail = exif.get_ifd(0x8769)
    values = {**dict(exif), **detail}
    texts = [
        Text(name, text, f"EXIF {name}") for tag, name in _EXIF_TEXTS.items() if (text := exif_text(values.get(tag)))
    ]
    named = {t.key: t.value for t in texts}
    camera = {
        word: named[key]
        for key, word in (("Make", "maker"), ("Model", "model"))
        if _PLAIN.fullmatch(named.get(key, ""))
    }
    if camera:
        camera |= {word: str(values[tag]).strip("\0 ")[:100] for tag, word in _CAMERA.items() if values.get(tag)}
    if camera and exif.get_ifd(0x8825):
        camera["position"] = "GPS data present"
    return texts, camera


def exif_text(value: Any) -> str:
    """EXIF text as a string: UserComment says its encoding in 8 bytes; XP tags are UTF-16, little end first."""
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        value = bytes(value)
    if isinstance(value, str):  # Pillow reads Latin-1, programs write UTF-8
        with suppress(UnicodeError):
            value = value.encode("latin-1").decode("utf-8")
        return str(value).strip("\0 ")
    if not isinstance(value, bytes):
        return ""
    if value[:8] == b"UNICODE\0":
        return _utf16(value[8:])
    if value[:8] in {b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0"}:
        value = value[8:]
    text = value.rstrip(b"\0")  # writers fill the field up
    wide = value.startswith(_MARKS) or max(text[::2].count(0), text[1::2].count(0)) > len(text) // 4
    return _utf16(value) if wide else value.decode("utf-8", "replace").strip("\0 ")


def _utf16(raw: bytes) -> str:
    """The byte order is stated nowhere reliable but in a mark: Latin letters have their zero byte first, or second."""
    if raw.startswith(_MARKS):
        return raw.decode("utf-16", "replace").strip("\0 ")
    order = "utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be"
    return raw.decode(order, "replace").strip("\0 ")


def read_iptc(block: bytes) -> list[Text]:
    """Credit, byline and caption of IPTC records (IIM 2:110, 2:80, 2:120)."""
    names, texts, at = {110: "Credit", 80: "By-line", 120: "Caption"}, [], 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, number = block[at + 1], block[at + 2]
        size = int.from_bytes(block[at + 3 : at + 5], "big")
        if size & 0x8000:  # an extended length; none of these texts is that long
            break
        if record == 2 and number in names:
            value = block[at + 5 : at + 5 + size].decode("utf-8", "replace")
            texts.append(Text(names[number], value, f"IPTC {names[number]}"))
        at += 5 + size
    return texts


def gather(blocks: Blocks) -> tuple[list[Text], list[Finding]]:
    """All texts of a file, and what EXIF says of a camera; damaged blocks are findings of kind `unread`."""
    texts, findings = list(blocks.texts), []
    for what, packets, read in (("XMP", blocks.xmp, read_xmp), ("IPTC", blocks.iptc, read_iptc)):
        for packet in packets:
            try:
                texts += read(packet)
            except ValueError as error:
                findings.append(unread(what, str(error)))
    for block in blocks.exif:
        try:
            more, camera = read_exif(block)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises a dozen unrelated types on damaged EXIF
            findings.append(unread("EXIF", f"{type(error).__name__}: {error}"))
            continue
        texts += more
        if camera:
            findings.append(_camera(camera))
    return texts, findings


def _camera(facts: dict[str, str]) -> Finding:
    name = " ".join(facts[k] for k in ("maker", "model") if k in facts)
    return Finding(
        "camera", "camera" if _EXPOSURE & set(facts) else "", f"camera data: {name}", "EXIF",
        "The file says that this camera took the picture" + (", with these settings." if len(facts) > 2 else "."),
        ANYONE, facts,
    )  # fmt: skip


def declared(texts: list[Text]) -> Iterator[Finding]:
    """Digital source type, AI fields and credit lines of IPTC, in XMP or IPTC records."""
    for text in texts:
        prefix, _, name = text.key.partition(":")
        if prefix == "Iptc4xmpExt" and name in {"DigitalSourceType", "DigitalSourcefileType"}:
            claim, words = source_type(text.value) or ("", "not a value of IPTC's vocabulary")
            yield Finding(
                "iptc", claim, f"digital source type {text.value[:200]}", text.where,
                f"Whoever wrote the file declares the picture as: {words}.", ANYONE,
            )  # fmt: skip
        elif prefix == "Iptc4xmpExt" and name in {"AISystemUsed", "AISystemVersionUsed", "AIPromptInformation"}:
            yield Finding(
                "iptc", "ai", f"{name}: {text.value[:200]}", text.where,
                "IPTC's field for pictures made or edited with a generative model is filled in.", ANYONE,
            )  # fmt: skip
        elif "Credit" in {name, text.key} and text.value.strip():
            google = _GOOGLE.search(text.value)
            claim = "" if google is None else "ai-part" if google[1].lower() == "edited" else "ai"
            meaning = "The credit line that Google's generators write." if google else "Who asks to be credited."
            yield Finding("iptc", claim, f"credit line: {text.value[:200]}", text.where, meaning, ANYONE)


def unread(what: str, why: str) -> Finding:
    """A part of the file that could not be looked at."""
    return Finding(
        "unread", "", f"{what} could not be read: {why[:300]}", what,
        "What is in it, if anything, is unknown; the rest of the file was looked at.",
        "Anyone can damage a file, by accident too.",
    )  # fmt: skip
