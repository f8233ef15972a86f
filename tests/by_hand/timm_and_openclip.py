"""The engine `torch` against timm and OpenCLIP themselves: their networks with seeded random weights.

Not collected with the other tests, since the libraries need torchvision and so PyTorch's full build. By hand:

    python -m venv .venv-timm && .venv-timm/bin/pip install -e '.[dev,timm]'
    .venv-timm/bin/python -m pytest tests/by_hand/timm_and_openclip.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from conftest import picture
from univfd.backbones import open_backbone
from univfd.errors import DownloadError, FormatError, UnknownNameError, UsageError

TIMM = "timm:vit_tiny_patch16_224:random"
TAPS = ("proj", "cls.3", "mean.3", "cls.12", "mean.12")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.stack([picture(i, 256, 256) for i in range(4)])


def seeded(build: object) -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()  # type: ignore[operator]


def normalised(crops: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return torch.from_numpy(((crops / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize(
    ("arch", "cls"),
    [
        ("vit_tiny_patch16_224", True),
        ("vit_small_patch14_reg4_dinov2@56", True),
        ("vit_base_patch16_siglip_224", False),
        ("vit_little_patch16_reg1_gap_256", False),  # a register, no class token
    ],
)
def test_timm(arch: str, cls: bool, crops: np.ndarray) -> None:
    arch, _, size = arch.partition("@")
    options = {"img_size": int(size)} if size else {}
    name = f"timm:{arch}{'@' + size if size else ''}:random"
    model = seeded(lambda: timm.create_model(arch, pretrained=False, num_classes=0, **options))
    prefix, config = model.num_prefix_tokens, timm.data.resolve_model_data_config(model)
    last = len(model.blocks)
    taps = ("proj", "mean.3", f"mean.{last}", *(("cls.3", f"cls.{last}") if cls else ()))
    opened = open_backbone(name, taps=taps, threads=1, device="cpu")
    side = opened.entry.preprocess.size
    crops = crops[:2, :side, :side]
    assert opened.entry.name == name
    assert ("cls.1" in opened.entry.taps) == cls
    assert side == int(size or config["input_size"][1])
    assert (opened.entry.preprocess.mean, opened.entry.preprocess.std) == (config["mean"], config["std"])
    with torch.inference_mode():
        x = normalised(crops, config["mean"], config["std"])
        final, tokens = model.forward(x), {}
        hidden = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
        for i, block in enumerate(model.blocks, 1):
            hidden = block(hidden)
            tokens[i] = hidden
    kinds = {"cls": lambda t: t[:, 0], "mean": lambda t: t[:, prefix:].mean(1)}
    parts = [tap.split(".") for tap in taps]
    wanted = [final if len(p) == 1 else kinds[p[0]](tokens[int(p[1])]) for p in parts]
    np.testing.assert_allclose(opened.embed(crops), torch.cat(wanted, 1).numpy(), atol=1e-4, rtol=1e-4)


def test_openclip(crops: np.ndarray) -> None:
    visual = seeded(lambda: open_clip.create_model("ViT-B-32", pretrained=None)).visual  # type: ignore[attr-defined]
    opened = open_backbone("openclip:ViT-B-32:random", taps=("cls.4", "mean.4", "proj"), device="cpu")
    config, crops = visual.preprocess_cfg, crops[:2, :224, :224]
    with torch.inference_mode():
        x = normalised(crops, config["mean"], config["std"])
        hidden = visual._embeds(x)
        for block in visual.transformer.resblocks[:4]:
            hidden = block(hidden)
        wanted = torch.cat([hidden[:, 0], hidden[:, 1:].mean(1), visual(x)], 1).numpy()
    np.testing.assert_allclose(opened.embed(crops), wanted, atol=1e-4, rtol=1e-4)
    assert opened.entry.blocks == 12


def test_openclip_with_a_timm_model_inside() -> None:
    taps = open_backbone("openclip:ViT-B-16-SigLIP:random", device="cpu").entry.taps
    assert taps == ("proj", *(f"mean.{i}" for i in range(1, 13)))


@pytest.mark.parametrize("name", [TIMM, "timm:resnet18:random"])
def test_a_row_depends_on_its_crop_alone(name: str, crops: np.ndarray) -> None:
    opened, crops = open_backbone(name, device="cpu"), crops[:, :224, :224]
    single = np.concatenate([opened.embed(crops[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(opened.embed(crops), single, atol=1e-5, rtol=1e-5)


def test_a_network_without_tokens_has_the_embedding_alone() -> None:
    for name in ("resnet18", "efficientnet_b0", "swin_tiny_patch4_window7_224"):
        assert open_backbone(f"timm:{name}:random").entry.taps == ("proj",)


def test_a_checkpoint_of_this_machine(tmp_path: Path, crops: np.ndarray) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=5).eval()
    file = tmp_path / "w.safetensors"
    save_file(model.state_dict(), str(file))
    opened = open_backbone(f"timm:vit_tiny_patch16_224:{file}", device="cpu")
    with torch.inference_mode():
        x = normalised(crops[:2, :224, :224], opened.entry.preprocess.mean, opened.entry.preprocess.std)
        wanted = model.forward_head(model.forward_features(x), pre_logits=True).numpy()
    np.testing.assert_allclose(opened.embed(crops[:2, :224, :224]), wanted, atol=1e-4)
    save_file({k: v for k, v in model.state_dict().items() if k != "blocks.3.norm1.bias"}, str(file))
    with pytest.raises(FormatError, match=r"lacks 1 tensors, blocks\.3\.norm1\.bias"):
        open_backbone(f"timm:vit_tiny_patch16_224:{file}")


def test_an_openclip_checkpoint_of_this_machine(tmp_path: Path, crops: np.ndarray) -> None:
    model = seeded(lambda: open_clip.create_model("ViT-B-32", pretrained=None))
    file = tmp_path / "w.safetensors"
    save_file(model.state_dict(), str(file))  # type: ignore[attr-defined]
    opened = open_backbone(f"openclip:ViT-B-32:{file}", device="cpu")
    random = open_backbone("openclip:ViT-B-32:random", device="cpu")
    assert opened.entry.name == "openclip:ViT-B-32:w.safetensors"
    assert opened.entry.sha256 == random.entry.sha256
    save_file({k: v for k, v in model.state_dict().items() if k != "visual.proj"}, str(file))  # type: ignore[attr-defined]
    with pytest.raises(FormatError, match=r"visual\.proj"):
        open_backbone(f"openclip:ViT-B-32:{file}")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("timm:vit_tiny_patch16_225", UnknownNameError, "Did you mean vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224:nope", UnknownNameError, "no pretrained vit_tiny_patch16_224 of timm"),
        ("openclip:ViT-B-33:openai", UnknownNameError, "Did you mean ViT-B-32"),
        ("openclip:ViT-B-32", UnknownNameError, "no pretrained ViT-B-32 of OpenCLIP"),
        ("openclip:ViT-L-14:openai", UsageError, "openclip:ViT-L-14-quickgelu:openai"),
        ("timm:resnet18@64:random", UsageError, "input size 64"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_backbone(name)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "openclip:ViT-L-14-quickgelu:openai"])
def test_weights_that_cannot_be_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", refused)
    monkeypatch.setattr(open_clip, "create_model", refused)
    with pytest.raises(DownloadError, match="no route"):
        open_backbone(name)
