"""Engines: which is taken, the gate in front of them, and what the self-test refuses."""

from __future__ import annotations

import json
import logging
import shutil
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
from univfd.parity import FLOAT32_SCORE, LOSSY_SHARE, Parity
from univfd.selftest import selftest
from univfd.store import BankStore
from univfd.store.adding import prepare
from univfd.types import Verdict
from univfd.views import view

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


def test_an_optimised_graph_is_kept_and_a_damaged_one_made_anew(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = np.stack([picture(i, 224, 224) for i in range(2)])

    def vectors() -> np.ndarray:
        return open_backbone("clip-vit-b-16", taps=("cls.3",), engine="cpu-int8").embed(crops)

    expected = vectors()
    (kept,) = (own_cache / "graphs").glob("*.int8")
    with monkeypatch.context() as patch:
        patch.setattr(_eight_bits, "in_eight_bits", lambda *_: pytest.fail("made again"))
        np.testing.assert_allclose(vectors(), expected, atol=1e-3)
    for name, damage in (("graph.onnx", b"\0"), ("weights.bin", b"\0"), ("manifest.json", b"}")):
        with (kept / name).open("ab") as file:
            file.write(damage)
        np.testing.assert_allclose(vectors(), expected, atol=1e-3)
        with monkeypatch.context() as patch:
            patch.setattr(_eight_bits, "in_eight_bits", lambda *_: pytest.fail("made again"))
            np.testing.assert_allclose(vectors(), expected, atol=1e-3)


def test_an_optimised_graph_that_cannot_be_kept_is_used_all_the_same(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crops = picture(0, 224, 224)[None]
    expected = open_backbone("clip-vit-b-16", taps=("cls.3",), engine="cpu-int8").embed(crops)
    for kept in (own_cache / "graphs").glob("*.int8"):
        shutil.rmtree(kept)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("univfd.backbones.int8.write_json", lambda *_: fail_with(OSError(28, "No space left on device")))
        got = open_backbone("clip-vit-b-16", taps=("cls.3",), engine="cpu-int8").embed(crops)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert "could not be kept" in caplog.text
    assert not list((own_cache / "graphs").glob("*int8*"))


def fail_with(error: Exception) -> None:
    raise error


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
    load_external_data_for_model(model, str(real))
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
