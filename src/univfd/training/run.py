"""One training from a collection to a detector's folder, with its checkpoints in `FOLDER.partial` meanwhile."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import registry
from .._version import __version__
from ..backbones import cpus
from ..catalogue import entry
from ..downloads import Progress, sha256_of
from ..errors import OutputExistsError, UsageError
from ..images import DEFAULT_MAX_PIXELS
from ..machine import DEVICES
from ..perturbations import perturbation
from ..sources import file_of
from ..storage import locked, require_new
from ..types import Failure, Label, Sample
from ..views import view as named_view
from ..weights import ensure
from . import CLIP
from .crops import SHORT_SIDE
from .pictures import Memory, Pictures
from .schedule import Plateau
from .splits import Split, part_of_file
from .state import PARTS, Checkpoints, Epoch, Failures, State

log = logging.getLogger(__name__)
_CROP = 224  # what `SHORT_SIDE` is for


@dataclass(frozen=True)
class Plan:
    """What decides the outcome of a training, beside the pictures.

    Attributes:
        arch: see `univfd.training.networks.build`.
        pretrained: likewise.
        epochs: at most.
        batch_size: pictures a step; Wang et al. have 64.
        lr: None: what the paper gives for such a network.
        patience: epochs without a gain until the rate falls, see `univfd.training.schedule`.
        augment: probability of blur, and of JPEG; Wang et al. have 0.5 and 0.1.
        short_side: pictures are scaled to it; 0: they are not; None: to 256 for crops of 224, in proportion for others.
        perturb: laid on every picture first.
        view: how the detector will cut crops.
        seed: of all chance.
    """

    arch: str = "resnet50"
    pretrained: str | None = None
    epochs: int = 100
    batch_size: int = 64
    lr: float | None = None
    patience: int = 5
    augment: float = 0.5
    short_side: int | None = None
    perturb: str = "clean"
    view: str = "native"
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What came of it: the epochs, which of them was kept, and the pictures that could not be read."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    failures: tuple[Failure, ...]


def fetch(arch: str, pretrained: str | None, progress: Progress | None = None) -> None:
    """Have the weights that CLIP begins with in the cache; other networks fetch none here.

    Raises:
        UnknownNameError: no such backbone.
        WeightsError: see `univfd.weights.ensure`.
    """
    kind, _, name = arch.partition(":")
    if kind == "clip" and pretrained is None:
        ensure(entry(name or CLIP), progress=progress)


def checkpoints_of(output: Path) -> Path:
    """The folder of a training's checkpoints while it is unfinished."""
    return output.with_name(output.name + ".partial")


def train(
    parts: Split,
    output: Path,
    plan: Plan,
    *,
    resume: bool = False,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_failure: Callable[[Failure], None] = lambda _: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Train a network and save it as a detector.

    Args:
        parts: the pictures.
        output: folder of the detector.
        plan: how.
        resume: go on behind the last whole epoch of an unfinished run, if there is one; one that ended before its first
            is begun anew.
        device: `cpu`, `cuda`, or `auto`: a GPU where there is one.
        workers: decoding threads.
        threads: of PyTorch; default: the CPUs this process may use.
        max_pixels: larger images are refused.
        on_epoch: called after each epoch, those of an earlier run included.
        on_failure: called once for each picture that could not be read, after the epoch that met it.
        on_done: called after each batch with its number of pictures.

    Raises:
        OutputExistsError: the output, or an unfinished run of it, is there and `resume` was not asked for.
        UsageError: the unfinished run has other settings or data.
        MissingExtraError: PyTorch is not installed.
        DataError: the pictures do not allow it.
        UnivFDError: a checkpoint or the detector cannot be written; the epochs before are kept.
    """
    require_new(output)
    named_view(plan.view), perturbation(plan.perturb)
    loop, export, networks, torch = _torch()
    where = _device(torch, device)
    torch.set_num_threads(threads or cpus())
    folder = checkpoints_of(output)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder), torch.random.fork_rng():
        checkpoints = Checkpoints(folder)
        torch.manual_seed(plan.seed)
        network = networks.build(plan.arch, plan.pretrained)
        lr = plan.lr or network.lr
        short_side = _short_side(plan.short_side, network.preprocess.size)
        settings = _settings(plan, parts, lr) | {"max_pixels": max_pixels, "short_side": short_side}
        state = _begin(checkpoints, folder, settings, resume, _before(parts)) or State(Plateau(lr, plan.patience))
        network.whole().to(where)
        optimiser = loop.adam(network, lr)
        train_on, validate_on = _pictures(parts, plan.perturb, short_side, max_pixels, workers, state.failures)
        ended = _ended(on_epoch, on_failure, train_on, validate_on)
        if state.epochs:
            loop.from_arrays(network, optimiser, checkpoints.arrays("last"))
            for epoch in state.epochs:
                ended(epoch)
        state = loop.run(
            network, loop.Material(train_on, validate_on, plan.augment), state, epochs=plan.epochs,
            batch_size=plan.batch_size, seed=plan.seed, device=where, optimiser=optimiser,
            keep=lambda now, best: checkpoints.write(now, loop.to_arrays(network, optimiser), best=best),
            on_epoch=ended, on_done=on_done,
        )  # fmt: skip
        network.whole().to("cpu")
        loop.from_arrays(network, None, checkpoints.arrays("best"))
        record = _record(parts, settings, state, torch.__version__)
        export.save(network, output, view_name=plan.view, record=record)
        shutil.rmtree(folder)
    return Trained(state.epochs, state.best, _failures(train_on, validate_on))


def _pictures(
    parts: Split, perturb: str, short_side: int, max_pixels: int, workers: int | None, failures: Failures | None
) -> tuple[Pictures, Pictures]:
    """Those that train and those that validate, in one room."""
    memory = Memory()
    train_on, validate_on = (
        Pictures(
            getattr(parts, name), short_side=short_side, perturb=perturb, max_pixels=max_pixels, workers=workers,
            memory=memory, failures=None if failures is None else failures[name],
        )
        for name in PARTS
    )  # fmt: skip
    return train_on, validate_on


def _ended(
    on_epoch: Callable[[Epoch], None], on_failure: Callable[[Failure], None], *parts: Pictures
) -> Callable[[Epoch], None]:
    """What is called after each epoch: tells it, and the failures that have not been told."""
    told: set[Failure] = set()

    def ended(epoch: Epoch) -> None:
        on_epoch(epoch)
        for failure in _failures(*parts):
            if failure not in told:
                told.add(failure)
                on_failure(failure)

    return ended


def _failures(*parts: Pictures) -> tuple[Failure, ...]:
    return tuple(sorted((f for part in parts for f in part.failures.values()), key=lambda f: f.image))


def _torch() -> tuple[Any, Any, Any, Any]:
    try:
        import torch

        from . import export, loop, networks
    except ModuleNotFoundError as error:
        raise registry.missing_extra("training", error) from error
    return loop, export, networks, torch


def _device(torch: Any, device: str) -> str:
    if device not in DEVICES:
        raise registry.unknown("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device can be used by PyTorch here; take --device cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _short_side(asked: int | None, size: int) -> int:
    if asked is None:
        return round(size * SHORT_SIDE / _CROP)
    if 0 < asked < size:
        log.warning(
            "pictures are scaled to a short side of %d and then up to the network's crop of %d; give --short-side %d "
            "or more, or 0 to leave them as they are", asked, size, size,
        )  # fmt: skip
    return asked


def _begin(
    checkpoints: Checkpoints, folder: Path, settings: Mapping[str, Any], resume: bool,
    before: Mapping[str, Any] | None = None,
) -> State | None:  # fmt: skip
    """The state of the run to go on with; None for a new one, or one that has no whole epoch to lose."""
    if not checkpoints.begun and checkpoints.foreign:  # the folder is removed when the run has ended well
        raise OutputExistsError(f"{folder} is there and is no unfinished run; move it away or take another name")
    if not checkpoints.begun or not checkpoints.kept:
        checkpoints.begin(settings)
        return None
    if not resume:
        raise OutputExistsError(
            f"{folder} is an unfinished run; go on with --resume, or remove it or take another name"
        )
    checkpoints.require(settings, before or {})
    return checkpoints.read()


def _settings(plan: Plan, parts: Split, lr: float) -> dict[str, Any]:
    """All that decides the outcome; the number of epochs may be raised."""
    kept = {k: v for k, v in asdict(plan).items() if k != "epochs"} | {"lr": lr}
    if plan.pretrained and Path(plan.pretrained).is_file():
        kept["pretrained"] = f"{Path(plan.pretrained).name}, sha256 {sha256_of(Path(plan.pretrained))}"
    return kept | {"split": parts.how, "data": {name: _digest(getattr(parts, name)) for name in PARTS}}


def _digest(samples: Sequence[Sample]) -> str:
    """Of labels, sizes, and names within the folder that all lie in: however that is named, and wherever it is now."""
    files = [None if (file := file_of(s.ref)) is None else file.absolute() for s in samples]
    try:
        top = os.path.commonpath({file.parent for file in files if file is not None})
    except ValueError:  # none, or on several drives
        top = ""
    hashed = hashlib.sha256()
    for sample, file in zip(samples, files, strict=True):
        if file is None:
            content = sample.ref.source
            named, size = sample.ref.name.encode(), len(content) if isinstance(content, bytes) else -1
        else:
            named, size = os.fsencode(file.relative_to(top) if top else file), _size(file)
        hashed.update(b"%s %s %r %d\n" % (sample.label.word.encode(), named, part_of_file(sample.ref), size))
    return hashed.hexdigest()[:16]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return -1


def _before(parts: Split) -> dict[str, Any]:
    """What earlier versions kept of the data: digests of labels, and of names as they were given."""
    lines = {name: [f"{s.label.word} {s.ref.name}\n" for s in getattr(parts, name)] for name in PARTS}
    return {"data": {name: hashlib.sha256("".join(of).encode()).hexdigest()[:16] for name, of in lines.items()}}


def _record(parts: Split, settings: Mapping[str, Any], state: State, torch_version: str) -> dict[str, Any]:
    contents = {
        name: {
            "images": len(part),
            "real by source": dict(sorted(Counter(s.source for s in part if s.label is Label.REAL).items())),
            "fake by generator": dict(sorted(Counter(s.generator for s in part if s.label is Label.FAKE).items())),
        }
        for name, part in (("train", parts.train), ("validation", parts.validation))
    }
    return {
        "univfd": __version__,
        "torch": torch_version,
        "settings": dict(settings),
        "images": contents | {"left out by the data's split": parts.left_out},
        "could not be read": {
            part: [asdict(failure) for failure in failures.values()]
            for part, failures in (state.failures or {}).items()
        },
        "kept": state.best.number,
        "note": "the epoch was chosen by the validation accuracy, which is therefore too good for it",
        "epochs": [asdict(e) for e in state.epochs],
    }
