"""Verdicts and the bank rows they rest on, as one HTML file that asks nothing of the network.

It is written image by image, so that of a folder of any size only one line an image is kept, for the list at the end;
and it is at its place once it is whole.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from .._version import __version__
from ..calibration import Calibration
from ..storage import cannot_write, replace_file, require_new
from ..types import Label
from ..writers import Row
from .template import address, template

Pictures = Callable[[Iterable[int]], Mapping[int, bytes]]
"""JPEG thumbnails of bank rows by their numbers, of those that have one."""
PAGE = "evidence.html.j2"
"""The template, see `univfd.report.template.template`."""
_SIDES = (("nearest_fake", Label.FAKE), ("nearest_real", Label.REAL))


class Beside(NamedTuple):
    """What a page shows of an image beside its row, as `data:` addresses; empty: nothing."""

    small: str = ""
    """A small copy of it."""
    heat_map: str = ""


NOTHING = Beside()


class _Listed(NamedTuple):
    """An image in the list at the end."""

    verdict: str
    score: float | None
    probability: float | None
    image: str
    number: int

    @property
    def order(self) -> tuple[bool, float, int]:
        """The highest score first, what has none last."""
        return self.score is None, -(self.score or 0), self.number


class EvidencePage:
    """A page to which images are added.

    Args:
        path: the file to make.
        detector: its identity.
        calibration: thresholds and promise.
        bank: name of the bank and its version.
        pictures: of the bank's rows; None: it keeps none.

    Raises:
        OutputExistsError: the file is there already.
        MissingExtraError: without the extra `report`.
        UnivFDError: it cannot be written.
    """

    def __init__(
        self, path: Path, *, detector: str, calibration: Calibration, bank: str, pictures: Pictures | None = None
    ) -> None:
        require_new(path)
        self._macros = template(PAGE).module
        self._path, self._scratch = path, path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._bank, self._pictures = bank, pictures
        self._listed: list[_Listed] = []
        try:
            self._file = self._scratch.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            self._write(
                self._macros.head(
                    detector=detector, calibration=calibration, bank=bank, version=__version__,
                    has_pictures=pictures is not None,
                )
            )  # fmt: skip
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Move the page into place, or, after an error, leave nothing.

        Raises:
            OutputExistsError: a file is there by now.
            UnivFDError: it cannot be written.
        """
        try:
            if kind is None:
                counts = Counter(of.verdict for of in self._listed)
                self._write(self._macros.foot(counts=counts, ordered=sorted(self._listed, key=lambda of: of.order)))
                self._file.close()
                require_new(self._path)  # another run may have made it meanwhile
                replace_file(self._scratch, self._path)
        except OSError as failed:
            raise cannot_write(self._path, failed) from failed
        finally:
            self._discard()

    def _discard(self) -> None:
        """Leave nothing but what is at its place."""
        with suppress(OSError):  # of a full disk: it has been said
            self._file.close()
        with suppress(FileNotFoundError):
            self._scratch.unlink()

    def add(self, row: Row, beside: Beside = NOTHING) -> None:
        """Write what is known of an image.

        Args:
            row: from `Verdict.to_dict` or `Failure.to_dict`.
            beside: what else is shown.
        """
        number = len(self._listed) + 1
        verdict = row.get("verdict") or "failed"
        self._listed.append(_Listed(verdict, row.get("score"), row.get("probability"), row["image"], number))
        if row["status"] == "failed":
            self._write(self._macros.failure(row=row, number=number))
            return
        sides = [(label.word, _neighbors(row, name)) for name, label in _SIDES]
        numbers = {n["row"] for _, of in sides for n in of or ()}
        found = self._pictures(numbers) if self._pictures and numbers else {}
        shown = {i: address("image/jpeg", jpeg) for i, jpeg in found.items()}
        self._write(
            self._macros.verdict(row=row, number=number, sides=sides, beside=beside, shown=shown, bank=self._bank)
        )

    def _write(self, part: str) -> None:
        try:
            self._file.write(part)
        except OSError as error:
            raise cannot_write(self._path, error) from error


def through(page: EvidencePage, rows: Iterable[Row], beside: Callable[[Row], Beside]) -> Iterator[Row]:
    """Rows on their way, each put on the page, which is finished behind the last one."""
    with page:
        for row in rows:
            page.add(row, beside(row))
            yield row


def _neighbors(row: Row, name: str) -> list[Mapping[str, Any]] | None:
    """A side of the evidence; None where the row has been through a format that keeps the nearest alone, in columns."""
    found = row.get(name)
    return found if isinstance(found, list) and all("key" in n for n in found) else None
