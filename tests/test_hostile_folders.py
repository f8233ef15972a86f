"""Banks, detectors, indexes, encoders and embeddings of strangers: a clear error, no code, nothing read outside."""

from __future__ import annotations

import ast
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import univfd
from conftest import random_bank
from univfd.backbones import Backbone
from univfd.bank import FeatureBank
from univfd.catalogue import entry
from univfd.detector import Detector, load
from univfd.embeddings_file import read_embeddings
from univfd.errors import FormatError, UnivFDError
from univfd.index import open_index
from univfd.storage import parsed, parsed_toml, read_arrays, within

ROOT = Path(univfd.__file__).parent


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    random_bank(6).save(tmp_path / "bank")
    return tmp_path / "bank"


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text("utf-8"))
    change(data)
    file.write_text(json.dumps(data), "utf-8")


def rewrite(file: Path, **arrays: np.ndarray | None) -> None:
    """Other arrays in a file; None takes one out."""
    kept = dict(load_file(file)) | arrays
    save_file({k: v for k, v in kept.items() if v is not None}, file)


BAD_ARRAYS: dict[str, dict[str, np.ndarray | None]] = {
    "nan": {"vectors": np.full((6, 8), np.nan, np.float32)},
    "infinity": {"vectors": np.full((6, 8), np.inf, np.float32)},
    "too large for float32": {"vectors": np.full((6, 8), 1e300)},
    "other shape": {"vectors": np.ones((6, 9), np.float32)},
    "fewer rows": {"labels": np.zeros(5, np.uint8)},
    "no such label": {"labels": np.full(6, 2, np.uint8)},
    "labels that are no integers": {"labels": np.full(6, np.nan)},
    "labels below 0": {"labels": np.full(6, -1, np.int8)},
    "keys of another type": {"keys": np.zeros((6, 32), np.float32)},
    "a word that is not there": {"generator": np.full(6, 99, np.uint32)},
    "a word before the first": {"generator": np.full(6, -1, np.int32)},
    "words by halves": {"source": np.full(6, 0.5)},
    "complex": {"vectors": np.ones((6, 8), np.complex64)},
    "no vectors": {"vectors": None},
    "a scale that overflows": {"vectors": np.full((6, 8), 127, np.int8), "scale": np.full(8, 3e38, np.float32)},
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_poisoned_rows_are_refused(bank: Path, name: str) -> None:
    rewrite(bank / "bank.safetensors", **BAD_ARRAYS[name])
    if "scale" in BAD_ARRAYS[name]:
        edit(bank / "bank.json", lambda m: m.update(dtype="int8"))
    with pytest.raises(FormatError, match="bank"):
        FeatureBank.load(bank)


def test_a_scale_that_the_manifest_does_not_tell_of_is_of_the_columns(bank: Path) -> None:
    rewrite(bank / "bank.safetensors", vectors=np.ones((6, 8), np.int8), scale=np.ones((2, 6, 8), np.float32))
    with pytest.raises(FormatError, match="'scale' is"):
        FeatureBank.load(bank)


BAD_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "rows are text": lambda m: m.update(rows="6"),
    "more rows than there are": lambda m: m.update(rows=10**18),
    "rows below 0": lambda m: m.update(rows=-1),
    "dim is text": lambda m: m["space"].update(dim="8"),
    "dim is 0": lambda m: m["space"].update(dim=0),
    "dim is huge": lambda m: m["space"].update(dim=10**18),
    "taps are numbers": lambda m: m["space"].update(taps=[1]),
    "a key too many": lambda m: m["space"].update(code="import os"),
    "columns are a list": lambda m: m.update(columns=[]),
    "words are a text": lambda m: m["columns"].update(generator="gen"),
    "words are objects": lambda m: m["columns"].update(generator=[{"a": 1}] * 9),
    "words are lists": lambda m: m["columns"].update(source=[["a"], ["b", "c"]] * 9),
    "half a character": lambda m: m["columns"].update(source=["\ud800"] * 9),
    "another kind": lambda m: m.update(kind="detector"),
    "a schema to come": lambda m: m.update(schema=99),
    "a schema of text": lambda m: m.update(schema="1"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifests_are_refused(bank: Path, name: str) -> None:
    edit(bank / "bank.json", BAD_MANIFESTS[name])
    with pytest.raises(FormatError):
        FeatureBank.load(bank)


def test_keys_that_nobody_asks_for_do_nothing(bank: Path) -> None:
    before = FeatureBank.load(bank)
    edit(bank / "bank.json", lambda m: m.update({"import": "os", "path": "../../x", "__class__": "y"}))
    assert FeatureBank.load(bank).digest == before.digest


def test_two_rows_of_one_key_are_two_rows(bank: Path) -> None:
    """No harm in it: rows are found by number."""
    rewrite(bank / "bank.safetensors", keys=np.zeros((6, 32), np.uint8))
    assert len(FeatureBank.load(bank)) == 6


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"kind":' * 100_000, '{"kind": "feature bank", "schema": ' + "9" * 5000 + "}", "\xff", ""]
)
def test_json_made_to_break_a_reader_is_refused(bank: Path, text: str) -> None:
    (bank / "bank.json").write_text(text, "latin-1")
    with pytest.raises(FormatError):
        FeatureBank.load(bank)


def test_deep_json_and_toml_are_value_errors() -> None:
    for read, text in ((parsed, "[" * 100_000), (parsed, b"[" * 100_000), (parsed_toml, "a=" + "[" * 100_000)):
        with pytest.raises(ValueError, match="nested too deeply"):
            read(text)  # type: ignore[operator]
    with pytest.raises(ValueError, match="no Unicode"):
        parsed('["\\ud800"]')
    assert parsed('["\\ud83e\\udd8a"]') == ["\N{FOX FACE}"]


def safetensors(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"{}", 1 << 62),
        safetensors(b"{}", 99_000_000),
        safetensors(b'{"a":' * 50_000),
        safetensors(
            b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 4]}}', body=b"1234"
        ),
        safetensors(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400000000]}}', body=b"1234"),
        safetensors(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', body=b"1234"),
        safetensors(b'{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}', body=b"1234"),
        safetensors(b'{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}', body=b"1234"),
        b"",
    ],
    ids=[
        "length",
        "length within the limit",
        "depth",
        "shape",
        "offsets",
        "shape below 0",
        "bfloat16",
        "float8",
        "empty",
    ],
)
def test_headers_of_safetensors_are_not_believed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(FormatError):
        read_arrays(tmp_path / "x.safetensors", {"a": (1,)})


def test_a_link_out_of_the_folder_is_not_followed(bank: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for name in ("bank.safetensors", "bank.json"):
        shutil.move(bank / name, secret)
        (bank / name).symlink_to(secret)
        with pytest.raises(FormatError, match="link out of its folder"):
            FeatureBank.load(bank)
        (bank / name).unlink()
        shutil.move(secret, bank / name)
    (tmp_path / "by another name").symlink_to(bank)  # the folder itself may be reached by a link
    assert len(FeatureBank.load(tmp_path / "by another name")) == 6


@pytest.mark.parametrize("name", ["bank.json", "bank.safetensors"])
def test_a_pipe_is_not_waited_for(bank: Path, name: str) -> None:
    (bank / name).unlink()
    os.mkfifo(bank / name)
    with pytest.raises(FormatError, match="no regular file"):
        FeatureBank.load(bank)


def test_within_takes_links_that_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").symlink_to("a")
    assert within(tmp_path / "b").read_text() == "x"


@pytest.fixture
def folder(toy_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_folder, tmp_path / "stranger"))


def test_a_whole_detector_is_opened(folder: Path, toy: Backbone) -> None:
    assert isinstance(load(folder, backbone=toy), Detector)


BAD_DETECTORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a bank above": lambda m: m.update(bank="../bank"),
    "a bank elsewhere": lambda m: m.update(bank="/tmp"),
    "a bank of another drive": lambda m: m.update(bank="bank/../../other"),
    "a classifier by path": lambda m: m["classifier"].update(name="../../evil"),
    "a classifier of another module": lambda m: m["classifier"].update(name="os"),
    "a classifier that is hidden": lambda m: m["classifier"].update(name="_linear"),
    "a classifier that is a number": lambda m: m["classifier"].update(name=3),
    "a parameter too many": lambda m: m["classifier"]["params"].update(command="x"),
    "a view of its own": lambda m: m["space"].update(view="grid-99999"),
    "thresholds out of order": lambda m: m["calibration"].update(fake_above=-9),
    "a threshold of nan": lambda m: m["calibration"].update(fake_above=float("nan")),
    "a threshold of text": lambda m: m["calibration"].update(fake_above="0"),
    "a slope of text": lambda m: m["calibration"].update(slope="1"),
    "a slope without end": lambda m: m["calibration"].update(slope=float("inf")),
    "a rate above 1": lambda m: m["calibration"].update(max_fpr=2),
    "a rate below 0": lambda m: m["calibration"].update(max_miss=-0.1),
    "a distance of text": lambda m: m["calibration"].update(known_within="near"),
    "data that are no text": lambda m: m["calibration"].update(data=["x"]),
    "images below 0": lambda m: m["calibration"].update(n_real=-1),
    "groups of numbers": lambda m: m["calibration"].update(groups=[{"group": 1, "n": 1, "fake_above": None}]),
    "groups that are none": lambda m: m["calibration"].update(groups=3),
    "a field too many": lambda m: m["calibration"].update(run="x"),
    "a calibration that is a list": lambda m: m.update(calibration=[]),
    "a name that is a list": lambda m: m.update(name=["x"]),
}


@pytest.mark.parametrize("name", BAD_DETECTORS)
def test_bad_detectors_are_refused(folder: Path, toy: Backbone, name: str) -> None:
    shutil.copytree(folder / "bank", folder.parent / "bank")  # what lies outside would do as a bank
    edit(folder / "detector.json", BAD_DETECTORS[name])
    with pytest.raises(UnivFDError):
        load(folder, backbone=toy)


@pytest.mark.parametrize(
    "coef",
    [np.full(48, np.nan), np.full(48, np.inf), np.ones(47), np.ones((48, 1)), np.ones(48, bool)],
)
def test_bad_weights_are_refused(folder: Path, toy: Backbone, coef: np.ndarray) -> None:
    rewrite(folder / "classifier.safetensors", coef=coef)
    with pytest.raises(FormatError):
        load(folder, backbone=toy)


def test_loading_a_detector_runs_nothing_of_it(folder: Path, tmp_path: Path) -> None:
    """Files of Python and of pickle beside the manifest, and names that sound like code: none is touched."""
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()"
    for name in ("__init__.py", "linear.py", "sitecustomize.py", "classifiers.py", "conftest.py", "setup.py"):
        (folder / name).write_text(code)
        (folder / "bank" / name).write_text(code)
    (folder / "classifier.pkl").write_bytes(
        b"cbuiltins\nexec\n(X" + struct.pack("<I", len(code)) + code.encode() + b"tR."
    )
    edit(folder / "detector.json", lambda m: m.update(classifier={**m["classifier"], "module": "linear", "exec": code}))
    watch = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, args: seen.append((name, args)) if name in "
        "{'exec', 'os.system', 'subprocess.Popen', 'pickle.find_class', 'open'} else None)\n"
        "import univfd, univfd.detector, univfd.backbones.toy, univfd.classifiers.linear\n"
        "seen.clear()\n"
        f"univfd.load({str(folder)!r})\n"
        "names = {name for name, _ in seen}\n"
        "assert not names & {'os.system', 'subprocess.Popen', 'pickle.find_class'}, names\n"
        f"mine = [str(a[0]) for n, a in seen if n == 'open' and str(a[0]).startswith({str(folder.parent)!r})]\n"
        "assert mine, 'the hook sees nothing'\n"
        f"inside = [f for f in mine if f.startswith({str(folder)!r} + '/') and f.endswith(('.json', '.safetensors'))]\n"
        "assert mine == inside, mine\n"
        f"ran = [a[0].co_filename for n, a in seen if n == 'exec' and {str(folder.parent)!r} in a[0].co_filename]\n"
        "assert not ran, ran\n"
    )
    paths = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", watch], cwd=folder.parent, capture_output=True, text=True, env=paths)
    assert done.returncode == 0, done.stderr
    assert not trace.exists()


ENTRY = """name = "mine"
title = "Mine"
engine = "onnx"
recipe = "onnx-as-is"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
licence = "MIT"
blocks = 0
width = 4
prefix = 0
proj = 4
[preprocess]
size = 8
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[[source]]
kind = "folder"
path = "encoder.onnx"
"""
FOLDER = 'kind = "folder"\npath = "encoder.onnx"'
HUB = 'kind = "hub"\nrepo = "owner/name"\nrevision = "0"\nfile = "f"\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mine"', '"../../../escaped"'),  # it names a folder of the cache
        ('"mine"', '"a/b"'),
        ('"' + "0" * 64 + '"', '"../.."'),
        ('"encoder.onnx"', '"../encoder.onnx"'),
        ('"encoder.onnx"', '"/etc/hostname"'),
        ("size = 8", "size = 1000000000"),
        ("size = 8", "size = 0"),
        ("size = 8", 'size = "8"'),
        ("std = [0.5, 0.5, 0.5]", "std = [0, 0, 0]"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [nan, 0.5, 0.5]"),
        ("mean = [0.5, 0.5, 0.5]", 'mean = "abc"'),
        ("blocks = 0", "blocks = 1000000000000"),
        ("proj = 4", "proj = -4"),
        ('title = "Mine"', "title = 3"),
        ('"onnx-as-is"', "[1]"),
        ('title = "Mine"', "title = " + "[" * 5000),
        (FOLDER, HUB + 'bytes = "x"'),  # the progress counts with it
        (FOLDER, HUB + "bytes = true"),
        (FOLDER, HUB + "bytes = -1"),
        (FOLDER, HUB.replace('"owner/name"', "3") + "bytes = 1"),
    ],
)
def test_entries_of_encoders_are_checked(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "backbone.toml").write_text(ENTRY)
    assert entry(tmp_path / "e").name == "mine"
    assert old in ENTRY
    (tmp_path / "e" / "backbone.toml").write_text(ENTRY.replace(FOLDER, HUB + "bytes = 1"))
    assert entry(tmp_path / "e").name == "mine"
    (tmp_path / "e" / "backbone.toml").write_text(ENTRY.replace(old, new))
    with pytest.raises(UnivFDError):
        entry(tmp_path / "e")


@pytest.mark.parametrize(
    "change", [{"effort": {"probes": "1"}}, {"effort": {}}, {"files": ["x"]}, {"rows": "4"}, {"dim": None}]
)
def test_bad_manifests_of_an_index_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    bank = random_bank(6)
    recall = {"k": 9, "aim": 0.98, "queries": 3, "mean": {"any": 1.0}, "error": {"any": 0.0}}
    manifest = {
        "kind": "neighbour index", "schema": 1, "index": "faiss", "rows": 6, "dim": 8, "digest": bank.digest,
        "parameters": {}, "effort": {"probes": 1}, "recall": recall, "seconds": 0.1, "library": "x", "files": {},
    }  # fmt: skip
    (tmp_path / "index.json").write_text(json.dumps(manifest | change))
    with pytest.raises(FormatError):
        open_index(bank, tmp_path)


def test_embeddings_of_objects_and_of_lies_are_refused(tmp_path: Path) -> None:
    space = random_bank(1).space.to_dict()
    (tmp_path / "embeddings.json").write_text(
        json.dumps({"kind": "embeddings", "schema": 1, "rows": 1, "space": space, "perturb": "clean"})
    )
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    huge += b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 8), }".ljust(117) + b"\n"
    np.save(tmp_path / "objects.npy", np.array([None, {}], object), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.ones((1, 8)))
    for content in (
        huge,
        (tmp_path / "objects.npy").read_bytes(),
        (tmp_path / "wide.npy").read_bytes(),
        b"\x93NUMPY\x01\0((",
    ):
        (tmp_path / "vectors.npy").write_bytes(content)
        with pytest.raises(FormatError):
            read_embeddings(tmp_path)


IMPORTS = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml"}
# Calls that run, or may run, what a file or a text says.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "marshal.loads",
             "shelve.open", "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.loads", "joblib.load",
             "torch.load", "runpy.run_path"}  # fmt: skip


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a call's function, or an empty string."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def dangers(text: str) -> list[str]:
    """What in a module's text could run something of a stranger's."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        found += [f"imports {n}" for n in names if n.partition(".")[0] in IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {k.arg: k.value for k in node.keywords}
        if name in FORBIDDEN and not (name == "torch.load" and _is(given.get("weights_only"), True)):
            found.append(f"calls {name}")
        if name in {"np.load", "numpy.load"} and not _is(given.get("allow_pickle"), False):
            found.append("np.load without allow_pickle=False")
        if not _is(given.get("shell", ast.Constant(False)), False):
            found.append("a call with shell=")
        if name.endswith((".extractall", ".extract")) and name.partition(".")[0] in {"tar", "archive"}:
            found.append(f"{name} writes where the archive says")
    return found


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_the_check_below_sees_what_it_is_for() -> None:
    for text in (
        "import pickle", "from pickle import loads", "eval('1')", "torch.load(f)", "np.load(f)", "yaml.load(f)",
        "np.load(f, allow_pickle=True)", "subprocess.run('x', shell=True)", "torch.load(f, weights_only=False)",
        "tar.extractall()", "os.system('x')",
    ):  # fmt: skip
        assert dangers(text), text
    assert not dangers(
        "np.load(f, allow_pickle=False)\ntorch.load(f, weights_only=True)\nmodel.eval()\nre.compile('x')"
    )


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_can_run_what_a_file_says(path: Path) -> None:
    assert not dangers(path.read_text("utf-8"))
