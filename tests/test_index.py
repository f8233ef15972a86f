from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_bank
from univfd import registry
from univfd.bank import FeatureBank
from univfd.classifiers.knn import NearestNeighbor
from univfd.errors import FormatError, MissingExtraError, OutputExistsError, StaleIndexError, UsageError
from univfd.index import ANY, EXACT_ROWS, BankRows, LanceRows, NeighborIndex, Where, _manifest, choose, open_index
from univfd.search import nearest_rows, to_unit
from univfd.types import Label

N, DIM = 3_000, 32
WITHIN = {"any": ANY, "real": Where(Label.REAL), "fake": Where(Label.FAKE)}
QUERIES = np.random.default_rng(7).standard_normal((12, DIM)).astype(np.float32)


def cosine(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The definition, in float64."""
    q, r = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, rows))
    return 1 - q @ r.T


def fits(bank: FeatureBank, where: Where) -> np.ndarray:
    kept = [
        i
        for i in range(len(bank))
        if (where.label is None or bank.labels[i] == where.label)
        and (where.generator is None or bank.generator[i] == where.generator)
        and (where.source is None or bank.source[i] == where.source)
    ]
    return np.array(kept, dtype=int)


def write_table(folder: Path, bank: FeatureBank, dtype: str = "float32") -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(bank.vectors.astype(dtype).reshape(-1)), bank.vectors.shape[1])
    n = len(bank)
    columns = {"id": np.arange(n) * 7 + 5, "vector": vectors, "label": bank.labels}
    columns |= {"generator": bank.generator.tolist(), "source": bank.source.tolist()}
    lancedb.connect(folder).create_table("rows", pa.table(columns))


@dataclass
class Built:
    bank: FeatureBank
    folder: Path
    index: NeighborIndex
    source: FeatureBank | LanceRows


@pytest.fixture(scope="module", params=["ivf", "hnsw", "lance"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An index whose effort is set low, so that it misses some neighbours."""
    bank, place = random_bank(N, dim=DIM), tmp_path_factory.mktemp(request.param)
    if request.param == "lance":
        write_table(place / "db", bank)
        source = LanceRows.open(place / "db", id_column="id")
        made = registry.load("index", "lance").build(source, place / "index", aim=0.6)
        return Built(bank, place / "index", made, source)
    made = registry.load("index", "faiss").build(bank, place / "index", kind=request.param, aim=0.6)
    return Built(bank, place / "index", made, bank)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures with few queries, where recall is not the point."""
    monkeypatch.setattr(_manifest, "_TUNED", 20)
    monkeypatch.setattr(_manifest, "_MEASURED", 30)


@given(
    n=st.integers(0, 60),
    q=st.integers(0, 5),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    label=st.sampled_from([None, *Label]),
    generator=st.sampled_from([None, "", "gen1", "nobody"]),
    source=st.sampled_from([None, "src2"]),
)
@settings(max_examples=80, deadline=None)
def test_exact_search_is_a_full_sort(
    n: int, q: int, k: int, seed: int, label: Label | None, generator: str | None, source: str | None
) -> None:
    bank, where = random_bank(n, seed), Where(label, generator, source)
    queries = np.random.default_rng(seed + 1).standard_normal((q, 8)).astype(np.float32)
    for index in (open_index(bank), open_index(BankRows(bank, cached=False))):
        distances, rows = index.search(queries, k, where)
        kept = fits(bank, where)
        every = cosine(queries, bank.vectors[kept]) if len(kept) else np.empty((q, 0))
        order = np.argsort(every, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(rows, kept[order] if len(kept) else order)
        np.testing.assert_allclose(distances, np.take_along_axis(every, order, 1), atol=1e-6)


@pytest.mark.parametrize("label", [None, *Label])
def test_exact_search_is_that_of_the_bank_to_the_last_bit(label: Label | None) -> None:
    bank = random_bank(500, dim=DIM)
    for ours, theirs in zip(
        open_index(bank).search(QUERIES, 9, Where(label)), bank.nearest(QUERIES, 9, label=label), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_stored_recall_is_the_true_one(built: Built) -> None:
    opened = open_index(built.source, built.folder)
    recall = opened.manifest.recall
    picked = np.random.default_rng(0).permutation(N)[150:500]
    every = cosine(built.bank.vectors[picked], built.bank.vectors)
    every[np.arange(len(picked)), picked] = np.inf
    means = {}
    for name, where in WITHIN.items():
        kept = fits(built.bank, where)
        truth = kept[np.argsort(every[:, kept], axis=1)[:, :9]]
        _, rows = opened.search(built.bank.vectors[picked], 10, where)
        means[name] = np.mean([
            len(set(t) & set([r for r in found if r != own][:9])) / 9
            for t, found, own in zip(truth, rows, picked, strict=True)
        ])  # fmt: skip
    assert recall.k == 9
    assert recall.queries == 350
    assert recall.mean == pytest.approx(means, abs=2e-5)
    assert 0.5 < recall.worst < 1, "the effort was set so low that some neighbours must be missed"


@pytest.mark.parametrize(
    "where", [*WITHIN.values(), Where(generator="gen1"), Where(Label.REAL, source="src2"), Where(generator="x' OR 1=1")]
)
def test_filters_distances_and_order(built: Built, where: Where) -> None:
    distances, rows = built.index.search(QUERIES, 6, where)
    kept = fits(built.bank, where)
    assert rows.shape == distances.shape == (len(QUERIES), min(6, len(kept)))
    assert set(rows.ravel()) <= set(kept)
    assert all(len(set(r)) == len(r) for r in rows)
    assert (np.diff(distances, axis=1) >= 0).all()
    exact, every = built.bank.nearest(QUERIES, N)
    for i in range(len(QUERIES)):  # the very distances of exact search
        place = dict(zip(every[i], exact[i], strict=True))
        np.testing.assert_array_equal(distances[i], [place[r] for r in rows[i]])


def test_a_narrow_filter_misses_nothing(built: Built) -> None:
    where = Where(generator="gen1", source="src1")
    for ours, exact in zip(
        built.index.search(QUERIES, 9, where), open_index(built.bank).search(QUERIES, 9, where), strict=True
    ):
        np.testing.assert_array_equal(ours, exact)


def test_a_batch_gives_what_single_queries_give(built: Built) -> None:
    distances, rows = built.index.search(QUERIES, 5)
    for i in range(len(QUERIES)):
        one = built.index.search(QUERIES[i : i + 1] * 3, 5)
        np.testing.assert_array_equal(one[1][0], rows[i])
        np.testing.assert_allclose(one[0][0], distances[i], atol=1e-6)


def test_more_neighbours_than_the_lists_looked_at_hold(built: Built) -> None:
    assert built.index.search(QUERIES[:2], N + 5)[1].shape == (2, N)
    assert sorted(built.index.search(QUERIES[:1], N, Where(Label.FAKE))[1][0]) == list(range(1, N, 2))


def test_bad_calls(built: Built) -> None:
    with pytest.raises(UsageError, match=r"\(12, 31\); expected \(queries, 32\)"):
        built.index.search(QUERIES[:, 1:], 3)
    with pytest.raises(UsageError, match="not finite"):
        built.index.search(np.full((1, DIM), np.nan, np.float32), 3)
    with pytest.raises(UsageError, match="k is 0"):
        built.index.search(QUERIES, 0)
    with pytest.raises(OutputExistsError):
        type(built.index).build(built.source, built.folder)
    with pytest.raises(FormatError, match="32 dimensions; the bank's rows have 8"):
        open_index(random_bank(20), built.folder)


def test_the_classifier_through_an_index(built: Built) -> None:
    for bank in (built.bank, built.bank.take(np.r_[0:N:2, 1:601:2])):  # equal classes; 1500 reals and 300 fakes
        direct = NearestNeighbor.from_bank(bank, {"k": 3})
        through = NearestNeighbor.from_index(open_index(bank), {"k": 3})
        np.testing.assert_allclose(through.scale_, direct.scale_, rtol=1e-6)
        kept = NearestNeighbor.from_index(open_index(bank), {"k": 3}, direct.scale_)
        np.testing.assert_array_equal(kept.decision_function(QUERIES), direct.decision_function(QUERIES))
    near = NearestNeighbor.from_index(built.index, {"k": 3}).decision_function(QUERIES)
    np.testing.assert_allclose(
        near, NearestNeighbor.from_bank(built.bank, {"k": 3}).decision_function(QUERIES), atol=0.2
    )
    with pytest.raises(ValueError, match="odd"):
        NearestNeighbor.from_index(built.index, {"k": 2})


@pytest.mark.usefixtures("quick")
def test_a_stale_index_of_a_bank_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bank = random_bank(400, dim=DIM)
    index = registry.load("index", "faiss")
    index.build(bank, tmp_path / "index")
    assert isinstance(open_index(bank, tmp_path / "index"), index)
    grown = bank.add(random_bank(1, 9, dim=DIM))
    for stale in ("refuse", "accept"):
        with pytest.raises(StaleIndexError, match=r"built for 400 rows .* has 401 now"):
            open_index(grown, tmp_path / "index", stale=stale)
    with caplog.at_level(logging.WARNING):
        exact = open_index(grown, tmp_path / "index", stale="exact")
    assert "searching exactly" in caplog.text
    np.testing.assert_array_equal(exact.search(QUERIES, 3)[1], grown.nearest(QUERIES, 3)[1])


@pytest.mark.usefixtures("quick")
def test_a_stale_index_of_a_table_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bank, place = random_bank(N, dim=DIM), tmp_path / "db"
    write_table(place, bank)
    index = registry.load("index", "lance").build(LanceRows.open(place, id_column="id"), tmp_path / "index")
    version = index.source.table.version
    table = lancedb.connect(place).open_table("rows")
    row = {"id": 1, "vector": QUERIES[0].tolist(), "label": 1, "generator": "new", "source": "here"}
    table.add([row])
    first = index.search(QUERIES, 3)[1]
    table.delete(f"id = {first[1, 0] * 7 + 5}")
    now = LanceRows.open(place, id_column="id")
    with pytest.raises(StaleIndexError, match=r"built for 3,000 rows .* has 3,000 now"):
        open_index(now, tmp_path / "index")
    with caplog.at_level(logging.WARNING):
        accepted = open_index(now, tmp_path / "index", stale="accept")
    assert "measured on the rows of then" in caplog.text
    assert accepted.unindexed == 1
    distances, rows = accepted.search(QUERIES, 3)
    assert now.ids[rows[0, 0]] == 1, "the row that came later is found"
    assert distances[0, 0] == pytest.approx(0, abs=1e-6)
    assert first[1, 0] * 7 + 5 not in now.ids[rows[1]], "the row taken out is not"
    exact = open_index(now, tmp_path / "index", stale="exact")
    # The truth, and not what the first index found: its clusters are drawn, and it may miss a row.
    true = nearest_rows(to_unit(QUERIES[1:]), to_unit(bank.vectors), 2)[1][0]
    wanted = next(row for row in true if row != first[1, 0])
    np.testing.assert_array_equal(exact.search(QUERIES[1:], 1)[1][0], [np.searchsorted(now.ids, wanted * 7 + 5)])
    then = open_index(LanceRows.open(place, id_column="id", version=version), tmp_path / "index")
    np.testing.assert_array_equal(then.search(QUERIES, 3)[1], first)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_a_table_are_those_of_the_bank(tmp_path: Path, dtype: str) -> None:
    bank = random_bank(1_200, dim=DIM)
    write_table(tmp_path / "db", bank, dtype)
    stored = bank.vectors.astype(dtype).astype(np.float32)
    chosen = np.random.default_rng(1).permutation(1_200)[:700]  # a version of a bank: some rows, in its own order
    for rows, ids in (
        (np.arange(1_200), LanceRows.open(tmp_path / "db")),
        (np.arange(1_200), LanceRows.open(tmp_path / "db", id_column="id")),
        (chosen, LanceRows.open(tmp_path / "db", id_column="id", ids=chosen * 7 + 5)),
    ):
        part = open_index(FeatureBank(stored, *columns(bank)).take(rows))
        for where in (*WITHIN.values(), Where(generator="gen1"), Where(source="none")):
            for ours, theirs in zip(
                open_index(ids).search(QUERIES, 4, where), part.search(QUERIES, 4, where), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ids.take(np.array([5, 3, 5])), part.source.take(np.array([5, 3, 5])))


def columns(bank: FeatureBank) -> tuple[object, ...]:
    names = ("labels", "keys", "space", "generator", "source", "licence", "added")
    return tuple(getattr(bank, name) for name in names)


@pytest.mark.usefixtures("quick")
def test_rows_of_a_table_that_do_not_count_are_never_found(tmp_path: Path) -> None:
    bank = random_bank(N, dim=DIM)
    write_table(tmp_path / "db", bank)
    odd = np.arange(1, N, 2)
    source = LanceRows.open(tmp_path / "db", id_column="id", ids=odd * 7 + 5)
    index = registry.load("index", "lance").build(source, tmp_path / "index", aim=0.9)
    part = bank.take(odd)
    _, rows = index.search(part.vectors[:20], 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(20))
    assert index.manifest.recall.worst > 0.85
    assert index.manifest.rows == len(odd)
    assert index.search(QUERIES, 1, Where(Label.REAL))[1].shape == (12, 0)


def test_damaged_folders(built: Built, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built.folder, folder)
    for file in folder.glob("*.faiss"):
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(FormatError, match="missing or damaged"):
            open_index(built.source, folder)
    text = (folder / "index.json").read_text("utf-8")
    (folder / "index.json").write_text(text.replace('"effort"', '"effect"'), "utf-8")
    with pytest.raises(FormatError, match="not whole: 'effort'"):
        open_index(built.source, folder)
    (folder / "index.json").write_text(text[:-20], "utf-8")
    with pytest.raises(FormatError, match="cannot be read"):
        open_index(built.source, folder)
    (folder / "index.json").unlink()
    with pytest.raises(FormatError, match=r"not a neighbour index folder: it has no index\.json"):
        open_index(built.source, folder)


@pytest.mark.usefixtures("quick")
def test_damaged_tables(tmp_path: Path) -> None:
    place = tmp_path / "db"
    with pytest.raises(FormatError, match="cannot be read by LanceDB"):
        LanceRows.open(tmp_path / "nothing")
    write_table(place, random_bank(N, dim=DIM))
    for wrong in ({"vector": "features"}, {"id_column": "number"}, {"vector": "label"}, {"version": 99}):
        with pytest.raises(FormatError, match=r"no column|fixed-size list|cannot be read"):
            LanceRows.open(place, **wrong)
    with pytest.raises(FormatError, match="lacks 1 of 2 rows, for one id 6"):
        LanceRows.open(place, id_column="id", ids=np.array([5, 6]))
    source = LanceRows.open(place, id_column="id")
    made = registry.load("index", "lance").build(source, tmp_path / "index")
    with pytest.raises(FormatError, match="has no index on its vectors"):
        open_index(LanceRows.open(place, id_column="id", version=1), tmp_path / "index")
    for file in (place / "rows.lance" / "data").glob("*.lance"):
        file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(FormatError, match="cannot be read by LanceDB"):
        LanceRows.open(place, id_column="id")
    write_table(tmp_path / "small", random_bank(30))
    with pytest.raises(UsageError, match="too few"):
        type(made).build(LanceRows.open(tmp_path / "small"), tmp_path / "other")


def test_choice() -> None:
    assert choose(EXACT_ROWS) == choose(10, on_disk=True) == "exact"
    assert choose(EXACT_ROWS + 1) == "faiss"
    assert choose(EXACT_ROWS + 1, on_disk=True) == "lance"
    assert registry.names("index") == ["exact", "faiss", "lance"]


@pytest.mark.parametrize("module", ["faiss", "lancedb"])
def test_an_absent_library(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    build = registry.load("index", "faiss").build
    with pytest.raises(MissingExtraError, match=f"needs {module}, which is not installed"):
        build(random_bank(50), tmp_path / "index") if module == "faiss" else LanceRows.open(tmp_path)
