"""Folders of real and fake images: `0_real/1_fake` (ForenSynths, UniversalFakeDetect), `real/fake`, `nature/ai`.

The rule: the label is that of the *deepest* folder on the way to the image whose whole name is one of the label
names. The generator (of fakes) or source (of reals) is the folder right below it, or, where the images lie directly
in it, the folder right above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..sources import expand
from ..types import ImageRef, Label, Sample

LABELS = {"0_real": Label.REAL, "real": Label.REAL, "nature": Label.REAL,
          "1_fake": Label.FAKE, "fake": Label.FAKE, "ai": Label.FAKE}  # fmt: skip


def read_folder(path: Path) -> Iterator[Sample]:
    """Samples of a tree, sorted by path.

    Raises:
        DataError: an image under no label folder, or nothing at all.
    """
    found = False
    for ref in expand(path):
        if not isinstance(ref, ImageRef) or not isinstance(ref.source, Path):
            raise DataError(f"{ref} cannot be read as part of a labelled folder; mend or remove it")
        yield _sample(path, ref, ref.source)
        found = True
    if not found:
        raise DataError(f"{path} holds no images")


def _sample(root: Path, ref: ImageRef, file: Path) -> Sample:
    parents = file.relative_to(root).parts[:-1]
    depths = [i for i, part in enumerate(parents) if part.lower() in LABELS]
    if not depths:
        raise DataError(f"{file} lies in no label folder; expected one named {', '.join(LABELS)} on the way to it")
    at = depths[-1]
    label = LABELS[parents[at].lower()]
    below, above = parents[at + 1 : at + 2], parents[max(0, at - 1) : at]
    name = (below or above or (root.name,))[0]
    return Sample(ref, label, generator=name if label is Label.FAKE else "", source=name)


PLUGIN = read_folder
