"""The accuracy tables of the shipped detectors, in Markdown, from held-out scores; `build_default.py` calls this."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustness_tables import robustness_tables
from univfd import metrics
from univfd.bank import FeatureBank
from univfd.calibration import Calibration, calibrate, threshold_for
from univfd.evaluation import HeldOut, per_row
from univfd.types import Label

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Scored = dict[str, dict[str, list[HeldOut]]]
"""Per method and version of the images, one `HeldOut` a round."""
MAX_FPR, MAX_MISS, CONFIDENCE = 0.05, 0.05, 0.9  # what the shipped thresholds promise
PARTS = 5  # for probabilities that were fitted without an image's own source or generator
MIN_REALS = 20  # real sources with fewer images are not named as the worst
MIN_N = 5  # generators with fewer images are listed, and left out of the mean
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
REENCODED = "same size"  # the version that single columns are of


@dataclass(frozen=True)
class Study:
    """What the tables are made of.

    Attributes:
        about: what the detectors are, in Markdown.
        bank: the N judged images; its vectors are not read.
        held: strict held-out scores, per method and version of the images.
        plain: the same without holding sources out.
        forced: per method and version, `(N,)` whether the verdict is unsure whatever the score.
        calibrations: of the methods that are shipped.
        bias: per version, mean AUROC of the metadata-only detector.
        tests: the versions that thresholds are set by, of all images.
        post: further versions, of some images.
        post_images: of each generator and source, at most.
        naming: the table of attributions.
        crops: images that train only.
    """

    about: str
    bank: FeatureBank
    held: Scored
    plain: Scored
    forced: dict[str, dict[str, Flags]]
    calibrations: dict[str, Calibration]
    bias: dict[str, metrics.Estimate]
    tests: tuple[str, ...]
    post: tuple[str, ...]
    post_images: int
    naming: list[str]
    crops: int

    def mean_over_generators(self, method: str, version: str) -> str:
        """Strict mean AUROC with its interval."""
        return mean_over_generators(self.held[method][version], self.bank.labels)


@dataclass(frozen=True)
class Judged:
    """One method on one version of the images, each judged by thresholds that were set without its own origin.

    Attributes:
        scores: `(N,)` held out.
        fake: `(N,)` called fake.
        unsure: `(N,)` called unsure.
        chances: `(N,)` probabilities of being fake.
    """

    scores: Floats
    fake: Flags
    unsure: Flags
    chances: Floats


def accuracy(study: Study) -> str:
    """All tables."""
    judged = {name: judge(study, name) for name in study.held}
    parts = [
        introduction(study),
        summary_table(study, judged),
        READING,
        coverage_table(study, judged),
        worst(study, judged),
        ["## Thresholds", "", *THRESHOLDS, "", *threshold_table(study), "", *promises(study)],
        ["## AUROC per generator held out (strict)", "", *generator_table(study)],
        ["## False alarms per real source", "", *SOURCES, "", *source_table(study, judged)],
        ["## After processing", "", *robustness_tables(study, judged, [*study.tests, *study.post], study.post_images)],
        ["## Attribution", "", *study.naming],
        LIMITS,
    ]
    return "\n".join(line for part in parts for line in [*part, ""]).rstrip() + "\n"


def introduction(study: Study) -> list[str]:
    """What was measured, on what, and how."""
    bank = study.bank
    n_fake = int(bank.labels.sum())
    generators, sources = bank.counts("generator", Label.FAKE), bank.counts("source", Label.REAL)
    seen = ", ".join(f"{value} {name}" for name, value in study.bias.items() if name in study.tests)
    return [
        "# Accuracy of the shipped detectors `default`, `fast` and `neighbors`",
        "",
        study.about,
        "",
        f"**Data.** {n_fake} generated images of {len(generators)} generators, {len(bank) - n_fake} real images of {len(sources)} sources,",
        f"from public repositories; {study.crops} more, of which only a centre crop is at hand, train the probe and are not",
        "judged. A detector that sees no pixel, only what the files' headers say (`univfd audit`), reaches a strict mean AUROC",
        f"over generators of {seen}. Above 0.6 a set is unfit: size and compression differ between the classes here,",
        "re-encoding alone does not undo that, and some of what the detectors find in such versions may be it. *Same size*",
        "does undo it; that version is what single columns are of.",
        "",
        "**Protocol.** Leave one generator out: to score a generator's images, a classifier is trained without them,",
        "without one fifth of the real *sources* (the reals it is tested against) and without images of the same group.",
        "*Strict* adds: without any image, real or fake, of the sources of either, so that no other generator of the same",
        "web site trains. All columns but the first two are strict. A real image's score is the mean over the rounds that hold",
        "it out. Each version of the images is laid on both classes alike: *same size* (the largest square in the middle,",
        "scaled to 512 pixels, then JPEG 85), *JPEG 85*, *web copy* (long side at most 768 pixels, then JPEG 60); `default` and",
        "`fast` are trained on these versions too, of other images; on the further ones under *After processing* they are not.",
        "Intervals are 95 %: over generators for means, bootstrap over images for AUROC (too narrow below ten fakes: of five it",
        "holds the truth in about four cases of five, of two in about half; of one there is none),",
        "Clopper-Pearson for rates; images of one source are alike, so all are somewhat too narrow. Layers, loss, penalty and",
        "copies were chosen on these same images among about a hundred candidates, so expect less elsewhere. Every verdict",
        "below, unless it says *shipped*, is by thresholds and probabilities that were set without the image's own source or",
        "generator, and is `unsure` where a degradation or the distance to the bank makes it so. The limits of those",
        "degradations were set by eye on images of this same collection, and the limit of the distance on these rows. That",
        "pictures below 256 pixels are unsure was decided after a source of paintings that small had raised most false alarms.",
    ]


READING = [
    "*TPR at 1 %/5 %* are of the ranking (oracle: the threshold is read off these very reals); *fakes called fake* is at the",
    "promised threshold. *Forced* is the share made unsure by a degradation or by the distance to the bank; *not forced*,",
    "the others, are those that get a verdict, and those that the promise is about. *Of the verdicts*: of all images, where one",
    "that is forced is never called fake, neither a fake nor a real one (the threshold is the oracle's here too).",
]
THRESHOLDS = [
    "Set by the Neyman-Pearson order statistic on the strict held-out scores of each version of the images; the most",
    "careful counts. Images that a degradation or the distance to the bank makes unsure whatever the score do not count:",
    "no promise is made about them. It holds for images drawn like these, all sources together. Images of one source are",
    "alike, so it does not extend to a new source: the last table shows how unequal the sources are.",
]
SOURCES = [
    "Share called fake, threshold set without this source. *Shipped*: by the shipped threshold, which was set on these",
    "images too, this source among them.",
]
LIMITS = [
    "## What it can't do",
    "",
    "- It judges the picture as a whole at 224 pixels: a small local edit, and traces finer than that, are not seen.",
    "- The data hold no generator after 2023. Expect newer ones, and heavily recompressed or downscaled copies, to be",
    "  missed far more often than the mean says.",
    "- Art, renderings and heavily processed photographs raise false alarms; see the worst sources above. Nearly all real art",
    "  at hand is below 256 pixels and so unsure: nothing is promised about larger art.",
    "- The encoder is public: whoever has it can compute a picture that passes. A verdict is a signal, not proof.",
]


def judge(study: Study, name: str) -> dict[str, Judged]:
    """Verdicts of a method for each version of the images."""
    scores = {test: per_row(parts, len(study.bank)) for test, parts in study.held[name].items()}
    judged = {test: ~study.forced[name][test] for test in study.tests}
    above, below, fits = cross_fitted({test: scores[test] for test in study.tests}, judged, study.bank)
    found = {}
    for test, s in scores.items():
        forced = study.forced[name][test]
        chances = np.array([c.probability(float(score)) for c, score in zip(fits, s, strict=True)])
        found[test] = Judged(s, (s > above) & ~forced, ((s <= above) & (s > below)) | forced, chances)
    return found


def summary_table(study: Study, judged: dict[str, dict[str, Judged]]) -> list[str]:
    """One line a method and version of the images."""
    rows = [
        "| method | images | mean AUROC over generators | TPR at 1 % / 5 % | mean AUROC, strict | pooled AUROC | AP "
        "| TPR at 1 % / 5 %, strict | the same, not forced | TPR at 5 % of the verdicts, plain / strict | balanced accuracy | fakes called fake | reals called fake | unsure | forced, fakes / reals | ECE |",
        "| --- |" + " --- |" * 15,
    ]
    labels = study.bank.labels
    for name, tests in judged.items():
        for test in study.tests:
            j = tests[test]
            plain = per_row(study.plain[name][test], len(labels))
            tpr_plain, tpr, tpr_free = (
                " / ".join(f"{metrics.tpr_at_fpr(labels[rows], scores[rows], rate):.2f}" for rate in (0.01, 0.05))
                for scores, rows in (
                    (plain, slice(None)),
                    (j.scores, slice(None)),
                    (j.scores, ~study.forced[name][test]),
                )
            )
            never = study.forced[name][test]
            called = " / ".join(
                f"{metrics.tpr_at_fpr(labels, np.where(never, -np.inf, scores), MAX_FPR):.2f}"
                for scores in (plain, j.scores)
            )
            forced = " / ".join(f"{never[labels == c].mean():.3f}" for c in (1, 0))
            rows.append(
                f"| `{name}` | {test} | {mean_over_generators(study.plain[name][test], labels)} | {tpr_plain} "
                f"| {mean_over_generators(study.held[name][test], labels)} "
                f"| {metrics.bootstrap(metrics.auroc, labels, j.scores)} "
                f"| {metrics.average_precision(labels, j.scores):.3f} | {tpr} | {tpr_free} | {called} "
                f"| {metrics.balanced_accuracy(labels, j.chances > 0.5):.3f} "
                f"| {share(j.fake, labels == 1)} | {share(j.fake, labels == 0)} | {j.unsure.mean():.3f} | {forced} "
                f"| {metrics.expected_calibration_error(labels, j.chances):.3f} |"
            )
    return rows


def share(flags: Flags, among: Flags) -> metrics.Estimate:
    """Share of some images that have a flag."""
    return metrics.proportion(int(flags[among].sum()), int(among.sum()))


def coverage_table(study: Study, judged: dict[str, dict[str, Judged]]) -> list[str]:
    """Risk of the default at falling coverage."""
    rows = [
        "Risk against coverage, `default`: share of wrong answers (p = 0.5, classes weighted equally) if so many images, the",
        "ones with the most certain probabilities, get an answer.",
        "",
        "| images | " + " | ".join(f"{c:.0%}" for c in COVERAGES) + " |",
        "| --- |" + " --- |" * len(COVERAGES),
    ]
    for test in study.tests:
        chances = judged["default"][test].chances
        risks = " | ".join(f"{risk_at(study.bank.labels, chances, c):.3f}" for c in COVERAGES)
        rows.append(f"| {test} | {risks} |")
    return rows


def mean_over_generators(parts: list[HeldOut], labels: NDArray[np.uint8]) -> str:
    """Mean AUROC over the generators with enough images."""
    return mean_of(aurocs(parts, labels))


def aurocs(parts: list[HeldOut], labels: NDArray[np.uint8]) -> list[float]:
    """AUROC of each generator with enough images."""
    return [metrics.auroc(labels[p.rows], p.scores) for p in parts if labels[p.rows].sum() >= MIN_N]


def risk_at(labels: NDArray[np.uint8], chances: Floats, coverage: float) -> float:
    """Share of wrong answers among the most certain images, both classes weighted equally."""
    certain = np.argsort(-np.abs(chances - 0.5), kind="stable")[: round(coverage * len(labels))]
    return 1 - metrics.balanced_accuracy(labels[certain], chances[certain] > 0.5)


def mean_of(values: list[float]) -> str:
    """A mean over generators with its bootstrap interval (generators redrawn)."""
    array = np.array(values)
    drawn = np.random.default_rng(0).choice(array, (2000, len(array))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return str(metrics.Estimate(float(array.mean()), float(low), float(high), len(array)))


def worst(study: Study, judged: dict[str, dict[str, Judged]]) -> list[str]:
    """The worst generator and the worst real source of each shipped detector."""
    lines = []
    for name in study.calibrations:
        each = [(p.generator, auroc_of(p, study.bank.labels)) for p in study.held[name][REENCODED]]
        generator, low = min(((g, a) for g, a in each if a.n >= MIN_N), key=lambda pair: pair[1].value)
        rates = {
            source: share(judged[name][REENCODED].fake, real_rows(study.bank, source))
            for source, n in study.bank.counts("source", Label.REAL).items()
            if n >= MIN_REALS
        }
        source = max(rates, key=lambda s: rates[s].value)
        lines.append(
            f"Worst of `{name}`, {REENCODED}: generator **{generator}**, AUROC {low} (n = {low.n}); real source "
            f"**{source}**, {rates[source]} called fake (n = {rates[source].n})."
        )
    return lines


def real_rows(bank: FeatureBank, source: str) -> Flags:
    """`(N,)` the real images of a source."""
    return np.asarray((bank.source == source) & (bank.labels == 0))


def threshold_table(study: Study) -> list[str]:
    """The shipped thresholds."""
    rows = ["| detector | called fake above | called real below | promise |", "| --- | --- | --- | --- |"]
    for name, c in study.calibrations.items():
        rows.append(
            f"| `{name}` | {c.fake_above:.4f} | {c.real_below:.4f} | reals called fake <= {c.max_fpr:.0%}, fakes called real "
            f"<= {c.max_miss:.0%}, each at {c.confidence:.0%} |"
        )
    return rows


def promises(study: Study) -> list[str]:
    """What each kind of image would need, and how often the promise is broken."""
    calibration = study.calibrations["default"]
    judged = (study.bank.labels == 0) & ~study.forced["default"]["as they are"]
    real = per_row(study.held["default"]["as they are"], len(study.bank))[judged]
    kept, plain = broken_promises(real)
    lines = [
        "Each kind of real image by itself, `default`: the threshold that would keep the promise for this kind alone.",
        "",
        "| kind | reals | called fake above |",
        "| --- | --- | --- |",
    ]
    for g in calibration.groups:
        limit = "too few images for the promise" if g.fake_above is None else f"{g.fake_above:.4f}"
        lines.append(f"| {g.group} | {g.n} | {limit} |")
    return [
        *lines,
        "",
        "`univfd calibrate --worst-group` keeps the promise in every kind of your own images, at a cost in recall.",
        "",
        f"Over 200 random halves of those {len(real)} reals that get a verdict, a threshold set on the half and measured on all of them broke",
        f"the promise in {kept:.1%}; the plain 95 % quantile of the same halves in {plain:.1%}. A half is a part of what it is measured on;",
        "on new images drawn alike 8 to 10 % are to be expected of a promise at 90 %.",
    ]


def broken_promises(scores: Floats, halves: int = 200) -> tuple[float, float]:
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
    scores: dict[str, Floats], judged: dict[str, Flags], bank: FeatureBank
) -> tuple[Floats, Floats, list[Calibration]]:
    """Thresholds and probabilities for each image that were set without its own source or generator.

    Args:
        scores: held-out scores `(N,)` of each version of the images.
        judged: per version, `(N,)` the images that are not unsure whatever the score; thresholds are set by these.
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
            limit = max(threshold_for(sign * s[others & judged[t]], rate, CONFIDENCE) for t, s in scores.items())
            limits[origin == name] = sign * limit
    part = np.unique(origin, return_inverse=True)[1] % PARTS  # whole sources and generators in each part
    fits = []
    for p in range(PARTS):
        rest = part != p
        pooled = np.concatenate([s[rest] for s in scores.values()])
        fits.append(calibrate(pooled, np.tile(bank.labels[rest], len(scores))))
    return above, np.minimum(below, above), [fits[p] for p in part]


def auroc_of(part: HeldOut, labels: NDArray[np.uint8]) -> metrics.Estimate:
    """A round's AUROC; `n` is the number of fakes, and of one fake there is no interval."""
    fakes = int(labels[part.rows].sum())
    if fakes < 2:
        return metrics.Estimate(metrics.auroc(labels[part.rows], part.scores), np.nan, np.nan, fakes)
    estimate = metrics.bootstrap(metrics.auroc, labels[part.rows], part.scores, rounds=500)
    return metrics.Estimate(estimate.value, estimate.low, estimate.high, fakes)


def columns_of(study: Study) -> list[tuple[str, str]]:
    """Method and version of the images of each column: all versions for the default, one for the others."""
    return [(m, test) for m in study.held for test in study.tests if m == "default" or test == REENCODED]


def generator_table(study: Study) -> list[str]:
    """One line a generator."""
    columns, labels = columns_of(study), study.bank.labels
    rows = [
        "| generator | n | " + " | ".join(f"`{name}`, {test}" for name, test in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    cells = {c: {p.generator: auroc_of(p, labels) for p in study.held[c[0]][c[1]]} for c in columns}
    for generator, n in sorted(study.bank.counts("generator", Label.FAKE).items()):
        values = " | ".join(str(cells[c][generator]) for c in columns)
        rows.append(f"| {generator} | {n} | {values} |")
    return [*rows, "", f"Generators with fewer than {MIN_N} images do not count in the mean."]


def source_table(study: Study, judged: dict[str, dict[str, Judged]]) -> list[str]:
    """One line a real source: share called fake."""
    columns = columns_of(study)
    default = judged["default"][REENCODED]
    shipped = (default.scores > study.calibrations["default"].fake_above) & ~study.forced["default"][REENCODED]
    flags = {f"`{m}`, {test}": judged[m][test].fake for m, test in columns} | {
        f"*shipped* `default`, {REENCODED}": shipped
    }
    rows = ["| real source | n | " + " | ".join(flags) + " |", "| --- | --- |" + " --- |" * len(flags)]
    for source, n in sorted(study.bank.counts("source", Label.REAL).items()):
        values = " | ".join(str(share(f, real_rows(study.bank, source))) for f in flags.values())
        rows.append(f"| {source} | {n} | {values} |")
    return rows
