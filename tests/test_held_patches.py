"""Taps `cls.b@k`, where the class token goes on and the patch tokens stand still, and `mlp.b`, its units in a block."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from univfd.backbones import _first_token, open_backbone
from univfd.backbones import onnx as engine
from univfd.backbones._cut import cut
from univfd.backbones._kept_graph import CUTTING
from univfd.backbones._one_query import Attention
from univfd.backbones._units import units_of
from univfd.catalogue import Entry, entry
from univfd.errors import FormatError, UnknownNameError
from univfd.recipes.clip_safetensors import clip_safetensors
from univfd.types import FloatArray
from univfd.views import PreprocessSpec
from univfd.weights import GRAPH

WIDTH, HEADS, BLOCKS, PATCH, GRID = 32, 4, 6, 14, 2
SIDE = PATCH * GRID
Tensors = dict[str, FloatArray]
Embed = Callable[..., FloatArray]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """A CLIP of six blocks with random weights, by the names of the published file."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.position_embedding.weight": (GRID * GRID + 1, WIDTH),
    }
    parts = {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    parts |= {f"self_attn.{x}_proj": (WIDTH, WIDTH) for x in ("q", "k", "v", "out")}
    for i in range(BLOCKS):
        for name, shape in parts.items():
            shapes |= {f"encoder.layers.{i}.{name}.weight": shape, f"encoder.layers.{i}.{name}.bias": shape[:1]}
    values = {f"vision_model.{n}": rng.standard_normal(s, np.float32) / np.sqrt(WIDTH) for n, s in shapes.items()}
    norms = ["pre_layrnorm", "post_layernorm"]
    norms += [f"encoder.layers.{i}.layer_norm{j}" for i in range(BLOCKS) for j in (1, 2)]
    for name in norms:
        values[f"vision_model.{name}.weight"] = 1 + rng.standard_normal(WIDTH).astype(np.float32) / 5
        values[f"vision_model.{name}.bias"] = rng.standard_normal(WIDTH).astype(np.float32) / 5
    values["visual_projection.weight"] = rng.standard_normal((24, WIDTH), np.float32)
    return values


@pytest.fixture
def described() -> Entry:
    return Entry(
        name="six",
        title="six",
        engine="onnx",
        recipe="clip-safetensors",
        sha256="0" * 64,
        sources=(),
        licence="",
        blocks=BLOCKS,
        width=WIDTH,
        prefix=1,
        proj=24,
        preprocess=PreprocessSpec(SIDE, (0.5,) * 3, (0.5,) * 3),
        recipe_options={"heads": HEADS, "patch": PATCH, "activation": "quick_gelu"},
    )


@pytest.fixture
def prepared(tensors: Tensors, described: Entry, tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "six.safetensors")
    clip_safetensors(tmp_path / "six.safetensors", described, tmp_path)
    return tmp_path


@pytest.fixture
def embed(described: Entry, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    monkeypatch.setattr(engine, "ensure", lambda entry, progress: prepared)
    pixels = np.random.default_rng(1).standard_normal((3, 3, SIDE, SIDE), dtype=np.float32)
    return lambda *taps: engine.OnnxBackbone(described, taps, 1, None).embed_normalised(pixels)


def after_block(tensors: Tensors, i: int, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Block i, counted from 0, in float64, `(N, T, W)` -> `(N, T, W)` and the units of its MLP `(N, T, 4 W)`: written
    for this test, from the paper of ViT.
    """
    at = f"vision_model.encoder.layers.{i}"

    def norm(x: FloatArray, name: str) -> FloatArray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return np.asarray(x * tensors[f"{at}.{name}.weight"] + tensors[f"{at}.{name}.bias"])

    def linear(x: FloatArray, name: str) -> FloatArray:
        return np.asarray(x @ tensors[f"{at}.{name}.weight"].T.astype(np.float64) + tensors[f"{at}.{name}.bias"])

    x = norm(tokens, "layer_norm1")
    q, k, v = (linear(x, f"self_attn.{p}_proj").reshape(*x.shape[:2], HEADS, -1) for p in "qkv")
    scores = np.exp(np.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(WIDTH // HEADS))
    mixed = np.einsum("nhqk,nkhc->nqhc", scores / scores.sum(-1, keepdims=True), v).reshape(x.shape)
    tokens = tokens + linear(mixed, "self_attn.out_proj")
    inner = linear(norm(tokens, "layer_norm2"), "mlp.fc1")
    units = inner / (1 + np.exp(-1.702 * inner))
    return np.asarray(tokens + linear(units, "mlp.fc2")), np.asarray(units)


def after_two_blocks(prepared: Path) -> tuple[FloatArray, FloatArray]:
    """Class token `(N, W)` in float64 and patches `(N, T - 1, W)` after block 2, of the pixels that `embed` takes."""
    taps = ("cls.2", "patches.2")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(prepared))
    session = onnxruntime.InferenceSession(cut(prepared / GRAPH, taps, 1), options)
    pixels = np.random.default_rng(1).standard_normal((3, 3, SIDE, SIDE), dtype=np.float32)
    token, patches = session.run(list(taps), {"pixels": pixels})
    return token.astype(np.float64), patches


def test_the_class_token_goes_on_over_held_patches(tensors: Tensors, prepared: Path, embed: Embed) -> None:
    token, patches = after_two_blocks(prepared)
    tokens, units = [], []
    for i in range(2, BLOCKS):
        after, inside = after_block(tensors, i, np.concatenate([token[:, None], patches], axis=1))
        token = after[:, 0]
        tokens.append(token)
        units.append(inside[:, 0])
    got = embed("cls.3", "cls.4@2", "cls.5@2", "cls.6@2")
    np.testing.assert_allclose(got, np.concatenate(tokens, axis=1), atol=2e-5)
    assert np.abs(got[:, WIDTH : 2 * WIDTH] - embed("cls.4")).max() > 0.1
    np.testing.assert_allclose(
        embed("mlp.3", "mlp.4@2", "mlp.5@2", "mlp.6@2"), np.concatenate(units, axis=1), atol=2e-5
    )


def test_units_are_those_of_each_block(tensors: Tensors, prepared: Path, embed: Embed) -> None:
    token, patches = after_two_blocks(prepared)
    tokens, units = np.concatenate([token[:, None], patches], axis=1), []
    for i in range(2, BLOCKS):
        tokens, inside = after_block(tensors, i, tokens)
        units.append(inside[:, 0])
    got = embed("mlp.3", "mlp.4", "mlp.5", "mlp.6")
    assert got.shape == (3, 4 * 4 * WIDTH)
    np.testing.assert_allclose(got, np.concatenate(units, axis=1), atol=2e-5)


@pytest.mark.parametrize("others", [("cls.4",), ("mean.4", "mlp.3"), ("cls.6", "proj"), ("cls.5@3", "mlp.6@2")])
def test_units_are_the_same_among_other_taps(others: tuple[str, ...], embed: Embed) -> None:
    for tap in ("mlp.4", "mlp.5@3"):
        np.testing.assert_allclose(embed(*others, tap)[:, -4 * WIDTH :], embed(tap), atol=1e-5)


def test_a_graph_whose_blocks_end_otherwise_has_no_units(prepared: Path, embed: Embed) -> None:
    def gated(graph: onnx.GraphProto) -> None:
        (end,) = (n for n in graph.node if "block.5" in n.output)
        end.op_type = "Mul"

    edited(prepared, gated)
    with pytest.raises(FormatError, match=r"block\.5 does not end in one that is 4 times"):
        embed("mlp.5")
    assert embed("mlp.4").shape == (3, 4 * WIDTH)


@pytest.mark.parametrize(
    "others", [("cls.3",), ("mean.3", "cls.6"), ("cls.5@3", "cls.6@1", "proj"), ("cls.6", "mean.6")]
)
def test_a_held_tap_is_the_same_among_others(others: tuple[str, ...], embed: Embed) -> None:
    for tap in ("cls.4@2", "cls.6@2"):
        alone = embed(tap)
        np.testing.assert_allclose(embed(tap, *others)[:, :WIDTH], alone, atol=1e-5)
        np.testing.assert_allclose(embed(*others, tap)[:, -WIDTH:], alone, atol=1e-5)


def test_held_blocks_cost_neither_keys_nor_values_nor_an_mlp_of_the_patches(prepared: Path) -> None:
    def large_products(*taps: str) -> int:
        """Products of all tokens with a weight of the file."""
        model = onnx.load_from_string(cut(prepared / GRAPH, taps, 1))
        weights = {i.name for i in model.graph.initializer if len(i.dims) == 2}
        nodes = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}
        return sum(dims[n.input[0]][1] != 1 for n in nodes)

    assert large_products("mean.2") == 12  # query, key, value, output and two layers, twice
    assert large_products("cls.3") == 12
    assert large_products("cls.3", "cls.4@2", "cls.6@2") == 12
    assert large_products("mlp.3", "mlp.4@2", "mlp.6@2") == 12


def edited(prepared: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(str(prepared / GRAPH), load_external_data=False)
    change(model.graph)
    (prepared / GRAPH).write_bytes(model.SerializeToString())


def test_a_block_that_reads_more_than_the_one_before_it_is_refused(prepared: Path, embed: Embed) -> None:
    def beside(graph: onnx.GraphProto) -> None:
        (end,) = (n for n in graph.node if "block.5" in n.output)
        end.input[0] = "block.2"  # a residual of three blocks

    edited(prepared, beside)
    with pytest.raises(FormatError, match=r"block\.5 is not made of block\.4 alone. Take taps without @"):
        embed("cls.5@3")
    assert embed("cls.5", "cls.4@2").shape == (3, 2 * WIDTH)


def test_graphs_inside_of_nodes_are_refused(prepared: Path, embed: Embed) -> None:
    def chosen(graph: onnx.GraphProto) -> None:
        (end,) = (n for n in graph.node if "block.5" in n.output)
        inner = [
            helper.make_graph(
                [helper.make_node("Add", list(end.input), [f"{word}.out"])], word, [],
                [helper.make_tensor_value_info(f"{word}.out", TensorProto.FLOAT, None)],
            )
            for word in ("yes", "no")
        ]  # fmt: skip
        graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))
        end.CopyFrom(helper.make_node("If", ["always"], ["block.5"], then_branch=inner[0], else_branch=inner[1]))

    plain = embed("cls.5")
    edited(prepared, chosen)
    np.testing.assert_allclose(embed("cls.5"), plain, atol=1e-5)
    with pytest.raises(FormatError, match="patch tokens cannot stand still"):
        embed("cls.5@3")


def test_an_export_of_open_size_that_lists_constants_among_its_inputs(prepared: Path, embed: Embed) -> None:
    def old(graph: onnx.GraphProto) -> None:
        for axis in graph.input[0].type.tensor_type.shape.dim[2:]:
            axis.ClearField("dim_value")
        listed = [helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in graph.initializer]
        pixels = onnx.ValueInfoProto()
        pixels.CopyFrom(graph.input[0])
        del graph.input[:]
        graph.input.extend([*listed, pixels])

    plain = embed("cls.3", "cls.5@3")
    edited(prepared, old)
    np.testing.assert_allclose(embed("cls.3", "cls.5@3"), plain, atol=1e-5)


def test_outputs_and_inputs_that_are_left_out_stay_out(prepared: Path, embed: Embed) -> None:
    def clipped(graph: onnx.GraphProto) -> None:
        at, end = next((i, n) for i, n in enumerate(graph.node) if "block.5" in n.output)
        end.output[0] = "whole"
        most = helper.make_tensor("most", TensorProto.FLOAT, [], [1e30])
        graph.initializer.append(most)
        graph.node.insert(at + 1, helper.make_node("Clip", ["whole", "", "most"], ["dropped"]))
        graph.node.insert(at + 2, helper.make_node("Dropout", ["dropped"], ["block.5", ""]))

    plain = embed("cls.5@3", "cls.6@3")
    edited(prepared, clipped)
    np.testing.assert_allclose(embed("cls.5@3", "cls.6@3"), plain, atol=1e-5)


@pytest.mark.parametrize("wrong", ["values", "graph"])
def test_a_narrowed_graph_that_gives_other_values_is_not_used(
    wrong: str, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "good"))
    expected = embed("cls.3", "cls.5@2")
    assert not caplog.text
    really = _first_token.of_first_token

    def broken(found: Attention, first: str, made: str) -> object:
        changed = replace(found.query, scale=2 * found.query.scale)
        return really(replace(found, query=changed), first if wrong == "values" else "nothing", made)

    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "bad"))
    monkeypatch.setattr(_first_token, "of_first_token", broken)
    np.testing.assert_allclose(embed("cls.3", "cls.5@2"), expected, atol=1e-5)
    assert "the class token cannot be computed alone" in caplog.text


@pytest.mark.parametrize(("units", "found"), [(16, True), (4, False), (11, False)])
def test_units_are_four_times_as_many_as_a_token_has_values(units: int, found: bool) -> None:
    """A block that ends in attention has a product of tokens there, and other networks have other MLPs."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [units, 4], [0.0] * (4 * units))
    bias = helper.make_tensor("b", TensorProto.FLOAT, [4], [0.0] * 4)
    nodes = [
        helper.make_node("MatMul", ["inner", "w"], ["product"]),
        helper.make_node("Add", ["b", "product"], ["branch"]),
        helper.make_node("Add", ["tokens", "branch"], ["block.1"]),
    ]
    graph = helper.make_graph(nodes, "one", [], [], [weights, bias])
    if found:
        assert units_of(graph, "block.1") == "inner"
    else:
        with pytest.raises(FormatError, match="not end in one that is 4 times as wide"):
            units_of(graph, "block.1")


def test_what_cuts_is_part_of_what_a_kept_graph_is_known_by() -> None:
    """Else a change of it would not be seen where a graph lies in the cache."""
    folder = Path(engine.__file__).parent
    seen, todo = set(), ["_cut.py"]
    while todo:
        name = todo.pop()
        seen.add(name)
        read = re.findall(r"^from \.(_\w+) import", (folder / name).read_text("utf-8"), re.MULTILINE)
        todo += [f"{module}.py" for module in read if f"{module}.py" not in seen]
    assert seen | {"_kept_graph.py"} == set(CUTTING)


def test_taps_inside_that_are_none(described: Entry) -> None:
    clip = entry("clip-vit-b-16")
    assert clip.tap_dim("cls.10@7") == 768
    assert clip.tap_dim("mlp.10") == clip.tap_dim("mlp.10@7") == 3072
    for tap in (
        "cls.8@7",
        "cls.7@7",
        "cls.6@7",
        "cls.13@7",
        "cls.9@0",
        "cls.09@7",
        "mean.9@7",
        "cls.9@7@6",
        "cls.9@",
        "cls.1\u0660@7",
        "mlp.0",
        "mlp.13",
        "mlp.8@7",
        "mlp.",
    ):
        with pytest.raises(
            UnknownNameError,
            match=r"no tap of clip-vit-b-16 is called .* expected mlp\.B, cls\.B@K or mlp\.B@K, K \+ 1 < B",
        ):
            open_backbone("clip-vit-b-16", taps=(tap,))
    for tap in ("cls.4@2", "mlp.4"):
        with pytest.raises(UnknownNameError):  # no class token
            entry("siglip2-vit-b-16").tap_dim(tap)
