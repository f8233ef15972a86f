"""One file -> its findings. Runs in the worker process alone: what it reads may be hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ..errors import TooManyPixelsError, UnivFDError
from ..images import decode
from ..sources import sniff
from ..types import ImageRef
from . import _credentials, _generators, _metadata, _watermark
from ._containers import Blocks, split
from .findings import NOT_CHECKED, Finding, Kind, unreadable_file

MOST_PIXELS = 25_000_000  # of a picture that a watermark is looked for in; generators make far smaller ones

MOST_FINDINGS = 100


def inspect(data: bytes, trust: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """All findings about a file, as plain JSON values: `c2pa`, `findings`, `not_checked`.

    Args:
        data: the whole file.
        trust: see `_credentials.check`.
    """
    format = sniff(data[:16])
    if not format:
        return answer("not-read", [unreadable_file("not an image in a format that is read here")], [])
    findings: list[Finding] = []
    blocks = _blocks(data, format, findings)
    outcome, about_c2pa = _credentials.check(data, format, trust, blocks.has_c2pa)
    texts, about_exif = _metadata.gather(blocks)
    findings += [*about_c2pa, *about_exif, *_metadata.declared(texts), *_generators.recognise(texts)]
    findings += [_metadata.unread("part of the file", note) for note in blocks.notes]
    skipped = _look_for_watermark(data, findings)
    order = get_args(Kind)
    return answer(outcome, sorted(findings, key=lambda f: order.index(f.kind)), skipped)


def answer(outcome: str, findings: Sequence[Finding], skipped: Sequence[str]) -> dict[str, Any]:
    """What goes back to the parent process: no more findings than a person would read, and text that can be encoded."""
    said = [f.to_dict() for f in findings[:MOST_FINDINGS]]
    if len(findings) > MOST_FINDINGS:
        said.append(_metadata.unread("part of the file", f"more than {MOST_FINDINGS} findings").to_dict())
    whole: dict[str, Any] = _encodable({"c2pa": outcome, "findings": said, "not_checked": [*NOT_CHECKED, *skipped]})
    return whole


def _encodable(value: Any) -> Any:
    """Lone surrogates, which JSON of a file can bring in and no output can take, become question marks."""
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _blocks(data: bytes, format: str, findings: list[Finding]) -> Blocks:
    try:
        return split(data, format)
    except UnivFDError as error:
        findings.append(_metadata.unread("the file's header", str(error)))
        return Blocks()


def _look_for_watermark(data: bytes, findings: list[Finding]) -> list[str]:
    try:
        reading = _watermark.read_watermark(decode(ImageRef("", data), max_pixels=MOST_PIXELS).pixels)
    except TooManyPixelsError:
        return [f"invisible watermarks: the picture has more than {MOST_PIXELS // 10**6} megapixels"]
    except UnivFDError as error:
        return [f"invisible watermarks: the picture cannot be decoded ({error})"[:300]]
    if reading is not None:
        findings.append(_watermark.finding(reading))
    return []
