"""How good an index is: its effort set, and its recall measured, on rows of the bank; and `index.json` that says so.

Recall@k of a query is the share of its k nearest places that the index filled with a row no farther than the k-th
nearest row is (of equally far rows any will do). Queries are rows of the bank drawn by lot, each leaving itself out.
One part of them sets the effort (how much of the index a search looks at), the other part gives the recall that is
stored, so the figure is not one that was tuned to. It is measured as the nearest-neighbour classifier searches,
among the rows of each class, and among all.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UsageError
from ..search import Distances, nearest_in_blocks
from ..storage import read_json, write_json
from ..types import FloatArray, Label
from ._rows import ANY, RowNumbers, RowSource, Where

KIND, SCHEMA, FILE = "neighbour index", 1, "index.json"
K, AIM = 9, 0.985
"""The recall that is aimed at, and of how many neighbours: the paper's largest pool."""
_TUNED, _MEASURED = 150, 350
_WITHIN = {"any": ANY, **{label.word: Where(label) for label in Label}}
_log = logging.getLogger(__name__)

Search = Callable[[int, FloatArray, int, Where], tuple[Distances, RowNumbers]]
"""A search with the effort of that number: (effort, queries, k, where)."""


@dataclass(frozen=True)
class Recall:
    """Measured recall.

    Attributes:
        k: neighbours.
        aim: what the effort was set for.
        queries: rows that it was measured with.
        mean: recall@k among all rows (`any`), `real` ones and `fake` ones.
        error: standard error of each.
    """

    k: int
    aim: float
    queries: int
    mean: Mapping[str, float]
    error: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The smallest of the means."""
        return min(self.mean.values())


@dataclass(frozen=True)
class Manifest:
    """What `index.json` holds.

    Attributes:
        index: name of the index in the registry.
        rows: N.
        dim: D.
        digest: of the rows, see `RowSource`.
        parameters: what it was built with; the index's own.
        effort: what a search spends; the index's own.
        recall: measured when it was built.
        seconds: that building took, without measuring.
        library: name and version.
        files: sha256 of the index's own files.
    """

    index: str
    rows: int
    dim: int
    digest: str
    parameters: Mapping[str, Any]
    effort: Mapping[str, int]
    recall: Recall
    seconds: float
    library: str
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write `index.json`."""
        write_json(folder / FILE, KIND, SCHEMA, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Inverse of `write`.

        Raises:
            FormatError: missing, damaged or of a newer schema.
        """
        return cls.of(read_json(folder / FILE, KIND, SCHEMA), str(folder / FILE))

    @classmethod
    def of(cls, data: Mapping[str, Any], place: str) -> Self:
        """From what `dataclasses.asdict` made of one.

        Args:
            data: plain values.
            place: where they come from, for errors.

        Raises:
            FormatError: something is missing.
        """
        try:
            values = {name: data[name] for name in cls.__dataclass_fields__}
            made = cls(**(values | {"recall": Recall(**data["recall"])}))
        except (KeyError, TypeError) as error:
            raise FormatError(f"{place} is not whole: {error}. Build the index again") from error
        if not _is_possible(asdict(made)):
            raise FormatError(f"{place} has values that no index is written with. Build the index again")
        return made

    def require_dim(self, dim: int, folder: Path) -> None:
        """Refuse rows of another dimension.

        Raises:
            FormatError: they are.
        """
        if self.dim != dim:
            raise FormatError(f"{folder} is an index of {self.dim} dimensions; the bank's rows have {dim}")


def _is_possible(values: Mapping[str, Any]) -> bool:
    """Whether these values have the types that a manifest is written with: it may be a stranger's."""
    effort, files = values["effort"], values["files"]
    if not isinstance(effort, dict) or not isinstance(files, dict) or not effort:
        return False
    numbers = [values["rows"], values["dim"], *effort.values()]
    texts = [values["index"], values["digest"], *files.values()]
    return all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(t, str) for t in texts)


def measure(
    search: Search, source: RowSource, efforts: Sequence[Any], *, aim: float, k: int = K, seed: int = 0
) -> tuple[int, Recall]:
    """Set the effort and measure the recall.

    Args:
        search: the index.
        source: its rows.
        efforts: what may be spent, least first; only their number matters here.
        aim: the least effort is taken whose recall on the first part of the sample reaches this in all three.
        k: neighbours.
        seed: of the sample.

    Returns:
        Number of the effort (the last one if none reaches the aim, with a warning), and its recall.

    Raises:
        UsageError: fewer than two rows, or an aim that is no share.
    """
    if len(source) < 2 or not 0 < aim <= 1:
        raise UsageError(f"an index needs at least 2 rows and an aim above 0 and up to 1; got {len(source)} and {aim}")
    rng = np.random.default_rng(seed)
    picked = rng.permutation(len(source))[: _TUNED + _MEASURED].astype(np.intp)
    split = max(1, len(picked) * _TUNED // (_TUNED + _MEASURED))
    queries, truth = source.take(picked), _truth(source, picked, k)

    def shares(effort: int, part: slice) -> dict[str, NDArray[np.float64]]:
        return {
            name: _share(search(effort, queries[part], k + 1, _WITHIN[name]), picked[part], kth[part], k)
            for name, kth in truth.items()
        }

    def reaches(effort: int) -> bool:
        return min(float(s.mean()) for s in shares(effort, slice(0, split)).values()) >= aim

    chosen = bisect_left(range(len(efforts) - 1), True, key=reaches)  # recall grows with the effort
    measured = shares(chosen, slice(split, None))
    recall = Recall(
        k=k,
        aim=aim,
        queries=len(picked) - split,
        mean={name: round(float(s.mean()), 5) for name, s in measured.items()},
        error={name: round(float(s.std() / np.sqrt(len(s))), 5) for name, s in measured.items()},
    )
    if recall.worst < aim:
        _log.warning("recall@%d of the index is %.4f; %.4f was aimed at", k, recall.worst, aim)
    return chosen, recall


def _truth(source: RowSource, picked: RowNumbers, k: int) -> dict[str, Distances]:
    """Distances `(Q, <= k)` to the nearest other rows, by exact search; classes without other rows are left out."""
    queries = source.take(picked)
    found = {label: nearest_in_blocks(queries, source.blocks(Where(label)), k + 1) for label in Label}
    distances, rows = (np.concatenate([found[label][i] for label in Label], axis=1) for i in (0, 1))
    every = {"any": (distances, rows)} | {label.word: found[label] for label in Label}
    truth = {name: _others(*pair, picked, k) for name, pair in every.items()}
    return {name: near for name, near in truth.items() if near.shape[1]}


def _others(distances: Distances, rows: RowNumbers, picked: RowNumbers, k: int) -> Distances:
    """The k smallest distances of each query to rows other than itself, as many as all queries have."""
    far = np.where(rows == picked[:, None], np.inf, distances)
    ordered = np.sort(far, axis=1)[:, :k]
    return ordered[:, np.isfinite(ordered).all(axis=0)]


def _share(found: tuple[Distances, RowNumbers], picked: RowNumbers, truth: Distances, k: int) -> NDArray[np.float64]:
    """Recall of each query, see this module's docstring."""
    far = np.where(found[1] == picked[:, None], np.inf, found[0])
    near = np.sort(far, axis=1)[:, : truth.shape[1]]
    return np.asarray((near <= truth[:, -1:]).mean(axis=1))
