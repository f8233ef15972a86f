"""The engine `cpu-int8`: a prepared graph on ONNX Runtime whose large products are of 8-bit integers.

The graph is kept in the user cache as ONNX Runtime has optimised it, beside its weights, which are mapped into memory:
it opens in a tenth of the time that the graph of integers took.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import onnxruntime

from ..downloads import sha256_of
from ..errors import UnivFDError
from ..machine import machine
from ..parity import fixed_crops
from ..storage import new_folder, read_json, write_json
from ..weights import GRAPH, MANIFEST, WEIGHTS
from ._kept_graph import cut_graph, place_of
from .onnx import OnnxBackbone

log = logging.getLogger(__name__)

_KIND, _SCHEMA = "univfd-optimised-graph", 1
_SMALL = "1024"  # bytes of what stays in the graph's own file
_CPU = ["CPUExecutionProvider"]


class EightBitBackbone(OnnxBackbone):
    """See `univfd.backbones.Backbone`. Any number of threads may call it."""

    def _start(self, taps: tuple[str, ...], options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        # Optimising may take up what this processor has, and products of 8 bits are not alike everywhere.
        here = {"machine": machine(), "onnxruntime": onnxruntime.__version__}
        place = place_of(self._folder, taps, self.entry.prefix, int8=here).with_suffix(".int8")
        if not _is_whole(place):
            graph = self._in_eight_bits(taps)
            try:
                shutil.rmtree(place, ignore_errors=True)
                self._keep(graph, place)
            except Exception as error:  # a cache that is full or may only be read, or another process was first
                log.info("the optimised graph could not be kept in %s: %s", place.parent, error)
                if not _is_whole(place):
                    return onnxruntime.InferenceSession(graph, self._beside_weights(options), providers=_CPU)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(str(place / GRAPH), options, providers=_CPU)

    def _in_eight_bits(self, taps: tuple[str, ...]) -> bytes:
        from ._eight_bits import in_eight_bits

        log.info("making a graph of 8-bit products, once")
        spec = self.entry.preprocess
        graph = cut_graph(self._folder, taps, self.entry.prefix, spec.size)
        return in_eight_bits(graph, self._folder, spec.normalise(fixed_crops(spec.size)))

    def _keep(self, graph: bytes, place: Path) -> None:
        options = self._beside_weights(onnxruntime.SessionOptions())
        options.log_severity_level = 3
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _SMALL)
        options.add_session_config_entry("session.disable_prepacking", "1")
        with new_folder(place) as scratch:
            options.optimized_model_filepath = str(scratch / GRAPH)
            onnxruntime.InferenceSession(graph, options, providers=_CPU)
            stated = {"graph": sha256_of(scratch / GRAPH), "bytes": (scratch / WEIGHTS).stat().st_size}
            write_json(scratch / MANIFEST, _KIND, _SCHEMA, stated)

    def _beside_weights(self, options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        return options


def _is_whole(place: Path) -> bool:
    """Whether an optimised graph is there (of its weights the size is looked at, not the contents)."""
    try:
        stated = read_json(place / MANIFEST, _KIND, _SCHEMA)
        return bool(stated["graph"] == sha256_of(place / GRAPH) and stated["bytes"] == (place / WEIGHTS).stat().st_size)
    except (OSError, UnivFDError, KeyError):
        return False


PLUGIN = EightBitBackbone
