"""Answers of a service that is none, or means ill: what `--server` makes of them, and every output of its rows."""

from __future__ import annotations

import io
from typing import Any

from harness import as_json, parts, refused
from univfd.remote import RemoteDetector
from univfd.types import ImageRef
from univfd.writers.csv import CsvWriter
from univfd.writers.jsonl import JsonlWriter
from univfd.writers.text import TextWriter


def seeds() -> list[bytes]:
    """A row, a refusal, and what is said of detectors."""
    near = {"label": "fake", "distance": 0.1, "generator": "g", "source": "s", "key": "0", "row": 1}
    row: dict[str, Any] = {
        "status": "ok", "image": "a", "verdict": "fake", "score": 1.0, "probability": 0.9, "attribution": "g",
        "nearest_fake": [near], "nearest_real": [], "sha256": "0", "width": 1, "height": 1, "format": "PNG",
        "view": "native", "detector": "d", "space": "s", "reasons": ["r"], "reason_codes": [{"code": "c"}],
        "notes": ["n"], "note_codes": [{"code": "c"}], "timings": {"load": 0, "embed": 0, "decide": 0},
    }  # fmt: skip
    found = {"found": "f", "where": "w", "meaning": "m", "forgery": "x", "kind": "iptc", "claim": "", "details": {}}
    origin = {"c2pa": "none", "claims": [], "headline": "h", "findings": [found]}
    return [
        b"200\n====\n" + as_json(row),
        b"200\n====\n" + as_json(row | {"provenance": origin, "heatmap": {"base64": "AAAA"}}),
        b"415\n====\n" + as_json({"error": {"code": "not-an-image", "message": "m", "what_to_do": "w"}}),
        b"200\n====\n" + as_json({"detectors": [{"identity": "d", "bank_rows": 3, "promise": {"fake_above": 0.5}}]}),
    ]


class _Response:
    def __init__(self, status: int, body: bytes) -> None:
        self.status, self._body, self.will_close = status, body, True
        self.headers = {"Retry-After": "0"}

    def read(self, most: int) -> bytes:
        return self._body[:most]


class _Connection:
    def __init__(self, response: _Response) -> None:
        self._response = response

    def request(self, *_: object) -> None: ...

    def getresponse(self) -> _Response:
        return self._response

    def close(self) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    @property
    def sock(self) -> _Connection:
        return self


def one(data: bytes) -> None:
    """Let the client take it for an answer."""
    status, body = parts(data, 2)
    remote = RemoteDetector("http://127.0.0.1:9")
    code = (
        int(status) if status.isdigit() and len(status) == 3 and status not in {b"429", b"502", b"503", b"504"} else 200
    )
    remote._connection = lambda call: _Connection(_Response(code, body))  # type: ignore[assignment,method-assign,return-value]
    with refused():
        remote.about()
    with refused():
        for answer in remote.detect([ImageRef("x", b"x")], provenance=True, requests=1):
            row = answer.to_dict()
            for made in (TextWriter(io.BytesIO(), explain=True), CsvWriter(io.BytesIO()), JsonlWriter(io.BytesIO())):
                made.write(row)
