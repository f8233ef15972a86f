"""What the recipes build against `transformers`' own models: real widths, random weights, few blocks.

The files in golden/hub/ are those of the hub, to the byte, at the commits that the catalogue pins; so the models here
are built as their publishers say, not as the catalogue says.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from conftest import picture
from univfd import registry
from univfd.backbones.onnx import OnnxBackbone
from univfd.catalogue import Entry, FolderSource, HubSource, entry
from univfd.downloads import sha256_of
from univfd.recipes.dinov2_safetensors import resized

HUB = Path(__file__).parent.parent / "golden" / "hub"
SHA256 = {
    "facebook--dinov2-base/config.json": "f7ff4cfa73d2f70647dbf6950541ad25d73082d54c2e7e9bded160c7656b2a70",
    "facebook--dinov2-base/preprocessor_config.json": (
        "14e780d86fa1861f8751f868d7f45425b5feb55c38ca26f152ca5097ab30f828"
    ),
    "facebook--dinov2-large/config.json": "12df51c069a2dc1305e34ba71ef58bc2407ea553b75f4722a1715c1bce3bbed0",
    "facebook--dinov2-large/preprocessor_config.json": (
        "14e780d86fa1861f8751f868d7f45425b5feb55c38ca26f152ca5097ab30f828"
    ),
    "google--siglip2-base-patch16-224/config.json": "fe8b5fe6d5734360678fd71c11c21e1ea3364bd8598d34295d9206335973ffd7",
    "google--siglip2-base-patch16-224/preprocessor_config.json": (
        "9b36b57ebaf20f09bf4c22100ccc21877ea6bfe5aead0c00c59f8af8ccefacfc"
    ),
}
NAMES = ["clip-vit-l-14", "dinov2-vit-b-14", "dinov2-vit-l-14", "siglip2-vit-b-16"]
WITH_CONFIGURATION = NAMES[1:]
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
SMALL_TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def published(described: Entry, file: str) -> dict:
    source = described.sources[0]
    assert isinstance(source, HubSource)
    return json.loads((HUB / source.repo.replace("/", "--") / file).read_text())


def configuration(described: Entry) -> object:
    """That of the image tower as its publisher has it; the paper's CLIP by transformers' documented figures."""
    if described.recipe == "clip-safetensors":
        sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        return CLIPVisionConfig(**sizes, patch_size=14, projection_dim=768)
    config = published(described, "config.json")
    return Dinov2Config(**config) if "dinov2" in described.recipe else SiglipConfig(**config).vision_config


def model_of(described: Entry, blocks: int) -> torch.nn.Module:
    """Seeded weights of a size at which activations bend and attention chooses, as in a trained network."""
    config = configuration(described)
    config.num_hidden_layers = blocks
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if isinstance(config, CLIPVisionConfig):
            model = CLIPVisionModelWithProjection(config)
        elif isinstance(config, Dinov2Config):
            model = Dinov2Model(config)
        else:
            model = SiglipModel(
                SiglipConfig(text_config={"vocab_size": 8, **SMALL_TEXT}, vision_config=config.to_dict())
            )
        for name, values in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = values[0].numel() ** -0.5 if values.ndim > 1 else 0.3
            # Small where the tokens begin, so that the first norm's epsilon tells.
            values.data = centre + torch.randn(values.shape) * (spread * 0.01 if "embedding" in name else spread)
    return model.eval()


def both(name: str, blocks: int, folder: Path) -> tuple[np.ndarray, np.ndarray, Path]:
    """Our vectors and transformers' of two pictures, and the file that both were made of."""
    described = entry(name)
    model = model_of(described, blocks)
    model.save_pretrained(folder)  # under the hub's names
    file = folder / "model.safetensors"
    described = replace(described, blocks=blocks, sha256=sha256_of(file), sources=(FolderSource(file),))
    taps = described.taps
    crops = np.stack([picture(i, 224, 224) for i in range(2)])
    ours = OnnxBackbone(described, taps, 1, None).embed(crops)

    tower = getattr(model, "vision_model", model) if name.startswith("siglip") else model
    with torch.inference_mode():
        out = tower(torch.from_numpy(pixels(name, crops)), output_hidden_states=True)
    final = out.image_embeds if name.startswith("clip") else out.pooler_output
    theirs = []
    for tap in taps:
        kind, _, number = tap.partition(".")
        tokens = out.hidden_states[int(number)] if number else None
        theirs.append(
            final if tokens is None else tokens[:, 0] if kind == "cls" else tokens[:, described.prefix :].mean(dim=1)
        )
    return ours, torch.cat(theirs, dim=1).numpy(), file


def pixels(name: str, crops: np.ndarray) -> np.ndarray:
    """The crops as the publisher's own code would give them to the network, its resizing and cutting left out."""
    if name.startswith("clip"):
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        return ((crops / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    settings = published(entry(name), "preprocessor_config.json") | {"do_resize": False, "do_center_crop": False}
    made = (SiglipImageProcessorPil if name.startswith("siglip") else BitImageProcessorPil)(**settings)
    return made(list(crops), return_tensors="np")["pixel_values"]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_computes_what_transformers_computes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    ours, theirs, _ = both(name, 2, tmp_path)
    print(name, np.abs(ours - theirs).max(), cosine(ours, theirs), np.abs(theirs).mean())
    np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize("file", SHA256)
def test_the_configurations_are_the_hub_s(file: str) -> None:
    assert sha256_of(HUB / file) == SHA256[file]


@pytest.mark.parametrize("name", WITH_CONFIGURATION)
def test_an_entry_says_what_its_publisher_says(name: str) -> None:
    described = entry(name)
    config, pre = configuration(described), published(described, "preprocessor_config.json")
    options, spec = described.recipe_options, described.preprocess
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.patch_size)
    assert (described.blocks, described.width, options["heads"], options["patch"]) == sizes
    assert config.image_size // config.patch_size == options.get("grid", spec.size // options["patch"])
    assert (list(spec.mean), list(spec.std)) == (pre["image_mean"], pre["image_std"])
    assert spec.interpolation == INTERPOLATION[pre["resample"]]
    assert spec.size == pre.get("crop_size", pre["size"])["height"]


@pytest.mark.parametrize("wanted", [16, 17, 37, 50])
def test_positions_are_interpolated_as_torch_does_it(wanted: int) -> None:
    positions = np.random.default_rng(0).standard_normal((37 * 37, 8)).astype(np.float32)
    grid = torch.from_numpy(positions).reshape(1, 37, 37, 8).permute(0, 3, 1, 2)
    there = torch.nn.functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(
        resized(positions, 37, wanted), there.permute(0, 2, 3, 1).reshape(-1, 8).numpy(), atol=2e-5
    )


def test_every_recipe_for_safetensors_is_compared_here() -> None:
    recipes = {r for r in registry.names("recipes") if r.endswith("-safetensors")}
    assert {entry(name).recipe for name in NAMES} == recipes - {"resnet-safetensors"}  # that one: test_networks
