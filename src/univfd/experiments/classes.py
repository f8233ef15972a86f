"""How many kinds of pictures the bank must know (paper, appendix, Fig. 13)."""

from __future__ import annotations

import numpy as np

from ..benchmark.rendering import Value
from ..errors import DataError
from ..study.data import Data, Strings
from ..study.experiment import Experiment, Result
from ..study.features import Encoder
from ..study.judging import Panel, judged
from ..study.methods import probes, scored
from ..study.split import TRAIN, Split
from ._curves import FIGURES, drawing, sentences, table


def run(
    data: Data, split: Split, encoder: Encoder, seed: int, rounds: int, counts: tuple[int, ...] = (1, 2, 4, 8, 16),
    ks: tuple[int, ...] = (1, 9),
) -> Result:  # fmt: skip
    """AP by number of picture classes, or of real sources, that the training part has."""
    vectors, train = encoder.embed(data), split.rows(TRAIN)
    kind, what = _kinds(data, train)
    known = np.unique(kind[train][~data.fake[train]].astype(str))
    shuffled = np.random.default_rng(seed).permutation(known)
    by_setting: dict[tuple[Value, ...], Panel] = {}
    chosen = [*sorted({c for c in counts if 0 < c < len(known)}), len(known)]
    for count in chosen:
        inside = np.isin(kind[train].astype(str), shuffled[:count])
        if what == _SOURCES:
            inside |= data.fake[train]
        kept = train[inside]
        fakes = int(data.fake[kept].sum())
        if min(fakes, len(kept) - fakes) <= max(ks, default=1) // 2:
            continue
        scores = scored(probes(ks), vectors, data, kept)
        panel = judged(data, split, scores, figures=FIGURES, rounds=rounds, seed=seed)
        by_setting[count, len(kept) - fakes, fakes] = panel
    if not by_setting:
        raise DataError(f"no number of {what} leaves enough reals and fakes to train on; ask for other --counts")
    used = [int(str(setting[0])) for setting in by_setting]
    panels = list(by_setting.values())
    left = [c for c in chosen if c not in used]
    said = list(sentences({f"{c} {what}": p for c, p in zip(used, panels, strict=True)}))
    said += [f"Left out, since too few images of a class are left: {', '.join(map(str, left))} {what}."] if left else []
    note = f"Varied: the {what} of the training part. {_MEANING[what]} Fewer are part of more, chosen by the seed."
    made = table("classes", f"AP by number of {what}", (what, "reals", "fakes"), by_setting, [note])
    return Result(said, [made], [drawing("classes", f"Mean AP by number of {what}.", what, used, panels, log=True)])


_CLASSES, _SOURCES = "picture classes", "sources of reals"
_MEANING = {
    _CLASSES: "Reals and fakes of the other classes do not train, as in the paper.",
    _SOURCES: "Reals of the other sources do not train; all fakes do, since the data say no picture class of them. The "
    "paper varies picture classes of both.",
}


def _kinds(data: Data, train: np.ndarray) -> tuple[Strings, str]:
    """What is varied: picture classes, where both classes' training images have common ones; else sources of reals."""
    named = np.array([str(s.extra.get("class") or "") for s in data.samples], dtype=object)
    fake = data.fake[train]
    common = set(named[train][fake]) & set(named[train][~fake]) - {""}
    return (named, _CLASSES) if len(common) > 1 else (data.column("source"), _SOURCES)


PLUGIN = Experiment(
    "How many classes of pictures the bank knows",
    "The paper fills its bank from 2, 4, 8 or 20 of ProGAN's classes of pictures: two are decent already. Here: "
    "picture classes where the data name them for reals and fakes, else sources of reals.",
    run,
    {
        "counts": "Numbers of classes (or sources); all of them come last.",
        "ks": "Sizes of the voting pool of nearest neighbours.",
    },
)
