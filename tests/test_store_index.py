"""A store that is searched where it lies: the answers of exact search, whatever was edited since it was indexed."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conftest import random_bank
from univfd import registry
from univfd.backbones import Backbone
from univfd.bank import FeatureBank
from univfd.building import assemble
from univfd.cli import group
from univfd.detector import Detector
from univfd.embedding import Batch, Loaded, space_of
from univfd.errors import FormatError, UsageError
from univfd.index import IndexedBank, _manifest
from univfd.index.lance import LanceIndex
from univfd.store import BankStore, LargeSnapshot, Rows, Snapshot, indexing, tables
from univfd.store.adding import add_rows
from univfd.types import Embeddings, FeatureSpace, Label
from univfd.views import view

N = 1_200
NOTHING = np.empty((0, 0, 0, 3), np.uint8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 rows are many; an index looks at all lists and all rows' vectors, so that it misses nothing."""
    monkeypatch.setattr(indexing, "EXACT_ROWS", 1_000)
    monkeypatch.setattr(_manifest, "_TUNED", 20)
    monkeypatch.setattr(_manifest, "_MEASURED", 30)
    lance = __import__("univfd.index.lance", fromlist=["_LADDER"])
    monkeypatch.setattr(lance, "_LADDER", ((1_000, 200),))


@pytest.fixture
def space(toy: Backbone) -> FeatureSpace:
    return space_of(toy, view("native"))


def bank_of(space: FeatureSpace, n: int, seed: int) -> FeatureBank:
    return replace(random_bank(n, seed, space.dim), space=space)


def detectors(toy: Backbone, space: FeatureSpace) -> Iterator[Detector]:
    """Nearest neighbours; a ridge probe that rows beyond its own bank correct; a linear probe."""
    bank = bank_of(space, N, 0)
    for kind, params in (("knn", {"k": 3}), ("ridge", {}), ("linear", {})):
        made = assemble(kind, toy, view("native"), bank, kind, params)
        if kind == "ridge":
            made = replace(made, classifier=made.classifier.beside(bank))  # type: ignore[attr-defined]
        yield made


def judged(detector: Detector, space: FeatureSpace) -> list[dict[str, Any]]:
    """Rows of verdicts without what differs by nature: the time, the digest of how the bank was searched."""
    vectors = np.concatenate([bank_of(space, 10, 77).vectors, bank_of(space, N, 0).vectors[:2]])
    items = tuple(Loaded(str(i), "", "", 1, 1, (), (), NOTHING, 0.0) for i in range(len(vectors)))
    rows = [v.to_dict() for v in detector.judge(Batch(items, Embeddings(vectors, space), 0.0), neighbors=4)]
    return [{k: v for k, v in row.items() if k != "timings"} | {"detector": row["detector"][:-13]} for row in rows]


@pytest.fixture
def store(tmp_path: Path, space: FeatureSpace) -> BankStore:
    made = BankStore.create(tmp_path / "faces", space, who="ann")
    add_rows(made, Rows.of(bank_of(space, N, 0)), "the first rows", "import", made.snapshot())
    return made


def test_a_large_version_gives_the_verdicts_of_exact_search_after_every_edit(
    store: BankStore, toy: Backbone, space: FeatureSpace, caplog: pytest.LogCaptureFixture
) -> None:
    indexing.build(store)
    ours = list(detectors(toy, space))

    def same(version: int | None = None) -> None:
        exact, large = store.snapshot(version), store.at(version)
        assert isinstance(large, LargeSnapshot)
        assert isinstance(large.bank, IndexedBank)
        assert (large.bank.labels == exact.bank.labels).all()
        assert (large.bank.keys == exact.bank.keys).all()
        assert large.name == exact.name
        for detector in ours:
            a, b = judged(detector.with_bank(exact), space), judged(detector.with_bank(large), space)
            for x, y in zip(a, b, strict=True):
                assert x.pop("score") == pytest.approx(y.pop("score"), abs=1e-9 if detector.name == "ridge" else 0)
                assert x == y
            assert a[0]["detector"].startswith(f"{detector.name}+faces:{exact.edit.number}@")

    same()
    add_rows(store, Rows.of(bank_of(space, 60, 5)), "more", "add", store.snapshot())
    with caplog.at_level(logging.WARNING):
        same()
    assert "built for version 1 (1,200 rows); this is version 2 (1,260 rows). 60 rows" in caplog.text
    near = store.at().bank.nearest(bank_of(space, 10, 77).vectors, 3)[1]
    store.remove(store.snapshot().ids[np.unique(near)], "all that was found")
    same()
    store.relabel(store.snapshot().ids[:40], {"label": Label.FAKE, "generator": "new"}, "forty")
    same()
    store.undo()
    same()
    store.undo(2)
    same()
    store.checkout(3)
    same()
    same(1)
    assert isinstance(store.at(0), Snapshot)
    indexing.build(store)
    same()
    same(2)
    store.compact()
    same()


def test_a_snapshot_outlives_a_compaction_of_its_table(
    store: BankStore, space: FeatureSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service searches for days; compacting removes the files of versions of the table that are a day old."""
    indexing.build(store)
    for i in range(3):
        add_rows(store, Rows.of(bank_of(space, 30, 10 + i)), "more", "add", store.snapshot())
    open_for_days = store.at()
    queries = bank_of(space, 6, 77).vectors
    expected = store.at().bank.nearest(queries, 2)
    monkeypatch.setattr(tables, "timedelta", lambda **_: timedelta(0))  # the least age that is taken
    other = BankStore.open(store.uri)
    for i in range(2):
        add_rows(other, Rows.of(bank_of(space, 5, 20 + i)), "later", "add", other.snapshot())
        other.compact(older_than=timedelta(0))
    near, rows = open_for_days.bank.nearest(queries, 2)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(near, expected[0])
    one = open_for_days.bank.nearest(queries, 2, label=Label.FAKE)[0]
    assert np.isfinite(one).all()
    assert isinstance(open_for_days.bank, IndexedBank)
    assert isinstance(open_for_days.bank.index, LanceIndex)
    assert open_for_days.bank.index.source.take(rows[0]).shape == (2, space.dim)


def test_a_removed_row_is_not_found_though_many_of_its_like_were_removed(store: BankStore, space: FeatureSpace) -> None:
    bank = bank_of(space, N, 0)
    like = replace(bank_of(space, 40, 9), vectors=(bank.vectors[7] + 1e-3 * bank_of(space, 40, 9).vectors))
    add_rows(store, Rows.of(like), "like row 7", "add", store.snapshot())
    indexing.build(store)
    store.undo()
    large = store.at().bank
    distances, rows = large.nearest(bank.vectors[7:8], 3)
    exact = store.snapshot().bank.nearest(bank.vectors[7:8], 3)
    np.testing.assert_array_equal(rows, exact[1])
    np.testing.assert_array_equal(distances, exact[0])


def test_an_index_is_asked_for_where_it_is_needed(store: BankStore, toy: Backbone, space: FeatureSpace) -> None:
    detector = next(detectors(toy, space))
    with pytest.raises(UsageError, match=r"has 1,200 rows; more than 1,000 .*univfd bank index build"):
        detector.with_bank(store)
    indexing.build(store)
    through = detector.with_bank(store)
    assert isinstance(through.bank, IndexedBank)
    assert through.identity != detector.with_bank(store.snapshot()).identity
    with pytest.raises(UsageError, match="save the detector without them"):
        through.save(Path(store.uri).parent / "saved")
    store.remove(store.snapshot().ids[:300], "below the bound again")
    assert isinstance(detector.with_bank(store).bank, FeatureBank)


def test_damage_is_noticed_when_a_row_is_shown(store: BankStore, toy: Backbone, space: FeatureSpace) -> None:
    import lancedb

    indexing.build(store)
    detector = next(detectors(toy, space))
    nearest = judged(detector.with_bank(store), space)[0]["nearest_real"][0]
    table = lancedb.connect(store.uri).open_table("rows")
    table.update(where=f"key = '{nearest['key']}'", values={"source": "forged"})
    with pytest.raises(FormatError, match="1 row differs from its digest"):
        judged(detector.with_bank(store), space)
    table.delete(f"key = '{nearest['key']}'")
    with pytest.raises(FormatError, match="other rows than its digest says"):
        detector.with_bank(store)


def test_an_unfinished_build_is_noticed(
    store: BankStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    indexing.build(store)
    with monkeypatch.context() as patch:
        patch.setattr(registry.load("index", "lance"), "_search", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            indexing.build(store)
    with caplog.at_level(logging.WARNING):
        assert store.at().bank.nearest(store.snapshot().bank.vectors[:1], 1)[1][0, 0] == 0
    assert "begun anew and not finished" in caplog.text
    caplog.clear()
    indexing.build(store)
    store.at()
    assert "not finished" not in caplog.text


def test_the_index_from_the_command_line(store: BankStore, space: FeatureSpace) -> None:
    def run(*args: str) -> str:
        result = CliRunner().invoke(group, ["bank", "index", *args, store.uri], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    with pytest.raises(UsageError, match="has no index; make one with"):
        run("info")
    assert "there was no index" in run("drop")
    said = run("build", "--aim", "0.9")
    assert "for version 1 (1,200 rows)" in said
    assert "recall@9" in said
    assert "any 1.0000" in said
    add_rows(store, Rows.of(bank_of(space, 5, 5)), "more", "add", store.snapshot())
    assert "stale        the newest version is 2" in run("info")
    assert "5 rows are searched one by one" in run("info")
    run("drop")
    with pytest.raises(UsageError, match="has no index"):
        run("info")
    run("build")
    assert "stale" not in run("info")


# -- kill -9 -----------------------------------------------------------------------------------------------------------

BUILDER = """
import sys
from univfd.store import BankStore, indexing
store = BankStore.open({place!r})
print("open", flush=True)
indexing.build(store)
print("done", flush=True)
"""


def kill_builds(store: BankStore, kills: int, rng: random.Random, longest: float = 0.6) -> dict[str, int]:
    """Kill index builds at random moments. After each the store must open with its version and be of use."""
    before = store.snapshot()
    took = {"killed": 0, "finished": 0, "cut after the index was made": 0}
    code = [sys.executable, "-c", BUILDER.format(place=store.uri)]
    finished_once = False
    for _ in range(kills):
        process = subprocess.Popen(code, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        finished = process.stdout.read() == b"done\n"
        process.wait()
        took["finished" if finished else "killed"] += 1
        again = BankStore.open(store.uri)
        after = again.snapshot()  # whole: rows and content digest are checked as it is read
        assert (after.edit.id, after.bank.digest) == (before.edit.id, before.bank.digest)
        logged = indexing.built(again.tables)
        finished_once |= logged is not None
        there = [i.name for i in again.tables.source(before.ids).table.list_indices() if i.columns == ["vector"]]
        if logged is None:
            assert not finished_once
            took["cut after the index was made"] += bool(there)
            with pytest.raises(UsageError, match="Build an index"):
                again.at()
        else:
            took["cut after the index was made"] += not finished and there != [logged.manifest.parameters["name"]]
            assert (again.at().bank.nearest(before.bank.vectors[:5], 1)[1][:, 0] == range(5)).all()
    indexing.build(BankStore.open(store.uri))
    again = BankStore.open(store.uri)
    assert (again.at().bank.nearest(before.bank.vectors[:5], 1)[1][:, 0] == range(5)).all()
    (only,) = [i.name for i in again.tables.source(before.ids).table.list_indices() if i.columns == ["vector"]]
    made = indexing.built(again.tables)
    assert made is not None
    assert made.manifest.parameters["name"] == only
    return took


def test_a_build_that_is_killed_at_any_moment_harms_nothing(tmp_path: Path) -> None:
    bank = random_bank(4_000, 3, 64)
    store = BankStore.create(tmp_path / "s", bank.space)
    add_rows(store, Rows.of(bank), "rows", "import", store.snapshot())
    took = kill_builds(store, 4, random.Random(1))
    assert took["killed"] >= 2, took
