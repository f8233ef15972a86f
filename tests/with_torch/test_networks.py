"""Networks in PyTorch against the graphs that detectors run: two implementations, or PyTorch's own layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from conftest import picture
from univfd.backbones import open_backbone
from univfd.cnndetection import import_cnndetection
from univfd.detector import Detector, load
from univfd.errors import FormatError, UnknownNameError, UsageError
from univfd.official import official
from univfd.training import export
from univfd.training._clip import weights_of
from univfd.training._resnet import ResNet
from univfd.training.networks import Network, build
from univfd.types import Verdict
from univfd.views import PreprocessSpec
from univfd.weights import GRAPH, folder

PICTURES = [picture(i, 300 + 20 * i, 260) for i in range(3)]
TINY_CLIP = Path(__file__).parents[1] / "golden" / "tiny_clip.safetensors"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales as after training, so that no normalisation is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(layer.weight, 0.4, 1.0, generator=generator)
            nn.init.normal_(layer.bias, 0, 0.2, generator=generator)
    return module.eval()


def crops(size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """The centre crops of PICTURES, normalised by plain arithmetic."""
    out = []
    for pixels in PICTURES:
        h, w = pixels.shape[:2]
        top, left = round((h - size) / 2), round((w - size) / 2)
        crop = torch.tensor(pixels[top : top + size, left : left + size]).permute(2, 0, 1) / 255
        out.append((crop - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    return torch.stack(out)


def scores(detector: Detector) -> np.ndarray:
    verdicts = list(detector.detect(PICTURES))
    assert all(isinstance(v, Verdict) for v in verdicts)
    return np.array([v.score for v in verdicts])


def logits(network: Network) -> np.ndarray:
    spec = network.preprocess
    with torch.no_grad():
        return network.logits(crops(spec.size, spec.mean, spec.std)).numpy()


def toml(at: Path, *, blocks: int, width: int, proj: int, size: int, heads: int) -> Path:
    (at / "backbone.toml").write_text(
        f'name = "clip"\ntitle = "CLIP"\nengine = "onnx"\nrecipe = "clip-safetensors"\nsha256 = ""\nlicence = "none"\n'
        f"blocks = {blocks}\nwidth = {width}\nprefix = 1\nproj = {proj}\n[preprocess]\nsize = {size}\n"
        "mean = [0.48145466, 0.4578275, 0.40821073]\nstd = [0.26862954, 0.26130258, 0.27577711]\n"
        f'[recipe_options]\nheads = {heads}\npatch = 14\nactivation = "quick_gelu"\n'
        '[[source]]\nkind = "folder"\npath = "model.safetensors"\n'
    )
    return at


@pytest.mark.parametrize("arch", ["small", "resnet50"])
def test_a_saved_networks_score_is_its_logit(arch: str, tmp_path: Path, home: None) -> None:
    torch.manual_seed(0)
    network = build(arch)
    lived_in(network.encoder)
    wanted = logits(network)
    assert np.ptp(wanted) > 1e-3
    export.save(network, tmp_path / "mine", view_name="native", record={"epochs": []})
    np.testing.assert_allclose(scores(load(tmp_path / "mine")), wanted, atol=1e-4)
    (tmp_path / "mine").rename(tmp_path / "moved")  # the encoder lies inside
    again = load(tmp_path / "moved")
    np.testing.assert_allclose(scores(again), wanted, atol=1e-4)
    again.save(tmp_path / "copy")
    (tmp_path / "moved").rename(tmp_path / "gone")
    assert load(tmp_path / "copy").identity == again.identity


def test_a_network_that_has_no_recipe_is_exported(tmp_path: Path, home: None) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = lived_in(nn.Sequential(*layers))
    spec = PreprocessSpec(96, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    network = Network("own", "own", encoder, nn.Linear(8, 1), spec, recipe="")
    export.save(network, tmp_path / "mine", view_name="native", record={})
    made = load(tmp_path / "mine")
    assert made.backbone.entry.recipe == "onnx-as-is"
    np.testing.assert_allclose(scores(made), logits(network), atol=1e-4)


@pytest.mark.parametrize(
    ("depths", "zipped"), [((3, 4, 6, 3), True), ((1, 2, 1, 1), False)], ids=["ResNet-50", "before PyTorch 1.6"]
)
def test_the_published_networks_layout_is_imported(
    depths: tuple[int, int, int, int], zipped: bool, tmp_path: Path, home: None
) -> None:
    """A file as CNNDetection's `save_networks` writes it, with random weights: network, optimiser, steps."""
    torch.manual_seed(1)
    encoder = lived_in(ResNet(depths))
    encoder.fc = nn.Linear(2048, 1)
    optimiser = torch.optim.Adam(encoder.parameters())
    for parameter in encoder.fc.parameters():  # moments of some parameters: tensors that are not to be read
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    content = {"model": encoder.state_dict(), "optimizer": optimiser.state_dict(), "total_steps": 7}
    torch.save(content, tmp_path / "blur_jpg.pth", _use_new_zipfile_serialization=zipped)
    import_cnndetection(tmp_path / "blur_jpg.pth", tmp_path / "imported")
    assert encoder.fc.weight.shape == (1, 2048)
    with torch.no_grad():
        features = encoder(crops(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        wanted = encoder.fc(features)[:, 0].numpy()
    np.testing.assert_allclose(scores(load(tmp_path / "imported")), wanted, atol=1e-4)
    encoder.bn1.running_mean[0] = float("nan")
    torch.save(content, tmp_path / "damaged.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FormatError, match=r"bn1\.running_mean has values that are not finite"):
        import_cnndetection(tmp_path / "damaged.pth", tmp_path / "damaged")


def test_clips_tower_is_the_prepared_graph() -> None:
    """The real weights of ViT-B/16, out of the graph that the cache holds."""
    network, encoder = build("clip"), open_backbone("clip-vit-b-16")
    spec = network.preprocess
    inputs = crops(spec.size, spec.mean, spec.std)
    with torch.no_grad():
        got = network.encoder.eval()(inputs).numpy()
    wanted = encoder.embed_normalised(inputs.numpy())  # type: ignore[attr-defined]
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
    assert len(weights_of(folder(encoder.entry) / GRAPH)) == len(network.encoder.state_dict())


def test_clip_in_a_folder_comes_back_after_a_step(tmp_path: Path, home: None) -> None:
    place = tmp_path / "tiny"
    place.mkdir()
    (place / "model.safetensors").write_bytes(TINY_CLIP.read_bytes())
    network = build(f"clip:{toml(place, blocks=3, width=32, proj=24, size=28, heads=4)}")
    before = logits(network)
    optimiser = torch.optim.SGD(network.whole().parameters(), lr=0.05)
    network.logits(crops(28, network.preprocess.mean, network.preprocess.std)).sum().backward()
    optimiser.step()
    after = logits(network)
    assert np.abs(after - before).max() > 1e-3
    export.save(network, tmp_path / "tuned", view_name="native", record={})
    tuned = load(tmp_path / "tuned")
    np.testing.assert_allclose(scores(tuned), after, atol=1e-4)
    assert "cls.2" in tuned.backbone.entry.taps
    again = build(f"clip:{tmp_path / 'tuned' / 'backbone'}")
    with torch.no_grad():
        for mine, theirs in zip(network.encoder.parameters(), again.encoder.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def straightforward_clip(state: dict[str, torch.Tensor], x: torch.Tensor, blocks: int, heads: int) -> torch.Tensor:
    """CLIP's image tower from PyTorch's own transformer layer."""
    width = len(state["vision_model.pre_layrnorm.weight"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    patches = functional.conv2d(x, state["vision_model.embeddings.patch_embedding.weight"], stride=14)
    tokens = patches.flatten(2).transpose(1, 2)
    cls = state["vision_model.embeddings.class_embedding"].expand(len(x), 1, -1)
    tokens = torch.cat([cls, tokens], 1) + state["vision_model.embeddings.position_embedding.weight"]
    tokens = norm(tokens, "vision_model.pre_layrnorm")
    for i in range(blocks):
        at = f"vision_model.encoder.layers.{i}"
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            0.0,
            lambda t: t * torch.sigmoid(1.702 * t),
            1e-5,
            batch_first=True,
            norm_first=True,
        )
        own = {
            f"self_attn.in_proj_{part}": torch.cat([state[f"{at}.self_attn.{k}_proj.{part}"] for k in "qkv"])
            for part in ("weight", "bias")
        }
        names = {"self_attn.out_proj": "self_attn.out_proj", "linear1": "mlp.fc1", "linear2": "mlp.fc2",
                 "norm1": "layer_norm1", "norm2": "layer_norm2"}  # fmt: skip
        own |= {f"{a}.{part}": state[f"{at}.{b}.{part}"] for a, b in names.items() for part in ("weight", "bias")}
        layer.load_state_dict(own)
        tokens = layer.eval()(tokens)
    return norm(tokens[:, 0], "vision_model.post_layernorm") @ state["visual_projection.weight"].T


def random_tower(blocks: int, width: int, proj: int) -> dict[str, torch.Tensor]:
    """Weights of a tower of ViT-L/14's shapes, scaled so that the tokens neither vanish nor grow."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int, spread: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * spread

    stem, state = "vision_model.embeddings.", {}
    state[stem + "patch_embedding.weight"] = normal(width, 3, 14, 14, spread=0.04)
    state[stem + "class_embedding"] = normal(width, spread=0.3)
    state[stem + "position_embedding.weight"] = normal(257, width, spread=0.3)
    norms = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for i in range(blocks):
        at = f"vision_model.encoder.layers.{i}"
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        shapes = {f"self_attn.{k}_proj": (width, width) for k in ("q", "k", "v", "out")}
        for name, shape in (shapes | {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}).items():
            state[f"{at}.{name}.weight"] = normal(*shape, spread=shape[1] ** -0.5)
            state[f"{at}.{name}.bias"] = normal(shape[0], spread=0.1)
    for name in norms:
        state[f"{name}.weight"] = 1 + normal(width, spread=0.1)
        state[f"{name}.bias"] = normal(width, spread=0.1)
    state["visual_projection.weight"] = normal(proj, width, spread=width**-0.5)
    return state


def test_the_official_head_on_a_vit_l_14_is_a_straightforward_computation(tmp_path: Path, home: None) -> None:
    """The paper's detector, whole: widths, heads, patches and head as published, fewer blocks, random weights."""
    blocks, heads, width, proj = 2, 16, 1024, 768
    state = random_tower(blocks, width, proj)
    place = tmp_path / "clip"
    place.mkdir()
    save_file(state, place / "model.safetensors")
    torch.manual_seed(2)
    head = nn.Linear(proj, 1)
    torch.save(head.state_dict(), tmp_path / "fc_weights.pth")
    encoder = open_backbone(toml(place, blocks=blocks, width=width, proj=proj, size=224, heads=heads))
    got = scores(official(tmp_path / "fc_weights.pth", backbone=encoder))
    spec = encoder.entry.preprocess
    with torch.no_grad():
        features = straightforward_clip(state, crops(224, spec.mean, spec.std), blocks, heads)
        wanted = head(features)[:, 0].numpy()
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "pretrained", "error", "message"),
    [
        ("resnet5", None, UnknownNameError, "Did you mean resnet50"),
        ("small:x", None, UnknownNameError, "no network"),
        ("timm", None, UnknownNameError, "timm:NAME"),
        ("small", "hub", UsageError, "networks of timm"),
        ("small", "absent.pth", UsageError, "no such file"),
    ],
)
def test_networks_that_cannot_be_made(arch: str, pretrained: str | None, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(arch, pretrained)


def test_pretrained_weights_fill_all_or_are_refused(tmp_path: Path) -> None:
    published = lived_in(ResNet((1, 1, 1, 1), 16))
    state = published.state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "a.pth")
    network = build("small", str(tmp_path / "a.pth"))
    for name, values in network.encoder.state_dict().items():
        assert torch.equal(values, state[name]), name
    torch.save({k: nn.Parameter(v, v.is_floating_point()) for k, v in state.items()}, tmp_path / "p.pth")
    parameters = build("small", str(tmp_path / "p.pth"))  # as torchvision's own file of ResNet-50 holds them
    for name, values in network.encoder.state_dict().items():
        assert torch.equal(values, parameters.encoder.state_dict()[name]), name
    del state["layer2.0.conv1.weight"]
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match=r"lacks layer2\.0\.conv1\.weight"):
        build("small", str(tmp_path / "b.safetensors"))
    torch.save(published.state_dict() | {"layer9.weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(FormatError, match=r"layer9\.weight, which the network has not"):
        build("small", str(tmp_path / "c.pth"))
    with pytest.raises(FormatError, match="does not fit the network"):
        build("resnet50", str(tmp_path / "a.pth"))
