from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import univfd
from conftest import encoded, picture, random_bank, toy_samples
from univfd import samples, selftest
from univfd.backbones import Backbone, open_backbone
from univfd.bank import FeatureBank
from univfd.building import Built, assemble, build_bank, fit_detector
from univfd.calibration import Calibration
from univfd.detector import Detector, load
from univfd.detector_folder import locate, shipped
from univfd.embedding import embed_images
from univfd.errors import (
    DataError,
    FeatureSpaceError,
    FormatError,
    OutputExistsError,
    UnivFDError,
    UnknownNameError,
    UsageError,
)
from univfd.official import official
from univfd.types import Failure, ImageRef, Label, Verdict
from univfd.views import view

SHIPPED_MAX_BYTES = 8_000_000


def verdicts(items: object) -> list[Verdict]:
    found = list(items)  # type: ignore[call-overload]
    assert all(isinstance(v, Verdict) for v in found), found
    return found


def test_the_line_finds_what_the_toy_was_made_for(toy_detector: Detector) -> None:
    refs = [s.ref for s in toy_samples()]
    found = verdicts(toy_detector.detect(refs))
    assert [v.image for v in found] == [r.name for r in refs]
    assert [v.verdict for v in found] == [s.label.word for s in toy_samples()]


def test_one_row_per_input_in_order(toy_detector: Detector, tmp_path: Path) -> None:
    good = encoded(picture(0), "PNG")
    inputs = [good, b"", "/nonexistent.jpg", good[:500], b"text", good]
    got = list(toy_detector.detect(inputs, batch_size=4))
    assert [type(g).__name__ for g in got] == ["Verdict", "Failure", "Failure", "Failure", "Failure", "Verdict"]
    assert [g.error for g in got if isinstance(g, Failure)] == ["empty", "access", "truncated", "not-an-image"]
    assert got[0].score == got[5].score


def test_a_batch_of_another_space_is_refused(toy_detector: Detector) -> None:
    images = [encoded(picture(0))]
    (batch,) = embed_images(toy_detector.backbone, view("resize"), images)
    with pytest.raises(FeatureSpaceError, match=r"the images.*resize"):
        toy_detector.judge(batch)
    (batch,) = embed_images(toy_detector.backbone, toy_detector.view, images)
    assert len(toy_detector.judge(batch)) == 1


def test_a_lossy_engine_may_read_for_a_detector_of_float32(toy_detector: Detector) -> None:
    near = copy(toy_detector.backbone)
    near.entry = replace(near.entry, lossy="bf16")
    lossy = replace(toy_detector, backbone=near)
    assert (toy_detector.lossy, lossy.lossy) == ("", "bf16")
    assert lossy.space == toy_detector.space == toy_detector.reads != lossy.reads
    image = encoded(picture(900, 240, 240))
    (exact,), (found,) = verdicts(toy_detector.detect(image)), verdicts(lossy.detect(image))
    assert found.space == lossy.reads.digest != exact.space
    (batch,) = embed_images(toy_detector.backbone, toy_detector.view, [image])
    assert lossy.judge(batch)[0].score == exact.score  # vectors of float32 out of a cache
    made_so = replace(toy_detector, backbone=near, bank=replace(toy_detector.bank, space=lossy.reads))
    assert made_so.lossy == ""


def test_a_file_of_the_bank_is_called_one(toy_detector: Detector) -> None:
    (known, new) = verdicts(toy_detector.detect([toy_samples()[1].ref, encoded(picture(900, 240, 240))]))
    assert [r.code for r in known.remarks] == ["in-bank"]
    assert known.notes == ("this very file is in the bank, as fake: the promise is about new ones",)
    assert known.nearest_fake[0].key == known.sha256
    assert "in-bank" not in [r.code for r in new.remarks]
    (pixels,) = verdicts(toy_detector.detect(picture(1, 240, 240)))  # no file, so no checksum to compare
    assert pixels.remarks == ()


def test_nothing_in_nothing_out(toy_detector: Detector) -> None:
    assert list(toy_detector.detect([])) == []
    assert [type(r) for r in toy_detector.detect([b"", b""])] == [Failure, Failure]


def test_verdicts_come_before_all_inputs_are_taken(toy_detector: Detector) -> None:
    """A stream of any length is worked on in bounded memory."""
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield encoded(picture(taken % 3, 64, 64))

    stream = toy_detector.detect(endless(), batch_size=2, workers=2)
    for _ in range(10):
        next(stream)
    assert taken <= 10 + 2 * 2 + 2 + 2


def test_a_verdict_names_its_evidence(default: Detector) -> None:
    (photo, *_) = samples.fetch()
    (verdict,) = verdicts(default.detect(photo.path, neighbors=3))
    assert len(verdict.nearest_fake) == len(verdict.nearest_real) == 3
    for near in (*verdict.nearest_fake, *verdict.nearest_real):
        assert default.bank.key(near.row) == near.key
        assert default.bank.source[near.row] == near.source
    assert [n.label for n in verdict.nearest_fake] == [Label.FAKE] * 3
    assert all(n.generator for n in verdict.nearest_fake)
    distances = [n.distance for n in verdict.nearest_real]
    assert distances == sorted(distances)
    assert verdict.sha256 == univfd_sha256(photo.path)
    assert (verdict.width, verdict.height, verdict.format) == (1280, 960, "JPEG")
    assert verdict.detector.startswith("default@")
    assert 0 < verdict.probability < 1
    json.dumps(verdict.to_dict())


def univfd_sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_score_is_the_same_single_in_a_batch_and_from_any_kind_of_input(default: Detector) -> None:
    paths = [image.path for image in samples.fetch()][:5]
    batch = [v.score for v in verdicts(default.detect(paths, batch_size=5))]
    single = [v.score for p in paths for v in verdicts(default.detect(p, batch_size=1))]
    raw = [v.score for v in verdicts(default.detect([p.read_bytes() for p in paths], batch_size=2))]
    np.testing.assert_allclose(single, batch, atol=1e-3)
    np.testing.assert_allclose(raw, batch, atol=1e-3)


def test_the_default_detector_orders_the_demo_images(default: Detector) -> None:
    """Photographs and generated images that it has never seen: better than chance, not perfect."""
    images = samples.fetch()
    scores = np.array([v.score for v in verdicts(default.detect([i.path for i in images]))])
    labels = np.array([i.label for i in images])
    pairs = scores[labels == 1][:, None] > scores[labels == 0][None]
    assert pairs.mean() > 0.6


def test_the_demo_images_are_not_in_the_bank(default: Detector) -> None:
    keys = {default.bank.key(i) for i in range(len(default.bank))}
    assert not keys & {univfd_sha256(i.path) for i in samples.fetch()}


def test_what_is_shipped(default: Detector) -> None:
    assert shipped() == ["default", "fast", "neighbors"]
    folder = locate("default")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < SHIPPED_MAX_BYTES
    assert default.calibration.max_fpr == 0.05
    tokens = ("cls.6", "cls.7", "cls.8", "cls.9", "cls.10")
    assert default.space.taps == (*tokens, "mlp.8")
    neighbors = load("neighbors", backbone=default.bank_backbone)
    assert neighbors.space.taps == default.bank.space.taps == tokens
    assert neighbors.bank.digest == default.bank.digest
    assert neighbors.identity != default.identity
    fast = load("fast")
    assert fast.space.taps == ("cls.5", "cls.6", "cls.7", "cls.8@6", "cls.9@6", "cls.10@6")
    assert fast.bank.space == fast.space
    np.testing.assert_array_equal(fast.bank.keys, default.bank.keys)
    assert [d for d in shipped() if (locate(d) / "bank").exists()] == ["default", "fast"]


@pytest.mark.parametrize("name", ["default", "fast", "neighbors"])
def test_the_self_test_passes(name: str, default: Detector) -> None:
    checks = list(selftest.selftest(default if name == "default" else load(name)))
    assert [c.name for c in checks] == ["weights", "parity", "batch", "score"]
    assert all(c.passed for c in checks), checks


class Broken:
    """An encoder whose features depend on the batch, as dynamically quantised graphs' do."""

    def __init__(self, inner: Backbone) -> None:
        self.inner, self.entry, self.taps = inner, inner.entry, inner.taps

    def embed(self, crops: np.ndarray) -> np.ndarray:
        out = self.inner.embed(crops)
        return out + 0.05 * np.abs(out).max() * len(crops) * np.random.default_rng(0).standard_normal(out.shape[1])


def test_the_self_test_notices_a_broken_encoder(default: Detector) -> None:
    broken = replace(default, backbone=Broken(default.backbone))  # type: ignore[arg-type]
    failed = {c.name for c in selftest.selftest(broken) if not c.passed}
    assert failed == {"parity", "batch", "score"}


@pytest.mark.parametrize("classifier", ["linear", "knn"])
def test_save_and_load_give_the_same_verdicts(classifier: str, toy: Backbone, tmp_path: Path) -> None:
    built = build_bank(toy, view("native"), toy_samples(), added="2026-01-01")
    made = fit_detector("mine", toy, view("native"), built, classifier, {}, max_fpr=0.1, max_miss=0.1)
    made.save(tmp_path / "mine", card="# card")
    again = load(tmp_path / "mine")
    assert again.identity == made.identity
    refs = [s.ref for s in toy_samples()]
    assert [v.score for v in verdicts(made.detect(refs))] == [v.score for v in verdicts(again.detect(refs))]
    with pytest.raises(OutputExistsError):
        made.save(tmp_path / "mine")


def test_the_identity_changes_with_all_that_a_verdict_depends_on(toy_detector: Detector) -> None:
    others = [
        toy_detector,
        replace(toy_detector, calibration=Calibration(1.0, 0.0)),
        replace(toy_detector, bank=toy_detector.bank.remove([0])),
        replace(toy_detector, name="other"),
        replace(toy_detector, classifier=type(toy_detector.classifier).from_bank(toy_detector.bank, {"C": 1.0})),
    ]
    assert len({d.identity for d in others}) == 5


def test_a_bank_of_another_space_is_refused(toy_detector: Detector) -> None:
    with pytest.raises(FeatureSpaceError, match="the detector's bank"):
        replace(toy_detector, view=view("resize"))
    with pytest.raises(FeatureSpaceError):
        replace(toy_detector, bank=random_bank(4))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.pop("space"), "lacks 'space'"),
        (lambda m: m.update(schema=3), "schema 3"),
        (lambda m: m["classifier"].pop("name"), "needs a name"),
        (lambda m: m["space"].pop("dim"), "cannot be read"),
        (lambda m: m["calibration"].update(colour=1), "cannot be read"),
        (lambda m: m["classifier"]["params"].update(colour=1), "cannot be restored"),
    ],
)
def test_damaged_manifests(toy_detector: Detector, tmp_path: Path, spoil: object, message: str) -> None:
    toy_detector.save(tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "detector.json").read_text())
    spoil(manifest)  # type: ignore[operator]
    (tmp_path / "d" / "detector.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "d")


def test_a_detector_made_with_another_encoder_is_refused(toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "d")
    for file in (tmp_path / "d" / "detector.json", tmp_path / "d" / "bank" / "bank.json"):
        manifest = json.loads(file.read_text())
        manifest["space"]["preprocessing"] = "f" * 16
        file.write_text(json.dumps(manifest))
    with pytest.raises(FeatureSpaceError, match="preprocessing"):
        load(tmp_path / "d")


def test_unknown_detectors_and_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean default"):
        load("defualt")
    with pytest.raises(FormatError, match=r"no detector\.json"):
        load(tmp_path)


def test_a_missing_bank_is_an_error_not_a_guess(toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "bank")
    with pytest.raises(FormatError, match=r"bank\.json"):
        load(tmp_path / "d")


def test_an_unreadable_image_is_left_out_of_a_bank_and_named(toy: Backbone) -> None:
    data = toy_samples()[:4]
    data[1] = replace(data[1], ref=ImageRef("broken", b"xx"))
    built = build_bank(toy, view("native"), data, added="2026-01-01")
    assert [f.image for f in built.failures] == ["broken"]
    assert built.bank.labels.tolist() == [0, 0, 1]
    assert built.bank.source.tolist() == [data[0].source, data[2].source, data[3].source]
    with pytest.raises(DataError, match="none of 1"):
        build_bank(toy, view("native"), data[1:2], added="2026-01-01")


def test_too_little_data_to_promise_anything(toy: Backbone, toy_detector: Detector) -> None:
    built = Built(toy_detector.bank, ("",) * 48, ())
    with pytest.raises(DataError, match="too few to promise"):
        fit_detector("mine", toy, view("native"), built, "linear", {}, max_fpr=0.01)


def three_times(bank: FeatureBank, **columns: np.ndarray) -> FeatureBank:
    rows = np.repeat(np.arange(len(bank)), 3)
    names = ("vectors", "labels", "keys", "generator", "source", "licence", "added")
    return replace(bank, **{name: getattr(bank, name)[rows] for name in names} | columns)


def test_copies_carry_a_promise_once(toy: Backbone, toy_detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    built = Built(three_times(toy_detector.bank), ("",) * 144, ())
    with pytest.raises(DataError, match="24 images are too few to promise"):  # 72 would do
        fit_detector("mine", toy, view("native"), built, "linear", {}, max_fpr=0.05, max_miss=0.1)
    made = fit_detector("mine", toy, view("native"), built, "linear", {}, max_fpr=0.1, max_miss=0.1)
    assert (made.calibration.n_real, made.calibration.n_fake) == (24, 24)
    assert "groups" not in caplog.text


def test_a_promise_on_images_in_groups_is_remarked_upon(
    toy: Backbone, toy_detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    keys = np.random.default_rng(0).integers(0, 256, (144, 32), np.uint8)
    groups = tuple(f"{i}" for i in np.repeat(np.arange(48), 3))
    built = Built(three_times(toy_detector.bank, keys=keys), groups, ())
    made = fit_detector("mine", toy, view("native"), built, "linear", {}, max_fpr=0.05, max_miss=0.1)
    assert made.calibration.max_fpr
    assert "72 real images are of 24 groups" in made.calibration.data, "whoever gets the detector reads it too"
    assert "72 real images are of 24 groups: a promise takes images as independent" in caplog.text
    assert "72 fake images are of 24 groups" in caplog.text
    assert made.calibration.caveat("real").startswith("72 real images are of 24 groups: a promise takes")
    assert made.calibration.caveat("fake").startswith("72 fake images are of 24 groups: a promise takes")
    assert not replace(made.calibration, data="leave-one-generator-out scores").caveat("real")


def official_file(path: Path, dim: int) -> Path:
    from test_classifiers import PICKLED, torch_file

    pickled = PICKLED.replace(b"K\x04", b"K" + bytes([dim]))
    weight = np.linspace(-1, 1, dim, dtype="<f4")
    return torch_file(path, "fc_weights", pickled, {"0": weight.tobytes(), "1": np.array([0.5], "<f4").tobytes()})


def test_the_official_head_takes_the_same_line(toy: Backbone, tmp_path: Path) -> None:
    detector = official(official_file(tmp_path / "fc.pth", 48), backbone=toy)
    pixels = picture(3)
    (verdict,) = verdicts(detector.detect(pixels))
    feature = toy.embed(view("native").cut(pixels, toy.entry.preprocess).pixels)[0].astype(np.float64)
    expected = feature @ np.linspace(-1, 1, 48, dtype="<f4").astype(np.float64) + 0.5
    assert verdict.score == pytest.approx(expected, abs=1e-5)
    assert verdict.verdict == ("fake" if expected > 0 else "real")
    assert verdict.nearest_fake == verdict.nearest_real == ()
    detector.save(tmp_path / "official")
    assert load(tmp_path / "official").identity == detector.identity


def test_an_encoder_that_does_not_fit_the_head(toy: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the head has 32 weights; toy gives 48 values"):
        official(official_file(tmp_path / "fc.pth", 32), backbone=toy)


def test_perturbed_images_are_judged_as_perturbed(toy_detector: Detector) -> None:
    pixels = picture(0)
    from univfd.perturbations import perturbation

    (direct,) = verdicts(toy_detector.detect(perturbation("jpeg:30")(pixels)))
    (through,) = verdicts(toy_detector.detect(pixels, perturb="jpeg:30"))
    (clean,) = verdicts(toy_detector.detect(pixels))
    assert direct.score == through.score != clean.score


def test_several_crops_are_pooled(toy: Backbone) -> None:
    from univfd.embedding import embed_images

    pixels = picture(1, 500, 400)
    (batch,) = embed_images(toy, view("five"), [pixels])
    crops = view("five").cut(pixels, toy.entry.preprocess).pixels
    np.testing.assert_allclose(batch.embeddings.vectors[0], toy.embed(crops).mean(axis=0), rtol=1e-5)
    assert batch.embeddings.space.view == "five"


def test_the_public_names() -> None:
    assert univfd.__all__ == sorted(univfd.__all__)
    for name in univfd.__all__:
        assert getattr(univfd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        univfd.lod  # noqa: B018
    assert open_backbone("toy").embed(np.zeros((1, 224, 224, 3), np.uint8)).shape == (1, 48)


BACKBONE_TOML = """
name = "tiny"
title = "a small CLIP"
engine = "onnx"
recipe = "clip-safetensors"
sha256 = "{sha256}"
licence = "none"
blocks = 3
width = 32
prefix = 1
proj = 24
[preprocess]
size = 28
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[recipe_options]
heads = 4
patch = 14
activation = "quick_gelu"
[[source]]
kind = "hub"
repo = "someone/tiny-clip"
revision = "{revision}"
file = "model.safetensors"
bytes = {size}
"""


def test_the_papers_detector_from_a_hub_to_a_verdict(
    loopback: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small network of the architecture of ViT-L/14 on a stand-in hub, a head from a file, one line, another cwd."""
    import test_weights

    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", loopback(test_weights.hub(test_weights.TINY)))
    (tmp_path / "tiny").mkdir()
    text = BACKBONE_TOML.format(sha256=test_weights.SHA, revision=test_weights.REVISION, size=test_weights.HUB.bytes)
    (tmp_path / "tiny" / "backbone.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    encoder = open_backbone("tiny")
    detector = official(official_file(tmp_path / "fc.pth", 24), backbone=encoder)
    assert detector.name.startswith("head-")  # not the published file
    pixels = picture(0)
    (verdict,) = verdicts(detector.detect(pixels))
    crop = pixels[114:142, 146:174].astype(np.float32).transpose(2, 0, 1)[None] / 255
    feature = encoder.embed_normalised(crop)[0].astype(np.float64)  # type: ignore[attr-defined]
    assert verdict.score == pytest.approx(float(feature @ np.linspace(-1, 1, 24, dtype="<f4") + 0.5), abs=1e-4)
    detector.save(tmp_path / "saved")
    monkeypatch.chdir("/")
    assert load(tmp_path / "saved").identity == detector.identity


def test_a_folder_does_not_shadow_a_shipped_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "backbone.toml").write_text("nonsense")
    monkeypatch.chdir(tmp_path)
    assert open_backbone("toy").entry.folder is None


def test_an_image_that_a_perturbation_cannot_take_is_a_row(toy_detector: Detector) -> None:
    wide = np.zeros((2, 20_000, 3), np.uint8)
    first, second = toy_detector.detect([wide, picture(0)], perturb="webp:80")
    assert isinstance(first, Failure)
    assert first.error == "unsupported"
    assert isinstance(second, Verdict)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"batch_size": -1}, {"workers": 0}])
def test_impossible_batches_are_refused(toy_detector: Detector, option: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        list(toy_detector.detect([picture(0)], **option))  # type: ignore[arg-type]


def test_a_verdict_says_where_everything_in_it_comes_from(toy_detector: Detector) -> None:
    pixels = picture(77, 300, 260)
    (found,) = verdicts(toy_detector.detect(encoded(pixels, "PNG"), neighbors=2))
    assert (found.width, found.height, found.format, found.view) == (300, 260, "PNG", "native")
    assert (found.detector, found.space) == (toy_detector.identity, toy_detector.space.digest)
    assert found.detector.startswith("toy@")
    assert len(found.detector) == len("toy@") + 12
    for label, rows in ((Label.FAKE, found.nearest_fake), (Label.REAL, found.nearest_real)):
        assert [n.label for n in rows] == [label] * 2
        assert [n.key for n in rows] == [toy_detector.bank.key(n.row) for n in rows]
        assert rows[0].distance <= rows[1].distance
    feature = toy_detector.backbone.embed(toy_detector.view.cut(pixels, toy_detector.backbone.entry.preprocess).pixels)
    assert found.score == pytest.approx(float(toy_detector.classifier.decision_function(feature)[0]), abs=1e-6)
    assert toy_detector.score_of_crops(feature).tolist() == pytest.approx([found.score], abs=1e-6)
    assert min(found.timings.load, found.timings.embed, found.timings.decide) > 0
    one, two = verdicts(toy_detector.detect([pixels, pixels], batch_size=2))
    assert one.timings.embed == two.timings.embed  # the batch's, shared out
    assert one.sha256 == one.format == ""
    (usual,) = verdicts(toy_detector.detect(pixels))
    assert (len(usual.nearest_fake), len(usual.nearest_real)) == (1, 1)


def test_a_batch_is_judged_with_the_nearest_row_of_each_class_and_its_time_shared_out(toy_detector: Detector) -> None:
    (batch,) = embed_images(toy_detector.backbone, toy_detector.view, [picture(1), picture(2)])
    one, two = toy_detector.judge(replace(batch, seconds=3.0))
    assert (len(one.nearest_fake), len(one.nearest_real)) == (1, 1)
    assert one.timings.embed == two.timings.embed == 1.5
    assert 0 < one.timings.decide < 1.5


def test_an_encoder_of_ones_own_travels_with_the_detector_where_that_is_asked_for(tmp_path: Path) -> None:
    own = tmp_path / "encoders" / "backbone"  # the name that a carried one has, but not in a detector's folder
    own.mkdir(parents=True, mode=0o700)
    (own / "backbone.toml").write_text((resources.files("univfd.catalogue") / "toy.toml").read_text("utf-8"), "utf-8")
    encoder, cut = open_backbone(own), view("native")
    made = assemble(
        "mine", encoder, cut, build_bank(encoder, cut, toy_samples(), added="2026-01-01").bank, "linear", {}
    )
    made.save(tmp_path / "staying")
    assert not (tmp_path / "staying" / "backbone").exists()
    assert json.loads((tmp_path / "staying" / "detector.json").read_text())["backbone_folder"] == str(own)
    made.save(tmp_path / "carrying", carry_backbone=True)
    assert (tmp_path / "carrying" / "backbone").stat().st_mode & 0o777 == 0o755
    (tmp_path / "carrying").rename(tmp_path / "moved")
    shutil.rmtree(own)
    moved = load(tmp_path / "moved")
    moved.save(tmp_path / "again")  # it was carried, so it goes on being carried
    assert load(tmp_path / "again").identity == moved.identity == made.identity
    with pytest.raises(UnivFDError, match="encoders"):
        load(tmp_path / "staying")


def test_the_bank_may_be_that_of_the_detector_called_default_beside_it(toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "default", card="# about\n", bank_dtype="float16")
    first = load(tmp_path / "default")
    replace(toy_detector, name="two", bank=first.bank).save(tmp_path / "two", bank_of_default=True)
    assert not (tmp_path / "two" / "bank").exists()
    assert not (tmp_path / "two" / "MODEL_CARD.md").exists()
    assert (tmp_path / "default" / "MODEL_CARD.md").read_text() == "# about\n"
    two = load(tmp_path / "two")
    assert first.bank.digest == two.bank.digest
    assert two.name == "two"
    manifest = json.loads((tmp_path / "default" / "detector.json").read_text())
    assert (manifest["kind"], manifest["schema"], manifest["bank"]) == ("detector", 1, "bank")
    assert manifest["classifier"]["name"] == "linear"
    assert "backbone_folder" not in manifest
    assert "patch_probe" not in manifest
    toy_detector.save(tmp_path / "other")
    three = replace(toy_detector, name="three")
    three.save(tmp_path / "three")
    manifest = json.loads((tmp_path / "three" / "detector.json").read_text())
    (tmp_path / "three" / "detector.json").write_text(json.dumps(manifest | {"bank": "../other/bank"}))
    with pytest.raises(FormatError, match="leads out of the detector's folder"):
        load(tmp_path / "three")
    with pytest.raises(UsageError, match="no detector"):
        three.save(tmp_path / "elsewhere" / "four", bank_of_default=True)
    fewer = replace(three, bank=first.bank.take(np.arange(len(first.bank) - 1)))
    with pytest.raises(
        UsageError, match=r"default/bank is another bank \([0-9a-f]{12}\) than that of three \([0-9a-f]{12}\)"
    ):
        fewer.save(tmp_path / "four", bank_of_default=True)
    assert not (tmp_path / "four").exists()


@pytest.mark.parametrize("key", ["name", "space", "classifier", "calibration", "bank"])
def test_a_manifest_that_lacks_something_is_named(key: str, toy_detector: Detector, tmp_path: Path) -> None:
    toy_detector.save(tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "detector.json").read_text())
    for wrong in ({k: v for k, v in manifest.items() if k != key}, manifest | {key: 7}):
        (tmp_path / "d" / "detector.json").write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match=f"lacks '{key}'"):
            load(tmp_path / "d")
    manifest["classifier"] = {"name": "linear", "params": None}
    (tmp_path / "d" / "detector.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="'classifier' needs a name and params"):
        load(tmp_path / "d")


class Lent:
    def __init__(self, bank: object) -> None:
        self.bank = bank

    def deciding(self) -> tuple[object, str]:
        return self.bank, "store@3"


def test_another_bank_changes_what_reads_it_and_nothing_else(toy: Backbone, toy_detector: Detector) -> None:
    pixels = picture(5, 256, 256)
    fewer = toy_detector.bank.take(range(0, len(toy_detector.bank), 3))
    (before,) = verdicts(toy_detector.detect(pixels))
    plain = toy_detector.with_bank(fewer)
    (after,) = verdicts(plain.detect(pixels))
    assert plain.name == "toy"
    assert after.score == before.score  # a linear probe does not look at rows
    assert after.nearest_fake[0].distance >= before.nearest_fake[0].distance
    assert after.nearest_fake[0].row < len(fewer)
    lent = toy_detector.with_bank(Lent(fewer))  # type: ignore[arg-type]
    assert (lent.name, lent.bank) == ("toy+store@3", fewer)
    assert toy_detector.with_bank(Lent(fewer), name="mine").name == "mine"  # type: ignore[arg-type]
    with pytest.raises(FeatureSpaceError, match="the bank: made in another feature space"):
        toy_detector.with_bank(random_bank(4))
    built = Built(toy_detector.bank, ("",) * 48, ())
    neighbors = assemble("nn", toy, view("native"), built.bank, "knn", {})
    with pytest.raises(UsageError, match=r"nn cannot decide with this bank: k=1 needs at least 1 row of each class"):
        neighbors.with_bank(fewer.take(fewer.rows(Label.FAKE)))


def test_the_same_encoder_may_be_lent(toy: Backbone, toy_folder: Path) -> None:
    assert load(toy_folder, backbone=toy).backbone is toy
    assert locate(toy_folder) == toy_folder
    with pytest.raises(UnknownNameError, match="Or give the folder of one"):
        locate("nowhere-at-all")
