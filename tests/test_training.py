"""What training decides without PyTorch: parts, crops, the rule of the learning rate, checkpoints, clear errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import picture, toy_samples
from univfd.cli import group
from univfd.errors import DataError, FormatError, MissingExtraError, UnknownNameError, UsageError
from univfd.training import state as state_module
from univfd.training.crops import scaled, training_crop, validation_crop
from univfd.training.pictures import Memory, Pictures
from univfd.training.run import Plan, _digest, train
from univfd.training.schedule import Plateau
from univfd.training.splits import BY, parted, split, thin
from univfd.training.state import Checkpoints, Epoch, State
from univfd.types import Failure, ImageRef, Label, ParquetCell, Sample, TarSpan
from univfd.views import PreprocessSpec

SPEC = PreprocessSpec(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")


def sample(i: int, fake: bool, generator: str = "", source: str = "", group: str = "", part: str = "") -> Sample:
    return Sample(ImageRef(str(i), b""), Label(fake), generator, source, group, split=part)


cards = st.tuples(
    st.booleans(), st.sampled_from("abcd"), st.sampled_from("stuvwxyz"), st.sampled_from(["", "", "g", "h"])
)


COLUMNS = {"source": ["source", "group"], "generator": ["source", "group", "generator"], "image": ["group"]}


def can_be_parted(data: list[Sample], by: str) -> bool:
    """Whether both parts can have both classes: by joining units slowly, pair by pair."""
    units = [{i} for i in range(len(data))]
    for i, one in enumerate(data):
        for j, other in enumerate(data[:i]):
            if any(getattr(one, c) and getattr(one, c) == getattr(other, c) for c in COLUMNS[by]):
                mine, theirs = (next(u for u in units if k in u) for k in (i, j))
                if mine is not theirs:
                    units.remove(theirs)
                    mine |= theirs
    kinds = [frozenset(int(data[i].label) for i in u) for u in units]
    real, fake, mixed = (kinds.count(frozenset(k)) for k in ({0}, {1}, {0, 1}))
    return mixed > 1 or (mixed == 1 and real > 0 and fake > 0) or (real > 1 and fake > 1)


@given(st.lists(cards, min_size=1, max_size=60), st.sampled_from(BY), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_a_split_loses_nothing_and_parts_no_unit(rows: list[tuple[bool, str, str, str]], by: str, seed: int) -> None:
    data = [sample(i, fake, gen if fake else "", source, group) for i, (fake, gen, source, group) in enumerate(rows)]
    if not can_be_parted(data, by):
        with pytest.raises(DataError, match="needs both"):
            split(data, by=by, seed=seed)
        return
    parts = split(data, by=by, seed=seed)
    names = sorted(int(s.ref.name) for s in (*parts.train, *parts.validation))
    assert names == list(range(len(data)))
    for part in (parts.train, parts.validation):
        assert {s.label for s in part} == set(Label)
    for column in COLUMNS[by]:
        train_has, validation_has = ({getattr(s, column) for s in p} - {""} for p in (parts.train, parts.validation))
        assert not train_has & validation_has


def test_the_share_is_about_kept_where_sources_are_small() -> None:
    data = [sample(i, i % 2 == 1, "g" * (i % 2), f"s{i % 40}") for i in range(800)]
    parts = split(data, share=0.25)
    for label in Label:
        assert 0.2 <= sum(s.label is label for s in parts.validation) / 400 <= 0.3
    assert split(data, share=0.25) == parts
    assert split(data, share=0.25, seed=1) != parts


def test_the_datas_own_split_is_kept() -> None:
    data = [sample(i, i % 2 == 1, source="one", part=("train", "val", "test")[i % 3]) for i in range(12)]
    parts = split(data)
    assert [int(s.ref.name) % 3 for s in parts.train] == [0] * 4
    assert [int(s.ref.name) % 3 for s in parts.validation] == [1] * 4
    assert parts.left_out == 4


def test_parts_that_cannot_be_made_say_what_to_do() -> None:
    data = [sample(i, i % 2 == 1, source="one") for i in range(12)]
    with pytest.raises(DataError, match=r"validation part has 0 real and 0 fake.*--validate-by image"):
        split(data)
    assert len(split(data, by="image").validation) in {2, 3, 4}
    with pytest.raises(UnknownNameError):
        split(data, by="colour")
    others = [sample(100 + i, i == 0) for i in range(7)]
    with pytest.raises(DataError, match="the validation part has 6 real and 0 fake"):
        parted(data, others[1:])
    with pytest.raises(DataError, match=r"^3 would train and validate; 2 image"):
        parted(data, [*others, data[3], data[5]])


def files(folder: Path) -> list[Sample]:
    """The first toy images as files of a folder, as a collection would have them by this path."""
    folder.mkdir(parents=True, exist_ok=True)
    for s in toy_samples()[:12]:
        (folder / s.ref.name).write_bytes(s.ref.source)  # type: ignore[arg-type]
    return [replace(s, ref=ImageRef(str(folder / s.ref.name), folder / s.ref.name)) for s in toy_samples()[:12]]


def test_a_file_by_two_names_never_trains_and_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, again = files(Path("d")), files(tmp_path / "d")
    assert data[0].ref.name != again[0].ref.name
    with pytest.raises(DataError, match="would train and validate; 12 image"):
        parted(data, again)
    for seed in range(5):
        parts = split([*data, *again], by="image", seed=seed)
        train, validation = ({s.ref.source.name for s in part} for part in (parts.train, parts.validation))  # type: ignore[union-attr]
        assert not train & validation
    stated = [*(replace(s, split="train") for s in data), *(replace(s, split="val") for s in again[:4])]
    with pytest.raises(DataError, match="would train and validate; 4 image"):
        split(stated)


@pytest.mark.parametrize("by", BY)
def test_data_of_one_class_are_called_so(by: str) -> None:
    with pytest.raises(DataError, match=r"the data hold 12 real and 0 fake images; training needs both"):
        split([sample(i, False, source=f"s{i}") for i in range(12)], by=by)


def test_data_are_known_again_by_labels_names_within_them_and_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = _digest(files(Path("d")))
    assert _digest(files(tmp_path / "d")) == _digest(files(tmp_path / "elsewhere")) == first
    data = files(tmp_path / "d")
    assert _digest(data[1:]) != first
    assert _digest([replace(data[0], label=Label(1 - data[0].label)), *data[1:]]) != first
    (tmp_path / "d" / "0.png").write_bytes(b"other")
    assert _digest(data) != first
    (tmp_path / "d" / "0.png").unlink()
    assert _digest(data) != first
    tar = [Sample(ImageRef("a", TarSpan(tmp_path / "a.tar", at, 9)), Label.REAL) for at in (0, 512)]
    assert _digest(tar[:1]) != _digest(tar[1:])
    cells = [Sample(ImageRef("a", ParquetCell(tmp_path / "a", "image", 0, i, i)), Label.REAL) for i in (0, 1)]
    assert _digest(cells[:1]) != _digest(cells[1:])
    assert _digest(toy_samples()[:2]) != _digest(toy_samples()[1:3])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", "4294967296"),
        ("lr", "nan"),
        ("lr", "inf"),
        ("lr", "1e38"),
        ("augment", "nan"),
        ("validation-share", "nan"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(option: str, value: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        group, ["train", str(tmp_path), "-o", str(tmp_path / "out"), f"--{option}", value], obj={"quiet": False}
    )
    assert result.exit_code == 2
    assert f"--{option}" in result.output


def test_another_collection_validates_and_the_rest_of_a_stated_split_does_nothing() -> None:
    data = [sample(i, i % 2 == 1, part=("train", "val", "test")[i % 3]) for i in range(12)]
    others = [sample(100 + i, i == 0) for i in range(7)]
    parts = parted(data, others, most=2)
    assert parts.validation == tuple(others)
    assert len(parts.train) == 2
    assert {int(s.ref.name) % 3 for s in parts.train} == {0}
    assert parts.left_out == 8


def test_thinning_takes_half_of_each_class_where_it_can() -> None:
    data = [sample(i, i >= 90) for i in range(100)]
    for most, wanted in ((8, (4, 4)), (40, (30, 10)), (1000, (90, 10))):
        kept = thin(data, most)
        assert tuple(sum(s.label is label for s in kept) for label in Label) == wanted
        assert [int(s.ref.name) for s in kept] == sorted(int(s.ref.name) for s in kept)
    assert thin(data, 8) != thin(data, 8, seed=1)
    with pytest.raises(DataError, match="2 or more"):
        thin(data, 1)


def test_a_plain_training_crop_is_a_window_of_the_picture() -> None:
    pixels = picture(0, 72, 70)
    places, mirrored = set(), set()
    for i in range(120):
        crop = training_crop(pixels, SPEC, 0.0, np.random.default_rng(i))
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (64, 64, 3))[:, :, 0]
        for flipped in (False, True):
            hit = np.argwhere((windows == (crop[:, ::-1] if flipped else crop)).all(axis=(2, 3, 4)))
            places |= {(int(y), int(x)) for y, x in hit}
            mirrored |= {flipped} if len(hit) else set()
    assert mirrored == {False, True}
    rows, columns = zip(*places, strict=True)
    assert (min(rows), max(rows), min(columns), max(columns)) == (0, 6, 0, 8)


def test_blur_and_jpeg_come_with_their_probability() -> None:
    pixels = picture(0, 64, 64)
    plain = [pixels.tobytes(), np.ascontiguousarray(pixels[:, ::-1]).tobytes()]
    changed = [training_crop(pixels, SPEC, 0.1, np.random.default_rng(i)).tobytes() not in plain for i in range(400)]
    assert 0.13 < np.mean(changed) < 0.25  # 1 - 0.9 ** 2 = 0.19
    np.testing.assert_array_equal(validation_crop(pixels, SPEC, 0.0, np.random.default_rng(0)), pixels)
    both = validation_crop(pixels, SPEC, 1.0, np.random.default_rng(0)).astype(float)
    one = validation_crop(np.full((64, 64, 3), 90, np.uint8), SPEC, 1.0, np.random.default_rng(0))
    assert np.abs(one.astype(int) - 90).max() <= 2  # neither moves the grey of a flat picture
    assert np.abs(np.diff(both, axis=0)).mean() < 0.8 * np.abs(np.diff(pixels.astype(float), axis=0)).mean()


@pytest.mark.parametrize("width", [30, 500])
def test_a_picture_smaller_than_the_crop_is_scaled_up(width: int) -> None:
    for cut in (training_crop, validation_crop):
        assert cut(picture(0, width, 40), SPEC, 1.0, np.random.default_rng(0)).shape == (64, 64, 3)


def test_scaling() -> None:
    assert scaled(picture(0, 300, 200), 100).shape == (100, 150, 3)
    assert scaled(picture(0, 300, 200), 0).shape == (200, 300, 3)


@pytest.mark.parametrize("side", [1, 256])
def test_a_line_is_scaled_by_its_middle(side: int) -> None:
    """A file of 90 KB must not grow to the size of the machine's memory."""
    line = np.zeros((side, 30_000, 3), np.uint8)
    line[:, 15_000:] = 255
    for pixels, shape in ((line, (256, 4096, 3)), (line.transpose(1, 0, 2), (4096, 256, 3))):
        got = scaled(pixels, 256)
        assert got.shape == shape
        assert 127 < got.mean() < 128
    within = picture(0, 320, 20)
    np.testing.assert_array_equal(
        scaled(within, 40), np.asarray(Image.fromarray(within).resize((640, 40), Image.Resampling.BILINEAR))
    )


def test_a_picture_too_long_for_jpeg_is_cut_without_it() -> None:
    """At its own resolution (`--short-side 0`), in every epoch, whatever is drawn."""
    pixels = np.full((64, 65_600, 3), 90, np.uint8)
    for cut in (training_crop, validation_crop):
        assert (cut(pixels, SPEC, 1.0, np.random.default_rng(0)) == 90).all()


def test_pictures_are_decoded_once_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd.training import pictures as module

    decoded: list[str] = []
    real = module.decode
    monkeypatch.setattr(module, "decode", lambda ref, **o: decoded.append(ref.name) or real(ref, **o))
    data = toy_samples()[:4]
    data[2] = replace(data[2], ref=ImageRef("broken", b"xx"))
    one = 120 * 120 * 3
    pictures = Pictures(data, short_side=120, workers=1, memory=Memory(2 * one))
    for _ in range(2):
        got = dict(pictures.crops([3, 0, 2, 1], lambda i, p: p[:1]))
        assert list(got) == [3, 0, 1]
    assert sorted(decoded) == ["0.png", "1.png", "1.png", "3.png", "broken"]
    assert [f.image for f in pictures.failures.values()] == ["broken"]


def test_pictures_are_kept_without_what_they_are_cut_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded pixels may be a window on four channels; and two parts have one room."""
    from univfd.images import Decoded
    from univfd.training import pictures as module

    four = np.zeros((50, 60, 4), np.uint8)
    monkeypatch.setattr(module, "decode", lambda *_, **__: Decoded(four[..., :3], "", ""))
    memory = Memory(3 * 50 * 60 * 3)
    parts = [Pictures(toy_samples()[:2], short_side=0, workers=1, memory=memory) for _ in range(2)]
    for part in parts:
        assert [p.shape for _, p in part.crops([0, 1], lambda i, p: p)] == [(50, 60, 3)] * 2
    kept = [pixels for part in parts for pixels in part._kept.values()]
    assert len(kept) == 3
    assert all(pixels.flags.c_contiguous for pixels in kept)


def test_a_picture_that_memory_does_not_hold_is_left_out_unless_it_was_read() -> None:
    def cut(number: int, pixels: np.ndarray) -> np.ndarray:
        if full:
            raise MemoryError
        return pixels

    data, full = toy_samples()[:2], True
    never, before = (Pictures(data, workers=1) for _ in range(2))
    assert list(never.crops([0], cut)) == []
    assert "not enough memory" in never.failures[0].message
    full = False
    assert len(list(before.crops([0], cut))) == 1
    full = True
    with pytest.raises(DataError, match="was read before: not enough memory"):
        list(before.crops([0], cut))


def test_a_path_that_the_system_refuses_is_a_picture_that_is_left_out(tmp_path: Path) -> None:
    data = [replace(toy_samples()[0], ref=ImageRef("long", tmp_path / ("a" * 300))), toy_samples()[1]]
    pictures = Pictures(data, workers=1)
    assert [i for i, _ in pictures.crops([0, 1], lambda i, p: p)] == [1]
    assert list(pictures.failures) == [0]


def test_a_picture_that_was_there_and_is_not_ends_the_run(tmp_path: Path) -> None:
    """To go on without it would be to go on with other data."""
    file = tmp_path / "a.png"
    file.write_bytes(toy_samples()[0].ref.source)  # type: ignore[arg-type]
    data = [replace(toy_samples()[0], ref=ImageRef("a.png", file)), toy_samples()[1]]
    pictures = Pictures(data, workers=1, memory=Memory(0))
    unread = Pictures(data, workers=1)
    assert len(list(pictures.crops([0, 1], lambda i, p: p))) == 2
    file.unlink()
    resumed, unknown = (Pictures(data, workers=1, failures=failures) for failures in ({}, None))
    for seen in (pictures, unread, resumed):
        with pytest.raises(DataError, match=r"a\.png was there before and now cannot be read.*--resume"):
            list(seen.crops([0, 1], lambda i, p: p))
        assert not seen.failures
    assert len(list(unknown.crops([0, 1], lambda i, p: p))) == 1
    assert unknown.share == 1


def test_the_rate_falls_after_epochs_without_a_gain_and_training_ends() -> None:
    rule = Plateau(lr=1e-4, patience=2)
    # The second accuracy gains less than 0.001, the third enough; then two epochs without a gain, thrice.
    rates = []
    for accuracy in (0.9, 0.9005, 0.9011, 0.9015, 0.9, 0.5, 0.501, 0.502, 0.5035, 0.5, 0.4, 0.4, 0.4):
        assert not rule.over
        rates.append(rule.lr)
        rule = rule.after(accuracy)
    assert rule.over
    np.testing.assert_allclose(rates, [1e-4] * 5 + [1e-5] * 5 + [1e-6] * 3)


EPOCHS = [Epoch(i + 1, 1.0, accuracy, 0.5, 0.5, 1e-4, 1.0) for i, accuracy in enumerate((0.6, 0.8, 0.7))]


def kept_after(n: int) -> State:
    return State(Plateau(1e-4, 5), tuple(EPOCHS[:n]))


def arrays(n: int) -> dict[str, np.ndarray]:
    return {"w": np.full(3, n, np.float32)}


@pytest.mark.parametrize("fails", range(1, 8))
def test_checkpoints_are_whole_after_a_kill_at_any_write(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write for the run, two an epoch; the n-th is cut off before its rename."""
    writes = 0
    real = state_module.replace_file

    def cut_off(scratch: Path, target: Path) -> None:
        nonlocal writes
        writes += 1
        if writes == fails:
            raise KeyboardInterrupt
        real(scratch, target)

    monkeypatch.setattr(state_module, "replace_file", cut_off)
    run = Checkpoints(tmp_path / "run")

    def three_epochs() -> None:
        run.begin({"seed": 1})
        for n in (1, 2, 3):
            run.write(kept_after(n), arrays(n), best=n < 3)

    with pytest.raises(KeyboardInterrupt):
        three_epochs()
    whole = (fails - 2) // 2
    assert run.begun == (fails > 1)
    found = run.read()
    assert found == (kept_after(whole) if whole > 0 else None)
    if found is not None:
        assert run.arrays("last")["w"][0] == whole
        assert run.arrays("best")["w"][0] == whole
        run.write(kept_after(3), arrays(3), best=False)
        assert run.arrays("best")["w"][0] == whole
        assert len(list((tmp_path / "run").glob("*.safetensors"))) == 2
        assert run.read().best.accuracy == 0.8  # type: ignore[union-attr]


def test_another_runs_settings_and_damage_are_refused(tmp_path: Path) -> None:
    run = Checkpoints(tmp_path / "run")
    run.begin({"seed": 1, "lr": 0.1})
    run.require({"seed": 1, "lr": 0.1})
    with pytest.raises(UsageError, match=r"lr: None instead of 0.1; view: 'five' instead of None"):
        run.require({"seed": 1, "view": "five"})
    run.write(kept_after(1), arrays(1), best=True)
    (tmp_path / "run" / "state.json").write_text('{"kind": "training", "schema": 1}')
    with pytest.raises(FormatError, match="cannot be read"):
        run.read()
    for name, damaged in (("lr", '"x"'), ("failures", '{"train": 3}')):
        (tmp_path / "run" / "state.json").unlink()
        run.write(replace(kept_after(1), failures={"train": {}, "validation": {}}), arrays(1), best=True)
        record = json.loads((tmp_path / "run" / "state.json").read_text())
        (record["plateau"] if name == "lr" else record)[name] = json.loads(damaged)
        (tmp_path / "run" / "state.json").write_text(json.dumps(record))
        with pytest.raises(FormatError, match=r"state\.json cannot be read"):
            run.read()


def test_what_could_not_be_read_is_kept_with_the_state(tmp_path: Path) -> None:
    run = Checkpoints(tmp_path / "run")
    run.begin({})
    state = replace(kept_after(1), failures={"train": {7: Failure("a.png", "truncated", "it ends")}, "validation": {}})
    run.write(state, arrays(1), best=True)
    assert run.read() == state
    record = json.loads((tmp_path / "run" / "state.json").read_text())
    del record["failures"]  # a run of an earlier version
    (tmp_path / "run" / "state.json").write_text(json.dumps(record))
    assert run.read() == replace(state, failures=None)


def test_without_pytorch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"training needs torch.*univfd\[torch\]"):
        train(parted(toy_samples()), tmp_path / "out", Plan(arch="small"))
    assert not list(tmp_path.iterdir())


def test_the_command_tells_its_options() -> None:
    command = group.get_command(None, "train")  # type: ignore[arg-type]
    text = Path(__file__).parents[1].joinpath("docs", "training.md").read_text("utf-8")
    for option in command.params:  # type: ignore[union-attr]
        assert option.opts[0] in text or option.name == "data", option.opts
