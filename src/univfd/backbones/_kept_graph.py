"""Cut graphs are kept in the user cache, so that a start neither cuts nor compares again, nor imports what cuts."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..downloads import home, sha256_of
from ..storage import new_contents
from ..types import FloatArray, digest_of
from ..weights import GRAPH

log = logging.getLogger(__name__)

CUTTING = (
    "_kept_graph.py",
    "_cut.py",
    "_first_token.py",
    "_one_query.py",
    "_held.py",
    "_units.py",
    "_reads.py",
)  # a change of these cuts anew
QUANTISING = ("int8.py", "_eight_bits.py")  # a change of these makes graphs of integers anew
_SAME = 1e-4  # of the largest value: rounding stays far below
_DIGEST = hashlib.sha256().digest_size


def cut_graph(folder: Path, taps: tuple[str, ...], prefix: int, size: int) -> bytes:
    """What `univfd.backbones._cut.cut` makes of a prepared graph, from the user cache where it is there and whole.

    Args:
        folder: of the prepared graph; its weights stay there.
        taps: as in `univfd.backbones._cut.cut`.
        prefix: tokens before the patch tokens.
        size: pixels of a side that the encoder takes; the file may leave it open.

    Raises:
        FormatError: see `univfd.backbones._cut.cut`.
    """
    read = [folder / GRAPH, *(Path(__file__).with_name(name) for name in CUTTING)]
    key = {"read": [sha256_of(file) for file in read], "taps": taps, "prefix": prefix}
    place = home() / "graphs" / f"{digest_of(key)[:32]}.graph"
    if (kept := _read(place)) is None:
        kept = _checked(folder, taps, prefix, size)
        _keep(place, kept)
    return kept


def _checked(folder: Path, taps: tuple[str, ...], prefix: int, size: int) -> bytes:
    """The graph, narrowed to the class token where that gives the same: who wrote it may have meant other things."""
    from ._cut import cut

    narrowed, whole = (cut(folder / GRAPH, taps, prefix, narrow=narrow) for narrow in (True, False))
    if narrowed == whole:
        return whole
    expected = _of_two_crops(whole, folder, taps, size)
    try:
        got = _of_two_crops(narrowed, folder, taps, size)
        same = np.abs(got - expected).max() <= _SAME * np.abs(expected).max()
    except Exception as error:  # ONNX Runtime raises types of its own
        log.info("narrowed to the class token, the graph fails: %s", error)
        same = False
    if not same:
        log.warning("the class token cannot be computed alone in the graph of %s: all tokens are computed", folder.name)
    return narrowed if same else whole


def _of_two_crops(graph: bytes, folder: Path, taps: tuple[str, ...], size: int) -> FloatArray:
    """`(2, D)`: what the taps give for noise."""
    session = brief_session(graph, folder)
    noise = np.random.default_rng(0).standard_normal((2, 3, size, size), dtype=np.float32)
    outputs = session.run(list(dict.fromkeys(taps)), {"pixels": noise})
    return np.concatenate([o.reshape(2, -1) for o in outputs], axis=1)


def brief_session(graph: bytes, folder: Path) -> Any:
    """A session of ONNX Runtime on the CPU for a pass or two: weights are not packed, which costs as much as a pass."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _read(place: Path) -> bytes | None:
    """The graph; None where it is not there, or not as it was written."""
    try:
        with place.open("rb") as file:
            digest, graph = file.read(_DIGEST), file.read()
    except OSError:
        return None
    return graph if hashlib.sha256(graph).digest() == digest else None


def _keep(place: Path, graph: bytes) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_contents(place) as scratch, scratch.open("wb") as file:
            file.write(hashlib.sha256(graph).digest())
            file.write(graph)
    except OSError as error:  # a cache that is full or may only be read: the cutting is paid at each start
        log.info("the cut graph could not be kept in %s: %s", place.parent, error)
