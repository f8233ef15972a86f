"""The real encoder, and what stands around it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from conftest import picture
from univfd import registry, samples
from univfd.backbones import Backbone, feature_space, open_backbone
from univfd.catalogue import Entry, HubSource, entry, names
from univfd.errors import FormatError, MissingExtraError, UnknownNameError, UsageError
from univfd.images import decode
from univfd.parity import fixed_crops
from univfd.perturbations import perturbation
from univfd.recipes.clip_safetensors import clip_safetensors
from univfd.types import ImageRef
from univfd.views import PreprocessSpec, view

GOLDEN = Path(__file__).parent / "golden"

# Outputs of the dequantised graph for default_rng(0).standard_normal((4, 3, 224, 224)), first four values of row 0.
# They agree to 1e-4 with figures computed by other code than this project's.
CLIP_GOLDEN = {
    "proj": [0.57972467, -0.5091814, -0.25404808, 0.11639743],
    "cls.1": [0.01228144, -0.30455765, -0.02669535, 0.03287181],
    "cls.6": [-0.08716128, -0.4118442, 0.06418115, -0.11565284],
    "cls.8": [0.00252829, -0.26130283, -0.05521106, -0.10988691],
    "cls.12": [-0.2895475, -0.31801915, 0.0574739, 0.00669777],
}
PROJ_NORMS = [10.23961, 10.2337, 9.89332, 10.1156]
# Mean over all 197 tokens after block 8: (196 * mean.8 + cls.8) / 197.
TOKEN_MEAN_8 = [-0.08774, -0.03151, -0.06296, -0.09755]


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, 3, 224, 224), dtype=np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_converted_encoder_gives_the_golden_figures(noise: np.ndarray) -> None:
    taps = (*CLIP_GOLDEN, "mean.8")
    out = open_backbone("clip-vit-b-16", taps=taps).embed_normalised(noise)  # type: ignore[attr-defined]
    assert out.shape == (4, 512 + 5 * 768)
    starts = dict(zip(taps, [0, *range(512, 512 + 5 * 768, 768)], strict=True))
    for tap, expected in CLIP_GOLDEN.items():
        np.testing.assert_allclose(out[0, starts[tap] : starts[tap] + 4], expected, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(out[:, :512], axis=1), PROJ_NORMS, atol=2e-4)
    mean, cls = out[0, starts["mean.8"] :], out[0, starts["cls.8"] :]
    np.testing.assert_allclose((196 * mean[:4] + cls[:4]) / 197, TOKEN_MEAN_8, atol=2e-4)


def test_a_batch_gives_what_single_images_give(clip: Backbone, noise: np.ndarray) -> None:
    batch = clip.embed_normalised(noise)  # type: ignore[attr-defined]
    single = np.concatenate([clip.embed_normalised(noise[i : i + 1]) for i in range(4)])  # type: ignore[attr-defined]
    assert (1 - cosine(batch, single)).max() < 1e-5


def test_a_flipped_cropped_recompressed_copy_finds_its_original(clip: Backbone) -> None:
    """The features must survive what leaves the content as it is; the graph as published finds half of these."""
    cut, spec = view("resize").cut, clip.entry.preprocess
    pictures = [*load_sample_images().images, *(decode(ImageRef("", d.path)).pixels for d in samples.fetch())]
    originals = np.concatenate([cut(p, spec).pixels for p in pictures])
    copies = np.concatenate([cut(degraded(p), spec).pixels for p in pictures])
    a, b = (clip.embed(crops)[:, :512] for crops in (originals, copies))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b)]
    assert len(pictures) == 14
    assert (unit[1] @ unit[0].T).argmax(axis=1).tolist() == list(range(14))


def degraded(pixels: np.ndarray) -> np.ndarray:
    """Mirrored, a tenth cut off each side, JPEG 40."""
    h, w = pixels.shape[0] // 10, pixels.shape[1] // 10
    return perturbation("jpeg:40")(np.ascontiguousarray(pixels[h:-h, w:-w][:, ::-1]))


def test_an_early_tap_does_not_pay_for_later_blocks() -> None:
    crops = np.stack([picture(i, 224, 224) for i in range(4)])
    seconds = {}
    for tap in ("cls.3", "proj"):
        backbone = open_backbone("clip-vit-b-16", taps=(tap,), threads=1)
        backbone.embed(crops[:1])
        start = time.process_time()
        backbone.embed(crops)
        seconds[tap] = time.process_time() - start
    assert seconds["cls.3"] < 0.5 * seconds["proj"]  # a quarter of the blocks; generous for a noisy machine


def test_crops_of_another_size_are_refused(clip: Backbone) -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 224, 224, 3\) uint8"):
        clip.embed(np.zeros((1, 100, 100, 3), np.uint8))


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean clip-vit-b-16"):
        open_backbone("clip-vit-b16")
    with pytest.raises(UnknownNameError, match=r"no tap of clip-vit-b-16 is called 'cls\.13'"):
        open_backbone("clip-vit-b-16", taps=("cls.13",))
    with pytest.raises(UsageError, match="no taps"):
        open_backbone("toy", taps=())


@pytest.mark.parametrize(("name", "library"), [("timm:resnet18", "timm"), ("openclip:ViT-B-32:openai", "open_clip")])
def test_a_library_s_encoder_without_its_extra(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"needs {library}, .* pip install 'univfd\[timm\]'"):
        open_backbone(name)
    with pytest.raises(UsageError, match="no taps"):
        open_backbone(name, taps=())


def test_a_device_is_for_pytorch(toy: Backbone) -> None:
    with pytest.raises(UsageError, match="device 'cuda' is for timm: and openclip: names"):
        open_backbone("toy", device="cuda")
    assert open_backbone("toy", device="cpu").entry == toy.entry


def test_pytorch_s_engine_has_no_entries(tmp_path: Path) -> None:
    text = (Path(str(resources.files("univfd"))) / "catalogue" / "toy.toml").read_text()
    (tmp_path / "backbone.toml").write_text(text.replace('engine = "toy"', 'engine = "torch"'))
    with pytest.raises(UsageError, match="engine 'torch' has no entries"):
        open_backbone(tmp_path)


def test_every_catalogue_entry_is_complete() -> None:
    assert names() == [
        "clip-vit-b-16",
        "clip-vit-l-14",
        "dinov2-vit-b-14",
        "dinov2-vit-l-14",
        "siglip2-vit-b-16",
        "toy",
    ]
    for name in names():
        described = entry(name)
        assert described.name == name
        assert described.licence
        assert bool(described.sources) == bool(described.sha256) == bool(described.recipe)
        for source in described.sources:
            assert not isinstance(source, HubSource) or len(source.revision) == 40


def test_the_feature_space_names_what_the_numbers_depend_on() -> None:
    described = entry("clip-vit-b-16")
    base = feature_space(described, ("cls.8",), "native")
    assert base.dim == 768
    assert base.weights == described.sha256
    others = [
        feature_space(described, ("cls.9",), "native"),
        feature_space(described, ("cls.8",), "resize"),
        feature_space(described, ("cls.8", "proj"), "native"),
        feature_space(entry("clip-vit-l-14"), ("cls.8",), "native"),
    ]
    assert len({s.digest for s in (base, *others)}) == 5


def tiny(**changes: object) -> Entry:
    fields = {
        "name": "tiny", "title": "a small CLIP", "engine": "onnx", "recipe": "clip-safetensors", "sha256": "0" * 64,
        "sources": (), "licence": "none", "blocks": 3, "width": 32, "prefix": 1, "proj": 24,
        "preprocess": PreprocessSpec(28, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "recipe_options": {"heads": 4, "patch": 14, "activation": "quick_gelu"},
    }  # fmt: skip
    return Entry(**(fields | changes))  # type: ignore[arg-type]


def test_the_clip_graph_equals_another_implementation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network of ViT-L/14's architecture; the figures are PyTorch's and transformers' (see golden/)."""
    from univfd.backbones import onnx as engine

    golden = json.loads((GOLDEN / "tiny_clip.json").read_text())
    clip_safetensors(GOLDEN / "tiny_clip.safetensors", tiny(), tmp_path)
    monkeypatch.setattr(engine, "ensure", lambda entry, progress: tmp_path)
    taps = ("proj", *(f"{kind}.{i}" for i in (1, 2, 3) for kind in ("cls", "mean")))
    pixels = np.random.default_rng(0).standard_normal((2, 3, 28, 28), dtype=np.float32)
    out = engine.OnnxBackbone(tiny(), taps, 1, None).embed_normalised(pixels)
    expected = [golden["proj"]]
    for i in range(3):
        expected += [golden["cls"][i], golden["mean"][i]]
    np.testing.assert_allclose(out, np.concatenate(expected, axis=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tap", ["proj", "cls.1", "cls.3"])
def test_the_last_block_is_computed_for_the_class_token_alone(
    tap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from univfd.backbones import onnx as engine
    from univfd.backbones._cut import cut
    from univfd.weights import GRAPH

    clip_safetensors(GOLDEN / "tiny_clip.safetensors", tiny(), tmp_path)
    monkeypatch.setattr(engine, "ensure", lambda entry, progress: tmp_path)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 28, 28), dtype=np.float32)
    last = f"mean.{tap[-1]}" if tap != "proj" else "mean.3"
    alone = engine.OnnxBackbone(tiny(), (tap,), 1, None).embed_normalised(pixels)
    among = engine.OnnxBackbone(tiny(), (tap, last), 1, None).embed_normalised(pixels)
    np.testing.assert_allclose(alone, among[:, : alone.shape[1]], atol=1e-5)
    graphs = [onnx.load_from_string(cut(tmp_path / GRAPH, taps, 1)).graph for taps in ((tap,), (tap, last))]
    narrowed = [[n.op_type for n in g.node if n.name.endswith(".first")] for g in graphs]
    assert narrowed[0].count("MatMul") == 3  # the attention's output and the two layers behind it
    assert narrowed[1] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 4},
        {"proj": 23},
        {"width": 16},
        {"recipe_options": {"heads": 4, "patch": 14, "activation": "gelu"}},
        {"recipe_options": {"patch": 14, "activation": "quick_gelu"}},
        {"recipe_options": {"heads": 0, "patch": 14, "activation": "quick_gelu"}},
        {"recipe_options": {"heads": "4", "patch": 14, "activation": "quick_gelu"}},
        {"recipe_options": {"heads": 4, "patch": 0, "activation": "quick_gelu"}},
        {"recipe_options": {"heads": 4, "patch": [14], "activation": "quick_gelu"}},
        {"recipe": "siglip-safetensors"},
        {"recipe": "dinov2-safetensors", "recipe_options": {"heads": 4, "patch": 14, "grid": 2}},
    ],
)
def test_a_file_that_is_not_the_network_described(tmp_path: Path, changes: dict[str, object]) -> None:
    described = tiny(**changes)
    with pytest.raises(FormatError, match="tiny"):
        registry.load("recipes", described.recipe)(GOLDEN / "tiny_clip.safetensors", described, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"quantised": 0}, {"quantised": 1}, {"quantised": 0, "block": 3, "last_block": "x"},
        {"quantised": 0, "block": "{x}", "last_block": "x"}, {"quantised": 0, "block": "b", "last_block": "x"},
        {"quantised": 0, "block": "{i}", "last_block": "x", "input": "pixels", "proj": "none"},
    ],
)  # fmt: skip
def test_a_quantised_graph_that_its_options_do_not_describe(tmp_path: Path, options: dict[str, object]) -> None:
    clip_safetensors(GOLDEN / "tiny_clip.safetensors", tiny(), tmp_path)
    described = tiny(recipe="dequantise", recipe_options=options)
    with pytest.raises(FormatError, match="tiny"):
        registry.load("recipes", "dequantise")(tmp_path / "graph.onnx", described, tmp_path)
    (tmp_path / "none.onnx").write_bytes(b"no graph")
    with pytest.raises(FormatError, match="tiny"):
        registry.load("recipes", "dequantise")(tmp_path / "none.onnx", described, tmp_path)


def test_toy_depends_on_each_image_alone(toy: Backbone) -> None:
    crops = np.stack([picture(i, 224, 224) for i in range(3)])
    np.testing.assert_allclose(toy.embed(crops)[1:2], toy.embed(crops[1:2]), rtol=1e-5)
    assert toy.embed(crops).shape == (3, toy.entry.proj)


def test_a_cut_graph_is_kept_and_a_damaged_or_other_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from univfd.backbones._cut import cut
    from univfd.backbones._kept_graph import cut_graph
    from univfd.weights import GRAPH

    clip_safetensors(GOLDEN / "tiny_clip.safetensors", tiny(), tmp_path)
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    expected = cut(tmp_path / GRAPH, ("cls.2",), 1)
    assert cut_graph(tmp_path, ("cls.2",), 1, 28) == expected
    (kept,) = (tmp_path / "home" / "graphs").iterdir()
    with monkeypatch.context() as patch:  # the second time nothing is cut
        patch.setattr("univfd.backbones._cut.cut", lambda *_: pytest.fail("cut again"))
        assert cut_graph(tmp_path, ("cls.2",), 1, 28) == expected
    stored = kept.read_bytes()
    for damaged in (b"", stored[:-1], stored[:-1] + bytes([stored[-1] ^ 1])):
        kept.write_bytes(damaged)
        assert cut_graph(tmp_path, ("cls.2",), 1, 28) == expected
        assert kept.read_bytes() == stored
    assert cut_graph(tmp_path, ("cls.1",), 1, 28) != expected
    graph = (tmp_path / GRAPH).read_bytes()
    (tmp_path / GRAPH).write_bytes(graph + b"\x12\x00")  # another file with the same meaning: cut anew
    cut_graph(tmp_path, ("cls.2",), 1, 28)
    assert len(list(kept.parent.iterdir())) == 3


def test_a_start_with_a_kept_graph_does_without_onnx() -> None:
    code = (
        "import sys, univfd; univfd.open_backbone('clip-vit-b-16', taps=('cls.1',)); "
        "univfd.open_backbone('clip-vit-b-16', taps=('cls.1',)); print('onnx' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[1].stdout.split() == ["False"]


def test_a_handful_of_crops_and_many_have_the_same_vectors() -> None:
    """The session of a handful is left for one with packed weights, which rounds otherwise in the last bits."""
    crops = fixed_crops(224)
    brief, packed = (open_backbone("clip-vit-b-16", taps=("cls.2",)) for _ in range(2))
    alone = np.concatenate([brief.embed(crops[i : i + 1]) for i in range(4)])
    first = brief._session  # type: ignore[attr-defined]
    many = packed.embed(np.concatenate([crops, crops]))
    np.testing.assert_allclose(alone, many[:4], atol=1e-4)
    np.testing.assert_allclose(brief.embed(crops[:1]), many[:1], atol=1e-4)  # the fifth crop
    assert brief._session is not first  # type: ignore[attr-defined]
