"""Proof, on this machine, that a detector gives the verdicts that its card speaks of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

from . import weights
from .backbones import EngineBackbone, open_backbone
from .detector import Detector
from .engines import DEFAULT
from .errors import UnivFDError
from .parity import LOSSY_SHARE, Parity, cosine_loss, fixed_crops
from .types import FloatArray, Verdict

REFERENCE = "selftest_reference.json"
COSINE_LOSS = 1e-5
"""Largest accepted 1 - cosine between a batch and single images, and against the reference."""
SCORE_DIFFERENCE = 1e-3
"""Largest accepted difference of a score, relative to the spread of the scores."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, whether it passed, what was seen."""

    name: str
    passed: bool
    seen: str


def selftest(detector: Detector) -> Iterator[Check]:
    """Run every check of a detector.

    Args:
        detector: an open one.

    Yields:
        `weights` (checksums of the prepared files), `parity` (embeddings of fixed inputs against stored figures),
        `batch` (embeddings of a batch against one by one), `score` (verdicts of a batch against one by one); under
        another engine than the reference also `engine` (its vectors and scores against the reference's, computed now).
    """
    crops = fixed_crops(detector.backbone.entry.preprocess.size)
    yield _guarded("weights", lambda: _weights(detector))
    yield _guarded("parity", lambda: _parity(detector, crops))
    yield _guarded("batch", lambda: _batch(detector, crops))
    yield _guarded("score", lambda: _score(detector, crops))
    if isinstance(detector.backbone, EngineBackbone) and (known := detector.backbone.parity) is not None:
        yield _guarded("engine", lambda: _engine(detector, known, crops))


def _guarded(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except UnivFDError as error:
        return Check(name, False, str(error))


def _weights(detector: Detector) -> tuple[bool, str]:
    entry = detector.backbone.entry
    if not entry.recipe:
        return True, "the encoder has no weights"
    weights.verify(entry)
    return True, f"prepared files of {entry.name} unchanged"


def _parity(detector: Detector, crops: Any) -> tuple[bool, str]:
    reference = json.loads((resources.files("univfd") / REFERENCE).read_text("utf-8"))
    stored = reference.get(detector.space.backbone, {})
    if detector.backbone.entry.folder is not None and not stored:
        return True, "nothing to compare with: figures are stored for the encoders of this package alone"
    absent = [t for t in detector.space.taps if t not in stored]
    if absent:
        return False, f"no reference figures for {', '.join(absent)} of {detector.space.backbone}"
    expected = np.concatenate([np.asarray(stored[t], np.float32) for t in detector.space.taps], axis=1)
    got = _sample(detector, detector.backbone.embed(crops))
    loss = cosine_loss(got, expected)
    allowed = _loss_allowed(detector)
    return loss <= allowed, f"1 - cosine to the reference {loss:.1e} (at most {allowed:.0e})"


def _loss_allowed(detector: Detector) -> float:
    """1 - cosine: what rounding comes to, or what a lossy engine may lose."""
    known = detector.backbone.parity if isinstance(detector.backbone, EngineBackbone) else None
    return COSINE_LOSS if known is None or not known.lossy else 1 - known.cosine


def _sample(detector: Detector, vectors: FloatArray) -> FloatArray:
    """The values of each tap that the reference keeps: 64 evenly spaced ones."""
    parts, start = [], 0
    for tap in detector.space.taps:
        dim = detector.backbone.entry.tap_dim(tap)
        parts.append(vectors[:, start : start + dim][:, reference_columns(dim)])
        start += dim
    return np.concatenate(parts, axis=1)


def reference_columns(dim: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Indices of the values of a tap that the reference file keeps."""
    return np.unique(np.linspace(0, dim - 1, min(dim, 64)).astype(np.intp))


def _batch(detector: Detector, crops: Any) -> tuple[bool, str]:
    together = detector.backbone.embed(crops)
    single = np.concatenate([detector.backbone.embed(crops[i : i + 1]) for i in range(len(crops))])
    loss, allowed = cosine_loss(together, single), _loss_allowed(detector)
    return loss <= allowed, f"1 - cosine of a batch to single images {loss:.1e} (at most {allowed:.0e})"


def _engine(detector: Detector, known: Parity, crops: Any) -> tuple[bool, str]:
    entry = detector.backbone.entry
    reference = open_backbone(entry.folder or entry.name, taps=detector.backbone.taps, engine=DEFAULT)
    seen = replace(
        known,
        reference=reference.embed(crops),
        batch=detector.backbone.embed(crops),
        single=np.concatenate([detector.backbone.embed(crops[i : i + 1]) for i in range(len(crops))]),
    )
    seen.require()
    seen.require_scores(detector.score_of_crops, detector.calibration.between)
    difference = seen.score_difference(detector.score_of_crops)
    return True, f"{known.engine}: 1 - cosine to float32 {seen.loss:.1e}, scores differ by {difference:.1e}"


def _score(detector: Detector, crops: Any) -> tuple[bool, str]:
    pictures = list(crops)
    batch = [v.score for v in detector.detect(pictures, batch_size=len(pictures)) if isinstance(v, Verdict)]
    single = [v.score for p in pictures for v in detector.detect(p, batch_size=1) if isinstance(v, Verdict)]
    spread = float(np.std(batch)) or 1.0
    difference = float(np.abs(np.subtract(batch, single)).max()) / spread
    allowed = LOSSY_SHARE if detector.backbone.entry.lossy else SCORE_DIFFERENCE
    return difference <= allowed, f"score of a batch against single images differs by {difference:.1e}"
