"""The engine `torch` on networks made here; against timm and OpenCLIP themselves: `tests/by_hand`."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from conftest import picture, toy_samples
from univfd import registry
from univfd.backbones import PatchBackbone, feature_space, open_backbone
from univfd.backbones._towers import Tower
from univfd.backbones.torch import TorchBackbone, digest
from univfd.building import assemble, build_bank
from univfd.detector import load
from univfd.errors import (
    DownloadError,
    FeatureSpaceError,
    FormatError,
    OfflineError,
    UnknownNameError,
    UsageError,
)
from univfd.training.networks import build
from univfd.views import PreprocessSpec, view

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SPEC = PreprocessSpec(32, MEAN, STD)
TAPS = ("mean.2", "proj", "cls.3", "cls.1")


class Block(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=batch_first)
        self.linear = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.linear(self.attention(x, x, x)[0]))


class Tiny(nn.Module):
    """A vision transformer of three blocks; its class token stands before one register."""

    def __init__(self, cls: bool = True, batch_first: bool = True, classes: int = 5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 12)) if cls else None
        self.register = nn.Parameter(torch.randn(1, 1, 12))
        self.num_prefix_tokens = 1 + cls
        self.batch_first = batch_first
        self.blocks = nn.ModuleList(Block(batch_first) for _ in range(3))
        self.head = nn.Linear(12, classes) if classes else nn.Identity()

    def begin(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.register) if t is not None]
        tokens = torch.cat([*prefix, tokens], 1)
        return tokens if self.batch_first else tokens.transpose(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.begin(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head((tokens if self.batch_first else tokens.transpose(0, 1))[:, 0])


class Convolutions(nn.Module):
    """Its blocks are stages: maps, not tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class Windows(Convolutions):
    """Its blocks see four windows of a picture as four rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(True), Block(True)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        windows = x[:, :, :16, :8].reshape(-1, 8, 12)
        for block in self.blocks:
            windows = block(windows)
        return windows.reshape(len(x), -1, 12).mean(1)


def seeded(seed: int = 0, **options: bool | int) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(**options).eval()  # type: ignore[arg-type]


def opened(model: nn.Module, *taps: str, threads: int = 1) -> TorchBackbone:
    prefix, cls = getattr(model, "num_prefix_tokens", 0), getattr(model, "cls_token", None) is not None
    tower = Tower("made:here", "", model, tuple(model.blocks), prefix, cls, getattr(model, "batch_first", True), SPEC)
    return TorchBackbone(tower, taps or ("proj",), threads, "cpu")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.stack([picture(i, 32, 32) for i in range(4)])


@pytest.mark.parametrize("batch_first", [True, False])
def test_taps_are_what_the_network_computes(crops: np.ndarray, batch_first: bool) -> None:
    model = seeded(batch_first=batch_first)
    after, x = {}, torch.from_numpy(((crops / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        tokens = model.begin(x)
        for i, block in enumerate(model.blocks, 1):
            tokens = block(tokens)
            after[i] = tokens if batch_first else tokens.transpose(0, 1)
        wanted = torch.cat([after[2][:, 2:].mean(1), model(x), after[3][:, 0], after[1][:, 0]], 1).numpy()
    got = opened(model, *TAPS).embed(crops)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_row_depends_on_its_crop_alone(crops: np.ndarray) -> None:
    backbone = opened(seeded(), *TAPS)
    single = np.concatenate([backbone.embed(crops[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(backbone.embed(crops), single, atol=1e-6)
    assert np.ptp(single, axis=0).min() > 1e-4  # and on its crop


@pytest.mark.parametrize("batch_first", [True, False])
def test_patches_lie_as_in_the_picture(crops: np.ndarray, batch_first: bool) -> None:
    backbone = opened(seeded(batch_first=batch_first), "mean.2")
    assert isinstance(backbone, PatchBackbone)
    patches = backbone.patch_tokens(crops, 2)
    assert patches.shape == (4, 4, 4, 12)
    np.testing.assert_allclose(patches.mean(axis=(1, 2)), backbone.embed(crops), atol=1e-6)
    changed = crops.copy()
    changed[:, :8, 24:] = 255 - changed[:, :8, 24:]  # the last cell of the first row
    moved = np.abs(backbone.patch_tokens(changed, 1) - backbone.patch_tokens(crops, 1)).sum(axis=(0, 3))
    assert np.unravel_index(moved.argmax(), moved.shape) == (0, 3)
    with pytest.raises(UnknownNameError, match=r"mean\.4"):
        backbone.patch_tokens(crops, 4)


def test_what_can_be_tapped() -> None:
    assert opened(seeded()).entry.taps == ("proj", "cls.1", "mean.1", "cls.2", "mean.2", "cls.3", "mean.3")
    assert opened(seeded(cls=False)).entry.taps == ("proj", "mean.1", "mean.2", "mean.3")
    assert opened(Convolutions()).entry.taps == ("proj",)
    assert opened(Windows()).entry.taps == ("proj",)
    with pytest.raises(UnknownNameError, match=r"no tap .* 'cls\.1'"):
        opened(seeded(cls=False), "cls.1")


def test_a_network_that_gives_no_vector_is_refused() -> None:
    class Maps(Convolutions):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[0](x)

    with pytest.raises(FormatError, match=r"gives \(1, 8, 15, 15\) for one crop; expected \(1, D\)"):
        opened(Maps())


def test_blocks_after_the_last_tap_are_not_computed(crops: np.ndarray) -> None:
    model, ran = seeded(), []
    backbone = opened(model, "cls.1", "mean.2")
    for i, block in enumerate(model.blocks, 1):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    backbone.embed(crops[:1])
    assert ran == [1, 2]


def test_the_process_keeps_its_own_settings(crops: np.ndarray) -> None:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    model, during = seeded(), []
    backbone = opened(model, threads=threads + 1)
    model.register_forward_pre_hook(
        lambda *_: during.append((torch.get_num_threads(), torch.get_float32_matmul_precision()))
    )
    torch.set_float32_matmul_precision("medium")
    try:
        backbone.embed(crops[:1])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert (during, torch.get_num_threads()) == ([(threads + 1, "highest")], threads)


def test_several_threads_get_what_one_gets(crops: np.ndarray) -> None:
    backbone = opened(seeded(), "mean.2", threads=2)
    wanted = [backbone.embed(crops[i : i + 1]) for i in range(4)]
    patches = [backbone.patch_tokens(crops[i : i + 1], 1) for i in range(4)]

    def work(turn: int) -> bool:
        i = turn % 4
        if turn % 3:
            return bool(np.allclose(backbone.embed(crops[i : i + 1]), wanted[i], atol=1e-6))
        return bool(np.allclose(backbone.patch_tokens(crops[i : i + 1], 1), patches[i], atol=1e-6))

    before, often = torch.get_num_threads(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(120)))
    finally:
        sys.setswitchinterval(often)
    assert torch.get_num_threads() == before


def test_crops_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 32, 32, 3\) uint8"):
        opened(seeded()).embed(np.zeros((1, 33, 32, 3), np.uint8))


def test_the_digest_is_of_every_tensor() -> None:
    model = seeded()
    before = digest(model)
    assert before == digest(seeded())
    with torch.no_grad():
        model.blocks[1].linear.bias[3] += 1e-3
    assert digest(model) != before


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands where timm would be imported, with one model, `tiny`, whose weights cannot be fetched."""

    def create_model(name: str, pretrained: bool, num_classes: int, **options: int) -> Tiny:
        if pretrained:
            raise ConnectionError("no route")
        model = Tiny(classes=num_classes, **options)  # type: ignore[arg-type]
        model.pretrained_cfg = {"tag": "v1"}
        return model

    timm = ModuleType("timm")
    timm.__spec__ = ModuleSpec("timm", None)
    timm.create_model = create_model
    timm.list_models = lambda pattern="*", pretrained=False: ["tiny.v1"] if pretrained else ["tiny"]
    config = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    timm.data = SimpleNamespace(resolve_model_data_config=lambda model: config)
    timm.models = SimpleNamespace(model_entrypoint=lambda name: create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    return timm


@pytest.mark.usefixtures("library")
def test_a_checkpoint_of_this_machine(tmp_path: Path, crops: np.ndarray) -> None:
    """It is known by its weights and its file's name; a detector finds it again, and notices other weights."""
    file, model = tmp_path / "w.safetensors", seeded(7, classes=0)
    save_file(model.state_dict(), str(file))
    backbone = open_backbone(f"timm:tiny:{file}", taps=("proj", "cls.2"), device="cpu")
    assert backbone.entry.name == "timm:tiny:w.safetensors"
    np.testing.assert_array_equal(backbone.embed(crops), opened(model, "proj", "cls.2").embed(crops))

    bank = build_bank(backbone, view("native"), toy_samples()[:8], added="2026-01-01").bank
    assemble("mine", backbone, view("native"), bank, "knn", {"k": 1}).save(tmp_path / "saved")
    again = load(tmp_path / "saved").backbone
    assert (again.entry, again.taps) == (backbone.entry, backbone.taps)
    np.testing.assert_array_equal(again.embed(crops), backbone.embed(crops))

    state = model.state_dict()
    save_file(state | {"patches.bias": state["patches.bias"] + 1}, str(file))
    with pytest.raises(FeatureSpaceError, match="weights"):
        load(tmp_path / "saved")
    save_file({k: v for k, v in state.items() if k != "blocks.2.linear.bias"}, str(file))
    with pytest.raises(FormatError, match=r"lacks 1 tensors, blocks\.2\.linear\.bias"):
        open_backbone(f"timm:tiny:{file}")


@pytest.mark.usefixtures("library")
def test_random_weights_are_the_same_each_time_and_leave_the_process_its_own() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(123)
        state = torch.random.get_rng_state()
        first, second = (open_backbone("timm:tiny:random", device="cpu").entry for _ in range(2))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert first == second
    assert feature_space(first, ("proj", "cls.1"), "native").dim == 24


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:tyny", UnknownNameError, "Did you mean tiny"),
        ("timm:tiny:nope", UnknownNameError, "no pretrained tiny of timm is called 'tiny.nope'"),
        ("timm:tiny@64:random", UsageError, "cannot be built for input size 64"),
        ("timm:tiny@0:random", UsageError, "crops of 0 pixels show nothing"),
        ("timm:tiny", DownloadError, "no route"),
        ("timm:", UsageError, "expected timm:MODEL"),
        ("timm:tiny:/no/such.safetensors", UsageError, r"no \.safetensors file"),
        ("timm:tiny:./weights.pth", UsageError, "pickled checkpoints are not read"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_backbone(name)


def test_what_the_librarys_own_code_raises_is_told_in_our_words(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size that shows only when a crop comes; a checkpoint whose tensors the conversion cannot take apart."""

    def refuse(*_: object) -> None:
        raise AssertionError

    def take_apart(state: dict[str, torch.Tensor], model: object) -> None:
        state["patches.bias"].shape[7]

    save_file(seeded(7, classes=0).state_dict(), str(tmp_path / "w.safetensors"))
    monkeypatch.setattr(sys.modules[__name__], "checkpoint_filter_fn", take_apart, raising=False)
    with pytest.raises(FormatError, match="does not fit the model: tuple index out of range"):
        open_backbone(f"timm:tiny:{tmp_path / 'w.safetensors'}")
    monkeypatch.setattr(Tiny, "forward", refuse)
    with pytest.raises(UsageError, match="takes no crop of 32 x 32 pixels: AssertionError"):
        open_backbone("timm:tiny:random", device="cpu")
    with pytest.raises(UsageError, match="takes no crop of 32 x 32 pixels: AssertionError"):
        build("timm:tiny")


@pytest.mark.usefixtures("library")
def test_offline_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_OFFLINE", "1")
    with pytest.raises(OfflineError, match="UNIVFD_OFFLINE"):
        open_backbone("timm:tiny")
    assert open_backbone("timm:tiny:random", device="cpu").entry.proj == 12


def test_a_library_that_does_not_fit_this_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="installed but cannot be imported: operator torchvision::nms"):
        open_backbone("timm:resnet18:random")


@pytest.mark.usefixtures("library")
def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no GPU"):
        open_backbone("timm:tiny:random", device="cuda")
    monkeypatch.setenv("UNIVFD_DEVICE", "tpu")
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda"):
        open_backbone("timm:tiny:random")
    assert open_backbone("timm:tiny:random", device="auto").entry.proj == 12


def test_the_engine_is_found_by_its_name() -> None:
    assert callable(registry.load("backbones", "torch"))
