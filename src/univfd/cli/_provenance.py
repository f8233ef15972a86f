"""What files say of their origin, beside the rows of `univfd detect`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..provenance import Provenance, ProvenanceReader
from ..runner import Line
from ..types import Failure, ImageRef


@dataclass(frozen=True, slots=True)
class _Row:
    """A verdict or failure, with the provenance of its file; None where no file could be opened."""

    item: Any
    provenance: Provenance | None

    def to_dict(self) -> dict[str, Any]:
        read = None if self.provenance is None else self.provenance.to_dict()
        return {**self.item.to_dict(), "provenance": read}


def beside(line: Line, reader: ProvenanceReader) -> Line:
    """The line, with the provenance of each file read while the encoder works; the line itself sees none of it."""

    def reading(refs: Iterable[ImageRef | Failure]) -> Iterator[_Row]:
        waiting: deque[Future[Provenance | None] | None] = deque()
        pool = ThreadPoolExecutor(1)

        def seen() -> Iterator[ImageRef | Failure]:
            for ref in refs:
                waiting.append(pool.submit(_read, reader, ref) if isinstance(ref, ImageRef) else None)
                yield ref

        try:
            for item in line(seen()):
                future = waiting.popleft()
                yield _Row(item, None if future is None else future.result())
        finally:
            pool.shutdown(cancel_futures=True)
            reader.close()

    return reading


def _read(reader: ProvenanceReader, ref: ImageRef) -> Provenance | None:
    try:
        return reader.read(ref)
    except InputError:  # the verdict's own row says why
        return None
