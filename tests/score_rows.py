"""Made-up score rows: a finished run without images, detectors or an encoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from univfd.benchmark.rows import COLUMNS, Columns, write_rows
from univfd.benchmark.run import KIND, MANIFEST, SCHEMA, SCORES
from univfd.storage import write_json

HOSTILE = (
    '<script>fetch("http://192.0.2.1/a")</script>',
    '"><img src=http://192.0.2.1/b onerror=alert(1)>',
    "</td></table></svg><iframe src='http://192.0.2.1/c'>",
    "</style><style>@import 'http://192.0.2.1/d';</style>",
    "{{ 7 * 7 }}{% raw %}",
    "$x_{1}^{2}$ & $\\frac",
    "javascript:alert(1)",
    "\u202egnp.exe \x07\x1b[2J\x00\n]]>&lt;!--",
    "url(http://192.0.2.1/e);fill:red",
    "长" * 300,
)
"""Names that would do harm, or break a drawing, if anything but text were made of them."""


def write_run(
    folder: Path,
    n: int = 240,
    detectors: Sequence[str] = ("first", "second"),
    perturbations: Sequence[str] = ("clean", "jpeg:60"),
    generators: Sequence[str] = ("alpha", "beta", "gamma"),
    sources: Sequence[str] = ("camera", "web"),
    families: Sequence[str] = ("gan", "diffusion"),
    images: Sequence[str] = (),
    data: str = "made up",
) -> Path:
    """A run of n images, half of them fakes; the second detector has no probability, every 50th image has failed."""
    folder.mkdir(parents=True)
    identities = [f"{d}@{hashlib.sha256(d.encode()).hexdigest()[:12]}" for d in detectors]

    def chunks() -> Iterator[Columns]:
        for p, perturb in enumerate(perturbations):
            for d, detector in enumerate(detectors):
                rng = np.random.default_rng(d)  # the same images: a perturbation only weakens the scores
                rows = []
                for i in range(n):
                    fake, failed = i % 2 == 1, i % 50 == 7
                    which = (i // 2) % len(generators)
                    shift = (1.6 - 0.4 * which - 0.2 * d) / (1 + p) if fake else 0.0
                    score = float(rng.normal(shift - 0.5, 1))
                    verdict = "fake" if score > 1 else "real" if score < -1 else "unsure"
                    values = {
                        "image": images[i] if i < len(images) else f"images/{i}.png",
                        "sha256": hashlib.sha256(str(i).encode()).hexdigest(),
                        "label": "fake" if fake else "real",
                        "generator": generators[which] if fake else "",
                        "family": families[which % len(families)] if fake and families else "",
                        "source": sources[(i // 2) % len(sources)],
                        **dict.fromkeys(("group", "subset", "split"), ""),
                        **{"format": "PNG", "width": 512, "height": 512},
                        **{"perturbation": perturb, "detector": detector, "identity": identities[d]},
                        "status": "failed" if failed else "ok",
                        "error": "truncated: it ends early" if failed else "",
                        "score": None if failed else score,
                        "probability": None if failed or d == 1 else 1 / (1 + math.exp(-score)),
                        "verdict": "" if failed else verdict,
                        **{"fake_above": 1.0, "real_below": -1.0, "in_bank": False},
                    }
                    rows.append(values)
                yield {name: [row[name] for row in rows] for name, _ in COLUMNS}

    write_rows(folder / SCORES, chunks())
    manifest = {"data": data, "data_digest": "0" * 64, "perturbations": list(perturbations), "detectors": identities}
    write_json(folder / MANIFEST, KIND, SCHEMA, manifest)
    return folder


def hostile_run(folder: Path) -> Path:
    """A run in which every name is hostile."""
    return write_run(
        folder,
        detectors=HOSTILE[:3],
        perturbations=("clean", HOSTILE[0]),
        generators=HOSTILE,
        sources=HOSTILE[::-1],
        families=HOSTILE[3:6],
        images=HOSTILE * 24,
        data=HOSTILE[1],
    )
