"""The page of `univfd detect --explain-html`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedding import OnPixels
from ..errors import InputError, MissingExtraError
from ..images import decode
from ..report.evidence import Beside, EvidencePage, Pictures, through
from ..report.pictures import small_map, thumbnail
from ..runner import Line
from ..types import Failure, ImageRef, Pixels, Verdict
from ..writers import Row

if TYPE_CHECKING:
    from ..calibration import Calibration
    from ..store import BankStore
    from ..store.history import Ids

Judged = partial[Iterator[Verdict | Failure]]
"""`Detector.detect` with its options bound."""
_Key = tuple[str, str]


class Explaining:
    """A page that is under way, and small copies of the images that are judged meanwhile.

    Args:
        path: the file to make.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[int, str] = {}
        self._small: defaultdict[_Key, deque[str]] = defaultdict(deque)
        self._maps: defaultdict[_Key, deque[str]] = defaultdict(deque)

    def beside(self, line: Judged) -> Judged:
        """The line, with a small copy of each image kept until its row comes."""
        return partial(self._watching, line)

    def beside_service(self, line: Line) -> Line:
        """The line of a service, with a small copy of each judged image made here: the service sends none."""

        def watching(refs: Iterable[ImageRef | Failure]) -> Iterator[Any]:
            waiting: deque[ImageRef | Failure] = deque()

            def seen() -> Iterator[ImageRef | Failure]:
                for ref in refs:
                    waiting.append(ref)
                    yield ref

            for item in line(seen()):
                ref, row = waiting.popleft(), item.to_dict()
                if isinstance(ref, ImageRef) and row["status"] == "ok":
                    self._small[row["image"], row["sha256"]].append(_small_copy(ref, row["sha256"]))
                yield item

        return watching

    def keep_map(self, image: str, sha256: str, png: bytes) -> None:
        """Keep a small copy of an image's heat map until its row comes; none of what is no picture."""
        try:
            small = small_map(png)
        except InputError:
            small = ""
        self._maps[image, sha256].append(small)

    @staticmethod
    def thumbnails_of(store: BankStore, ids: Ids) -> Pictures:
        """Thumbnails of the rows of a version of a store, which have these ids, by their numbers."""

        def found(rows: Iterable[int]) -> dict[int, bytes]:
            numbers = {int(ids[row]): row for row in rows}
            return {numbers[i]: jpeg for i, jpeg in store.thumbnails(np.array(list(numbers), np.int64)).items()}

        return found

    def rows(
        self, rows: Iterable[Row], *, detector: str, calibration: Calibration, bank: str, pictures: Pictures | None
    ) -> Iterator[Row]:
        """Rows on their way, each put on the page, which is begun at once.

        Args:
            rows: of verdicts and failures.
            detector: identity of the detector.
            calibration: what it promises.
            bank: what the evidence comes from, and its version.
            pictures: thumbnails of the bank's rows by number; None: it has none.

        Raises:
            MissingExtraError: without the extra `report`.
            UnivFDError: the file is there already, or cannot be written.
        """
        page = EvidencePage(self.path, detector=detector, calibration=calibration, bank=bank, pictures=pictures)
        return through(page, rows, self._of)

    def _watching(
        self, line: Judged, refs: Iterable[ImageRef | Failure], *, on_pixels: OnPixels | None = None
    ) -> Iterator[Verdict | Failure]:
        waiting: deque[ImageRef | Failure] = deque()

        def seen() -> Iterator[ImageRef | Failure]:
            for ref in refs:
                waiting.append(ref)
                yield ref

        def keep(ref: ImageRef, pixels: Pixels) -> None:
            self._kept[id(ref)] = thumbnail(pixels)
            if on_pixels is not None:
                on_pixels(ref, pixels)

        for item in line(seen(), on_pixels=keep):
            small = self._kept.pop(id(waiting.popleft()), "")
            if isinstance(item, Verdict):
                self._small[item.image, item.sha256].append(small)
            yield item

    def _of(self, row: Row) -> Beside:
        key = (row["image"], row.get("sha256", ""))
        return Beside(_taken(self._small, key), _taken(self._maps, key))


def _small_copy(ref: ImageRef, sha256: str) -> str:
    """A small copy of the very file that was judged; none where this machine cannot read it."""
    try:
        decoded = decode(ref)
    except (InputError, MissingExtraError, MemoryError):
        return ""
    return thumbnail(decoded.pixels) if decoded.sha256 == sha256 else ""


def _taken(kept: dict[_Key, deque[str]], key: _Key) -> str:
    """The first that is kept under a key; empty for a row of an earlier run."""
    if key not in kept:
        return ""
    first = kept[key].popleft()
    if not kept[key]:
        del kept[key]
    return first
