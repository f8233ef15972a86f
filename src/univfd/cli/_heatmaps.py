"""Heat maps beside the rows of `univfd detect`."""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import click

from ..detector import Detector
from ..heatmap import CAPTION, Reduced, draw, reduced, require_probe
from ..runner import Line
from ..sources import Source, expand, file_of
from ..storage import cannot_write
from ..types import Failure, ImageRef, Pixels, Verdict
from ..wording import counted
from ..writers import printable

log = logging.getLogger(__name__)

_NAME_LENGTH = 50  # characters, of up to 4 bytes each: file systems take 255 bytes
_HEAD = 512  # bytes of a map that say what it is


Also = Callable[[str, str, bytes], None]
"""Takes an image's name, its sha256 and its map as PNG."""


class Maps:
    """A folder of heat maps.

    Attributes:
        failed: how many could not be drawn or written; each was named on stderr.
    """

    def __init__(self, folder: Path, also: Also | None = None) -> None:
        """Make the folder.

        Args:
            folder: where they go.
            also: is given each map too.

        Raises:
            UnivFDError: it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        self.failed = 0
        self._folder, self._also = folder, also

    def save(self, image: str, sha256: str, png: bytes) -> None:
        """Write the map of an image, or say that it cannot be written."""
        if self._also is not None:
            self._also(image, sha256, png)
        try:
            _write_new(self._folder, _stem(image, sha256), png)
        except OSError as error:
            self.missing(image, str(cannot_write(self._folder, error)))

    def missing(self, image: str, why: str) -> None:
        """Say that there is no map of an image."""
        self.failed += 1
        click.echo(printable(f"univfd: no heat map of {image}: {why}"), err=True)


class HeatMaps(Maps):
    """Draws a map of each judged image into a folder, one image at a time."""

    def __init__(self, detector: Detector, folder: Path, also: Also | None = None) -> None:
        """Make the folder, see `Maps`.

        Raises:
            UsageError: the detector cannot draw maps.
            UnivFDError: the folder cannot be made.
        """
        _, backbone = require_probe(detector)
        super().__init__(folder, also)
        self._detector, self._spec = detector, backbone.entry.preprocess
        self._kept: dict[int, Reduced] = {}

    def beside(self, line: partial[Iterator[Verdict | Failure]]) -> Line:
        """The line (`Detector.detect` with its options bound), with a map written before each verdict is handed on."""

        def drawing(refs: Iterable[ImageRef | Failure]) -> Iterator[Verdict | Failure]:
            waiting: deque[ImageRef | Failure] = deque()

            def seen() -> Iterator[ImageRef | Failure]:
                for ref in refs:
                    waiting.append(ref)
                    yield ref

            for item in line(seen(), on_pixels=self._keep):
                ref = waiting.popleft()
                picture = self._kept.pop(id(ref), None)
                if isinstance(item, Verdict):
                    self._write(item, picture)
                yield item

        return drawing

    def _keep(self, ref: ImageRef, pixels: Pixels) -> None:
        """In the loading threads; the waiting references live until their verdict, so each id is one of a kind."""
        try:
            self._kept[id(ref)] = reduced(pixels, self._spec)
        except MemoryError:  # the verdict may still be had
            return

    def _write(self, verdict: Verdict, picture: Reduced | None) -> None:
        try:
            if picture is None:
                raise MemoryError
            png = draw(self._detector, picture).png()
        except MemoryError:
            self.missing(verdict.image, "not enough memory")
        else:
            self.save(verdict.image, verdict.sha256, png)


def beyond_maps(inputs: Iterable[Source], folder: Path) -> Iterator[ImageRef | Failure]:
    """References to inputs, without the maps in a folder: those of earlier runs, and of this one, which writes there.

    Args:
        inputs: see `univfd.sources.expand`.
        folder: where the maps go; other pictures in it are inputs like any other.
    """
    here, left = os.path.realpath(folder), 0
    for ref in expand(inputs):
        path = file_of(ref) if isinstance(ref, ImageRef) else None
        if path is not None and os.path.realpath(path.parent) == here and _is_map(path):
            left += 1
        else:
            yield ref
    if left:
        log.warning("passed over %s in %s: no input, and so without a row", counted(left, "heat map"), folder)


def _is_map(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"tEXtDescription\0" + CAPTION.encode() in file.read(_HEAD)
    except (OSError, ValueError):  # judging it will say why
        return False


def _stem(name: str, sha256: str) -> str:
    """Never with a folder's name in it: maps are given away."""
    *above, last = re.split(r"[/\\]", name)
    stem = last.rpartition(".")[0] or last
    if above and above[-1].lower().endswith(".parquet"):  # of a row the number alone says little
        stem = f"{above[-1]}_{last}"
    safe = re.sub(r"[^\w.-]+", "_", stem)
    return f"{safe.strip('._')[-_NAME_LENGTH:] or 'image'}-{sha256[:8]}"


def _write_new(folder: Path, stem: str, data: bytes) -> None:
    """Write under the first free name: `stem.png`, `stem-2.png` ..."""
    number = 1
    while True:
        path = folder / (f"{stem}-{number}.png" if number > 1 else f"{stem}.png")
        try:
            file = path.open("xb")
        except FileExistsError:
            number += 1
            continue
        try:
            with file:
                file.write(data)
        except BaseException:
            path.unlink(missing_ok=True)  # ours, and cut off
            raise
        return
