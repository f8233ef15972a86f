"""The published networks' files, without PyTorch: read by hand-made pickles, imported, refused."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from test_classifiers import PICKLED
from univfd.backbones import open_backbone
from univfd.catalogue import ENTRY_FILE, Entry, entry, to_toml
from univfd.cli import group
from univfd.cnndetection import import_cnndetection
from univfd.detector import load
from univfd.errors import FormatError, OutputExistsError
from univfd.storage import write_arrays
from univfd.torchfile import read_tensors
from univfd.types import Verdict
from univfd.views import PreprocessSpec


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def state_dict(arrays: dict[str, np.ndarray]) -> bytes:
    """The opcodes of an ordered dictionary of tensors, one storage each, as `torch.save` writes it."""
    out = b"ccollections\nOrderedDict\n)R("
    for key, values in arrays.items():
        strides = tuple(s // values.itemsize for s in values.strides)
        kind = b"ctorch\nFloatStorage\n" if values.dtype == np.float32 else b"ctorch\nLongStorage\n"
        storage = b"(" + text("storage") + kind + text(key) + text("cuda:0") + number(values.size) + b"tQ"
        out += text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + numbers(values.shape)
        out += numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return out + b"u"


def published(path: Path, arrays: dict[str, np.ndarray], key: str = "model") -> Path:
    pickled = b"\x80\x02}(" + text(key) + state_dict(arrays) + text("total_steps") + number(7) + b"u."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for name, values in arrays.items():
            archive.writestr(f"net/data/{name}", values.tobytes())
    return path


def network(seed: int = 0) -> dict[str, np.ndarray]:
    """A ResNet of four bottleneck blocks, 2048 values, with random weights, and its last layer."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (2 / (inputs * kernel * kernel)) ** 0.5
        arrays[f"{name}.weight"] = rng.normal(0, spread, (outputs, inputs, kernel, kernel)).astype(np.float32)
        for part, low, high in (
            ("weight", 0.5, 1),
            ("bias", -0.2, 0.2),
            ("running_mean", -1, 1),
            ("running_var", 0.5, 2),
        ):
            arrays[f"{norm}.{part}"] = rng.uniform(low, high, outputs).astype(np.float32)
        arrays[f"{norm}.num_batches_tracked"] = np.array(9)

    conv("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        at = f"layer{stage}.0"
        conv(f"{at}.conv1", f"{at}.bn1", width, inputs, 1)
        conv(f"{at}.conv2", f"{at}.bn2", width, width, 3)
        conv(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1)
        conv(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, inputs, 1)
        inputs = 4 * width
    arrays["fc.weight"] = rng.normal(0, 0.02, (1, 2048)).astype(np.float32)
    arrays["fc.bias"] = np.array([0.125], np.float32)
    return arrays


def test_a_published_network_becomes_a_detector(tmp_path: Path) -> None:
    arrays = network()
    import_cnndetection(published(tmp_path / "blur_jpg.pth", arrays), tmp_path / "made")
    made = load(tmp_path / "made")
    (verdict,) = made.detect(picture(0))
    assert isinstance(verdict, Verdict)
    assert made.name.startswith("cnndetection-")
    assert made.backbone.entry.folder == tmp_path / "made" / "backbone"
    crop = picture(0)[16:240, 48:272]
    feature = made.backbone.embed(crop[None])[0].astype(np.float64)
    assert np.ptp(feature) > 0.1
    assert verdict.score == pytest.approx(feature @ arrays["fc.weight"][0].astype(np.float64) + 0.125, abs=1e-6)
    assert verdict.probability is None
    with pytest.raises(OutputExistsError):
        import_cnndetection(tmp_path / "blur_jpg.pth", tmp_path / "made")


def test_the_command(tmp_path: Path) -> None:
    file = published(tmp_path / "blur_jpg.pth", network())
    arguments = ["detectors", "import-cnndetection", str(file), "-o", str(tmp_path / "made")]
    group.main(arguments, standalone_mode=False)
    assert load(tmp_path / "made").space.view == "native"


def without(name: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in network().items() if k != name}


@pytest.mark.parametrize(
    ("arrays", "key", "message"),
    [
        (without("fc.bias"), "model", "the last layer of a ResNet-50"),
        (network() | {"fc.weight": np.zeros((1000, 2048), np.float32)}, "model", r"\(1000, 2048\)"),
        (without("layer3.0.bn2.running_var"), "model", r"layer3\.0\.bn2\.running_var has shape None"),
        (without("layer2.0.downsample.0.weight"), "model", r"layer2\.0 adds 256 channels to 512"),
        (network() | {"layer5.0.conv1.weight": np.zeros(4, np.float32)}, "model", "has no place in a ResNet"),
        (network() | {"conv1.weight": np.zeros((64, 4, 7, 7), np.float32)}, "model", r"expected \(None, 3, 7, 7\)"),
        (network(), "net", "has no entry 'model'"),
    ],
)  # fmt: skip
def test_other_files_are_refused(arrays: dict[str, np.ndarray], key: str, message: str, tmp_path: Path) -> None:
    file = published(tmp_path / "x.pth", arrays, key)
    with pytest.raises(FormatError, match=message):
        import_cnndetection(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def older(path: Path, body: bytes, storages: dict[str, np.ndarray]) -> Path:
    """The format of before PyTorch 1.6: a stream of pickles, then each storage with its length."""
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [body, pickle.dumps(list(storages), 2)]
    for values in storages.values():
        parts += [struct.pack("<q", values.size), values.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


STORAGES = {"1": np.array([0.25], "<f4"), "0": np.array([1, -2, 3, 0.5], "<f4")}


@pytest.mark.parametrize("pickled", [PICKLED, PICKLED.replace(b"K\x04tQ", b"K\x04NtQ")], ids=["5 fields", "6 fields"])
def test_the_older_format_is_read(pickled: bytes, tmp_path: Path) -> None:
    tensors = read_tensors(older(tmp_path / "old.pth", pickled, STORAGES))
    assert tensors["weight"].tolist() == [[1, -2, 3, 0.5]]
    assert tensors["bias"].tolist() == [0.25]


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    """The optimiser's storages of a nested file: skipped in the older format, left in the zip in the newer."""
    inner = state_dict({"w": np.zeros(2, np.float32)})
    nested = (
        b"\x80\x02}(" + text("optimizer") + state_dict({"m": np.zeros(3, np.float32)}) + text("model") + inner + b"u."
    )
    storages = {"m": np.ones(3, np.float32), "w": np.array([5, 6], np.float32)}
    assert list(read_tensors(older(tmp_path / "old.pth", nested, storages), key="model")) == ["w"]
    assert read_tensors(tmp_path / "old.pth", key="model")["w"].tolist() == [5, 6]
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        archive.writestr("net/data.pkl", nested)
        archive.writestr("net/data/w", storages["w"].tobytes())
    assert read_tensors(tmp_path / "new.pth", key="model")["w"].tolist() == [5, 6]


@pytest.mark.parametrize("cut", [1, 20, 60, 150, 300, 330])
def test_a_file_that_was_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    whole = older(tmp_path / "old.pth", PICKLED, STORAGES).read_bytes()
    assert cut < len(whole)
    (tmp_path / "cut.pth").write_bytes(whole[:cut])
    with pytest.raises(FormatError):
        read_tensors(tmp_path / "cut.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize("place", [0, 3])
def test_the_older_format_runs_nothing(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}, {})]
    parts[place] = pickle.dumps(Evil(), 2)
    (tmp_path / "evil.pth").write_bytes(b"".join(parts))
    with pytest.raises(FormatError, match="not allowed"):
        read_tensors(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_an_entry_comes_back_from_its_text(tmp_path: Path) -> None:
    spec = PreprocessSpec(96, (0.1, 0.25, 1 / 3), (0.2, 0.3, 0.4), "bilinear")
    options = {"heads": 4, "patch": 14, "activation": "quick_gelu"}
    title = 'a "title"\n\\ \U0001f600'
    made = Entry("näme", title, "onnx", "clip-safetensors", "ab" * 32, (), "mine", 3, 32, 1, 24, spec, options)
    (tmp_path / ENTRY_FILE).write_text(to_toml(made, "weights.safetensors"), "utf-8")
    read = entry(tmp_path)
    for name in Entry.__slots__:
        if name not in {"sources", "folder"}:
            assert getattr(read, name) == getattr(made, name), name
    assert read.sources[0].path == tmp_path / "weights.safetensors"  # type: ignore[union-attr]


def test_a_network_of_another_width_than_stated_is_refused(tmp_path: Path) -> None:
    arrays = {k: v for k, v in network().items() if v.dtype == np.float32}
    write_arrays(tmp_path / "weights.safetensors", arrays)
    spec = PreprocessSpec(224, (0.5,) * 3, (0.5,) * 3)
    for proj, options, message in ((512, {}, "gives 2048 values"), (2048, {"heads": 2}, "unknown recipe_options")):
        made = Entry("x", "x", "onnx", "resnet-safetensors", "", (), "", 0, 0, 0, proj, spec, options)
        (tmp_path / ENTRY_FILE).write_text(to_toml(made, "weights.safetensors"), "utf-8")
        with pytest.raises(FormatError, match=message):
            open_backbone(tmp_path)
