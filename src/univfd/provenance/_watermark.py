"""The watermark that the reference code of Stable Diffusion 1 and 2, SDXL and FLUX puts into its pictures.

It is the method `dwtDct` of the package invisible-watermark, which despite its name does no DCT: of the chroma plane
U (of Y'UV) the low band of one Haar step is cut into blocks of 4 x 4; in each block the largest value v but the first
is moved to (floor(|v| / 36) + 1/4 + bit / 2) * 36; block number n carries bit n modulo the message's length.

Reading is positive-only: it survives no resizing or cropping and hardly any JPEG, so a picture without it says
nothing. The bits of a position are averaged over its blocks and compared with the mean of all positions, which also
reads flat pictures, where many blocks say the same whatever was written.

*False alarms.* Take any picture that does not depend on the message. The messages of SDXL and FLUX were drawn at
random, so of L bits read, each agrees with the message by a coin toss: P(at most e differ) = sum_(i<=e) C(L, i) / 2^L,
whatever the picture. `MESSAGES` allows at most so many differing bits that this is below 1e-8 a reading. Four readings
(two orders of the colours, 8-bit and floating-point code) of four messages are made, so it is below 1.6e-7 a picture.
The messages of Stable Diffusion 1 and 2 are ASCII, not drawn at random; there the figure assumes independent bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from ..types import Pixels
from .findings import Finding

STEP = 36.0
FALSE_ALARM = 1e-8
"""Bound on the probability that one reading of one message agrees by chance."""
SMALLEST = 256 * 256  # pixels; the encoder refuses smaller pictures

Plane = NDArray[np.float32]


def _bits(message: bytes | str) -> NDArray[np.bool_]:
    if isinstance(message, bytes):
        return np.unpackbits(np.frombuffer(message, np.uint8)).astype(bool)
    return np.array([c == "1" for c in message])


MESSAGES: dict[str, NDArray[np.bool_]] = {
    "Stable Diffusion 1": _bits(b"StableDiffusionV1"),
    "Stable Diffusion 2": _bits(b"SDV2"),
    "Stable Diffusion XL": _bits("101100111110110010010000011110111011000110011110"),
    # Published as a 48-bit number; the code that writes it drops the two leading zeros.
    "FLUX": _bits("1010101111111010000111100111001111010100101110"),
}
"""The messages, as the generators' own code has them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A message that was read: whose, and how many of its bits agree."""

    generator: str
    agree: int
    of: int
    false_alarm: float


def chance(of: int, differ: int) -> float:
    """Probability that at most `differ` of `of` coin tosses come out wrong."""
    return float(sum(comb(of, i) for i in range(differ + 1)) / 2**of)


def most_differing(of: int) -> int:
    """The most bits that may differ so that `chance` stays below `FALSE_ALARM`; -1 where none may."""
    differ = -1
    while chance(of, differ + 1) < FALSE_ALARM:
        differ += 1
    return differ


def read_watermark(pixels: Pixels) -> Reading | None:
    """The best-agreeing known message, where it agrees beyond chance.

    Args:
        pixels: RGB `(H, W, 3)` uint8, at the size the generator made.
    """
    if pixels.shape[0] * pixels.shape[1] < SMALLEST:
        return None
    found = [reading for low in _low_bands(pixels) for reading in _readings(block_bits(low))]
    return min(found, key=lambda r: r.false_alarm, default=None)


def _readings(bits: NDArray[np.bool_]) -> Iterator[Reading]:
    for generator, message in MESSAGES.items():
        length = len(message)
        position = np.arange(len(bits)) % length
        ones = np.bincount(position, weights=bits, minlength=length) / np.bincount(position, minlength=length)
        agree = int(((ones > ones.mean()) == message).sum())
        if length - agree <= most_differing(length):
            yield Reading(generator, agree, length, chance(length, length - agree))


def block_bits(low: Plane) -> NDArray[np.bool_]:
    """The bit of each 4 x 4 block of a low band, row by row: which half of its step the largest value is in."""
    rows, columns = low.shape[0] // 4, low.shape[1] // 4
    blocks = low[: rows * 4, : columns * 4].reshape(rows, 4, columns, 4).swapaxes(1, 2).reshape(-1, 16)
    values = np.abs(blocks[:, 1:]).max(axis=1)
    found: NDArray[np.bool_] = values % np.float32(STEP) > np.float32(STEP / 2)
    return found


def _low_bands(pixels: Pixels) -> Iterator[Plane]:
    """The low band of U as each variant of the writing code sees it, but for its rounding."""
    height, width = (side // 4 * 4 for side in pixels.shape[:2])
    wide = pixels[:height, :width].astype(np.uint16)
    lines = wide[::2] + wide[1::2]
    red, green, blue = (
        np.moveaxis(lines[:, ::2] + lines[:, 1::2], 2, 0).astype(np.float32) / 2
    )  # Haar: sum of 4, halved
    for last, first in ((blue, red), (red, blue)):  # some callers hand over RGB where the code expects BGR
        low = np.float32(0.492) * (last - (0.299 * first + 0.587 * green + 0.114 * last).astype(np.float32))
        yield low + 256
        yield low + 1  # in floating-point pictures U is around 0.5 in place of 128


def finding(reading: Reading) -> Finding:
    """A reading in words."""
    return Finding(
        "watermark", "ai", f"invisible watermark of {reading.generator}: {reading.agree} of {reading.of} bits agree",
        "pixels",
        f"The published code of {reading.generator} writes this into every picture it makes. By chance so many bits "
        f"agree in {reading.false_alarm:.0e} of readings.",
        "Anyone who runs the published code over any picture. It does not survive resizing, cropping or strong "
        "compression, so its absence says nothing.",
    )  # fmt: skip
