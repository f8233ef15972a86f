"""What the web does to pictures, and what is left of the detectors: tables over many versions of some of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from univfd import metrics
from univfd.types import Label

if TYPE_CHECKING:
    from accuracy_tables import Judged, Study

INTRODUCTION = [
    "Strict; the versions that thresholds are set by on all images, the others on at most {most} images of each generator and",
    "real source. *JPEG q*, *WebP q*: one re-encoding; *hard copy*: long side at most 512 pixels, JPEG 40; *half size*: scaled",
    "by 0.5, JPEG 85; *blur*: Gaussian of 1 pixel, JPEG 85; *chained*: scaled by 0.7, JPEG 75, WebP 70, JPEG 60. Thresholds are those of the versions above, set without the image's own",
    "origin. *Metadata only*: mean AUROC of the detector that sees only headers.",
]


def robustness_tables(study: Study, judged: dict[str, dict[str, Judged]], versions: list[str], most: int) -> list[str]:
    """All methods by version; the default by generator and by real source."""
    lines = [line.format(most=most) for line in INTRODUCTION]
    return [
        *lines, "", *_methods(study, judged, versions), "",
        "AUROC of `default` per generator (n in the first versions / in the others):", "",
        *_generators(study, versions), "",
        "Share of reals called fake by `default`, per source (n likewise):", "",
        *_sources(study, judged, versions),
    ]  # fmt: skip


def _methods(study: Study, judged: dict[str, dict[str, Judged]], versions: list[str]) -> list[str]:
    rows = [
        "| images | method | n fake / real | mean AUROC over generators | pooled AUROC | fakes called fake | reals called fake | unsure |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    labels = study.bank.labels
    for version in versions:
        for name in judged:
            j = judged[name][version]
            seen = np.isfinite(j.scores)
            fake, real = seen & (labels == 1), seen & (labels == 0)
            called = [metrics.proportion(int(j.fake[of].sum()), int(of.sum())) for of in (fake, real)]
            pooled = metrics.bootstrap(metrics.auroc, labels[seen], j.scores[seen], rounds=500)
            mean = study.mean_over_generators(name, version)
            rows.append(
                f"| {version} | `{name}` | {fake.sum()} / {real.sum()} | {mean} | {pooled} | {called[0]} | {called[1]} "
                f"| {j.unsure[seen].mean():.3f} |"
            )
        rows.append(f"| {version} | metadata only | | {study.bias[version]} | | | | |")
    return rows


def _generators(study: Study, versions: list[str]) -> list[str]:
    labels = study.bank.labels
    rows = ["| generator | n | " + " | ".join(versions) + " |", "| --- | --- |" + " --- |" * len(versions)]
    aurocs: dict[str, list[str]] = {}
    sizes: dict[str, dict[int, None]] = {}
    for version in versions:
        for part in study.held["default"][version]:
            aurocs.setdefault(part.generator, []).append(f"{metrics.auroc(labels[part.rows], part.scores):.2f}")
            sizes.setdefault(part.generator, {})[int(labels[part.rows].sum())] = None
    return [*rows, *(f"| {g} | {_sizes(sizes[g])} | {' | '.join(cells)} |" for g, cells in sorted(aurocs.items()))]


def _sources(study: Study, judged: dict[str, dict[str, Judged]], versions: list[str]) -> list[str]:
    rows = ["| real source | n | " + " | ".join(versions) + " |", "| --- | --- |" + " --- |" * len(versions)]
    for source in sorted(study.bank.counts("source", Label.REAL)):
        cells: list[str] = []
        sizes: dict[int, None] = {}
        for version in versions:
            j = judged["default"][version]
            of = (study.bank.source == source) & (study.bank.labels == 0) & np.isfinite(j.scores)
            cells.append(f"{j.fake[of].mean():.2f}")
            sizes[int(of.sum())] = None
        rows.append(f"| {source} | {_sizes(sizes)} | {' | '.join(cells)} |")
    return rows


def _sizes(found: dict[int, None]) -> str:
    """Numbers of images, each once, in order."""
    return " / ".join(map(str, found))
