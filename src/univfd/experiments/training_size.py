"""How many training images are needed (paper, section 5.2, Fig. 8)."""

from __future__ import annotations

import numpy as np

from ..benchmark.rendering import Value
from ..errors import UsageError
from ..study.data import Data
from ..study.experiment import Experiment, Result
from ..study.features import Encoder
from ..study.judging import Panel, judged
from ..study.methods import probes, scored
from ..study.split import TRAIN, Split
from ._curves import FIGURES, drawing, sentences, table


def run(
    data: Data, split: Split, encoder: Encoder, seed: int, rounds: int,
    fractions: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 1.0), ks: tuple[int, ...] = (1,),
) -> Result:  # fmt: skip
    """AP by share of the training images."""
    vectors, train = encoder.embed(data), split.rows(TRAIN)
    order = _order(train, data.fake[train], seed)
    by_setting: dict[tuple[Value, ...], Panel] = {}
    names, sizes = [], []
    for fraction in sorted(set(fractions)):
        kept = np.concatenate([own[: max(1, round(fraction * len(own)))] for own in order])
        scores = scored(probes(ks), vectors, data, kept)
        fakes = int(data.fake[kept].sum())
        by_setting[f"{fraction:g}", len(kept) - fakes, fakes] = judged(
            data, split, scores, figures=FIGURES, rounds=rounds, seed=seed
        )
        names.append(f"{fraction:.0%} ({len(kept)})")
        sizes.append(len(kept))
    panels = list(by_setting.values())
    note = (
        "A smaller training set is part of every larger one; the test images and the validation images stay the same."
    )
    made = table("training-size", "AP by training images", ("share", "reals", "fakes"), by_setting, [note])
    figure = drawing("training-size", "Mean AP by training images.", "training images", sizes, panels, log=True)
    return Result(list(sentences(dict(zip(names, panels, strict=True)))), [made], [figure])


def check(fractions: tuple[float, ...]) -> None:
    """Refuse shares that are none."""
    if not fractions or not all(0 < f <= 1 for f in fractions):
        raise UsageError(f"fractions {fractions}; expected one number or more, above 0, at most 1")


def _order(train: np.ndarray, fake: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows of each class, shuffled."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(train[fake == label]) for label in (False, True)]


PLUGIN = Experiment(
    "How much training data",
    "The paper takes 8,000 to 720,000 training images: more help, mostly on diffusion models, and a third or a quarter "
    "cost little. Here: shares of the training part, of both classes alike.",
    run,
    {
        "fractions": "Shares of the training images.",
        "ks": "Sizes of the voting pool of nearest neighbours.",
    },
    check,
)
