"""What the web does to pictures, and what is left of the detectors: tables over many versions of some of the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from univfd import metrics
from univfd.types import Label

if TYPE_CHECKING:
    from accuracy_tables import Judged, Study

INTRODUCTION = [
    "On at most {most} images of each generator and real source, strict. *JPEG q*, *WebP q*: one re-encoding; *hard copy*: long",
    "side at most 512 pixels, JPEG 40; *half size*: scaled by 0.5, JPEG 85; *blur*: Gaussian of 1 pixel, JPEG 85; *chained*:",
    "scaled by 0.7, JPEG 75, WebP 70, JPEG 60. Thresholds are those of the versions above, set without the image's own",
    "origin. *Metadata only*: mean AUROC of the detector that sees format, size and bytes.",
]


def robustness_tables(study: Study, judged: dict[str, dict[str, Judged]], versions: list[str], most: int) -> list[str]:
    """All methods by version; the default by generator and by real source."""
    lines = [line.format(most=most) for line in INTRODUCTION]
    return [
        *lines, "", *_methods(study, judged, versions), "",
        "AUROC of `default` per generator, over all of whose images of the sample:", "",
        *_generators(study, versions), "",
        "Reals called fake by `default`, per source:", "",
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
        rows.append(f"| {version} | metadata only | | {study.bias[version]:.3f} | | | | |")
    return rows


def _generators(study: Study, versions: list[str]) -> list[str]:
    labels = study.bank.labels
    rows = ["| generator | n | " + " | ".join(versions) + " |", "| --- | --- |" + " --- |" * len(versions)]
    found: dict[str, list[str]] = {}
    for version in versions:
        for part in study.held["default"][version]:
            n = int(labels[part.rows].sum())
            cells = found.setdefault(part.generator, [f"{part.generator} | {n}"])
            cells.append(f"{metrics.auroc(labels[part.rows], part.scores):.2f}")
    return [*rows, *(f"| {' | '.join(cells)} |" for _, cells in sorted(found.items()))]


def _sources(study: Study, judged: dict[str, dict[str, Judged]], versions: list[str]) -> list[str]:
    rows = ["| real source | n | " + " | ".join(versions) + " |", "| --- | --- |" + " --- |" * len(versions)]
    seen = np.isfinite(judged["default"][versions[0]].scores)
    for source in sorted(study.bank.counts("source", Label.REAL)):
        of = (study.bank.source == source) & (study.bank.labels == 0) & seen
        cells = [f"{judged['default'][version].fake[of].mean():.2f}" for version in versions]
        rows.append(f"| {source} | {int(of.sum())} | {' | '.join(cells)} |")
    return rows
