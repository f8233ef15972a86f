"""What `univfd detect` asks: a detector of this machine, or a service."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ..calibration import Calibration
from ..errors import UsageError
from ..runner import Line
from ..types import Failure, FeatureSpace, ImageRef
from ..wording import counted
from ._heatmaps import Also, HeatMaps, Maps
from ._shared import download_progress

if TYPE_CHECKING:
    from ..detector import Detector
    from ..report.evidence import Pictures
    from ._explaining import Explaining

_LOCAL_ONLY = ("detector", "bank", "trust", "batch_size", "threads", "max_pixels", "engine")


@dataclass(frozen=True, slots=True)
class Judging:
    """A line and whose it is.

    Attributes:
        line: gives one row per image.
        identity: of the detector.
        calibration: what it promises.
        maps: the heat maps that are drawn on the way, if any.
        bank: what the evidence comes from, and its version.
        pictures: thumbnails of the bank's rows by number; None: it has none.
    """

    line: Line
    identity: str
    calibration: Calibration
    maps: Maps | None
    bank: str
    pictures: Pictures | None = None


def here(
    ctx: click.Context, *, detector: str, bank: str | None, neighbors: int, explaining: Explaining | None,
    heatmap: Path | None, provenance: bool, trust: tuple[Path, ...], batch_size: int | None, workers: int | None,
    threads: int | None, max_pixels: float, engine: str | None,
) -> Judging:  # fmt: skip
    """A detector of this machine."""
    from ..detector_folder import locate, read_manifest
    from ..tuning import tuned

    space = FeatureSpace.from_dict(read_manifest(locate(detector))["space"])
    work = tuned(space.backbone, space.weights, engine).by_hand(threads, batch_size, workers)
    found = opened(ctx, detector, None, threads=work.threads, engine=engine)
    name, pictures = f"{counted(len(found.bank), 'row')}, {found.bank.digest}", None
    if bank is not None:
        from ._bank_shared import open_at

        store, version = open_at(bank)
        known = store.at(version)
        found, name = found.with_bank(known), known.name
        pictures = None if explaining is None else explaining.thumbnails_of(store, known.ids)
    judging = partial(
        found.detect, neighbors=neighbors, batch_size=work.batch_size, workers=work.workers, streams=work.streams,
        max_pixels=round(max_pixels * 1e6),
    )  # fmt: skip
    if explaining is not None:
        judging = explaining.beside(judging)
    maps = None if heatmap is None else HeatMaps(found, heatmap, _kept_by(explaining))
    line: Line = maps.beside(judging) if maps else judging
    if provenance:
        from ..provenance import ProvenanceReader
        from ._provenance import beside

        line = beside(line, ProvenanceReader(trust=trust))
    return Judging(line, found.identity, found.calibration, maps, name, pictures)


def _kept_by(explaining: Explaining | None) -> Also | None:
    return None if explaining is None else explaining.keep_map


def opened(
    ctx: click.Context, detector: str, bank: str | None, *, threads: int | None, engine: str | None = None
) -> Detector:
    """A detector, deciding with the rows of a bank store where one is named."""
    from ..detector import load

    with download_progress(ctx) as downloading:
        found = load(detector, threads=threads, progress=downloading, engine=engine)
    if bank is None:
        return found
    from ._bank_shared import deciding_with

    return deciding_with(found, bank)


def there(
    ctx: click.Context, url: str, *, key_env: str | None, neighbors: int, explaining: Explaining | None,
    heatmap: Path | None, provenance: bool, workers: int | None,
) -> Judging:  # fmt: skip
    """The detector of a service.

    Raises:
        UsageError: an option that only a detector of this machine has, or no key where one was named.
        ServiceError: see `univfd.remote.RemoteDetector`.
    """
    from ..remote import MAP_REQUESTS, REQUESTS, RemoteDetector, RemoteRow

    given = [n for n in _LOCAL_ONLY if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT]
    if given:
        names = ", ".join(f"--{n.replace('_', '-')}" for n in given)
        raise UsageError(f"{names}: the service of --server decides this; its operator can change it")
    if key_env is not None and not os.environ.get(key_env):
        raise UsageError(f"--key-env {key_env}: there is no such variable in the environment, or it is empty")
    remote = RemoteDetector(url, key=os.environ[key_env] if key_env else "")
    about = remote.about()
    maps = None if heatmap is None else Maps(heatmap, _kept_by(explaining))
    requests = workers or (MAP_REQUESTS if maps else REQUESTS)

    def line(refs: Iterable[ImageRef | Failure]) -> Iterator[RemoteRow]:
        rows = remote.detect(
            refs, neighbors=neighbors, heatmap=maps is not None, provenance=provenance, requests=requests
        )
        for row in rows:
            if maps is not None and row.heatmap is not None:
                maps.save(row.row["image"], row.row["sha256"], row.heatmap)
            yield row

    shown = line if explaining is None else explaining.beside_service(line)
    known = {f.name for f in fields(Calibration)}  # a promise says more than that in words
    promised = Calibration.from_dict({name: value for name, value in about["promise"].items() if name in known})
    return Judging(
        shown, about["identity"], promised, maps, f"the service's bank, {counted(about['bank_rows'], 'row')}"
    )
