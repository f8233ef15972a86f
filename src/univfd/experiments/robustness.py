"""What re-encoding and blur do to each method (paper, section 5.2, Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping

from ..benchmark.rendering import Value
from ..perturbations import perturbation
from ..study.data import Data
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder, chained
from ..study.judging import Panel, judged
from ..study.methods import NETWORK, NETWORK_ABSENT, Network, apart, fit, probes, scores_of, spread
from ..study.split import TEST, TRAIN, Split
from ._curves import FIGURES, drawing, sentences, table

_CLEAN = "clean"


def run(
    data: Data, split: Split, encoder: Encoder, network: Network | None, seed: int, rounds: int,
    qualities: tuple[int, ...] = (90, 70, 50, 30), sigmas: tuple[float, ...] = (1.0, 2.0, 3.0),
    ks: tuple[int, ...] = (1,),
) -> Result:  # fmt: skip
    """AP under JPEG and blur of the test images; training and validation images stay as they are."""
    train, test = split.rows(TRAIN), split.rows(TEST)
    fitted = fit(probes(ks), encoder.embed(data, train), data.labels[train])
    panels: dict[str, Panel] = {}
    for chain in (_CLEAN, *_chains(qualities, sigmas)):
        rows = apart(split) if chain == _CLEAN else test
        vectors = encoder.embed(data, rows, then=chain)
        found = {NETWORK: network.scores(data, rows, then=chain)} if network else {}
        found |= {name: scores_of(classifier, vectors) for name, classifier in fitted.items()}
        scores = {name: spread(values, rows, len(data)) for name, values in found.items()}
        panels[chain] = judged(
            data, split, scores, figures=FIGURES, rounds=rounds, seed=seed, perturbation=chained(encoder.perturb, chain)
        )
    laid = {panel.cells[0].perturbation: panel for panel in panels.values()}
    by_chain: dict[tuple[Value, ...], Panel] = {(chain,): panel for chain, panel in laid.items()}
    note = "Both classes' test images are changed alike; nothing is trained or chosen on changed images."
    made = table("robustness", "AP under JPEG and blur", ("test images",), by_chain, [note])
    drawings = [
        _drawing("jpeg", "JPEG quality", qualities, panels),
        _drawing("blur", "blur, sigma in pixels", sigmas, panels),
    ]
    said = [*sentences(laid), f"The network is {network.name}." if network else NETWORK_ABSENT]
    cells = [cell for panel in panels.values() for cell in panel.cells]
    return Result(said, [made], drawings, panels[_CLEAN].images, cells)


def check(qualities: tuple[float, ...], sigmas: tuple[float, ...]) -> None:
    """Refuse what no image can be changed by."""
    for chain in _chains(qualities, sigmas):
        perturbation(chain)


def _chains(qualities: tuple[float, ...], sigmas: tuple[float, ...]) -> list[str]:
    return [*(f"jpeg:{q:g}" for q in qualities), *(f"blur:{s:g}" for s in sigmas)]


def _drawing(kind: str, along: str, values: tuple[float, ...], panels: Mapping[str, Panel]) -> Drawing:
    shown = [panels[_CLEAN], *(panels[f"{kind}:{v:g}"] for v in values)]
    ticks = [shown[0].cells[0].perturbation, *(f"{v:g}" for v in values)]
    return drawing(kind, f"Mean AP under {along}.", along, range(len(shown)), shown, ticks=ticks)


PLUGIN = Experiment(
    "Robustness to JPEG and blur",
    "The paper lays JPEG and Gaussian blur on the test images: the linear layer stays above the trained network, whose "
    "curve is flatter (it was trained on blurred and compressed copies; here nothing but the network may have been).",
    run,
    {
        "qualities": "JPEG qualities.",
        "sigmas": "Standard deviations of the blur, in pixels.",
        "ks": "Sizes of the voting pool of nearest neighbours.",
    },
    check,
)
