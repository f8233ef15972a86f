"""Wrong verdicts that callers report, filed into a folder (`univfd.misses`).

It is the one place where the service keeps an image, and only where its operator named the folder.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ForbiddenError, OutputExistsError
from ..misses import Status, file_miss
from ..types import Label, Verdict

MOST = 10_000
"""Images that the folder takes; a caller must not fill the disk."""
MOST_BYTES = 10_000_000_000
"""That they may have together."""
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "AVIF": ".avif", "GIF": ".gif"}


def file_wrong(folder: Path, data: bytes, verdict: Verdict, truth: Label, facts: dict[str, str]) -> Status:
    """File an image whose verdict is not its true class.

    Args:
        folder: made where there is none.
        data: the bytes of the file.
        verdict: what was said of it.
        truth: what the caller says it is; nobody has checked that.
        facts: further columns of the manifest.

    Returns:
        `filed`, `known` or `right`, see `univfd.misses.Status`.

    Raises:
        OutputExistsError: it is there under the other class.
        ForbiddenError: the folder is full.
        UnivFDError: the folder cannot be written.
    """
    if verdict.verdict == truth.word:
        return "right"
    ending = _ENDINGS.get(verdict.format, "")
    status = file_miss(
        folder, data, verdict, truth, ending=ending, by="feedback", facts=facts, most=MOST, most_bytes=MOST_BYTES
    )
    if status == "contradicted":
        before = Label(1 - truth).word
        raise OutputExistsError(f"this image was reported as {before} before; one of the two is wrong")
    if status == "full":
        raise ForbiddenError(f"the folder for feedback is full ({MOST:,} images, or {MOST_BYTES / 1e9:g} GB)")
    return status
