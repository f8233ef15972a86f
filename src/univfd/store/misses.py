"""Wrong verdicts, filed into a folder that `univfd bench run` takes: what was once fixed must not come back unseen.

The folder has the images under their sha256, sorted by true class, and `manifest.jsonl` with the truth and what was
said of each at the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..detector import Detector
from ..errors import UsageError
from ..sources import Source, expand, read_bytes
from ..storage import cannot_write, locked, replace_file
from ..types import Failure, ImageRef, Label, Verdict
from .naming import now, whoami

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of one image.

    Attributes:
        image: its name.
        status: `filed`, `known` (it is there already) or `right` (the verdict is not wrong).
        verdict: what the detector says.
    """

    image: str
    status: str
    verdict: Verdict


def file_misses(
    suite: Path,
    detector: Detector,
    images: list[Source],
    truth: Label,
    *,
    facts: Mapping[str, str] | None = None,
    anyway: bool = False,
) -> list[Filed | Failure]:
    """File images whose verdict is not their true class.

    Args:
        suite: the folder; made where there is none.
        detector: what judges.
        images: see `univfd.sources.expand`; each must have bytes (no pixels).
        truth: the true class of all.
        facts: `generator`, `source`, `licence`, `note`: columns of the manifest.
        anyway: file images too that are judged rightly (by this version).

    Raises:
        UsageError: the folder is another thing, or an image is there under the other class.
    """
    suite.mkdir(parents=True, exist_ok=True)
    manifest = suite / MANIFEST
    if not manifest.exists() and any(f.name != f".{MANIFEST}.lock" for f in suite.iterdir()):
        raise UsageError(f"{suite} holds other things and no {MANIFEST}; name a new folder, or one made by 'bank miss'")
    with locked(manifest):
        lines = manifest.read_text("utf-8").splitlines() if manifest.exists() else []
        known = {row["sha256"]: Label.parse(row["label"]) for row in map(json.loads, lines)}
        done: list[Filed | Failure] = []
        for ref in list(expand(images)):
            result = next(iter(detector.detect(ref))) if isinstance(ref, ImageRef) else ref
            if isinstance(result, Failure) or not isinstance(ref, ImageRef):
                done.append(result)  # type: ignore[arg-type]
                continue
            if known.get(result.sha256, truth) is not truth:
                raise UsageError(f"{ref.name} is in {suite} as {known[result.sha256].word}; one of the two is wrong")
            status = "known" if result.sha256 in known else "filed"
            if status == "filed" and result.verdict == truth.word and not anyway:
                status = "right"
            if status == "filed":
                known[result.sha256] = truth
                lines.append(json.dumps(_file(suite, ref, result, truth, facts or {}), ensure_ascii=False))
                scratch = suite / f".{MANIFEST}.writing"
                try:
                    scratch.write_text("\n".join(lines) + "\n", "utf-8")
                    replace_file(scratch, manifest)
                except OSError as error:
                    raise cannot_write(suite, error) from error
            done.append(Filed(ref.name, status, result))
    return done


def _file(suite: Path, ref: ImageRef, verdict: Verdict, truth: Label, facts: Mapping[str, str]) -> dict[str, Any]:
    """Copy the image and give its line of the manifest."""
    data = read_bytes(ref)
    digest = hashlib.sha256(data).hexdigest()
    ending = Path(ref.name).suffix.lower()
    place = suite / truth.word / f"{digest[:16]}{ending if ending[1:].isalnum() else ''}"
    try:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    except OSError as error:
        raise cannot_write(place, error) from error
    told = {k: v for k, v in facts.items() if v}
    return {
        "file": place.relative_to(suite).as_posix(), "label": truth.word, "sha256": digest, **told,
        "name": Path(ref.name).name, "verdict": verdict.verdict, "score": verdict.score, "detector": verdict.detector,
        "filed": now(), "by": whoami(),
    }  # fmt: skip
