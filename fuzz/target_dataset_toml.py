"""`dataset.toml`, which says what the folders of a data set are."""

from __future__ import annotations

from harness import file_of, folder, pictures, refused
from univfd.datasets import open_dataset


def seeds() -> list[bytes]:
    """One that fits the folders, and one that does not."""
    return [b'real = ["coco"]\n[family]\nprogan = "gan"\n', b'generator = "x"\nsource = "y"\n', b'real = ["nothing"]\n']


def one(data: bytes) -> None:
    """Read a folder with two classes beside it."""
    for name in ("coco/a.png", "progan/b.png"):
        if not (folder() / "set" / name).exists():
            file_of(pictures()["PNG"], f"set/{name}")
    file_of(data, "set/dataset.toml")
    with refused():
        for sample in open_dataset(folder() / "set"):
            assert isinstance(sample.source, str)
