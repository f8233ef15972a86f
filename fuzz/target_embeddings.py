"""A folder of embeddings: manifest and an array file of numpy's."""

from __future__ import annotations

import io
import json

import numpy as np

from harness import MARK, file_of, parts, refused
from target_bank import SPACE
from univfd.embeddings_file import read_embeddings


def seeds() -> list[bytes]:
    """A whole one, and one whose array holds objects."""
    found = []
    for array in (np.ones((2, 4), np.float32), np.array([None, {}], object)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        manifest = {"kind": "embeddings", "schema": 1, "rows": 2, "space": SPACE, "perturb": "clean"}
        found.append(json.dumps(manifest).encode() + MARK + buffer.getvalue())
    return found


def one(data: bytes) -> None:
    """Map it and read a row."""
    manifest, vectors = parts(data, 2)
    file_of(vectors, "embeddings/vectors.npy")
    place = file_of(manifest, "embeddings/embeddings.json").parent
    with refused():
        read = read_embeddings(place)
        if len(read):
            read.vectors[0].sum()
