"""Tables of labelled images as JSON Lines and CSV, and the values beside images of a WebDataset shard."""

from __future__ import annotations

from harness import file_of, refused
from univfd.datasets import open_dataset


def seeds() -> list[bytes]:
    """Both formats."""
    return [
        b'{"file": "a.jpg", "label": "fake", "generator": "g", "license": "CC0"}\n{"file": "b", "label": 0}\n',
        b"file,label,generator,split\na.jpg,fake,g,test\nb.jpg,0,,train\n",
        b'\xef\xbb\xbffile,label\n"a\nb",real\n',
    ]


def one(data: bytes) -> None:
    """Read it as either."""
    for name in ("x.jsonl", "x.csv"):
        with refused():
            for sample in open_dataset(file_of(data, name)):
                assert isinstance(sample.generator, str)
                sample.ref.name.encode()
