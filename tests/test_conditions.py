from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from univfd.conditions import CODES, conditions, jpeg_quality
from univfd.images import decode
from univfd.types import ImageRef, Pixels

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "while", "total", "amounts", "of", "invoice", "remain", "due"]


def codes(pixels: Pixels, quantisation: tuple[tuple[int, ...], ...] = ()) -> set[str]:
    found = {c.code for c in conditions(pixels, quantisation)}
    assert found <= set(CODES)
    return found


def scene(seed: int, height: int = 480, width: int = 640) -> Pixels:
    """Noise of a photograph's spectrum (amplitude 1/f) with sensor noise."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    shape = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    layers = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * shape, (height, width)) for _ in "rgb"]
    values = np.stack([128 + 45 * (a / a.std()) for a in layers], axis=-1) + rng.normal(0, 2, (height, width, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def through(pixels: Pixels, quality: int) -> tuple[Pixels, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB")), buffer.getvalue()


def page(seed: int, dark: bool = False) -> Pixels:
    rng = np.random.default_rng(seed)
    paper, ink = ((25, 26, 30), (225, 225, 230)) if dark else ((255, 255, 255), (20, 20, 20))
    image = Image.new("RGB", (800, 1000), paper)
    draw, size = ImageDraw.Draw(image), int(rng.choice([12, 16, 20, 28]))
    font = ImageFont.load_default(size)
    for y in range(60, 920, int(size * 1.5)):
        line = " ".join(rng.choice(WORDS, 30))
        while draw.textlength(line, font=font) > 680:
            line = line.rpartition(" ")[0]
        draw.text((60, y), line, font=font, fill=ink)
    if dark:  # a window's frame
        draw.rectangle([0, 0, 800, 40], fill=(40, 90, 200))
    return np.asarray(image)


@pytest.mark.parametrize("seed", range(5))
def test_an_ordinary_picture_has_no_condition(seed: int) -> None:
    pixels = scene(seed)
    assert codes(pixels) == set()
    for quality in (75, 90):
        decoded = decode(ImageRef("x", through(pixels, quality)[1]))
        assert codes(decoded.pixels, decoded.quantisation) == set()


@pytest.mark.parametrize(("shape", "tiny"), [((63, 500), True), ((500, 63), True), ((64, 64), False), ((1, 1), True)])
def test_tiny(shape: tuple[int, int], tiny: bool) -> None:
    assert ("tiny" in codes(scene(0)[: shape[0], : shape[1]])) == tiny


def test_flat() -> None:
    x = np.linspace(0, 255, 512).astype(np.uint8)
    ramp = np.ascontiguousarray(np.broadcast_to(x[None, :, None], (512, 512, 3)))
    assert codes(np.full((300, 400, 3), 117, np.uint8)) == {"flat"}
    assert codes(ramp) == {"flat"}
    half = scene(1)
    half[:240] = 200
    assert "flat" not in codes(half)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_text(seed: int, dark: bool) -> None:
    pixels = page(seed, dark)
    assert "text" in codes(pixels)
    assert "text" in codes(through(pixels, 85)[0])


def test_a_picture_on_a_white_ground_is_no_page() -> None:
    pixels = np.full((600, 800, 3), 255, np.uint8)
    pixels[100:500, 100:600] = scene(2)[:400, :500]
    assert codes(pixels) == set()


@pytest.mark.parametrize("seed", range(4))
def test_heavy_compression_is_seen_in_the_tables_and_in_the_pixels(seed: int) -> None:
    pixels, data = through(scene(seed), 10)
    decoded = decode(ImageRef("x", data))
    assert "recompressed" in codes(decoded.pixels, decoded.quantisation)
    assert "recompressed" in codes(pixels)  # as a PNG of it would be
    assert "recompressed" in codes(pixels[3:, 5:])  # cropped: the grid begins elsewhere
    assert "recompressed" not in codes(through(scene(seed), 80)[0])


@pytest.mark.parametrize("quality", [1, 5, 10, 25, 29, 31, 50, 75, 90, 95, 100])
def test_the_quality_is_read_from_the_tables(quality: int) -> None:
    tables = decode(ImageRef("x", through(scene(0), quality)[1])).quantisation
    assert jpeg_quality(tables[0]) == pytest.approx(quality, abs=11 if quality < 5 else 1.5)
    assert decode(ImageRef("x", scene(0))).quantisation == ()


@pytest.mark.parametrize("filter", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_upscaled(factor: int, filter: Image.Resampling) -> None:
    small = Image.fromarray(scene(3, 200, 240))
    large = np.asarray(small.resize((240 * factor, 200 * factor), filter))
    assert codes(large) == {"upscaled"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_shape_and_content_has_an_answer(height: int, width: int, kind: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind:
        pixels = pixels[:1, :1].repeat(height, 0).repeat(width, 1) // kind
    with np.errstate(all="raise", under="ignore"):
        found = conditions(pixels, ((255,) * 64,) if kind == 3 else ())
    assert len({c.code for c in found}) == len(found)
    assert ("tiny" in {c.code for c in found}) == (min(height, width) < 64)


def test_the_cost_does_not_grow_with_the_picture() -> None:
    large = np.tile(scene(0, 500, 500), (6, 8, 1))
    conditions(large)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        conditions(large)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.15  # 15 ms on the machine it was written on; room for slow ones
