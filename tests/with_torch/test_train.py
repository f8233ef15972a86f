"""`univfd train`: learning, resuming exactly, and detectors that need no PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import run
from conftest import toy_samples
from faults import Refusals, left_over, refusing
from univfd.datasets import open_dataset
from univfd.errors import DataError, OutputExistsError, UnivFDError, UsageError
from univfd.storage import read_arrays
from univfd.training import loop
from univfd.training.networks import Network
from univfd.training.pictures import Memory, Pictures
from univfd.training.run import Plan, Trained, train
from univfd.training.splits import parted
from univfd.views import PreprocessSpec

PLAN = Plan(arch="small", epochs=4, batch_size=8, lr=1e-3, augment=0.1, short_side=0)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy collection as files: 6 real sources, 4 generators that leave a grid."""
    root = tmp_path_factory.mktemp("data")
    for sample in toy_samples():
        place = root / sample.label.word / (sample.generator or sample.source)
        place.mkdir(parents=True, exist_ok=True)
        (place / sample.ref.name).write_bytes(sample.ref.source)  # type: ignore[arg-type]
    return root


def univfd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "univfd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def weights(output: Path) -> dict[str, Any]:
    return read_arrays(output / "backbone" / "weights.safetensors", {}) | read_arrays(
        output / "classifier.safetensors", {}
    )


def short(output: Path, plan: Plan = PLAN, **options: Any) -> Trained:
    return train(parted(toy_samples()[:24]), output, plan, threads=1, **options)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, dict[str, Any]]:
    """Three epochs without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIVFD_HOME", str(tmp_path_factory.mktemp("home")))
        output = tmp_path_factory.mktemp("run") / "straight"
        return short(output, replace(PLAN, epochs=3)), weights(output)


def test_from_the_command_line_to_verdicts_without_pytorch(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    done = univfd("train", data, "-o", output, "--arch", "small", "--epochs", 4, "--batch-size", 8, "--lr", 1e-3,
                  "--short-side", 0, "--augment", 0.1, "--threads", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch 4: loss" in done.stderr
    assert "validation: by source" in done.stderr
    assert not Path(f"{output}.partial").exists()
    record = json.loads((output / "backbone" / "training.json").read_text())
    assert len(record["epochs"]) == 4
    assert record["epochs"][record["kept"] - 1]["accuracy"] == max(e["accuracy"] for e in record["epochs"]) > 0.9
    seen = record["images"]
    for kind in ("real by source", "fake by generator"):
        assert not set(seen["train"][kind]) & set(seen["validation"][kind])
    code = (
        "import sys; sys.modules['torch'] = None; import univfd\n"
        f"for v in univfd.load({str(output)!r}).detect({str(data)!r}): print(v.verdict, 'fake' in v.image)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    right = [line in {"fake True", "real False"} for line in out.splitlines()]
    assert len(right) == 48
    assert np.mean(right) > 0.9
    again = univfd("train", data, "-o", output, "--arch", "small")
    assert again.returncode == 2
    assert "never overwritten" in again.stderr


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 7, 10])
def test_a_killed_run_goes_on_exactly(after: int, straight: tuple[Trained, dict[str, Any]], tmp_path: Path) -> None:
    """Killed after so many batches, of four an epoch: in the first, after it, in the second's validation, later."""
    batches = 0

    def kill(n: int) -> None:
        nonlocal batches
        batches += 1
        if batches > after:
            raise KilledError

    output = tmp_path / "killed"
    with pytest.raises(KilledError):
        short(output, replace(PLAN, epochs=3), on_done=kill)
    assert not output.exists()
    if after > 4:  # a whole epoch would be lost
        with pytest.raises(OutputExistsError, match="--resume"):
            short(output, replace(PLAN, epochs=3))
    resumed = short(output, replace(PLAN, epochs=3), resume=True)
    assert [replace(e, seconds=0) for e in resumed.epochs] == [replace(e, seconds=0) for e in straight[0].epochs]
    mine, theirs = weights(output), straight[1]
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_a_disk_that_fills_up_costs_no_whole_epoch(straight: tuple[Trained, dict[str, Any]], tmp_path: Path) -> None:
    """Full from the write on that keeps the second epoch, and from the first of the detector's folder."""
    plan = replace(PLAN, epochs=3)
    with refusing(Refusals(tmp_path / "room")) as seen:
        short(tmp_path / "room" / "x", plan)
    _, second, _ = (k for k, name in enumerate(seen.seen, 1) if name == "open .state.json")
    saving = next(k for k, name in enumerate(seen.seen, 1) if name.startswith("mkdir .x-"))
    for k, epochs in ((second, 1), (saving, 3)):
        output, told = tmp_path / str(k) / "x", []
        output.parent.mkdir()
        with (
            refusing(Refusals(output.parent, k)),
            pytest.raises(UnivFDError, match=r"cannot be written: the disk is full.* make room"),
        ):
            short(output, plan, on_epoch=told.append)
        assert len(told) == epochs, seen.seen[k - 1]
        assert left_over(output.parent) == []
        assert not output.exists()
        told.clear()
        resumed = short(output, plan, resume=True, on_epoch=told.append)
        assert [replace(e, seconds=0) for e in resumed.epochs] == [replace(e, seconds=0) for e in straight[0].epochs]
        assert [replace(e, seconds=0) for e in told] == [replace(e, seconds=0) for e in straight[0].epochs]


def test_a_run_that_fails_says_how_to_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise UnivFDError("the disk is full")

    monkeypatch.setattr("univfd.training.export.save", full)
    monkeypatch.setattr("univfd.cli.train.remark", lambda ctx, text: said.append(text))
    said: list[str] = []
    with pytest.raises(UnivFDError, match="the disk is full"):
        run("train", data, "-o", tmp_path / "mine", "--arch", "small", "--epochs", 1, "--batch-size", 16,
            "--short-side", 0, "--validate-by", "image", "--threads", 1)  # fmt: skip
    assert said[-1] == f"\n1 epoch is kept in {tmp_path / 'mine.partial'}; the same command with --resume goes on"


def test_an_unfinished_run_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    def kill(epoch: Any) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        short(tmp_path / "out", on_epoch=kill)
    with pytest.raises(UsageError, match=r"seed: 1 instead of 0"):
        short(tmp_path / "out", replace(PLAN, seed=1), resume=True)
    fewer = parted(toy_samples()[:20])
    with pytest.raises(UsageError, match=r"data: images of train and validation are others"):
        train(fewer, tmp_path / "out", PLAN, threads=1, resume=True)


def test_a_run_that_failed_before_its_first_epoch_is_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lower the learning rate"):
        short(tmp_path / "out", replace(PLAN, lr=1e20, batch_size=64))
    made = short(tmp_path / "out", replace(PLAN, epochs=1))
    assert len(made.epochs) == 1
    for resume in (False, True):
        with pytest.raises(DataError, match="lower the learning rate"):
            short(tmp_path / "other", replace(PLAN, lr=1e20, batch_size=64, seed=int(resume)), resume=resume)


def test_a_run_of_an_earlier_version_goes_on(straight: tuple[Trained, dict[str, Any]], tmp_path: Path) -> None:
    """It kept names as they were given, and nothing of what could not be read."""

    def kill(epoch: Any) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        short(tmp_path / "out", replace(PLAN, epochs=3), on_epoch=kill)
    run, state = (tmp_path / "out.partial" / name for name in ("run.json", "state.json"))
    record = json.loads(run.read_text())
    record["settings"]["data"] = {"train": "15eddbc8ddd66c91", "validation": "abea7a6d4b182cc3"}  # as it was written
    run.write_text(json.dumps(record))
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "failures"}))
    short(tmp_path / "out", replace(PLAN, epochs=3), resume=True)
    for name, values in weights(tmp_path / "out").items():
        np.testing.assert_array_equal(values, straight[1][name], err_msg=name)


@pytest.mark.parametrize(
    ("asked", "size", "wanted"), [(None, 224, 256), (None, 384, 439), (0, 384, 0), (500, 384, 500)]
)
def test_the_short_side_goes_with_the_crop(asked: int | None, size: int, wanted: int) -> None:
    from univfd.training.run import _short_side

    assert _short_side(asked, size) == wanted


def test_scaling_below_the_crop_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short(tmp_path / "out", replace(PLAN, epochs=1, short_side=200))
    assert "give --short-side 224 or more" in caplog.text
    short(tmp_path / "default", replace(PLAN, epochs=1, short_side=None))
    record = json.loads((tmp_path / "default" / "backbone" / "training.json").read_text())
    assert record["settings"]["short_side"] == 256
    assert caplog.text.count("--short-side") == 1


def test_training_ends_where_the_rule_says_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    done = short(tmp_path / "out", replace(PLAN, epochs=100, patience=1, lr=1e-3))
    rates = [e.lr for e in done.epochs]
    assert len(rates) < 40
    assert sorted({round(r, 9) for r in rates}, reverse=True) == [1e-3, 1e-4, 1e-5, 1e-6]
    assert done.best.accuracy == max(e.accuracy for e in done.epochs)


def test_an_unreadable_image_is_named_and_the_others_train(tmp_path: Path) -> None:
    samples = toy_samples()[:24]
    samples[1] = replace(samples[1], ref=replace(samples[1].ref, source=b"xx"))
    done = train(parted(samples), tmp_path / "out", replace(PLAN, epochs=1), threads=1)
    assert [f.image for f in done.failures] == ["1.png"]
    record = json.loads((tmp_path / "out" / "backbone" / "training.json").read_text())
    named = [failure["image"] for failures in record["could not be read"].values() for failure in failures]
    assert named == ["1.png"]


def test_a_resumed_run_names_what_could_not_be_read_and_does_without_it(tmp_path: Path) -> None:
    """Even where it can be read by now: the weights are those of a run without a break."""
    samples = toy_samples()[:24]
    whole = parted(samples)
    lost = samples.index(whole.train[0])
    zeros = bytes(len(samples[lost].ref.source))  # type: ignore[arg-type]
    broken = parted([replace(s, ref=replace(s.ref, source=zeros)) if i == lost else s for i, s in enumerate(samples)])
    plan = replace(PLAN, epochs=2)
    train(broken, tmp_path / "straight", plan, threads=1)
    told: list[str] = []

    def kill(epoch: Any) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(broken, tmp_path / "out", plan, threads=1, on_epoch=kill)
    done = train(whole, tmp_path / "out", plan, threads=1, resume=True, on_failure=lambda f: told.append(f.image))
    assert [f.image for f in done.failures] == told == [samples[lost].ref.name]
    mine, theirs = weights(tmp_path / "out"), weights(tmp_path / "straight")
    for name in mine:
        np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)


def test_data_that_vanish_end_the_run_behind_its_last_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it goes on exactly where they are back."""
    monkeypatch.setattr("univfd.training.run.Memory", lambda: Memory(0))
    place, plan = tmp_path / "here", replace(PLAN, epochs=2)
    shutil.copytree(data, place)
    parts = parted(list(open_dataset(place)))
    done = train(parts, tmp_path / "straight", plan, threads=1)
    with pytest.raises(DataError, match=r"was there before"):
        train(parts, tmp_path / "out", plan, threads=1, on_epoch=lambda _: place.rename(tmp_path / "away"))
    (tmp_path / "away").rename(place)
    resumed = train(parts, tmp_path / "out", plan, threads=1, resume=True)
    assert [replace(e, seconds=0) for e in resumed.epochs] == [replace(e, seconds=0) for e in done.epochs]
    missing = [replace(s, ref=replace(s.ref, source=place / "none")) if i % 3 == 0 else s
               for i, s in enumerate(parts.train)]  # fmt: skip
    never = train(replace(parts, train=tuple(missing)), tmp_path / "other", plan, threads=1)
    assert len(never.failures) == len(missing[::3])


@pytest.mark.parametrize("part", ["training", "validation"])
def test_nothing_of_one_class_to_train_or_validate_on(part: str, tmp_path: Path) -> None:
    whole = parted(toy_samples()[:24])
    lost = {"training": whole.train, "validation": whole.validation}[part]

    def broken(samples: Any) -> Any:
        return type(samples)(replace(s, ref=replace(s.ref, source=b"xx")) if s.label else s for s in samples)

    split = replace(whole, **{"train" if part == "training" else part: broken(lost)})
    with pytest.raises(DataError, match=f"0 fake {part} images"):
        train(split, tmp_path / "out", replace(PLAN, epochs=1), threads=1)


@pytest.mark.parametrize("damaged", [0, 6])
def test_both_classes_weigh_the_same(damaged: int) -> None:
    """With few fakes among many reals a network that says the same of all settles at even odds."""

    class Blind(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 1)

    fakes = [s for s in toy_samples() if s.label][: 1 + damaged]
    fakes[:damaged] = [replace(s, ref=replace(s.ref, source=b"xx")) for s in fakes[:damaged]]
    samples = [s for s in toy_samples() if not s.label][:15] + fakes
    pictures = Pictures(samples, short_side=0)
    head = torch.nn.Linear(1, 1)
    network = Network("blind", "", Blind(), head, PreprocessSpec(32, (0.5,) * 3, (0.5,) * 3), "")
    optimiser = torch.optim.SGD(network.whole().parameters(), lr=1.0)
    for number in range(1, 30):
        loop._train(network, loop.Material(pictures, pictures, 0.0), number, 16, 0, "cpu", optimiser, lambda _: None)
    assert abs(head.weight.item() + head.bias.item()) < 1e-3


def test_a_last_batch_of_one_joins_the_one_before_it(tmp_path: Path) -> None:
    """Batch normalisation of maps of one pixel has nothing to normalise by there."""
    sizes: list[int] = []

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.norm = torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return self.norm(self.pool(x)).flatten(1)

    pictures = Pictures(toy_samples()[:9], short_side=0)
    spec = PreprocessSpec(32, (0.5,) * 3, (0.5,) * 3)
    network = Network("normal", "", Normalised(), torch.nn.Linear(3, 1), spec, "")
    optimiser, material = loop.adam(network, 1e-3), loop.Material(pictures, pictures, 0.0)
    loop._train(network, material, 1, 4, 0, "cpu", optimiser, lambda _: None)
    assert sizes == [4, 5]
    with pytest.raises(UsageError, match=r"normal cannot be trained on one image at a time.*--batch-size 2"):
        loop._train(network, material, 1, 1, 0, "cpu", optimiser, lambda _: None)
    loop._validate(network, material, 1, 4, 0, "cpu", lambda _: None)
    assert sizes[-3:] == [4, 4, 1]


def test_answers_that_are_no_numbers_are_no_verdicts(tmp_path: Path) -> None:
    """One step that leaves finite losses behind it, and weights that are none."""
    with pytest.raises(DataError, match=r"answers after epoch 1 are not all finite; lower the learning rate"):
        short(tmp_path / "out", replace(PLAN, epochs=1, lr=1e20, batch_size=64))
    assert not (tmp_path / "out").exists()
