"""The engine `cpu-int8`: a prepared graph on ONNX Runtime whose large products are of 8-bit integers."""

from __future__ import annotations

from ._kept_graph import eight_bit_graph
from .onnx import OnnxBackbone


class EightBitBackbone(OnnxBackbone):
    """See `univfd.backbones.Backbone`. Any number of threads may call it."""

    def _graph(self, taps: tuple[str, ...]) -> bytes:
        return eight_bit_graph(self._folder, taps, self.entry)


PLUGIN = EightBitBackbone
