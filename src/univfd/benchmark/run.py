"""`univfd bench run`: every detector on every image under every perturbation, into one file of score rows.

Images are embedded once per feature space and perturbation, into the embedding cache; every detector then decides out
of the cache, by the code that decides about any image (`Detector.judge`). The cache carries the work: a run that was
killed goes on where it was, and a second run costs no encoder time. The run's folder holds `run.json` from the
beginning, and `scores.parquet` when every row is in it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .._version import __version__, code_digest
from ..backbones import Backbone, open_backbone
from ..detector import Detector, load
from ..detector_folder import encoder_of, locate, read_manifest
from ..downloads import Progress
from ..embedding_cache import SHARD, Keyed, embed_missing, keyed, software
from ..errors import OutputExistsError, UsageError
from ..images import DEFAULT_MAX_PIXELS
from ..perturbations import perturbation
from ..storage import locked, new_folder, read_json, replace_file, write_json
from ..types import Failure, FeatureSpace, Sample, data_digest
from ..wording import counted
from .rows import arrow, write_rows
from .scoring import Scoring, Watch

log = logging.getLogger(__name__)

KIND, SCHEMA = "bench", 1
MANIFEST, SCORES = "run.json", "scores.parquet"
_CODE = ("univfd", "code", "software")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run came to."""

    rows: int
    failed: int


def open_detectors(
    names: Sequence[str | Path],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    engine: str | None = None,
) -> list[Detector]:
    """Open detectors; those of one encoder and taps share it.

    Args:
        names: shipped names or folders.
        threads: for the encoder.
        progress: called while downloading.
        engine: what computes the encoders, see `univfd.backbones.open_backbone`.

    Raises:
        UsageError: two of one name, which the rows could not tell apart.
        UnivFDError: see `univfd.detector.load`.
    """
    opened: list[Detector] = []
    encoders: dict[tuple[str, tuple[str, ...]], Backbone] = {}
    for name in names:
        folder = locate(name)
        manifest = read_manifest(folder)
        space = FeatureSpace.from_dict(manifest["space"])
        encoder = encoder_of(folder, manifest)
        key = (str(encoder), space.taps)
        if key not in encoders:
            encoders[key] = open_backbone(encoder, taps=space.taps, threads=threads, progress=progress, engine=engine)
        opened.append(load(name, backbone=encoders[key]))
    _require_distinct([d.name for d in opened], "detectors of the name")
    return opened


def run(
    samples: Sequence[Sample],
    detectors: Sequence[Detector],
    output: Path,
    *,
    data: str,
    suite: str = "",
    perturbations: Sequence[str] = ("clean",),
    cache: Path | None = None,
    resume: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    shard: int = SHARD,
    watch: Watch = lambda *_: None,
) -> Finished:
    """Score every image with every detector under every perturbation.

    Args:
        samples: the images; what cannot be read becomes failed rows.
        detectors: of different names.
        output: the run's folder.
        data: what the samples are, for the record.
        suite: name of the suite, for the record.
        perturbations: chains, see `univfd.perturbations.perturbation`.
        cache: folder of embeddings, see `univfd.embedding_cache.EmbeddingCache`.
        resume: go on with an unfinished run of the same data, detectors and perturbations; a finished one is left
            as it is.
        batch_size: images a batch of the encoder.
        workers: reading and decoding threads.
        max_pixels: larger images are refused.
        shard: images between two writes of the cache.
        watch: told how far it is.

    Raises:
        OutputExistsError: the folder is there and `resume` was not asked for, or another process is at work in it.
        UsageError: nothing to do, something named twice, or an unfinished run of something else.
        MissingExtraError: without the extra `parquet`.
    """
    arrow()
    _check(samples, detectors, perturbations)
    if output.exists() and not resume:
        raise _is_there(output)
    images = _read(samples, workers, watch)
    plan = _plan(samples, images, detectors, perturbations, data, suite, max_pixels)
    if not output.exists():
        with new_folder(output) as scratch:
            write_json(scratch / MANIFEST, KIND, SCHEMA, plan)
    with locked(output / "run"):
        begun = _same_plan(output, plan)
        if (output / SCORES).exists():
            log.warning("%s is finished already; nothing was done", output)
            return Finished(begun["rows"], begun["failed"])
        begun |= _code_of(begun, plan, output)
        _say_what_is_odd(samples, images, detectors)
        embed = partial(embed_missing, batch_size=batch_size, workers=workers, max_pixels=max_pixels, shard=shard)
        work = Scoring(samples, images, detectors, perturbations, cache, embed, watch)
        rows, manifest = output / f".{SCORES}.writing", output / f".{MANIFEST}.writing"
        try:
            write_rows(rows, work.chunks())
            begun |= {"rows": work.counts.total(), "failed": work.counts["failed"]}
            begun |= {"embedded_by": sorted(work.software)}
            write_json(manifest, KIND, SCHEMA, begun)
            replace_file(manifest, output / MANIFEST)
            replace_file(rows, output / SCORES)  # last: where this file is, the run is finished
        finally:
            for scratch in (rows, manifest):
                scratch.unlink(missing_ok=True)
    return Finished(begun["rows"], begun["failed"])


def _read(samples: Sequence[Sample], workers: int | None, watch: Watch) -> list[Keyed | Failure]:
    images = []
    for image in keyed([s.ref for s in samples], workers=workers):
        images.append(image)
        watch("reading", len(images), len(samples))
    return images


def _is_there(output: Path) -> OutputExistsError:
    if (output / MANIFEST).is_file() and not (output / SCORES).exists():
        return OutputExistsError(f"{output} is an unfinished run. Use --resume to go on with it, or another name")
    return OutputExistsError(f"{output} exists already; results are never overwritten. Choose another name")


def _check(samples: Sequence[Sample], detectors: Sequence[Detector], perturbations: Sequence[str]) -> None:
    for what, given in (("image", samples), ("detector", detectors), ("perturbation", perturbations)):
        if not given:
            raise UsageError(f"no {what}s were given; a benchmark needs at least one")
    _require_distinct([d.name for d in detectors], "detectors of the name")
    _require_distinct(perturbations, "perturbations")
    for text in perturbations:
        perturbation(text)


def _require_distinct(names: Sequence[str], what: str) -> None:
    for name, n in Counter(names).items():
        if n > 1:
            raise UsageError(f"{n} {what} {name!r}; expected each once, or their rows could not be told apart")


def _plan(
    samples: Sequence[Sample],
    images: Sequence[Keyed | Failure],
    detectors: Sequence[Detector],
    perturbations: Sequence[str],
    data: str,
    suite: str,
    max_pixels: int,
) -> dict[str, Any]:
    keys = [i.sha256 if isinstance(i, Keyed) else "" for i in images]
    return {
        "data": data,
        "suite": suite,
        "images": len(samples),
        "data_digest": data_digest(zip(keys, (s.label for s in samples), strict=True)),
        "detectors": [d.identity for d in detectors],
        "spaces": {d.name: d.reads.to_dict() for d in detectors},
        "perturbations": list(perturbations),
        "max_pixels": max_pixels,
        "seed": None,  # what perturbations draw, they draw from each picture's content
        "univfd": __version__,
        "code": code_digest(),
        "software": software(),
    }


def _same_plan(output: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that was begun, if it is a run of the same."""
    begun = read_json(output / MANIFEST, KIND, SCHEMA)
    for key in ("data_digest", "detectors", "perturbations", "max_pixels"):
        if begun.get(key) != plan[key]:
            raise UsageError(
                f"{output} was begun with {key} {begun.get(key)!r}; this is {plan[key]!r}. Choose another output"
            )
    return begun


def _code_of(begun: Mapping[str, Any], plan: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """What is recorded of the code: that of this process, which makes the rows, and what the run was begun by."""
    first, now = ({key: each.get(key) for key in _CODE} for each in (begun, plan))
    if first == now:
        return {}
    said = "%s was begun by univfd %s (code %s, %s); this is univfd %s (code %s, %s)"
    log.warning(said, output, *first.values(), *now.values())
    return {**now, "begun_by": first}


def _say_what_is_odd(
    samples: Sequence[Sample], images: Sequence[Keyed | Failure], detectors: Sequence[Detector]
) -> None:
    labels: dict[str, set[int]] = {}
    for sample, image in zip(samples, images, strict=True):
        if isinstance(image, Keyed):
            labels.setdefault(image.sha256, set()).add(sample.label)
    n_keyed = sum(isinstance(i, Keyed) for i in images)
    if n_keyed > len(labels):
        log.warning("%d of %d images are the same file as another one", n_keyed - len(labels), len(images))
    if both := sum(len(found) > 1 for found in labels.values()):
        log.warning(
            "%s given as real and as fake: no detector can be right on both", counted(both, "file is", "files are")
        )
    for detector in detectors:
        if not len(detector.bank):
            log.warning("%s has no bank: whether it was made of these images is not known", detector.name)
        if known := sum(row.tobytes().hex() in labels for row in detector.bank.keys):
            log.warning("%s was made of %d of these images: its figures flatter it", detector.name, known)
