"""What an experiment is, and what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..benchmark.rendering import Table
from ..benchmark.rows import Cell, Images
from ..types import Failure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure: its file's name, what it shows, how many images are in it.

    Attributes:
        name: of the file, without ending.
        caption: for people; says n.
        figure: what to draw.
        raster: as PNG; for pictures, which no SVG makes smaller.
    """

    name: str
    caption: str
    figure: Figure
    raster: bool = False


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        sentences: the answer in words, each with its numbers.
        tables: with n in every row.
        drawings: figures.
        images: the images that were scored, where `cells` are given.
        cells: scores of each method on them.
        failures: by row of the data, images that turned out not to be decodable; of an experiment without an encoder.
    """

    sentences: Sequence[str]
    tables: Sequence[Table]
    drawings: Sequence[Drawing] = ()
    images: Images | None = None
    cells: Sequence[Cell] = ()
    failures: Mapping[int, Failure] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments.

    Attributes:
        title: one line.
        question: what the paper asked and found, and how it is asked here.
        run: gives the result. Its keyword parameters say what it uses: those called as in `univfd.study.run.SHARED`
            are given to it; any other is an option of its own, with a default.
        options: what each option of its own does.
        check: refuses, before anything is embedded, what `run` could not be made of. It is given those of `data`,
            `split_by` and the options that it has parameters for.
    """

    title: str
    question: str
    run: Callable[..., Result]
    options: Mapping[str, str] = field(default_factory=dict)
    check: Callable[..., None] | None = None

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of what `run` takes."""
        return tuple(inspect.signature(self.run).parameters)

    @property
    def own(self) -> dict[str, Any]:
        """Its own options with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
