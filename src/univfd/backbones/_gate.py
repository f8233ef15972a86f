"""Opens a prepared graph on an engine, behind the parity gate.

The gate compares the engine with float32 ONNX Runtime on fixed crops, in a batch and one by one. Its vectors are kept
in the user cache, by machine, engine, versions, graph and taps, so that it costs its seconds once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import registry
from .._version import __version__
from ..catalogue import Entry
from ..downloads import Progress, home, sha256_of
from ..engines import AUTO, CPU, Engine, candidates
from ..errors import EngineError, FormatError, MissingExtraError
from ..machine import machine
from ..parity import Parity, fixed_crops
from ..storage import new_contents, read_arrays, write_arrays
from ..types import FloatArray, digest_of
from ..weights import checksums, folder
from . import EngineBackbone
from ._kept_graph import CUTTING, QUANTISING

log = logging.getLogger(__name__)

_ARRAYS = ("reference", "batch", "single")
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "openvino")


def open_prepared(
    described: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None, name: str
) -> EngineBackbone:
    """Open an encoder that has a prepared graph.

    Args:
        described: its entry.
        taps: as in `univfd.backbones.open_backbone`.
        threads: for the encoder.
        progress: called while downloading.
        name: of an engine, or `auto`.

    Raises:
        UnknownNameError: no such engine.
        MissingExtraError: a named engine that is not here.
        EngineError: a named engine that does not start, or computes wrong vectors.
    """
    import onnxruntime

    found = candidates(name, onnxruntime.get_available_providers(), lambda m: importlib.util.find_spec(m) is not None)
    for engine, following in zip(found, [*found[1:], None], strict=True):
        try:
            opened = _open(described, taps, threads, progress, engine)
        except (EngineError, MissingExtraError) as error:
            if following is None:
                raise
            log.warning("%s; taking %s", error, following.name)
        else:
            if name == AUTO or engine is not CPU:
                log.info("engine %s", engine.name)
            return opened
    raise EngineError("no engine is left to compute with; reinstall onnxruntime")


def _open(
    described: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None, engine: Engine
) -> EngineBackbone:
    def opened(on: Engine) -> EngineBackbone:
        make = registry.load("backbones", on.file)
        made: EngineBackbone = make(described, taps, threads, progress, on)
        return made

    made = opened(engine)
    if engine is not CPU:
        made.parity = gate(engine, taps, made, lambda: opened(CPU))
        made.parity.require()
    return made


def gate(
    engine: Engine, taps: Sequence[str], opened: EngineBackbone, reference: Callable[[], EngineBackbone]
) -> Parity:
    """The engine's vectors beside the reference's, from the user cache where they are known.

    Args:
        engine: what is looked at.
        taps: that it was opened for.
        opened: the encoder on it.
        reference: opens the encoder on the reference engine.
    """
    key = digest_of(_circumstances(engine, taps, opened.entry))[:32]
    place = home() / "engines" / f"{engine.name}-{key}.safetensors"
    if (kept := _read(place)) is None:
        log.info("comparing engine %s with float32 on this machine, once", engine.name)
        crops = fixed_crops(opened.entry.preprocess.size)
        kept = {
            "reference": reference().embed(crops),
            "batch": opened.embed(crops),
            "single": np.concatenate([opened.embed(crops[i : i + 1]) for i in range(len(crops))]),
        }
        _keep(place, kept)
    return Parity(engine.name, engine.cosine, bool(engine.lossy), *(kept[name] for name in _ARRAYS))


def _circumstances(engine: Engine, taps: Sequence[str], described: Entry) -> dict[str, object]:
    versions = {"univfd": __version__}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    stated = {"machine": machine(), "versions": versions, "graph": checksums(folder(described)), "taps": list(taps)}
    stated["cutting"] = [sha256_of(Path(__file__).with_name(name)) for name in (*CUTTING, *QUANTISING)]
    return stated | {"engine": engine.name, "options": dict(engine.options)}


def _read(place: Path) -> dict[str, FloatArray] | None:
    try:
        kept = read_arrays(place, dict.fromkeys(_ARRAYS, (None, None)))
    except (OSError, FormatError):  # not there yet, or damaged: made anew
        return None
    return kept if len({v.shape for v in kept.values()}) == 1 else None


def _keep(place: Path, arrays: dict[str, FloatArray]) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_contents(place) as scratch:
            write_arrays(scratch, arrays)
    except OSError as error:  # a cache that is full or may only be read: the gate is paid at each start
        log.info("the comparison could not be kept in %s: %s", place.parent, error)
