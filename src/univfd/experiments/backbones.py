"""What the frozen features come from: several encoders, the same two classifiers (paper, section 5.2, Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..benchmark.rendering import Section, Table, Value
from ..catalogue import entry, names
from ..errors import DataError
from ..study.data import Data
from ..study.experiment import Experiment, Result
from ..study.features import Encoder
from ..study.judging import Panel, judged
from ..study.methods import Network, fit, probes, scores_of
from ..study.split import TRAIN, Split
from ..types import FloatArray
from ..weights import is_ready
from ..wording import counted
from ._curves import FIGURES, drawing, sentences, table

_NETWORK = "features of the trained network"


def run(
    data: Data, split: Split, open_encoder: Callable[[str | Path], Encoder], network: Network | None, seed: int,
    rounds: int, backbones: tuple[str, ...] = (), ks: tuple[int, ...] = (1,),
) -> Result:  # fmt: skip
    """AP of nearest neighbours and the linear probe on every encoder."""
    chosen = backbones or ready()
    spaces: dict[str, FloatArray] = {name: open_encoder(name).embed(data) for name in chosen}
    if network:
        spaces[_NETWORK] = network.vectors(data)
    for name, vectors in spaces.items():
        if bad := int(np.isnan(vectors[:, 0]).sum()):
            raise DataError(
                f"{counted(bad, 'image')} cannot be embedded with {name}, but with the others; leave it out"
            )
    panels: dict[str, Panel] = {}
    for name, vectors in spaces.items():
        train = split.rows(TRAIN)
        fitted = fit(probes(ks), vectors[train], data.labels[train])
        scores = {method: scores_of(classifier, vectors) for method, classifier in fitted.items()}
        panels[name] = judged(data, split, scores, figures=FIGURES, rounds=rounds, seed=seed)
    left = [n for n in names() if n not in chosen]
    said = list(sentences(panels))
    if left:
        said.append(
            f"Not in it: {', '.join(left)}, whose weights are not on this machine (univfd models fetch NAME), or which "
            "were not asked for."
        )
    by_name: dict[tuple[Value, ...], Panel] = {(name,): panel for name, panel in panels.items()}
    tables = [table("backbones", "AP by encoder", ("encoder",), by_name), _encoders(chosen)]
    figure = drawing(
        "backbones", "Mean AP by encoder.", "", range(len(panels)), list(panels.values()), ticks=list(panels)
    )
    return Result(said, tables, [figure])


def ready() -> tuple[str, ...]:
    """The encoders of the catalogue whose weights are on this machine, or that have none."""
    return tuple(name for name in names() if not entry(name).recipe or is_ready(entry(name)))


def _encoders(chosen: tuple[str, ...]) -> Table:
    rows: list[list[Value]] = [[e.name, e.title, e.proj, e.licence] for e in map(entry, chosen)]
    return Table("encoders", "The encoders", (), ("encoder", "what", "dimension", "licence"), [Section((), rows)])


PLUGIN = Experiment(
    "Which encoder the frozen features come from",
    "The paper compares encoders under one linear layer, and finds the scale of the pre-training to matter more than "
    "the architecture. Here: every encoder whose weights are on this machine (or those of --backbones), its projected "
    "embedding, and the trained network's own features as frozen ones.",
    run,
    {
        "backbones": "Encoders: names or folders; default: all of the catalogue that are on this machine.",
        "ks": "Sizes of the voting pool of nearest neighbours.",
    },
)
