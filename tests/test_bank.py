from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_bank
from univfd import search
from univfd.bank import BankType, FeatureBank, as_stored
from univfd.errors import FeatureSpaceError, FormatError, OutputExistsError, UsageError
from univfd.types import Embeddings, FeatureSpace, Label


def slow_nearest(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """The definition, one pair at a time, in float64."""
    distances, indices = [], []
    for q in queries.astype(np.float64):
        pairs = []
        for i, r in enumerate(rows.astype(np.float64)):
            length = np.sqrt((q * q).sum()) * np.sqrt((r * r).sum())
            pairs.append((1 - (q @ r) / length if length else 1.0, i))
        pairs = sorted(pairs)[:k]
        distances.append([d for d, _ in pairs])
        indices.append([i for _, i in pairs])
    return distances, indices


@given(
    n=st.integers(1, 60), q=st.integers(1, 9), k=st.integers(1, 12), seed=st.integers(0, 999), block=st.integers(3, 70)
)
@settings(max_examples=80, deadline=None)
def test_search_equals_the_definition(n: int, q: int, k: int, seed: int, block: int) -> None:
    bank = random_bank(n, seed)
    queries = np.random.default_rng(seed + 1).standard_normal((q, 8)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_BLOCK_ROWS", block)
        patch.setattr(search, "_BLOCK_QUERIES", 4)
        distances, rows = bank.nearest(queries, k)
    expected = slow_nearest(queries, bank.vectors, k)
    np.testing.assert_allclose(distances, expected[0], atol=1e-6)
    np.testing.assert_array_equal(rows, expected[1])


@pytest.mark.parametrize("label", list(Label))
def test_search_within_a_class(label: Label) -> None:
    bank = random_bank(40)
    queries = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    _, rows = bank.nearest(queries, 3, label=label)
    of_class = bank.rows(label)
    expected = slow_nearest(queries, bank.vectors[of_class], 3)[1]
    np.testing.assert_array_equal(rows, of_class[np.array(expected)])


@given(copies=st.integers(2, 9), k=st.integers(1, 5), block=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_equal_rows_come_in_the_banks_order(copies: int, k: int, block: int) -> None:
    one = random_bank(4).take([0] * copies + [1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_BLOCK_ROWS", block)
        _, rows = one.nearest(one.vectors[:1], k)
    assert rows[0].tolist() == list(range(min(k, copies))) + ([copies] if k > copies else [])


def test_scale_does_not_matter_and_zero_is_at_distance_one() -> None:
    bank = random_bank(10)
    one, two = bank.nearest(bank.vectors[:1], 10), bank.nearest(bank.vectors[:1] * 1000, 10)
    np.testing.assert_array_equal(one[1], two[1])
    zero = bank.nearest(np.zeros((1, 8), np.float32), 3)
    assert zero[0].tolist() == [[1, 1, 1]]


def test_a_row_finds_itself_at_zero() -> None:
    bank = random_bank(30)
    distances, rows = bank.nearest(bank.vectors, 1)
    assert rows[:, 0].tolist() == list(range(30))
    assert distances.max() < 1e-6
    assert distances.min() >= 0


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    bank = random_bank(25)
    bank.save(tmp_path / "bank")
    loaded = FeatureBank.load(tmp_path / "bank")
    for column in ("vectors", "labels", "keys", "generator", "source", "licence", "added"):
        np.testing.assert_array_equal(getattr(loaded, column), getattr(bank, column))
    assert loaded.space == bank.space
    assert loaded.digest == bank.digest


def test_half_precision_is_half_the_size(tmp_path: Path) -> None:
    bank = random_bank(500, dim=64)
    bank.save(tmp_path / "full")
    bank.save(tmp_path / "half", dtype="float16")
    sizes = [(tmp_path / f / "bank.safetensors").stat().st_size for f in ("full", "half")]
    assert abs(sizes[0] - sizes[1] - 500 * 64 * 2) < 100
    np.testing.assert_allclose(FeatureBank.load(tmp_path / "half").vectors, bank.vectors, atol=2e-3)


def test_int8_keeps_small_dimensions_beside_large_ones(tmp_path: Path) -> None:
    bank = random_bank(500, dim=64)
    vectors = bank.vectors.copy()
    vectors[:, 0] *= 1000
    vectors[:, 1] = 0
    uneven = replace(bank, vectors=vectors)
    uneven.save(tmp_path / "bank", dtype="int8")
    read = FeatureBank.load(tmp_path / "bank")
    np.testing.assert_array_equal(read.vectors, as_stored(vectors, "int8"))
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["schema"] == 2  # no older version misreads it
    step = np.abs(vectors).max(axis=0) / 127
    assert (np.abs(read.vectors - vectors) <= step / 2 * 1.001).all()
    read.save(tmp_path / "again", dtype="int8")
    assert (tmp_path / "again" / "bank.safetensors").read_bytes() == (tmp_path / "bank/bank.safetensors").read_bytes()


def test_int8_vectors_without_their_steps_are_refused(tmp_path: Path) -> None:
    random_bank(6).save(tmp_path / "bank")
    _edit(tmp_path / "bank", dtype="int8")
    with pytest.raises(FormatError, match="scale"):
        FeatureBank.load(tmp_path / "bank")


def test_edits_leave_the_old_bank_as_it_was() -> None:
    bank, more = random_bank(10), random_bank(4, seed=1)
    before = bank.digest
    grown = bank.add(more)
    assert len(grown) == 14
    assert grown.key(12) == more.key(2)
    shrunk = grown.remove([0, 13])
    assert [shrunk.key(0), shrunk.key(11)] == [bank.key(1), more.key(2)]
    assert bank.digest == before
    assert grown.remove(range(10, 14)).digest == before


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    random_bank(3).save(tmp_path / "bank")
    with pytest.raises(OutputExistsError, match="never overwritten"):
        random_bank(4).save(tmp_path / "bank")
    assert len(FeatureBank.load(tmp_path / "bank")) == 3


def test_a_bank_of_another_space_is_refused_with_what_differs() -> None:
    bank = random_bank(3)
    other = replace(bank, space=replace(bank.space, view="resize", taps=("cls.8",)))
    with pytest.raises(
        FeatureSpaceError, match=r"taps: .*cls\.8.* instead of .*proj.*view: 'resize' instead of 'native'"
    ):
        bank.add(other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "bank.json").unlink(), "has no bank.json"),
        (lambda f: (f / "bank.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "bank.json").write_text('{"kind": "cake"}'), "says 'cake'"),
        (lambda f: _edit(f, schema=99), "schema 99"),
        (lambda f: _edit(f, rows=7), "shape"),
        (lambda f: (f / "bank.safetensors").write_bytes(b"x" * 40), "damaged"),
        (lambda f: (f / "bank.safetensors").write_bytes((f / "bank.safetensors").read_bytes()[:-9]), "damaged"),
    ],
)
def test_damaged_folders_get_one_clear_error(tmp_path: Path, spoil: object, message: str) -> None:
    folder = tmp_path / "bank"
    random_bank(6).save(folder)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        FeatureBank.load(folder)


def _edit(folder: Path, **values: object) -> None:
    manifest = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(manifest | values))


def test_bad_rows_are_refused() -> None:
    bank = random_bank(3)
    vectors = bank.vectors.copy()
    vectors[1, 1] = np.nan
    with pytest.raises(FormatError, match="not finite"):
        replace(bank, vectors=vectors)
    with pytest.raises(FormatError, match="label 2"):
        replace(bank, labels=np.array([0, 1, 2], np.uint8))
    with pytest.raises(FormatError, match="sha256 in hex"):
        FeatureBank.from_rows(Embeddings(bank.vectors, bank.space), bank.labels, ["a", "b", "c"])
    with pytest.raises(FormatError, match="'source' has shape"):
        FeatureBank.from_rows(Embeddings(bank.vectors, bank.space), bank.labels, ["0" * 64] * 3, source=["a"])
    with pytest.raises(UsageError, match="k is 0"):
        bank.nearest(bank.vectors, 0)
    for queries in (bank.vectors[:, 1:], bank.vectors[0]):
        with pytest.raises(UsageError, match=rf"expected \(Q, {bank.space.dim}\), in this bank's space"):
            bank.nearest(queries, 1)


def test_an_empty_bank_answers_with_nothing() -> None:
    empty = FeatureBank.empty(random_bank(1).space)
    distances, rows = empty.nearest(np.ones((2, 8), np.float32), 3, label=Label.FAKE)
    assert distances.shape == rows.shape == (2, 0)


def test_no_row_may_be_taken() -> None:
    bank = random_bank(4)
    assert len(bank.take([])) == 0
    assert len(bank.take(np.zeros(4, bool))) == 0


def test_a_row_of_evidence_has_all_that_is_known_of_it() -> None:
    bank = random_bank(12)
    distances, rows = bank.nearest(bank.vectors[[3, 4]], 2)
    found = bank.neighbors(distances, rows)
    assert [len(of) for of in found] == [2, 2]
    for query, of in zip((3, 4), found, strict=True):
        assert of[0].row == query
        assert of[0].distance == pytest.approx(0, abs=1e-6)
        for near, far in zip(of, distances[query - 3], strict=True):
            assert (near.distance, near.key) == (far, bank.keys[near.row].tobytes().hex())
            assert (near.generator, near.source) == (bank.generator[near.row], bank.source[near.row])
            assert near.label is Label(near.row % 2)


def test_the_rows_of_a_class_and_their_unit_vectors() -> None:
    bank = random_bank(9)
    assert bank.rows(Label.REAL).tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(bank.unit_of(Label.FAKE), bank.unit[1::2])
    lengths = np.linalg.norm(bank.unit, axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_a_zero_vector_is_at_distance_one_from_everything() -> None:
    bank = random_bank(4)
    vectors = bank.vectors.copy()
    vectors[2] = 0
    distances, rows = replace(bank, vectors=vectors).nearest(bank.vectors[:1], 4)
    assert distances[0, rows[0].tolist().index(2)] == 1


def test_the_digest_covers_all_that_decides_a_search() -> None:
    bank = random_bank(4)
    labels, keys = bank.labels.copy(), bank.keys.copy()
    labels[0], keys[0, 0] = 1, keys[0, 0] ^ 1
    others = [
        replace(bank, vectors=bank.vectors + np.float32(1)), replace(bank, labels=labels), replace(bank, keys=keys),
        replace(bank, space=replace(bank.space, view="five")),
    ]  # fmt: skip
    assert len({bank.digest, *(o.digest for o in others)}) == 5
    assert len(bank.digest) == 16
    renamed = replace(bank, licence=np.full(4, "other", object), source=np.full(4, "elsewhere", object))
    assert renamed.digest == bank.digest


def test_counts_are_by_class_most_first_then_by_name() -> None:
    bank = random_bank(6)
    named = replace(bank, source=np.array(["b", "x", "a", "x", "b", "y"], object))
    assert list(named.counts("source", Label.REAL).items()) == [("b", 2), ("a", 1)]
    assert list(named.counts("source", Label.FAKE).items()) == [("x", 2), ("y", 1)]
    even = replace(bank, source=np.array(["b", "", "a", "", "c", ""], object))
    assert list(even.counts("source", Label.REAL)) == ["a", "b", "c"]


def test_places_tell_generators_and_sources_apart() -> None:
    bank = random_bank(3)
    named = replace(bank, generator=np.array(["", "g", "g"], object), source=np.array(["s", "s", "t"], object))
    assert named.origin.tolist() == ["\ns", "g\ns", "g\nt"]


def test_rows_take_one_word_for_all_or_one_each() -> None:
    bank = random_bank(2)
    made = FeatureBank.from_rows(
        Embeddings(bank.vectors, bank.space), [Label.REAL, Label.FAKE], [bank.key(0), bank.key(1)],
        generator=["", "g"], source="web", added="2026-01-01",
    )  # fmt: skip
    assert made.labels.tolist() == [0, 1]
    assert (made.generator.tolist(), made.source.tolist()) == (["", "g"], ["web", "web"])
    assert (made.licence.tolist(), made.added.tolist()) == (["", ""], ["2026-01-01"] * 2)
    np.testing.assert_array_equal(made.keys, bank.keys)
    plain = FeatureBank.from_rows(Embeddings(bank.vectors, bank.space), bank.labels, [bank.key(0), bank.key(1)])
    assert plain.generator.tolist() == plain.source.tolist() == plain.added.tolist() == ["", ""]


@pytest.mark.parametrize("column", ["labels", "keys", "generator", "source", "licence", "added"])
def test_every_column_has_a_value_a_row(column: str) -> None:
    bank = random_bank(3)
    with pytest.raises(FormatError, match=f"'{column}' has shape"):
        replace(bank, **{column: getattr(bank, column)[:2]})


def test_a_manifest_that_lacks_something_is_named(tmp_path: Path) -> None:
    random_bank(4).save(tmp_path / "bank")
    manifest = json.loads((tmp_path / "bank" / "bank.json").read_text())
    whole = dict(manifest)
    for key in ("rows", "space", "columns"):
        (tmp_path / "bank" / "bank.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(FormatError, match=f"lacks '{key}'"):
            FeatureBank.load(tmp_path / "bank")
    whole["columns"] = {**whole["columns"], "source": ["only one"]}
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(whole))
    with pytest.raises(FormatError, match="column 'source' does not fit the bank's rows: 1 words"):
        FeatureBank.load(tmp_path / "bank")


def test_half_precision_is_what_as_stored_says(tmp_path: Path) -> None:
    bank = random_bank(5)
    bank.save(tmp_path / "half", dtype="float16")
    manifest = json.loads((tmp_path / "half" / "bank.json").read_text())
    assert (manifest["schema"], manifest["dtype"], manifest["rows"]) == (1, "float16", 5)
    read = FeatureBank.load(tmp_path / "half")
    assert read.vectors.dtype == np.float32
    np.testing.assert_array_equal(read.vectors, as_stored(bank.vectors, "float16"))
    np.testing.assert_array_equal(read.vectors, bank.vectors.astype(np.float16).astype(np.float32))


def test_a_bank_of_several_blocks_serves_a_space_of_some_of_them() -> None:
    vectors = np.arange(24, dtype=np.float32).reshape(2, 12)
    space = FeatureSpace("clip", "w", ("cls.6", "cls.7", "mean.8"), "resize", "p", 12)
    bank = FeatureBank.from_rows(Embeddings(vectors, space), [0, 1], ["0" * 64, "1" * 64], generator=["", "gan"])
    assert bank.in_space(space) is bank
    some = bank.in_space(replace(space, taps=("mean.8", "cls.6"), dim=8))
    assert some.vectors.tolist() == vectors[:, [8, 9, 10, 11, 0, 1, 2, 3]].tolist()
    assert (some.space.taps, some.generator.tolist(), some.key(1)) == (("mean.8", "cls.6"), ["", "gan"], "1" * 64)
    units = replace(bank, space=replace(space, taps=("mlp.6", "mlp.7", "mlp.8")))
    assert units.in_space(replace(space, taps=("mlp.7",), dim=4)).vectors.tolist() == vectors[:, 4:8].tolist()
    wide = replace(bank, vectors=np.arange(20, dtype=np.float32).reshape(2, 10), space=replace(space, dim=10))
    wide = replace(wide, space=replace(wide.space, taps=("cls.6", "mlp.8")))  # units are four times as long as a token
    assert wide.in_space(replace(space, taps=("mlp.8",), dim=8)).vectors.tolist() == wide.vectors[:, 2:].tolist()
    mixed = replace(bank, space=replace(space, taps=("cls.6", "mlp.8")))  # of 3 and 9 values, or otherwise
    for other, ours in (
        (replace(space, taps=("cls.6",), dim=6), mixed),
        (replace(space, taps=("cls.5",), dim=4), bank),
        (replace(space, taps=("cls.6",), dim=5), bank),
        (replace(space, taps=("cls.6",), dim=4, weights="v"), bank),
        (replace(space, taps=("proj",), dim=6), replace(bank, space=replace(space, taps=("proj", "cls.7")))),
    ):
        with pytest.raises(FeatureSpaceError, match="the bank: made in another feature space"):
            ours.in_space(other)


@pytest.mark.parametrize(("dtype", "schema"), [("float32", 1), ("float16", 1), ("int8", 2)])
def test_older_versions_read_what_they_can(dtype: BankType, schema: int, tmp_path: Path) -> None:
    random_bank(5).save(tmp_path / "bank", dtype=dtype)
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["schema"] == schema


@pytest.mark.filterwarnings("error")
def test_int8_has_a_step_of_each_value_small_ones_and_zero_ones_too() -> None:
    vectors = np.random.default_rng(0).normal(0, 1e-3, (40, 8)).astype(np.float32)
    vectors[:, 3] = 0
    with np.errstate(all="raise"):
        kept = as_stored(vectors, "int8")
    assert (np.abs(kept - vectors) <= np.abs(vectors).max(axis=0) / 127 / 2 + 1e-9).all()
    assert not kept[:, 3].any()
    assert len(np.unique(kept[:, 0])) > 20


def test_a_bank_is_one_line_and_equal_only_to_itself() -> None:
    bank, other = random_bank(50), random_bank(50)
    assert not [name for name in ("generator", "source", "licence", "added") if name in repr(bank)]
    with pytest.raises(FrozenInstanceError):
        bank.labels = other.labels  # type: ignore[misc]
    assert bank != other
    assert bank in {bank, other}


def test_a_word_beyond_the_list_is_refused(tmp_path: Path) -> None:
    """One place beyond the last word, which is where a count from one would put it."""
    random_bank(20).save(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "bank.json").read_text())
    assert manifest["columns"]["source"]
    manifest["columns"]["source"].pop()
    (tmp_path / "b" / "bank.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="column 'source' does not fit the bank's rows"):
        FeatureBank.load(tmp_path / "b")
