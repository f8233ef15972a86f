"""A folder of images that were judged wrongly, which `univfd bench run` takes as it takes any data set.

The images lie in it under their sha256, sorted by true class, beside `manifest.jsonl` with the truth and what was said
of each at the time. Two processes may file into one folder.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .storage import cannot_write, new_contents
from .types import Label, Verdict
from .writers import json_of

MANIFEST = "manifest.jsonl"
LOCK = f".{MANIFEST}.lock"
Status = Literal["filed", "known", "right", "contradicted", "full"]
"""What became of an image: `known`: it is there already; `right`: the verdict is not wrong, nothing is kept;
`contradicted`: it is there under the other class; `full`: the folder takes no more."""


def file_miss(
    folder: Path,
    data: bytes,
    verdict: Verdict,
    truth: Label,
    *,
    ending: str,
    by: str,
    facts: Mapping[str, str],
    anyway: bool = False,
    most: int | None = None,
    most_bytes: int | None = None,
) -> Status:
    """File an image whose verdict is not its true class.

    Args:
        folder: made where there is none.
        data: the bytes of the image's file.
        verdict: what was said of it; its `sha256` is that of `data`.
        truth: the true class.
        ending: of the file's name, with its dot; may be empty.
        by: who says so.
        facts: further columns of the manifest; empty values are left out.
        anyway: file it though the verdict is right.
        most: images that the folder takes; None: any number.
        most_bytes: that the images in the folder may have together; None: any number.

    Raises:
        UnivFDError: the folder cannot be written.
    """
    import filelock

    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / LOCK):
            text = manifest.read_text("utf-8") if manifest.exists() else ""
            # Not splitlines: a name or note may hold a line break of another kind (U+2028).
            known = {row["sha256"]: row["label"] for row in map(json.loads, filter(None, text.split("\n")))}
            if verdict.sha256 in known:
                return "known" if known[verdict.sha256] == truth.word else "contradicted"
            if verdict.verdict == truth.word and not anyway:
                return "right"
            if most is not None and len(known) >= most:
                return "full"
            if most_bytes is not None and _size(folder) + len(data) > most_bytes:
                return "full"
            place = folder / truth.word / f"{verdict.sha256[:16]}{ending}"
            place.parent.mkdir(exist_ok=True)
            row = _row(place.relative_to(folder), verdict, truth, by, facts)
            with new_contents(place) as scratch:
                scratch.write_bytes(data)
            with new_contents(manifest) as scratch:
                scratch.write_text(text + json_of(row) + "\n", "utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return "filed"


def _size(folder: Path) -> int:
    """Bytes of the images in the folder."""
    return sum(file.stat().st_size for label in Label for file in (folder / label.word).glob("*"))


def _row(place: Path, verdict: Verdict, truth: Label, by: str, facts: Mapping[str, str]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {k: v for k, v in facts.items() if v}
    return {
        "file": place.as_posix(), "label": truth.word, "sha256": verdict.sha256, **told,
        "name": Path(verdict.image).name, "verdict": verdict.verdict, "score": verdict.score,
        "detector": verdict.detector, "filed": now, "by": by,
    }  # fmt: skip
