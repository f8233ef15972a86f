"""`univfd bank` on a store, with real images and the toy encoder: adding, trying out, doctor, misses."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from commands import run
from conftest import encoded, picture, random_bank, toy_samples
from univfd.backbones import Backbone
from univfd.bank import FeatureBank
from univfd.building import assemble, build_bank
from univfd.detector import load
from univfd.detector_folder import BANK, MANIFEST
from univfd.embedding import space_of
from univfd.errors import DataError, FormatError, UnivFDError, UsageError
from univfd.store import BankStore, Rows
from univfd.store.admission import near_rows
from univfd.store.condensing import condense, farthest_first
from univfd.store.doctor import command_of, examine
from univfd.store.trying import effect_on_bank
from univfd.types import Embeddings, FeatureSpace, Label
from univfd.views import view


@pytest.fixture(scope="module")
def made(toy: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the detector `nn` (nearest neighbours, toy encoder)."""
    folder = tmp_path_factory.mktemp("made")
    cut = view("native")
    built = build_bank(toy, cut, toy_samples(), added="2026-01-01")
    assemble("nn", toy, cut, built.bank, "knn", {"k": 1}).save(folder / "nn")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the store `s`, which has the detector's bank; the cache is empty too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("univfd.embedding_cache.home", lambda: tmp_path / "cache")
    run("bank", "import", "s", made / "nn")
    return tmp_path


def odd(seed: int) -> bytes:
    """A fake of a generator that the bank does not know: stripes."""
    pixels = picture(1000 + seed, 240, 240)
    pixels[:, ::3] = 255 - pixels[:, ::3]
    return encoded(pixels, "PNG")


def folder_of(place: Path, images: dict[str, bytes]) -> Path:
    place.mkdir(parents=True)
    for name, data in images.items():
        (place / name).write_bytes(data)
    return place


def test_adding_reports_doubles_conflicts_near_ones_and_failures(here: Path) -> None:
    known_fake = toy_samples()[1].ref.source
    assert isinstance(known_fake, bytes)
    slightly = picture(1, 240, 240)
    slightly[::2, ::2] = 255 - slightly[::2, ::2] // 2
    slightly[0, 0] ^= 1
    new = folder_of(here / "new", {
        "a.png": odd(0), "b.png": odd(0), "broken.png": odd(1)[:200], "c.png": odd(2),
        "near.png": encoded(slightly, "PNG"),
    })  # fmt: skip
    (here / "new" / "known.png").write_bytes(known_fake)
    result = run(
        "bank", "add", "s", new, "--label", "fake", "--generator", "stripes", "--near", "1e-4", "--json", code=3
    )
    said = json.loads(result.stdout)
    report = said["report"]
    assert said["edit"]["added"] == report["new"] == 3
    assert [Path(d["image"]).name for d in report["doubles"]] == ["b.png", "known.png"]
    assert [Path(f["image"]).name for f in report["failures"]] == ["broken.png"]
    assert [Path(n["image"]).name for n in report["near"]] == ["near.png"]
    assert report["images"] == 6 == report["new"] + len(report["doubles"]) + len(report["failures"])

    real = run("bank", "add", "s", new / "a.png", "--label", "real", "--json")
    said = json.loads(real.stdout)
    assert said["edit"] is None
    assert [(d["label"], d["known_as"]) for d in said["report"]["conflicts"]] == [("real", "fake")]
    store = BankStore.open("s")
    snapshot = store.snapshot()
    of_stripes = np.flatnonzero(snapshot.bank.generator == "stripes")
    assert len(of_stripes) == 3
    assert snapshot.rows.format[of_stripes].tolist() == ["PNG"] * 3
    thumbnails = store.thumbnails(snapshot.ids)
    assert set(thumbnails) == set(snapshot.ids[of_stripes].tolist())
    assert all(t.startswith(b"\xff\xd8") for t in thumbnails.values())


def test_every_kind_of_collection_comes_in(here: Path) -> None:
    folder_of(here / "data" / "real" / "cam", {"r.png": encoded(picture(2000, 240, 240), "PNG")})
    folder_of(here / "data" / "fake" / "stripes", {"f.png": odd(3)})
    lines = [{"file": "data/fake/stripes/f.png", "label": "fake"}, {"file": "m.png", "label": "fake", "generator": "m"}]
    (here / "m.png").write_bytes(odd(4))
    (here / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with tarfile.open(here / "t.tar", "w") as tar:
        info = tarfile.TarInfo("x.png")
        info.size = len(odd(5))
        tar.addfile(info, io.BytesIO(odd(5)))
    run("bank", "add", "s", "data", "list.jsonl", "--licence", "CC0")
    run("bank", "add", "s", "t.tar", "--label", "fake", "--generator", "tarred", "--no-thumbnails")
    bank = BankStore.open("s").snapshot().bank
    assert bank.generator[-4:].tolist() == ["", "stripes", "m", "tarred"] or sorted(bank.generator[-4:]) == sorted(
        ["", "stripes", "m", "tarred"]
    )
    assert len(bank) == 48 + 4
    assert (bank.licence[-4:] == "CC0").sum() == 3


def test_edits_from_the_command_line(here: Path, made: Path) -> None:
    folder_of(here / "new", {f"{i}.png": odd(i) for i in range(4)})
    run("bank", "add", "s", "new", "--label", "fake", "--generator", "stripes", "--batch", "b1")
    assert "4 rows would be removed" in run("bank", "remove", "s", "--batch", "b1", "--dry-run").stdout
    run("bank", "remove", "s", "new/0.png")
    run("bank", "relabel", "s", "--generator", "stripes", "--set", "generator=zebra", "--set", "note=better name")
    run("bank", "tag", "s", "zebras")
    run("bank", "undo", "s", "--steps", "2")
    assert (BankStore.open("s").snapshot().bank.generator == "stripes").sum() == 4
    run("bank", "checkout", "s", "zebras")
    assert (BankStore.open("s").snapshot().bank.generator == "zebra").sum() == 3
    log = json.loads(run("bank", "log", "s", "--json").stdout)
    assert [e["op"] for e in log] == ["create", "import", "add", "remove", "relabel", "tag", "undo", "checkout"]
    diff = json.loads(run("bank", "diff", "s", "2", "zebras", "--json").stdout)
    assert (len(diff["came"]), len(diff["went"])) == (3, 4)
    run("bank", "export", "s@1", "out")
    assert FeatureBank.load("out").digest == FeatureBank.load(made / "nn" / "bank").digest
    run("bank", "import", "t", "out")
    run("bank", "merge", "t", "s")
    assert len(BankStore.open("t").snapshot().bank) == 51
    assert "zebra" in run("bank", "info", "t").stdout
    run("bank", "compact", "s", "--forget", "--yes")
    assert [e["op"] for e in json.loads(run("bank", "log", "s", "--json").stdout)] == ["checkout", "forget"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("remove", "s"), "say which rows"),
        (("remove", "s", "--key", "abc"), "at least the first 6 hex digits"),
        (("remove", "s", "--key", "00000000"), "names 0 images"),
        (("remove", "s@1", "--label", "fake"), "only the newest can be changed"),
        (("relabel", "s", "--label", "fake"), "say what to change"),
        (("relabel", "s", "--label", "fake", "--set", "key=x"), "expected NAME=TEXT"),
        (("tag", "s", "7"), "a name that is no number"),
        (("add", "s", "--label", "fake"), "no images given"),
        (("add", "s", "x", "--label", "real", "--generator", "g"), "--generator is of fakes"),
        (("import", "s", "neighbors"), "use 'univfd bank merge"),
        (("info", "nowhere"), "no such folder"),
        (("checkout", "s", "99"), "no version 99"),
    ],
)
def test_wrong_calls_are_said(here: Path, args: tuple[str, ...], message: str) -> None:
    with pytest.raises(UnivFDError, match=message):
        run("bank", *args)
    assert len(BankStore.open("s").history().edits) == 2


def test_rows_of_a_new_generator_change_its_verdicts(here: Path, made: Path) -> None:
    folder_of(here / "few", {f"{i}.png": odd(i) for i in range(5)})
    folder_of(here / "more", {f"{i}.png": odd(i) for i in range(10, 20)})
    reals = folder_of(here / "reals", {f"{i}.png": encoded(picture(3000 + i, 240, 240), "PNG") for i in range(6)})
    nn = str(made / "nn")
    tried = run("bank", "what-if", "s", "few", "--label", "fake", "--generator", "stripes", "--test", "more",
                "--reals", reals, "--detector", nn, "--json")  # fmt: skip
    effects = {e["images"]: e for e in json.loads(tried.stdout)["effects"]}
    assert len(BankStore.open("s").history().edits) == 2  # nothing was changed
    assert effects["--test"]["n"] == 10
    assert effects["--test"]["after"].get("fake", 0) == 10
    assert effects["--reals"]["after"] == effects["--reals"]["before"]

    def verdicts(name: str) -> list[dict[str, Any]]:
        rows = run("detect", "more", "reals", "--detector", nn, "--bank", name, "--jsonl").stdout.splitlines()
        return [{k: v for k, v in json.loads(r).items() if k != "timings"} for r in rows]

    before = verdicts("s")
    assert sum(v["verdict"] == "fake" for v in before[:10]) == effects["--test"]["before"].get("fake", 0)
    run("bank", "add", "s", "few", "--label", "fake", "--generator", "stripes")
    after = verdicts("s")
    assert sum(v["verdict"] == "fake" for v in after[:10]) == 10
    assert after[0]["nearest_fake"][0]["generator"] == "stripes"
    digest = BankStore.open("s").history().tip.content[:12]
    assert after[0]["detector"].startswith(f"nn+s:2@{digest}@")
    assert verdicts("s@1") == before
    run("bank", "undo", "s")
    scored = ("score", "verdict", "nearest_fake", "nearest_real")
    assert [[v[k] for k in scored] for v in verdicts("s")] == [[v[k] for k in scored] for v in before]


def test_an_interrupted_addition_embeds_nothing_twice(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(here / "new", {f"{i}.png": odd(i) for i in range(4)})
    with monkeypatch.context() as patch:
        patch.setattr("univfd.store.adding.add_rows", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(click.Abort):
            run("bank", "add", "s", "new", "--label", "fake")
    assert len(BankStore.open("s").history().edits) == 2
    from univfd.backbones.toy import ToyBackbone

    monkeypatch.setattr(ToyBackbone, "embed", lambda *_: pytest.fail("embedded again"))
    run("bank", "add", "s", "new", "--label", "fake")
    assert len(BankStore.open("s").snapshot().ids) == 52


def test_refit_says_what_it_changes(here: Path) -> None:
    folder_of(here / "few", {f"{i}.png": odd(i) for i in range(8)})
    run("bank", "add", "s", "few", "--label", "fake", "--generator", "stripes")
    result = run("bank", "refit", "s", "-o", "new", "--since", "1", "--max-fpr", "0.2", "--max-miss", "0.2", "--json")
    said = json.loads(result.stdout)
    assert said["compared"] == 48
    assert said["detector"] == load("new").identity
    assert said["detector"].startswith("new+s:2@")
    assert len(said["flips"]) <= 48
    assert load("new").bank.digest == BankStore.open("s").snapshot().bank.digest


def test_misses_become_a_suite_that_bench_runs(here: Path, made: Path) -> None:
    nn = str(made / "nn")
    fakes = folder_of(here / "fakes", {"new.png": odd(1), "grid.png": bytes(toy_samples()[1].ref.source)})  # type: ignore[arg-type]
    said = json.loads(run("bank", "miss", fakes, "--truth", "fake", "--detector", nn, "--bank", "s", "--json").stdout)
    status = {Path(s["image"]).name: s["status"] for s in said}
    assert status["grid.png"] == "right"
    wrong = [s for s in said if s["verdict"] != "fake"]
    assert status["new.png"] == ("filed" if wrong else "right")
    run("bank", "miss", fakes, "--truth", "fake", "--detector", nn, "--generator", "g", "--anyway")
    again = json.loads(run("bank", "miss", fakes, "--truth", "fake", "--detector", nn, "--anyway", "--json").stdout)
    assert [s["status"] for s in again] == ["known", "known"]
    with pytest.raises(UnivFDError, match="as fake; one of the two is wrong"):
        run("bank", "miss", fakes, "--truth", "real", "--detector", nn)
    run("bank", "miss", made / "nn" / "none.png", "--truth", "fake", "--detector", nn, code=3)
    run("bench", "run", "misses", "--detectors", nn, "-o", "run")
    assert (here / "run" / "scores.parquet").is_file()
    with pytest.raises(UnivFDError, match="holds other things"):
        run("bank", "miss", fakes, "--truth", "fake", "--suite", "fakes", "--detector", nn)


# -- doctor and condense, on vectors -----------------------------------------------------------------------------------


def test_doctor_finds_what_was_planted() -> None:
    rng = np.random.default_rng(0)
    bank = random_bank(200, seed=3, dim=32)
    centre = np.where(bank.labels[:, None] == 1, 4.0, -4.0) * np.eye(32)[0]
    vectors = (rng.standard_normal((200, 32)) + centre).astype(np.float32)
    labels = bank.labels.copy()
    labels[5] = 0  # a fake that is called real
    vectors[8] = vectors[9] * 2  # one direction, two classes
    licence = bank.licence.copy()
    licence[20:23] = ""
    rows = Rows.of(replace(bank, vectors=vectors, labels=labels, licence=licence))
    format = np.where(labels == 1, "PNG", "JPEG").astype(object)
    found = {f.kind: f for f in examine(replace(rows, format=format))}
    key = bank.key
    assert key(5) in found["label-noise"].remove
    assert set(found["near-conflict"].rows) == {key(8), key(9)}
    assert set(found["licence"].rows) == {key(i) for i in (20, 21, 22)}
    assert "100%" in found["format"].text
    assert "size" not in found
    assert f"--key {key(5)[:16]}" in command_of("my bank", found["label-noise"])
    assert command_of("my bank", found["label-noise"]).startswith("univfd bank remove 'my bank' --key")
    assert not {f.kind for f in examine(Rows.of(replace(bank, vectors=vectors)))} & {"format", "classes", "licence"}


def test_doctor_finds_hubs_and_doubles() -> None:
    bank = random_bank(300, seed=3, dim=300)
    vectors = np.eye(300, dtype=np.float32) + bank.vectors / 100
    vectors[7] = 1  # near to all, which are far from each other
    rows = Rows.of(replace(bank, vectors=vectors))
    assert next(f for f in examine(rows) if f.kind == "hub").remove == (bank.key(7),)
    twice = Rows.of(bank.add(replace(bank.take([0]), labels=np.array([1], np.uint8))))
    assert next(f for f in examine(twice) if f.kind == "conflict").remove == (bank.key(0),)
    assert [f.kind for f in examine(Rows.of(FeatureBank.empty(bank.space)))] == ["empty"]


def test_condense_covers_and_says_what_it_costs() -> None:
    points = np.array([[1, 0], [0.99, 0.14], [0, 1], [-1, 0], [-0.99, 0.14]], np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    picked = farthest_first(unit, 3)
    reach = (1 - unit @ unit[picked].T).min(axis=1).max()
    best = min(
        (1 - unit @ unit[list(c)].T).min(axis=1).max() for c in __import__("itertools").combinations(range(5), 3)
    )
    assert reach <= 4 * best + 1e-6  # twice in angle, about four times in cosine distance
    bank = random_bank(240, seed=1, dim=16)
    shift = np.where(bank.labels[:, None] == 1, 1.0, -1.0) * np.eye(16)[0] * 3
    source = np.where(bank.labels == 1, bank.generator, bank.source)
    rows = Rows.of(replace(bank, vectors=(bank.vectors + shift).astype(np.float32), source=source))
    result = condense(rows, 0.25)
    assert 50 <= result.keep.sum() <= 75
    assert result.judged == 240
    assert 0.5 < result.auroc[1] <= 1
    assert result.auroc[0] > 0.8
    with pytest.raises(UnivFDError, match="between 0 and 1"):
        condense(rows, 1.0)
    with pytest.raises(UsageError, match="k is 2; expected an odd number"):
        condense(rows, 0.25, k=2)
    with pytest.raises(DataError, match="leaving one out needs at least 2"):
        condense(rows.take(np.flatnonzero(bank.labels == 0)), 0.5)
    with pytest.raises(DataError, match="nothing is left to train on"):
        condense(Rows.of(bank), 0.5)  # fakes and reals share all sources


def test_near_rows_looks_at_bank_and_batch() -> None:
    bank = random_bank(20)
    vectors = np.stack([bank.vectors[3] * 2, -bank.vectors[3], -bank.vectors[3] * 0.5]).astype(np.float32)
    found = near_rows(["a", "b", "c"], ["k1", "k2", "k3"], [Label.FAKE] * 3, vectors, bank, 1e-3)
    assert [(n.image, n.other) for n in found if n.image != "b"] == [("a", bank.key(3)), ("c", "k2")]
    assert found[0].conflict == (bank.labels[3] == 0)


def test_a_plain_command_imports_no_lancedb() -> None:
    code = (
        "import sys; from univfd.cli.bank import command; print('lancedb' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_lancedb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(UnivFDError, match="a bank store needs lancedb, which is not installed: pip install"):
        BankStore.create(tmp_path / "s", random_bank(1).space)


def placed(space: FeatureSpace, rows: list[tuple[int, str, float]]) -> FeatureBank:
    """Rows `(axis, generator or source, length)` along axes; generators begin with g."""
    vectors = np.zeros((len(rows), space.dim), np.float32)
    for i, (axis, _, length) in enumerate(rows):
        vectors[i, axis] = length
    names = [name for _, name, _ in rows]
    return FeatureBank.from_rows(
        Embeddings(vectors, space), np.array([n.startswith("g") for n in names], np.uint8),
        [hashlib.sha256(repr(r).encode()).hexdigest() for r in rows],
        generator=[n if n.startswith("g") else "" for n in names],
        source=["" if n.startswith("g") else n for n in names],
    )  # fmt: skip


def test_what_if_of_a_bank_whose_fakes_have_one_place(toy: Backbone) -> None:
    space = space_of(toy, view("native"))
    old = placed(space, [(0, "s", 1), (0, "s", 2), (3, "t", 1), (1, "g", 1), (1, "g", 2)])
    grown = old.add(placed(space, [(2, "g2", 1)]))
    before = assemble("nn", toy, view("native"), old, "knn", {"k": 1})
    assert effect_on_bank(before, grown, Label.FAKE).n == 0  # without their place the old bank has none
    assert effect_on_bank(before, grown, Label.REAL).n == 3


def test_what_if_takes_new_rows_of_a_place_out_with_it(toy: Backbone) -> None:
    space = space_of(toy, view("native"))
    old = placed(space, [(0, "s", 1), (3, "t", 1), (1, "g", 1), (1, "g", 2), (2, "g2", 1)])
    grown = old.add(placed(space, [(1, "g", 3)]))
    before = assemble("nn", toy, view("native"), old, "knn", {"k": 1})
    found = effect_on_bank(before, grown, Label.FAKE)
    assert (found.n, found.moved) == (3, 0)


def test_a_detector_whose_bank_lies_elsewhere_is_refused(here: Path, made: Path) -> None:
    shutil.copytree(made / "nn" / BANK, here / "private")
    shutil.copytree(made / "nn", here / "theirs")
    stated = json.loads((here / "theirs" / MANIFEST).read_text())
    (here / "theirs" / MANIFEST).write_text(json.dumps(stated | {"bank": "../private"}))
    with pytest.raises(FormatError, match="leads out of the detector's folder"):
        run("bank", "import", "t", "theirs")
