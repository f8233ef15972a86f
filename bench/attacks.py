"""How far a picture's verdict can be moved: by laundering, and by steps along the gradient of the public encoder.

python bench/attacks.py DATA [-o FILE] [--table FILE] [--detector NAME] [--each 60] [--pixels 24]

DATA has `manifest.jsonl`. A detector is fitted on half of the generators and half of the real sources, calibrated as
`univfd fit` does, with encoder, taps, view and classifier of the given one, and tested on images of the other half.
What is reported: shares of fakes and of reals that are called fake, before and after.

Laundering is done to the pixels in front of the view. The gradient steps (`--pixels` fakes; they need PyTorch) are made
by someone who knows everything: encoder, taps, view, linear layer. They move the pixels of the crop that the encoder
sees, by at most so many 255ths each, and the moved crop is rounded to 8 bits and judged by the detector itself, not by
its copy in PyTorch. Whoever attacks a whole picture must also get through the view's scaling.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from univfd.backbones import Backbone
from univfd.building import build_bank, fit_detector
from univfd.datasets import open_dataset
from univfd.detector import Detector, load
from univfd.embedding import embed_images
from univfd.images import decode
from univfd.metrics import proportion
from univfd.perturbations import perturbation
from univfd.types import FloatArray, Label, Pixels, Sample
from univfd.views import View

BUDGETS = ((1, 5), (1, 10), (2, 5), (2, 10), (4, 10))
"""L-infinity, in 255ths, and steps."""
LAUNDERING = (
    "clean", "jpeg:85", "jpeg:60", "jpeg:40", "scale:0.5", "noise:4", "limit:768+jpeg:60", "scale:0.5+jpeg:60",
    "noise:4+scale:0.5+jpeg:60",
)  # fmt: skip
SCREENSHOT = "screenshot"
_BORDER, _SHOWN = 24, 1.25
_TRAIN_EACH = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--table", type=Path, help="Markdown file whose table is replaced.")
    parser.add_argument("--detector", default="default")
    parser.add_argument("--each", type=int, default=60, help="Test images of each class.")
    parser.add_argument("--train", type=int, default=_TRAIN_EACH, help="Training images of each generator and source.")
    parser.add_argument("--pixels", type=int, default=24, help="Fakes that gradient steps are taken on; 0: none.")
    args = parser.parse_args()
    known = load(args.detector)
    train, test = split(list(open_dataset(args.data)), args.train, args.each)
    detector = fitted(known, train)
    rows = laundered(detector, test)
    if args.pixels:
        fakes = [s for s in test if s.label is Label.FAKE][: args.pixels]
        rows += stepped(detector, fakes)
    result = {"trained_on": len(train), "tested_on": len(test), "taps": list(known.space.taps), "rows": rows,
              "view": known.view.name}  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")
    if args.table:
        replace_table(args.table, rows)


def split(samples: Sequence[Sample], train_each: int, test_each: int) -> tuple[list[Sample], list[Sample]]:
    """Training images of every second generator and source, test images of the others, spread over them."""
    places: dict[tuple[Label, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.extra.get("crop") is None:  # the picture is whole
            places[sample.label, sample.generator or sample.source].append(sample)
    train: list[Sample] = []
    test: dict[Label, list[list[Sample]]] = {label: [] for label in Label}
    for label in Label:
        names = sorted(name for kind, name in places if kind is label)
        for number, name in enumerate(names):
            own = places[label, name]
            if number % 2 == 0:
                train += own[:train_each]
            else:
                test[label].append(own)
    chosen = [s for label in Label for s in _in_turn(test[label])[:test_each]]
    return train, chosen


def _in_turn(groups: Sequence[Sequence[Sample]]) -> list[Sample]:
    most = max(map(len, groups), default=0)
    return [group[i] for i in range(most) for group in groups if i < len(group)]


def fitted(known: Detector, train: Sequence[Sample]) -> Detector:
    """A detector like the known one, of these images."""
    built = build_bank(known.backbone, known.view, train, added="")
    name = type(known.classifier).__module__.rpartition(".")[2]
    held = len(known.bank.space.taps)
    return fit_detector(
        "half", known.backbone, known.view, built, name, known.classifier.get_params(),
        bank_taps=held if held < len(known.space.taps) else None,
    )  # fmt: skip


def row(kind: str, fakes: Sequence[str], reals: Sequence[str]) -> dict[str, Any]:
    """Shares called fake, with exact 95 % intervals."""
    found: dict[str, Any] = {"attack": kind}
    for name, verdicts in (("fakes", fakes), ("reals", reals)):
        if verdicts:
            share = proportion(sum(v == "fake" for v in verdicts), len(verdicts))
            found[f"{name}_called_fake"] = [round(x, 3) for x in (share.value, share.low, share.high)]
            found[f"{name}_called_real"] = round(sum(v == "real" for v in verdicts) / len(verdicts), 3)
            found[f"n_{name}"] = len(verdicts)
    return found


def laundered(detector: Detector, test: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each way of laundering."""
    ways: dict[str, Callable[[Pixels], Pixels]] = {name: perturbation(name) for name in LAUNDERING}
    ways[SCREENSHOT] = screenshot
    ways[f"{SCREENSHOT}+jpeg:60"] = lambda pixels: perturbation("jpeg:60")(screenshot(pixels))
    rows = []
    for name, way in ways.items():
        verdicts: dict[Label, list[str]] = {label: [] for label in Label}
        pictures = (way(decode(s.ref).pixels) for s in test)
        # Every version as bare pixels, the untouched one too: no file's tables tell one from the other.
        batches = embed_images(detector.backbone, detector.view, map(np.ascontiguousarray, pictures))
        judged = (v for batch in batches for v in detector.judge(batch))
        for sample, verdict in zip(test, judged, strict=True):
            verdicts[sample.label].append(verdict.verdict)
        rows.append(row(name, verdicts[Label.FAKE], verdicts[Label.REAL]))
    return rows


def screenshot(pixels: Pixels) -> Pixels:
    """As a viewer shows it: scaled up by a quarter, a little cut off, a grey border around, kept without loss."""
    shown = perturbation(f"scale:{_SHOWN}")(pixels)
    cut = max(1, min(shown.shape[:2]) // 50)
    inner = shown[cut:-cut, cut:-cut]
    return np.pad(inner, ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)), constant_values=240)


def stepped(detector: Detector, fakes: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each budget; and one for none, on the same crops."""
    crops = np.concatenate([_crop(detector.view, detector.backbone, s) for s in fakes])
    rows = [row("0/255", _verdicts(detector, crops), [])]
    gradient = gradients(detector)
    for budget, steps in BUDGETS:
        moved = np.concatenate([_descend(crops[i : i + 1], gradient, budget, steps) for i in range(len(crops))])
        assert np.abs(moved.astype(int) - crops).max() <= budget
        rows.append(row(f"{budget}/255, {steps} steps", _verdicts(detector, moved), []))
    return rows


def _crop(view: View, backbone: Backbone, sample: Sample) -> Pixels:
    return view.cut(decode(sample.ref).pixels, backbone.entry.preprocess).pixels[:1]


def _verdicts(detector: Detector, crops: Pixels) -> list[str]:
    """Of crops, by the detector's own encoder and thresholds; what a whole picture is doubted for is left out."""
    vectors = np.concatenate([detector.backbone.embed(crops[i : i + 8]) for i in range(0, len(crops), 8)])
    return [detector.calibration.verdict(float(s)) for s in detector.score_of_crops(vectors)]


def _descend(crop: Pixels, gradient: Callable[[FloatArray], FloatArray], budget: int, steps: int) -> Pixels:
    """Projected steps along the sign of the gradient (Madry et al. 2018), towards a lower score."""
    start = crop.astype(np.float32)
    moved, step = start.copy(), 2.0 * budget / steps
    for _ in range(steps):
        moved = np.clip(moved - step * np.sign(gradient(moved)), start - budget, start + budget).clip(0, 255)
    rounded = np.rint(moved)
    return np.clip(rounded, start - budget, start + budget).astype(np.uint8)


def gradients(detector: Detector) -> Callable[[FloatArray], FloatArray]:
    """`(N, S, S, 3)` pixels 0..255 -> gradient of the score, of the same shape; the encoder in PyTorch.

    Raises:
        SystemExit: a detector whose score is no linear layer on taps of the default encoder.
    """
    import torch

    from _torch_clip import Tower, weights

    coef = getattr(detector.classifier, "coef_", None)
    if coef is None or detector.backbone.entry.name != "clip-vit-b-16":
        raise SystemExit("gradient steps need a linear detector on clip-vit-b-16; take --pixels 0")
    tower = Tower().eval()
    tower.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in weights().items()})
    tower.requires_grad_(False)
    layer = torch.from_numpy(np.asarray(coef, np.float32))
    spec = detector.backbone.entry.preprocess
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (spec.mean, spec.std))

    def run(pixels: FloatArray) -> FloatArray:
        given = torch.from_numpy(pixels).requires_grad_(True)
        inputs = (given.permute(0, 3, 1, 2) / 255 - mean) / std
        features = tower.taps(inputs, detector.backbone.taps)
        if getattr(detector.classifier, "layers", 0):  # each tap by its direction
            features = [torch.nn.functional.normalize(f, dim=1) for f in features]
        score = (torch.cat(features, dim=1) @ layer).sum()
        (found,) = torch.autograd.grad(score, given)
        return np.asarray(found.numpy(), np.float32)

    return run


HEAD = (
    "| what is done | n fakes | fakes called fake | fakes called real | n reals | reals called fake |\n"
    + "| --- " * 6
    + "|"
)


def replace_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows in the place of the table in a page, between its two marks."""
    before, mark, rest = path.read_text("utf-8").partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of the table -->")
    path.write_text(before + mark + "\n".join([HEAD, *map(line, rows)]) + "\n" + end + after, "utf-8")


def line(found: Mapping[str, Any]) -> str:
    """A row of the table."""
    parts = [found["attack"]]
    for name in ("fakes", "reals"):
        share = found.get(f"{name}_called_fake")
        parts.append(str(found.get(f"n_{name}", "-")))
        parts.append(f"{share[0]:.0%} [{share[1]:.0%}, {share[2]:.0%}]" if share else "-")
        if name == "fakes":
            parts.append(f"{found['fakes_called_real']:.0%}")
    return f"| {' | '.join(parts)} |"


if __name__ == "__main__":
    main()
