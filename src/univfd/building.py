"""From a labelled collection to a bank, and from a bank to a detector."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import registry
from .attribution import naming_distance
from .backbones import Backbone, first_taps
from .bank import FeatureBank, Strings
from .calibration import UNCALIBRATED, Calibration, calibrate, check_promise, needed_for, of_groups, too_few
from .detector import Detector
from .embedding import Loaded, embed_images, space_of
from .embedding_cache import EmbeddingCache, embed_through
from .errors import DataError, UsageError
from .evaluation import Cohort, held_out_scores, per_row, rounds, together
from .images import DEFAULT_MAX_PIXELS
from .types import Embeddings, Failure, Label, Sample
from .views import View
from .wording import counted

log = logging.getLogger(__name__)

CONFIDENCE = 0.9
"""Of the promises of a new detector."""
EACH = "each"
"""As `layers` of `ridge` and `svm`: each tap is one, of its size."""


@dataclass(frozen=True, eq=False)
class Built:
    """A bank, the groups of its rows (for splitting), and what could not be read."""

    bank: FeatureBank
    groups: tuple[str, ...]
    failures: tuple[Failure, ...]


def build_bank(
    backbone: Backbone,
    view: View,
    samples: Iterable[Sample],
    *,
    added: str,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    kept: EmbeddingCache | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Built:
    """Embed a labelled collection into a bank.

    Args:
        backbone: the encoder.
        view: how crops are cut.
        samples: the collection.
        added: date of the rows (ISO), recorded in the bank.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images are refused.
        kept: embeddings are taken from there, and kept there; default: nothing is kept.
        on_done: called after some inputs, with their number.

    Raises:
        DataError: not one image could be read.
    """
    used: list[Sample] = []
    keys: list[str] = []
    parts: list[Any] = []
    failures: list[Failure] = []
    good: list[Sample] = []

    def remember() -> Iterator[Any]:
        for sample in samples:
            used.append(sample)
            yield sample.ref

    options: Any = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
    batches = (
        embed_images(backbone, view, remember(), **options)
        if kept is None
        else embed_through(kept, backbone, view, remember(), on_done=on_done, **options)
    )
    taken = 0
    for batch in batches:
        for item in batch.items:
            if isinstance(item, Loaded):
                good.append(used[taken])
                keys.append(item.sha256)
            else:
                failures.append(item)
            taken += 1
        parts.append(batch.embeddings.vectors)
        if kept is None:
            on_done(len(batch.items))
    if not good:
        raise DataError(f"none of {counted(taken, 'image')} could be read" if taken else "the data set holds no images")
    embeddings = Embeddings(np.concatenate(parts), space_of(backbone, view))
    return Built(_bank(embeddings, good, keys, added), tuple(s.group for s in good), tuple(failures))


def _bank(embeddings: Embeddings, kept: list[Sample], keys: list[str], added: str) -> FeatureBank:
    return FeatureBank.from_rows(
        embeddings,
        [s.label for s in kept],
        keys,
        generator=[s.generator for s in kept],
        source=[s.source for s in kept],
        licence=[s.licence for s in kept],
        added=added,
    )


def fit_detector(
    name: str,
    backbone: Backbone,
    view: View,
    built: Built,
    classifier: str,
    params: dict[str, Any],
    *,
    max_fpr: float = 0.05,
    max_miss: float = 0.05,
    bank_taps: int | None = None,
) -> Detector:
    """A detector from a bank, calibrated on leave-one-generator-out scores.

    A promise is one about independent images: of copies of one file one counts, and groups are remarked upon.

    Args:
        name: the detector's name.
        backbone: the bank's encoder.
        view: the bank's view.
        built: the bank and its groups.
        classifier: name in the registry `classifiers`.
        params: of the classifier; see `EACH`.
        max_fpr: promised bound on reals called fake.
        max_miss: promised bound on fakes called real.
        bank_taps: see `assemble`.

    Raises:
        DataError: too few generators, sources or images to calibrate; says what is needed.
        UsageError: parameters that the classifier does not take, or that do not fit the data.
    """
    check_bank_taps(classifier, backbone, view, bank_taps)
    bank, params = built.bank, with_sizes(params, backbone, view)
    make = partial(registry.load("classifiers", classifier), **params)
    groups = together(np.asarray(built.groups, dtype=object), bank.keys)
    cohort = Cohort(bank.labels, bank.generator, bank.source, groups)
    _require_both_classes(cohort)
    with _parameter_errors(classifier, params):
        scores = per_row(held_out_scores(cohort, [bank.vectors], {"": bank.vectors}, make)[""], len(bank))
    known = np.isfinite(scores) & _one_of_each_file(bank)
    dependent = list(_dependent(groups[known], bank.labels[known]))
    for text in dependent:
        log.warning("%s", text)
    calibration = calibrate(
        scores[known], bank.labels[known], max_fpr=max_fpr, max_miss=max_miss, confidence=CONFIDENCE,
        data="; ".join(["leave-one-generator-out scores of the bank's own rows", *dependent]),
    )  # fmt: skip
    held = bank if bank_taps is None else _first_values(bank, backbone, view, bank_taps)
    calibration = replace(calibration, named_within=naming_distance(held))
    return assemble(name, backbone, view, bank, classifier, params, calibration, bank_taps=bank_taps)


def _one_of_each_file(bank: FeatureBank) -> NDArray[np.bool_]:
    """`(N,)` which rows are the first of their class with their file."""
    _, first = np.unique(np.column_stack([bank.keys, bank.labels]), axis=0, return_index=True)
    return np.isin(np.arange(len(bank)), first)


def _dependent(groups: Strings, labels: NDArray[np.uint8]) -> Iterator[str]:
    """Of each class whose images come in groups, what that does to the promise."""
    for label in Label:
        mine = groups[labels == label].tolist()
        apart = mine.count("") + len({group for group in mine if group})
        if apart < len(mine):
            yield of_groups(len(mine), label.word, apart)


def check_enough(samples: Sequence[Sample], *, max_fpr: float = 0.05, max_miss: float = 0.05) -> None:
    """Refuse a collection that `fit_detector` cannot calibrate on; to be asked before long work.

    Args:
        samples: the collection; what turns out to be unreadable may still make it too small.
        max_fpr: promised bound on reals called fake.
        max_miss: promised bound on fakes called real.

    Raises:
        DataError: too few generators, sources or images; says what is needed.
    """
    check_promise(max_fpr, max_miss)
    labels = np.array([s.label for s in samples], np.uint8)
    columns = [np.array([getattr(s, c) for s in samples], dtype=object) for c in ("generator", "source", "group")]
    _require_both_classes(Cohort(labels, *columns))
    for label, rate, what in ((Label.REAL, max_fpr, "real images"), (Label.FAKE, max_miss, "fake images")):
        n = int((labels == label).sum())
        if n < needed_for(rate, CONFIDENCE):
            raise too_few(n, rate, CONFIDENCE, what)


def _require_both_classes(cohort: Cohort) -> None:
    """That each round has something to train on.

    Raises:
        DataError: one has not.
    """
    for held in rounds(cohort):
        if len(np.unique(cohort.labels[held.train])) < 2:
            raise DataError(
                f"with generator {held.generator!r} held out, and all sources, groups and copies of its images and of "
                "the reals beside them, one class alone is left to train on. More sources are needed, that do not each "
                "have images of every generator"
            )


def check_classifier(classifier: str, params: dict[str, Any], bank: FeatureBank | None = None) -> None:
    """Refuse an unknown classifier or parameter; to be asked before long work.

    Args:
        classifier: name in the registry `classifiers`.
        params: of the classifier.
        bank: fit it on these rows too, which refuses values that do not fit them.

    Raises:
        UnknownNameError, UsageError: it is.
    """
    kind = registry.load("classifiers", classifier)
    with _parameter_errors(classifier, params):
        kind(**params)
        if bank is not None:
            kind.from_bank(bank, params)


def with_sizes(params: dict[str, Any], backbone: Backbone, view: View) -> dict[str, Any]:
    """Parameters in which `layers` is the sizes of the taps, where it was `EACH`."""
    if params.get("layers") != EACH:
        return params
    sizes = [*map(backbone.entry.tap_dim, backbone.taps)]
    return params | {"layers": sizes * view.count if view.pool == "concat" else sizes}


def check_bank_taps(classifier: str, backbone: Backbone, view: View, bank_taps: int | None) -> None:
    """Refuse a bank of fewer layers that the classifier or the view cannot have; to be asked before long work.

    Args:
        classifier: name in the registry `classifiers`.
        backbone: the encoder.
        view: the view.
        bank_taps: see `assemble`.

    Raises:
        UsageError: says why.
    """
    if bank_taps is None:
        return
    if not 0 < bank_taps <= len(backbone.taps):
        most = len(backbone.taps)
        raise UsageError(f"the bank is to have the first {bank_taps} layers; there are {most}. Take 1 to {most}")
    if view.pool == "concat":
        raise UsageError(f"view {view.name} lays crops side by side, so that its first values are not the first layers")
    if not hasattr(registry.load("classifiers", classifier), "from_wider_bank"):
        raise UsageError(f"{classifier} reads what its bank has; ridge and svm can read more layers")


def _first_values(bank: FeatureBank, backbone: Backbone, view: View, taps: int) -> FeatureBank:
    """The bank, with the values of the first taps alone."""
    space = space_of(first_taps(backbone, taps), view)
    return replace(bank, vectors=np.ascontiguousarray(bank.vectors[:, : space.dim]), space=space)


def assemble(
    name: str,
    backbone: Backbone,
    view: View,
    bank: FeatureBank,
    classifier: str,
    params: dict[str, Any],
    calibration: Calibration = UNCALIBRATED,
    *,
    bank_taps: int | None = None,
) -> Detector:
    """A detector whose classifier is fitted on all of the bank.

    Args:
        name: the detector's name.
        backbone: the bank's encoder.
        view: the bank's view.
        bank: the images, with all layers.
        classifier: name in the registry `classifiers`.
        params: its parameters.
        calibration: of its scores.
        bank_taps: the detector's bank keeps the first so many layers; its score reads all. Default: it keeps all.

    Raises:
        UsageError: parameters that the classifier does not take, or that do not fit the bank.
    """
    check_bank_taps(classifier, backbone, view, bank_taps)
    kind, params = registry.load("classifiers", classifier), with_sizes(params, backbone, view)
    with _parameter_errors(classifier, params):
        if bank_taps is not None and bank_taps < len(backbone.taps):
            wider, bank = bank, _first_values(bank, backbone, view, bank_taps)
            fitted = kind.from_wider_bank(wider, bank, params)
        else:
            fitted = kind.from_bank(bank, params)
    return Detector(name, backbone, view, fitted, bank, calibration)


@contextmanager
def _parameter_errors(classifier: str, params: dict[str, Any]) -> Iterator[None]:
    """A classifier raises what scikit-learn's contract asks for; to the user it is a wrong call."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(f"classifier {classifier!r} with {params}: {error}") from error
