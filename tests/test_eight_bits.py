"""Products of 8-bit integers: what they give, beside float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from conftest import picture
from univfd import weights
from univfd.backbones import Backbone, _eight_bits, open_backbone
from univfd.backbones._eight_bits import in_eight_bits, saturates
from univfd.backbones._kept_graph import cut_graph
from univfd.parity import cosine_loss, fixed_crops

WIDTH, WIDER = 64, 128
Floats = NDArray[np.float32]
LARGE = np.where(np.arange(WIDTH) == 7, 100, 1).astype(np.float32)  # one channel is far larger than the others


def small_graph(*extra: onnx.NodeProto, opset: int = 14, folder: Path | None = None) -> bytes:
    """Patches of 16 x 16 pixels, two products over them and one over their mean; `folder`: weights of a file there."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "patch": rng.standard_normal((WIDTH, 3, 16, 16), dtype=np.float32) / 28,
        "shape": np.array([0, WIDTH, -1], np.int64),
        "large": LARGE,
        "first": rng.standard_normal((WIDTH, WIDER), dtype=np.float32),
        "bias": rng.standard_normal(WIDER, dtype=np.float32),
        "second": rng.standard_normal((WIDER, WIDTH), dtype=np.float32),
        "last": rng.standard_normal((WIDTH, 5), dtype=np.float32),
        "one": np.array([1], np.int64),
    }
    make = helper.make_node
    mean = make("ReduceMean", ["block.1"], ["pooled"], axes=[1], keepdims=0)
    if opset >= 18:
        mean = make("ReduceMean", ["block.1", "one"], ["pooled"], keepdims=0)
    nodes = [
        make("Conv", ["pixels", "patch"], ["grid"], strides=[16, 16]),
        make("Reshape", ["grid", "shape"], ["rows"]),
        make("Transpose", ["rows"], ["plain"], perm=[0, 2, 1]),
        make("Mul", ["plain", "large"], ["tokens"]),
        make("MatMul", ["tokens", "first"], ["hidden"]),
        make("Add", ["bias", "hidden"], ["biased"]),
        make("Relu", ["biased"], ["active"]),
        make("MatMul", ["active", "second"], ["block.1"]),
        mean,
        make("MatMul", ["pooled", "last"], ["y"]),
        *extra,
    ]
    outputs = ["y", "block.1", *(o for n in extra for o in n.output)]
    made = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if folder is not None:
        onnx.save(
            model, str(folder / "m.onnx"), save_as_external_data=True, location=weights.WEIGHTS, size_threshold=1024
        )
        model = onnx.load(str(folder / "m.onnx"), load_external_data=False)
    return bytes(model.SerializeToString())


def run(graph: bytes, inputs: Floats, folder: Path = Path()) -> list[Floats]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found: list[Floats] = session.run(None, {"pixels": inputs})
    return found


def pictures(n: int) -> Floats:
    return np.random.default_rng(n).standard_normal((n, 3, 64, 64), dtype=np.float32)


def rewritten(graph: bytes) -> bytes:
    return in_eight_bits(graph, Path(), pictures(4)).graph


def loss(got: Floats, expected: Floats) -> float:
    """Root of the mean squared error over that of the values."""
    return float(np.sqrt(np.square(got - expected).mean() / np.square(expected).mean()))


def nodes(graph: bytes) -> list[str]:
    return [n.op_type for n in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_products_over_tokens_become_integers_and_the_others_stay(opset: int) -> None:
    graph, inputs = small_graph(opset=opset), pictures(3)
    made = rewritten(graph)
    assert nodes(made).count("MatMulIntegerToFloat") == 4  # each twice: both lie in the first block
    assert nodes(made).count("MatMul") == 1
    for got, expected in zip(run(made, inputs), run(graph, inputs), strict=True):
        assert got.shape == expected.shape
        assert loss(got, expected) < 0.03  # int8 weights alone


def test_weights_are_read_from_their_file(tmp_path: Path) -> None:
    graph, inputs = small_graph(folder=tmp_path), pictures(2)
    (tmp_path / "backup").hardlink_to(tmp_path / weights.WEIGHTS)
    made = in_eight_bits(graph, tmp_path, pictures(4)).graph
    assert loss(run(made, inputs, tmp_path)[1], run(graph, inputs, tmp_path)[1]) < 0.01


def on_the_grid(graph: bytes) -> bytes:
    """Its weights rounded to 255 levels a column, as a published int8 file has them."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name in {"first", "second"}:
            values = numpy_helper.to_array(tensor)
            scale = np.abs(values).max(axis=0) / 127
            tensor.CopyFrom(numpy_helper.from_array((np.rint(values / scale) * scale).astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def test_splitting_large_channels_and_a_second_product_each_lower_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = on_the_grid(small_graph()), pictures(3)
    expected = run(graph, inputs)[1]
    fine = loss(run(rewritten(graph), inputs)[1], expected)
    monkeypatch.setattr(_eight_bits, "_tensors_before", lambda *_: set())
    coarse = loss(run(rewritten(graph), inputs)[1], expected)
    monkeypatch.setattr(_eight_bits, "_PARTS", 0)
    whole = loss(run(rewritten(graph), inputs)[1], expected)
    assert fine < 1e-4
    assert 10 * fine < coarse < whole / 2


def test_a_token_is_the_same_whatever_stands_beside_it() -> None:
    made, inputs = rewritten(small_graph()), pictures(5)
    inputs[1] *= 1000
    together = run(made, inputs)[1]
    alone = np.concatenate([run(made, inputs[i : i + 1])[1] for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-4)


def test_tokens_larger_than_any_that_were_seen_and_tokens_of_zeros_keep_their_value() -> None:
    graph = small_graph()
    made = rewritten(graph)
    inputs = np.concatenate([50 * pictures(1), np.zeros((1, 3, 64, 64), np.float32)])
    for got, expected in zip(run(made, inputs)[1], run(graph, inputs)[1], strict=True):
        assert loss(got, expected) < 0.02


def test_one_matrix_for_two_tensors_of_tokens_has_the_columns_of_each() -> None:
    again = helper.make_node("MatMul", ["plain", "first"], ["again"])
    graph, inputs = small_graph(again), pictures(2)
    made = rewritten(graph)
    assert nodes(made).count("MatMul") == 1
    assert loss(run(made, inputs)[2], run(graph, inputs)[2]) < 0.01


def test_a_product_that_is_itself_an_output_stays_one() -> None:
    graph = onnx.load_from_string(small_graph())
    graph.graph.output.append(helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None))
    whole, inputs = bytes(graph.SerializeToString()), pictures(2)
    got, expected = (run(g, inputs) for g in (rewritten(whole), whole))
    assert loss(got[2], expected[2]) < 0.01
    assert loss(got[0], expected[0]) < 0.03


def test_unsigned_weights_for_cpus_that_saturate_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = small_graph(), pictures(3)
    found = []
    for unsigned in (False, True):
        monkeypatch.setattr(_eight_bits, "saturates", lambda unsigned=unsigned: unsigned)
        made = rewritten(graph)
        kinds = {i.data_type for i in onnx.load_from_string(made).graph.initializer if i.name.endswith(".weights")}
        assert kinds == {TensorProto.UINT8 if unsigned else TensorProto.INT8}
        found.append(run(made, inputs)[1])
    if not saturates():
        np.testing.assert_array_equal(found[0], found[1])
    assert loss(found[1], run(graph, inputs)[1]) < 0.01


def test_where_there_is_nothing_to_gain_the_graph_stays() -> None:
    model = onnx.load_from_string(small_graph())
    del model.graph.node[4:]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, None))
    graph = bytes(model.SerializeToString())
    made = in_eight_bits(graph, Path(), pictures(1))
    assert (made.graph, made.products, made.saturates) == (graph, 0, False)


def test_weights_that_stand_in_nodes_are_weights() -> None:
    model = onnx.load_from_string(small_graph())
    first = next(i for i in model.graph.initializer if i.name == "first")
    model.graph.initializer.remove(first)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["first"], value=first))
    graph, inputs = bytes(model.SerializeToString()), pictures(2)
    made = rewritten(graph)
    assert nodes(made).count("MatMul") == 1
    assert loss(run(made, inputs)[1], run(graph, inputs)[1]) < 0.01


def test_a_graph_without_blocks_has_one_product_for_each() -> None:
    model = onnx.load_from_string(small_graph())
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["tokens.out" if n == "block.1" else n for n in names]
    model.graph.output[1].name = "tokens.out"
    made = in_eight_bits(model.SerializeToString(), Path(), pictures(4))
    assert made.products == nodes(made.graph).count("MatMulIntegerToFloat") == 2


def test_the_real_encoder_is_near_to_float32_and_to_itself_in_other_batches(clip: Backbone) -> None:
    taps = ("cls.4", "mlp.5", "cls.6@4")
    exact, lossy = (open_backbone("clip-vit-b-16", taps=taps, engine=engine) for engine in ("cpu", "cpu-int8"))
    crops = np.stack([picture(i, 224, 224) for i in range(5)])
    expected, got = exact.embed(crops), lossy.embed(crops)
    assert 1e-9 < cosine_loss(got, expected) < 5e-4
    alone = np.concatenate([lossy.embed(crops[i : i + 1]) for i in range(5)])
    assert cosine_loss(alone, got) < 1e-5
    assert np.isfinite(lossy.patch_tokens(crops[:1], 2)).all()  # type: ignore[attr-defined]


def test_the_published_weights_lose_nothing(clip: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = weights.folder(clip.entry)
    graph = cut_graph(folder, ("cls.3",), 1, 224)
    inputs = clip.entry.preprocess.normalise(fixed_crops(224))
    monkeypatch.setattr(_eight_bits, "_FINE_BLOCKS", 2)
    made = in_eight_bits(graph, folder, inputs).graph
    assert cosine_loss(run(made, inputs, folder)[0], run(graph, inputs, folder)[0]) < 1e-6
