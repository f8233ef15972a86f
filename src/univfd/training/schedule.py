"""When the learning rate falls and when training ends: Wang et al.'s rule on the validation accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace

_LEAST_RATE = 1e-6
_GAINS = (0.001, 0.002)  # what counts as better: before the first fall of the rate, and after it


@dataclass(frozen=True, slots=True)
class Plateau:
    """The rule's state.

    After `patience` epochs without a gain the rate is divided by ten and the comparison begins anew; below 1e-6
    training is over.

    Attributes:
        lr: learning rate of the next epoch.
        patience: epochs.
        reference: accuracy to be exceeded; None: the next epoch sets it.
        waited: epochs since it was.
        falls: of the rate, so far.
        over: training has ended.
    """

    lr: float
    patience: int
    reference: float | None = None
    waited: int = 0
    falls: int = 0
    over: bool = False

    def after(self, accuracy: float) -> Plateau:
        """The state after an epoch of this validation accuracy."""
        if self.reference is None or accuracy >= self.reference + _GAINS[min(self.falls, 1)]:
            return replace(self, reference=accuracy, waited=0)
        if self.waited + 1 < self.patience:
            return replace(self, waited=self.waited + 1)
        lr = self.lr / 10
        over = lr < _LEAST_RATE * (1 - 1e-9)
        return replace(self, lr=lr, reference=None, waited=0, falls=self.falls + 1, over=over)
