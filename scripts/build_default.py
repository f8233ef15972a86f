"""Build the shipped detectors and their model card from a folder of labelled images. The same input gives the same bytes.

    python scripts/build_default.py DATA [--cache DIR] [-o FOLDER]

To ship the result, move what it writes to `src/univfd/detectors`.

DATA has `manifest.jsonl` (columns file, label, generator, source, group, license). Writes `default/` (ridge probe)
and `neighbors/` (nearest neighbours on the same bank), each with its model card, all figures of which come out of
this run; `accuracy.md` holds the same tables for the documentation. Embeddings are kept in the cache folder, by content, feature space and perturbation.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from univfd import metrics
from univfd.backbones import Backbone, open_backbone
from univfd.bank import BankType, FeatureBank, as_stored
from univfd.calibration import Calibration, calibrate, threshold_for
from univfd.classifiers.knn import NearestNeighbor
from univfd.classifiers.linear import LinearProbe
from univfd.classifiers.ridge import RidgeProbe
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.embedding import Loaded, embed_images, space_of
from univfd.evaluation import Cohort, HeldOut, held_out_scores, per_row
from univfd.images import decode
from univfd.perturbations import perturbation
from univfd.storage import require_new
from univfd.types import Embeddings, FloatArray, Label, Sample
from univfd.views import View, view

BACKBONE = "clip-vit-b-16"
TAPS, VIEW = ("cls.6", "cls.7", "cls.8", "cls.9"), "resize"
PAPER = (("proj",), "native")  # taps and view of the paper's own feature
COPIES = ("clean", "augment:1", "augment:2", "augment:3")  # what the probe is trained on
TESTS = {"as they are": "clean", "JPEG 85": "jpeg:85", "web copy": "limit:768+jpeg:60"}
BANK_TYPE: BankType = "int8"
ADDED = "2026-11-24"
MAX_FPR, MAX_MISS, CONFIDENCE = 0.05, 0.05, 0.9
UNKNOWN_SHARE = 0.01  # of images like the known ones that are called unlike them, at most
PARTS = 5  # for probabilities that were fitted without an image's own source or generator
MIN_REALS = 20  # real sources with fewer images are not named as the worst
MIN_N = 5  # generators with fewer images are listed, and left out of the mean


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the tables: features, classifier, what it is trained on, and the folder it is shipped in."""

    make: Callable[..., Any]
    params: dict[str, Any]
    copies: tuple[str, ...] = ("clean",)
    paper: bool = False


Scored = dict[str, dict[str, list[HeldOut]]]
"""Per method and version of the images, one `HeldOut` a round."""
METHODS = {
    "default": Method(RidgeProbe, {"alpha": 0.3}, COPIES),
    "neighbors": Method(NearestNeighbor, {"k": 1}),
    "paper-probe": Method(LinearProbe, {}, paper=True),
    "paper-nearest": Method(NearestNeighbor, {"k": 1}, paper=True),
}
SHIPPED = ("default", "neighbors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/detectors"))
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    args = parser.parse_args()
    for name in SHIPPED:
        require_new(args.output / name)

    # The view takes in the whole picture: files that are only a crop of the original train the probe (a user's picture
    # may be a crop as well), but are not judged and not in the bank.
    samples = sorted(open_dataset(args.data), key=lambda s: s.extra["crop"] is not None)
    whole = [s for s in samples if s.extra["crop"] is None]
    backbone, cut = open_backbone(BACKBONE, taps=TAPS), view(VIEW)
    copies = {p: rounded(embedded(backbone, cut, samples, p, args.cache)) for p in COPIES}
    tests = {n: rounded(embedded(backbone, cut, whole, p, args.cache)) for n, p in TESTS.items()}
    bank = FeatureBank.from_rows(
        Embeddings(as_stored(tests["as they are"], BANK_TYPE), space_of(backbone, cut)),
        [s.label for s in whole],
        [s.extra["file_sha256"] for s in whole],
        generator=[s.generator for s in whole],
        source=[s.source for s in whole],
        licence=[s.licence for s in whole],
        added=ADDED,
    )
    paper_encoder, paper_cut = open_backbone(BACKBONE, taps=PAPER[0]), view(PAPER[1])
    papers = {n: rounded(embedded(paper_encoder, paper_cut, whole, p, args.cache)) for n, p in TESTS.items()}
    features = {"default": (list(copies.values()), tests), "neighbors": ([bank.vectors], tests)}
    features |= dict.fromkeys(("paper-probe", "paper-nearest"), ([papers["as they are"]], papers))

    held, plain = scored(samples, features, by_source=True), scored(samples, features, by_source=False)
    kinds = [s.extra["content"] for s in whole]
    calibrations = {name: calibration_of(held[name], bank, kinds) for name in held}
    bias = {name: metadata_only(whole, p) for name, p in TESTS.items()}
    card = model_card(bank, held, plain, calibrations, bias, len(samples) - len(whole))
    labels = np.array([s.label for s in samples], np.uint8)
    save(backbone, cut, bank, copies, labels, calibrations, card, args.output)


def rounded(vectors: FloatArray) -> FloatArray:
    """As float16 keeps them: differences between machines in the last bits do not reach the detector."""
    return vectors.astype(np.float16).astype(np.float32)


def scored(
    samples: list[Sample], features: dict[str, tuple[list[FloatArray], dict[str, FloatArray]]], *, by_source: bool
) -> Scored:
    """Held-out scores of each method and version of the images; all methods have the same rounds.

    Args:
        samples: whole images first.
        features: per method its training sets (rows as samples, or only the whole ones) and its test sets (whole ones).
        by_source: see `univfd.evaluation.rounds`.
    """
    n = sum(s.extra["crop"] is None for s in samples)
    held = {}
    for name, (train, tests) in features.items():
        print(f"leaving generators out: {name}", file=sys.stderr)
        cohort = cohort_of(samples[: len(train[0])], n)
        padded = {t: np.concatenate([x, np.zeros((len(train[0]) - n, x.shape[1]), x.dtype)]) for t, x in tests.items()}
        make = partial(METHODS[name].make, **METHODS[name].params)
        held[name] = held_out_scores(cohort, train, padded, make, by_source=by_source)
    return held


def cohort_of(samples: list[Sample], judged: int) -> Cohort:
    """What is known about the images, of which the first ones may be judged."""
    return Cohort(
        labels=np.array([s.label for s in samples], np.uint8),
        generator=np.array([s.generator for s in samples], dtype=object),
        source=np.array([s.source for s in samples], dtype=object),
        group=np.array([s.group for s in samples], dtype=object),
        judged=np.arange(len(samples)) < judged,
    )


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


def calibration_of(held: dict[str, list[HeldOut]], bank: FeatureBank, kinds: list[str]) -> Calibration:
    """Thresholds that keep their promise for each version of the images, by its own held-out scores.

    Two versions of one image are not independent, so they are not pooled for the thresholds; the most careful one
    counts, for all images together and for each kind of image on record.
    """
    scores = {test: per_row(held[test], len(bank)) for test in TESTS}
    data = f"leave-one-generator-out scores; images {', '.join(TESTS)}; the most careful threshold"
    promise = {"max_fpr": MAX_FPR, "max_miss": MAX_MISS, "confidence": CONFIDENCE, "data": data}
    each = [calibrate(s, bank.labels, groups=kinds, **promise) for s in scores.values()]  # type: ignore[arg-type]
    both = calibrate(np.concatenate(list(scores.values())), np.tile(bank.labels, len(scores)), **promise)  # type: ignore[arg-type]
    groups = tuple(
        dataclasses.replace(g[0], fake_above=None if g[0].fake_above is None else max(x.fake_above or 0 for x in g))
        for g in zip(*(c.groups for c in each), strict=True)
    )
    return dataclasses.replace(
        each[0], fake_above=max(c.fake_above for c in each), real_below=min(c.real_below for c in each),
        slope=both.slope, intercept=both.intercept, groups=groups,
        known_within=threshold_for(distances_elsewhere(bank), UNKNOWN_SHARE, CONFIDENCE),
    )  # fmt: skip


def distances_elsewhere(bank: FeatureBank) -> NDArray[np.float64]:
    """Cosine distance `(N,)` of each row to its nearest row of another source, as a new picture has one."""
    sources, codes = np.unique(bank.source.astype(str), return_inverse=True)
    found = np.empty(len(bank))
    for code in range(len(sources)):
        here = codes == code
        found[here] = 1 - (bank.unit[here] @ bank.unit[~here].T).max(axis=1)
    return found


def broken_promises(scores: NDArray[Any], halves: int = 200) -> tuple[float, float]:
    """Share of random halves of real scores whose threshold is exceeded by more than the promised share of all of them.

    Returns:
        For the order statistic, and for the plain quantile of the same half.
    """
    rng, broken = np.random.default_rng(0), np.zeros(2)
    for _ in range(halves):
        half = rng.choice(scores, len(scores) // 2, replace=False)
        limits = (threshold_for(half, MAX_FPR, CONFIDENCE), np.quantile(half, 1 - MAX_FPR))
        broken += [(scores > limit).mean() > MAX_FPR for limit in limits]
    return float(broken[0] / halves), float(broken[1] / halves)


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


def metadata_only(samples: list[Sample], perturb: str) -> float:
    """Mean AUROC over generators left out of a probe that sees only format, size and bytes of the files."""
    formats = sorted({s.extra["format"] for s in samples})
    rows = []
    change = perturbation(perturb)
    for s in samples:
        width, height, size, format = (s.extra[c] for c in ("width", "height", "bytes", "format"))
        if perturb != "clean":  # every file is then a JPEG that was just written
            pixels = change(decode(s.ref).pixels)
            (height, width), format = pixels.shape[:2], "JPEG"
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
            size = buffer.tell()
        numbers = [math.log(width), math.log(height), math.log(size / (width * height)), width / height]
        rows.append([*numbers, *(float(format == f) for f in formats)])
    x = np.array(rows, np.float32)
    cohort = cohort_of(samples, len(samples))
    held = held_out_scores(cohort, [x], {"": x}, partial(LinearProbe, C=1.0))[""]
    return float(np.mean(aurocs(held, cohort.labels)))


def save(
    backbone: Backbone,
    cut: View,
    bank: FeatureBank,
    copies: dict[str, FloatArray],
    labels: NDArray[np.uint8],
    calibrations: dict[str, Calibration],
    card: str,
    output: Path,
) -> None:
    """Write the shipped detectors; the bank lies in the default one."""
    for name in SHIPPED:
        method = METHODS[name]
        if method.make is NearestNeighbor:
            fitted = NearestNeighbor.from_bank(bank, method.params)
        else:
            rows = np.concatenate([copies[c] for c in method.copies])
            fitted = method.make(**method.params).fit(rows, np.tile(labels, len(method.copies)))
        made = Detector(name, backbone, cut, fitted, bank, calibrations[name])
        shared = None if name == "default" else "../default/bank"
        made.save(output / name, bank_dtype=BANK_TYPE, bank_at=shared, card=card)
        print(f"{output / name}: {made.identity}", file=sys.stderr)
    (output / "accuracy.md").write_text(card, "utf-8")


def model_card(
    bank: FeatureBank,
    held: Scored,
    plain: Scored,
    calibrations: dict[str, Calibration],
    bias: dict[str, float],
    crops: int,
) -> str:
    """The card, in Markdown. Every figure is of images whose generator, or real source, was held out."""
    labels = bank.labels
    n_fake, n_real = int(labels.sum()), int((labels == 0).sum())
    generators, sources = bank.counts("generator", Label.FAKE), bank.counts("source", Label.REAL)
    seen = ", ".join(f"{value:.3f} {name}" for name, value in bias.items())
    lines = [
        "# Accuracy of the shipped detectors `default` and `neighbors`",
        "",
        f"Frozen encoder `{BACKBONE}`, CLS tokens after blocks {TAPS[0][4:]} to {TAPS[-1][4:]} of 12 side by side (later blocks",
        f"are not computed), view `{VIEW}` (short side to 224 pixels, centre crop). `default` is a ridge probe trained on every",
        "image as it is and on three copies that were cropped, scaled, blurred, made noisy and re-encoded at random, both",
        "classes alike. `neighbors` is the paper's nearest neighbour (k = 1, cosine distance) on the same bank; the bank's",
        "nearest rows are the evidence of both. It holds the images as they are. `paper-probe` and `paper-nearest` are the",
        "paper's two methods with this encoder: its projected embedding, the native centre crop, images as they are.",
        "",
        f"**Data.** {n_fake} generated images of {len(generators)} generators, {n_real} real images of {len(sources)} sources, from",
        f"public repositories; {crops} more, of which only a centre crop is at hand, train the probe and are not judged.",
        "A detector that sees nothing but format, size and bytes per pixel of the files reaches a mean AUROC over",
        f"generators of {seen} (above 0.6 a set should not be trusted as it is).",
        "",
        "**Protocol.** Leave one generator out: to score a generator's images, a classifier is trained without them,",
        "without one fifth of the real *sources* (the reals it is tested against) and without images of the same group.",
        "*Strict* adds: without any image, real or fake, of the sources of either, so that no other generator of the same",
        "web site trains. All columns but the first are strict. Each version of the images is laid on both classes alike:",
        "*JPEG 85*, *web copy* (long side at most 768 pixels, then JPEG 60). Intervals are 95 %: over generators for means,",
        "bootstrap over images for AUROC, Clopper-Pearson for rates. Layers, penalty and copies were chosen on these same",
        "images among about forty candidates, so expect less elsewhere. In the first table thresholds and probabilities were",
        "set without an image's own source or generator.",
        "",
        *summary_table(held, plain, bank),
        "",
        "*TPR at 1 %/5 %* are of the ranking (threshold read off these very reals); *fakes called fake* is at the promised",
        "threshold. *Risk* is the share of wrong answers (p = 0.5, classes weighted equally) if all images, or the 80 % with",
        "the most certain probabilities, get an answer.",
        "",
        *worst(held, calibrations, bank),
        "",
        "## Thresholds",
        "",
        "Set by the Neyman-Pearson order statistic on the strict held-out scores of each version of the images; the most",
        "careful counts. The promise holds for images drawn like these, all sources together. Images of one source are",
        "alike, so it does not extend to a new source: the last table shows how unequal the sources are.",
        "",
        "| detector | called fake above | called real below | promise |",
        "| --- | --- | --- | --- |",
    ]
    for name in SHIPPED:
        c = calibrations[name]
        promise = (
            f"reals called fake <= {c.max_fpr:.0%}, fakes called real <= {c.max_miss:.0%}, each at {c.confidence:.0%}"
        )
        lines.append(f"| `{name}` | {c.fake_above:.4f} | {c.real_below:.4f} | {promise} |")
    lines += ["", *promises(held, calibrations, bank)]
    lines += ["", "## AUROC per generator held out (strict)", "", *generator_table(held, labels, generators)]
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


def promises(held: Scored, calibrations: dict[str, Calibration], bank: FeatureBank) -> list[str]:
    """What each kind of image would need, and how often the promise is broken."""
    real = per_row(held["default"]["as they are"], len(bank))[bank.labels == 0]
    kept, plain = broken_promises(real)
    lines = [
        "Each kind of real image by itself, `default`: the threshold that would keep the promise for this kind alone.",
        "",
        "| kind | reals | called fake above |",
        "| --- | --- | --- |",
    ]
    for g in calibrations["default"].groups:
        limit = "too few images for the promise" if g.fake_above is None else f"{g.fake_above:.4f}"
        lines.append(f"| {g.group} | {g.n} | {limit} |")
    return [
        *lines,
        "",
        "`univfd calibrate --worst-group` keeps the promise in every kind of your own images, at a cost in recall.",
        "",
        f"Over 200 random halves of the {len(real)} reals, a threshold set on the half and measured on all of them broke",
        f"the promise in {kept:.1%}; the plain 95 % quantile of the same halves in {plain:.1%}.",
    ]


def summary_table(held: Scored, plain: Scored, bank: FeatureBank) -> list[str]:
    """One line a method and version of the images."""
    rows = [
        "| method | images | mean AUROC over generators | the same, strict | pooled AUROC | AP | TPR at 1 % / 5 % "
        "| fakes called fake | reals called fake | unsure | ECE | risk, all / 80 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    labels = bank.labels
    for name, tests in held.items():
        scores = {test: per_row(parts, len(bank)) for test, parts in tests.items()}
        above, below, fits = cross_fitted(scores, bank)
        for test, s in scores.items():
            fake, unsure = s > above, (s <= above) & (s > below)
            caught = metrics.proportion(int(fake[labels == 1].sum()), int(labels.sum()))
            alarms = metrics.proportion(int(fake[labels == 0].sum()), int((labels == 0).sum()))
            chances = np.array([c.probability(float(score)) for c, score in zip(fits, s, strict=True)])
            ece = metrics.expected_calibration_error(labels, chances)
            tpr = " / ".join(f"{metrics.tpr_at_fpr(labels, s, rate):.2f}" for rate in (0.01, 0.05))
            risk = " / ".join(f"{risk_at(labels, chances, coverage):.3f}" for coverage in (1, 0.8))
            rows.append(
                f"| `{name}` | {test} | {mean_over_generators(plain[name][test], labels)} "
                f"| {mean_over_generators(tests[test], labels)} "
                f"| {metrics.bootstrap(metrics.auroc, labels, s)} | {metrics.average_precision(labels, s):.3f} | {tpr} "
                f"| {caught} | {alarms} | {unsure.mean():.3f} | {ece:.3f} | {risk} |"
            )
    return rows


def mean_over_generators(parts: list[HeldOut], labels: NDArray[np.uint8]) -> str:
    """Mean AUROC over the generators with enough images."""
    return mean_of(aurocs(parts, labels))


def aurocs(parts: list[HeldOut], labels: NDArray[np.uint8]) -> list[float]:
    """AUROC of each generator with enough images."""
    return [metrics.auroc(labels[p.rows], p.scores) for p in parts if labels[p.rows].sum() >= MIN_N]


def risk_at(labels: NDArray[np.uint8], chances: NDArray[Any], coverage: float) -> float:
    """Share of wrong answers among the most certain images, both classes weighted equally."""
    certain = np.argsort(-np.abs(chances - 0.5), kind="stable")[: round(coverage * len(labels))]
    return 1 - metrics.balanced_accuracy(labels[certain], chances[certain] > 0.5)


def mean_of(values: list[float]) -> str:
    """A mean over generators with its bootstrap interval (generators redrawn)."""
    array = np.array(values)
    drawn = np.random.default_rng(0).choice(array, (2000, len(array))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return str(metrics.Estimate(float(array.mean()), float(low), float(high), len(array)))


def worst(held: Scored, calibrations: dict[str, Calibration], bank: FeatureBank) -> list[str]:
    """The worst generator and the worst real source of each detector, images through JPEG 85."""
    lines, test = [], "JPEG 85"
    for name in SHIPPED:
        tests = held[name]
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
            f"Worst of `{name}`, {test}: generator **{part.generator}**, AUROC {low} (n = {low.n}); real source "
            f"**{source}**, {rates[source]} called fake (n = {rates[source].n})."
        )
    return lines


def auroc_of(part: HeldOut, labels: NDArray[np.uint8]) -> metrics.Estimate:
    """A round's AUROC; `n` is the number of fakes."""
    estimate = metrics.bootstrap(metrics.auroc, labels[part.rows], part.scores, rounds=500)
    return metrics.Estimate(estimate.value, estimate.low, estimate.high, int(labels[part.rows].sum()))


def columns_of(held: Scored) -> list[tuple[str, str]]:
    """Method and version of the images of each column: all versions for the default, one for the others."""
    return [(name, test) for name in held for test in held[name] if name == "default" or test == "JPEG 85"]


def generator_table(held: Scored, labels: NDArray[np.uint8], counts: dict[str, int]) -> list[str]:
    """One line a generator."""
    columns = columns_of(held)
    rows = [
        "| generator | n | " + " | ".join(f"`{name}`, {test}" for name, test in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    cells = {c: {p.generator: auroc_of(p, labels) for p in held[c[0]][c[1]]} for c in columns}
    for generator in sorted(counts):
        values = " | ".join(str(cells[c][generator]) for c in columns)
        rows.append(f"| {generator} | {counts[generator]} | {values} |")
    return [*rows, "", f"Generators with fewer than {MIN_N} images do not count in the mean."]


def source_table(held: Scored, calibrations: dict[str, Calibration], bank: FeatureBank) -> list[str]:
    """One line a real source: share called fake."""
    columns = columns_of(held)
    rows = [
        "| real source | n | " + " | ".join(f"`{name}`, {test}" for name, test in columns) + " |",
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
