"""The bank store at its edges: what is not ours, what is damaged, who else is there, what strangers write."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from commands import run
from conftest import encoded, picture, random_bank
from test_bank_commands import folder_of, here, made, odd  # noqa: F401  # fixtures
from test_store import filled, same
from univfd.bank import FeatureBank, as_stored
from univfd.errors import FormatError, OutputExistsError, UnivFDError, UsageError
from univfd.misses import file_miss
from univfd.store import BankStore, Rows
from univfd.store.adding import add_rows
from univfd.store.admission import near_rows
from univfd.store.tables import Tables
from univfd.types import Label, Timings, Verdict

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


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_row_that_is_gone_is_said_by_every_edit(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:1], "one")
    gone = int(store.snapshot().ids[-1])
    lancedb.connect(str(tmp_path / "s")).open_table("rows").delete(f"id = {gone}")
    for edit in (lambda s: s.tag("x"), lambda s: s.undo(), lambda s: s.checkout(1)):
        with pytest.raises(FormatError, match=r"1 of [34][90] rows of this version are gone"):
            edit(BankStore.open(tmp_path / "s"))


def test_an_edit_beside_one_that_forgets_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = filled(tmp_path / "s")
    store.remove(store.snapshot().ids[:5], "five")
    honest, slow = BankStore._content_of, BankStore.open(tmp_path / "s")

    def after_a_rival(self: BankStore, ids: object) -> str:
        monkeypatch.setattr(BankStore, "_content_of", honest)
        BankStore.open(tmp_path / "s").compact(forget=True, older_than=timedelta(0))
        return self._content_of(ids)  # type: ignore[arg-type]

    monkeypatch.setattr(BankStore, "_content_of", after_a_rival)
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
    assert "1 images of --test are in DATA or in the bank" in told
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


def test_a_data_set_of_others_takes_misses_and_a_broken_one_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"file": "a.png", "label": "fake"}\n\n')
    assert filed(tmp_path, "ab" * 32) == "filed"
    for line in (b"{", b'{"sha256": "x"}', b"\xff", b"[]"):
        manifest.write_bytes(b'{"file": "a.png", "label": "fake"}\n' + line + b"\n")
        with pytest.raises(FormatError, match=r"manifest\.jsonl, line 2 is no row of a data set"):
            filed(tmp_path, "ef" * 32)
        assert not list(tmp_path.glob("fake/ef*"))
