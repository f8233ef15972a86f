"""Wrong verdicts, filed into a folder (`univfd.misses`): what was once fixed must not come back unseen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..detector import Detector
from ..errors import UsageError
from ..misses import LOCK, MANIFEST, Status, file_miss
from ..sources import Source, expand, read_bytes
from ..types import Failure, ImageRef, Label, Verdict
from .naming import whoami


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of one image.

    Attributes:
        image: its name.
        status: `filed`, `known` (it is there already) or `right` (the verdict is not wrong).
        verdict: what the detector says.
    """

    image: str
    status: Status
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
    if not (suite / MANIFEST).exists() and any(f.name != LOCK for f in suite.iterdir()):
        raise UsageError(f"{suite} holds other things and no {MANIFEST}; name a new folder, or one made by 'bank miss'")
    done: list[Filed | Failure] = []
    for ref in list(expand(images)):
        result = next(iter(detector.detect(ref))) if isinstance(ref, ImageRef) else ref
        if isinstance(result, Failure) or not isinstance(ref, ImageRef):
            done.append(result)  # type: ignore[arg-type]
            continue
        ending = Path(ref.name).suffix.lower()
        status = file_miss(
            suite, read_bytes(ref), result, truth,
            ending=ending if ending[1:].isalnum() else "", by=whoami(), facts=facts or {}, anyway=anyway,
        )  # fmt: skip
        if status == "contradicted":
            other = Label(1 - truth).word
            raise UsageError(f"{ref.name} is in {suite} as {other}; one of the two is wrong")
        done.append(Filed(ref.name, status, result))
    return done
