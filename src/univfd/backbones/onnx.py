"""The default engine: a prepared graph on ONNX Runtime, cut after the last tap that is asked for."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import onnxruntime

from ..catalogue import Entry
from ..downloads import Progress, home
from ..engines import CPU, Engine, provider_list
from ..errors import ChecksumError, EngineError, FormatError
from ..parity import Parity
from ..types import FloatArray, Pixels
from ..weights import ensure
from . import check_crops, square_grid
from ._kept_graph import cut_graph

_BRIEF = 4  # crops that are done sooner with weights as they lie on the disk


class OnnxBackbone:
    """See `univfd.backbones.Backbone`. Any number of threads may call it."""

    def __init__(
        self, entry: Entry, taps: tuple[str, ...], threads: int, progress: Progress | None, engine: Engine = CPU
    ) -> None:
        self.entry = replace(entry, lossy=engine.lossy)
        self.taps = taps
        self.engine = engine.name
        self.parity: Parity | None = None
        self._engine = engine
        self._folder = ensure(entry, progress=progress)
        self._threads = threads
        self._packed = engine.provider != CPU.provider
        self._session = self._open(taps, packed=self._packed)
        self._seen, self._changing = 0, threading.Lock()
        self._patch_sessions: dict[int, onnxruntime.InferenceSession] = {}

    def _open(self, taps: tuple[str, ...], *, packed: bool = True) -> onnxruntime.InferenceSession:
        """A session. To pack weights for the CPU costs as much as a pass, and makes each pass a tenth faster."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        options.enable_mem_pattern = self._engine.name != "directml"  # which cannot work with it
        # Idle encoder threads that spin would take the CPU from the decoding threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
        try:
            session = self._start(taps, options)
        except FormatError:  # the graph is whole, and not made for these taps
            raise
        except Exception as error:
            # Protobuf and ONNX Runtime raise types of their own on a damaged file.
            if self._engine is not CPU:
                raise EngineError(f"engine {self.engine!r} does not start ({str(error)[:200]}). Take cpu") from error
            raise ChecksumError(
                f"the prepared graph of {self.entry.name} cannot be opened ({str(error)[:200]}). Run 'univfd models "
                f"verify {self.entry.folder or self.entry.name}'; if it fails, delete {self._folder} and fetch it again"
            ) from error
        if session.get_providers()[0] != self._engine.provider:  # ONNX Runtime turns to the CPU without an error
            raise EngineError(
                f"engine {self.engine!r} does not start: ONNX Runtime has {self._engine.provider}, but it found no "
                f"device or library for it. It needs: {self._engine.install}"
            )
        return session

    def _start(self, taps: tuple[str, ...], options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        graph = cut_graph(self._folder, taps, self.entry.prefix, self.entry.preprocess.size)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        return onnxruntime.InferenceSession(graph, options, providers=provider_list(self._engine, home() / "engines"))

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, D)` float32, see `univfd.backbones.Backbone.embed`."""
        check_crops(crops, self.entry)
        return self.embed_normalised(self.entry.preprocess.normalise(crops))

    def embed_normalised(self, inputs: FloatArray) -> FloatArray:
        """`(N, 3, S, S)` float32, already normalised -> `(N, D)` float32. For parity checks; else use `embed`."""
        outputs = self._session_for(len(inputs)).run(list(self.taps), {"pixels": inputs})
        return np.ascontiguousarray(np.concatenate(outputs, axis=1), dtype=np.float32)

    def _session_for(self, crops: int) -> onnxruntime.InferenceSession:
        """The session to take for so many further crops."""
        with self._changing:
            self._seen += crops
            if not self._packed and self._seen > _BRIEF:
                self._session, self._packed = self._open(self.taps), True
            return self._session

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, g, g, W)` float32, see `univfd.backbones.PatchBackbone.patch_tokens`.

        The graph that ends behind the block is opened at the first call and kept.
        """
        check_crops(crops, self.entry)
        self.entry.tap_dim(f"mean.{block}")
        if block not in self._patch_sessions:
            self._patch_sessions[block] = self._open((f"patches.{block}",))
        (tokens,) = self._patch_sessions[block].run(None, {"pixels": self.entry.preprocess.normalise(crops)})
        return square_grid(tokens, self.entry)


PLUGIN = OnnxBackbone
