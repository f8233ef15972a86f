"""Cut graphs are kept in the user cache, so that a start neither cuts again nor imports the library that does it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from ..downloads import home, sha256_of
from ..storage import new_contents
from ..types import digest_of
from ..weights import GRAPH

log = logging.getLogger(__name__)

CUTTING = ("_cut.py", "_first_token.py", "_one_query.py", "_held.py", "_reads.py")  # a change of these cuts anew
_DIGEST = hashlib.sha256().digest_size


def cut_graph(folder: Path, taps: tuple[str, ...], prefix: int) -> bytes:
    """What `univfd.backbones._cut.cut` makes of a prepared graph, from the user cache where it is there and whole.

    Args:
        folder: of the prepared graph; its weights stay there.
        taps: as in `univfd.backbones._cut.cut`.
        prefix: tokens before the patch tokens.
    """
    read = [folder / GRAPH, *(Path(__file__).with_name(name) for name in CUTTING)]
    key = {"read": [sha256_of(file) for file in read], "taps": taps, "prefix": prefix}
    place = home() / "graphs" / f"{digest_of(key)[:32]}.graph"
    if (kept := _read(place)) is None:
        from ._cut import cut

        kept = cut(folder / GRAPH, taps, prefix)
        _keep(place, kept)
    return kept


def _read(place: Path) -> bytes | None:
    """The graph; None where it is not there, or not as it was written."""
    try:
        stored = place.read_bytes()
    except OSError:
        return None
    digest, graph = stored[:_DIGEST], stored[_DIGEST:]
    return graph if hashlib.sha256(graph).digest() == digest else None


def _keep(place: Path, graph: bytes) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_contents(place) as scratch:
            scratch.write_bytes(hashlib.sha256(graph).digest() + graph)
    except OSError as error:  # a cache that is full or may only be read: the cutting is paid at each start
        log.info("the cut graph could not be kept in %s: %s", place.parent, error)
