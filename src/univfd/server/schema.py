"""The answers as OpenAPI describes them. Rows come from `Verdict.to_dict`; these models only document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Model):
    """What went wrong."""

    code: str = Field(description="Short and stable, for programs.")
    message: str = Field(description="What was got and what was expected.")
    what_to_do: str


class ProblemAnswer(_Model):
    """The shape of every error."""

    error: Problem


class NeighborRow(_Model):
    """A known image of the bank."""

    row: int
    distance: float = Field(description="Cosine distance, 0 to 2.")
    label: Literal["real", "fake"]
    generator: str
    source: str
    key: str


class RemarkRow(_Model):
    """A reason or note for programs."""

    code: str
    figures: dict[str, float] = Field(description="Numbers that its text speaks of, by name.")


class TimingsRow(_Model):
    """Seconds."""

    load: float
    embed: float
    decide: float


class Promise(_Model):
    """What the verdicts keep to, on images like those that the thresholds were fixed on; null: nothing is promised."""

    fake_above: float = Field(description="A score above this is 'fake'.")
    real_below: float = Field(description="A score below this is 'real'; between the two it is 'unsure'.")
    max_fpr: float | None = Field(description="At most this share of real images is called fake.")
    max_miss: float | None = Field(description="At most this share of fake images is called real.")
    confidence: float | None = Field(description="With which each promise holds.")
    n_real: int
    n_fake: int
    data: str = Field(description="What the thresholds were fixed on.")
    known_within: float | None = Field(
        description="An image that is farther than this from all of the bank is 'unsure'; null: not judged."
    )
    about: str = Field(description="Of which images this is promised.")
    void_under: list[str] = Field(
        description="Codes of reasons under which nothing is promised: the image is 'unsure'."
    )


class Heatmap(_Model):
    """A picture of where the score of the patch probe comes from; it does not show what was edited."""

    media_type: Literal["image/png"]
    caption: str
    base64: str


class VerdictRow(_Model):
    """The row that `univfd detect --jsonl` writes, and what the service adds."""

    status: Literal["ok"]
    image: str = Field(description="The name that was sent.")
    verdict: Literal["fake", "real", "unsure"]
    score: float = Field(description="Higher = fake.")
    probability: float | None = Field(description="Of being fake, where half of the images are; null: uncalibrated.")
    attribution: str
    nearest_fake: list[NeighborRow]
    nearest_real: list[NeighborRow]
    sha256: str
    width: int
    height: int
    format: str
    view: str
    detector: str = Field(description="name@digest of all that a verdict depends on.")
    space: str
    reasons: list[str] = Field(description="Why it is unsure.")
    reason_codes: list[RemarkRow] = Field(description="The same for programs, in the same order.")
    notes: list[str]
    note_codes: list[RemarkRow] = Field(description="The notes for programs, in the same order.")
    timings: TimingsRow
    promise: Promise
    provenance: dict[str, Any] | None = Field(
        default=None, description="What the file says of its origin, if asked for; it never changes the verdict."
    )
    heatmap: Heatmap | None = Field(default=None, description="If asked for.")


class FailureRow(_Model):
    """The row of an image of a batch that could not be judged."""

    status: Literal["failed"]
    image: str
    error: str
    message: str
    provenance: dict[str, Any] | None = None


class DetectorRow(_Model):
    """A detector that this service asks."""

    name: str
    identity: str
    backbone: str
    view: str
    space: str
    bank_rows: int
    heatmaps: bool
    promise: Promise


class LimitsRow(_Model):
    """What is let in."""

    max_bytes: int = Field(description="Of one image.")
    max_pixels: int = Field(description="Of one image.")
    max_batch: int = Field(description="Images in one batch.")
    max_neighbors: int
    deadline: float = Field(description="Seconds for one image.")


class DetectorsAnswer(_Model):
    """The detectors (the first answers), and what the service lets in."""

    detectors: list[DetectorRow]
    limits: LimitsRow
    feedback: bool = Field(description="Whether reported images are kept.")


class FeedbackAnswer(_Model):
    """What became of the feedback."""

    status: Literal["filed", "known", "right"] = Field(
        description="filed: kept; known: it was there already; right: the verdict is not wrong, nothing was kept."
    )
    verdict: Literal["fake", "real", "unsure"]
    sha256: str


class HealthAnswer(_Model):
    """The process is alive, or ready."""

    status: Literal["ok"]
