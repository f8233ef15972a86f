"""The engine `cpu-int8`: a prepared graph on ONNX Runtime whose large products are of 8-bit integers.

The graph is kept in the user cache as ONNX Runtime has optimised it, beside its weights, which are mapped into memory:
it opens in a tenth of the time that the graph of integers took.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from ..catalogue import Entry
from ..downloads import Progress, home, sha256_of
from ..engines import ENGINES, Engine
from ..errors import UnivFDError
from ..machine import processor
from ..parity import fixed_crops
from ..storage import new_folder, read_json, write_json
from ..types import digest_of
from ..weights import GRAPH, MANIFEST, WEIGHTS, checksums
from ._kept_graph import CUTTING, QUANTISING, cut_graph
from .onnx import OnnxBackbone

if TYPE_CHECKING:
    from ._eight_bits import Rewritten

log = logging.getLogger(__name__)

_KIND, _SCHEMA = "univfd-optimised-graph", 1
_SMALL = "1024"  # bytes of what stays in the graph's own file
_CPU = ["CPUExecutionProvider"]


class EightBitBackbone(OnnxBackbone):
    """See `univfd.backbones.Backbone`. Any number of threads may call it."""

    def __init__(
        self,
        entry: Entry,
        taps: tuple[str, ...],
        threads: int,
        progress: Progress | None,
        engine: Engine = ENGINES["cpu-int8"],
    ) -> None:
        self._unkept: dict[tuple[str, ...], bytes] = {}
        super().__init__(entry, taps, threads, progress, engine)

    def _start(self, taps: tuple[str, ...], options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        if (place := self._kept(taps)) is None:
            return onnxruntime.InferenceSession(self._unkept[taps], self._beside_weights(options), providers=_CPU)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(place / GRAPH), options, providers=_CPU)

    def _kept(self, taps: tuple[str, ...]) -> Path | None:
        """The folder of an optimised graph, made first where it is not there; None if it cannot be kept."""
        if taps in self._unkept:
            return None
        place = self._place(taps)
        if (stated := _stated(place)) is None:
            import filelock

            made = None
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(place.with_name(f"{place.name}.lock")):
                    if (stated := _stated(place)) is None:  # no other process was faster
                        made = self._in_eight_bits(taps)
                        stated = self._keep(made, place)
            except Exception as error:  # a cache that is full or may only be read, in terms of whoever writes
                if made is None and not isinstance(error, (OSError, NotImplementedError)):
                    raise
                log.info("the optimised graph could not be kept in %s: %s", place.parent, error)
                made = made or self._in_eight_bits(taps)
                self._unkept[taps] = made.graph
                stated = _of(made)
        _remark(stated)
        return None if taps in self._unkept else place

    def _place(self, taps: tuple[str, ...]) -> Path:
        made_by = [sha256_of(Path(__file__).with_name(name)) for name in (*CUTTING, *QUANTISING)]
        entry = self.entry
        # Optimising may take up what this processor has, and products of 8 bits are not alike everywhere.
        here = {"processor": processor(), "onnxruntime": onnxruntime.__version__}
        encoder = {
            "files": checksums(self._folder),
            "preprocess": entry.preprocess.digest(entry.preparation),
            "prefix": entry.prefix,
        }
        return home() / "graphs" / f"{digest_of(encoder | here | {'taps': taps, 'made by': made_by})[:32]}.int8"

    def _in_eight_bits(self, taps: tuple[str, ...]) -> Rewritten:
        from ._eight_bits import in_eight_bits

        log.info("making a graph of 8-bit products, once")
        spec = self.entry.preprocess
        graph = cut_graph(self._folder, taps, self.entry.prefix, spec.size)
        return in_eight_bits(graph, self._folder, spec.normalise(fixed_crops(spec.size)))

    def _keep(self, made: Rewritten, place: Path) -> dict[str, Any]:
        """Put a graph as it is optimised here into a folder; what is known of it."""
        options = self._beside_weights(onnxruntime.SessionOptions())
        options.log_severity_level = 3
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _SMALL)
        options.add_session_config_entry("session.disable_prepacking", "1")
        with suppress(FileNotFoundError):  # of a damaged one
            old = place.rename(place.with_name(f".{place.name}.{secrets.token_hex(4)}.old"))
            shutil.rmtree(old, ignore_errors=True)
        with new_folder(place) as scratch:
            options.optimized_model_filepath = str(scratch / GRAPH)
            onnxruntime.InferenceSession(made.graph, options, providers=_CPU)
            (scratch / WEIGHTS).touch()  # there are none in a file of their own where all are small
            sizes = {"graph": sha256_of(scratch / GRAPH), "bytes": (scratch / WEIGHTS).stat().st_size}
            stated = _of(made) | sizes
            write_json(scratch / MANIFEST, _KIND, _SCHEMA, stated)
            for written in scratch.iterdir():
                with written.open("rb") as file:
                    os.fsync(file.fileno())  # the rename must not reach the disk before the contents do
        return stated

    def _beside_weights(self, options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        return options


def _of(made: Rewritten) -> dict[str, Any]:
    return {"products": made.products, "saturates": made.saturates}


def _stated(place: Path) -> dict[str, Any] | None:
    """What is known of an optimised graph; None if it is not there, or not as it was written (of its weights the size
    is looked at, not the contents).
    """
    try:
        stated = read_json(place / MANIFEST, _KIND, _SCHEMA)
        graph, size = sha256_of(place / GRAPH), (place / WEIGHTS).stat().st_size
        return stated if (stated["graph"], stated["bytes"]) == (graph, size) else None
    except (OSError, UnivFDError, KeyError):
        return None


def _remark(stated: dict[str, Any]) -> None:
    if not stated.get("products"):
        log.warning("this encoder has no matrix products over tokens: engine cpu-int8 is no faster here than cpu, "
                    "and counts as lossy")  # fmt: skip
    elif stated.get("saturates"):
        log.warning("this CPU has no exact 8-bit products (VNNI): engine cpu-int8 is hardly faster here than cpu")


PLUGIN = EightBitBackbone
