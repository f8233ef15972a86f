"""Where fakes of unseen generators end up: the sink class (paper, section 3.2, Fig. 2, Table 1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..benchmark.groups import redrawing
from ..benchmark.rendering import Section, Table, Value
from ..errors import UsageError
from ..metrics import Absent, Design, Estimate, interval, weightings
from ..projection import PERPLEXITY, project
from ..search import to_unit
from ..study import plots
from ..study.data import Data
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder, chained
from ..study.judging import HALF, NOTE, SEEN, SINK, UNSEEN, Panel, judged
from ..study.methods import NETWORK_ABSENT, Network, probes, scored, titled, with_network
from ..study.split import TEST, TRAIN, Split
from ..study.tables import generators, said
from ..types import FloatArray
from ..wording import counted

_REAL, _SEEN, _UNSEEN = "held-out real", "fake, training generator", "fake, unseen generator"
_KINDS = (_REAL, _SEEN, _UNSEEN)
_FIGURES = (SINK, *HALF)
Floats = NDArray[np.float64]


def run(
    data: Data, split: Split, encoder: Encoder, network: Network | None, seed: int, rounds: int,
    ks: tuple[int, ...] = (1, 9), points: int = 1500, perplexity: int = PERPLEXITY,
) -> Result:  # fmt: skip
    """The share of unseen fakes that each method calls real, and how features lie."""
    vectors = encoder.embed(data)
    scores = scored(probes(ks), vectors, data, split.rows(TRAIN))
    panel = judged(
        data, split, with_network(scores, network, data, split), figures=_FIGURES, rounds=rounds, seed=seed,
        perturbation=chained(encoder.perturb),
    )  # fmt: skip
    test = split.rows(TEST)
    spaces = {"frozen encoder": vectors[test]}
    if network:
        spaces = {"trained network": network.vectors(data, test)} | spaces
    kinds = np.where(
        ~data.fake[test], _REAL, np.where(np.isin(data.column("generator")[test], split.seen), _SEEN, _UNSEEN)
    )
    plan = redrawing(panel.images)
    found = {name: _separation(v, kinds, plan, rounds, seed) for name, v in spaces.items()}
    tables = [
        _shares(panel),
        generators(panel, SINK, "real-by-generator", "Fakes called real at 0"),
        _separations(found),
    ]
    drawing = _picture(spaces, kinds, points, perplexity, seed)
    return Result(list(_sentences(panel, found, network)), tables, [drawing], panel.images, panel.cells)


def check(points: int, perplexity: int) -> None:
    """Refuse what no t-SNE can be drawn with."""
    for name, value, least in (("points", points, 2), ("perplexity", perplexity, 1)):
        if value < least:
            raise UsageError(f"{name} is {value}; expected at least {least}")


def _shares(panel: Panel) -> Table:
    rows: list[list[Value]] = []
    for of in panel.shown:
        for m in panel.methods:
            real = panel.of(m, HALF[1], of, "family")
            rows.append([of, titled(m), panel.of(m, SINK, of, "family"), panel.mean(m, SINK, of), real])
    head = ("generators", "method", "fakes called real", "fakes called real, mean over generators", "reals called real")
    notes = (
        "At 0, the method's own decision. A sink: fakes of unseen generators called real far more often than those of "
        "training generators, and about as often as reals are.",
        NOTE,
        *panel.notes,
    )
    return Table("sink", "Share of fakes that land in real", notes, head, [Section((), rows)])


def _separation(
    vectors: FloatArray, kinds: NDArray[np.str_], plan: Design, rounds: int, seed: int
) -> dict[str, Estimate | Absent]:
    """How features lie: silhouettes of reals against each kind of fake, and the side that unseen fakes are on."""
    unit = to_unit(vectors).astype(np.float64)
    found: dict[str, Estimate | Absent] = {}
    for name in (_SEEN, _UNSEEN):
        value = _silhouette(unit, (kinds == _REAL, kinds == name))
        found[f"silhouette, {_REAL} against {name}"] = _mean(value, plan, rounds, seed)
    centres = [unit[kinds == k].mean(axis=0) for k in (_REAL, _SEEN) if (kinds == k).any()]
    if len(centres) == 2 and (kinds == _UNSEEN).any():
        near = [1 - unit @ (c / max(float(np.linalg.norm(c)), 1e-12)) for c in centres]
        side = np.where(kinds == _UNSEEN, (near[0] < near[1]).astype(float), np.nan)
        found["unseen fakes nearer to the centre of reals than of training generators' fakes"] = _mean(
            side, plan, rounds, seed
        )
    return found


def _silhouette(unit: Floats, classes: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> Floats:
    """`(n,)` silhouette (cosine) of the images of two classes; nan elsewhere and where a class has fewer than two."""
    from sklearn.metrics import silhouette_samples

    found = np.full(len(unit), np.nan)
    if min(int(c.sum()) for c in classes) >= 2:
        own = classes[0] | classes[1]
        found[own] = silhouette_samples(unit[own], classes[1][own], metric="cosine")
    return found


def _mean(values: Floats, plan: Design, rounds: int, seed: int) -> Estimate | Absent:
    """Mean of the values that are there, its interval by redrawing images (their values stay as they are)."""
    there = ~np.isnan(values)
    if not there.any():
        return Absent("fewer than two images of a kind")
    drawn = [
        w[:, there] @ values[there] / np.maximum(w[:, there].sum(axis=1), 1) for w in weightings(plan, rounds, seed)
    ]
    return interval(np.concatenate(drawn), int(there.sum()))


def _separations(found: dict[str, dict[str, Estimate | Absent]]) -> Table:
    rows: list[list[Value]] = [[space, name, v] for space, values in found.items() for name, v in values.items()]
    notes = (
        "Silhouette (cosine distance, -1 to 1): above 0, an image lies nearer to its own class; about 0, the classes "
        "lie in each other. In the features themselves, not in the t-SNE, whose distances mean little.",
    )
    return Table("separation", "How reals and fakes lie in feature space", notes, ("features", "figure", "value"),
                 [Section((), rows)])  # fmt: skip


def _picture(
    spaces: dict[str, FloatArray], kinds: NDArray[np.str_], points: int, perplexity: int, seed: int
) -> Drawing:
    shown = np.sort(np.random.default_rng(seed).permutation(len(kinds))[:points])
    figure, panels = plots.panels(len(spaces))
    for axes, (name, vectors) in zip(panels, spaces.items(), strict=True):
        (made,) = project(to_unit(vectors[shown]), ["tsne"], perplexity=perplexity, seed=seed)
        plots.scatter(axes, made.places, list(kinds[shown]), _KINDS)
        axes.set_title(name)
    plots.legend(figure, panels[0], len(spaces))
    n = counted(len(shown), "test image")
    caption = f"t-SNE of {n} (vectors of length 1, seed {seed}): features of {' and of '.join(spaces)}."
    return Drawing("tsne", caption, figure)


def _sentences(panel: Panel, found: dict[str, dict[str, Estimate | Absent]], network: Network | None) -> Iterator[str]:
    for of in (SEEN, UNSEEN):
        if of in panel.sets:
            yield f"Fakes called real, mean over {of}: {said(panel, SINK, of)}."
    for m in panel.methods:
        yield f"Reals called real by {titled(m)}: {panel.of(m, HALF[1], UNSEEN, 'family')}."
    for space, values in found.items():
        for name, value in values.items():
            yield f"Features of the {space}: {name}: {value if isinstance(value, Estimate) else value.reason}."
    yield f"The network is {network.name}." if network else NETWORK_ABSENT


PLUGIN = Experiment(
    "The sink class",
    "The paper's explanation: a trained network learns what the fakes that it saw have in common, and *real* becomes a "
    "sink that takes everything else, fakes of other generators too. Here: the share of fakes that each method calls "
    "real, of training generators and of unseen ones, and how the network's penultimate features and the frozen ones "
    "lie.",
    run,
    {
        "ks": "Sizes of the voting pool of nearest neighbours.",
        "points": "Images in the t-SNE, at most.",
        "perplexity": "Of the t-SNE.",
    },
    check,
)
