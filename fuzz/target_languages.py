"""Small languages of options: perturbations, views, taps, names of plug-ins, addresses of stores, settings."""

from __future__ import annotations

import re

import numpy as np

from harness import refused
from univfd import registry
from univfd.backbones import open_backbone
from univfd.cli._shared import settings
from univfd.distributed.urls import display_url, is_url, local_path, split_url
from univfd.perturbations import perturbation
from univfd.sources import display_name
from univfd.store.naming import locate
from univfd.types import Label
from univfd.views import PreprocessSpec, view
from univfd.writers import printable

_SPEC = PreprocessSpec(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def seeds() -> list[bytes]:
    """Words of each."""
    return [
        b"limit:768+jpeg:60", b"blur:1.5+noise:4+scale:0.5", b"square:64+webp:80", b"reencode:1+augment:2", b"clean",
        b"grid-3", b"five", b"cls.8", b"ridge", b"s3://bucket/store@tag", b"./store@7", b"k=9", b"a=[1, 2]", b"real",
        b"s3://bucket/a%41#b?region=x", b"zip://a.png::file:///b.zip", b"sftp://me:word@host:22/x", b"file:///a b",
    ]  # fmt: skip


def one(data: bytes) -> None:
    """Read it as a word of each."""
    text = data.decode("utf-8", "surrogateescape")
    printable(display_name(text)).encode()
    with refused():
        perturb = perturbation(text, seed=1)
        if _is_little_work(text):
            perturb(_PIXELS)
    with refused():
        view(text).cut(_PIXELS, _SPEC)
    with refused():
        open_backbone("toy", taps=text.split("+"))
    for kind in ("classifiers", "writers", "index"):
        with refused():
            registry.load(kind, text)
    with refused():
        Label.parse(text)
    with refused():
        settings((text,))
    if "\0" not in text:
        locate(text)
    with refused():
        if is_url(text):
            display_url(text, "", split_url(text).path)
            local_path(text)


def _is_little_work(chain: str) -> bool:
    """Whether it is about parsing: millions of pixels that are stored ten times take long, as asked for."""
    return len(chain) < 80 and chain.count("scale") < 2 and not re.search(r"\d{3}|[eE]\d", chain)
