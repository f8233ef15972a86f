"""The study: parts that share nothing, figures that an independent computation gives too, experiments that run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from conftest import encoded, picture
from test_onnx_as_is import BLOCKS, vit
from test_onnx_as_is import folder as encoder_folder
from univfd import registry
from univfd.backbones import Backbone, open_backbone
from univfd.benchmark.rows import read_rows
from univfd.cli import group
from univfd.datasets import open_dataset
from univfd.detector import Detector, linear_detector
from univfd.errors import DataError, MissingExtraError, OutputExistsError, UnknownNameError, UsageError
from univfd.experiments import generalisation
from univfd.metrics import FIGURES, Absent
from univfd.metrics.resampled import FLAGS, Contest, Pair, one_class
from univfd.spectra import PERIODS, grid_peak, residual_spectrum
from univfd.study.data import Data, limited, read
from univfd.study.features import Work, pictures
from univfd.study.judging import AP, HALF, NOTE, ORACLE, SEEN, SINK, UNSEEN, judged, threshold
from univfd.study.manifest import write_manifest
from univfd.study.published import published
from univfd.study.run import SHARED, Study
from univfd.study.split import LEFT_OUT, TEST, TRAIN, VALIDATION, Split, split
from univfd.study.tables import generators, means, said
from univfd.study.writing import split_table
from univfd.training.pictures import Pictures
from univfd.types import Failure, ImageRef, Label, Sample
from univfd.views import view

EXPERIMENTS = registry.names("experiments")
PARTS = (TRAIN, VALIDATION, TEST)


def sample(i: int, fake: bool, name: str, source: str, *, family: str = "", group: str = "", **extra: str) -> Sample:
    ref = ImageRef(f"{i}.png", f"bytes of {i}".encode())
    generator = name if fake else ""
    return Sample(ref, Label(fake), generator, source, group, family=family if fake else "", extra=extra)


def numbered(samples: Sequence[Sample]) -> Data:
    return Data(tuple(samples), tuple(f"{int(s.ref.name[:-4]):064x}" for s in samples), (), len(samples))


def collection() -> list[Sample]:
    """Seven real sources; two training generators of which one has three sources and one a single one whose groups hold
    a real input each; an unseen generator, one of whose sources a training generator shares; an unseen family."""
    made: list[Sample] = []

    def add(n: int, fake: bool, name: str, source: str, **more: str) -> None:
        for _ in range(n):
            made.append(sample(len(made), fake, name, source, **more))

    for s in range(7):
        add(10, False, "", f"real{s}")
    for s in range(3):
        add(8, True, "many", f"many{s}", family="gan")
    for g in range(10):
        add(2, True, "single", "single", family="gan", group=f"g{g}")
        add(1, False, "", "inputs", group=f"g{g}")
    add(6, True, "many", "shared", family="gan")
    add(6, True, "other", "shared", family="diffusion")
    add(5, False, "", "shared")
    add(9, True, "third", "third", family="diffusion")
    return made


def test_the_parts_share_no_generator_source_group_or_file() -> None:
    samples = collection()
    samples += [replace(samples[0], source="elsewhere")]  # the same bytes once more, of another source
    data = Data(tuple(samples), (*numbered(samples[:-1]).keys, f"{0:064x}"), (), len(samples))
    made = split(data, families=["gan"], seed=3)
    assert set(made.part) <= {*PARTS, LEFT_OUT}
    assert made.seen == ("many", "single")
    part, key = made.part, np.array(data.keys)
    group, source, generator = (data.column(c) for c in ("group", "source", "generator"))
    for values in (key, group):
        for value in set(values) - {""}:
            assert len(set(part[values == value]) - {LEFT_OUT}) <= 1, value
    for name in set(source) - {"single"}:  # `single` has one source alone: its images are dealt by group
        assert len(set(part[source == name]) - {LEFT_OUT}) <= 1, name
    assert set(part[generator == "single"]) == set(PARTS)
    assert set(part[np.isin(generator, ["other", "third"])]) == {TEST}
    assert set(part[source == "shared"]) == {TEST}
    assert (
        part[(source == "inputs") & np.isin(group, group[(part == TEST) & (generator == "single")])] == LEFT_OUT
    ).all()
    assert {p: ((part == p) & ~data.fake).any() and ((part == p) & data.fake).any() for p in PARTS} == dict.fromkeys(
        PARTS, True
    )
    assert made.how["many"] == made.how[""] == "other sources"
    assert made.how["single"] == "other images of the same sources"
    table = {m.name: m for m in made.members}
    assert table["third"].tested == "unseen"
    assert sum(sum(m.counts.values()) for m in made.members) == len(data)


def test_a_split_depends_on_the_images_and_the_seed_alone() -> None:
    samples = collection()
    data = numbered(samples)
    first = dict(zip(data.keys, split(data, families=["gan"]).part, strict=True))
    order = np.random.default_rng(0).permutation(len(samples))
    other = numbered([samples[i] for i in order])
    assert dict(zip(other.keys, split(other, families=["gan"]).part, strict=True)) == first
    assert any(
        dict(zip(data.keys, split(data, families=["gan"], seed=s).part, strict=True)) != first for s in range(1, 4)
    )
    by_name = split(data, generators=["many", "single"])
    assert dict(zip(data.keys, by_name.part, strict=True)) == first


def test_one_source_of_reals_is_dealt_by_group() -> None:
    samples = [sample(i, False, "", "all", group=f"g{i // 2}") for i in range(40)]
    samples += [sample(40 + i, True, "ab"[i % 2], "ab"[i % 2]) for i in range(20)]
    data = numbered(samples)
    made = split(data, generators=["a"])
    assert set(made.part[~data.fake]) == set(PARTS)
    group = data.column("group")
    assert all(len(set(made.part[group == f"g{g}"])) == 1 for g in range(20))
    assert made.how[""] == "other images of the same sources"


def assert_parts_share_nothing(data: Data, made: Split) -> None:
    """What the study promises of any split, computed image by image."""
    trains, tested = np.isin(made.part, [TRAIN, VALIDATION]), made.part == TEST
    maker = np.where(data.fake, data.column("generator"), "")
    for name in ("group", "source"):
        values = data.column(name)
        for value in set(values[trains]) & set(values[tested]) - {""}:
            assert name == "source", value
            kinds = {made.how.get(m, "unseen") for m in maker[tested & (values == value)]}
            assert kinds == {"other images of the same sources"}, (value, kinds)
    for value in set(data.column("group")) - {""}:
        assert len(set(made.part[data.column("group") == value]) - {LEFT_OUT}) <= 1, value
    assert (made.part[data.fake & ~np.isin(maker, made.seen)] == TEST).all()
    assert set(maker[made.part == TRAIN]) == {"", *made.seen}


def tangled(seed: int) -> Data:
    """Generators and sources of all sizes; some images of either class share groups, some sources."""
    rng = np.random.default_rng(seed)
    groups, grouped, common = int(rng.integers(3, 40)), rng.choice([0, 0.1, 0.5]), rng.choice([0, 0.1])
    made: list[Sample] = []

    def add(fake: bool, name: str, source: str, family: str = "") -> None:
        group = f"g{rng.integers(groups)}" if rng.random() < grouped else ""
        at = "common" if rng.random() < common else source
        made.append(sample(len(made), fake, name, at, family=family, group=group))

    for g in range(rng.integers(2, 6)):
        sources = rng.integers(1, 5)
        for _ in range(rng.integers(8, 40)):
            add(True, f"g{g}", f"s{g}-{rng.integers(sources)}", "gan" if g % 2 else "diffusion")
    cameras = rng.integers(1, 8)
    for _ in range(rng.integers(20, 120)):
        add(False, "", f"camera{rng.integers(cameras)}")
    return numbered(made)


def test_no_collection_gives_parts_that_share_anything() -> None:
    dealt = 0
    for seed in range(200):
        data = tangled(seed)
        try:
            made = split(data, families=["gan"], seed=seed)
        except DataError:
            continue
        dealt += 1
        assert_parts_share_nothing(data, made)
    assert dealt > 180


def test_pairs_of_a_fake_and_a_real_do_not_make_a_study_impossible() -> None:
    """Pairs, as in a matched list, tie every source of reals to every generator."""
    made = []
    for i in range(120):
        name = "abc"[i % 3]
        family = "diffusion" if name == "c" else "gan"
        made.append(sample(2 * i, True, name, f"site {name}", family=family, group=f"pair {i}"))
        made.append(sample(2 * i + 1, False, "", f"camera {i * 7 % 5}", group=f"pair {i}"))
    data = numbered(made)
    parts = split(data, families=["gan"])
    assert_parts_share_nothing(data, parts)
    unseen = data.column("generator") == "c"
    assert set(parts.part[np.roll(unseen, 1)]) == {TEST}  # their other halves: the reals are dealt by group
    counts = {p: [int(((parts.part == p) & (data.fake == fake)).sum()) for fake in (True, False)] for p in PARTS}
    assert counts == {TRAIN: [44, 44], VALIDATION: [12, 12], TEST: [64, 64]}


def test_a_real_whose_pair_is_tested_and_whose_source_trains_is_left_out() -> None:
    made = [sample(i, True, "ab"[i % 2], f"{'ab'[i % 2]}{i % 6}", group=f"pair {i}" if i % 6 == 1 else "")
            for i in range(60)]  # fmt: skip
    made += [sample(60 + i, False, "", f"camera {i % 5}", group=f"pair {i}" if i % 6 == 1 else "") for i in range(60)]
    data = numbered(made)
    parts = split(data, generators=["a"])
    assert_parts_share_nothing(data, parts)
    assert parts.how[""] == "other sources"
    paired = ~data.fake & (data.column("group") != "")
    trains = set(data.column("source")[np.isin(parts.part, [TRAIN, VALIDATION]) & ~data.fake])
    for i in np.flatnonzero(paired):
        assert parts.part[i] == (LEFT_OUT if data.samples[i].source in trains else TEST)
    assert set(parts.part[paired]) == {LEFT_OUT, TEST}


@pytest.mark.parametrize("prompts", [2, 3, 20])
def test_generators_of_the_same_prompts_hold_out_the_same_ones(prompts: int) -> None:
    """Their shares do not multiply, and none is held out wholly."""
    made = [sample(20 * g + i, True, f"g{g}", f"site{g}", family="gan", group=f"prompt {i}")
            for g in range(8) for i in range(prompts)]  # fmt: skip
    made += [sample(500 + i, True, "other", "elsewhere") for i in range(6)]
    made += [sample(600 + i, False, "", f"camera{i % 6}") for i in range(30)]
    data = numbered(made)
    if prompts == 2:
        with pytest.raises(DataError, match="no fake image is left for validation"):
            split(data, families=["gan"])
        return
    parts = split(data, families=["gan"])
    assert_parts_share_nothing(data, parts)
    shares = {p: ((parts.part == p) & (data.column("family") == "gan")).sum() / (8 * prompts) for p in PARTS}
    assert shares == ({TRAIN: 0.55, VALIDATION: 0.15, TEST: 0.3} if prompts == 20 else dict.fromkeys(PARTS, 1 / 3))


def test_a_generator_that_is_not_named_does_not_train() -> None:
    samples = [*collection(), sample(1000, True, "", "nameless", family="gan")]
    with pytest.raises(DataError, match="1 fake of gan without a generator"):
        split(numbered(samples), families=["gan"])
    data = numbered(samples)
    made = split(data, generators=["many", "single"])  # of those that were not chosen, it is tested
    assert made.part[-1] == TEST
    for chosen in ({"generators": [""]}, {"families": [""]}):
        with pytest.raises(UnknownNameError):
            split(data, **chosen)
    nobody = numbered([replace(s, generator="", family="") for s in samples])
    with pytest.raises(DataError, match="column generator"):
        split(nobody)


@pytest.mark.parametrize(
    ("families", "generators", "error", "says"),
    [
        (["gam"], [], UnknownNameError, "gan"),
        ([], ["thrid"], UnknownNameError, "third"),
        (["gan", "diffusion"], [], DataError, "every generator trains"),
        ([], [], DataError, "--train-family"),
        ([], ["other"], DataError, "other"),  # its only source has images of a generator that is held out
    ],
)
def test_splits_that_cannot_be(families: list[str], generators: list[str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        split(numbered(collection()), families=families, generators=generators)


def test_limit_takes_evenly_of_each_generator_and_source() -> None:
    samples = collection()
    few = limited(samples, 3)
    assert limited(samples, 3) == few
    names = [s.generator or s.source for s in few]
    assert {names.count(n) for n in names} == {3}
    assert [s.ref.name for s in few if s.source == "real0"] == ["0.png", "3.png", "6.png"]
    assert limited(samples, None) == samples


def test_limit_counts_reals_by_source_whatever_else_they_name() -> None:
    samples = [replace(s, generator="real" if s.label is Label.REAL else s.generator) for s in collection()]
    assert [s.ref.name for s in limited(samples, 3)] == [s.ref.name for s in limited(collection(), 3)]


def random_scores(data: Data, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0.4 * data.fake, 1, len(data)), 1)  # with ties


@pytest.fixture(scope="module")
def parted() -> tuple[Data, Split]:
    data = numbered(collection())
    return data, split(data, families=["gan"])


def test_figures_are_those_of_scikit_learn(parted: tuple[Data, Split]) -> None:
    data, made = parted
    scores = random_scores(data, 5)
    panel = judged(data, made, {"m": scores}, rounds=20, seed=0)
    assert {name: set(of) for name, of in panel.sets.items()} == {
        SEEN: {"many", "single"}, UNSEEN: {"other", "third"}, "unseen diffusion": {"other", "third"},
    }  # fmt: skip
    test, generator = made.part == TEST, data.column("generator")
    found: dict[str, dict[str, float]] = {}
    for name in ("many", "single", "other", "third"):
        rows = test & (~data.fake | (generator == name))
        fake = data.fake[rows]
        weight = np.where(fake, 1 / fake.sum(), 1 / (~fake).sum())
        found[name] = {
            AP: average_precision_score(fake, scores[rows], sample_weight=weight),
            HALF[0]: balanced_accuracy_score(fake, scores[rows] > 0),
            SINK: float((scores[rows][fake] <= 0).mean()),
            ORACLE: max(balanced_accuracy_score(fake, scores[rows] > t) for t in [-9, *scores[rows]]),
        }
        for figure, value in found[name].items():
            got = panel.of("m", figure, name)
            assert got.value == pytest.approx(value, abs=1e-9), (name, figure)  # type: ignore[union-attr]
            assert got.n == (fake.sum() if figure == SINK else len(fake))
    for figure in (AP, HALF[0], SINK):
        mean = panel.mean("m", figure, UNSEEN)
        assert mean.value == pytest.approx(np.mean([found["other"][figure], found["third"][figure]]))  # type: ignore[union-attr]
        assert mean.n == 2
    pooled = panel.of("m", SINK, UNSEEN, "family")
    unseen = test & np.isin(generator, ["other", "third"])
    assert (pooled.value, pooled.n) == (pytest.approx((scores[unseen] <= 0).mean()), unseen.sum())  # type: ignore[union-attr]


def few() -> tuple[Data, Split]:
    """Two training generators, of which one has too few test images to be averaged, and unseen ones of one family."""
    samples = [sample(i, False, "", f"real{i % 8}") for i in range(40)]
    for name, family, n in (
        ("large", "gan", 6),
        ("small", "gan", 2),
        ("new", "diffusion", 2),
        ("newer", "diffusion", 2),
    ):
        samples += [
            sample(len(samples) + i, True, name, f"{name}{i % n}", family=family) for i in range(30 if n == 6 else 6)
        ]
    data = numbered(samples)
    return data, split(data, generators=["large", "small"])


def test_the_count_beside_a_mean_is_of_what_it_is_over() -> None:
    data, made = few()
    panel = judged(data, made, {"m": random_scores(data, 0)}, figures=[AP, HALF[0]], rounds=9, seed=0)
    large, small = panel.fakes("large"), panel.fakes("small")
    assert panel.generators(SEEN) == ["large"]
    assert 0 < small < 5 <= large
    assert said(panel, AP, SEEN).endswith(f"(1 of 2 generators, {large} of {large + small} fakes)")
    assert said(panel, AP, UNSEEN).endswith("(2 generators, 12 fakes)")
    (mean,) = (row for row in generators(panel, AP, "ap", "AP").sections[0].rows if row[:2] == [SEEN, "mean"])
    assert mean[2] == large
    assert mean[3].n == 1  # type: ignore[union-attr]


def test_a_mean_over_one_generator_has_no_interval() -> None:
    data, made = few()
    panel = judged(data, made, {"m": np.where(data.fake, 1.0, -1.0)}, figures=[AP, SINK, HALF[2]], rounds=9, seed=0)
    for figure in (AP, SINK, HALF[2]):
        assert str(panel.mean("m", figure, SEEN)) == f"{float(figure != SINK):.3f}"
        assert "[" in str(panel.mean("m", figure, UNSEEN))
        assert "[" in str(panel.of("m", figure, "large")), "that of its images stands in its own row"
    assert "Over one generator it has none" in NOTE


def test_a_mean_that_is_not_there_says_why() -> None:
    data, made = few()
    panel = judged(data, made, {"m": random_scores(data, 0)}, figures=[AP], rounds=9, seed=0)
    assert panel.mean("m", AP, ["small"]) == Absent("no generator has 5 test images")
    assert panel.mean("m", AP, []) == Absent("no such generator is tested")
    nameless = judged(
        numbered([replace(s, family="") for s in data.samples]), made, {"linear": random_scores(data, 0)},
        figures=[AP, HALF[0]], rounds=9, seed=0,
    )  # fmt: skip
    reasons = {row[2]: row[3].reason for row in generalisation._beside(nameless) if row[0] == "linear probe"}  # type: ignore[union-attr]
    assert reasons == {
        "gan": "no tested generator is of the family gan",
        "unseen": "no tested generator is unseen and of the family diffusion or ar",
    }


def test_a_family_that_all_unseen_generators_are_of_is_not_shown_twice() -> None:
    data, made = few()
    panel = judged(data, made, {"m": random_scores(data, 0)}, rounds=9, seed=0)
    assert set(panel.sets) == {SEEN, UNSEEN, "unseen diffusion"}
    assert panel.shown == (SEEN, UNSEEN)
    assert panel.notes == ("All unseen generators are of the family diffusion, which has no row of its own.",)
    assert {row[0] for row in means(panel).sections[0].rows} == {SEEN, UNSEEN}
    assert {row[0] for row in generators(panel, AP, "ap", "AP").sections[0].rows} == {SEEN, UNSEEN}
    other = numbered([replace(s, family="ar") if s.generator == "newer" else s for s in data.samples])
    both = judged(other, made, {"m": random_scores(data, 0)}, figures=[AP], rounds=9, seed=0)
    assert both.shown == (SEEN, UNSEEN, "unseen ar", "unseen diffusion")
    assert not both.notes


def test_of_images_without_a_source_it_is_not_said_that_theirs_is_another() -> None:
    bare = [sample(i, False, "", "") for i in range(30)] + [sample(30 + i, True, "ab"[i % 2], "") for i in range(40)]
    told = {m.name: m.tested for m in split(numbered(bare), generators=["a"]).members}
    assert told == {"a": "other images, source not named", "b": "unseen", "": "other images, source not named"}
    half = [replace(s, source=f"s{i}" if i % 2 else "") for i, s in enumerate(bare)]
    half = [replace(s, generator="a" if i < 60 else "b") if i >= 30 else s for i, s in enumerate(half)]
    told = {m.name: m.tested for m in split(numbered(half), generators=["a"]).members}
    assert told["a"] == "other sources, where named"
    assert told[""] == "other images, source not named"
    assert {told[f"s{i}"] for i in range(1, 30, 2)} == {"unseen", ""}
    notes = " ".join(split_table(split(numbered(bare), generators=["a"])).notes)
    assert all(
        f"*{words[0].upper()}{words[1:]}*" in notes for words in {"unseen", "other sources", *told.values()} - {""}
    )


def test_equal_numbers_of_both_classes_give_the_usual_ap() -> None:
    samples = [sample(i, i % 2 == 1, "ab"[i // 2 % 2], f"s{i}") for i in range(80)]
    data = numbered(samples)
    labels, scores = data.fake[:44], random_scores(data, 1)[:44]
    flags = dict.fromkeys(FLAGS, scores > 0)
    real, fake = (one_class(scores[own], {f: v[own] for f, v in flags.items()}, None, i)
                  for i, own in enumerate((~labels, labels)))  # fmt: skip
    pair = Pair(Contest(real, fake), *(side.weighted(np.ones((1, 22))) for side in (real, fake)))
    assert FIGURES[AP].compute(pair) == pytest.approx([average_precision_score(labels, scores)], abs=1e-9)


def test_thresholds_come_from_the_validation_part_alone(parted: tuple[Data, Split]) -> None:
    data, made = parted
    scores = random_scores(data, 2)
    limit = judged(data, made, {"m": scores}, figures=[AP], rounds=1, seed=0).cells[0].fake_above
    others = np.where(made.part == VALIDATION, scores, -scores + 3)
    assert judged(data, made, {"m": others}, figures=[AP], rounds=1, seed=0).cells[0].fake_above == limit


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fake = rng.random(30) < 0.4
    scores = np.round(rng.normal(fake, 1), 1)
    best = max(balanced_accuracy_score(fake, scores > t) for t in np.arange(-5, 5, 0.05))
    assert balanced_accuracy_score(fake, scores > threshold(scores, fake)) == pytest.approx(best)


def test_a_perfect_validation_keeps_the_methods_own_threshold() -> None:
    assert threshold(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True])) == 0
    assert threshold(np.array([-2.0, -1.0, 0.3, 2.0]), np.array([False, False, False, True])) == pytest.approx(0.3)
    assert np.isnan(threshold(np.array([1.0]), np.array([True])))


def test_published_numbers_agree_with_one_another() -> None:
    data = tomllib.loads((resources.files("univfd.study") / "paper.toml").read_text("utf-8"))
    for kind in ("row", "mean", "finding", "missing"):
        for entry in data[kind]:
            assert entry["experiment"] in EXPERIMENTS
            assert kind == "missing" or entry["source"] in data["source"]
    gans = ("progan", "cyclegan", "biggan", "stylegan", "gaugan", "stargan")
    unseen = ("guided", "ldm_200", "ldm_200_cfg", "ldm_100", "glide_100_27", "glide_50_27", "glide_100_10", "dalle")
    rows = {(r.method, r.of, r.figure): r.values for r in published("generalisation").rows}
    means = {(m.method, m.figure, m.over): m.value for m in published("generalisation").means if m.over != "all"}
    for (method, of, figure), values in rows.items():
        assert len(values) == 19
        for over, names in (("gan", gans), ("unseen", unseen)):
            stated = means.get((method, figure, over))
            if stated is not None and method != "knn" and of != "measured again":
                assert np.mean([values[n] for n in names]) == pytest.approx(stated, abs=0.006), (method, figure, over)


def image(seed: int, step: int) -> np.ndarray:
    """A picture, with a faint grid of that many pixels (0: none)."""
    pixels = picture(seed, 136, 136).astype(int)
    if step:
        pixels[::step, ::step] += int(np.random.default_rng(seed).integers(-10, 60))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a manifest: five real sources, two GANs, two diffusion models; one file is no image."""
    root = tmp_path_factory.mktemp("pictures")
    rows: list[dict[str, str]] = []

    def add(label: str, generator: str, source: str, family: str, step: int, n: int) -> None:
        for _ in range(n):
            i = len(rows)
            (root / f"{i}.png").write_bytes(encoded(image(i, step), "PNG"))
            row = {"file": f"{i}.png", "label": label, "generator": generator, "source": source, "family": family}
            rows.append(row | {"group": f"pair{i // 2}" if generator == "gan-b" else "", "license": "CC0"})

    for s in range(5):
        add("real", "", f"real{s}", "", 0, 6)
    for s in range(2):
        add("fake", "gan-a", f"a{s}", "gan", 2, 6)
    add("fake", "gan-b", "b", "gan", 2, 10)
    add("fake", "dm-a", "da", "diffusion", 4, 8)
    add("fake", "dm-b", "db", "diffusion", 3, 8)
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows.append({"file": "broken.png", "label": "real", "source": "real0"})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with two blocks, in a folder."""
    options = 'output = "vector"\n' + BLOCKS
    return encoder_folder(tmp_path_factory.mktemp("encoder"), vit(), options, blocks=2)


def study(folder: Path, cache: Path, **options: object) -> Study:
    named = {"train_families": ("gan",), "backbone": "toy", "rounds": 20, "cache": cache} | options
    return Study(list(open_dataset(folder)), "pictures", **named)  # type: ignore[arg-type]


OPTIONS: dict[str, dict[str, object]] = {
    "backbones": {"backbones": ("toy",)},
    "classes": {"counts": (1,), "ks": (1,)},
    "generalisation": {"ks": (1, 3)},
    "neighbours": {"count": 2},
    "robustness": {"qualities": (50,), "sigmas": (1.0,)},
    "spectra": {"size": 64},
    "training-size": {"fractions": (0.5, 1.0)},
    "sink": {"points": 40, "ks": (1,)},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_gives_a_report(name: str, folder: Path, cache: Path, tmp_path: Path) -> None:
    made = study(folder, cache)
    failed = made.run(name, tmp_path / "out", OPTIONS.get(name))
    assert_report(tmp_path / "out", name)
    text = (tmp_path / "out" / "README.md").read_text()
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert [f.error for f in failed] == ["truncated"]
    assert "broken.png" in text
    assert (record["images"]["given"], record["images"]["used"]) == (69, 68)
    assert "38 fakes and 30 reals used" in text
    with pytest.raises(OutputExistsError):
        made.run(name, tmp_path / "out", OPTIONS.get(name))


def assert_report(out: Path, name: str) -> None:
    """Tables in three forms with a number of images in every row, figures that are drawings, and the record."""
    text = (out / "README.md").read_text()
    record = json.loads((out / "study.json").read_text())
    assert (record["kind"], record["experiment"], record["seed"]) == ("study", name, 0)
    assert len(record["data_digest"]) == 64
    tables = sorted((out / "tables").glob("*.csv"))
    assert tables
    for table in tables:
        assert table.with_suffix(".md").is_file()
        assert table.with_suffix(".tex").is_file()
        with table.open(newline="") as file:
            head, *rows = csv.reader(file)
        assert rows
        if table.stem not in {"encoders", "neighbours"}:  # of encoders and of single images
            counted = [i for i, c in enumerate(head) if c in {"n", "fakes"} or c.endswith(": n")]
            assert counted, table
            assert all(any(row[i] not in {"", "0"} or "reason" in ",".join(head) for i in counted) for row in rows), (
                table
            )
    figures = sorted((out / "figures").iterdir())
    assert figures
    for figure in figures:
        assert f"](figures/{figure.name})" in text
        if figure.suffix == ".svg":
            assert ET.parse(figure).getroot().tag.endswith("svg")
            assert "<dc:date>" not in figure.read_text()


def test_layers_are_embedded_in_one_pass(
    folder: Path, cache: Path, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    seen: list[int] = []
    made = study(folder, cache, backbone=blocks)
    real = open_backbone(blocks, taps=("cls.1", "cls.2", "proj"))

    class Counting:
        entry, taps = real.entry, real.taps

        def embed(self, crops: np.ndarray) -> np.ndarray:
            seen.append(len(crops))
            return real.embed(crops)

    monkeypatch.setattr("univfd.study.run.open_backbone", lambda *a, **k: Counting())
    made.run("layers", tmp_path / "out")
    assert_report(tmp_path / "out", "layers")
    assert sum(seen) == len(made.readable) - 1  # one is no image
    text = (tmp_path / "out" / "tables" / "layers.csv").read_text()
    assert all(f"\n{tap}," in text for tap in ("cls.1", "cls.2", "proj"))
    without = encoder_folder(tmp_path / "mine", vit(), 'output = "vector"')
    with pytest.raises(UsageError, match="no blocks"):
        study(folder, cache, backbone=without).run("layers", tmp_path / "none")


def test_a_second_experiment_on_the_same_images_embeds_nothing(
    folder: Path, tmp_path: Path, toy: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(folder, tmp_path / "cache").run("pr", tmp_path / "first")

    def refuse(crops: np.ndarray) -> np.ndarray:
        raise AssertionError("embedded again")

    monkeypatch.setattr(type(toy), "embed", lambda self, crops: refuse(crops))
    study(folder, tmp_path / "cache").run("generalisation", tmp_path / "second", {"ks": (1,)})


def test_the_same_study_gives_the_same_bytes(folder: Path, cache: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        study(folder, cache).run("sink", tmp_path / out, OPTIONS["sink"])
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*")) if p.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_network_is_scored_as_it_detects(folder: Path, cache: Path, toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "network")
    study(folder, cache, network=tmp_path / "network").run("generalisation", tmp_path / "out", {"ks": (1,)})
    scores = read_rows(tmp_path / "out" / "rows" / "scores.parquet")
    cell = scores.cell("clean", "network")
    names = [scores.images.columns["image"][i] for i in range(len(scores.images))]
    said = {v.image: v.score for v in toy_detector.detect([str(folder)]) if hasattr(v, "score")}
    assert cell.score == pytest.approx([said[name] for name in names], abs=1e-6)
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert record["network"].startswith("toy@")
    without = study(folder, cache)
    without.run("generalisation", tmp_path / "without", {"ks": (1,)})
    assert "No trained network was given" in (tmp_path / "without" / "README.md").read_text()
    assert "no network was given" in (tmp_path / "without" / "tables" / "paper.md").read_text()


def test_an_image_that_cannot_be_decoded_changes_no_part(folder: Path, cache: Path, tmp_path: Path) -> None:
    """Nor does it when it is all of its source, so that there is one unit less to deal."""
    samples = list(open_dataset(folder))
    for i in range(4):
        file = tmp_path / f"cut{i}.png"
        file.write_bytes(b"\x89PNG\r\n\x1a\n and no more, %d" % i)
        samples.append(Sample(ImageRef(str(file), file), Label.REAL, "", f"cut{i}"))
    made = Study(samples, "pictures", train_families=("gan",), backbone="toy", rounds=5, cache=cache)
    counts = write_manifest(tmp_path / "parts.jsonl", made.readable, made.parts())
    failed = {f.image for f in made.run("pr", tmp_path / "out", {"ks": (1,)})}
    assert len(failed) == 5
    parted = {Path(s.ref.name).name: s.split for s in open_dataset(tmp_path / "parts.jsonl")}
    tested = read_rows(tmp_path / "out" / "rows" / "scores.parquet").images.columns["image"]
    names = {Path(tested[i]).name for i in range(len(tested.codes))}
    bad = {Path(name).name for name in failed}
    assert names == {name for name, part in parted.items() if part == "test"} - bad
    kept = json.loads((tmp_path / "out" / "study.json").read_text())["splits"]["split"]
    trained = sum(m["train"] for m in (*kept["images"].values(), *kept["reals"].values()))
    assert trained == counts["train"] - len({n for n, part in parted.items() if part == "train"} & bad)


def test_a_generator_of_which_nothing_can_be_decoded_is_named() -> None:
    data = numbered(collection())
    made = split(data, families=["gan"])
    gone = (made.part == TRAIN) & (data.column("generator") == "many")
    kept = np.flatnonzero(~gone)
    with pytest.raises(DataError, match="no image of many is left to train on"):
        made.of(data.without([Failure("", "", "") if g else None for g in gone]), kept)


@pytest.mark.parametrize("name", ["generalisation", "pr", "robustness", "sink"])
def test_score_rows_say_what_was_laid_on_the_images(name: str, folder: Path, cache: Path, tmp_path: Path) -> None:
    study(folder, cache, perturb="jpeg:85").run(name, tmp_path / "out", OPTIONS.get(name))
    said = read_rows(tmp_path / "out" / "rows" / "scores.parquet")
    expected = ["jpeg:85", "jpeg:85+jpeg:50", "jpeg:85+blur:1"] if name == "robustness" else ["jpeg:85"]
    assert list(dict.fromkeys(cell.perturbation for cell in said.cells)) == expected
    if name == "robustness":
        assert "\njpeg:85+jpeg:50," in (tmp_path / "out" / "tables" / "robustness.csv").read_text()


def test_a_network_that_knows_what_is_tested_is_named(
    folder: Path, cache: Path, blocks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = open_backbone(blocks)
    width = encoder.entry.proj
    made = linear_detector("mine", encoder, view("native"), np.linspace(-1, 1, width), 0.0)
    made.save(tmp_path / "network", carry_backbone=True)

    def warnings() -> str:
        caplog.clear()
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        study(folder, cache, network=tmp_path / "network").run("pr", out, {"ks": (1,)})
        return " ".join(r.getMessage() for r in caplog.records if "was trained on" in r.getMessage())

    assert warnings() == ""
    record = tmp_path / "network" / "backbone" / "training.json"
    parts = study(folder, cache).parts()
    held_out = [m.name for m in parts.members if m.label == "real" and m.tested and not m.counts[TRAIN]]
    known = {"fake by generator": {"gan-a": 9, "dm-b": 5}, "real by source": {held_out[0]: 3, "another": 2}}
    record.write_text(json.dumps({"images": {"train": known}}))
    said = warnings()
    assert "fakes of dm-b," in said
    assert f"reals of {held_out[0]}," in said
    assert "gan-a" not in said
    for text in ("[]", "no JSON", '{"images": {"train": {"fake by generator": [[]]}}}', '{"images": {"train": 3}}'):
        record.write_text(text)
        assert warnings() == ""


def test_a_split_is_written_as_a_manifest_that_readers_take(folder: Path, tmp_path: Path) -> None:
    data = read(open_dataset(folder))
    made = split(data, families=["gan"])
    counts = write_manifest(tmp_path / "parts" / "parts.jsonl", data, made)
    back = list(open_dataset(tmp_path / "parts" / "parts.jsonl"))
    assert len(back) == counts["train"] + counts["val"] + counts["test"] == len(data) - counts["left out"]
    again = read(back)
    words = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    parts = dict(zip(data.keys, made.part, strict=True))
    assert [words[s.split] for s in again.samples] == [parts[key] for key in again.keys]
    with pytest.raises(OutputExistsError):
        write_manifest(tmp_path / "parts" / "parts.jsonl", data, made)
    with pytest.raises(UsageError, match="jsonl"):
        write_manifest(tmp_path / "parts.csv", data, made)
    odd = tmp_path / os.fsdecode(b"\xff.png")
    named = replace(data, samples=(replace(data.samples[0], ref=ImageRef(str(odd), odd)), *data.samples[1:]))
    with pytest.raises(UsageError, match=r"\\xff.png: its name"):
        write_manifest(tmp_path / "odd.jsonl", named, made)
    assert not (tmp_path / "odd.jsonl").exists()
    memory = numbered(collection())
    with pytest.raises(UsageError, match="no file of its own"):
        write_manifest(tmp_path / "other.jsonl", memory, split(memory, families=["gan"]))


def test_without_matplotlib_the_extra_is_named_before_any_work(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    made = study(folder, cache)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        made.run("pr", tmp_path / "out")
    assert "readable" not in vars(made)


def test_unknown_experiments_and_options(folder: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="sink"):
        study(folder, cache).run("sinc", tmp_path / "out")
    with pytest.raises(UnknownNameError, match="fractions"):
        study(folder, cache).run("training-size", tmp_path / "out", {"fraction": (1.0,)})


def test_a_grid_shows_up_to_its_own_period() -> None:
    for step in (0, 2, 4, 8):
        pixels = [picture(i, 128, 128).astype(int) for i in range(6)]
        for p in pixels:
            if step:
                p[:, ::step] += 25
                p[::step] += 25
        mean = np.mean([residual_spectrum(np.clip(p, 0, 255).astype(np.uint8)) for p in pixels], axis=0)
        peaks = {period: grid_peak(mean, period) for period in PERIODS}
        assert not step or peaks[step] > 8, (step, peaks)
        assert all(abs(peaks[p]) < 5 for p in PERIODS if p > step), (step, peaks)


def univfd(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "univfd", *map(str, args)], capture_output=True, text=True, check=False
    )


def test_the_command_line(folder: Path, cache: Path, tmp_path: Path) -> None:
    common = [folder, "--train-family", "gan", "--backbone", "toy", "--cache", cache, "--rounds", 5]
    done = univfd("study", "pr", *common, "--ks", "1", "--limit", 9, "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (3, ""), done.stderr  # one image cannot be decoded
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert (record["limit"], record["options"]) == (9, {"ks": [1]})
    assert "A quick run" in (tmp_path / "out" / "README.md").read_text()
    report = univfd("bench", "report", tmp_path / "out" / "rows", "--rounds", 5)
    assert report.returncode == 0, report.stderr
    assert "knn-1" in report.stdout
    listed = univfd("study", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == EXPERIMENTS


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pr"], "which generators train"),
        (["layers", "--train-family", "gan", "--tap", "proj"], "No such option"),
        (["classes", "--train-family", "gan", "--ks", "one"], "expected numbers"),
        (["nothing"], "No such command"),
    ],
)
def test_calls_that_are_wrong(args: list[str], says: str, folder: Path, tmp_path: Path) -> None:
    name, *rest = args
    runner = CliRunner()
    result = runner.invoke(group, ["study", name, str(folder), *rest, "-o", str(tmp_path / "out")])
    assert says in result.output + str(result.exception)
    assert result.exit_code != 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_uses_and_what_its_options_do(name: str) -> None:
    experiment = registry.load("experiments", name)
    assert set(experiment.options) == set(experiment.own)
    assert set(experiment.uses) == set(experiment.own) | {u for u in experiment.uses if u in SHARED}


def test_a_split_that_cannot_be_is_said_before_anything_is_embedded(
    folder: Path, tmp_path: Path, toy: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(toy), "embed", lambda self, crops: pytest.fail("an image was embedded"))
    with pytest.raises(DataError, match="every generator trains"):
        study(folder, tmp_path / "cache", train_families=("gan", "diffusion")).run("sink", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("training-size", {"fractions": ()}, "expected one number"),
        ("training-size", {"fractions": (0.5, 2.0)}, "at most 1"),
        ("sink", {"perplexity": 0}, "perplexity is 0"),
        ("sink", {"points": 1}, "points is 1"),
        ("training-source", {"families": ("gan", "diffusoin")}, "diffusion"),
        ("robustness", {"qualities": (90, 0)}, "jpeg:0"),
        ("robustness", {"sigmas": (-1.0,)}, "blur:-1"),
        ("robustness", {"ks": (2,)}, "k is 2"),
        ("generalisation", {"ks": (0,)}, "k is 0"),
        ("neighbours", {"count": 0}, "count is 0"),
    ],
)
def test_options_that_cannot_be_are_said_before_anything_is_embedded(
    name: str, options: dict[str, object], says: str, folder: Path, tmp_path: Path, toy: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(type(toy), "embed", lambda self, crops: pytest.fail("an image was embedded"))
    with pytest.raises((UsageError, DataError), match=says):
        study(folder, tmp_path / "cache").run(name, tmp_path / "out", options)


def test_classes_without_nearest_neighbours(folder: Path, cache: Path, tmp_path: Path) -> None:
    study(folder, cache).run("classes", tmp_path / "out", {"counts": (1,), "ks": ()})
    assert_report(tmp_path / "out", "classes")


@pytest.mark.parametrize(
    ("problem", "said"), [(MissingExtraError("it needs more"), "it needs more"), (MemoryError(), "not enough memory")]
)
def test_a_picture_that_this_machine_cannot_decode_is_a_failure(
    problem: Exception, said: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("univfd.study.features.decode", broken)
    data = study(folder, cache).readable
    (failure,) = pictures(data, np.array([0]), "clean", Work(workers=1))
    assert isinstance(failure, Failure)
    assert said in failure.message
    monkeypatch.setattr("univfd.training.pictures.decode", broken)
    seen = Pictures(data.samples[:1], workers=1)
    assert list(seen.crops([0], lambda i, p: p)) == []
    assert said in seen.failures[0].message


def test_an_experiment_without_an_encoder_offers_nothing_of_it() -> None:
    text = CliRunner().invoke(group, ["study", "spectra", "--help"]).output
    assert "--workers" in text
    assert "--max-pixels" in text
    assert "--batch-size" not in text
    assert "--threads" not in text
