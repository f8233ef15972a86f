"""Score rows as they are made: embed what the cache lacks, then let each detector decide out of the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import first_taps
from ..detector import Detector
from ..embedding import space_of
from ..embedding_cache import EmbeddingCache, Keyed
from ..types import Failure, FeatureSpace, Sample, Verdict
from .rows import COLUMNS, Columns

_CHUNK = 256  # images judged together

Watch = Callable[[str, int, int], None]
"""`(what, done, in all)`; called often."""


@dataclass(eq=False)
class Scoring:
    """The rows of a run, as they are made; and what they came to."""

    samples: Sequence[Sample]
    images: Sequence[Keyed | Failure]
    detectors: Sequence[Detector]
    perturbations: Sequence[str]
    cache: Path | None
    embed: Callable[..., dict[str, Failure]]
    watch: Watch

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.software: set[str] = set()

    def chunks(self) -> Iterator[Columns]:
        """Rows in the order of the file."""
        for perturb in self.perturbations:
            embedded: dict[str, tuple[EmbeddingCache, dict[str, Failure]]] = {}
            for detector in self.detectors:
                widest = self._widest(detector)
                if widest.reads.digest not in embedded:
                    embedded[widest.reads.digest] = self._embed(widest, perturb)
                yield from self._judge(detector, perturb, *embedded[widest.reads.digest])

    def _widest(self, detector: Detector) -> Detector:
        """Of the detectors that read what this one does and then more layers, the one that reads most; or itself."""
        alike = [d for d in self.detectors if d.view.pool != "concat" and _begins(d, detector.reads)]
        return max(alike, key=lambda d: d.reads.dim, default=detector)

    def _embed(self, detector: Detector, perturb: str) -> tuple[EmbeddingCache, dict[str, Failure]]:
        space = detector.reads
        kept = EmbeddingCache(space, perturb, self.cache)
        what = f"{perturb}: embedding with {space.backbone} {'+'.join(space.taps)} {space.view}"
        done, total = 0, len({i.sha256 for i in self.images if isinstance(i, Keyed)})

        def advance(n: int) -> None:
            nonlocal done
            done += n
            self.watch(what, done, total)

        failures = self.embed(kept, detector.backbone, detector.view, self.images, on_done=advance)
        self.software |= kept.software
        return kept, failures

    def _judge(
        self, detector: Detector, perturb: str, kept: EmbeddingCache, failures: Mapping[str, Failure]
    ) -> Iterator[Columns]:
        known = {row.tobytes().hex() for row in detector.bank.keys}
        for start in range(0, len(self.images), _CHUNK):
            part = self.images[start : start + _CHUNK]
            batch = kept.batch(part, failures).first(detector.reads)
            verdicts = iter(detector.judge(batch))
            rows = []
            for sample, image, item in zip(self.samples[start : start + _CHUNK], part, batch.items, strict=True):
                row = _about(sample, image)
                row |= {"perturbation": perturb, "detector": detector.name, "identity": detector.identity}
                row |= _failed(item) if isinstance(item, Failure) else _judged(next(verdicts))
                row |= {"fake_above": detector.calibration.fake_above, "real_below": detector.calibration.real_below}
                rows.append(row | {"in_bank": row["sha256"] in known})
                self.counts[row["status"]] += 1
            yield {name: [row[name] for row in rows] for name, _ in COLUMNS}
            self.watch(f"{perturb}: judging with {detector.name}", start + len(part), len(self.images))


def _begins(detector: Detector, space: FeatureSpace) -> bool:
    """Whether the first of its layers are those of the space."""
    return space_of(first_taps(detector.backbone, len(space.taps)), detector.view) == space


def _about(sample: Sample, image: Keyed | Failure) -> dict[str, Any]:
    return {
        "image": sample.ref.name,
        "sha256": image.sha256 if isinstance(image, Keyed) else "",
        "label": sample.label.word,
        "generator": sample.generator,
        "family": sample.family,
        "source": sample.source,
        "group": sample.group,
        "subset": sample.subset,
        "split": sample.split,
    }


def _failed(failure: Failure) -> dict[str, Any]:
    unknown = dict.fromkeys(("width", "height", "score", "probability"))
    error = f"{failure.error}: {failure.message}"
    return unknown | {"status": "failed", "error": error, "format": "", "verdict": ""}


def _judged(verdict: Verdict) -> dict[str, Any]:
    names = ("format", "width", "height", "score", "probability", "verdict")
    return {name: getattr(verdict, name) for name in names} | {"status": "ok", "error": ""}
