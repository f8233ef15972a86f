"""Values that travel along the line: labels, image references, feature spaces, embeddings, verdicts.

Frozen dataclasses without behaviour beyond checking and serialising themselves. Nothing here reads files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .card import card
from .errors import FeatureSpaceError, FormatError, InputError
from .remarks import Remark

if TYPE_CHECKING:
    from PIL.Image import Image

FloatArray = NDArray[np.float32]
"""float32, C order; `(N, D)` where rows are images."""
Pixels = NDArray[np.uint8]
"""RGB, uint8, `(H, W, 3)`, or a stack of crops `(N, S, S, 3)`."""

VerdictLabel = Literal["fake", "real", "unsure"]
UNITS = 4
"""Values of a tap `mlp` over those of `cls`: the width of a block's MLP. An encoder of others has no tap `mlp`."""


class Label(IntEnum):
    """Class of an image. The order is the score's direction: higher = fake."""

    REAL = 0
    FAKE = 1

    @classmethod
    def parse(cls, text: str | int) -> Label:
        """Read `real`, `fake`, `0`, `1` (any case).

        Raises:
            FormatError: for anything else; a label is never guessed.
        """
        known = {"real": cls.REAL, "0": cls.REAL, "fake": cls.FAKE, "1": cls.FAKE}
        label = known.get(str(text).strip().lower())
        if label is None:
            raise FormatError(f"label {text!r} is not one of: real, fake, 0, 1")
        return label

    @property
    def word(self) -> str:
        """`real` or `fake`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class TarSpan:
    """The bytes of one member of a tar file: `size` bytes at `offset` (of an uncompressed tar)."""

    tar: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ParquetCell:
    """An encoded image in a Parquet file.

    Attributes:
        file: its path.
        column: that holds the images (`image`, `image.bytes`).
        group: number of the row group.
        row: within the row group.
        number: of the row in the whole file.
    """

    file: Path
    column: str
    group: int
    row: int
    number: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """An encoded image in a `datasets.Dataset`.

    Attributes:
        rows: the data set, its images not decoded: a row's cell holds `bytes`, or the `path` of a file.
        column: that holds the images.
        row: its number.
    """

    rows: Any = field(repr=False)
    column: str
    row: int


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Names one input image and where its bytes (or pixels) are; nothing is read yet.

    Attributes:
        name: what the user sees; always valid Unicode (undecodable file name bytes are backslash-escaped).
        source: a path, encoded bytes, a span of a tar file, a cell of a Parquet file, a row of a `datasets.Dataset`,
            RGB pixels `(H, W, 3)` uint8, a Pillow image; or, of a place that could not be reached, the error that
            reading it raises.
    """

    name: str
    source: Path | bytes | TarSpan | ParquetCell | DatasetRow | Pixels | Image | InputError = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of a data set with what is known about it.

    Attributes:
        ref: the image.
        label: real or fake.
        generator: name of the generator; empty for real images.
        source: where the image comes from (a camera set, a web site, a repository ...).
        group: images with the same group (same input, same identity) must stay on one side of a split.
        licence: as stated at the source, or empty.
        family: kind of generator (`gan`, `diffusion`, `ar` ...), where it is known.
        split: the part of its data set (`train`, `val`, `test`) as that says, or empty.
        subset: the test set of a suite that it belongs to, or empty.
        extra: the other columns of a manifest, untouched; of a folder `class`, the folders that name nothing else.
    """

    ref: ImageRef
    label: Label
    generator: str = ""
    source: str = ""
    group: str = ""
    licence: str = ""
    family: str = ""
    split: str = ""
    subset: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """Everything that decides what the numbers of an embedding mean.

    It travels with every embedding, bank and detector. Vectors of two spaces are never compared.

    Attributes:
        backbone: catalogue name.
        weights: sha256 of the weights file as published (before any conversion).
        taps: the layers, concatenated in this order (`proj`, `cls.8`, `mean.6` ...).
        view: name of the view that cut the crops.
        preprocessing: digest of the preprocessing and of the graph recipe.
        dim: number of values D of one embedding.
        normalised: whether each embedding has unit length. The paper's features have not. No encoder here sets
            it: it is kept for the format on disk.
    """

    backbone: str
    weights: str
    taps: tuple[str, ...]
    view: str
    preprocessing: str
    dim: int
    normalised: bool = False

    @property
    def digest(self) -> str:
        """16 hex digits that name this space."""
        return digest_of(self.to_dict())[:16]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"taps": list(self.taps)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureSpace:
        """Inverse of `to_dict`.

        Raises:
            FormatError: a field is missing, unknown or of another type.
        """
        try:
            values = dict(data)
            made = cls(**(values | {"taps": tuple(values["taps"])}))
        except (TypeError, KeyError, ValueError) as error:
            raise FormatError(f"feature space {str(data)[:500]} cannot be read: {error}") from error
        texts = (made.backbone, made.weights, made.view, made.preprocessing, *made.taps)
        known = all(isinstance(t, str) for t in texts) and type(made.dim) is int
        if not known or made.dim < 1 or not made.taps:
            raise FormatError(f"feature space {str(data)[:500]}: expected texts, taps, and a dimension of 1 or more")
        if not isinstance(made.normalised, bool):
            raise FormatError(f"feature space {str(data)[:500]}: expected true or false in 'normalised'")
        return made

    def require(self, other: FeatureSpace, what: str) -> None:
        """Check that `other` is this very space.

        Args:
            other: the space of the vectors at hand.
            what: what they are, for the message (`the bank`, `the images`).

        Raises:
            FeatureSpaceError: names every field that differs.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        differing = [f"{k}: {theirs[k]!r} instead of {mine[k]!r}" for k in mine if mine[k] != theirs[k]]
        if differing:
            raise FeatureSpaceError(
                f"{what}: made in another feature space ({'; '.join(differing)}). "
                "Embed it again with the same backbone, taps and view, on an engine in float32."
            )


def digest_of(data: Mapping[str, Any]) -> str:
    """sha256 of a mapping in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def data_digest(images: Iterable[tuple[str, Label]]) -> str:
    """sha256 that names a labelled collection, whatever its order and file names.

    Args:
        images: sha256 of each image file, and its label.
    """
    lines = sorted(f"{sha256} {label.word}\n" for sha256, label in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors `(N, D)` float32 with the space that they live in."""

    vectors: FloatArray
    space: FeatureSpace

    def __post_init__(self) -> None:
        """Check the shape against the space."""
        if self.vectors.ndim != 2 or self.vectors.shape[1] != self.space.dim:
            raise FormatError(f"embeddings of shape {self.vectors.shape}; expected (N, {self.space.dim})")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One row of a bank, seen from a query.

    Attributes:
        row: index into the bank.
        distance: cosine distance, 0 (same direction) to 2 (opposite).
        label: class of the row.
        generator: generator of a fake row, else empty.
        source: where the row's image comes from.
        key: sha256 of the row's image file.
    """

    row: int
    distance: float
    label: Label
    generator: str
    source: str
    key: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "label": self.label.word,
            "distance": self.distance,
            "generator": self.generator,
            "source": self.source,
            "key": self.key,
            "row": self.row,
        }


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall seconds spent on one image. `embed` and `decide` are the batch's time shared out equally."""

    load: float
    embed: float
    decide: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the detector says about one image, with its evidence.

    Attributes:
        image: the input's name.
        verdict: `fake`, `real` or `unsure` (between the two thresholds).
        score: higher = fake; the scale is the classifier's own.
        probability: of being fake, only where the detector is calibrated, else None.
        attribution: of a `fake`, the generator that it is like, or `unknown generator`; empty for the other verdicts
            and where the detector names none.
        nearest_fake: nearest fake rows of the bank, nearest first.
        nearest_real: nearest real rows of the bank, nearest first.
        sha256: of the encoded bytes; empty for pixels.
        width: of the picture after orientation, in pixels.
        height: of the picture after orientation, in pixels.
        format: of the file (`JPEG`, `PNG` ...); empty for pixels.
        view: name of the view.
        detector: name and digest of the detector.
        space: digest of the feature space.
        doubts: why it is `unsure`: between the thresholds, a degradation that voids the promise, unlike all that the
            bank knows; empty for the other verdicts.
        remarks: what a reader of the verdict should know (`upscaled 1.75x`, `only the first of several frames` ...).
        timings: wall seconds.
    """

    image: str
    verdict: VerdictLabel
    score: float
    probability: float | None
    attribution: str
    nearest_fake: tuple[Neighbor, ...]
    nearest_real: tuple[Neighbor, ...]
    sha256: str
    width: int
    height: int
    format: str
    view: str
    detector: str
    space: str
    doubts: tuple[Remark, ...]
    remarks: tuple[Remark, ...]
    timings: Timings

    @property
    def reasons(self) -> tuple[str, ...]:
        """The doubts in words."""
        return tuple(d.text for d in self.doubts)

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks in words."""
        return tuple(r.text for r in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, in the order of a row."""
        row: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("doubts", "remarks", "timings"):
            del row[name]
        row |= {
            "nearest_fake": [n.to_dict() for n in self.nearest_fake],
            "nearest_real": [n.to_dict() for n in self.nearest_real],
            "reasons": list(self.reasons),
            "reason_codes": [d.coded() for d in self.doubts],
            "notes": list(self.notes),
            "note_codes": [r.coded() for r in self.remarks],
            "timings": asdict(self.timings),
        }
        return {"status": "ok"} | row

    def _repr_html_(self) -> str:
        return card(self.to_dict())


@dataclass(frozen=True, slots=True)
class Failure:
    """The row of an input that could not be judged: n in = n out.

    Attributes:
        image: the input's name.
        error: code of the error class (see `univfd.errors`).
        message: what was got, what was expected, what to do.
    """

    image: str
    error: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"status": "failed", "image": self.image, "error": self.error, "message": self.message}

    def _repr_html_(self) -> str:
        return card(self.to_dict())
