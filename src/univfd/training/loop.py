"""The epochs: one pass over the training pictures, one over the validation's, a checkpoint. Nothing about files.

All chance is drawn from (seed, epoch, picture), so a run that is taken up after an epoch goes on exactly as it would
have. Both classes weigh the same in the loss and in the accuracy, whatever their sizes: in the first epoch those of the
listed pictures, then of those that can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import DataError, FormatError, UsageError
from ..pipeline import batched
from ..types import Pixels
from .crops import training_crop, validation_crop
from .networks import Network
from .pictures import Pictures
from .state import PARTS, Arrays, Epoch, Failures, State

_BETAS = (0.9, 0.999)
_TRAIN, _VALIDATE, _ORDER = 0, 1, 2  # streams of chance


@dataclass(frozen=True)
class Material:
    """What is trained on.

    Attributes:
        train: pictures.
        validation: pictures.
        probability: of blur, and of JPEG, see `univfd.training.crops`.
    """

    train: Pictures
    validation: Pictures
    probability: float

    @property
    def failures(self) -> Failures:
        """Of both parts, so far."""
        return {name: dict(sorted(getattr(self, name).failures.items())) for name in PARTS}


def run(
    network: Network,
    material: Material,
    state: State,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: str,
    optimiser: torch.optim.Optimizer,
    keep: Callable[[State, bool], None],
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> State:
    """Train until the plateau rule ends it, or the number of epochs is reached.

    Args:
        network: changed in place.
        material: pictures.
        state: of a new run, or of the epoch that `network` and `optimiser` come from.
        epochs: in all, at most.
        batch_size: pictures a step.
        seed: of all chance.
        device: of PyTorch.
        optimiser: over the network.
        keep: called after each epoch with the new state, and whether it is the best so far.
        on_epoch: called after each epoch.
        on_done: called after each batch with its number of pictures.

    Raises:
        DataError: pictures of one class alone could be read, one is not there any more, or the network's answers are
            not finite.
        UsageError: this network cannot be trained on one picture at a time.
    """
    while not state.plateau.over and len(state.epochs) < epochs:
        number = len(state.epochs) + 1
        start = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + number)  # dropout and the like
        for group in optimiser.param_groups:
            group["lr"] = state.plateau.lr
        loss = _train(network, material, number, batch_size, seed, device, optimiser, on_done)
        real, fake = _validate(network, material, number, batch_size, seed, device, on_done)
        seconds = time.perf_counter() - start
        epoch = Epoch(number, loss, (real + fake) / 2, real, fake, state.plateau.lr, round(seconds, 1))
        best = not state.epochs or epoch.accuracy > state.best.accuracy
        state = State(state.plateau.after(epoch.accuracy), (*state.epochs, epoch), material.failures)
        keep(state, best)
        on_epoch(epoch)
    return state


def adam(network: Network, lr: float) -> torch.optim.Adam:
    """The optimiser of Wang et al.: Adam, beta1 0.9, no weight decay."""
    return torch.optim.Adam(network.whole().parameters(), lr=lr, betas=_BETAS)


def to_arrays(network: Network, optimiser: torch.optim.Optimizer) -> Arrays:
    """All that the next epoch depends on: weights, running statistics, the optimiser's moments."""
    arrays = {f"network.{k}": v for k, v in network.whole().state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    return {k: v.detach().cpu().numpy() for k, v in arrays.items()}


def from_arrays(network: Network, optimiser: torch.optim.Optimizer | None, arrays: Arrays) -> None:
    """Inverse of `to_arrays`, in place; without an optimiser the weights alone.

    Raises:
        FormatError: arrays of another network.
    """
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    try:
        network.whole().load_state_dict(weights)
    except RuntimeError as error:
        raise FormatError(f"the checkpoint does not fit the network: {str(error)[:300]}") from error
    if optimiser is None:
        return
    moments: dict[int, dict[str, Tensor]] = {}
    for name, values in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            i, _, key = rest.partition(".")
            moments.setdefault(int(i), {})[key] = values
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def _train(
    network: Network, material: Material, number: int, batch_size: int, seed: int, device: str,
    optimiser: torch.optim.Optimizer, on_done: Callable[[int], None],
) -> float:  # fmt: skip
    """One pass with changes of the weights; the mean loss."""
    pictures, model = material.train, network.whole().train()
    order = np.random.default_rng([seed, number, _ORDER]).permutation(len(pictures))
    share = pictures.share
    weight_of = np.array([0.5 / (1 - share), 0.5 / share], np.float32)
    total, seen, of_class = 0.0, 0.0, np.zeros(2, int)

    def cut(i: int, pixels: Pixels) -> Pixels:
        rng = np.random.default_rng([seed, number, _TRAIN, i])
        return training_crop(pixels, network.preprocess, material.probability, rng)

    crops = pictures.crops(map(int, order), cut)
    for numbers, inputs in _batches(network, crops, batch_size, device, least=min(2, batch_size)):
        labels = pictures.labels[numbers]
        target, weight = (torch.from_numpy(a).to(device) for a in (labels, weight_of[labels.astype(int)]))
        optimiser.zero_grad(set_to_none=True)
        logits = _logits(network, inputs)
        losses = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        (losses / len(numbers)).backward()
        optimiser.step()
        total += float(losses.detach())
        seen += len(numbers)
        of_class += np.bincount(labels.astype(int), minlength=2)
        on_done(len(numbers))
    model.eval()
    if not of_class.all():
        raise DataError(f"{of_class[0]} real and {of_class[1]} fake training images could be read; it needs both")
    if not np.isfinite(total):
        raise DataError(f"the loss of epoch {number} is {total}; lower the learning rate (--lr)")
    return total / max(seen, 1)


def _logits(network: Network, inputs: Tensor) -> Tensor:
    """Of a batch to learn from.

    Raises:
        UsageError: a batch of one, and the network needs the spread of several.
    """
    try:
        return network.logits(inputs)
    except ValueError as error:
        if len(inputs) > 1:
            raise
        raise UsageError(
            f"{network.name} cannot be trained on one image at a time ({error}); take --batch-size 2 or more, and "
            "at least two images that can be read"
        ) from error


def _validate(
    network: Network, material: Material, number: int, batch_size: int, seed: int, device: str,
    on_done: Callable[[int], None],
) -> tuple[float, float]:  # fmt: skip
    """Share of the reals called real, and of the fakes called fake, each at score 0."""
    pictures = material.validation
    network.whole().eval()
    right, seen = np.zeros(2), np.zeros(2)

    def cut(i: int, pixels: Pixels) -> Pixels:
        rng = np.random.default_rng([seed, _VALIDATE, i])  # the same crops in every epoch
        return validation_crop(pixels, network.preprocess, material.probability, rng)

    for numbers, inputs in _batches(network, pictures.crops(range(len(pictures)), cut), batch_size, device):
        labels = pictures.labels[numbers].astype(int)
        with torch.no_grad():
            logits = network.logits(inputs).cpu().numpy()
        if not np.isfinite(logits).all():  # nan is above nothing, so it would be called real
            raise DataError(
                f"the network's answers after epoch {number} are not all finite; lower the learning rate (--lr)"
            )
        called = logits > 0
        right += np.bincount(labels, called == labels, 2)
        seen += np.bincount(labels, minlength=2)
        on_done(len(numbers))
    if not seen.all():
        raise DataError(f"{seen[0]:.0f} real and {seen[1]:.0f} fake validation images could be read; it needs both")
    real, fake = right / seen
    return float(real), float(fake)


def _batches(
    network: Network, crops: Iterator[tuple[int, Pixels]], batch_size: int, device: str, *, least: int = 1
) -> Iterator[tuple[NDArray[Any], Tensor]]:
    for batch in _joined(batched(crops, batch_size), least):
        numbers, pixels = zip(*batch, strict=True)
        inputs = network.preprocess.normalise(np.stack(pixels))
        yield np.array(numbers), torch.from_numpy(inputs).to(device)


def _joined(batches: Iterator[list[tuple[int, Pixels]]], least: int) -> Iterator[list[tuple[int, Pixels]]]:
    """The batches; a last one of fewer than `least` joins the one before it, as one picture has no spread."""
    held: list[tuple[int, Pixels]] = []
    for batch in batches:
        if held and len(batch) < least:
            held += batch
            continue
        if held:
            yield held
        held = batch
    if held:
        yield held
