"""Image towers of timm and OpenCLIP on PyTorch (extra `timm`), by the names that `_towers` explains."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..catalogue import Entry
from ..errors import FormatError, UsageError
from ..machine import DEVICES
from ..types import FloatArray, Pixels
from . import check_crops, square_grid
from ._towers import Tower, build

_alone = threading.Lock()  # hooks lie on the model itself, and PyTorch's settings are those of the process


class TorchBackbone:
    """See `univfd.backbones.Backbone`. The weights' digest in its entry is that of `digest`.

    Any number of threads may call it; one of them computes at a time.
    """

    def __init__(self, tower: Tower, taps: tuple[str, ...], threads: int, device: str) -> None:
        self.taps = taps
        self._tower = tower
        self._threads = threads
        self._device = device
        self._model = tower.model.float().eval().to(device)
        self.entry = self._described()
        for tap in taps:
            self.entry.tap_dim(tap)

    def _described(self) -> Entry:
        """What the tower gives, learnt from one blank crop."""
        tower, size = self._tower, self._tower.preprocess.size
        with self._quiet():
            blank = torch.zeros(1, 3, size, size).to(self._device)
            try:
                final, seen = self._forward(blank, set(range(len(tower.blocks))), final=True)
            except Exception as error:  # the model's own code says in its own way which sizes it takes
                said = str(error)[:300] or type(error).__name__
                raise UsageError(f"{tower.name} takes no crop of {size} x {size} pixels: {said}") from error
        if final.ndim != 2:
            raise FormatError(f"{tower.name} gives {tuple(final.shape)} for one crop; expected (1, D)")
        # Stages of other networks are called blocks too: only tokens of one shape can be tapped.
        shapes = {tuple(tokens.shape) for tokens in seen.values()}
        tokens = next(iter(shapes)) if len(shapes) == 1 and len(seen) == len(tower.blocks) else ()
        tapped = len(tokens) == 3 and tokens[0] == 1 and tokens[1] > tower.prefix
        return Entry(
            name=tower.name,
            title=f"{tower.name}, on PyTorch",
            engine="torch",
            recipe="",
            sha256=digest(tower.model),
            sources=(),
            licence="see its library",
            blocks=len(tower.blocks) if tapped else 0,
            width=tokens[2] if tapped else 0,
            prefix=tower.prefix if tower.has_cls else 0,  # registers alone make no tap `cls`
            proj=final.shape[1],
            preprocess=tower.preprocess,
            recipe_options={},
            reopen=tower.reopen,
        )

    def embed(self, crops: Pixels) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, D)` float32, see `univfd.backbones.Backbone.embed`."""
        check_crops(crops, self.entry)
        return self.embed_normalised(self.entry.preprocess.normalise(crops))

    def embed_normalised(self, inputs: FloatArray) -> FloatArray:
        """`(N, 3, S, S)` float32, already normalised -> `(N, D)` float32. For parity checks; else use `embed`."""
        parts = [tap.partition(".") for tap in self.taps]
        wanted = {int(number) - 1 for _, _, number in parts if number}
        with self._quiet():
            pixels = torch.from_numpy(inputs).to(self._device)
            final, seen = self._forward(pixels, wanted, final="proj" in self.taps)
            values = []
            for kind, _, number in parts:
                if kind == "proj":
                    values.append(final)
                elif kind == "cls":
                    values.append(seen[int(number) - 1][:, 0])
                else:
                    values.append(seen[int(number) - 1][:, self._tower.prefix :].mean(dim=1))
            out = torch.cat(values, dim=1).float().cpu().numpy()
        return np.ascontiguousarray(out, dtype=np.float32)

    def patch_tokens(self, crops: Pixels, block: int) -> FloatArray:
        """`(N, S, S, 3)` uint8 -> `(N, g, g, W)` float32, see `univfd.backbones.PatchBackbone.patch_tokens`."""
        check_crops(crops, self.entry)
        self.entry.tap_dim(f"mean.{block}")
        with self._quiet():
            pixels = torch.from_numpy(self.entry.preprocess.normalise(crops)).to(self._device)
            _, seen = self._forward(pixels, {block - 1}, final=False)
            tokens = seen[block - 1][:, self._tower.prefix :].float().cpu().numpy()
        return square_grid(tokens, self.entry)

    def _forward(self, pixels: Any, wanted: set[int], *, final: bool) -> tuple[Any, dict[int, Any]]:
        """The model's output (None where it is not needed) and the tokens `(N, T, W)` after the wanted blocks."""
        seen: dict[int, Any] = {}
        last = None if final else max(wanted)

        def keep(number: int) -> Any:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                tokens = output[0] if isinstance(output, tuple) else output
                seen[number] = tokens if self._tower.batch_first else tokens.transpose(0, 1)
                if number == last:
                    raise _EnoughError

            return hook

        hooks = [self._tower.blocks[i].register_forward_hook(keep(i)) for i in wanted]
        try:
            output = self._model(pixels)
        except _EnoughError:
            return None, seen
        finally:
            for hook in hooks:
                hook.remove()
        return output[0] if isinstance(output, tuple) else output, seen

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Alone; no gradients, float32 in full, this backbone's number of threads. Afterwards as the process had it."""
        with _alone:
            threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
            torch.set_num_threads(self._threads)
            torch.set_float32_matmul_precision("highest")
            try:
                with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                    yield
            finally:
                torch.set_num_threads(threads)
                torch.set_float32_matmul_precision(precision)


class _EnoughError(Exception):
    """Ends a forward pass after the last block that is needed."""


def digest(model: Any) -> str:
    """sha256 over the tensors of a model's state in the order of their names: name, type, shape, values."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().numpy()
        hashed.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        hashed.update(values.tobytes())
    return hashed.hexdigest()


def open_named(name: str, taps: tuple[str, ...], threads: int, device: str | None) -> TorchBackbone:
    """The engine.

    Args:
        name: see `_towers`.
        taps: as in `univfd.backbones.open_backbone`.
        threads: for the encoder.
        device: `cpu`, `cuda` or `auto` (a GPU where there is one); default: `UNIVFD_DEVICE`, else `auto`.

    Raises:
        UsageError: no such device.
    """
    chosen = device or os.environ.get("UNIVFD_DEVICE") or "auto"
    if chosen not in DEVICES:
        raise UsageError(f"device {chosen!r}; expected one of {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if chosen == "cuda" and not there:
        raise UsageError("device 'cuda': PyTorch finds no GPU here; take cpu or auto")
    if chosen == "auto":
        chosen = "cuda" if there else "cpu"
    return TorchBackbone(build(name), taps, threads, chosen)


PLUGIN = open_named
