"""Results of an earlier run, which `--resume` takes up: journal, JSON Lines, JSON, CSV."""

from __future__ import annotations

from harness import file_of, folder, refused
from univfd.runner import run

_ROW = (
    b'{"status": "ok", "image": "a.png", "verdict": "fake", "score": 1.0, "probability": 0.9, "attribution": "", '
    b'"nearest_fake": [{"distance": 0.1, "generator": "g", "source": "s"}], "nearest_real": [], "reasons": [], '
    b'"reason_codes": [], "notes": [], "note_codes": [], "detector": "d"}\n'
)


def seeds() -> list[bytes]:
    """One of each format."""
    return [
        _ROW + b'{"status": "failed", "image": "b", "error": "empty", "message": "m"}\n',
        b'{"status": "failed", "image": "a.png", "error": "empty"}\n{"status": "void", "image": "a.png"}\n' + _ROW,
        b"[\n" + _ROW.rstrip() + b"\n]\n",
        b"image,status,verdict,score\na.png,ok,fake,1.0\n'=b,failed,,\n",
    ]


def one(data: bytes) -> None:
    """Go on behind it with no further image, in each format."""
    for path in folder().glob("out*"):
        path.unlink()
    for name in ("jsonl", "json", "csv"):
        with refused():
            list(run(lambda _: iter(()), [], file_of(data, f"out.{name}"), name, detector="d", resume=True))
    for retry in (False, True):
        file_of(data, "out2.csv.partial")
        with refused():
            list(run(lambda _: iter(()), [], folder() / "out2.csv", "csv", detector="d", resume=True, retry=retry))
        (folder() / "out2.csv").unlink(missing_ok=True)
