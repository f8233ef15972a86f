"""A folder of embeddings: `embeddings.json`, `vectors.npy` `(N, D)` float32 and `rows.jsonl`, one line an input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .backbones import Backbone
from .embedding import Batch, Loaded, space_of
from .errors import FormatError
from .storage import new_folder, read_json, within, write_json
from .types import Embeddings, FeatureSpace
from .views import View

KIND, SCHEMA = "embeddings", 1
MANIFEST, VECTORS, ROWS = "embeddings.json", "vectors.npy", "rows.jsonl"


def write_embeddings(
    folder: Path,
    backbone: Backbone,
    view: View,
    batches: Iterable[Batch],
    *,
    perturb: str,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Write batches as they come, in memory that does not grow.

    Args:
        folder: must not exist; it appears when everything is written.
        backbone: the encoder.
        view: the view.
        batches: from `univfd.embedding.embed_images`.
        perturb: recorded in the manifest.
        on_done: called after each batch with the number of inputs in it.

    Returns:
        Number of embeddings and of failures.
    """
    space = space_of(backbone, view)
    done = failed = 0
    with new_folder(folder) as scratch:
        with (scratch / VECTORS).open("wb") as vectors, (scratch / ROWS).open("w", encoding="utf-8") as rows:
            _header(vectors, 0, space.dim)
            for batch in batches:
                vectors.write(batch.embeddings.vectors.tobytes())
                for item in batch.items:
                    if isinstance(item, Loaded):
                        row: dict[str, Any] = {"image": item.name, "row": done, "sha256": item.sha256}
                        row |= {"width": item.width, "height": item.height, "notes": [n.text for n in item.notes]}
                        done += 1
                    else:
                        row = item.to_dict()
                        failed += 1
                    rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                on_done(len(batch.items))
            vectors.seek(0)
            _header(vectors, done, space.dim)
        write_json(scratch / MANIFEST, KIND, SCHEMA, {"rows": done, "space": space.to_dict(), "perturb": perturb})
    return done, failed


def read_embeddings(folder: Path) -> Embeddings:
    """The vectors of a folder that `univfd embed` wrote, mapped into memory: `(N, D)` float32, and their space.

    Row i is of the line of `rows.jsonl` with `"row": i`; lines of failures have none.

    Args:
        folder: of `univfd embed -o`.

    Raises:
        FormatError: not such a folder, or damaged.
    """
    manifest = read_json(folder / MANIFEST, KIND, SCHEMA)
    try:
        vectors = np.load(within(folder / VECTORS), mmap_mode="r", allow_pickle=False)
        if vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
            raise FormatError(f"{folder / VECTORS} is {vectors.dtype}; expected float32 rows")
        return Embeddings(vectors, FeatureSpace.from_dict(manifest["space"]))
    except FormatError:
        raise
    except Exception as error:  # numpy lets out what Python's own parser raises on the text of a damaged header
        raise FormatError(f"{folder} cannot be read as embeddings: {error}") from error


def _header(file: Any, n: int, dim: int) -> None:
    # numpy pads this header so that the first axis can grow in place: the final count overwrites the first.
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
    np.lib.format.write_array_header_1_0(file, header)
