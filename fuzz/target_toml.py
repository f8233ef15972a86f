"""TOML of strangers: a suite of their own, and the entry of an encoder."""

from __future__ import annotations

from harness import file_of, refused
from univfd.catalogue import entry
from univfd.suites import open_suite

_SUITE = b"""name = "x"
title = "X"
url = "u"
get = "g"
root = "r"
[[subset]]
name = "a"
real = "a/0_real"
fake = ["a/*/1_fake"]
count = { real = 1, fake = 1 }
[[archive]]
file = "a.zip"
md5 = "0"
"""
_ENTRY = b"""name = "x"
title = "X"
engine = "onnx"
recipe = "onnx-as-is"
sha256 = "0"
licence = "MIT"
blocks = 1
width = 4
prefix = 1
proj = 4
[preprocess]
size = 8
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
interpolation = "bicubic"
[[source]]
kind = "folder"
path = "encoder.onnx"
[recipe_options]
block = "b{i}"
"""


def seeds() -> list[bytes]:
    """One of each."""
    return [_SUITE, _ENTRY, _ENTRY.replace(b'"folder"\npath', b'"hub"\nrepo = "a/b"\nrevision = "0"\nbytes = 1\nfile')]


def one(data: bytes) -> None:
    """Read it as each."""
    with refused():
        suite = open_suite(file_of(data, "suite.toml"))
        suite.chosen([])
        suite.check(file_of(b"", "root/x").parent)
    place = file_of(data, "encoder/backbone.toml").parent
    with refused():
        described = entry(place)
        assert described.preparation
        for tap in ("proj", "cls.1", "mean.1"):
            with refused():
                described.tap_dim(tap)
        described.preprocess.digest("x")
