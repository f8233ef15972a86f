"""Build the shipped detectors and their model card from a folder of labelled images. The same input gives the same bytes.

    python scripts/build_default.py DATA [--cache DIR] [-o FOLDER]

To ship the result, move what it writes to `src/univfd/detectors`.

DATA has `manifest.jsonl` (columns file, label, generator, source, group, license). Writes `default/` (linear probe),
`fast/` (the same of fewer blocks, with a bank of its own) and `neighbors/` (nearest neighbours, on the bank of `default`),
each with the patch probe of heat maps and its model card, all figures of which come out of this run; `accuracy.md` holds
the same tables for the documentation (`docs/accuracy.md`). The encoder runs once an image and version, for the layers of
all of them.
Embeddings are kept in the cache folder, by content, feature space and perturbation.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import scipy.linalg  # noqa: F401  # the limit on threads reaches only libraries that are loaded already
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import patch_probe_fit
from accuracy_tables import CONFIDENCE, MAX_FPR, MAX_MISS, Flags, Scored, Study, accuracy
from attribution_table import attribution_table
from image_versions import (
    POST,
    POST_IMAGES,
    TESTS,
    Halves,
    cohort_of,
    embedded,
    first_of_each,
    halves,
    looks,
    only_made,
    versions,
)
from univfd.attribution import naming_distance
from univfd.backbones import open_backbone
from univfd.bank import BankType, FeatureBank, as_stored, origins
from univfd.calibration import Calibration, GroupPromise, calibrate, threshold_for
from univfd.catalogue import entry as catalogue_entry
from univfd.classifiers import Classifier
from univfd.classifiers.knn import NearestNeighbor
from univfd.classifiers.linear import LinearProbe
from univfd.classifiers.ridge import first_layers
from univfd.classifiers.svm import SupportVectorProbe
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.embedding import space_of
from univfd.evaluation import HeldOut, held_out_scores, per_row
from univfd.search import to_unit
from univfd.storage import require_new
from univfd.types import Embeddings, FeatureSpace, FloatArray, Sample
from univfd.views import view

BACKBONE = "clip-vit-b-16"
VIEW = "resize"
HELD = {
    "default": ("cls.6", "cls.7", "cls.8", "cls.9", "cls.10"),
    "fast": ("cls.5", "cls.6", "cls.7", "cls.8@6", "cls.9@6", "cls.10@6"),
}  # what a detector's bank has of the encoder
TAPS = {"default": (*HELD["default"], "mlp.8"), "fast": HELD["fast"]}  # what its score reads
DIM = catalogue_entry(BACKBONE).tap_dim
COMPUTED = tuple(dict.fromkeys(tap for taps in TAPS.values() for tap in taps))
PAPER = (("proj",), "native")  # taps and view of the paper's own feature
# Each probe is the mean of two: hard random copies make it sure-footed, mild ones, alike for all images, sharp.
PROBES = (
    (1, ("clean", "augment:1", "augment:2")),
    (5, ("clean", *(p for p in TESTS.values() if p != "clean"))),
)  # weight, copies that it is trained on
BANK_TYPE: BankType = "int8"
ADDED = "2026-11-24"
UNKNOWN_SHARE = 0.01  # of images like the known ones that are called unlike them, at most


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the tables: the classifier and its parameters."""

    make: Callable[..., Any]
    params: dict[str, Any]


def layers(taps: Sequence[str]) -> int | list[int]:
    """Of the taps: how many, or where they are not alike the size of each."""
    sizes = [*map(DIM, taps)]
    return len(taps) if len(set(sizes)) == 1 else sizes


METHODS = {
    "default": Method(SupportVectorProbe, {"alpha": 0.2, "between": 4.0, "layers": layers(TAPS["default"])}),
    "fast": Method(SupportVectorProbe, {"alpha": 0.2, "between": 4.0, "layers": layers(TAPS["fast"])}),
    "neighbors": Method(NearestNeighbor, {"k": 1}),
    "paper-probe": Method(LinearProbe, {}),
    "paper-nearest": Method(NearestNeighbor, {"k": 1}),
}
SHIPPED = ("default", "fast", "neighbors")
Parts = list[tuple[float, list[Halves]]]
Features = dict[str, tuple[Parts, dict[str, Halves]]]
"""Per method: its parts (weight, training sets), and its test sets by version of the images."""
ABOUT = f"""\
Frozen encoder `{BACKBONE}`, view `{VIEW}` (short side to 224 pixels, centre crop), layers side by side: `default` reads the
CLS tokens after blocks 6 to 10 of 12 and, for its score alone, the class token's 3,072 units in the MLP of block 8, after their
activation (`mlp.8`); `fast` the CLS tokens after blocks 5 to 10 where behind block 6 the class token alone goes on, while the
patch tokens that it reads stay what they were (`cls.8@6` and so on). Each is the mean of two linear support-vector probes on
the layers' directions (the second counts five times), both kept from scoring the sources of one class
differently: one trained on every image as it is and on two copies that were cropped, scaled, blurred, made noisy and
re-encoded at random, both classes alike; one on every image as it is and in the other versions below that have all
images (*same size*, *JPEG 85*, *web copy*). `neighbors` is the paper's nearest neighbour (k = 1, cosine distance) on the
bank of `default`, which has the CLS tokens; a bank's nearest rows are the evidence. `fast` has a bank of the same images in
its own tokens. Both hold the images as they are. `paper-probe` and `paper-nearest` are the paper's two methods with this
encoder: its projected embedding, the native centre crop, images as they are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/detectors"))
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    args = parser.parse_args()
    for name in SHIPPED:
        require_new(args.output / name)
    with threadpool_limits(limits=1):  # sums in another order would change the last bits of the detector
        build(args.data, args.cache, args.output)


def build(data: Path, cache: Path, output: Path) -> None:
    """Embed, hold out, calibrate, write."""
    # The view takes in the whole picture: files that are only a crop of the original train the probe (a user's picture
    # may be a crop as well), but are not judged and not in the bank.
    samples = sorted(open_dataset(data), key=lambda s: s.extra["crop"] is not None)
    whole = [s for s in samples if s.extra["crop"] is None]
    some = first_of_each(whole, POST_IMAGES)
    opened = {name: open_backbone(BACKBONE, taps=taps) for name, taps in TAPS.items()}
    features = features_of(samples, whole, some, cache)
    holding = {name: open_backbone(BACKBONE, taps=taps) for name, taps in HELD.items()}
    tests = {name: {t: held_by_bank(x, name) for t, x in features[name][1].items()} for name in TAPS}
    banks = {name: bank_of(whole, tests[name]["as they are"], space_of(holding[name], view(VIEW))) for name in TAPS}
    opened["neighbors"] = holding["default"]
    banks["neighbors"], tests["neighbors"] = banks["default"], tests["default"]
    features["neighbors"] = ([(1, [banks["neighbors"].vectors])], tests["neighbors"])
    features = {name: features[name] for name in METHODS}  # the order of the tables

    held, plain = (only_made(scored(samples, features, by_source=strict), some) for strict in (True, False))
    kinds = [s.extra["content"] for s in whole]
    bias, degraded = looks(whole, some)
    within = {n: threshold_for(distances_elsewhere(b, b.unit), UNKNOWN_SHARE, CONFIDENCE) for n, b in banks.items()}
    unsure = {n: forced_unsure(b, tests[n], degraded, within[n]) for n, b in banks.items()}
    never = {test: np.zeros(len(whole), bool) for test in tests["default"]}  # the paper's methods have no such rule
    forced = {name: unsure.get(name, never) for name in METHODS}
    calibrations = {n: calibration_of(held[n], b, tests[n], kinds, unsure[n], within[n]) for n, b in banks.items()}
    groups = np.array([s.group for s in whole], dtype=object)
    bank = banks["default"]
    naming = attribution_table(bank, {t: to_unit(tests["default"][t]) for t in TESTS}, groups, CONFIDENCE)
    study = Study(
        about=ABOUT, bank=bank, held=held, plain=plain, forced=forced, calibrations=calibrations, bias=bias,
        tests=tuple(TESTS), post=tuple(POST), post_images=POST_IMAGES, naming=naming, crops=len(samples) - len(whole),
    )  # fmt: skip
    card = accuracy(study)
    fitted: dict[str, Classifier] = {name: fit_beside(samples, name, features[name][0], banks[name]) for name in TAPS}
    fitted["neighbors"] = NearestNeighbor.from_bank(banks["neighbors"], METHODS["neighbors"].params)
    # It has a tap and a view of its own, and no verdict uses it.
    probe, maps = patch_probe_fit.build(BACKBONE, samples, ("clean",), cache)
    for name in SHIPPED:
        detector = Detector(name, opened[name], view(VIEW), fitted[name], banks[name], calibrations[name], probe)
        shared = name not in TAPS
        detector.save(output / name, bank_dtype=BANK_TYPE, bank_of_default=shared, card=f"{card}\n{maps}")
        print(f"{output / name}: {detector.identity}", file=sys.stderr)
    (output / "accuracy.md").write_text(f"{card}\n{maps}", "utf-8")


def features_of(samples: list[Sample], whole: list[Sample], some: NDArray[np.intp], cache: Path) -> Features:
    """What each probe is trained and tested on.

    Args:
        samples: the N images, whole ones first.
        whole: the first of them.
        some: rows of those that further versions are made of.
        cache: embeddings are taken from there, and kept there.
    """
    backbone, cut = open_backbone(BACKBONE, taps=COMPUTED), view(VIEW)
    made = {p: halves(embedded(backbone, cut, samples, p, cache)) for _, copies in PROBES for p in copies}
    computed = versions(backbone, cut, whole, some, cache)
    papers = versions(open_backbone(BACKBONE, taps=PAPER[0]), view(PAPER[1]), whole, some, cache)
    features: Features = {}
    for name in TAPS:
        probes: Parts = [(weight, [columns(made[p], name) for p in copies]) for weight, copies in PROBES]
        features[name] = (probes, {test: columns(x, name) for test, x in computed.items()})
    return features | dict.fromkeys(("paper-probe", "paper-nearest"), ([(1, [papers["as they are"]])], papers))


def columns(vectors: Halves, name: str) -> Halves:
    """A detector's own embeddings `(N, D)` among the ones that were computed."""
    ends = np.cumsum([*map(DIM, COMPUTED)])
    layers = dict(zip(COMPUTED, np.split(vectors, ends[:-1], axis=1), strict=True))
    return np.concatenate([layers[tap] for tap in TAPS[name]], axis=1)


def held_by_bank(vectors: Halves, name: str) -> FloatArray:
    """What a detector's bank has of its embeddings `(N, D)`."""
    return vectors[:, : sum(map(DIM, HELD[name]))].astype(np.float32)


def fit_beside(samples: list[Sample], name: str, probes: Parts, bank: FeatureBank) -> SupportVectorProbe:
    """A detector's classifier, its bank remembered; with a probe of what the bank has where that is less."""
    probe = fit_probe(samples, name, probes)
    if HELD[name] == TAPS[name]:
        return probe.beside(bank)
    less: Parts = [(weight, [x[:, : bank.space.dim] for x in copies]) for weight, copies in probes]
    return probe.beside(bank, fit_probe(samples, name, less, layers=first_layers(probe.layers, bank.space.dim)))


def fit_probe(samples: list[Sample], name: str, probes: Parts, **params: Any) -> SupportVectorProbe:
    """The weighted mean of probes, each on its copies of all images.

    Args:
        samples: the images.
        name: the detector's.
        probes: the copies.
        params: in place of the detector's own.
    """
    cohort = cohort_of(samples, len(samples))
    fitted = []
    for _, copies in probes:
        labels, places = (np.tile(c, len(copies)) for c in (cohort.labels, origins(cohort.generator, cohort.source)))
        made = SupportVectorProbe(**METHODS[name].params | params)
        fitted.append(made.fit(np.concatenate(copies), labels, groups=places))
    return SupportVectorProbe.mean(fitted, [weight for weight, _ in probes])


def bank_of(samples: list[Sample], vectors: FloatArray, space: FeatureSpace) -> FeatureBank:
    """The bank of some images as it will be read back."""
    return FeatureBank.from_rows(
        Embeddings(as_stored(vectors, BANK_TYPE), space),
        [s.label for s in samples],
        [s.extra["file_sha256"] for s in samples],
        generator=[s.generator for s in samples],
        source=[s.source for s in samples],
        licence=[s.licence for s in samples],
        added=ADDED,
    )


def scored(samples: list[Sample], features: Features, *, by_source: bool) -> Scored:
    """Held-out scores of each method and version of the images; all methods have the same rounds.

    Args:
        samples: whole images first.
        features: per method its parts (weight, training sets: rows as samples, or only the whole ones) and its test sets
            (whole ones). A method's score is the weighted mean of its parts'.
        by_source: see `univfd.evaluation.rounds`.
    """
    n = sum(s.extra["crop"] is None for s in samples)
    jobs = []
    for name, (parts, tests) in features.items():
        rows = len(parts[0][1][0])
        padded = {t: np.concatenate([x, np.zeros((rows - n, x.shape[1]), x.dtype)]) for t, x in tests.items()}
        make = partial(METHODS[name].make, **METHODS[name].params)
        jobs += [(name, cohort_of(samples[:rows], n), train, padded, make) for _, train in parts]
    print(f"leaving generators out{' and sources' if by_source else ''}: {', '.join(features)}", file=sys.stderr)
    with joblib.parallel_config("loky", n_jobs=-1, inner_max_num_threads=1):
        scores = joblib.Parallel()(joblib.delayed(held_out_scores)(*job[1:], by_source=by_source) for job in jobs)
    held = {}
    for name, (parts, tests) in features.items():
        found = [s for job, s in zip(jobs, scores, strict=True) if job[0] == name]
        held[name] = {t: mean_of([f[t] for f in found], [weight for weight, _ in parts]) for t in tests}
    return held


def mean_of(parts: list[list[HeldOut]], weights: list[float]) -> list[HeldOut]:
    """The weighted mean of several classifiers' scores in the same rounds."""
    return [
        dataclasses.replace(same[0], scores=np.average([h.scores for h in same], axis=0, weights=weights))
        for same in zip(*parts, strict=True)
    ]


def calibration_of(
    held: dict[str, list[HeldOut]], bank: FeatureBank, tests: dict[str, FloatArray], kinds: list[str],
    unsure: dict[str, Flags], within: float,
) -> Calibration:  # fmt: skip
    """Thresholds that keep their promise for each version of the images, by its own held-out scores.

    Images that are unsure whatever the score do not count: no promise is made about them.

    Two versions of one image are not independent, so they are not pooled for the thresholds; the most careful one
    counts, for all images together and for each kind of image on record.
    """
    scores = {test: per_row(held[test], len(bank)) for test in TESTS}
    data = f"leave-one-generator-out scores; images {', '.join(TESTS)}; the most careful threshold"
    promise = {"max_fpr": MAX_FPR, "max_miss": MAX_MISS, "confidence": CONFIDENCE, "data": data}
    each = []
    for test, s in scores.items():
        rows = np.flatnonzero(~unsure[test])
        each.append(calibrate(s[rows], bank.labels[rows], groups=[kinds[i] for i in rows], **promise))  # type: ignore[arg-type]
    both = calibrate(np.concatenate(list(scores.values())), np.tile(bank.labels, len(scores)), **promise)  # type: ignore[arg-type]
    groups = most_careful([g for c in each for g in c.groups])
    return dataclasses.replace(
        each[0], fake_above=max(c.fake_above for c in each), real_below=min(c.real_below for c in each),
        slope=both.slope, intercept=both.intercept, groups=groups,
        known_within=within,
        named_within=min(naming_distance(bank, to_unit(tests[test])) or 0 for test in TESTS),
    )  # fmt: skip


def most_careful(promises: list[GroupPromise]) -> tuple[GroupPromise, ...]:
    """One promise a kind of image, of those of all versions; none where a version has too few of it."""
    found = []
    for kind in sorted({g.group for g in promises}):
        limits = [g.fake_above for g in promises if g.group == kind]
        known = [limit for limit in limits if limit is not None]
        least = min(g.n for g in promises if g.group == kind)
        found.append(GroupPromise(kind, least, max(known) if len(known) == len(limits) else None))
    return tuple(found)


def distances_elsewhere(bank: FeatureBank, unit: FloatArray) -> NDArray[np.float64]:
    """Cosine distance `(N,)` of each image (unit vectors `(N, D)`, in the bank's order) to its nearest bank row of another
    source, as a new picture has one.
    """
    sources, codes = np.unique(bank.source.astype(str), return_inverse=True)
    found = np.empty(len(bank))
    for code in range(len(sources)):
        here = codes == code
        found[here] = 1 - (unit[here] @ bank.unit[~here].T).max(axis=1)
    return found


def forced_unsure(
    bank: FeatureBank, tests: dict[str, FloatArray], degraded: dict[str, Flags], within: float
) -> dict[str, Flags]:
    """Per version, `(N,)` whether a shipped detector says unsure whatever the score."""
    return {t: degraded[t] | (distances_elsewhere(bank, to_unit(x)) > within) for t, x in tests.items()}


if __name__ == "__main__":
    main()
