"""The page: what a finished run holds, put into the template. The same run and options give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from .._version import __version__, code_digest
from ..benchmark.drawing import MIN_FAKES
from ..benchmark.figures import CellFigures, worst
from ..benchmark.rows import Scores
from ..errors import UnivFDError
from ..images import DEFAULT_MAX_PIXELS
from ..projection import METHODS
from ..spectra import SIDE
from ..types import FeatureSpace, ImageRef, Sample
from ..wording import counted
from . import drawings, grids, pictures
from .template import template

MAPS = ("pca", "tsne")
THUMBNAILS = 6
_LISTED = 20  # images named that could not be judged


@dataclass(frozen=True, eq=False)
class Source:
    """What a report is made of.

    Attributes:
        run: the run's manifest.
        scores: its rows.
        figures: from the rows.
        rounds: redrawn sets behind their intervals.
        scores_sha256: of the file of rows.
        samples: reads the run's data set again; None: it is out of reach.
    """

    run: Mapping[str, Any]
    scores: Scores
    figures: Sequence[CellFigures]
    rounds: int
    scores_sha256: str
    samples: Callable[[], Iterable[Sample]] | None = None

    @property
    def perturbations(self) -> list[str]:
        """Those of the run, in its order."""
        return list(dict.fromkeys(c.perturbation for c in self.figures))

    @property
    def spaces(self) -> dict[FeatureSpace, list[str]]:
        """Feature spaces, each with its detectors; none in a run that did not keep them."""
        found: dict[FeatureSpace, list[str]] = {}
        for detector, space in self.run.get("spaces", {}).items():
            found.setdefault(FeatureSpace.from_dict(space), []).append(detector)
        return found


def require_extra(maps: Sequence[str] = MAPS) -> None:
    """Check, before any work, that the libraries are there.

    Raises:
        MissingExtraError: jinja2 or matplotlib is lacking, or umap-learn where a UMAP map is wanted.
        UnknownNameError: no such map.
    """
    for name in maps:
        if name not in METHODS:
            raise registry.unknown("map", name, METHODS)
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401

        if "umap" in maps:
            import umap  # noqa: F401
    except ModuleNotFoundError as error:
        raise registry.missing_extra("this report", error) from error


def page(
    source: Source, *, thumbnails: int = THUMBNAILS, spectra: bool = True, maps: Sequence[str] = MAPS,
    cache: Path | None = None,
) -> str:  # fmt: skip
    """The report as HTML. What is not there any more, images or embeddings, is left out, and the page says so.

    Args:
        source: the run.
        thumbnails: pictures of so many of the worst false alarms and misses of each detector; 0: none.
        spectra: whether to read images for their mean spectra.
        maps: methods of the feature map, of `univfd.projection.METHODS`.
        cache: folder of kept embeddings; default: the user's.

    Raises:
        UnknownNameError: no such method.
        MissingExtraError: without the extra `report`, or UMAP without `umap`.
    """
    require_extra(maps)
    content = _tables(source) | _figures(source, maps, cache) | _pictures(source, thumbnails, spectra)
    return str(template("page.html.j2").render(**content))


def _tables(source: Source) -> dict[str, Any]:
    order = grids.hardest_first(source.figures, "generator")
    return {
        "title": source.run.get("suite") or source.run.get("data") or "",
        "lead": _lead(source),
        "first": source.perturbations[0],
        "least": MIN_FAKES,
        "summary": [_summary(c) for c in source.figures if c.perturbation == source.perturbations[0]],
        "configuration": _configuration(source),
        "hashes": _hashes(source),
        "unjudged": _unjudged(source.scores),
        "main": grids.main(source.figures),
        "generators": grids.generators(source.figures),
        "generator_figures": [(c, grids.generator_figures(c, order)) for c in source.figures if order],
        "sources": grids.sources(source.figures),
        "shades": range(grids.SHADES),
    }


def _figures(source: Source, maps: Sequence[str], cache: Path | None) -> dict[str, Any]:
    prefix = drawings.Prefixes("f")
    scores, figures, every = source.scores, source.figures, source.perturbations
    return {
        "ranking": [(p, drawings.ranking(scores, figures, p, prefix)) for p in every],
        "answers": [(p, drawings.answers(scores, figures, p, prefix)) for p in every],
        "robustness": drawings.robustness(figures, every, prefix) if len(every) > 1 else [],
        "maps_wanted": bool(maps),
        "spaces_known": bool(source.spaces),
        "maps": [
            drawing
            for space, detectors in (source.spaces.items() if maps else ())
            for drawing in drawings.feature_maps(space, detectors, every[0], scores.images, cache, maps, prefix)
        ],
    }


def _pictures(source: Source, thumbnails: int, spectra: bool) -> dict[str, Any]:
    """What is made of the images themselves."""
    images, first, limit = source.scores.images, source.perturbations[0], _max_pixels(source)
    cells = [c for c in source.scores.cells if c.perturbation == first]
    cases = [(c.detector, *pictures.worst_cases(c, images, thumbnails)) for c in cells] if thumbnails else []
    rows = sorted({case.row for _, reals, fakes in cases for case in (*reals, *fakes)})
    of = pictures.kinds(images, np.any([c.judged for c in cells], axis=0)) if spectra else {}
    places, why = _found_again(source, {*rows, *(row for members in of.values() for row in members)})
    small = pictures.thumbnails(rows, images, places, limit)
    found = pictures.spectra(of, images, places, first, limit)
    shown, profiles = drawings.spectra(found, first, drawings.Prefixes("s")) if found else ([], [])
    lost = len(rows) - len(small)
    why = why or "not found again, or changed since the run"
    return {
        "worst": cases,
        "small": small,
        "why_missing": f"{lost} of {len(rows)} pictures are not shown: {why}" if lost else "",
        "spectra": shown,
        "profiles": profiles,
        "spectra_side": SIDE,
        "spectra_wanted": spectra,
        "spectra_missing": why if not places else f"no image that was found again has {SIDE} x {SIDE} pixels",
    }


def _found_again(source: Source, rows: set[int]) -> tuple[dict[int, ImageRef], str]:
    """Where images are now, and why none is."""
    if not rows:
        return {}, ""
    if source.samples is None:
        return {}, "the data set is out of reach"
    try:
        return pictures.find(rows, source.scores.images, source.samples()), ""
    except UnivFDError as error:
        return {}, f"the data set cannot be read again: {error}"


def _max_pixels(source: Source) -> int:
    return int(source.run.get("max_pixels") or DEFAULT_MAX_PIXELS)


def _lead(source: Source) -> str:
    """What was measured, in a line."""
    fake = source.scores.images.fake
    detectors, every = len(source.figures) // len(source.perturbations), source.perturbations
    return (
        f"{counted(len(fake), 'image')}, {int(fake.sum()):,} fake and {int((~fake).sum()):,} real; "
        f"{counted(detectors, 'detector')}; under {', '.join(every)}"
    )


def _summary(cell: CellFigures) -> dict[str, Any]:
    """What a reader wants to know first of a detector."""
    figures = cell.overall.figures
    said = {
        "detector": cell.detector,
        "auroc": grids.box("auroc", cell.means["auroc"]),
        "generators": counted(len(cell.generators), "generator"),
        "recall": grids.box("recall", figures["recall"]),
        "false_alarms": grids.box("false_alarms", figures["false_alarms"]),
        "unsure": grids.box("unsure", figures["unsure"]),
        "in_bank": cell.in_bank,
    }
    for kind, name, parts in (("generator", "auroc", cell.generators), ("source", "false_alarms", cell.sources)):
        found = worst(parts, name)
        said[kind] = found.names if found else ""
        said[f"{kind}_box"] = grids.box(name, found.value) if found else None
        said[f"{kind}_n"] = found.value.n if found and len(found.parts) == 1 else 0
    return said


def _configuration(source: Source) -> list[tuple[str, list[str]]]:
    run, images = source.run, source.scores.images
    counts = {name: len(set(images.columns[name].among(images.fake)) - {""}) for name in ("generator", "family")}
    identities = {c.detector: c.identity for c in source.figures}
    spaces = {d: space for space, names in source.spaces.items() for d in names}
    detectors = [
        identity + (f" ({s.backbone}, {'+'.join(s.taps)}, view {s.view})" if (s := spaces.get(d)) else "")
        for d, identity in identities.items()
    ]
    n_fake, n_real = int(images.fake.sum()), int((~images.fake).sum())
    failed = sum(sum(c.failed) for c in source.figures)
    return [
        ("Data", [str(run.get("data", ""))]),
        *([("Suite", [str(run["suite"])])] if run.get("suite") else []),
        ("Images", [f"{len(images):,}: {n_fake:,} fake, {n_real:,} real"]),
        ("Origins", [
            f"{counted(counts['generator'], 'generator')}, {counted(counts['family'], 'family', 'families')}, "
            f"{counted(len(images.columns['source'].among(~images.fake)), 'source')} of real images"
        ]),
        ("Score rows", [f"{len(images) * len(source.figures):,}, of them {failed:,} failed"]),
        ("Detectors", detectors),
        ("Perturbations", source.perturbations),
        ("Largest image", [f"{_max_pixels(source) / 1e6:,.0f} megapixels"]),
        ("Seeds", [
            f"bootstrap 0, {source.rounds:,} redrawn sets; perturbations "
            + ("draw from each picture's content" if run.get("seed") is None else str(run["seed"]))
        ]),
        ("Run by", [str(run.get("software") or f"univfd {run.get('univfd', '')}")]),
        ("Reported by", [
            f"univfd {__version__}, " + ", ".join(f"{n} {version(n)}" for n in ("numpy", "scikit-learn", "matplotlib"))
        ]),
    ]  # fmt: skip


def _hashes(source: Source) -> list[tuple[str, str]]:
    run = source.run
    weights = {f"weights of {s.backbone}": s.weights for s in source.spaces if s.weights}
    return [
        ("data (image files and labels)", str(run.get("data_digest", ""))),
        ("score rows", source.scores_sha256),
        *((f"detector {name}", digest or "not recorded") for name, _, digest in map(_parted, _identities(source))),
        *((f"feature space of {', '.join(names)}", s.digest) for s, names in source.spaces.items()),
        *weights.items(),
        ("code that scored", str(run.get("code", "not recorded"))),
        ("code that made this report", code_digest()),
    ]


def _identities(source: Source) -> list[str]:
    return list(dict.fromkeys(c.identity for c in source.figures))


def _parted(identity: str) -> tuple[str, str, str]:
    """Name and digest of a detector; studies' methods have a name alone."""
    return identity.rpartition("@") if "@" in identity else (identity, "", "")


def _unjudged(scores: Scores) -> tuple[int, list[str]]:
    """How many images some detector could not judge, and the names of the first ones."""
    rows = np.flatnonzero(~np.all([c.judged for c in scores.cells], axis=0))
    return len(rows), [scores.images.columns["image"][int(row)] for row in rows[:_LISTED]]
