"""The bank store at its edges: what is not ours, what is damaged, who else is there, what strangers write."""

from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from commands import run
from conftest import encoded, picture, random_bank
from test_bank_commands import folder_of, here, made, odd  # noqa: F401  # fixtures
from test_store import filled, same
from univfd import misses
from univfd.backbones import Backbone
from univfd.bank import FeatureBank, as_stored
from univfd.building import assemble
from univfd.detector import Detector
from univfd.embedding import space_of
from univfd.errors import ConflictError, FormatError, OutputExistsError, UnivFDError, UsageError
from univfd.index._lance_rows import plain_errors
from univfd.misses import file_miss
from univfd.store import BankStore, Rows
from univfd.store.adding import add_rows
from univfd.store.admission import near_rows
from univfd.store.misses import file_misses
from univfd.store.tables import Tables, _plain_errors
from univfd.store.trying import effect_on_bank, refit
from univfd.types import Embeddings, FeatureSpace, Label, Timings, Verdict
from univfd.views import view

# -- what is there is not touched --------------------------------------------------------------------------------------


def test_no_table_of_others_is_touched(tmp_path: Path) -> None:
    db = lancedb.connect(str(tmp_path / "theirs"))
    db.create_table("rows", pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"]}))
    with pytest.raises(OutputExistsError, match="of something else"):
        BankStore.create(tmp_path / "theirs", random_bank(4).space)
    assert db.open_table("rows").count_rows() == 3
    filled(tmp_path / "lost")
    damaged = lancedb.connect(str(tmp_path / "lost"))
    damaged.drop_table("edits")
    for space in (random_bank(4).space, random_bank(4, dim=7).space):
        with pytest.raises(OutputExistsError, match="of a damaged store"):
            BankStore.create(tmp_path / "lost", space)
    assert damaged.open_table("rows").count_rows() == 40


def test_of_two_creations_at_once_one_makes_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, refused = random_bank(20), []
    honest = lancedb.db.LanceDBConnection.create_table

    def meanwhile(self: object, name: str, *args: object, **kwargs: object) -> object:
        if name == "edits":
            with monkeypatch.context() as patch:
                patch.setattr(lancedb.db.LanceDBConnection, "create_table", honest)
                with pytest.raises(OutputExistsError, match="another process") as error:
                    BankStore.create(tmp_path / "s", bank.space)
                refused.append(error)
        return honest(self, name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(lancedb.db.LanceDBConnection, "create_table", meanwhile)
    store = BankStore.create(tmp_path / "s", bank.space)
    assert refused
    add_rows(store, Rows.of(bank), "rows", "import", store.snapshot())
    assert same(BankStore.open(tmp_path / "s").snapshot().bank, bank)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


# -- who else is there -------------------------------------------------------------------------------------------------


def test_rows_that_another_edit_replaced_are_not_passed_over(tmp_path: Path) -> None:
    bob, _ = filled(tmp_path / "s")
    chosen = bob.snapshot().ids[1:5]
    ann = BankStore.open(tmp_path / "s", who="ann")
    ann.relabel(chosen[:1], {"note": "looked at"}, "a note")
    for edit in (lambda: bob.remove(chosen, "four"), lambda: bob.relabel(chosen, {"note": "mine"}, "four")):
        with pytest.raises(ConflictError, match="has changed 1 of these 4 rows"):
            edit()
    ann.remove(ann.snapshot().ids[1:3], "two")
    assert bob.remove(chosen[2:], "two more") is not None
    assert bob.remove(chosen[2:], "the same") is None
    assert len(bob.snapshot().ids) == 37


def test_images_that_another_process_added_under_the_other_label_are_a_conflict(tmp_path: Path) -> None:
    bob, _ = filled(tmp_path / "s")
    seen, new = bob.snapshot(), Rows.of(random_bank(6, seed=9))
    ann = BankStore.open(tmp_path / "s", who="ann")
    swapped = replace(
        new.bank, labels=np.where(np.arange(6) < 2, 1 - new.bank.labels, new.bank.labels).astype(np.uint8)
    )
    add_rows(ann, Rows.of(swapped).take(np.arange(3)), "three", "add", ann.snapshot())
    with pytest.raises(ConflictError, match="added 2 of these 6 images meanwhile under the other label"):
        add_rows(bob, new, "six", "add", seen)
    edit = add_rows(bob, new.take(np.arange(2, 6)), "four", "add", seen)
    assert edit is not None
    assert len(edit.added) == 3


def test_an_undo_is_of_the_edit_that_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:5], "five")
    honest = Tables.seal

    def slower(self: Tables, tip: object, new: object) -> bool:
        monkeypatch.setattr(Tables, "seal", honest)
        bob = BankStore.open(tmp_path / "s", who="bob")
        add_rows(bob, Rows.of(random_bank(3, seed=9)), "three", "add", bob.snapshot())
        return honest(self, tip, new)  # type: ignore[arg-type]

    monkeypatch.setattr(Tables, "seal", slower)
    with pytest.raises(ConflictError, match="another process made version 3 meanwhile; nothing was undone"):
        store.undo()
    assert len(store.snapshot().ids) == 38
    monkeypatch.setattr(Tables, "seal", slower)
    tagged = store.tag("mine")
    assert tagged.detail["version"] == 3  # what was the newest when it was asked for


# -- damage ------------------------------------------------------------------------------------------------------------


def test_edits_of_rows_that_never_came_are_damage(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:1], "one")
    table = lancedb.connect(str(tmp_path / "s")).open_table("edits")
    table.update(where="number = 2", values={"removed": np.array([2**62], "<i8").tobytes()})
    with pytest.raises(FormatError, match="takes out rows that no edit has put in"):
        BankStore.open(tmp_path / "s").snapshot()


def test_what_lancedb_says_is_one_of_our_cases(tmp_path: Path) -> None:
    panic = type("RustPanic", (Exception,), {})
    for said, expected, words in (
        (panic("rust future panicked"), FormatError, "damaged"),
        (RuntimeError("Failed to resolve region"), UnivFDError, "cannot be reached.*region"),
    ):
        with pytest.raises(expected, match=words), _plain_errors(str(tmp_path)):
            raise said
    with pytest.raises(FormatError, match="damaged"), plain_errors("rows"):
        raise panic("rust future panicked")
    with pytest.raises(KeyError), plain_errors("rows"):
        raise KeyError("ours")


def test_a_tilde_in_a_name_is_a_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    store = BankStore.create("~/faces", random_bank(4).space)
    add_rows(store, Rows.of(random_bank(20)), "rows", "import", store.snapshot())
    assert len(store.tables.source(store.snapshot().ids)) == 20
    store.undo()
    assert len(BankStore.open("~/faces").snapshot().ids) == 0
    assert not list((tmp_path / "home").iterdir())


def test_a_row_that_is_gone_is_said_by_every_edit(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:1], "one")
    gone = int(store.snapshot().ids[-1])
    lancedb.connect(str(tmp_path / "s")).open_table("rows").delete(f"id = {gone}")
    for edit in (lambda s: s.tag("x"), lambda s: s.undo(), lambda s: s.checkout(1)):
        with pytest.raises(FormatError, match=r"1 of [34][90] rows of this version are gone"):
            edit(BankStore.open(tmp_path / "s"))


def test_an_undo_beside_one_that_forgets_undoes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:5], "five")
    honest, slow = BankStore._content_of, BankStore.open(tmp_path / "s")

    def after_a_rival(self: BankStore, ids: object) -> str:
        monkeypatch.setattr(BankStore, "_content_of", honest)
        BankStore.open(tmp_path / "s").compact(forget=True, older_than=timedelta(0))
        return self._content_of(ids)  # type: ignore[arg-type]

    monkeypatch.setattr(BankStore, "_content_of", after_a_rival)
    with pytest.raises(ConflictError, match="another process made version 3 meanwhile"):
        slow.undo()
    with pytest.raises(UsageError, match="nothing to undo"):
        slow.undo()
    assert len(BankStore.open(tmp_path / "s").snapshot().ids) == 35


@pytest.mark.parametrize(("op", "detail"), [("add", "{"), ("tag", "{}"), ("forget", '{"base": "x"}')])
def test_an_edit_that_says_nonsense_is_damage(op: str, detail: str, tmp_path: Path) -> None:
    filled(tmp_path / "s")
    table = lancedb.connect(str(tmp_path / "s")).open_table("edits")
    table.update(where="number = 1", values={"op": op, "detail": detail})
    with pytest.raises(FormatError, match="an edit cannot be read"):
        BankStore.open(tmp_path / "s").history()


def test_a_folder_s_name_does_not_say_what_is_wrong(tmp_path: Path) -> None:
    place = tmp_path / "conflict-timeout-quota"
    filled(place)
    for file in (place / "rows.lance" / "data").iterdir():
        file.unlink()
    with pytest.raises(FormatError, match="damaged or incomplete"):
        BankStore.open(place).snapshot()


def test_a_text_that_is_no_unicode_is_no_damage(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    with pytest.raises(UsageError, match="no Unicode"):
        store.tag("caf\udce9")


# -- tags and forgetting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rel/1", "  ", "a@b", "12"])
def test_a_tag_that_could_not_be_asked_for_is_refused(name: str, tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s", 4)
    with pytest.raises(UsageError, match="expected a name"):
        store.tag(name)


def test_tags_of_the_rows_that_stay_outlive_forgetting(tmp_path: Path) -> None:
    store, bank = filled(tmp_path / "s")
    store.tag("all")
    store.remove(store.snapshot().ids[:5], "five")
    store.tag("few")
    assert store.history().lost() == ["all"]
    store.compact(forget=True)
    assert len(store.snapshot("few").ids) == 35
    with pytest.raises(UsageError):
        store.snapshot("all")
    store.compact(forget=True)
    assert len(store.snapshot("few").ids) == 35
    with pytest.raises(UsageError):
        store.snapshot("all")
    assert same(store.snapshot().bank, bank.take(np.arange(5, 40)))


def test_what_a_killed_process_had_forgotten_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:5], "five")
    with monkeypatch.context() as patch:
        patch.setattr(Tables, "squash", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.compact(forget=True)
    assert store.compact(older_than=timedelta(0)) == 5


# -- pictures that are nearly the same ---------------------------------------------------------------------------------


def test_of_a_film_some_frames_stay() -> None:
    angles = np.arange(60) * 0.1  # neighbouring frames are 0.005 apart, the ends far from each other
    film = np.zeros((60, 16), np.float32)
    film[:, 14], film[:, 15] = np.cos(angles), np.sin(angles)
    bank = random_bank(20, dim=16)
    bank = replace(bank, vectors=np.where(np.arange(16) < 14, bank.vectors, 0).astype(np.float32))
    names = [f"frame{i}" for i in range(60)]
    told = near_rows(names, names, [Label.FAKE] * 60, film, bank, 0.01)
    assert len(told) == 59
    left_out = {n.image: n for n in near_rows(names, names, [Label.FAKE] * 60, film, bank, 0.01, leaving_out=True)}
    kept = [i for i, name in enumerate(names) if name not in left_out]
    apart = 1 - film[kept] @ film[kept].T
    assert apart[~np.eye(len(kept), dtype=bool)].min() > 0.01
    assert len(kept) > 20
    assert {n.other for n in left_out.values()} <= {names[i] for i in kept}
    assert max(n.distance for n in left_out.values()) <= 0.01


def test_of_many_copies_one_stays() -> None:
    rng = np.random.default_rng(0)
    for n in (60, 2_500):
        copies = (np.arange(8) == 7) + 1e-4 * rng.standard_normal((n, 8))
        names = [f"{i}" for i in range(n)]
        bank = random_bank(20)
        bank = replace(bank, vectors=np.where(np.arange(8) < 7, bank.vectors, 0).astype(np.float32))
        for leaving_out in (False, True):
            found = near_rows(
                names, names, [Label.FAKE] * n, copies.astype(np.float32), bank, 0.01, leaving_out=leaving_out
            )
            assert [f.image for f in found] == names[1:]


def test_images_near_each_other_and_near_a_row_are_left_out() -> None:
    bank = random_bank(20)
    copies = np.stack([bank.vectors[3], bank.vectors[3] * 2, bank.vectors[4]]).astype(np.float32)
    names = ["a", "b", "c"]
    told = near_rows(names, names, [Label.FAKE] * 3, copies, bank, 0.01, leaving_out=True)
    assert [(n.image, n.other) for n in told] == [("a", bank.key(3)), ("b", bank.key(3)), ("c", bank.key(4))]


def test_a_store_may_be_made_in_an_empty_folder_of_a_parent_that_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = []
    monkeypatch.setattr("univfd.store.tables.locked", lambda work: locks.append(work) or nullcontext())
    (tmp_path / "vol").mkdir()
    BankStore.create(tmp_path / "vol", random_bank(4).space)
    assert locks == [tmp_path / "vol" / "store"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="is a file"):
        BankStore.create(tmp_path / "file" / "s", random_bank(4).space)


@pytest.mark.parametrize("name", ["c", "on", "e"])
def test_a_short_name_hides_no_word_of_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store, _ = filled(name, 4)

    def refuse(*_: object) -> None:
        raise RuntimeError("lance error: Permission denied (os error 13)")

    monkeypatch.setattr(store.tables._rows, "add", refuse)
    with pytest.raises(UnivFDError, match="no permission"):
        store.append(Rows.of(random_bank(2, seed=1)))


# -- what another bank would do ----------------------------------------------------------------------------------------


def placed(rows: list[tuple[int, int, str, str]], space: FeatureSpace) -> FeatureBank:
    """Rows of an axis, a label, a generator and a source."""
    vectors = np.zeros((len(rows), space.dim), np.float32)
    for i, (axis, *_) in enumerate(rows):
        vectors[i, axis], vectors[i, 7] = 1, 0.01 * i
    keys = [f"{i:02}{len(rows):02}{source}".encode().ljust(32, b".").hex() for i, (*_, source) in enumerate(rows)]
    return FeatureBank.from_rows(
        Embeddings(vectors, space),
        [r[1] for r in rows],
        keys,
        generator=[r[2] for r in rows],
        source=[r[3] for r in rows],
    )


@pytest.mark.parametrize("source", ["civitai", "mine", ""])
def test_a_generator_is_taken_out_wherever_its_images_come_from(source: str, toy: Backbone) -> None:
    space = space_of(toy, view("native"))
    reals, fakes = (
        [(0, 0, "", "s"), (3, 0, "", "t")],
        [(1, 1, "g", "civitai"), (1, 1, "g", "civitai"), (2, 1, "g2", "x")],
    )
    old = placed(reals + fakes, space)
    before = assemble("nn", toy, view("native"), old, "knn", {"k": 1, "balanced": False})
    found = effect_on_bank(before, old.add(placed([(1, 1, "g", source)], space)), Label.FAKE)
    assert (found.n, found.flips) == (3, ())


def test_a_fold_with_too_few_neighbours_is_not_judged(toy: Backbone) -> None:
    space, rng = space_of(toy, view("native")), np.random.default_rng(0)

    def bank(generators: list[str], reals: int) -> FeatureBank:
        n = len(generators) + reals
        return FeatureBank.from_rows(
            Embeddings(rng.standard_normal((n, space.dim)).astype(np.float32), space),
            [1] * len(generators) + [0] * reals, [rng.bytes(32).hex() for _ in range(n)],
            generator=generators + [""] * reals, source=[""] * len(generators) + [f"s{i % 3}" for i in range(reals)],
        )  # fmt: skip

    old = bank(["g"] * 20 + ["h"] * 3, 20)
    before = assemble("nn", toy, view("native"), old, "knn", {"k": 9})
    assert effect_on_bank(before, old.add(bank(["new"] * 3, 0)), Label.FAKE).n == 3  # g's fold would leave 3 fakes
    assert effect_on_bank(before, old.add(bank(["new"] * 3, 0)), Label.REAL).n == 20


def test_neighbours_weigh_the_classes_by_their_sizes_in_the_bank_of_now(toy: Backbone) -> None:
    space, rng = space_of(toy, view("native")), np.random.default_rng(0)

    def bank(reals: int, fakes: int) -> FeatureBank:
        n = reals + fakes
        return FeatureBank.from_rows(
            Embeddings(rng.standard_normal((n, space.dim)).astype(np.float32), space), [0] * reals + [1] * fakes,
            [rng.bytes(32).hex() for _ in range(n)], generator=[""] * reals + ["g"] * fakes, source="s",
        )  # fmt: skip

    old, queries = bank(300, 300), rng.standard_normal((400, space.dim)).astype(np.float32)
    before = assemble("nn", toy, view("native"), old, "knn", {"k": 1})
    grown = old.add(bank(0, 3_000))
    called = [(d.classifier.decision_function(queries) > 0).mean() for d in (before, before.with_bank(grown))]
    assert called == pytest.approx([0.5, 0.5], abs=0.1)
    fresh = assemble("nn", toy, view("native"), grown, "knn", {"k": 1})
    same_queries = (
        fresh.classifier.decision_function(queries),
        before.with_bank(grown).classifier.decision_function(queries),
    )
    np.testing.assert_allclose(*same_queries, atol=1e-5)


def test_a_refit_stands_though_the_version_before_is_too_small_to_compare_with(toy: Backbone) -> None:
    space = space_of(toy, view("native"))

    def rows(n: int, seed: int) -> FeatureBank:
        drawn = replace(random_bank(n, seed, space.dim), space=space)
        return replace(drawn, source=np.where(drawn.labels == 1, "", drawn.source).astype(object))

    small = rows(40, 1)
    large = Rows.of(small.add(rows(200, 2)))
    tries = [(small, "too few", "ridge", {}), (rows(0, 1), "leaving one out", "ridge", {})]
    for before, why, name, params in [*tries, (rows(6, 1), "at least 5", "knn", {"k": 9})]:
        trained = refit("m", large, Rows.of(before), toy, view("native"), name, params)  # type: ignore[arg-type]
        assert trained.detector.calibration.n_real == 120
        assert why in trained.not_compared
    assert not refit("m", large, large, toy, view("native"), "ridge", {}).not_compared


# -- the command line --------------------------------------------------------------------------------------------------


def test_near_images_are_left_out_on_the_command_line(here: Path) -> None:  # noqa: F811
    again = picture(3, 240, 240)
    alike = again.copy()
    alike[0, 0] ^= 1
    folder_of(here / "new", {"a.png": encoded(again, "PNG"), "b.png": encoded(alike, "PNG"), "c.png": odd(1)})
    said = json.loads(
        run("bank", "add", "s", "new", "--label", "fake", "--skip-near", "--near", "1e-5", "--json").stdout
    )
    assert said["edit"]["added"] == said["report"]["new"] == 2
    assert [Path(n["image"]).name for n in said["report"]["near"]] == ["b.png"]


def test_a_folder_without_images_stands_for_no_row(here: Path) -> None:  # noqa: F811
    (here / "empty").mkdir()
    for command in (("remove",), ("relabel", "--to", "real")):
        with pytest.raises(UsageError, match="empty: there are no images; nothing was changed"):
            run("bank", command[0], "s", "empty", "--label", "fake", *command[1:])


def test_what_if_says_what_it_could_not_read_and_what_finds_itself(here: Path, made: Path) -> None:  # noqa: F811
    folder_of(here / "few", {"a.png": odd(0)})
    (here / "bad.png").write_bytes(b"no image")
    nn = str(made / "nn")
    options = ("--label", "fake", "--test", "bad.png", "--test", "few", "--reals", "gone.png", "--detector", nn)
    said = json.loads(run("bank", "what-if", "s", "few", *options, "--json", code=3).stdout)
    assert [Path(f["image"]).name for f in said["failures"]] == ["bad.png", "gone.png"]
    assert said["inside"] == {"--test": 1, "--reals": 0}
    told = run("bank", "what-if", "s", "few", *options, code=3).output
    assert "called fake no images" in told
    assert "1 image of --test is in DATA or in the bank" in told
    assert "bad.png" in told
    assert "gone.png" in told


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("create", "t", "--detector", "default", "--tap", "cls.3"), "leave out --tap"),
        (("create", "s@1"), "means version '1' of s"),
        (("import", "s@9", "neighbors"), "means version '9' of s|no version 9"),
        (("log", "s@1"), "name the store without '@1'"),
        (("diff", "s@1", "0"), "name the store without '@1'"),
        (("index", "info", "s@1"), "name the store without '@1'"),
        (("miss", "x.png", "--truth", "real", "--generator", "g"), "--generator is of fakes"),
    ],
)
def test_calls_that_would_be_half_ignored_are_refused(here: Path, args: tuple[str, ...], message: str) -> None:  # noqa: F811
    with pytest.raises(UnivFDError, match=message):
        run("bank", *args)
    assert not (here / "t").exists()
    assert not (here / "s@1").exists()


def test_names_of_strangers_stay_inert(here: Path, made: Path) -> None:  # noqa: F811
    evil = "\x1b]0;owned\x07\nversion 9 -> 9"
    store = BankStore.open("s")
    store.relabel(store.snapshot().ids[1:2], {"label": Label.FAKE, "generator": evil}, "one")
    folder_of(here / "m", {"c\x1b[2Jd.png": odd(0)})
    told = [
        run("bank", "diff", "s", "1").output,
        run("bank", "remove", "s", "--generator", evil, "--dry-run").output,
        run("bank", "miss", "m", "--truth", "fake", "--detector", made / "nn", "--anyway").output,
        run("bank", "log", "s").output,
    ]
    for text in told:
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\nversion 9 -> 9" not in text
    counted = json.loads(run("bank", "remove", "s", "--generator", evil, "--dry-run", "--json").stdout)
    assert (counted["rows"], counted["edit"]) == (1, None)


def test_merged_rows_keep_their_pictures(here: Path, made: Path) -> None:  # noqa: F811
    folder_of(here / "new", {f"{i}.png": odd(i) for i in range(3)})
    run("bank", "import", "other", made / "nn")
    run("bank", "add", "other", "new", "--label", "fake")
    run("bank", "merge", "s", "other")
    store = BankStore.open("s")
    assert len(store.thumbnails(store.snapshot().ids)) == 3


def test_an_exported_bank_can_be_read_and_has_the_digest_that_was_told(tmp_path: Path) -> None:
    _, bank = filled(tmp_path / "s")
    for dtype in ("float32", "float16", "int8"):
        told = run("bank", "export", tmp_path / "s", tmp_path / dtype, "--dtype", dtype).output.strip()
        assert told.endswith(FeatureBank.load(tmp_path / dtype).digest)
    large = replace(bank, vectors=bank.vectors * np.float32(1e5))
    with pytest.raises(UsageError, match="beyond what float16 holds"):
        large.save(tmp_path / "large", dtype="float16")
    assert not (tmp_path / "large").exists()
    assert np.isfinite(as_stored(large.vectors, "int8")).all()


# -- wrong verdicts that are filed -------------------------------------------------------------------------------------


def filed(folder: Path, sha: str, **facts: str) -> str:
    found = Verdict(
        image="a.png", verdict="real", score=-1.0, probability=0.1, attribution="", nearest_fake=(), nearest_real=(),
        sha256=sha, width=9, height=9, format="PNG", view="native", detector="d@1", space="", doubts=(), remarks=(),
        timings=Timings(0, 0, 0),
    )  # fmt: skip
    return file_miss(folder, sha.encode(), found, Label.FAKE, ending=".png", by="ann", facts=facts)


def test_a_manifest_without_a_last_line_break_is_gone_on_with(tmp_path: Path) -> None:
    assert filed(tmp_path, "ab" * 32) == "filed"
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes().rstrip(b"\n"))
    assert filed(tmp_path, "cd" * 32, note="caf\udce9") == "filed"
    assert [json.loads(line)["sha256"][:2] for line in manifest.read_text("utf-8").splitlines()] == ["ab", "cd"]
    assert filed(tmp_path, "ab" * 32) == "known"


def test_after_a_full_disk_the_folder_of_misses_is_gone_on_with(
    toy_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, written = encoded(picture(1, 240, 240), "PNG"), []
    honest = misses.new_contents

    def full(place: Path) -> object:
        written.append(place)
        if len(written) == 3:  # the row, behind the empty manifest and the image
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(place)

    monkeypatch.setattr(misses, "new_contents", full)
    (tmp_path / "a.png").write_bytes(image)
    call = partial(file_misses, tmp_path / "m", toy_detector, [tmp_path / "a.png"], Label.FAKE, anyway=True)
    with pytest.raises(UnivFDError, match="full"):
        call()
    assert [f.status for f in call()] == ["filed"]  # type: ignore[union-attr]


def test_a_data_set_of_others_takes_misses_and_a_broken_one_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"file": "a.png", "label": "fake"}\n\n')
    assert filed(tmp_path, "ab" * 32) == "filed"
    for line in (b"{", b'{"sha256": "x"}', b"\xff", b"[]"):
        manifest.write_bytes(b'{"file": "a.png", "label": "fake"}\n' + line + b"\n")
        with pytest.raises(FormatError, match=r"manifest\.jsonl, line 2 is no row of a data set"):
            filed(tmp_path, "ef" * 32)
        assert not list(tmp_path.glob("fake/ef*"))
