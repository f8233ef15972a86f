"""Images -> embeddings as a scikit-learn transformer, for pipelines with any classifier.

    from sklearn.pipeline import make_pipeline
    from univfd.integrations.sklearn import ImageEmbedder

    model = make_pipeline(ImageEmbedder(), RidgeProbe()).fit(paths, labels)

The vectors are those of `univfd embed`: `embedding.embed_images` makes them. Importing this module imports
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from ..backbones import Backbone, open_backbone
from ..embedding import Loaded, embed_images, space_of
from ..errors import EmptyFileError, UsageError
from ..images import DEFAULT_MAX_PIXELS
from ..sources import Source, error_of, is_single, one_each
from ..types import Failure, FeatureSpace, FloatArray
from ..views import View
from ..views import view as named_view

UNREADABLE = ("error", "nan")


class ImageEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A frozen encoder as a transformer: `N` images -> `(N, D)` float32. Nothing is learned.

    Parameters are names, so that it can be cloned, searched over and sent to other processes; the encoder is opened at
    first use, kept open for the next of the same parameters, and never pickled.

    Args:
        backbone: as for `univfd.open_backbone`.
        taps: layers, side by side; or the name of one.
        view: name of the view that cuts the crops.
        unreadable: what an image that cannot be read, or is missing (None, nan, `pandas.NA`), comes to: `error` raises,
            `nan` gives a row of nan. A row is never left out, for the labels would no longer fit.
        batch_size: images a batch of the encoder; default: sized for the machine.
        workers: decoding threads; default: one per CPU.
        threads: for the encoder; default: the CPUs this process may use.
        max_pixels: larger images cannot be read.

    Attributes:
        space_: the feature space of the vectors.
    """

    def __init__(
        self,
        backbone: str | Path = "clip-vit-b-16",
        *,
        taps: str | Sequence[str] = ("proj",),
        view: str = "native",
        unreadable: Literal["error", "nan"] = "error",
        batch_size: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.backbone = backbone
        self.taps = taps
        self.view = view
        self.unreadable = unreadable
        self.batch_size = batch_size
        self.workers = workers
        self.threads = threads
        self.max_pixels = max_pixels

    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the encoder; the images are not looked at.

        Args:
            X: see `transform`.
            y: not used.

        Raises:
            UsageError: `unreadable` is neither `error` nor `nan`.
            UnivFDError: see `univfd.open_backbone` and `univfd.view`.
        """
        self._check_unreadable()
        backbone, cut = self._opened()
        self.space_: FeatureSpace = space_of(backbone, cut)
        return self

    def transform(self, X: Iterable[Source]) -> FloatArray:
        """Embed images.

        Args:
            X: N images, one each: paths, encoded bytes, Pillow images, `(H, W, 3)` uint8 arrays; in a list, a column of
                a data frame, an array `(N,)` or `(N, 1)`, or pixels `(N, H, W, 3)`.

        Returns:
            `(N, D)` float32, in order.

        Raises:
            InputError: an image that cannot be read or is missing, of the error's own class; unless `unreadable` is
                `nan`.
            UsageError: an element that is not exactly one image, one image in place of several, or a wrong
                `unreadable`.
        """
        self._check_unreadable()
        backbone, cut = self._opened()
        batches = embed_images(
            backbone, cut, one_each(_missing_failed(_column(X))),
            batch_size=self.batch_size, workers=self.workers, max_pixels=self.max_pixels,
        )  # fmt: skip
        parts = [np.empty((0, space_of(backbone, cut).dim), np.float32)]
        for batch in batches:
            rows = np.full((len(batch.items), batch.embeddings.space.dim), np.nan, np.float32)
            for item in batch.items:
                if isinstance(item, Failure) and self.unreadable == "error":
                    raise error_of(item)
            rows[[isinstance(item, Loaded) for item in batch.items]] = batch.embeddings.vectors
            parts.append(rows)
        return np.concatenate(parts)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """`embedding0`, `embedding1` ...: `(D,)`. Data frames out (`set_output`) have these columns."""
        backbone, cut = self._opened()
        return np.array([f"embedding{i}" for i in range(space_of(backbone, cut).dim)], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        """Images in, no fit needed."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = False
        return tags

    def _check_unreadable(self) -> None:
        if self.unreadable not in UNREADABLE:
            raise UsageError(f"unreadable is {self.unreadable!r}; expected one of: {', '.join(UNREADABLE)}")

    def _opened(self) -> tuple[Backbone, View]:
        """Encoder and view of the parameters as they are now."""
        taps = (self.taps,) if isinstance(self.taps, str) else tuple(self.taps)
        return _encoder(self.backbone, taps, self.threads), named_view(self.view)


@lru_cache(maxsize=1)
def _encoder(backbone: str | Path, taps: tuple[str, ...], threads: int | None) -> Backbone:
    """The last encoder asked for, kept open: a search makes a clone of its estimators for every fold and parameter."""
    return open_backbone(backbone, taps=taps, threads=threads)


def _column(X: Any) -> Iterable[Source]:
    """What scikit-learn hands over -> an iterable of images.

    Raises:
        UsageError: one image in place of several, or a table of several columns.
    """
    if getattr(getattr(X, "dtype", None), "kind", "") == "S":
        raise UsageError("X is an array of NumPy's own bytes, which lose zeros at their end; give dtype=object")
    if not X.ndim if isinstance(X, np.ndarray) else is_single(X):
        raise UsageError(f"X is one input ({X!r:.80}); give a list of images")
    shape: tuple[int, ...] = getattr(X, "shape", ())
    if len(shape) == 2:
        if shape[1] != 1:
            raise UsageError(
                f"X has {shape[1]} columns; expected one of images. Choose it, e.g. with a ColumnTransformer"
            )
        return np.asarray(X, dtype=object)[:, 0]
    images: Iterable[Source] = X
    return images


def _missing_failed(images: Iterable[Source]) -> Iterator[Source]:
    """The same, with a failure in the place of each missing value of a column."""
    for number, value in enumerate(images):
        held = value.as_py() if hasattr(value, "as_py") else value  # Arrow's
        absent = held is None or type(held).__name__ in {"NAType", "NaTType"}  # pandas is not imported for its own
        if absent or (isinstance(held, float) and held != held):
            yield Failure(f"row {number}", EmptyFileError.code, "the row holds no image")
        else:
            yield held
