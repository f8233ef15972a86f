"""A folder of images that were judged wrongly, which `univfd bench run` takes as it takes any data set.

The images lie in it under their sha256, sorted by true class, beside `manifest.jsonl` with the truth and what was said
of each at the time. Two processes may file into one folder.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .errors import FormatError
from .storage import cannot_write, new_contents, parsed
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
        FormatError: its manifest cannot be read.
    """
    import filelock

    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / LOCK):
            before = manifest.read_bytes() if manifest.exists() else b""
            known = _known(manifest, before)
            if verdict.sha256 in known:
                return "known" if known[verdict.sha256] == truth.word else "contradicted"
            if verdict.verdict == truth.word and not anyway:
                return "right"
            if most is not None and len(known) >= most:
                return "full"
            if most_bytes is not None and _size(folder) + len(data) > most_bytes:
                return "full"
            if not manifest.exists():  # what a full disk stops behind this is a folder of ours all the same
                with new_contents(manifest) as scratch:
                    scratch.write_bytes(b"")
            place = folder / truth.word / f"{verdict.sha256[:16]}{ending}"
            place.parent.mkdir(exist_ok=True)
            row = json_of(_row(place.relative_to(folder), verdict, truth, by, facts)).encode("utf-8", "replace")
            with new_contents(place) as scratch:
                scratch.write_bytes(data)
            with new_contents(manifest) as scratch:
                scratch.write_bytes(before + (b"" if before.endswith(b"\n") or not before else b"\n") + row + b"\n")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return "filed"


def _known(manifest: Path, lines: bytes) -> dict[str, str]:
    """True class by sha256, of the rows that have one.

    Raises:
        FormatError: a line that is no row.
    """
    known = {}
    for number, line in enumerate(lines.split(b"\n"), start=1):  # a name may hold a line break of another kind
        if not line.strip():
            continue
        try:
            row = parsed(line)
            if isinstance(key := row.get("sha256"), str):
                known[key] = str(row["label"])
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise FormatError(
                f"{manifest}, line {number} is no row of a data set ({error}); mend or move it"
            ) from error
    return known


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
