"""What a file says of its own origin, as values: `Finding` and `Provenance`. Nothing here reads a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import FormatError

Claim = Literal["ai", "ai-part", "camera", ""]
"""What a finding says of the picture: made by a generator; parts of it are; taken by a camera; neither."""
Kind = Literal["c2pa", "iptc", "camera", "generator", "aigc-label", "watermark", "unread"]
C2paOutcome = Literal["none", "remote-only", "unreadable", "invalid", "valid-unknown-signer", "trusted", "not-read"]

C2PA_WORDS: Mapping[str, str] = {
    "none": "no Content Credentials",
    "remote-only": "Content Credentials are only at a URL, which was not called",
    "unreadable": "Content Credentials that cannot be read",
    "invalid": "Content Credentials that do NOT fit this file",
    "valid-unknown-signer": "intact Content Credentials by a signer on no trust list",
    "trusted": "intact Content Credentials by a trusted signer",
    "not-read": "Content Credentials could not be looked for",
}
CLAIM_WORDS: Mapping[str, str] = {"ai": "made by AI", "ai-part": "partly made by AI", "camera": "taken by a camera"}
ABSENT = "What was not found is unknown: most programs and web sites remove such data, so absence proves nothing."
NOT_CHECKED = (
    "SynthID and other makers' secret watermarks: only their makers can read them",
    "remote Content Credentials, C2PA identity assertions and revoked certificates: they need the network, "
    "which is never used here",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a file says of its origin.

    Attributes:
        kind: where such a thing comes from; `unread` is what could not be looked at.
        claim: what it says of the picture; empty where it says neither.
        found: what was found, in a line.
        where: the place in the file.
        meaning: what it means.
        forgery: who can forge it.
        details: further facts as short texts (`model`, `prompt`, `signer` ...), as the file has them.
    """

    kind: Kind
    claim: Claim
    found: str
    where: str
    meaning: str
    forgery: str
    details: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"details": dict(self.details)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """Inverse of `to_dict`.

        Raises:
            FormatError: this is no finding.
        """
        try:
            finding = cls(**data)
            texts = [finding.found, finding.where, finding.meaning, finding.forgery]
            known = finding.kind in get_args(Kind) and finding.claim in get_args(Claim)
            if known and all(isinstance(t, str) for t in (*texts, *finding.details, *finding.details.values())):
                return finding
        except (TypeError, AttributeError) as error:
            raise FormatError(f"{data!r} is no finding: {error}") from error
        raise FormatError(f"{data!r} is no finding")


@dataclass(frozen=True, slots=True)
class Provenance:
    """All that one file says of its origin. It never enters a score.

    Attributes:
        image: the input's name.
        c2pa: outcome of the check of Content Credentials.
        findings: in the order of `Kind`.
        not_checked: what could not be looked for in this file, with the reason.
        seconds: wall time.
    """

    image: str
    c2pa: C2paOutcome
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]
    seconds: float

    @property
    def claims(self) -> tuple[str, ...]:
        """What the findings say of the picture, each once: `ai`, `ai-part`, `camera`."""
        said = {f.claim for f in self.findings}
        return tuple(claim for claim in CLAIM_WORDS if claim in said)

    @property
    def headline(self) -> str:
        """One line for people."""
        says = " and ".join(CLAIM_WORDS[c] for c in self.claims)
        if says:
            return f"{C2PA_WORDS[self.c2pa]}; the file says: {says}"
        what = "what it says of its origin is unknown" if self.c2pa == "not-read" else "no claim about its origin found"
        return f"{C2PA_WORDS[self.c2pa]}; {what}"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "image": self.image,
            "c2pa": self.c2pa,
            "claims": list(self.claims),
            "headline": self.headline,
            "findings": [f.to_dict() for f in self.findings],
            "not_checked": list(self.not_checked),
            "absent": ABSENT,
            "seconds": self.seconds,
        }


def unreadable_file(why: str) -> Finding:
    """That a whole file could not be looked at; its `c2pa` is `not-read`."""
    return Finding(
        "unread", "", f"the file could not be read: {why}", "the file",
        "What it says of its origin is unknown. Mostly such a file is damaged, or of a kind that the reader does not "
        "know; it can also have been made to attack a reader.", "Anyone.",
    )  # fmt: skip
