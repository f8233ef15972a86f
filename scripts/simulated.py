"""What promises and intervals are worth where the truth is known: simulated figures of promise.md and benchmark.md.

python scripts/simulated.py [--rounds 2000]

Scores are normal. A promise: threshold for 5 % at 90 % confidence; broken where more of the population lies above it.
An AUROC: n fakes whose mean is 1.5 higher against 164 reals; its percentile interval of 400 redrawn sets.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from univfd.calibration import threshold_for

RATE, CONFIDENCE = 0.05, 0.9
REALS, SOURCES, EACH = 726, 31, 23
AUROC_REALS, SHIFT, REDRAWN = 164, 1.5, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    rounds, rng = parser.parse_args().rounds, np.random.default_rng(1)
    whole, new = np.mean([halves(rng) for _ in range(rounds)], axis=0)
    print(
        f"half of {REALS} reals: broken in {whole:.1%} of what it is measured on with its half, in {new:.1%} on new ones"
    )
    for alike in (0.1, 0.2, 0.3):
        broken = np.mean([of_sources(rng, alike) for _ in range(rounds)])
        print(f"{SOURCES} sources of {EACH}, correlation {alike} within: broken in {broken:.1%} for new sources")
    for fakes in (1, 2, 5, 10, 20):
        held = np.mean([auroc_held(rng, fakes) for _ in range(rounds // 2)])
        print(f"AUROC of {fakes} fakes: its 95 % interval holds the truth in {held:.0%}")


def halves(rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether a half's promise is broken on the whole, and on the population."""
    scores = rng.normal(size=REALS)
    limit = threshold_for(rng.permutation(scores)[: REALS // 2], RATE, CONFIDENCE)
    return bool((scores > limit).mean() > RATE), bool(norm.sf(limit) > RATE)


def of_sources(rng: np.random.Generator, alike: float) -> bool:
    """Whether a promise made on some sources is broken on all that there are."""
    scores = rng.normal(0, alike**0.5, SOURCES).repeat(EACH) + rng.normal(0, (1 - alike) ** 0.5, SOURCES * EACH)
    return bool(norm.sf(threshold_for(scores, RATE, CONFIDENCE)) > RATE)


def auroc_held(rng: np.random.Generator, fakes: int) -> bool:
    """Whether the percentile interval of an AUROC holds the true one."""
    real, fake = rng.normal(size=AUROC_REALS), rng.normal(SHIFT, 1, fakes)
    drawn = []
    for _ in range(REDRAWN):
        reals = np.sort(rng.choice(real, AUROC_REALS))
        drawn.append(np.searchsorted(reals, rng.choice(fake, fakes)).mean() / AUROC_REALS)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low <= norm.cdf(SHIFT / 2**0.5) <= high)


if __name__ == "__main__":
    main()
