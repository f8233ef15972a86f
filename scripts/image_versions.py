"""The data's images in many versions, as they are and re-encoded: their embeddings, and what their files give away."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from accuracy_tables import Flags, Scored
from univfd.backbones import Backbone
from univfd.conditions import conditions
from univfd.embedding import Loaded, embed_images, space_of
from univfd.evaluation import Cohort, HeldOut
from univfd.images import decode
from univfd.metadata import Metadata, read_metadata
from univfd.metadata_detector import metadata_auroc
from univfd.metrics import Estimate
from univfd.perturbations import perturbation
from univfd.types import FloatArray, ImageRef, Sample
from univfd.views import View

Halves = NDArray[np.floating[Any]]
"""Vectors `(N, D)` in float16, or what was made of such."""
TESTS = {
    "as they are": "clean", "same size": "square:512+jpeg:85", "JPEG 85": "jpeg:85", "web copy": "limit:768+jpeg:60",
}  # fmt: skip
# What else is measured, on some images of each generator and source; no threshold is set by these.
POST = {
    "JPEG 95": "jpeg:95", "JPEG 80": "jpeg:80", "JPEG 60": "jpeg:60", "JPEG 40": "jpeg:40",
    "hard copy": "limit:512+jpeg:40", "WebP 75": "webp:75", "half size": "scale:0.5+jpeg:85", "blur": "blur:1+jpeg:85",
    "chained": "scale:0.7+jpeg:75+webp:70+jpeg:60",
}  # fmt: skip
POST_IMAGES = 5  # of each generator and each real source, at most


def first_of_each(samples: list[Sample], most: int) -> NDArray[np.intp]:
    """Rows of at most so many images of each generator and real source."""
    seen: Counter[str] = Counter()
    rows = []
    for i, s in enumerate(samples):
        origin = s.generator or s.source
        seen[origin] += 1
        if seen[origin] <= most:
            rows.append(i)
    return np.array(rows)


def versions(
    backbone: Backbone, cut: View, samples: list[Sample], some: NDArray[np.intp], cache: Path
) -> dict[str, Halves]:
    """Embeddings `(N, D)` of each version of the images; zeros where one was not made of an image."""
    found = {n: halves(embedded(backbone, cut, samples, p, cache)) for n, p in TESTS.items()}
    for name, perturb in POST.items():
        few = halves(embedded(backbone, cut, [samples[i] for i in some], perturb, cache))
        found[name] = np.zeros((len(samples), few.shape[1]), few.dtype)
        found[name][some] = few
    return found


def embedded(backbone: Backbone, cut: View, samples: list[Sample], perturb: str, cache: Path) -> FloatArray:
    """Embeddings `(N, D)` of the samples under a perturbation, from the cache where it has them."""
    file = cache / f"{space_of(backbone, cut).digest}-{perturb.replace(':', '')}.npz"
    known: dict[str, NDArray[Any]] = dict(np.load(file)) if file.is_file() else {}
    missing = [s for s in samples if s.extra["file_sha256"] not in known]
    for batch in embed_images(backbone, cut, missing, perturb=perturb):
        for failure in (i for i in batch.items if not isinstance(i, Loaded)):
            sys.exit(f"{failure.image}: {failure.message}")
        known |= {i.sha256: v for i, v in zip(batch.loaded, batch.embeddings.vectors, strict=True)}
        print(f"\r{perturb}: {len(known)} of {len(samples)}", end="", file=sys.stderr)
    if missing:
        print(file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, **known)  # type: ignore[arg-type]
    return np.stack([known[s.extra["file_sha256"]] for s in samples])


def halves(vectors: FloatArray) -> Halves:
    """As float16, so that differences between machines in the last bits seldom reach the detector."""
    return vectors.astype(np.float16)


def looks(samples: list[Sample], some: NDArray[np.intp]) -> tuple[dict[str, Estimate], dict[str, Flags]]:
    """Per version of the images: AUROC of the metadata-only detector, and `(N,)` which are degraded."""
    bias: dict[str, Estimate] = {}
    degraded: dict[str, Flags] = {}
    made_of = {name: some if name in POST else np.arange(len(samples)) for name in TESTS | POST}
    looked = joblib.Parallel(n_jobs=-1)(
        joblib.delayed(look)([samples[i] for i in made_of[name]], perturb) for name, perturb in (TESTS | POST).items()
    )
    for (name, made), (headers, flags) in zip(made_of.items(), looked, strict=True):
        few = [samples[i] for i in made]
        bias[name] = metadata_auroc(cohort_of(few, len(few)), headers)
        degraded[name] = np.zeros(len(samples), bool)
        degraded[name][made] = flags
    return bias, degraded


def look(samples: list[Sample], perturb: str) -> tuple[list[Metadata], Flags]:
    """Headers of the files after a perturbation, and which pictures are degraded."""
    change, headers, degraded = perturbation(perturb), [], []
    for s in samples:
        decoded = decode(s.ref)
        pixels = change(decoded.pixels)
        same = pixels is decoded.pixels
        degraded.append(bool(conditions(pixels, decoded.quantisation if same else ())))
        ref = s.ref
        if not same:  # every file is then a JPEG that was just written
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
            ref = ImageRef(ref.name, buffer.getvalue())
        headers.append(read_metadata(ref))
    return headers, np.array(degraded)


def cohort_of(samples: list[Sample], judged: int) -> Cohort:
    """What is known about the images, of which the first ones may be judged."""
    return Cohort(
        labels=np.array([s.label for s in samples], np.uint8),
        generator=np.array([s.generator for s in samples], dtype=object),
        source=np.array([s.source for s in samples], dtype=object),
        group=np.array([s.group for s in samples], dtype=object),
        judged=np.arange(len(samples)) < judged,
    )


def only_made(scores: Scored, some: NDArray[np.intp]) -> Scored:
    """Scores without those of images that a version was not made of."""

    def made(part: HeldOut) -> HeldOut:
        kept = np.isin(part.rows, some)
        return HeldOut(part.generator, part.rows[kept], part.scores[kept])

    return {
        method: {test: [made(p) for p in parts] if test in POST else parts for test, parts in tests.items()}
        for method, tests in scores.items()
    }
