"""What a lossy engine does to the shipped detectors' held-out scores, in JSON and as a Markdown table.

    python scripts/lossy_tables.py DATA [--engine openvino-bf16] [--cache DIR] [-o FILE]

DATA as for `build_default.py`, whose rounds these are: trained on embeddings in float32, as what is shipped is,
then judged on those and on those of the lossy engine, both kept as the build keeps them, by the shipped thresholds.
Embeddings are kept in the cache folder, which may be that of `build_default.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from accuracy_tables import aurocs, mean_of
from build_default import BACKBONE, COMPUTED, PROBES, TAPS, VIEW, Features, Parts, columns, scored
from image_versions import TESTS, embedded, halves
from univfd import metrics
from univfd.backbones import open_backbone
from univfd.datasets import open_dataset
from univfd.detector import load
from univfd.evaluation import HeldOut, per_row
from univfd.types import Label
from univfd.views import view

EXACT, LOSSY = "exact", "lossy"
MAX_FPR = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--engine", default="openvino-bf16")
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    with threadpool_limits(limits=1):
        found = compared(args.data, args.engine, args.cache)
    text = json.dumps(found, indent=1)
    print(text, *table(found), sep="\n")
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def compared(data: Path, engine: str, cache: Path) -> dict[str, Any]:
    """Per detector and version of the images: both engines' figures, and how far the scores move."""
    samples = sorted(open_dataset(data), key=lambda s: s.extra["crop"] is not None)  # whole ones first: judged
    whole = [s for s in samples if s.extra["crop"] is None]
    exact, lossy = open_backbone(BACKBONE, taps=COMPUTED), open_backbone(BACKBONE, taps=COMPUTED, engine=engine)
    cut = view(VIEW)
    made = {p: halves(embedded(exact, cut, samples, p, cache)) for _, copies in PROBES for p in copies}
    lost = {test: halves(embedded(lossy, cut, whole, p, cache)) for test, p in TESTS.items()}
    features: Features = {}
    for name in TAPS:
        tests = {(test, EXACT): columns(made[p][: len(whole)], name) for test, p in TESTS.items()}
        tests |= {(test, LOSSY): columns(lost[test], name) for test in TESTS}
        parts: Parts = [(weight, [columns(made[p], name) for p in copies]) for weight, copies in PROBES]
        features[name] = (parts, {"/".join(key): x for key, x in tests.items()})
    labels = np.array([s.label for s in whole], np.uint8)
    plain, strict = (scored(samples, features, by_source=by_source) for by_source in (False, True))
    return {
        "engine": engine,
        "fakes": int((labels == Label.FAKE).sum()),
        "reals": int((labels == Label.REAL).sum()),
        "detectors": {
            name: {test: figures(plain[name], strict[name], test, labels, name) for test in TESTS} for name in TAPS
        },
    }


def figures(
    plain: dict[str, list[HeldOut]], strict: dict[str, list[HeldOut]], test: str, labels: Any, name: str
) -> dict[str, Any]:
    """Of one detector on one version of the images."""
    threshold = load(name).calibration.fake_above
    found: dict[str, Any] = {}
    for engine in (EXACT, LOSSY):
        key = f"{test}/{engine}"
        scores = per_row(plain[key], len(labels))
        fake = per_row(strict[key], len(labels)) > threshold
        found[engine] = {
            "mean_auroc": mean_of(aurocs(plain[key], labels)),
            "mean_auroc_strict": mean_of(aurocs(strict[key], labels)),
            "tpr_at_5_fpr": round(metrics.tpr_at_fpr(labels, scores, MAX_FPR), 3),
            "fakes_above": round(float(fake[labels == 1].mean()), 4),
            "reals_above": round(float(fake[labels == 0].mean()), 4),
        }
    before, after = (per_row(strict[f"{test}/{engine}"], len(labels)) for engine in (EXACT, LOSSY))
    auroc = [np.array(aurocs(plain[f"{test}/{engine}"], labels)) for engine in (EXACT, LOSSY)]
    return found | {
        "mean_auroc_lost": mean_of(list(auroc[0] - auroc[1])),
        "spread_of_scores": round(float(before.std()), 3),
        "moved_rms": round(float(np.sqrt(np.mean((after - before) ** 2))), 4),
        "moved_most": round(float(np.abs(after - before).max()), 4),
        "moved_mean": round(float((after - before).mean()), 4),
        "across_the_threshold": int(((before > threshold) != (after > threshold)).sum()),
    }


def table(found: dict[str, Any]) -> list[str]:
    """In Markdown."""
    rows = ["| detector | images | mean AUROC, exact | lossy | TPR at 5 %, exact | lossy | reals above the threshold, exact "
            "| lossy | score moved by, rms / most |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, tests in found["detectors"].items():
        for test, f in tests.items():
            cells = [
                f[engine][key] for key in ("mean_auroc", "tpr_at_5_fpr", "reals_above") for engine in (EXACT, LOSSY)
            ]
            moved = f"{f['moved_rms']:.3f} / {f['moved_most']:.2f}"
            rows.append(f"| `{name}` | {test} | " + " | ".join(map(str, cells)) + f" | {moved} |")
    return rows


if __name__ == "__main__":
    main()
