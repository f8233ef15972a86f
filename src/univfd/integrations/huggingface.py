"""Hugging Face: verdicts as columns of a data set (extra `hf`), and a detector that is called like a pipeline.

A `datasets.Dataset` or `IterableDataset` is an input like any other (`Detector.detect(dataset)`), and `dataset_samples`
makes one a labelled collection. `pipeline` needs neither `datasets` nor `transformers`. Nothing here touches the
network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from .._version import __version__
from ..datasets import dataset_samples
from ..detector import Detector, load
from ..detector_folder import DEFAULT
from ..errors import UsageError
from ..images import DEFAULT_MAX_PIXELS
from ..sources import (
    Source,
    dataset_refs,
    error_of,
    is_dataset,
    is_single,
    one_each,
    random_access,
    refuse_tables,
    stored_ref,
    undecoded,
)
from ..types import Failure, ImageRef, Label, Verdict
from ..writers import FLAT_COLUMNS, flat

__all__ = ["ImageClassification", "VerdictColumns", "add_verdicts", "dataset_refs", "dataset_samples", "pipeline"]

PREFIX = "univfd_"
_BATCH = 128  # rows at a time: their encoded images are in memory
_COLUMNS = tuple((n, kind) for n, kind in FLAT_COLUMNS if n != "image" and not n.startswith("provenance_"))
_TYPES = {str: "string", float: "float64", int: "int64"}


class VerdictColumns:
    """A function for `dataset.map(..., batched=True)` that adds verdicts; `add_verdicts` does the whole of it.

    The columns are those of the Parquet output, with a prefix. An image that cannot be read has `status` failed, with
    `error` and `message`. The data set's own decoding should be off, or a damaged image ends the `map` before this
    function sees it. The result is cached by `datasets` under the detector's digest and this program's version.

    Args:
        detector: an open detector, or the name or folder of one. Only by name can it go to other processes
            (`num_proc`).
        image: the column of images.
        prefix: of the new columns.
        max_pixels: larger images cannot be read.
    """

    def __init__(
        self,
        detector: Detector | str | Path = DEFAULT,
        *,
        image: str = "image",
        prefix: str = PREFIX,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self._name = None if isinstance(detector, Detector) else str(detector)
        self._detector: Detector | None = detector if isinstance(detector, Detector) else load(detector)
        self.identity = self._detector.identity
        self.image = image
        self.prefix = prefix
        self.max_pixels = max_pixels

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The new columns of a batch.

        Args:
            batch: lists of the same length by column; `image` holds stored images, paths, bytes or Pillow images.
        """
        refs = [_ref(value) for value in batch[self.image]]
        rows = [flat(item.to_dict()) for item in self._opened().detect(refs, max_pixels=self.max_pixels)]
        return {self.prefix + name: [row[name] for row in rows] for name, _ in _COLUMNS}

    def features(self, before: Any = None) -> Any:
        """The columns' types, for `map(features=...)`: a batch of failures alone would tell none.

        Args:
            before: the data set's features, which the new ones are added to.

        Raises:
            UsageError: the data set has a column of such a name already.
        """
        import datasets

        new = {self.prefix + name: datasets.Value(_TYPES[kind]) for name, kind in _COLUMNS}
        self.require_new(before or {})
        return datasets.Features({**(before or {}), **new})

    def require_new(self, names: Iterable[str]) -> None:
        """That no column of the data set has the name of a new one, which would take its place.

        Raises:
            UsageError: one has.
        """
        if taken := sorted({self.prefix + name for name, _ in _COLUMNS} & set(names)):
            raise UsageError(f"the data set has {', '.join(taken)} already; give another prefix")

    def _opened(self) -> Detector:
        """The detector; opened here where this object came from another process.

        Raises:
            UsageError: it has no name, or is another one by now.
        """
        if self._detector is None:
            if self._name is None:
                raise UsageError("an open detector cannot go to another process; give its name or folder")
            self._detector = load(self._name)
            if self._detector.identity != self.identity:
                raise UsageError(f"{self._name} is {self._detector.identity} now; this was made for {self.identity}")
        return self._detector

    def __getstate__(self) -> dict[str, Any]:
        """What the cache of `datasets` is keyed by: all that the columns depend on."""
        return {**vars(self), "_detector": None, "version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "version"})


def add_verdicts(
    dataset: Any,
    detector: Detector | str | Path = DEFAULT,
    *,
    image: str | None = None,
    prefix: str = PREFIX,
    batch_size: int = _BATCH,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Any:
    """A data set with verdicts as further columns; its other columns are as they were.

    Args:
        dataset: a `datasets.Dataset`, which keeps its format or transform; or an `IterableDataset`, which is worked on
            as it is read and has no format then (`with_format` gives it one).
        detector: an open detector, or the name or folder of one.
        image: the column of images; default: the only one of type `Image`.
        prefix: of the new columns.
        batch_size: rows at a time, whose encoded images are in memory.
        max_pixels: larger images cannot be read.

    Raises:
        UsageError: no such column, or the new ones are there already (of an `IterableDataset` that does not know its
            columns: as it is read).
    """
    import datasets

    rows, column = undecoded(dataset, image)
    columns = VerdictColumns(detector, image=column, prefix=prefix, max_pixels=max_pixels)
    features = columns.features(rows.features)
    if random_access(rows) and not len(rows):  # `map` does not call what it has no rows for
        every = columns.features(dataset.features)
        return _in_format_of(dataset, datasets.Dataset.from_dict({name: [] for name in every}, features=every))
    if random_access(rows):
        made = rows.select_columns([column]).map(
            columns, batched=True, batch_size=batch_size, remove_columns=[column], features=columns.features(),
            desc="verdicts",
        )  # fmt: skip
        return _in_format_of(dataset, datasets.concatenate_datasets([dataset, made], axis=1))
    if rows.features is None:

        def judged(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            columns.require_new(batch)
            return columns(batch)

        return rows.map(judged, batched=True, batch_size=batch_size)
    made = rows.map(columns, batched=True, batch_size=batch_size, features=features)
    return made.cast_column(column, dataset.features[column])


def _in_format_of(dataset: Any, made: Any) -> Any:
    """The format or transform of a `Dataset` given to one that has more columns; the new ones are in it."""
    form = dataset.format
    chosen = list(form["columns"])
    restricted = set(chosen) != set(dataset.column_names)
    new = [name for name in made.column_names if name not in dataset.column_names]
    return made.with_format(
        form["type"], columns=chosen + new if restricted else None, output_all_columns=form["output_all_columns"],
        **form["format_kwargs"],
    )  # fmt: skip


class ImageClassification:
    """A calibrated detector that is called like the `image-classification` pipeline of `transformers`.

    Each image comes to `[{"label": "fake", "score": p}, {"label": "real", "score": 1 - p}]`, the likelier first, where
    p is the probability of being fake. The two say nothing of thresholds; so each also has `verdict` (`fake`, `real`
    or `unsure`) and `reasons` (why it is unsure), the same in both. Decide by `verdict`.

    Args:
        detector: an open detector.
        unreadable: what an image that cannot be read comes to: `error` raises; `row` gives
            `[{"label": "failed", "score": None, "error": ..., "message": ...}]` in its place.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images cannot be read.

    Raises:
        UsageError: the detector gives no probabilities, or `unreadable` is neither word.
    """

    task = "image-classification"

    def __init__(
        self,
        detector: Detector,
        *,
        unreadable: Literal["error", "row"] = "error",
        batch_size: int | None = None,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        if detector.calibration.probability(0.0) is None:
            raise UsageError(f"{detector.name} is not calibrated and gives no probabilities; see 'univfd calibrate'")
        if unreadable not in {"error", "row"}:
            raise UsageError(f"unreadable is {unreadable!r}; expected one of: error, row")
        self.detector = detector
        self._raise = unreadable == "error"
        self._options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}

    def __call__(self, images: Source | Iterable[Source], *, top_k: int | None = None) -> Any:
        """Classify.

        Args:
            images: one image (path, bytes, Pillow image, array); or several, one each: a list, a generator, a data set.
            top_k: labels an image, the likeliest first; default: both.

        Returns:
            Of one image its list of dicts; of a list a list of these; of anything else an iterator over these, which
            works as it is asked.

        Raises:
            InputError: an image that cannot be read, unless `unreadable` is `row`.
            UsageError: an input that is not exactly one image, a table, or `top_k` below 1.
        """
        if top_k is not None and top_k < 1:
            raise UsageError(f"top_k is {top_k}; expected at least 1")
        if is_dataset(images):
            return self._each(dataset_refs(images), top_k)
        refuse_tables(images)
        if is_single(images):
            return next(self._each(one_each([images]), top_k))
        results = self._each(one_each(cast("Iterable[Source]", images)), top_k)
        return list(results) if isinstance(images, list | tuple) else results

    def _each(self, refs: Iterable[ImageRef | Failure], top_k: int | None) -> Iterator[list[dict[str, Any]]]:
        for item in self.detector.detect(refs, **self._options):
            if isinstance(item, Failure) and self._raise:
                raise error_of(item)
            yield _failed(item) if isinstance(item, Failure) else _labels(item)[:top_k]


def pipeline(
    detector: Detector | str | Path = DEFAULT,
    *,
    unreadable: Literal["error", "row"] = "error",
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> ImageClassification:
    """`transformers.pipeline("image-classification", ...)` with a detector of this package; see `ImageClassification`.

    Args:
        detector: an open detector, or the name or folder of one.
        unreadable: `error` or `row`.
        batch_size: images a batch.
        workers: decoding threads.
        max_pixels: larger images cannot be read.
    """
    opened = detector if isinstance(detector, Detector) else load(detector)
    return ImageClassification(
        opened, unreadable=unreadable, batch_size=batch_size, workers=workers, max_pixels=max_pixels
    )


def _ref(value: Any) -> ImageRef | Failure:
    try:
        return stored_ref(value, "row")
    except UsageError as error:
        return Failure("row", error.code, str(error))


def _labels(verdict: Verdict) -> list[dict[str, Any]]:
    chance = verdict.probability
    assert chance is not None  # the detector is calibrated
    said = {"verdict": verdict.verdict, "reasons": list(verdict.reasons)}
    both = [(Label.FAKE.word, chance), (Label.REAL.word, 1 - chance)]
    return [{"label": label, "score": score, **said} for label, score in sorted(both, key=lambda pair: -pair[1])]


def _failed(failure: Failure) -> list[dict[str, Any]]:
    return [{"label": "failed", "score": None, "error": failure.error, "message": failure.message}]
