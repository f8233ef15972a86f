"""Engines: which is taken, the gate in front of them, and what the self-test refuses."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file, save_file

from conftest import picture
from univfd import weights
from univfd.backbones import Backbone, EngineBackbone, _eight_bits, _gate, open_backbone
from univfd.backbones._cut import cut
from univfd.backbones.openvino import OpenVinoBackbone, _warn_of_no_bfloat16
from univfd.catalogue import entry
from univfd.detector import Detector, linear_detector, load
from univfd.downloads import sha256_of
from univfd.embedding import embed_images, space_of
from univfd.engines import ENGINES, asked, candidates, provider_list
from univfd.errors import EngineError, FeatureSpaceError, FormatError, MissingExtraError, UnknownNameError, UsageError
from univfd.heatmap import heat_map
from univfd.parity import FLOAT32_SCORE, LOSSY_SHARE, Parity, cosine_loss
from univfd.selftest import selftest
from univfd.store import BankStore
from univfd.store.adding import prepare
from univfd.types import Verdict
from univfd.views import view

TINY = Path(__file__).parent / "golden" / "tiny_clip.safetensors"
CUDA, TENSORRT, DIRECTML, COREML, CPU = (
    f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "Dml", "CoreML", "CPU")
)


@pytest.fixture
def own_cache(clip: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own that has the real weights."""
    real = weights.folder(clip.entry)
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / real.name).symlink_to(real)
    return tmp_path


@pytest.mark.parametrize(
    ("providers", "expected"),
    [
        ([TENSORRT, CUDA, CPU], ["cuda", "cpu"]),
        ([DIRECTML, CPU], ["directml", "cpu"]),
        ([COREML, CPU], ["coreml", "cpu"]),
        (["AzureExecutionProvider", CPU], ["cpu"]),  # no lossy one
    ],
)
def test_auto_takes_what_is_there_and_the_cpu_last(providers: list[str], expected: list[str]) -> None:
    assert [e.name for e in candidates("auto", providers, lambda _: True)] == expected


def test_a_named_engine_is_that_one_or_an_error_that_says_what_to_install() -> None:
    assert [e.name for e in candidates("tensorrt", [TENSORRT, CUDA, CPU], lambda _: False)] == ["tensorrt"]
    with pytest.raises(MissingExtraError, match=r"'cuda' is not on this machine.*onnxruntime-gpu.*Here are: cpu"):
        candidates("cuda", [CPU], lambda _: False)
    with pytest.raises(MissingExtraError, match=r"univfd\[openvino\]"):
        candidates("openvino", [CUDA, CPU], lambda _: False)
    with pytest.raises(UnknownNameError, match="Did you mean openvino"):
        candidates("openvio", [CPU], lambda _: True)


def test_providers_in_order_with_their_options() -> None:
    names, options = zip(*provider_list(ENGINES["tensorrt"], Path("/kept")), strict=True)
    assert names == (TENSORRT, CUDA, CPU)
    assert options[0]["trt_fp16_enable"] == options[0]["trt_bf16_enable"] == "0"
    assert options[0]["trt_engine_cache_path"] == str(Path("/kept"))
    assert options[1]["use_tf32"] == "0"  # else float32 products keep 10 bits
    assert [name for name, _ in provider_list(ENGINES["coreml"], Path("/kept"))] == [COREML, CPU]
    assert provider_list(ENGINES["cpu"], Path("/kept")) == [(CPU, {})]
    assert provider_list(ENGINES["cuda-tf32"], Path("/kept"))[0][1]["use_tf32"] == "1"
    below = dict(provider_list(ENGINES["tensorrt-fp16"], Path("/kept")))
    assert (below[TENSORRT]["trt_fp16_enable"], below[CUDA]["use_tf32"]) == ("1", "0")


def test_the_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(None) == "cpu"
    monkeypatch.setenv("UNIVFD_ENGINE", "openvino")
    assert asked(None) == "openvino"
    assert asked("auto") == "auto"


def test_a_provider_without_its_device_is_an_error_by_name_and_a_remark_under_auto(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(EngineError, match="engine 'cuda' does not start"):
        open_backbone("clip-vit-b-16", taps=("cls.1",), engine="cuda")
    with caplog.at_level(logging.WARNING):
        opened = open_backbone("clip-vit-b-16", taps=("cls.1",), engine="auto")
    assert isinstance(opened, EngineBackbone)
    assert opened.engine == "cpu"
    assert "engine 'cuda' does not start" in caplog.text
    assert "taking cpu" in caplog.text


def test_encoders_without_a_graph_refuse_engines_but_not_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="computed by 'toy' alone"):
        open_backbone("toy", engine="openvino")
    monkeypatch.setenv("UNIVFD_ENGINE", "openvino")
    assert open_backbone("toy").entry.engine == "toy"


def test_openvino_gives_the_reference_and_the_comparison_is_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = ("cls.1", "mean.2")
    opened = open_backbone("clip-vit-b-16", taps=taps, engine="openvino")
    reference = open_backbone("clip-vit-b-16", taps=taps)
    crops = np.stack([picture(i, 224, 224) for i in range(3)])
    np.testing.assert_allclose(opened.embed(crops), reference.embed(crops), atol=2e-5)
    np.testing.assert_allclose(opened.patch_tokens(crops, 1), reference.patch_tokens(crops, 1), atol=2e-5)  # type: ignore[attr-defined]
    assert space_of(opened, view("native")) == space_of(reference, view("native"))
    assert len(list((own_cache / "engines").glob("openvino-*.safetensors"))) == 1

    def forbidden(*_: object) -> None:
        raise AssertionError("compared again")

    monkeypatch.setattr(_gate, "_keep", forbidden)
    again = open_backbone("clip-vit-b-16", taps=taps, engine="openvino")
    assert isinstance(again, EngineBackbone)
    assert again.parity is not None
    assert again.parity.loss < 1e-6


def test_an_engine_that_computes_something_else_is_refused(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = OpenVinoBackbone.embed_normalised
    monkeypatch.setattr(OpenVinoBackbone, "embed_normalised", lambda self, x: np.maximum(true(self, x), 0))
    with pytest.raises(EngineError, match="'openvino' computes wrong vectors"):
        open_backbone("clip-vit-b-16", taps=("cls.1",), engine="openvino")


def test_products_of_integers_that_are_wrong_on_this_machine_are_refused(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = _eight_bits._Rewriting._sum

    def saturating(self: Any, steps: Any, weights: list[str], name: str) -> str:
        """Large sums are cut off, as where pairs are added in 16 bits."""
        self._add("Clip", [true(self, steps, weights, f"{name}.whole"), self._number(-15), self._number(15)], name)
        return name

    monkeypatch.setattr(_eight_bits._Rewriting, "_sum", saturating)
    with pytest.raises(EngineError, match="'cpu-int8' computes wrong vectors"):
        open_backbone("clip-vit-b-16", taps=("cls.3",), engine="cpu-int8")


INT8_TAPS = ("cls.3",)


def int8_vectors(described: str | Path = "clip-vit-b-16", taps: tuple[str, ...] = INT8_TAPS) -> np.ndarray:
    size = entry(described).preprocess.size
    crops = np.stack([picture(i, size, size) for i in range(2)])
    return open_backbone(described, taps=taps, engine="cpu-int8").embed(crops)


def forbid(what: str) -> Callable[..., None]:
    return lambda *_: pytest.fail(what)


def test_an_optimised_graph_is_kept_and_a_damaged_one_made_anew(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = int8_vectors()
    (kept,) = (own_cache / "graphs").glob("*.int8")
    for name, damage in (("", b""), ("graph.onnx", b"\0"), ("weights.bin", b"\0"), ("manifest.json", b"}")):
        if name:
            with (kept / name).open("ab") as file:
                file.write(damage)
            np.testing.assert_allclose(int8_vectors(), expected, atol=1e-3)
        with monkeypatch.context() as patch:
            patch.setattr(_eight_bits, "in_eight_bits", forbid("made again"))
            np.testing.assert_allclose(int8_vectors(), expected, atol=1e-3)
    assert sorted(p.suffix for p in (own_cache / "graphs").iterdir()) == [".graph", ".int8", ".lock"]


@pytest.mark.parametrize("failing", ["write_json", "sha256_of", "new_folder"])
def test_an_optimised_graph_that_cannot_be_kept_is_made_once_and_used(
    failing: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = int8_vectors()
    for kept in (own_cache / "graphs").glob("*.int8"):
        shutil.rmtree(kept)
    module = importlib.import_module("univfd.backbones.int8")
    true, made = module.EightBitBackbone._keep, []

    def full(self: Any, *args: Any) -> Any:
        made.append(args)
        with monkeypatch.context() as patch:
            patch.setattr(module, failing, lambda *_: fail_with(OSError(28, "No space left on device")))
            return true(self, *args)

    monkeypatch.setattr(module.EightBitBackbone, "_keep", full)
    with caplog.at_level(logging.INFO, logger="univfd"):  # whose level an earlier test of commands may have set
        opened = open_backbone("clip-vit-b-16", taps=INT8_TAPS, engine="cpu-int8")
        for _ in range(5):  # beyond what is done with weights that are not packed
            got = opened.embed(np.stack([picture(j, 224, 224) for j in range(2)]))
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert len(made) == 1
    assert "could not be kept" in caplog.text
    assert not list((own_cache / "graphs").glob("*.int8")) + list((own_cache / "graphs").glob(".*int8*"))


def fail_with(error: Exception) -> None:
    raise error


def test_a_cache_that_may_only_be_read_has_graphs_of_integers_in_memory(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = int8_vectors()
    shutil.rmtree(own_cache / "graphs")
    (own_cache / "graphs").write_text("in the way")  # root may write into folders that may only be read
    np.testing.assert_allclose(int8_vectors(), expected, atol=1e-3)


def test_two_processes_make_an_optimised_graph_once(own_cache: Path) -> None:
    code = (
        "import logging, univfd; logging.basicConfig(level='INFO'); "
        f"univfd.open_backbone('clip-vit-b-16', taps={INT8_TAPS}, engine='cpu-int8')"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]  # the cache folder is in their environment
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert sum("making a graph of 8-bit products" in words for words in said) == 1
    assert len(list((own_cache / "graphs").glob("*.int8"))) == 1


TINY_TOML = """\
name = "tiny"
title = "a small CLIP"
engine = "onnx"
recipe = "clip-safetensors"
sha256 = "{sha256}"
licence = "MIT"
blocks = 3
width = 32
prefix = 1
proj = 24

[preprocess]
size = 28
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
interpolation = "bicubic"

[[source]]
kind = "folder"
path = "tiny.safetensors"

[recipe_options]
heads = 4
patch = 14
activation = "quick_gelu"
"""


def tiny_encoder(folder: Path, scale: float) -> Path:
    """A folder with a small CLIP whose matrices, which lie beside the graph, are so many times those in golden/."""
    folder.mkdir()
    arrays = {n: (v * scale if v.nbytes >= 4096 else v) for n, v in load_file(TINY).items()}
    save_file(arrays, folder / "tiny.safetensors")
    digest = sha256_of(folder / "tiny.safetensors")
    (folder / "backbone.toml").write_text(TINY_TOML.format(sha256=digest), "utf-8")
    return folder


def test_encoders_of_one_architecture_keep_graphs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    crops = np.stack([picture(i, 28, 28) for i in range(2)])
    for name, scale in (("one", 1.0), ("other", 1.3)):
        folder = tiny_encoder(tmp_path / name, scale)
        exact, lossy = (open_backbone(folder, taps=("cls.2", "mean.3"), engine=e) for e in ("cpu", "cpu-int8"))
        assert cosine_loss(lossy.embed(crops), exact.embed(crops)) < 1e-4
    assert len(list((tmp_path / "home" / "graphs").glob("*.graph"))) == 1
    assert len(list((tmp_path / "home" / "graphs").glob("*.int8"))) == 2


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"products": 0, "saturates": False}, "no matrix products over tokens: engine cpu-int8 is no faster"),
        ({"products": 9, "saturates": True}, r"no exact 8-bit products (VNNI): engine cpu-int8 is hardly faster"),
        ({"products": 9, "saturates": False}, ""),
    ],
)
def test_where_integers_gain_nothing_each_start_says_so(
    stated: dict[str, Any], said: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    true = _eight_bits.in_eight_bits
    monkeypatch.setattr(_eight_bits, "in_eight_bits", lambda *args: replace(true(*args), **stated))
    for _ in range(2):
        caplog.clear()
        int8_vectors()
        assert said in caplog.text
        assert bool(said) == ("cpu-int8" in caplog.text)


def test_the_file_of_an_engine_is_no_engine_of_an_encoder(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "tiny", 1.0)
    text = (folder / "backbone.toml").read_text("utf-8")
    for name in ("int8", "cpu-int8", "openvino"):
        (folder / "backbone.toml").write_text(text.replace('engine = "onnx"', f'engine = "{name}"'), "utf-8")
        with pytest.raises(UsageError, match="write engine = 'onnx'"):
            open_backbone(folder, taps=("cls.1",))


def test_an_engine_that_depends_on_the_batch_is_refused() -> None:
    good = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    Parity("x", 0.999, False, good, good, good).require()
    with pytest.raises(EngineError, match="computes wrong vectors"):
        Parity("x", 0.999, False, good, good, good[::-1]).require()
    with pytest.raises(EngineError, match=r"wrong vectors.*inf"):
        Parity("x", 0.999, False, good, np.full_like(good, np.nan), good).require()


def test_an_engine_in_float32_must_not_move_scores_and_a_lossy_one_may() -> None:
    good = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    near = Parity("x", 0.999, False, good, good * np.float32(1 + 1e-3), good)
    near.require()
    with pytest.raises(EngineError, match="moves scores"):
        near.require_scores(lambda v: v.sum(axis=1))
    lossy = replace(near, lossy=True)
    moved = lossy.score_difference(lambda v: v.sum(axis=1))
    lossy.require_scores(lambda v: v.sum(axis=1))  # one threshold is no measure
    lossy.require_scores(lambda v: v.sum(axis=1), 11 * moved)
    with pytest.raises(EngineError, match="moves scores"):
        lossy.require_scores(lambda v: v.sum(axis=1), 9 * moved)


LOSSY = {"cpu-int8": "int8", "openvino-bf16": "bf16"}


@pytest.mark.parametrize("engine", LOSSY)
def test_a_lossy_engine_has_a_feature_space_of_its_own(engine: str) -> None:
    exact, lossy = (open_backbone("clip-vit-b-16", taps=("cls.1",), engine=e) for e in ("cpu", engine))
    assert space_of(exact, view("native")) != space_of(lossy, view("native"))
    assert space_of(exact, view("native")) == space_of(lossy, view("native"), float32=True)
    made = linear_detector("made under it", lossy, view("native"), np.ones(768), 0.0)
    assert made.space == made.reads == space_of(lossy, view("native"))
    with pytest.raises(FeatureSpaceError, match="made in another feature space"):
        replace(made, backbone=exact)


@pytest.mark.parametrize("engine", LOSSY)
def test_a_detector_judges_on_a_lossy_engine_near_to_what_it_was_measured_on(
    engine: str, default: Detector, tmp_path: Path
) -> None:
    lossy = load(engine=engine)
    assert (default.lossy, lossy.lossy) == ("", LOSSY[engine])
    assert lossy.space == default.space != lossy.reads
    assert lossy.identity != default.identity
    pictures = [picture(i, 260 + 40 * i, 300) for i in range(4)]
    exact, near = ([v for v in d.detect(pictures) if isinstance(v, Verdict)] for d in (default, lossy))
    assert {v.space for v in exact} == {default.space.digest}
    assert {v.space for v in near} == {lossy.reads.digest}
    assert {v.detector for v in near} == {lossy.identity}
    moved = np.abs(np.subtract([v.score for v in near], [v.score for v in exact])).max()
    assert moved < LOSSY_SHARE * default.calibration.between
    cut = default.view
    of_exact = next(iter(embed_images(default.backbone, cut, pictures)))
    assert [v.score for v in lossy.judge(of_exact)] == [v.score for v in default.judge(of_exact)]
    assert default.patch_probe is not None
    assert heat_map(lossy, pictures[0]).scores.shape == heat_map(default, pictures[0]).scores.shape
    with pytest.raises(FeatureSpaceError, match="the images"):
        default.judge(next(iter(embed_images(lossy.backbone, cut, pictures))))
    lossy.save(tmp_path / "saved")
    assert load(tmp_path / "saved").identity == default.identity
    assert all(check.passed for check in selftest(lossy))


@pytest.mark.parametrize("engine", LOSSY)
def test_no_bank_takes_in_what_a_lossy_engine_gives(engine: str, default: Detector, tmp_path: Path) -> None:
    lossy = open_backbone("clip-vit-b-16", taps=default.space.taps, engine=engine)
    store = BankStore.create(tmp_path / "store", default.space)
    with pytest.raises(FeatureSpaceError, match="on an engine in float32"):
        prepare(store.snapshot(), lossy, default.view, [], near=None)


@pytest.mark.parametrize("capabilities", [["FP32"], ["FP32", "BF16"]])
def test_a_cpu_without_bfloat16_is_spoken_of(capabilities: list[str], caplog: pytest.LogCaptureFixture) -> None:
    core = SimpleNamespace(get_property=lambda *_: capabilities)
    for name in ("openvino", "openvino-bf16"):
        caplog.clear()
        _warn_of_no_bfloat16(core, name, dict(ENGINES[name].options))
        assert ("computes no bfloat16" in caplog.text) == (name == "openvino-bf16" and "BF16" not in capabilities)


def scores(detector: Detector, **options: int) -> np.ndarray:
    pictures = [picture(i, 260 + 40 * i, 300) for i in range(4)]
    return np.array([v.score for v in detector.detect(pictures, **options) if isinstance(v, Verdict)])  # type: ignore[arg-type]


def test_scores_are_the_same_whatever_the_batch_and_the_threads_and_nearly_so_on_another_engine(
    default: Detector,
) -> None:
    expected = scores(default)
    assert len(expected) == 4
    np.testing.assert_allclose(scores(default, batch_size=1, workers=3), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores(load(threads=1), batch_size=3), expected, atol=1e-5, rtol=0)
    for threads, batch in ((1, 2), (2, 4)):
        other = load(engine="openvino", threads=threads)
        assert other.identity == default.identity
        np.testing.assert_allclose(scores(other, batch_size=batch), expected, atol=FLOAT32_SCORE, rtol=0)


def test_selftest_looks_at_the_engine(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_backbone("clip-vit-b-16", taps=("cls.1",), engine="openvino")
    coef = np.random.default_rng(0).standard_normal(768)
    detector = linear_detector("first block", opened, view("native"), coef, 0.0)
    checks = {c.name: c for c in selftest(detector)}
    assert all(c.passed for c in checks.values()), checks
    assert checks["engine"].seen.startswith("openvino: 1 - cosine to float32")
    true = OpenVinoBackbone.embed_normalised
    monkeypatch.setattr(OpenVinoBackbone, "embed_normalised", lambda self, x: true(self, x * np.float32(1.1)))
    broken = {c.name: c.passed for c in selftest(detector)}
    assert not broken["engine"]
    assert not broken["parity"]


def int8(model: onnx.ModelProto, out: Path) -> None:
    """Signed weights of one scale a tensor: what saturates on a CPU without VNNI, and is coarse on every other."""
    quantize_dynamic(model, out, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8, per_channel=False)


def wrecked_scale(model: onnx.ModelProto, out: Path) -> None:
    """One product's weights are a tenth larger than they were."""
    products = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    wrecked = next(i for i in model.graph.initializer if i.name in products)
    wrecked.CopyFrom(numpy_helper.from_array(np.float32(1.1) * numpy_helper.to_array(wrecked), wrecked.name))
    onnx.save(model, str(out))


@pytest.mark.parametrize("breaking", [int8, wrecked_scale])
def test_a_broken_graph_is_refused_by_the_selftest(
    breaking: Callable[[onnx.ModelProto, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = weights.folder(entry("clip-vit-b-16"))
    model = onnx.load_model_from_string(cut(real / weights.GRAPH, ("mean.10",), 1))
    shutil.copyfile(real / weights.WEIGHTS, tmp_path / weights.WEIGHTS)  # ONNX refuses a file that OpenVINO has linked
    load_external_data_for_model(model, str(tmp_path))
    taken = [
        node for node in model.graph.node if node.output[0].startswith(("mean.", "patches."))
    ]  # only block.10 stays
    for node in taken:
        model.graph.node.remove(node)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("block.10", onnx.TensorProto.FLOAT, None))
    breaking(model, tmp_path / "broken.onnx")
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    place = weights.folder(entry("clip-vit-b-16"))
    place.mkdir(parents=True)
    onnx.save(onnx.load(str(tmp_path / "broken.onnx")), str(place / weights.GRAPH), save_as_external_data=True,
              location=weights.WEIGHTS, size_threshold=1024)  # fmt: skip
    made = [place / weights.GRAPH, place / weights.WEIGHTS]
    files = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in made}
    (place / weights.MANIFEST).write_text(json.dumps({"files": files}), "utf-8")
    for name in ("default", "neighbors"):
        if breaking is int8 and name == "default":  # which reads the input of a product that is no MatMul any more
            with pytest.raises(FormatError, match="the units of an MLP cannot be told in this graph"):
                load(name)
            continue
        checks = {c.name: c for c in selftest(load(name))}
        assert checks["weights"].passed, "its checksums fit: it must be told by its vectors"
        assert not checks["parity"].passed, checks["parity"].seen
