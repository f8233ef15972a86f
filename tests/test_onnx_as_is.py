"""An encoder that a user exported: the page's example, taps, and every way an export can be unfit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import picture
from univfd.backbones import feature_space, open_backbone
from univfd.catalogue import entry
from univfd.detector import load
from univfd.errors import ChecksumError, FeatureSpaceError, FormatError, UnknownNameError

DOCS = Path(__file__).parents[1] / "docs" / "backbones.md"
SIZE, PATCH, WIDTH = 16, 8, 6
TOML = """
name = "mine"
title = "my encoder"
engine = "onnx"
recipe = "onnx-as-is"
sha256 = ""
licence = "mine"
blocks = {blocks}
width = 6
prefix = 1
proj = {proj}

[preprocess]
size = 16
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[[source]]
kind = "folder"
path = "encoder.onnx"

[recipe_options]
{options}
"""
WEIGHTS = {
    "kernel": np.random.default_rng(1).standard_normal((WIDTH, 3, PATCH, PATCH)),
    "cls": np.random.default_rng(2).standard_normal((1, 1, WIDTH)),
    "square": np.random.default_rng(3).standard_normal((WIDTH, WIDTH)),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))


def vit(*, opset: int = 17, batch: object = "n", mixes: bool = False, scale: float = 1.0) -> onnx.ModelProto:
    """Patches and a class token, two "blocks" (product and tanh); outputs: tokens, class token."""
    shape = np.array([0, WIDTH, -1])
    arrays = {k: (scale * v).astype(np.float32) for k, v in WEIGHTS.items()}
    arrays |= {
        "shape": shape,
        "zero": np.array([0]),
        "one": np.array([1]),
        "rest": np.array([1, WIDTH]),
        "first": np.array(0),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "kernel"], ["conv"], strides=[PATCH, PATCH]),
        node("Reshape", ["conv", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]),
        node("Shape", ["image"], ["all"]),
        node("Slice", ["all", "zero", "one"], ["batch"]),
        node("Concat", ["batch", "rest"], ["cls_shape"], axis=0),
        node("Expand", ["cls", "cls_shape"], ["cls_token"]),
        node("Concat", ["cls_token", "patches"], ["joined"], axis=1),
        node("MatMul", ["joined", "square"], ["m0"]),
        node("Softmax" if mixes else "Tanh", ["m0"], ["layer.0/out"], **({"axis": 0} if mixes else {})),
        node("MatMul", ["layer.0/out", "square"], ["m1"]),
        node("Tanh", ["m1"], ["layer.1/out"]),
        node("Gather", ["layer.1/out", "first"], ["vector"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "vit",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("layer.1/out", TensorProto.FLOAT, None),
         helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v if v.dtype == np.float32 else v.astype(np.int64), k) for k, v in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def expected(crops: np.ndarray) -> list[np.ndarray]:
    """The tokens after each block, by other means than ONNX."""
    x = ((crops / 255 - 0.5) / 0.5).reshape(len(crops), 2, PATCH, 2, PATCH, 3)
    patches = np.einsum("nhiwjc,dcij->nhwd", x, WEIGHTS["kernel"]).reshape(len(crops), -1, WIDTH)
    tokens = np.concatenate([np.repeat(WEIGHTS["cls"], len(crops), axis=0), patches], axis=1)
    out = []
    for _ in range(2):
        tokens = np.tanh(tokens @ WEIGHTS["square"])
        out.append(tokens)
    return out


CROPS = np.stack([picture(i, SIZE, SIZE) for i in range(3)])
BLOCKS = 'block = "layer.{i}/out"\n'


def folder(at: Path, model: onnx.ModelProto, options: str, *, blocks: int = 0, proj: int = WIDTH) -> Path:
    at.mkdir(exist_ok=True)
    onnx.save(model, str(at / "encoder.onnx"))
    (at / "backbone.toml").write_text(TOML.format(blocks=blocks, proj=proj, options=options))
    return at


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_tap_of_an_export(tmp_path: Path, opset: int) -> None:
    place = folder(tmp_path / "mine", vit(opset=opset), 'output = "vector"\n' + BLOCKS, blocks=2)
    taps = ("proj", "cls.1", "mean.1", "cls.2", "mean.2")
    got = open_backbone(place, taps=taps).embed(CROPS)
    one, two = expected(CROPS)
    wanted = [two[:, 0], one[:, 0], one[:, 1:].mean(1), two[:, 0], two[:, 1:].mean(1)]
    np.testing.assert_allclose(got, np.concatenate(wanted, axis=1), atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize(("tokens", "rows"), [("cls", slice(0, 1)), ("mean", slice(1, None))])
def test_an_output_of_tokens(tmp_path: Path, tokens: str, rows: slice, blocks: int) -> None:
    options = f'output = "layer.1/out"\ntokens = "{tokens}"\n{BLOCKS}'
    place = folder(tmp_path / "mine", vit(), options, blocks=blocks)
    got = open_backbone(place).embed(CROPS)
    np.testing.assert_allclose(got, expected(CROPS)[1][:, rows].mean(1), atol=1e-5)
    with pytest.raises(UnknownNameError):
        open_backbone(place, taps=("cls.3",))


def test_a_changed_file_or_option_is_another_space(tmp_path: Path) -> None:
    def space() -> tuple[str, bytes]:
        opened = open_backbone(place)
        return feature_space(opened.entry, opened.taps, "native").digest, opened.embed(CROPS).tobytes()

    options = 'output = "layer.1/out"\ntokens = "cls"\n'
    place = folder(tmp_path / "mine", vit(), options)
    seen = [space()]
    assert space() == seen[0]
    folder(place, vit(scale=0.5), options)
    seen.append(space())
    folder(place, vit(), options.replace("cls", "mean"))
    seen.append(space())
    assert len({s for s, _ in seen}) == len({v for _, v in seen}) == 3


def test_a_detector_notices_that_its_encoder_changed(tmp_path: Path) -> None:
    from test_detector import official_file
    from univfd.official import official

    place = folder(tmp_path / "mine", vit(), 'output = "vector"')
    official(official_file(tmp_path / "fc.pth", WIDTH), backbone=open_backbone(place)).save(tmp_path / "saved")
    assert load(tmp_path / "saved").backbone.entry.folder == place
    folder(place, vit(scale=0.5), 'output = "vector"')
    with pytest.raises(FeatureSpaceError, match="weights"):
        load(tmp_path / "saved")


def reshaped(model: onnx.ModelProto, shape: list[object], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", kind, shape))
    return model


def dynamic() -> onnx.ModelProto:
    model = vit()
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"]))
    return model


def baked() -> onnx.ModelProto:
    """Free at the door, fixed inside: the usual export without dynamic axes, renamed afterwards."""
    model = vit()
    for tensor in model.graph.initializer:
        if tensor.name == "shape":
            tensor.CopyFrom(numpy_helper.from_array(np.array([1, WIDTH, 4]), "shape"))
    return model


def apart() -> onnx.ModelProto:
    model = vit()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "encoder.onnx.data"
    model.graph.initializer[0].ClearField("raw_data")
    return model


def apart_in_a_node(branch: bool) -> onnx.ModelProto:
    """Beside the file too, but not among the graph's weights: in a `Constant`, or in a branch of an `If`."""
    model = vit()
    (weight,) = (t for t in model.graph.initializer if t.name == "square")
    model.graph.initializer.remove(weight)
    held = onnx.TensorProto(name="held", dims=weight.dims, data_type=weight.data_type)
    held.data_location = TensorProto.EXTERNAL
    entry = held.external_data.add()
    entry.key, entry.value = "location", "encoder.onnx.data"
    node = helper.make_node("Constant", [], ["inner" if branch else "square"], value=held)
    if branch:
        value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "branch", [], [value])
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        node = helper.make_node("If", ["yes"], ["square"], then_branch=graph, else_branch=graph)
    model.graph.node.insert(0, node)
    return model


VECTOR = 'output = "vector"\n'


@pytest.mark.parametrize(
    ("make", "options", "fields", "message"),
    [
        (lambda: reshaped(vit(), ["n", SIZE, SIZE]), VECTOR, {}, "has rank 3.*expected \\(N, 3, 16, 16\\)"),
        (lambda: vit(batch=1), VECTOR, {}, "batches of 1 alone.*dynamic first axis"),
        (lambda: reshaped(vit(), ["n", 3, 32, 32]), VECTOR, {}, "expected \\(N, 3, 16, 16\\)"),
        (lambda: reshaped(vit(), ["n", 3, 16, 16], TensorProto.FLOAT16), VECTOR, {}, "of type FLOAT16"),
        (vit, VECTOR, {"proj": 7}, r"\(2, 6\) for 2 crops; expected \(2, 7\)"),
        (vit, 'output = "layer.1/out"', {}, r'\(2, 5, 6\) for 2 crops.*tokens = "cls" or "mean"'),
        (vit, "", {}, "has 2 outputs: set recipe_options.output; its outputs: layer.1/out, vector"),
        (vit, 'output = "nope"', {}, "has no output 'nope'"),
        (vit, VECTOR + 'input = "nope"', {}, "has no input 'nope'; its inputs: image"),
        (vit, VECTOR + 'tokens = "max"', {}, "expected cls or mean"),
        (vit, VECTOR + 'pooling = "max"', {}, "unknown recipe_options \\['pooling'\\]"),
        (vit, VECTOR, {"blocks": 2}, "needs recipe_options.block, or set blocks = 0"),
        (vit, VECTOR + BLOCKS, {"blocks": 3}, "no block output called 'layer.2/out'"),
        (vit, VECTOR + 'block = "m0"', {"blocks": 2}, "no block output called 'm0' of its own"),
        (vit, VECTOR + 'block = "flat"', {"blocks": 1}, r"block.1 is \(2, 6, 4\).*expected \(2, tokens, 6\)"),
        (dynamic, VECTOR, {}, "DynamicQuantizeLinear.*depends on its neighbours"),
        (baked, VECTOR, {}, "does not run on two crops"),
        (lambda: vit(mixes=True), VECTOR, {}, "depends on the other crops"),
        (apart, VECTOR, {}, "in a second file.*Save it in one piece"),
        (lambda: apart_in_a_node(False), VECTOR, {}, "in a second file.*Save it in one piece"),
        (lambda: apart_in_a_node(True), VECTOR, {}, "in a second file.*Save it in one piece"),
    ],
)  # fmt: skip
def test_exports_that_cannot_be_used(
    tmp_path: Path, make: Callable[[], onnx.ModelProto], options: str, fields: dict[str, int], message: str
) -> None:
    place = folder(tmp_path / "mine", make(), options, **fields)
    with pytest.raises(FormatError, match=f"(?s)mine: .*{message}"):
        open_backbone(place)
    assert not list((tmp_path / "home").rglob("graph.onnx"))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", vit(), VECTOR)
    (place / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(FormatError, match="not an ONNX file"):
        open_backbone(place)
    (place / "encoder.onnx").unlink()
    with pytest.raises(FormatError, match=r"encoder\.onnx is not there"):
        open_backbone(place)


def test_advice_about_a_damaged_preparation_names_the_folder(tmp_path: Path) -> None:
    """`univfd models verify` knows an encoder of one's own by that alone."""
    place = folder(tmp_path / "mine", vit(), VECTOR)
    open_backbone(place)
    (graph,) = (tmp_path / "home").rglob("graph.onnx")
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(ChecksumError, match=f"univfd models verify {re.escape(str(place))}'"):
        open_backbone(place)


def test_only_a_file_of_ones_own_comes_without_a_checksum(tmp_path: Path) -> None:
    place = folder(tmp_path / "mine", vit(), VECTOR)
    text = (place / "backbone.toml").read_text()
    hub = f'kind = "hub"\nrepo = "a/b"\nrevision = "{"a" * 40}"\nfile = "f"\nbytes = 1\n'
    (place / "backbone.toml").write_text(text.replace('kind = "folder"\npath = "encoder.onnx"\n', hub))
    with pytest.raises(FormatError, match="states no sha256"):
        entry(place)


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """Its export script and its backbone.toml, as they stand there."""
    page = DOCS.read_text("utf-8")
    (script,) = re.findall(r"```python\n(# export\.py\n.*?)```", page, re.S)
    (toml,) = re.findall(r"```toml\n(# my-encoder/backbone\.toml\n.*?)```", page, re.S)
    place = tmp_path / "my-encoder"
    place.mkdir()
    exec(compile(script.replace('"my-encoder/', f'"{place}/'), "export.py", "exec"), {})
    (place / "backbone.toml").write_text(toml)
    crops = np.stack([picture(i, 224, 224) for i in range(2)])
    out = open_backbone(place).embed(crops)
    assert out.shape == (2, 32)
    np.testing.assert_allclose(out[1:], open_backbone(place).embed(crops[1:]), rtol=1e-4)
