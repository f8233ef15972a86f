"""The labelled images of a study, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..benchmark.rows import ABOUT_IMAGES, Images, Texts
from ..embedding_cache import Keyed, keyed
from ..errors import DataError
from ..types import Failure, Label, Sample, data_digest
from ..wording import counted

Strings = NDArray[np.object_]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Data:
    """N images that could be read, in the order of their data set.

    Attributes:
        samples: N.
        keys: N sha256 of the files, in hex.
        failures: those that could not be read or decoded.
        given: images of the data set, before `limit`.
    """

    samples: tuple[Sample, ...]
    keys: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    given: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def column(self, name: str) -> Strings:
        """`(N,)` an attribute of the samples: `generator`, `family`, `source`, `group`, `subset`, `split`."""
        return np.array([getattr(s, name) for s in self.samples], dtype=object)

    @cached_property
    def fake(self) -> NDArray[np.bool_]:
        """`(N,)` which are fakes."""
        return np.array([s.label is Label.FAKE for s in self.samples], bool)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """`(N,)` 0 real, 1 fake."""
        return self.fake.astype(np.uint8)

    @property
    def digest(self) -> str:
        """See `univfd.types.data_digest`."""
        return data_digest((key, sample.label) for key, sample in zip(self.keys, self.samples, strict=True))

    def without(self, failures: Sequence[Failure | None]) -> Data:
        """The images that have no failure in the list of N."""
        kept = [i for i, failure in enumerate(failures) if failure is None]
        return Data(
            tuple(self.samples[i] for i in kept),
            tuple(self.keys[i] for i in kept),
            (*self.failures, *(f for f in failures if f is not None)),
            self.given,
        )

    def images(self, rows: Rows) -> Images:
        """What score rows say of some images, `(n,)` rows."""
        values: dict[str, list[str]] = {name: [] for name in ABOUT_IMAGES}
        for i in rows:
            sample = self.samples[i]
            own = {"image": sample.ref.name, "sha256": self.keys[i], "label": sample.label.word}
            for name in ABOUT_IMAGES:
                values[name].append(own[name] if name in own else getattr(sample, name))
        return Images({name: texts(column) for name, column in values.items()})


def texts(values: Sequence[str]) -> Texts:
    """Strings as codes into their distinct values."""
    names, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return Texts(codes.astype(np.int32), tuple(names.tolist()))


def read(
    samples: Iterable[Sample],
    *,
    limit: int | None = None,
    workers: int | None = None,
    watch: Callable[[str, int, int], None] = lambda *_: None,
) -> Data:
    """Read the checksums of a data set's files.

    Args:
        samples: from `univfd.datasets.open_dataset` or a suite.
        limit: at most so many images of each generator and of each source of reals.
        workers: reading threads.
        watch: told how far it is: what, done, in all.

    Raises:
        DataError: a class is absent.
    """
    every = list(samples)
    chosen = limited(every, limit)
    found: list[Keyed | Failure] = []
    for image in keyed([s.ref for s in chosen], workers=workers):
        found.append(image)
        watch("reading", len(found), len(chosen))
    keys = tuple(i.sha256 if isinstance(i, Keyed) else "" for i in found)
    data = Data(tuple(chosen), keys, (), len(every)).without([i if isinstance(i, Failure) else None for i in found])
    if not len(data) or data.fake.all() or not data.fake.any():
        n = int(data.fake.sum())
        raise DataError(f"{counted(n, 'fake')} and {counted(len(data) - n, 'real')} could be read; a study needs both")
    return data


def limited(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` images of each generator and real source, evenly spaced in the order given."""
    if limit is None:
        return list(samples)
    places: dict[Any, list[int]] = {}
    for i, sample in enumerate(samples):
        made = sample.generator if sample.label is Label.FAKE else ""  # some manifests fill it for reals too
        places.setdefault((sample.label, made or sample.source), []).append(i)
    kept = set()
    for rows in places.values():
        n = min(limit, len(rows))
        kept |= {rows[j * len(rows) // n] for j in range(n)}
    return [samples[i] for i in sorted(kept)]
