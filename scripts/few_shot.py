"""How many images of a new generator the default detector needs: recall before and after they are added to its bank.

    python scripts/few_shot.py DATA [--cache DIR] [-o FILE]

For each generator in turn the probe is trained and the bank is filled without it (and without the reals it is judged
against, as in `build_default.py`); then 0, 1, 5, 20 and 100 of its images, drawn at random several times, are added to
the bank, which trains nothing, and the others are judged at the shipped threshold. Writes Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401  # as in build_default.py
from threadpoolctl import threadpool_limits

from build_default import BACKBONE, COMPUTED, PROBES, VIEW, Parts, bank_of, columns, fit_beside, held_by_bank
from image_versions import TESTS, cohort_of, embedded, halves
from univfd.backbones import open_backbone
from univfd.classifiers.svm import SupportVectorProbe
from univfd.datasets import open_dataset
from univfd.detector import load
from univfd.evaluation import rounds
from univfd.storage import require_new
from univfd.views import view

DETECTOR = "default"
ADDED = (0, 1, 5, 20, 100)
DRAWS = 5
LEFT = 5  # images to judge after the largest addition, at least
VERSIONS = ("as they are", "same size")
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/few_shot.md"))
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    args = parser.parse_args()
    require_new(args.output)
    with threadpool_limits(limits=1):
        text = measured(args.data, args.cache)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, "utf-8")


def measured(data: Path, cache: Path) -> str:
    """The tables."""
    samples = sorted(open_dataset(data), key=lambda s: s.extra["crop"] is not None)
    whole = [s for s in samples if s.extra["crop"] is None]
    computing, cut = open_backbone(BACKBONE, taps=COMPUTED), view(VIEW)
    made = {p: halves(embedded(computing, cut, samples, p, cache)) for _, names in PROBES for p in names}
    copies = {p: columns(vectors, DETECTOR) for p, vectors in made.items()}
    detector = load(DETECTOR)
    bank = bank_of(whole, held_by_bank(copies["clean"][: len(whole)], DETECTOR), detector.bank.space)
    threshold = detector.calibration.fake_above
    if threshold is None:
        sys.exit("the shipped default has no threshold")
    rng = np.random.default_rng(SEED)
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    alarms: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for r in rounds(cohort_of(samples, len(whole)), by_source=False):
        fakes = r.test[bank.labels[r.test] == 1]
        reals = r.test[bank.labels[r.test] == 0]
        if len(fakes) < LEFT + 1:
            continue
        print(r.generator, len(fakes), file=sys.stderr)
        parts: Parts = [(weight, [copies[p][r.train] for p in names]) for weight, names in PROBES]
        base = bank.take(r.train[r.train < len(whole)])
        probe = fit_beside([samples[i] for i in r.train], DETECTOR, parts, base)
        for number in (m for m in ADDED if m + LEFT <= len(fakes)):
            for _ in range(DRAWS if number else 1):
                order = rng.permutation(fakes)
                groups = {whole[i].group for i in order[:number]} - {""}
                judged = np.array([i for i in order[number:] if whole[i].group not in groups], int)
                if not len(judged):
                    continue
                grown = base.add(bank.take(order[:number]))
                now = SupportVectorProbe.from_state(probe.get_params(), probe.state(), grown)
                for version in VERSIONS:
                    x = copies[TESTS[version]]
                    recall = (now.decision_function(x[judged]) > threshold).mean()
                    found[version, r.generator, number].append(float(recall))
                    alarms[version, r.generator, number].append(
                        float((now.decision_function(x[reals]) > threshold).mean())
                    )
    sizes = {g: int((bank.generator == g).sum()) for _, g, _ in found}
    return "\n".join(line for version in VERSIONS for line in table(version, found, alarms, sizes)) + "\n"


def table(
    version: str,
    found: dict[tuple[str, str, int], list[float]],
    alarms: dict[tuple[str, str, int], list[float]],
    sizes: dict[str, int],
) -> list[str]:
    """Recall of each generator, its mean over the generators that have so many images, and the mean rate of false alarms."""
    head = [
        "| generator | n | " + " | ".join(f"{m} added" for m in ADDED) + " |",
        "| --- |" + " ---: |" * (1 + len(ADDED)),
    ]
    rows = []
    for generator in sorted(sizes, key=lambda g: (-sizes[g], g)):
        cells = [found.get((version, generator, m)) for m in ADDED]
        rows.append(
            f"| {generator} | {sizes[generator]} | "
            + " | ".join(f"{np.mean(c):.2f}" if c else "" for c in cells)
            + " |"
        )
    for name, values in (("mean recall", found), ("mean false alarms", alarms)):
        rows.append(f"| **{name}** (generators) | | " + " | ".join(_change(values, version, m) for m in ADDED) + " |")
    return [f"**{version.capitalize()}**", "", *head, *rows, ""]


def _change(values: dict[tuple[str, str, int], list[float]], version: str, number: int) -> str:
    """Before and after, in the mean over the generators that have so many images."""
    have = sorted(g for v, g, m in values if (v, m) == (version, number))
    if not have:
        return ""
    before, after = (np.mean([np.mean(values[version, g, m]) for g in have]) for m in (0, number))
    return f"{before:.3f} ({len(have)})" if number == 0 else f"{before:.3f} -> {after:.3f} ({len(have)})"


if __name__ == "__main__":
    main()
