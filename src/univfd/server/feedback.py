"""Wrong verdicts that callers report, filed into a folder that `univfd bench run` takes.

The folder has the images under their sha256, sorted by true class, and `manifest.jsonl` with the truth and what was
said of each. It is the one place where the service keeps an image, and only where its operator named the folder.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import filelock

from ..errors import ForbiddenError, OutputExistsError
from ..storage import cannot_write, replace_file
from ..types import Label, Verdict

MANIFEST = "manifest.jsonl"
MOST = 10_000
"""Images that the folder takes; a caller must not fill the disk."""
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "GIF": ".gif"}


def file_wrong(folder: Path, data: bytes, verdict: Verdict, truth: Label, facts: dict[str, str]) -> str:
    """File an image whose verdict is not its true class.

    Args:
        folder: made where there is none.
        data: the bytes of the file.
        verdict: what was said of it.
        truth: what the caller says it is; nobody has checked that.
        facts: further columns of the manifest.

    Returns:
        `filed`, `known` (it is there already) or `right` (the verdict is not wrong; nothing is kept).

    Raises:
        OutputExistsError: it is there under the other class.
        ForbiddenError: the folder is full.
        UnivFDError: the folder cannot be written.
    """
    if verdict.verdict == truth.word:
        return "right"
    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f".{MANIFEST}.lock"):
            text = manifest.read_text("utf-8") if manifest.exists() else ""
            known = {row["sha256"]: row["label"] for row in map(json.loads, text.splitlines())}
            if (before := known.get(verdict.sha256)) is not None:
                if before != truth.word:
                    raise OutputExistsError(f"this image was reported as {before} before; one of the two is wrong")
                return "known"
            if len(known) >= MOST:
                raise ForbiddenError(f"the folder for feedback is full ({MOST} images)")
            place = folder / truth.word / f"{verdict.sha256[:16]}{_ENDINGS.get(verdict.format, '')}"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
            row = _row(place.relative_to(folder), verdict, truth, facts)
            scratch = folder / f".{MANIFEST}.writing"
            scratch.write_text(text + json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
            replace_file(scratch, manifest)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return "filed"


def _row(place: Path, verdict: Verdict, truth: Label, facts: dict[str, str]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "file": place.as_posix(), "label": truth.word, "sha256": verdict.sha256, **facts,
        "name": verdict.image, "verdict": verdict.verdict, "score": verdict.score, "detector": verdict.detector,
        "filed": now, "by": "feedback",
    }  # fmt: skip
