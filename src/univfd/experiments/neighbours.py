"""The nearest training images of some unseen fakes (paper, section 5.1, Fig. 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ..benchmark.rendering import Section, Table, Value
from ..errors import UsageError
from ..search import nearest_rows, to_unit
from ..study import plots
from ..study.data import Data, Rows
from ..study.experiment import Drawing, Experiment, Result
from ..study.features import Encoder
from ..study.split import TEST, TRAIN, Split
from ..types import Failure, Pixels
from ..wording import counted

_SIDE = 160  # of a thumbnail, in pixels
_NEAR, _FAR = "nearest to training fakes", "farthest from training fakes"


def run(
    data: Data, split: Split, encoder: Encoder, pictures: Callable[[Rows], Iterable[Pixels | Failure]], count: int = 6,
    neighbours: int = 2,
) -> Result:  # fmt: skip
    """Unseen fakes that lie nearest to training fakes, and farthest from them, with neighbours of both classes."""
    vectors = to_unit(encoder.embed(data))
    train, test = split.rows(TRAIN), split.rows(TEST)
    unseen = test[data.fake[test] & ~np.isin(data.column("generator")[test], split.seen)]
    banks = {label: train[data.fake[train] == fake] for label, fake in (("fake", True), ("real", False))}
    found = {}
    for label, rows in banks.items():
        distances, places = nearest_rows(vectors[unseen], vectors[rows], neighbours)
        found[label] = (distances, rows[places])
    order = np.argsort(found["fake"][0][:, 0], kind="stable")
    count = min(count, len(order) // 2 or 1)
    picked = {_NEAR: order[:count], _FAR: order[::-1][:count]}
    table = _table(data, unseen, found, picked)
    return Result(
        list(_sentences(data, unseen, found, banks)), [table], [_gallery(data, unseen, found, picked, pictures)]
    )


Found = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""For each class: distances `(n, k)` and rows `(n, k)` of the nearest training images."""


def check(count: int, neighbours: int) -> None:
    """Refuse to show nothing."""
    for name, value in (("count", count), ("neighbours", neighbours)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1")


def _table(data: Data, unseen: Rows, found: Found, picked: Mapping[str, Rows]) -> Table:
    rows: list[list[Value]] = []
    for which, places in picked.items():
        for i in places:
            sample = data.samples[unseen[i]]
            rows.append([which, sample.generator, data.keys[unseen[i]][:16], *_nearest(data, found, int(i))])
    notes = (
        f"Cosine distances. n = {counted(len(unseen), 'fake')} of unseen generators, of which these are the ends.",
    )
    head = (
        *("which", "generator", "sha256", "distance to fake", "its generator", "its sha256"),
        *("distance to real", "its source", "its sha256", "nearer to"),
    )
    return Table("neighbours", "Nearest training images", notes, head, [Section((), rows)])


def _nearest(data: Data, found: Found, place: int) -> Iterator[Value]:
    for label in ("fake", "real"):
        distances, rows = found[label]
        sample = data.samples[rows[place, 0]]
        yield f"{distances[place, 0]:.3f}"
        yield sample.generator if label == "fake" else sample.source
        yield data.keys[rows[place, 0]][:16]
    yield "fake" if found["fake"][0][place, 0] < found["real"][0][place, 0] else "real"


def _gallery(
    data: Data, unseen: Rows, found: Found, picked: Mapping[str, Rows],
    pictures: Callable[[Rows], Iterable[Pixels | Failure]],
) -> Drawing:  # fmt: skip
    lines: list[list[int]] = []
    titles: list[list[str]] = []
    for places in picked.values():
        for i in places:
            lines.append([int(unseen[i])])
            titles.append([data.samples[unseen[i]].generator])
            for label in ("fake", "real"):
                for distance, row in zip(found[label][0][i], found[label][1][i], strict=True):
                    sample = data.samples[row]
                    lines[-1].append(int(row))
                    name = sample.generator if label == "fake" else sample.source
                    titles[-1].append(f"{label}: {name}\n{distance:.3f}")
    width = max(map(len, lines))
    figure, axes = plots.panels(width, len(lines), width=1.6, height=1.9)
    shown = dict(zip(flat := [row for line in lines for row in line], pictures(np.array(flat, np.intp)), strict=True))
    for place in axes:
        place.set_axis_off()
    for y, (line, words) in enumerate(zip(lines, titles, strict=True)):
        for x, (row, title) in enumerate(zip(line, words, strict=True)):
            picture = shown[row]
            if not isinstance(picture, Failure):
                axes[y * width + x].imshow(_thumbnail(picture))
            axes[y * width + x].set_title(title, fontsize=6)
    caption = (
        f"Fakes of unseen generators (left) with their nearest training fakes and reals, and cosine distances: the "
        f"{len(lines) // 2} nearest to training fakes, then the {len(lines) - len(lines) // 2} farthest from them, of "
        f"{len(unseen)}."
    )
    return Drawing("neighbours", caption, figure, raster=True)


def _thumbnail(picture: Pixels) -> Pixels:
    from PIL import Image

    small = Image.fromarray(picture)
    small.thumbnail((_SIDE, _SIDE))
    return np.asarray(small)


def _sentences(data: Data, unseen: Rows, found: Found, banks: Mapping[str, Rows]) -> Iterator[str]:
    near = found["fake"][0][:, 0], found["real"][0][:, 0]
    share = float((near[0] < near[1]).mean())
    fakes, reals = (counted(len(banks[label]), label) for label in ("fake", "real"))
    yield (
        f"Of {counted(len(unseen), 'fake')} of unseen generators {share:.1%} have a training fake as their nearest "
        f"training image ({fakes} and {reals} train; unequal numbers favour the larger class)."
    )
    generator = data.column("generator")[unseen]
    middle = {g: float(np.median(near[0][generator == g])) for g in sorted(set(generator))}
    for words, g in (
        ("nearest", min(middle, key=middle.__getitem__)),
        ("farthest", max(middle, key=middle.__getitem__)),
    ):
        n = int((generator == g).sum())
        yield f"By median distance to training fakes the {words} generator is {g} ({middle[g]:.3f}, n={n})."


PLUGIN = Experiment(
    "Nearest neighbours of unseen fakes",
    "The paper shows that diffusion fakes whose nearest training fake is near look worse than those that are far from "
    "all of them. Here: both ends, with the nearest training images of both classes. The thumbnails are made of your "
    "own images, and go nowhere but into this folder.",
    run,
    {
        "count": "Fakes to show from each end.",
        "neighbours": "Training images of each class to show with each.",
    },
    check,
)
