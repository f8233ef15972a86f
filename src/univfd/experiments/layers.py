"""Which block of the encoder the features are taken after (paper, appendix, Fig. 12)."""

from __future__ import annotations

import numpy as np

from ..study.data import Data
from ..study.experiment import Experiment, Result
from ..study.features import Encoder
from ..study.judging import judged
from ..study.methods import probes, scored
from ..study.split import TRAIN, Split
from ._curves import FIGURES, drawing, sentences, table


def run(data: Data, split: Split, layers: Encoder, seed: int, rounds: int, ks: tuple[int, ...] = (1,)) -> Result:
    """AP of nearest neighbours and the linear probe after every block."""
    vectors = layers.embed(data)
    taps = layers.backbone.taps
    panels = {}
    for tap in taps:
        own = np.ascontiguousarray(vectors[:, layers.slice_of(tap)])
        scores = scored(probes(ks), own, data, split.rows(TRAIN))
        panels[tap] = judged(data, split, scores, figures=FIGURES, rounds=rounds, seed=seed)
    figure = drawing("layers", "Mean AP by layer.", "", range(len(taps)), list(panels.values()), ticks=taps)
    note = (
        "cls.i: class token after block i, counted from 1; mean.i: mean of its patch tokens; proj: projected embedding."
    )
    made = table("layers", "AP by layer", ("layer",), {(tap,): panel for tap, panel in panels.items()}, [note])
    return Result(list(sentences(panels)), [made], [figure])


PLUGIN = Experiment(
    "Which layer the features come from",
    "The paper compares four layers of CLIP ViT-L/14 under the nearest neighbour, and finds any but the first about as "
    "good. Here: the class token after every block, and the projected embedding, all in one pass.",
    run,
    {"ks": "Sizes of the voting pool of nearest neighbours."},
)
