"""Where in a picture the score of the patch probe comes from. It does not say what was edited.

The map shows what the probe of one block sees, which is not the whole of what the detector decides by.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from .backbones import PatchBackbone, PreprocessSpec
from .detector import Detector
from .errors import UsageError
from .images import DEFAULT_MAX_PIXELS, decode
from .patch_probe import PatchProbe
from .sources import Source, error_of, expand
from .types import Failure, FloatArray, Pixels

CAPTION = "Where the score of the patch probe comes from; not what was edited"
RANGE = 8.0
"""Scores at the ends of the colour scale, the same for every map."""
MAX_TILES = 48
MAX_SIDE = 1024
"""Longer side of a drawn map, in pixels; larger pictures are reduced."""

_BATCH = 8  # tiles at once: bounds the memory
# From real (blue) over undecided (near white) to fake (red), in equal steps; told apart by the colour-blind too.
_COLOURS = np.array(
    [(33, 102, 172), (103, 169, 207), (209, 229, 240), (247, 247, 247), (253, 219, 199), (239, 138, 98), (178, 24, 43)],
    np.float32,
)


@dataclass(frozen=True, eq=False)
class Reduced:
    """What a map needs of a picture, whose full-size pixels can then be let go.

    Attributes:
        working: `(h, w, 3)` uint8, what the tiles are cut from.
        shown: `(H, W, 3)` uint8, what the map is drawn on; no side over `MAX_SIDE`.
    """

    working: Pixels
    shown: Pixels


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Scores of the cells of a picture.

    Attributes:
        scores: `(h, w)` float32, from top left over the whole picture; above 0 = fake.
        picture: `(H, W, 3)` uint8, the picture, reduced to `MAX_SIDE`.
        block: that the patch tokens come from.
        detector: identity of the detector.
    """

    scores: FloatArray
    picture: Pixels
    block: int
    detector: str

    @property
    def smoothed(self) -> FloatArray:
        """`(h, w)` float32: the mean of each cell and its up to eight neighbours. One patch alone says little."""
        h, w = self.scores.shape
        padded = np.pad(self.scores, 1, constant_values=np.nan)
        return np.asarray(
            np.nanmean([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0), np.float32
        )

    def overlay(self) -> Pixels:
        """`(H, W, 3)` uint8: the smoothed map, half transparent, on the picture in grey: all colour is the map's.

        Blue is -`RANGE` and below, red is `RANGE` and above, in every map: two can be compared.
        """
        picture = Image.fromarray(self.picture).convert("L").convert("RGB")
        colours = Image.fromarray(_coloured(self.smoothed)).resize(picture.size, Image.Resampling.NEAREST)
        return np.asarray(Image.blend(picture, colours, 0.5))

    def png(self) -> bytes:
        """The overlay with caption and colour scale below it, as a PNG file; its texts name block and detector too."""
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Description", CAPTION)
        scale = f"blue {-RANGE:+g} speaks for real, red {RANGE:+g} for fake"
        texts.add_itxt("Comment", f"{scale}; patch tokens of block {self.block}; {self.detector}")
        buffer = io.BytesIO()
        _labelled(Image.fromarray(self.overlay()), scale).save(buffer, "PNG", pnginfo=texts)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def heat_map(detector: Detector, image: Source, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> HeatMap:
    """Score the patches of one picture, all over it.

    The picture is reduced so that its short side is twice the encoder's input (448 for 224; smaller ones keep their
    size, those below 224 are enlarged to it) and covered with overlapping tiles at half their side's distance; where
    tiles overlap, the mean counts. At most `MAX_TILES` tiles: a long picture is reduced further, to a short side of
    336 or 224; beyond about 24:1 its long side is compressed. For a picture of one tile, the mean of the map is the
    probe's score of it.

    Args:
        detector: one with a patch probe.
        image: one image, see `univfd.sources.expand`.
        max_pixels: larger images are refused.

    Raises:
        UsageError: not one image; the detector has no patch probe; its encoder cannot show patches.
        InputError: the image cannot be read.
    """
    _, backbone = require_probe(detector)
    refs = list(islice(expand(image), 2))
    if len(refs) != 1:
        raise UsageError(f"a map is made of one image; got {'several' if refs else 'none'}")
    if isinstance(refs[0], Failure):
        raise error_of(refs[0])
    return draw(detector, reduced(decode(refs[0], max_pixels=max_pixels).pixels, backbone.entry.preprocess))


def draw(detector: Detector, picture: Reduced) -> HeatMap:
    """The map of a picture that is decoded already; see `heat_map`."""
    probe, backbone = require_probe(detector)
    return HeatMap(patch_scores(backbone, probe, picture.working), picture.shown, probe.block, detector.identity)


def reduced(pixels: Pixels, spec: PreprocessSpec) -> Reduced:
    """Reduce a picture to what its map needs.

    Args:
        pixels: `(H, W, 3)` uint8.
        spec: of the encoder.
    """
    shown = Image.fromarray(pixels)
    shown.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
    h, w = _working_size(pixels.shape[0], pixels.shape[1], spec.size)
    working = Image.fromarray(pixels)
    if working.size != (w, h):
        working = working.resize((w, h), spec.resampling)
    return Reduced(np.array(working), np.array(shown))  # copies: a view would hold the full size


def require_probe(detector: Detector) -> tuple[PatchProbe, PatchBackbone]:
    """What a map needs of a detector.

    Raises:
        UsageError: it has no patch probe, or its encoder cannot show patches.
    """
    if detector.patch_probe is None:
        raise UsageError(f"detector {detector.name} has no patch probe, so it cannot draw heat maps; choose another")
    if not isinstance(detector.backbone, PatchBackbone):
        raise UsageError(f"the encoder {detector.backbone.entry.name} of {detector.name} does not show its patches")
    return detector.patch_probe, detector.backbone


def patch_scores(backbone: PatchBackbone, probe: PatchProbe, working: Pixels) -> FloatArray:
    """Scores `(h, w)` of the cells of a picture that is reduced already (`Reduced.working`)."""
    size = backbone.entry.preprocess.size
    tops, lefts = (_offsets(side, size) for side in working.shape[:2])
    places = [(top, left) for top in tops for left in lefts]
    grids: list[FloatArray] = []
    for start in range(0, len(places), _BATCH):
        tiles = [working[y : y + size, x : x + size] for y, x in places[start : start + _BATCH]]
        grids += list(probe.scores(backbone.patch_tokens(np.ascontiguousarray(np.stack(tiles)), probe.block)))
    return _joined(grids, places, (working.shape[0], working.shape[1]), size)


def _joined(grids: list[FloatArray], places: list[tuple[int, int]], shape: tuple[int, int], size: int) -> FloatArray:
    """Mean over the tiles: each cell of the map takes, from each tile, the patch that its centre lies in.

    The last tile of a row is flush with the picture's edge, so its patches may be off the map's cells by a part.
    """
    g = len(grids[0])
    cells = [max(g, round(side * g / size)) for side in shape]
    centres = [(np.arange(n) + 0.5) * side / n for n, side in zip(cells, shape, strict=True)]
    total, count = np.zeros(cells), np.zeros(cells)
    for grid, place in zip(grids, places, strict=True):
        inside = [np.flatnonzero((c >= p) & (c < p + size)) for c, p in zip(centres, place, strict=True)]
        patch = [((c[i] - p) * g / size).astype(int) for c, i, p in zip(centres, inside, place, strict=True)]
        total[np.ix_(*inside)] += grid[np.ix_(*patch)]
        count[np.ix_(*inside)] += 1
    return (total / count).astype(np.float32)


def _working_size(h: int, w: int, size: int) -> tuple[int, int]:
    """Height and width at which at most `MAX_TILES` tiles of `size` cover a picture of h x w."""
    short = min(h, w)
    first = min(2 * size, max(size, short))
    for target in (first, min(first, size * 3 // 2), size):
        height, width = (max(target, round(side * target / short)) for side in (h, w))
        if _tiles(height, size) * _tiles(width, size) <= MAX_TILES:
            return height, width
    longest = size + (MAX_TILES - 1) * (size // 2)
    return min(height, longest), min(width, longest)


def _offsets(side: int, size: int) -> list[int]:
    """Where tiles of `size` begin to cover `side`, at most half a tile apart; the last is flush with the end."""
    last, stride = side - size, size // 2
    return [min(i * stride, last) for i in range(_tiles(side, size))]


def _tiles(side: int, size: int) -> int:
    """How many there are: a picture of one row may be millions of pixels long."""
    return -(-(side - size) // (size // 2)) + 1


def _coloured(scores: FloatArray) -> Pixels:
    """`(h, w)` -> RGB `(h, w, 3)` uint8 on the fixed scale."""
    place = (np.clip(scores / RANGE, -1, 1) + 1) / 2 * (len(_COLOURS) - 1)
    channels = [np.interp(place, np.arange(len(_COLOURS)), _COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _labelled(overlay: Image.Image, scale: str) -> Image.Image:
    """The overlay with the caption, the colours and their scale below it, for whoever has the picture alone."""
    font, line, margin = ImageFont.load_default(), 14, 4
    words = max(round(font.getlength(text)) for text in (CAPTION, scale)) + 2 * margin
    sheet = Image.new("RGB", (max(overlay.width, words), overlay.height + 3 * line + 2 * margin), "white")
    sheet.paste(overlay)
    bar = Image.fromarray(_coloured(np.linspace(-RANGE, RANGE, words - 2 * margin, dtype=np.float32)[None]))
    top = overlay.height + margin
    sheet.paste(bar.resize((bar.width, line - margin)), (margin, top + line))
    for row, text in ((0, CAPTION), (2, scale)):
        ImageDraw.Draw(sheet).text((margin, top + row * line), text, "black", font=font)
    return sheet
