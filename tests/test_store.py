"""The bank store: versions, undo, kills, rivals, damage. Embeddings are random; images are in test_bank_commands."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_bank
from univfd import registry
from univfd.backbones import Backbone
from univfd.bank import FeatureBank
from univfd.building import assemble
from univfd.detector import Detector
from univfd.embedding import Batch, Loaded, space_of
from univfd.errors import ConflictError, FeatureSpaceError, FormatError, OutputExistsError, UnivFDError, UsageError
from univfd.store import BankStore, Change, Rows, locate
from univfd.store.adding import add_rows, merge
from univfd.store.history import Edit, History
from univfd.store.tables import Tables
from univfd.types import Embeddings, FeatureSpace, Label
from univfd.views import view

HERE = Path(__file__).parent


def filled(place: Path | str, n: int = 40, seed: int = 0) -> tuple[BankStore, FeatureBank]:
    bank = random_bank(n, seed)
    store = BankStore.create(place, bank.space, who="ann")
    add_rows(store, Rows.of(bank, batch="first"), "the first rows", "import", store.snapshot())
    return store, bank


def same(a: FeatureBank, b: FeatureBank) -> bool:
    columns = ("generator", "source", "licence", "added")
    return a.digest == b.digest and all((getattr(a, c) == getattr(b, c)).all() for c in columns)


def test_a_bank_goes_in_and_out_exactly(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    assert same(store.snapshot().bank, bank)
    store.snapshot().bank.save(tmp_path / "out")
    assert same(FeatureBank.load(tmp_path / "out"), bank)


def test_every_edit_says_who_when_what(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    BankStore.open(tmp_path / "s", who="bob").remove(store.snapshot().ids[:3], "three")
    edits = store.history().edits
    assert [(e.number, e.op, e.who, e.what) for e in edits] == [
        (0, "create", "ann", "an empty store"), (1, "import", "ann", "the first rows"), (2, "remove", "bob", "three"),
    ]  # fmt: skip
    assert all(e.when.endswith("Z") and len(e.content) == 64 for e in edits)
    assert len({e.content for e in edits}) == 3


def test_versions_by_number_and_tag(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    store.tag("good")
    store.remove(store.snapshot().ids[:5], "five")
    for name in (1, "1", "good"):
        assert same(store.snapshot(name).bank, bank)
    assert len(store.snapshot().bank) == 35
    with pytest.raises(UsageError, match=r"no version or tag 'bad'.*tags: good"):
        store.snapshot("bad")
    with pytest.raises(UsageError, match="no version 9"):
        store.snapshot(9)
    with pytest.raises(UsageError, match="nothing to undo"):
        store.undo(9)
    place = str(tmp_path / "s")
    assert locate(place) == (place, None)
    assert locate(f"{place}@good") == (place, "good")
    assert locate("s3://b/x@7") == ("s3://b/x", "7")
    (tmp_path / "odd@name").mkdir()
    assert locate(str(tmp_path / "odd@name"))[1] is None


def test_relabel_keeps_the_rest(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    before = store.snapshot()
    store.relabel(before.ids[[0, 2]], {"label": Label.FAKE, "generator": "new"}, "two")
    after = store.snapshot()
    assert set(after.rows.keys()) == set(before.rows.keys())
    at = [after.rows.keys().index(bank.key(i)) for i in (0, 2)]
    assert after.bank.labels[at].tolist() == [1, 1]
    np.testing.assert_array_equal(after.bank.vectors[at], bank.vectors[[0, 2]])
    assert store.relabel(after.ids[at], {"generator": "new"}, "the same") is None


def test_merge_reports_doubles_and_conflicts(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    other = random_bank(10, seed=1).add(bank.take([0, 1]))
    other = other.add(replace(bank.take([2]), labels=np.array([1], np.uint8)))
    edit, doubles, conflicts = merge(store, Rows.of(other), "other")
    assert edit is not None
    assert (len(edit.added), doubles, [c.key for c in conflicts]) == (10, 2, [bank.key(2)])
    assert store.keys(store.snapshot().ids)[bank.key(2)][1] is Label.REAL
    assert merge(store, Rows.of(other), "again")[0] is None


# -- the property: a store is a dictionary with a memory ---------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "relabel", "undo", "checkout", "merge"]), st.integers(0, 2**20)),
    min_size=1,
    max_size=6,
)
Model = dict[str, tuple[int, str, bytes]]
CLASSIFIERS = [registry.load("classifiers", name) for name in ("knn", "ridge")]


def rows_as_model(bank: FeatureBank) -> Model:
    return {
        bank.key(i): (int(bank.labels[i]), str(bank.generator[i]), bank.vectors[i].tobytes()) for i in range(len(bank))
    }


def scores(bank: FeatureBank) -> bytes | None:
    """Scores of nearest neighbours and of a ridge probe, and the evidence, as bytes; order and ties included."""
    if min(len(bank.rows(label)) for label in Label) == 0:
        return None
    queries = random_bank(12, seed=999).vectors
    said = [kind.from_bank(bank).decision_function(queries).tobytes() for kind in CLASSIFIERS]
    for label in Label:
        distances, rows = bank.nearest(queries, 3, label=label)
        said += [distances.tobytes(), "".join(bank.key(int(r)) for r in rows.ravel()).encode()]
    return b"".join(said)


@given(steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_a_store_is_a_dictionary_with_a_memory(steps: list[tuple[str, int]]) -> None:
    store, bank = filled("memory://bank", n=12)  # LanceDB without a disk, for speed
    versions: list[Model] = [{}, rows_as_model(bank)]  # by number
    verdicts = [None, scores(bank)]
    came_from = [0, 1]  # the version whose rows a version has
    snapshot = store.snapshot()
    for op, seed in steps:
        rng = np.random.default_rng(seed)
        now = dict(versions[-1])
        restored = None
        picked = rng.permutation(len(snapshot.ids))[: int(rng.integers(1, 5))]
        if op in {"add", "merge"}:
            new = random_bank(int(rng.integers(1, 6)), seed=int(rng.integers(40)))
            rows = Rows.of(new)
            fresh = [i for i in range(len(new)) if new.key(i) not in now]
            if op == "merge":
                edit = merge(store, rows, "m")[0]
            else:
                edit = add_rows(store, rows.take(fresh), "a", "add", snapshot)
            now |= rows_as_model(new.take(np.array(fresh, np.intp)))
        elif op == "remove":
            edit = store.remove(snapshot.ids[picked], "r")
            for i in picked:
                del now[snapshot.bank.key(int(i))]
        elif op == "relabel":
            label, name = int(rng.integers(2)), f"g{rng.integers(3)}"
            edit = store.relabel(snapshot.ids[picked], {"label": label, "generator": name}, "l")
            for i in picked:
                now[snapshot.bank.key(int(i))] = (label, name, snapshot.bank.vectors[i].tobytes())
        elif op == "undo":
            if came_from[-1] == 0:
                with pytest.raises(UsageError, match="nothing to undo"):
                    store.undo()
                continue
            restored = came_from[-1] - 1
            edit = store.undo()
        else:
            restored = int(rng.integers(len(versions)))
            edit = store.checkout(restored)
        if restored is not None:
            now = versions[restored]
        snapshot = store.snapshot()
        after = snapshot.bank
        assert rows_as_model(after) == now
        assert len(after) == len(now)
        if edit is None:
            assert now == versions[-1]
            continue
        assert edit.number == len(versions)
        versions.append(now)
        came_from.append(came_from[restored] if op == "undo" and restored is not None else edit.number)
        verdicts.append(scores(after))
        if restored is not None:
            assert verdicts[-1] == verdicts[restored]
            assert edit.content == store.history().edit(restored).content
    history = store.history()
    for number, model in enumerate(versions):
        assert rows_as_model(store.snapshot(number, history).bank) == model


def test_verdicts_after_undo_are_the_same_to_the_bit(tmp_path: Path, toy: Backbone) -> None:
    cut = view("native")
    space = space_of(toy, cut)
    small = random_bank(30, dim=space.dim)
    bank = replace(small, space=space)
    store = BankStore.create(tmp_path / "s", space)
    add_rows(store, Rows.of(bank), "x", "import", store.snapshot())
    detector = assemble("nn", toy, cut, bank, "knn", {"k": 1})
    batch = _batch(random_bank(20, seed=3, dim=space.dim).vectors, space)

    def judged(d: Detector) -> list[tuple[float, str, str]]:
        return [(v.score, v.verdict, v.nearest_fake[0].key) for v in d.judge(batch)]

    before = judged(detector.with_bank(store.snapshot().bank))
    more = replace(random_bank(30, seed=5, dim=space.dim), space=space)
    add_rows(store, Rows.of(more), "y", "add", store.snapshot())
    store.remove(store.snapshot().ids[::4], "z")
    changed = detector.with_bank(store.snapshot().bank)
    assert judged(changed) != before
    assert changed.identity != detector.identity
    store.undo(2)
    back = detector.with_bank(store.snapshot().bank)
    assert judged(back) == before
    assert back.identity == detector.identity
    with pytest.raises(FeatureSpaceError):
        detector.with_bank(random_bank(4))


def _batch(vectors: np.ndarray, space: FeatureSpace) -> Batch:
    nothing = np.empty((0, 0, 0, 3), np.uint8)
    items = tuple(Loaded(str(i), "", "", 1, 1, (), (), nothing, 0.0) for i in range(len(vectors)))
    return Batch(items, Embeddings(vectors, space), 0.0)


# -- compact -----------------------------------------------------------------------------------------------------------


def test_compact_removes_what_no_version_has_and_nothing_else(tmp_path: Path) -> None:
    from datetime import timedelta

    store, bank = filled(tmp_path / "s")
    store.append(Rows.of(random_bank(7, seed=1)))  # of an addition that was killed before its commit
    store.remove(store.snapshot().ids[:5], "five")
    assert store.compact() == 0  # it may still be running
    assert store.compact(older_than=timedelta(0)) == 7
    assert same(store.snapshot(1).bank, bank)
    kept = store.snapshot()
    assert store.compact(forget=True, older_than=timedelta(0)) == 5
    assert same(store.snapshot().bank, kept.bank)
    assert store.snapshot().edit.content == kept.edit.content
    for call in (lambda: store.snapshot(1), store.undo, lambda: store.checkout(1)):
        with pytest.raises(UsageError):
            call()
    store.remove(store.snapshot().ids[:2], "two")
    store.undo()
    assert same(store.snapshot().bank, kept.bank)


@pytest.mark.parametrize("op", ["tag", "forget"])
def test_nothing_is_undone_below_what_was_forgotten(op: str) -> None:
    oldest = Edit(3, "x", "", "", op, "", detail={"base": 1, "tag": "t", "version": 3})
    history = History([oldest, Edit(4, "y", "", "", "forget", "", detail={"base": 3})])
    with pytest.raises(UsageError, match="nothing to undo"):
        history.before(4)


# -- kill -9 -----------------------------------------------------------------------------------------------------------

WORKER = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
from datetime import timedelta
from conftest import random_bank
from univfd.store import BankStore, Rows
from univfd.store.adding import add_rows
store = BankStore.open({place!r})
op, seed = {op!r}, {seed}
print("open", flush=True)
if {wait}:
    sys.stdin.readline()
if op == "add":
    add_rows(store, Rows.of(random_bank({rows}, seed, 64)), f"add {{seed}}", "add", store.snapshot())
elif op == "remove":
    store.remove(store.snapshot().ids[:40], f"remove {{seed}}")
elif op == "forget":
    store.compact(forget=True, older_than=timedelta(0))
else:
    store.compact(older_than=timedelta(0))
print("done", flush=True)
"""


def worker(place: Path, op: str, seed: int, rows: int = 3000) -> subprocess.Popen[bytes]:
    """A process that makes an edit, once it is told to go."""
    code = WORKER.format(tests=str(HERE), place=str(place), op=op, seed=seed, rows=rows, wait=True)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def kill_at_random(place: Path, kills: int, rng: random.Random, repeats: int) -> dict[str, int]:
    """Kill edits at random moments. After each the store must open with a whole version; the edit is then run again, so
    many times, and must succeed."""
    base = random_bank(200, seed=10_000, dim=64)
    store = BankStore.create(place, base.space)
    add_rows(store, Rows.of(base), "base", "import", store.snapshot())
    took = {"killed": 0, "committed": 0, "finished": 0, "repeated": 0}
    ops = [("add", "remove", "compact", "forget")[i % 4] if i % 8 != 7 else "add" for i in range(kills)]
    started = [worker(place, op, i) for i, op in enumerate(ops[:1])]
    for i, op in enumerate(ops):
        started += [worker(place, following, i + 1) for following in ops[i + 1 : i + 2]]  # gets ready meanwhile
        before, process = store.snapshot(), started.pop(0)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        go(process)
        time.sleep(rng.uniform(0, 0.35))
        process.send_signal(signal.SIGKILL)
        finished = process.stdout.read() == b"done\n"
        process.wait()
        took["finished" if finished else "killed"] += 1
        after = BankStore.open(place).snapshot()  # whole: rows and content digest are checked as it is read
        expected = {"add": len(before.ids) + 3000, "remove": len(before.ids) - 40}.get(op, len(before.ids))
        if after.edit.id == before.edit.id:
            assert after.bank.digest == before.bank.digest
        else:
            took["committed"] += not finished
            assert len(after.ids) == expected
        assert after.edit.number - before.edit.number in {0, 1}
        if not finished and after.edit.id == before.edit.id and took["repeated"] < repeats:
            took["repeated"] += 1
            exec(WORKER.format(tests=str(HERE), place=str(place), op=op, seed=i, rows=3000, wait=False), {})
            assert len(BankStore.open(place).snapshot().ids) == expected
    return took


def test_kill_at_any_moment_leaves_a_whole_version(tmp_path: Path) -> None:
    took = kill_at_random(tmp_path / "s", 9, random.Random(4), repeats=3)  # more by hand: by_hand/kill_bank_edits.py
    assert took["killed"] >= 3, took


def test_a_creation_that_was_killed_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = random_bank(4)
    monkeypatch.setattr("univfd.store.tables.edits_schema", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        BankStore.create(tmp_path / "s", bank.space)
    monkeypatch.undo()
    assert (tmp_path / "s" / "rows.lance").is_dir()
    with pytest.raises(FormatError, match="no bank store"):
        BankStore.open(tmp_path / "s")
    BankStore.create(tmp_path / "s", bank.space)
    assert len(BankStore.open(tmp_path / "s").snapshot().ids) == 0


# -- several processes -------------------------------------------------------------------------------------------------


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    place = tmp_path / "s"
    base = random_bank(20, seed=10_000, dim=64)
    BankStore.create(place, base.space)
    ready = [worker(place, "add", i, 50) for i in range(3)]
    for p in ready:
        assert p.stdout is not None
        assert p.stdout.readline() == b"open\n"
    for p in ready:
        go(p)
    for p in ready:
        _, errors = p.communicate(timeout=120)
        assert p.returncode == 0 or b"Run the command again" in errors, errors
    store = BankStore.open(place)
    done = sum(p.returncode == 0 for p in ready)
    assert done >= 1
    assert len(store.snapshot().ids) == 50 * done
    assert [e.op for e in store.history().edits] == ["create"] + ["add"] * done


def test_a_rival_that_was_faster_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, bank = filled(tmp_path / "s")
    rival = BankStore.open(tmp_path / "s")
    new = random_bank(6, seed=1)
    seen = store.snapshot()
    add_rows(rival, Rows.of(new.take([0, 1])), "theirs", "add", rival.snapshot())
    edit = add_rows(store, Rows.of(new), "mine", "add", seen)
    assert edit is not None
    assert len(edit.added) == 4  # two came from the rival meanwhile
    assert len(store.snapshot().ids) == len(bank) + 6

    interfering = iter(range(99))
    honest = Tables.seal

    def slower(self: Tables, tip: object, new: object) -> bool:
        rival.tag(f"t{next(interfering)}") if self is store.tables else None
        return honest(self, tip, new)  # type: ignore[arg-type]

    monkeypatch.setattr(Tables, "seal", slower)
    monkeypatch.setattr("univfd.store.store.time.sleep", lambda _: None)
    with pytest.raises(ConflictError, match=r"nothing was changed\. Run the command again"):
        store.remove(seen.ids[:1], "one")
    monkeypatch.undo()
    assert len(store.snapshot().ids) == len(bank) + 6


# -- object storage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> object:
    """Address and options of a bucket of an S3 server in a process of its own."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    import boto3
    from botocore.config import Config

    address = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=1),
    )  # fmt: skip
    for _ in range(100):
        try:
            client.create_bucket(Bucket="banks")
            break
        except Exception:
            time.sleep(0.2)
    yield {
        "AWS_ENDPOINT_URL": address, "AWS_ENDPOINT": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    process.kill()
    process.wait()


READER = """
import sys, time
from univfd.store import BankStore
store = BankStore.open("s3://banks/team")
print("open", flush=True)
seen = []
while not seen or seen[-1] < 5:
    snapshot = store.snapshot()
    assert len(snapshot.rows) == 20 * snapshot.edit.number, (len(snapshot.rows), snapshot.edit.number)
    seen.append(snapshot.edit.number)
    time.sleep(0.1)
assert seen == sorted(seen)
print(len(set(seen)), flush=True)
"""


def test_two_processes_read_from_object_storage_while_one_writes(bucket: dict[str, str]) -> None:
    bank = random_bank(100, seed=2)
    store = BankStore.create("s3://banks/team", bank.space, options=bucket)
    readers = [
        subprocess.Popen([sys.executable, "-c", READER], env=os.environ | bucket, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for r in readers:
        assert r.stdout is not None
        assert r.stdout.readline() == b"open\n"
    for i in range(5):
        add_rows(store, Rows.of(bank.take(np.arange(20 * i, 20 * i + 20))), f"{i}", "add", store.snapshot())
    for r in readers:
        out, _ = r.communicate(timeout=120)
        assert r.returncode == 0
        assert int(out) >= 2  # it saw the bank grow
    assert same(BankStore.open("s3://banks/team", options=bucket).snapshot().bank, bank)
    with pytest.raises(OutputExistsError):
        BankStore.create("s3://banks/team", bank.space, options=bucket)
    with pytest.raises(UnivFDError, match="nowhere"):
        BankStore.open("s3://nowhere/team", options=bucket)


# -- one clear error each ----------------------------------------------------------------------------------------------


def test_rows_of_another_space_are_refused(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    with pytest.raises(FeatureSpaceError, match="dim: 9 instead of 8"):
        store.append(Rows.of(random_bank(3, dim=9)))


@pytest.mark.parametrize(
    "part", ["rows.lance/data", "edits.lance/data", "rows.lance/_versions", "edits.lance/_versions"]
)
def test_a_truncated_file_is_named_damage(tmp_path: Path, part: str) -> None:
    filled(tmp_path / "s")
    for file in (tmp_path / "s" / part).iterdir():
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(FormatError, match=r"s: .*damaged|damaged or incomplete"):
        BankStore.open(tmp_path / "s").snapshot()


def test_a_changed_row_is_noticed(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    table = lancedb.connect(str(tmp_path / "s")).open_table("rows")
    table.update(where=f"key = '{bank.key(3)}'", values={"generator": "forged"})
    with pytest.raises(FormatError, match=f"1 row differs from its digest.*{bank.key(3)[:12]}"):
        store.snapshot()
    table.delete(f"key = '{bank.key(3)}'")
    with pytest.raises(FormatError, match="1 of 40 rows of this version are gone"):
        store.snapshot()


def test_a_foreign_table_is_no_store(tmp_path: Path) -> None:
    db = lancedb.connect(str(tmp_path / "f"))
    db.create_table("rows", pa.table({"x": [1]}))
    with pytest.raises(FormatError, match="no bank store: it has tables rows; expected edits and rows"):
        BankStore.open(tmp_path / "f")
    db.create_table("edits", pa.table({"x": [1]}))
    with pytest.raises(FormatError, match="'rows' was not made by univfd"):
        BankStore.open(tmp_path / "f")


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder"):
        BankStore.open(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(FormatError, match="it has no tables"):
        BankStore.open(tmp_path / "other")
    (tmp_path / "other" / "photo.jpg").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="no empty folder"):
        BankStore.create(tmp_path / "other", random_bank(1).space)


def test_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("univfd.store.tables.SCHEMA", 2)
    filled(tmp_path / "s")
    monkeypatch.undo()
    with pytest.raises(FormatError, match="schema 2; this version reads"):
        BankStore.open(tmp_path / "s")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path / "s")
    words = {
        "LanceError(IO): Generic LocalFileSystem error: Read-only file system (os error 30)": "read-only",
        "LanceError(IO): Generic LocalFileSystem error: Permission denied (os error 13)": "no permission",
        "LanceError(IO): No space left on device (os error 28)": "disk is full",
    }
    for text, plain in words.items():

        def refuse(*_: object, text: str = text) -> None:
            raise RuntimeError(f"lance error: {text}")

        monkeypatch.setattr(store.tables._rows, "add", refuse)
        with pytest.raises(UnivFDError, match=f"s cannot be written: .*{plain}"):
            store.append(Rows.of(random_bank(2, seed=1)))


def test_a_list_of_edits_with_a_gap_is_damage(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.tag("a")
    lancedb.connect(str(tmp_path / "s")).open_table("edits").delete("number = 1")
    with pytest.raises(FormatError, match="gaps or doubles"):
        store.history()


def test_history_knows_no_rows_of_nothing() -> None:

    history = History([Edit(0, "x", "", "", "create", "")])
    assert len(history.ids(0)) == 0
    assert json.loads(json.dumps(history.tip.to_dict()))["version"] == 0


def test_an_edit_that_went_through_though_the_answer_was_lost_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = filled(tmp_path / "s")
    honest = Tables.seal

    def lost(self: Tables, tip: object, new: object) -> bool:
        honest(self, tip, new)  # type: ignore[arg-type]
        raise ConflictError("the connection broke")

    monkeypatch.setattr(Tables, "seal", lost)
    edit = store.commit(lambda h: Change("remove", "one", remove=h.ids(h.tip.number)[:1]))
    assert edit is not None
    assert [e.id for e in store.history().edits][-1] == edit.id
    assert len(store.history().edits) == 3
