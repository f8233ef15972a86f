from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from univfd.backbones import Backbone, open_backbone
from univfd.bank import FeatureBank
from univfd.building import assemble, build_bank
from univfd.detector import Detector, load
from univfd.embedding import space_of
from univfd.types import Embeddings, FeatureSpace, ImageRef, Label, Sample
from univfd.views import view

SPACE = FeatureSpace("toy", "", ("proj",), "native", "0" * 16, 8)


@pytest.fixture(scope="session")
def clip() -> Backbone:
    """The real encoder with its projected embedding and block 8."""
    return open_backbone("clip-vit-b-16", taps=("proj", "cls.8", "mean.8"))


@pytest.fixture(scope="session")
def default() -> Detector:
    return load()


@pytest.fixture(scope="session")
def toy() -> Backbone:
    return open_backbone("toy")


def picture(seed: int, width: int = 320, height: int = 256) -> np.ndarray:
    """A smooth random picture with some texture, RGB uint8: survives JPEG, differs by seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def toy_samples() -> list[Sample]:
    """24 reals of 6 sources (smooth), 24 fakes of 4 generators (with a visible grid)."""
    samples = []
    for i in range(48):
        fake = i % 2 == 1
        pixels = picture(i, 240, 240)
        if fake:
            pixels[::2, ::2] = 255 - pixels[::2, ::2] // 2
        origin = f"g{(i // 2) % 4}" if fake else f"s{(i // 2) % 6}"
        ref = ImageRef(f"{i}.png", encoded(pixels, "PNG"))
        samples.append(Sample(ref, Label(fake), origin if fake else "", origin, licence="CC0"))
    return samples


@pytest.fixture(scope="session")
def toy_detector(toy: Backbone) -> Detector:
    """A working detector that needs no weights: it finds the grid."""
    cut = view("native")
    built = build_bank(toy, cut, toy_samples(), added="2026-01-01")
    return assemble("toy", toy, cut, built.bank, "linear", {})


@pytest.fixture(scope="session")
def toy_folder(toy_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder."""
    folder = tmp_path_factory.mktemp("detectors") / "toy"
    toy_detector.save(folder)
    return folder


def random_bank(n: int, seed: int = 0, dim: int = 8) -> FeatureBank:
    rng = np.random.default_rng(seed)
    space = FeatureSpace("toy", "", ("proj",), "native", "0" * 16, dim)
    keys = [rng.bytes(32).hex() for _ in range(n)]
    labels = np.arange(n) % 2
    return FeatureBank.from_rows(
        Embeddings(rng.standard_normal((n, dim)).astype(np.float32), space),
        labels.astype(np.uint8),
        keys,
        generator=[f"gen{i % 3}" if i % 2 else "" for i in range(n)],
        source=[f"src{i % 5}" for i in range(n)],
        licence="CC0",
        added="2026-01-01",
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(picture(0), quality=90))
    return path


Handler = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def loopback() -> Iterator[Callable[[Handler], str]]:
    """Start a small HTTP server on loopback from a function that answers GET and HEAD; gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Handler) -> str:
        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()


__all__ = ["SPACE", "encoded", "picture", "random_bank", "space_of", "toy_samples"]


PEAK_MEMORY = """
import re, resource, sys
from pathlib import Path

def peak_kib():
    status = Path("/proc/self/status")  # the system call begins with the peak of the process that started this one
    if status.exists():
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
"""
"""For programs of a process of their own: the most memory that they took."""
