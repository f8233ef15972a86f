"""New thresholds on the user's own images: the library and the command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import encoded, picture, toy_samples
from univfd.calibrating import Scored, check_enough, recalibrate, score, unknown_to
from univfd.calibration import Calibration, threshold_for
from univfd.cli.calibrate import _called_real
from univfd.collection import Collection, Member, gather
from univfd.detector import Detector, load
from univfd.errors import DataError, UsageError
from univfd.metrics import proportion
from univfd.types import ImageRef, Verdict

OLD = Calibration(1.0, -1.0, slope=2.0, intercept=0.5, max_fpr=0.05, max_miss=0.05, confidence=0.9, n_real=9, n_fake=9)


def univfd(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "univfd", *map(str, args)]
    return subprocess.run(command, capture_output=True, cwd=cwd, env=dict(os.environ), check=False)


def scored(values: np.ndarray, groups: list[str] | None = None, folder: str = "real") -> Scored:
    names = groups or ["images"] * len(values)
    members = tuple(Member(ImageRef(str(i), b""), name, f"{folder}{i}") for i, name in enumerate(names))
    return Scored(Collection(Path(folder), members), np.asarray(values, float))


@pytest.fixture
def old(toy_detector: Detector) -> Detector:
    return replace(toy_detector, calibration=OLD)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 reals (40 phone, 25 scan, 5 loose), 30 fakes with a visible grid; none is in the toy detector's bank."""
    top = tmp_path_factory.mktemp("own")
    for i in range(100):
        pixels = picture(1000 + i, 256, 256)  # smaller ones are unsure whatever their score
        folder = top / "real" / ("phone" if i < 40 else "scan" if i < 65 else "")
        if i >= 70:
            pixels[::2, ::2] = 255 - pixels[::2, ::2] // 2
            folder = top / "fake"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(encoded(pixels, "PNG"))
    return top


@pytest.fixture(scope="module")
def toy_folder(toy_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("detectors") / "toy"
    replace(toy_detector, calibration=OLD).save(folder)
    return str(folder)


def test_without_fakes_the_promise_is_new_and_the_rest_is_kept(old: Detector) -> None:
    reals = np.random.default_rng(0).normal(0, 1, 300)
    made = recalibrate("mine", old, scored(reals), max_fpr=0.05)
    new = made.detector.calibration
    assert new.fake_above == threshold_for(reals, 0.05, 0.9)
    assert (new.real_below, new.slope, new.intercept) == (-1.0, 2.0, 0.5)
    assert (new.max_fpr, new.max_miss, new.n_real, new.n_fake) == (0.05, None, 300, 0)
    assert made.fake is None
    assert any("recall" in text and "unknown" in text for text in made.remarks)
    assert old.identity in new.data
    assert "images 300" in new.data
    assert made.detector.name == "mine"
    assert made.detector.classifier is old.classifier


def test_what_is_unlike_the_bank_stays_unsure(old: Detector) -> None:
    judging = replace(old, calibration=replace(OLD, known_within=0.3))
    reals = np.random.default_rng(0).normal(0, 1, 300)
    assert recalibrate("mine", judging, scored(reals), max_fpr=0.05).detector.calibration.known_within == 0.3


def test_a_threshold_below_the_old_real_below_takes_it_along(old: Detector) -> None:
    reals = np.random.default_rng(0).normal(-50, 1, 300)
    new = recalibrate("mine", old, scored(reals), max_fpr=0.05).detector.calibration
    assert new.real_below == new.fake_above < -40
    assert {new.verdict(s) for s in reals} == {"real", "fake"}


def test_with_fakes_both_thresholds_and_the_probability_are_theirs(old: Detector) -> None:
    rng = np.random.default_rng(1)
    reals, fakes = rng.normal(2, 1, 4000), rng.normal(4, 1, 4000)
    made = recalibrate("mine", old, scored(reals), scored(fakes, folder="fake"), max_fpr=0.01, max_miss=0.05)
    new = made.detector.calibration
    assert new.real_below == -threshold_for(-fakes, 0.05, 0.9)
    assert (fakes < new.real_below).mean() <= 0.05
    assert new.max_miss == 0.05
    assert (new.slope, new.intercept) == pytest.approx((2, -6), abs=0.4)  # unit normals at 2 and 4: 2 (s - 3)
    assert made.fake is not None
    assert made.fake.before == proportion(int((fakes > 1).sum()), 4000)
    assert made.fake.after == proportion(int((fakes > new.fake_above).sum()), 4000)
    assert made.real.before == proportion(int((reals > 1).sum()), 4000)
    assert made.real.after.value <= 0.01 < made.real.before.value
    assert any("refitted on 4000 reals and 4000 fakes" in text for text in made.remarks)


def test_few_fakes_tell_the_recall_and_fix_nothing(old: Detector) -> None:
    rng = np.random.default_rng(2)
    made = recalibrate("mine", old, scored(rng.normal(0, 1, 100)), scored(np.full(19, 9.0)), max_fpr=0.05)
    new = made.detector.calibration
    assert (new.real_below, new.max_miss, new.n_fake) == (-1.0, None, 19)
    assert (new.slope, new.intercept) == (2.0, 0.5)
    assert made.fake is not None
    assert made.fake.after == proportion(19, 19)
    assert any("19 fakes are too few" in text and "45 are needed" in text for text in made.remarks)
    assert any("probability is the old one" in text for text in made.remarks)
    twenty = recalibrate("mine", old, scored(rng.normal(0, 1, 100)), scored(rng.normal(3, 1, 20)), max_fpr=0.05)
    assert twenty.detector.calibration.slope != 2.0


def test_a_probability_that_would_fall_with_the_score_is_not_taken(old: Detector) -> None:
    rng = np.random.default_rng(3)
    made = recalibrate("mine", old, scored(rng.normal(3, 1, 100)), scored(rng.normal(0, 1, 100)), max_fpr=0.05)
    assert made.detector.calibration.slope == 2.0
    assert any("score no higher" in text for text in made.remarks)


def test_the_worst_group_is_named_or_taken(old: Detector) -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(0, 1, 200), rng.normal(3, 1, 60), rng.normal(0, 1, 7)])
    reals = scored(values, ["easy"] * 200 + ["hard"] * 60 + ["few"] * 7)
    pooled = recalibrate("mine", old, reals, max_fpr=0.05)
    worst = recalibrate("mine", old, reals, max_fpr=0.05, worst_group=True)
    needed = threshold_for(values[200:260], 0.05, 0.9)
    assert worst.detector.calibration.fake_above == needed > pooled.detector.calibration.fake_above
    assert any("'hard'" in text and "--worst-group" in text for text in pooled.remarks)
    for made, said in ((pooled, False), (worst, True)):
        (few,) = [text for text in made.remarks if "'few': 7 images are too few" in text]
        assert few.endswith(": --worst-group keeps the promise in the others alone") == said
    assert sum("--worst-group" in text for text in worst.remarks) == 1
    assert len(worst.detector.calibration.groups) == 3


def test_too_few_reals_and_impossible_rates(old: Detector) -> None:
    with pytest.raises(DataError, match=r"229 images are too few .* at least 230"):
        recalibrate("mine", old, scored(np.arange(229)), max_fpr=0.01)
    with pytest.raises(DataError, match="between 0 and 1"):
        recalibrate("mine", old, scored(np.arange(229)), max_fpr=0)


def test_several_folders_are_one_collection(own: Path) -> None:
    """Of two `--real` the first was forgotten."""
    both = gather(own / "real", own / "fake", own / "real")
    assert len(both.members) == len(gather(own / "real").members) + len(gather(own / "fake").members)
    assert both.name == "real, fake, real"
    assert len(both.duplicates) == len(gather(own / "real").members)


def test_copies_of_bank_images_are_warned_of(toy_detector: Detector) -> None:
    near = replace(scored(np.arange(100.0)), near=6)
    made = recalibrate("mine", toy_detector, near, max_fpr=0.05)
    assert any("6 of 100 real images are nearly the same" in text for text in made.remarks)
    fine = recalibrate("mine", toy_detector, replace(near, near=5), max_fpr=0.05)
    assert not any("nearly the same" in text for text in fine.remarks)
    from univfd.calibrating import _is_near

    def distances(*values: float) -> Verdict:
        row = next(iter(toy_detector.detect(picture(1))))
        assert isinstance(row, Verdict)
        return replace(
            row, nearest_fake=(), nearest_real=tuple(replace(row.nearest_real[0], distance=v) for v in values)
        )

    assert _is_near(distances(0.004, 0.02))
    assert not _is_near(distances(0.004, 0.006))
    assert not _is_near(distances(0.02, 0.2))
    assert not _is_near(distances(0.001))


def test_gather_groups_by_subfolder_and_counts_a_file_once(own: Path, tmp_path: Path) -> None:
    one, two = encoded(picture(1, 64, 64)), encoded(picture(2, 64, 64))
    for name, data in {"a.jpg": one, "x/b.jpg": two, "x/deep/c.jpg": one, "y/d.jpg": two}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    found = gather(tmp_path)
    assert [(m.ref.name, m.group) for m in found.members] == [
        (str(tmp_path / "a.jpg"), "images"), (str(tmp_path / "x" / "b.jpg"), "x"),
    ]  # fmt: skip
    assert found.members[0].sha256 == hashlib.sha256(one).hexdigest()
    assert found.duplicates == (str(tmp_path / "x" / "deep" / "c.jpg"), str(tmp_path / "y" / "d.jpg"))
    assert [f.image for f in found.failures] == [str(tmp_path / "loop.jpg")]
    with pytest.raises(UsageError, match="not a folder"):
        gather(tmp_path / "a.jpg")
    counts = {g: sum(m.group == g for m in gather(own / "real").members) for g in ("images", "phone", "scan")}
    assert counts == {"images": 5, "phone": 40, "scan": 25}


def test_what_cannot_carry_the_promise_is_refused_before_scoring(own: Path, tmp_path: Path) -> None:
    real, fake = gather(own / "real"), gather(own / "fake")
    check_enough(real, fake, max_fpr=0.05, confidence=0.9)
    with pytest.raises(DataError, match=r"70 distinct real images are too few .* at least 230"):
        check_enough(real, max_fpr=0.01, confidence=0.9)
    with pytest.raises(DataError, match="given as real and as fake"):
        check_enough(real, replace(fake, members=(*fake.members, real.members[3])), max_fpr=0.05, confidence=0.9)
    with pytest.raises(DataError, match="holds no readable images"):
        check_enough(real, gather(tmp_path), max_fpr=0.05, confidence=0.9)


def test_images_of_the_bank_do_not_count(toy_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "seen.png").write_bytes(toy_samples()[0].ref.source)  # type: ignore[arg-type]
    (tmp_path / "new.png").write_bytes(encoded(picture(77, 64, 64), "PNG"))
    left, known = unknown_to(toy_detector, gather(tmp_path))
    assert known == 1
    assert [m.ref.name for m in left.members] == [str(tmp_path / "new.png")]


def test_scores_are_those_of_detect_and_failures_are_listed(toy_detector: Detector, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(50 + i, 256, 256), "PNG"))
    (tmp_path / "1.png").write_bytes(b"broken")
    result = score(toy_detector, gather(tmp_path))
    kept = [str(tmp_path / "0.png"), str(tmp_path / "2.png")]
    assert [m.ref.name for m in result.collection.members] == kept
    assert result.scores.tolist() == [v.score for v in toy_detector.detect(kept)]  # type: ignore[union-attr]
    assert [f.image for f in result.collection.failures] == [str(tmp_path / "1.png")]


@pytest.mark.parametrize("promise", [OLD, Calibration(0.0, 0.0)])
def test_what_is_unsure_whatever_its_score_fixes_no_threshold(
    promise: Calibration, toy_detector: Detector, tmp_path: Path
) -> None:
    """Also where the old detector promises nothing, and so calls nothing unsure itself."""
    for i in range(46):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(300 + i, 256, 256), "PNG"))
    for i in range(3):
        (tmp_path / f"small{i}.png").write_bytes(encoded(picture(400 + i, 100, 100), "PNG"))
    detector = replace(toy_detector, calibration=promise)
    given = gather(tmp_path)
    result = score(detector, given)
    assert [m.ref.name for m in result.collection.members] == [
        str(tmp_path / f"{i}.png") for i in sorted(range(46), key=str)
    ]
    assert [Path(v.image).name for v in result.unsure] == ["small0.png", "small1.png", "small2.png"]
    made = recalibrate("mine", detector, result, max_fpr=0.05)
    assert made.detector.calibration.n_real == 46
    assert made.detector.calibration.fake_above == threshold_for(result.scores, 0.05, 0.9)
    assert made.remarks[0].startswith("left out 3 real images that are unsure whatever their score (small 3)")
    with pytest.raises(DataError, match="46 real images, beside 3 that are unsure whatever their score, are too few"):
        recalibrate("mine", detector, result, max_fpr=0.01)


def test_an_image_unlike_the_bank_fixes_no_threshold(old: Detector, tmp_path: Path) -> None:
    """A bank of one real row, and images near it and far from it."""
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(500 + i, 256, 256), "PNG"))
    (tmp_path / "noise.png").write_bytes(
        encoded(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8), "PNG")
    )
    plain = list(old.detect(tmp_path))
    far = {v.image: min(v.nearest_real[0].distance, v.nearest_fake[0].distance) for v in plain}  # type: ignore[union-attr]
    noise = far.pop(str(tmp_path / "noise.png"))
    assert noise > max(far.values())
    judging = replace(old, calibration=replace(OLD, known_within=(noise + max(far.values())) / 2))
    result = score(judging, gather(tmp_path))
    assert [v.image for v in result.unsure] == [str(tmp_path / "noise.png")]
    assert len(result.scores) == 4


def test_the_command_makes_a_detector_that_keeps_the_promise(own: Path, toy_folder: str, tmp_path: Path) -> None:
    args = ("calibrate", "--real", own / "real", "--max-fpr", 0.05, "--detector", toy_folder)
    result = univfd(*args, "--fake", own / "fake", "--json", "-o", "mine", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    told, made, before = json.loads(result.stdout), load(tmp_path / "mine"), load(toy_folder)
    assert told["detector"] == made.identity != before.identity
    assert told["after"] == made.calibration.to_dict()
    assert told["before"] == OLD.to_dict()
    reals = [v.score for v in before.detect(own / "real")]  # type: ignore[union-attr]
    fakes = [v.score for v in before.detect(own / "fake")]  # type: ignore[union-attr]
    assert made.calibration.fake_above == threshold_for(np.array(reals), 0.05, 0.9)
    assert [g["n"] for g in told["after"]["groups"]] == [5, 40, 25]
    assert (made.calibration.n_real, made.calibration.n_fake) == (70, 30)
    assert told["fakes_called_fake"]["after"]["value"] == np.mean([s > made.calibration.fake_above for s in fakes])
    named = {v.image: v.score for v in before.detect(own / "real")}  # type: ignore[union-attr]
    highest = sorted(named.items(), key=lambda item: -item[1])[:3]
    assert [(h["image"], h["score"]) for h in told["highest_reals"]] == highest
    plain = univfd(*args, "-o", "plain", cwd=tmp_path).stdout.decode()
    assert f"  {highest[0][1]:+.4f}  {highest[0][0]}\n" in plain
    assert re.search(r"fake above  .*  \(a score above it is called fake\)\n", plain)
    assert re.search(r"real below  .*  \(a score not above it is called real\)\n", plain)  # the thresholds are one here
    words = result.stderr.decode()
    assert "30 fakes are too few" in words
    assert "groups 'images', 'phone', 'scan': 5 to 40 images are too few" in words
    assert "refitted on 70 reals and 30 fakes" in words

    again = univfd(*args, "-o", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert b"never overwritten" in again.stderr


def test_one_threshold_for_both_is_said_as_one() -> None:
    assert _called_real(Calibration(0.5, -0.5)) == "a score below it is called real, one between the two unsure"
    assert _called_real(Calibration(0.5, 0.5)) == "a score not above it is called real"
    assert _called_real(Calibration(0.5, 0.5, max_miss=0.05)) == "a score below it is called real"


def test_the_command_lists_what_it_leaves_out(own: Path, toy_folder: str, tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "phone").mkdir(parents=True)
    for path in (own / "real" / "phone").iterdir():
        (real / "phone" / path.name).write_bytes(path.read_bytes())
    (real / "copy.png").write_bytes((own / "real" / "phone" / "0.png").read_bytes())
    (real / "broken.png").write_bytes(b"xx")
    (real / "known.png").write_bytes(toy_samples()[0].ref.source)  # type: ignore[arg-type]
    args = ("calibrate", "--real", real, "--max-fpr", 0.1, "--worst-group", "--detector", toy_folder, "-o", "out")
    result = univfd(*args, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    words, table = result.stderr.decode(), result.stdout.decode()
    assert f"left out {real / 'broken.png'}" in words
    assert "counted once" in words
    assert "left out 1 image" in words
    assert "recall" in words
    assert "fakes called fake  unknown: no fakes" in table
    assert "at most 0.1 of such reals called fake, at 90% confidence" in table
    assert load(tmp_path / "out").calibration.n_real == 40


def test_the_command_says_how_many_are_needed_before_it_opens_the_detector(own: Path, tmp_path: Path) -> None:
    result = univfd("calibrate", "--real", own / "real", "--detector", "nonexistent", "-o", "out", cwd=tmp_path)
    assert result.returncode == 2
    assert b"70 distinct real images are too few" in result.stderr
    assert b"at least 230" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert not (tmp_path / "out").exists()
