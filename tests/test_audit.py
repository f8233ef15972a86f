from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conftest import encoded, picture
from univfd.audit import Audit, audit, judge, what_tells
from univfd.datasets import open_dataset
from univfd.errors import DataError, FileAccessError
from univfd.evaluation import Cohort, HeldOut
from univfd.metadata import Metadata, features
from univfd.metadata_detector import Check, MetadataDetector, _check_of, at_random, metadata_auroc, new_generators
from univfd.metrics import Estimate, auroc, bootstrap
from univfd.types import ImageRef, Label, Sample

PLAIN = Metadata("PNG", 256, 256, 50_000, "RGB", 8, (), "", ())


def strings(values: Sequence[object]) -> np.ndarray:
    return np.array([str(v) if v != "" else "" for v in values], dtype=object)


def cohort(n: int = 300, generators: int = 6, sources: int = 6) -> Cohort:
    """`n` fakes, then `n` reals, of sources of their own."""
    labels = np.repeat([1, 0], n).astype(np.uint8)
    return Cohort(
        labels,
        strings([f"g{i % generators}" for i in range(n)] + [""] * n),
        strings([f"f{i % generators}" for i in range(n)] + [f"s{i % sources}" for i in range(n)]),
        strings([""] * 2 * n),
    )


def sizes(values: np.ndarray) -> list[Metadata]:
    return [replace(PLAIN, bytes=int(v)) for v in values]


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(11, 0.5, n)


def test_what_says_nothing_is_at_chance() -> None:
    c, table = cohort(), features(sizes(noise(600)))
    new, random = new_generators(c, table, 0), at_random(c, table, 0)
    assert new is not None
    for check in (new, random):
        assert 0.4 < check.auroc.low < check.auroc.value < check.auroc.high < 0.6
    assert judge((new, random), ())[0] == "fit"


def test_what_holds_for_every_generator_is_found_on_new_ones() -> None:
    c = cohort()
    table = features(sizes(noise(600) * np.where(c.labels == 1, 2, 1)))
    new, random = new_generators(c, table, 0), at_random(c, table, 0)
    assert new is not None
    expected = roc_auc_score(c.labels, table.values[:, table.names.index("bytes")])
    assert new.auroc.value == pytest.approx(expected, abs=0.03)
    assert random.auroc.value == pytest.approx(expected, abs=0.03)
    assert judge((new, random), ())[0] == "unfit"


def test_a_size_of_its_own_for_each_generator_helps_only_at_random() -> None:
    """It gives away the generators that were trained on, and says nothing of the next one."""
    c = cohort()
    side = [200 + 7 * int(g[1:]) if g else 300 + 7 * int(s[1:]) for g, s in zip(c.generator, c.source, strict=True)]
    table = features([replace(m, width=w, height=w) for m, w in zip(sizes(noise(600)), side, strict=True)])
    assert at_random(c, table, 0).auroc.value > 0.99
    shuffled = np.random.default_rng(0).permutation(12)
    mixed = [int(200 + 7 * shuffled[(s - 200) // 7 if s < 300 else 6 + (s - 300) // 7]) for s in side]
    new = new_generators(c, features([replace(PLAIN, width=w, height=w) for w in mixed]), 0)
    assert new is not None
    assert new.auroc.value < 0.75


def test_images_of_a_group_are_held_out_together() -> None:
    """Twins: two images of the same bytes, one of each class. A detector that saw one is wrong about the other."""
    values = np.round(noise(300))
    c, table = cohort(), features(sizes(np.concatenate([values, values])))
    apart = at_random(c, table, 0)
    together = at_random(replace(c, group=strings([*range(300), *range(300)])), table, 0)
    assert apart.auroc.high < 0.4
    assert together.auroc.value == pytest.approx(0.5, abs=0.03)
    assert "one group together" in together.protocol
    verdict, reasons = judge((apart,), ())
    assert verdict == "doubtful"
    assert "twin" in reasons[0]


def test_protocol_follows_what_the_collection_has() -> None:
    biased = features(sizes(noise(600) * np.where(cohort().labels == 1, 3, 1)))
    strict = new_generators(cohort(), biased, 0)
    assert strict is not None
    assert "5 folds of the real sources, all else of their sources" in strict.protocol
    one = new_generators(cohort(sources=1), biased, 0)
    assert one is not None
    assert "of one source" in one.protocol
    assert one.auroc.value > 0.9
    c = cohort(generators=2, sources=2)
    shared = replace(c, source=strings([f"site {i // 2 % 2}" for i in range(600)]))  # each site has all generators
    loose = new_generators(shared, biased, 0)
    assert loose is not None
    assert "2 folds of the real sources, and their groups" in loose.protocol
    assert new_generators(cohort(generators=1), biased, 0) is None


def test_metadata_auroc_is_the_mean_over_generators_of_enough_images() -> None:
    c = cohort()
    c.generator[:3] = "rare"
    files = sizes(noise(600) * np.where(c.labels == 1, 2, 1))
    check = new_generators(c, features(files), 0)
    assert check is not None
    assert dict(check.generators)["rare"].n == 3
    mean = np.mean([a.value for g, a in check.generators if g != "rare"])
    assert metadata_auroc(c, files).value == pytest.approx(mean)
    assert metadata_auroc(c, files) == check.auroc
    assert check.auroc.n == 6


def test_intervals_are_those_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.3).astype(np.uint8)
    scores = np.round(rng.normal(0, 1, 400) + labels, 1)  # with ties
    held = [HeldOut("g", np.arange(400), scores)]
    check = _check_of(held, Cohort(labels, *[np.full(400, "", dtype=object)] * 3), "", 0)
    plain = bootstrap(auroc, labels, scores, rounds=2000)
    for mine in (check.auroc, check.generators[0][1]):
        assert mine.value == plain.value == pytest.approx(roc_auc_score(labels, scores))
        assert (mine.low, mine.high) == (pytest.approx(plain.low, abs=0.01), pytest.approx(plain.high, abs=0.01))


def luck(rng: np.random.Generator, *, groups: int = 0, generators: int = 1) -> tuple[list[HeldOut], Cohort]:
    """Scores that say nothing of the class, and much of the group; or generators of 20 fakes against 10 reals."""
    if groups:
        labels = np.repeat(np.tile([0, 1], groups // 2), 30).astype(np.uint8)
        group = np.repeat(np.arange(groups), 30)
        scores = rng.normal(0, 1, groups)[group] + rng.normal(0, 0.1, len(labels))
        held = [HeldOut("g", np.arange(len(labels)), scores)]
    else:
        labels = np.repeat([0, 1], [50, 20 * generators]).astype(np.uint8)
        scores, group = rng.normal(0, 1, len(labels)), np.arange(len(labels))
        held = []
        for i in range(generators):
            rows = np.concatenate([np.arange(10) + 10 * (i % 5), 50 + 20 * i + np.arange(20)])
            held.append(HeldOut(f"{i}", rows, scores[rows]))
    blank = strings([""] * len(labels))
    return held, Cohort(labels, blank, blank, strings(group.tolist()))


@pytest.mark.parametrize("of", [{"groups": 20}, {"generators": 40}])
def test_intervals_are_as_wide_as_the_luck_of_groups_and_of_shared_reals(of: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    values = [
        np.mean([auroc(c.labels[p.rows], p.scores) for p in held]) for held, c in (luck(rng, **of) for _ in range(300))
    ]
    checks = [_check_of(held, c, "", 0).auroc for held, c in (luck(rng, **of) for _ in range(8))]
    said = np.mean([c.high - c.low for c in checks]) / (2 * 1.96)
    assert 0.75 < said / np.std(values) < 1.35  # 0.2 and 0.7 where images are redrawn one by one


@pytest.mark.parametrize("labels", [(0,), (1,), (0, 1)])
def test_a_class_of_one_group_has_no_interval_and_is_not_fit(labels: tuple[int, ...]) -> None:
    c = cohort()
    c.group[np.isin(c.labels, labels)] = "one"
    held = [HeldOut("g", np.arange(600), np.arange(600.0))]
    check = _check_of(held, c, "", 0)
    assert np.isnan(check.generators[0][1].low)
    random = at_random(c, features(sizes(noise(600))), 0)
    assert np.isnan(random.auroc.high)
    assert judge((random,), ())[0] == "doubtful"


def test_far_below_chance_the_remedy_fits_the_groups_that_there_are() -> None:
    """Twins without a group are to be given one; where they have one, but there are too few, that would not help."""
    twins = Cohort(
        np.array([1, 0] * 30, np.uint8),
        strings([""] * 60),
        strings([""] * 60),
        strings([f"t{i // 30}" for i in range(60)]),
    )
    grouped = at_random(twins, features(sizes(np.repeat(noise(30), 2))), 0)
    assert grouped.apart
    assert "their groups apart, for there are too few (2)" in grouped.protocol
    alone = at_random(replace(twins, group=strings([""] * 60)), features(sizes(np.repeat(noise(30), 2))), 0)
    assert not alone.apart
    assert "group" not in alone.protocol
    low = Estimate(0.2, 0.1, 0.3, 60)
    assert "too few groups" in judge((replace(grouped, auroc=low),), ())[1][0]
    assert "give twins the same 'group'" in judge((replace(alone, auroc=low),), ())[1][0]
    assert "group" not in at_random(cohort(10, 2, 2), features(sizes(noise(20))), 0).protocol, "few images, no groups"


def test_fakes_without_a_name_are_one_generator() -> None:
    c = cohort(generators=2)
    c.generator[c.generator == "g0"] = ""
    check = new_generators(c, features(sizes(noise(600))), 0)
    assert check is not None
    assert [g for g, _ in check.generators] == ["(unnamed)", "g1"]


def test_a_detector_with_nothing_to_learn_from_says_nothing() -> None:
    x = np.zeros((4, 0), np.float32)
    assert MetadataDetector().fit(x, np.array([0, 1, 0, 1], np.uint8)).decision_function(x).tolist() == [0] * 4
    y = np.ones(4, np.uint8)
    assert MetadataDetector().fit(np.eye(4, dtype=np.float32), y).decision_function(np.eye(4)).tolist() == [0] * 4


def test_tells_are_single_features_and_do_not_repeat_each_other() -> None:
    c = cohort(50)
    files = [replace(PLAIN, format="JPEG" if i >= 50 or i % 5 == 0 else "PNG", bytes=1000 + i) for i in range(100)]
    tells = what_tells(features(files), c.labels)
    png = next(t for t in tells if t.feature in {"PNG", "JPEG"})
    assert (png.auroc, {png.fake, png.real}) == (0.9, {0.2, 1.0} if png.feature == "JPEG" else {0.8, 0.0})
    assert str(png) in {"JPEG: 20% of fakes, 100% of reals", "PNG: 80% of fakes, 0% of reals"}
    assert len({"PNG", "JPEG"} & {t.feature for t in tells}) == 1
    by_bytes = next(t for t in tells if t.feature.startswith("bytes"))
    assert by_bytes.auroc == 1  # the direction does not matter
    assert (by_bytes.fake, by_bytes.real) == (1024.5, 1074.5)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.55, 0.52, 0.58, "fit"),
        (0.59, 0.55, 0.63, "doubtful"),
        (0.65, 0.45, 0.80, "doubtful"),
        (0.61, 0.58, 0.64, "unfit"),
        (0.90, 0.85, 0.95, "unfit"),
        (0.30, 0.27, 0.33, "doubtful"),
    ],
)
def test_the_rule_of_the_verdict(value: float, low: float, high: float, verdict: str) -> None:
    check = Check("at random", "", Estimate(value, low, high, 100))
    fit = Check("new generators", "", Estimate(0.5, 0.45, 0.55, 10))
    assert judge((check,), ())[0] == verdict
    assert judge((fit, check), ())[0] == judge((check, fit), ())[0] == verdict


def samples(reals: str = "JPEG", n: int = 30) -> list[Sample]:
    """Fakes are PNG files."""
    made = []
    for i in range(2 * n):
        fake = i % 2 == 0
        ref = ImageRef(f"{i}", encoded(picture(i, 40, 40), "PNG" if fake else reals))
        made.append(Sample(ref, Label(fake), f"g{i % 6}" if fake else "", f"f{i % 6}" if fake else f"s{i % 10}"))
    return made


def test_png_fakes_and_jpeg_reals_are_unfit_and_it_says_why() -> None:
    found = audit(samples(), workers=2)
    assert found.verdict == "unfit"
    assert (found.fakes, found.reals, found.failures) == (30, 30, ())
    assert [c.name for c in found.checks] == ["new generators", "at random"]
    assert all(c.auroc.value > 0.95 for c in found.checks)
    assert any("100% of fakes, 0% of reals" in r or "0% of fakes, 100% of reals" in r for r in found.reasons)
    assert json.loads(json.dumps(found.to_dict()))["checks"][1]["auroc"]["n"] == 60


def test_the_same_seed_gives_the_same_report() -> None:
    assert audit(samples(), seed=3) == audit(samples(), seed=3, workers=3)
    assert isinstance(audit(samples()), Audit)


def test_bad_files_are_rows() -> None:
    gone = FileAccessError("a link loop")  # as the walk of a folder gives it
    bad = [Sample(ImageRef("empty", b""), Label.REAL), Sample(ImageRef("text", b"no image"), Label.FAKE)]
    bad.append(Sample(ImageRef("loop", gone), Label.FAKE))
    found = audit(bad[:1] + samples() + bad[1:])
    errors = [(f.image, f.error) for f in found.failures]
    assert errors == [("empty", "empty"), ("text", "not-an-image"), ("loop", "access")]
    assert found.fakes + found.reals == 60
    with pytest.raises(DataError, match="1 file could not"):
        audit([*samples(n=5), bad[0]])


def test_a_file_that_is_listed_again_counts_once() -> None:
    """As the real images that the test sets of a suite share."""
    once = audit(samples())
    twice = audit(samples() + [s for s in samples() if s.label is Label.REAL])
    assert twice == replace(once, copies=30)


def test_without_names_only_the_random_check_is_left() -> None:
    found = audit([replace(s, generator="", source="") for s in samples()])
    assert [c.name for c in found.checks] == ["at random"]
    assert found.verdict == "unfit"


# The command


def univfd(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "univfd", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, s in enumerate(samples()):
        place = tmp_path / "data" / s.label.word / s.source / f"{i}.img"
        place.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(s.ref.source, bytes)
        place.write_bytes(s.ref.source)
    return tmp_path / "data"


def test_the_command_says_the_verdict_and_why(folder: Path) -> None:
    result = univfd("audit", folder, "--fail-on", "doubtful")
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "verdict  unfit"
    assert "  new generators" in result.stdout
    assert "60 files: 30 fake, 30 real; 0 could not be read, 0 are copies" in lines
    result = univfd("audit", folder, "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found["verdict"] == "unfit"
    assert found["checks"][0]["generators"]["f0"]["n"] == 10


def test_the_command_says_why_there_is_no_interval_and_counts_one_as_one(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"file": str(p), "label": p.parts[-3], "generator": p.parts[-2], "source": p.parts[-2], "group": p.parts[-2]}
        for p in sorted(folder.rglob("*.img"))
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    found = univfd("audit", tmp_path / "manifest.jsonl").stdout
    assert "(no interval: the fakes, or the reals beside them, are all of one group" in found
    assert "60 files: 30 fake, 30 real; 0 could not be read, 1 is a copy" in found
    assert "no interval" not in univfd("audit", folder).stdout


def test_the_command_names_unreadable_files(folder: Path) -> None:
    (folder / "real" / "s1" / "broken.jpg").write_bytes(b"\xff\xd8\xff cut")
    result = univfd("audit", folder)
    assert result.returncode == 3
    assert "broken.jpg" in result.stderr
    assert "1 could not be read" in result.stdout


def test_options_that_would_do_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    for args, words in [
        (("--quality", 90), "--quality: only with --match"),
        (("--size", 64, "--format", "png"), "--format, --size: only with --match"),
        (("--subset", "a"), "name it with --suite"),
        (("--match", tmp_path / "m", "--format", "png", "--quality", 90), "PNG takes none"),
        (("--match", folder), "never overwritten"),
    ]:
        result = univfd("audit", folder, *args)
        assert result.returncode == 2
        assert words in result.stderr
        assert result.stdout == ""


def test_the_command_reads_a_suite(folder: Path, tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    subsets = [
        f'[[subset]]\nname = "{n}"\nreal = "real/s{n}"\nfake = "fake/f{f}"\n' for n, f in ((1, 0), (3, 2), (5, 4))
    ]
    toml.write_text('name = "n"\ntitle = "t"\nurl = "u"\nget = "g"\nroot = "r"\n' + "".join(subsets))
    result = univfd("audit", folder, "--suite", toml, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["fakes"] == 30
    assert list(json.loads(result.stdout)["checks"][0]["generators"]) == ["1", "3", "5"]
    assert "an audit needs" in univfd("audit", folder, "--suite", toml, "--subset", "1").stderr


def test_the_command_writes_a_matched_list_and_audits_it(folder: Path, tmp_path: Path) -> None:
    result = univfd("audit", folder, "--match", tmp_path / "m", "--size", 32, "--json")
    assert result.returncode == 0, result.stderr
    matched = json.loads(result.stdout)["matched"]
    assert matched["pairs"] * 2 == len(list(open_dataset(tmp_path / "m")))
    assert matched["audit"]["fakes"] == matched["audit"]["reals"] == matched["pairs"]
    assert matched["audit"]["verdict"] in {"fit", "doubtful", "unfit"}  # so few images may do anything
