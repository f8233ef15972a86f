"""Build the shipped detectors and their model card from a folder of labelled images. The same input gives the same bytes.

    python scripts/build_default.py DATA [--cache DIR] [-o FOLDER]

To ship the result, move what it writes to `src/univfd/detectors`.

DATA has `manifest.jsonl` (columns file, label, generator, source, group, license). Writes `default/` (linear probe)
and `neighbors/` (nearest neighbours on the same bank), each with its model card, all figures of which come out of
this run. Embeddings are kept in the cache folder, by content, feature space and perturbation.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from univfd import metrics
from univfd.backbones import Backbone, open_backbone
from univfd.bank import FeatureBank
from univfd.calibration import Calibration, calibrate, threshold_for
from univfd.classifiers.knn import NearestNeighbor
from univfd.classifiers.linear import LinearProbe
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.embedding import Loaded, embed_images, space_of
from univfd.evaluation import Cohort, HeldOut, held_out_scores, per_row
from univfd.storage import require_new
from univfd.types import Embeddings, FloatArray, Label, Sample
from univfd.views import View, view

BACKBONE, TAPS, VIEW = "clip-vit-b-16", ("cls.7", "cls.8"), "resize"
COPIES = ("clean", "reencode:1")  # what the linear probe is trained on
TESTS = {"as they are": "clean", "all through JPEG 85": "jpeg:85"}
ADDED = "2026-11-24"
MAX_FPR, MAX_MISS, CONFIDENCE = 0.05, 0.05, 0.9
PARTS = 5  # for probabilities that were fitted without an image's own source or generator
MIN_REALS = 20  # real sources with fewer images are not named as the worst
MIN_N = 5  # generators with fewer images are listed, and left out of the mean

CLASSIFIERS: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[str, ...]]] = {
    "linear": (LinearProbe, {"C": 0.03}, COPIES),
    "knn": (NearestNeighbor, {"k": 1}, ("clean",)),
}
NAMES = {"linear": "default", "knn": "neighbors"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/detectors"))
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    args = parser.parse_args()
    for name in NAMES.values():
        require_new(args.output / name)

    # The view takes in the whole picture, so files that are only a crop of the original do not count.
    samples = [s for s in open_dataset(args.data) if s.extra["crop"] is None]
    backbone, cut = open_backbone(BACKBONE, taps=TAPS), view(VIEW)
    wanted = dict.fromkeys((*COPIES, *TESTS.values()))
    # As precise as the bank on disk, so that what is calibrated is what is shipped.
    sets = {p: embedded(backbone, cut, samples, p, args.cache).astype(np.float16).astype(np.float32) for p in wanted}
    keys = [s.extra["file_sha256"] for s in samples]
    bank = FeatureBank.from_rows(
        Embeddings(sets["clean"], space_of(backbone, cut)),
        [s.label for s in samples],
        keys,
        generator=[s.generator for s in samples],
        source=[s.source for s in samples],
        licence=[s.licence for s in samples],
        added=ADDED,
    )
    cohort = Cohort(bank.labels, bank.generator, bank.source, np.array([s.group for s in samples], dtype=object))
    tests = {name: sets[p] for name, p in TESTS.items()}
    held, calibrations = {}, {}
    for name, (make, params, copies) in CLASSIFIERS.items():
        held[name] = held_out_scores(cohort, [sets[c] for c in copies], tests, partial(make, **params))
        calibrations[name] = calibration_of(held[name], bank)
    card = model_card(bank, cohort, held, calibrations, metadata_only(samples, cohort))
    save(backbone, cut, bank, sets, calibrations, card, args.output)


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


def calibration_of(held: dict[str, list[HeldOut]], bank: FeatureBank) -> Calibration:
    """Thresholds that keep their promise for each version of the images, by its own held-out scores.

    Two versions of one image are not independent, so they are not pooled for the thresholds; the more careful one counts.
    """
    scores = {test: per_row(held[test], len(bank)) for test in TESTS}
    data = f"leave-one-generator-out scores; images {' and '.join(TESTS)}, the more careful threshold of both"
    promise = {"max_fpr": MAX_FPR, "max_miss": MAX_MISS, "confidence": CONFIDENCE, "data": data}
    each = [calibrate(s, bank.labels, **promise) for s in scores.values()]  # type: ignore[arg-type]
    both = calibrate(np.concatenate(list(scores.values())), np.tile(bank.labels, len(scores)), **promise)  # type: ignore[arg-type]
    fake_above = max(c.fake_above for c in each)
    return dataclasses.replace(
        each[0], fake_above=fake_above, real_below=min(c.real_below for c in each),
        slope=both.slope, intercept=both.intercept,
    )  # fmt: skip


def cross_fitted(
    scores: dict[str, NDArray[Any]], bank: FeatureBank
) -> tuple[NDArray[Any], NDArray[Any], list[Calibration]]:
    """Thresholds and probabilities for each image that were set without its own source or generator.

    Args:
        scores: held-out scores `(N,)` of each version of the images.
        bank: what the images are.

    Returns:
        `fake_above` `(N,)`, `real_below` `(N,)`, and one calibration an image, for its probability.
    """
    origin = np.where(bank.labels == 1, bank.generator, bank.source).astype(str)
    above, below = np.empty(len(bank)), np.empty(len(bank))
    for kind, rate, limits, sign in ((0, MAX_FPR, above, 1), (1, MAX_MISS, below, -1)):
        of_kind = bank.labels == kind
        for name in np.unique(origin):
            others = of_kind & (origin != name)
            limit = max(threshold_for(sign * s[others], rate, CONFIDENCE) for s in scores.values())
            limits[origin == name] = sign * limit
    part = np.unique(origin, return_inverse=True)[1] % PARTS  # whole sources and generators in each part
    fits = []
    for p in range(PARTS):
        rest = part != p
        pooled = np.concatenate([s[rest] for s in scores.values()])
        fits.append(calibrate(pooled, np.tile(bank.labels[rest], len(scores))))
    return above, np.minimum(below, above), [fits[p] for p in part]


def metadata_only(samples: list[Sample], cohort: Cohort) -> float:
    """Pooled leave-one-generator-out AUROC of a probe that sees only format, size and bytes of the original files."""
    formats = sorted({s.extra["format"] for s in samples})
    rows = []
    for s in samples:
        width, height, size = s.extra["width"], s.extra["height"], s.extra["bytes"]
        numbers = [math.log(width), math.log(height), math.log(size / (width * height)), width / height]
        rows.append([*numbers, *(float(s.extra["format"] == f) for f in formats)])
    x = np.array(rows, np.float32)
    held = held_out_scores(cohort, [x], {"": x}, partial(LinearProbe, C=1.0))[""]
    return metrics.auroc(cohort.labels, per_row(held, len(samples)))


def save(
    backbone: Backbone,
    cut: View,
    bank: FeatureBank,
    sets: dict[str, FloatArray],
    calibrations: dict[str, Calibration],
    card: str,
    output: Path,
) -> None:
    """Write both detectors; the bank lies in the default one."""
    for name, (make, params, copies) in CLASSIFIERS.items():
        if name == "knn":
            fitted = NearestNeighbor.from_bank(bank, params)
        else:
            fitted = make(**params).fit(np.concatenate([sets[c] for c in copies]), np.tile(bank.labels, len(copies)))
        made = Detector(NAMES[name], backbone, cut, fitted, bank, calibrations[name])
        shared = None if NAMES[name] == "default" else "../default/bank"
        made.save(output / NAMES[name], bank_dtype="float16", bank_at=shared, card=card)
        print(f"{output / NAMES[name]}: {made.identity}", file=sys.stderr)


def model_card(
    bank: FeatureBank,
    cohort: Cohort,
    held: dict[str, dict[str, list[HeldOut]]],
    calibrations: dict[str, Calibration],
    metadata_auroc: float,
) -> str:
    """The card, in Markdown. Every figure is of images whose generator, or real source, was held out."""
    labels = bank.labels
    n_fake, n_real = int(labels.sum()), int((labels == 0).sum())
    generators, sources = bank.counts("generator", Label.FAKE), bank.counts("source", Label.REAL)
    lines = [
        "# Model card: the shipped detectors `default` and `neighbors`",
        "",
        f"Frozen encoder `{BACKBONE}`, CLS tokens after the 7th and 8th of 12 blocks (the later blocks are not computed),",
        "view `resize` (short side to 224 pixels, centre crop). `default` is a linear probe (logistic regression), trained",
        "on every image as it is and on one copy scaled and re-encoded at random (JPEG or WebP, quality 50 to 95).",
        "`neighbors` is the paper's nearest neighbour (k = 1, cosine distance) on the same bank; the bank's nearest rows",
        "are the evidence of both. It holds the images as they are.",
        "",
        f"**Data.** {n_fake} generated images of {len(generators)} generators, {n_real} real images of {len(sources)}",
        "sources, from public repositories. Reals are mostly JPEG and fakes mostly PNG: a detector that sees nothing but",
        f"format, size and bytes per pixel of the original files reaches an AUROC of {metadata_auroc:.3f} here (above 0.6",
        "a set should not be trusted as it is). Read the",
        "rows *all through JPEG 85* first: there both classes went through one encoder at one quality. Sizes still differ",
        "between the classes, before the view brings all to one.",
        "",
        "**Protocol.** Leave one generator out: to score a generator's images, a classifier is trained without them,",
        "without one fifth of the real *sources* (the reals it is tested against), without any other image, real or fake,",
        "of the sources of either, and without images of the same group. So AUROCs of two generators are against",
        "different reals unless their fold is the same. A real image's score is the mean over the rounds that hold it out.",
        "Intervals are 95 %: bootstrap over images for AUROC, Clopper-Pearson for rates. Layers, view and penalty of the",
        "probe were chosen on these same images among about thirty candidates, so expect somewhat less elsewhere. In the",
        "next table each image is judged by thresholds and probabilities that were set without its own source or generator.",
        "",
        *summary_table(held, bank),
        "",
        *worst(held, calibrations, bank),
        "",
        "## Thresholds",
        "",
        "Set by the Neyman-Pearson order statistic on the held-out scores of the images as they are, and again of the",
        "re-encoded ones; the more careful of both counts. The promise holds for images drawn like these, all sources",
        "together. Images of one source are alike, so it does not extend to a new source: the last table shows how",
        "unequal the sources are.",
        "",
        "| detector | called fake above | called real below | promise |",
        "| --- | --- | --- | --- |",
    ]
    for name, c in calibrations.items():
        promise = (
            f"reals called fake <= {c.max_fpr:.0%}, fakes called real <= {c.max_miss:.0%}, each at {c.confidence:.0%}"
        )
        lines.append(f"| `{NAMES[name]}` | {c.fake_above:.4f} | {c.real_below:.4f} | {promise} |")
    lines += ["", "## AUROC per generator held out", "", *generator_table(held, labels, generators)]
    lines += [
        "",
        "## False alarms per real source at the shipped threshold",
        "",
        *source_table(held, calibrations, bank),
    ]
    lines += [
        "",
        "## What it can't do",
        "",
        "- It judges the picture as a whole at 224 pixels: a small local edit, and traces finer than that, are not seen.",
        "- The data hold no generator after 2023. Expect newer ones, and heavily recompressed or downscaled copies, to be",
        "  missed far more often than the mean says.",
        "- Art, renderings and heavily processed photographs raise false alarms; see the worst sources above.",
        "- The encoder is public: whoever has it can compute a picture that passes. A verdict is a signal, not proof.",
    ]
    return "\n".join(lines) + "\n"


def summary_table(held: dict[str, dict[str, list[HeldOut]]], bank: FeatureBank) -> list[str]:
    """One line a detector and version of the images."""
    rows = [
        "| detector | images | mean AUROC over generators | pooled AUROC | AP | fakes called fake | reals called fake "
        "| unsure | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    labels = bank.labels
    for name, tests in held.items():
        scores = {test: per_row(parts, len(bank)) for test, parts in tests.items()}
        above, below, fits = cross_fitted(scores, bank)
        for test, s in scores.items():
            per_generator = [a.value for a in (auroc_of(p, labels) for p in tests[test]) if a.n >= MIN_N]
            fake, unsure = s > above, (s <= above) & (s > below)
            caught = metrics.proportion(int(fake[labels == 1].sum()), int(labels.sum()))
            alarms = metrics.proportion(int(fake[labels == 0].sum()), int((labels == 0).sum()))
            chances = np.array([c.probability(float(score)) for c, score in zip(fits, s, strict=True)])
            ece = metrics.expected_calibration_error(labels, chances)
            rows.append(
                f"| `{NAMES[name]}` | {test} | {mean_of(per_generator)} (of {len(per_generator)}) "
                f"| {metrics.bootstrap(metrics.auroc, labels, s)} | {metrics.average_precision(labels, s):.3f} "
                f"| {caught} | {alarms} | {unsure.mean():.3f} | {ece:.3f} |"
            )
    return rows


def mean_of(values: list[float]) -> str:
    """A mean over generators with its bootstrap interval (generators redrawn)."""
    array = np.array(values)
    drawn = np.random.default_rng(0).choice(array, (2000, len(array))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return str(metrics.Estimate(float(array.mean()), float(low), float(high), len(array)))


def worst(
    held: dict[str, dict[str, list[HeldOut]]], calibrations: dict[str, Calibration], bank: FeatureBank
) -> list[str]:
    """The worst generator and the worst real source of each detector, re-encoded images."""
    lines, test = [], list(TESTS)[-1]
    for name, tests in held.items():
        aurocs = [(p, auroc_of(p, bank.labels)) for p in tests[test]]
        part, low = min(((p, a) for p, a in aurocs if a.n >= MIN_N), key=lambda pair: pair[1].value)
        above = per_row(tests[test], len(bank)) > calibrations[name].fake_above
        rates = {}
        for source, n in bank.counts("source", Label.REAL).items():
            if n >= MIN_REALS:
                of = (bank.source == source) & (bank.labels == 0)
                rates[source] = metrics.proportion(int(above[of].sum()), n)
        source = max(rates, key=lambda s: rates[s].value)
        lines.append(
            f"Worst of `{NAMES[name]}`, {test}: generator **{part.generator}**, AUROC {low} (n = {low.n}); real source "
            f"**{source}**, {rates[source]} called fake (n = {rates[source].n})."
        )
    return lines


def auroc_of(part: HeldOut, labels: NDArray[np.uint8]) -> metrics.Estimate:
    """A round's AUROC; `n` is the number of fakes."""
    estimate = metrics.bootstrap(metrics.auroc, labels[part.rows], part.scores, rounds=500)
    return metrics.Estimate(estimate.value, estimate.low, estimate.high, int(labels[part.rows].sum()))


def generator_table(
    held: dict[str, dict[str, list[HeldOut]]], labels: NDArray[np.uint8], counts: dict[str, int]
) -> list[str]:
    """One line a generator."""
    columns = [(name, test) for name in held for test in held[name]]
    rows = [
        "| generator | n | " + " | ".join(f"`{NAMES[name]}`, {test}" for name, test in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    cells = {c: {p.generator: auroc_of(p, labels) for p in held[c[0]][c[1]]} for c in columns}
    for generator in sorted(counts):
        values = " | ".join(str(cells[c][generator]) for c in columns)
        rows.append(f"| {generator} | {counts[generator]} | {values} |")
    return [*rows, "", f"Generators with fewer than {MIN_N} images do not count in the mean."]


def source_table(
    held: dict[str, dict[str, list[HeldOut]]], calibrations: dict[str, Calibration], bank: FeatureBank
) -> list[str]:
    """One line a real source: share called fake."""
    columns = [(name, test) for name in held for test in held[name]]
    rows = [
        "| real source | n | " + " | ".join(f"`{NAMES[name]}`, {test}" for name, test in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    for source, n in sorted(bank.counts("source", Label.REAL).items()):
        of = (bank.source == source) & (bank.labels == 0)
        values = []
        for name, test in columns:
            scores = per_row(held[name][test], len(bank))[of]
            values.append(str(metrics.proportion(int((scores > calibrations[name].fake_above).sum()), n)))
        rows.append(f"| {source} | {n} | {' | '.join(values)} |")
    return rows


if __name__ == "__main__":
    main()
