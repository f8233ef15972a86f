"""The patch probe and its maps: arithmetic, coverage, the real encoder on a composite, files of the command line."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import encoded, picture
from univfd import heatmap, samples
from univfd.backbones import Backbone, PatchBackbone, feature_space, open_backbone
from univfd.cli._explaining import Explaining
from univfd.cli._heatmaps import _stem, beyond_maps
from univfd.detector import Detector, load
from univfd.errors import (
    DataError,
    FeatureSpaceError,
    FileAccessError,
    FormatError,
    InputError,
    UnknownNameError,
    UsageError,
)
from univfd.heatmap import CAPTION, MAX_TILES, HeatMap, heat_map
from univfd.patch_probe import PatchProbe, fit_patch_probe, patch_scatter
from univfd.sources import expand
from univfd.types import FeatureSpace, ImageRef, Label

BLOCK = 3


def with_grid(pixels: np.ndarray) -> np.ndarray:
    """A visible checkerboard, as the traces of an upsampler, laid on a picture."""
    rough = pixels.astype(int)
    rough[::2, ::2] += 24
    rough[1::2, 1::2] -= 24
    return np.clip(rough, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder() -> Backbone:
    return open_backbone("clip-vit-b-16", taps=(f"mean.{BLOCK}",))


@pytest.fixture(scope="module")
def probe(encoder: Backbone) -> PatchProbe:
    clean = np.stack([picture(i, 224, 224) for i in range(8)])
    crops = np.concatenate([clean, np.stack([with_grid(p) for p in clean])])
    assert isinstance(encoder, PatchBackbone)
    return fit_patch_probe(
        encoder.embed(crops), np.repeat([0, 1], 8), scatter=patch_scatter(encoder.patch_tokens(crops, BLOCK)),
        space=feature_space(encoder.entry, encoder.taps, "native"), data="checkerboards",
    )  # fmt: skip


@pytest.fixture(scope="module")
def real(default: Detector, probe: PatchProbe) -> Detector:
    return replace(default, patch_probe=probe)


@pytest.fixture(scope="module")
def toy_mapped(toy_detector: Detector) -> Detector:
    space = feature_space(toy_detector.backbone.entry, ("mean.1",), "native")
    return replace(
        toy_detector, patch_probe=PatchProbe(space, np.linspace(-1, 1, 48).astype(np.float32), 0.25, "nothing")
    )


def test_the_mean_of_the_patch_tokens_is_the_tap(encoder: Backbone) -> None:
    crops = np.stack([picture(i, 224, 224) for i in range(3)])
    assert isinstance(encoder, PatchBackbone)
    tokens = encoder.patch_tokens(crops, BLOCK)
    assert (tokens.shape, tokens.dtype) == ((3, 14, 14, 768), np.float32)
    np.testing.assert_allclose(tokens.mean(axis=(1, 2)), encoder.embed(crops), atol=1e-5)


def test_patches_are_in_the_order_of_the_picture(encoder: Backbone) -> None:
    """What changes in one cell changes that patch's token most, after the first block."""
    assert isinstance(encoder, PatchBackbone)
    crop = picture(0, 224, 224)[None]
    other = crop.copy()
    other[0, 3 * 16 : 4 * 16, 10 * 16 : 11 * 16] ^= 255
    moved = np.abs(encoder.patch_tokens(other, 1) - encoder.patch_tokens(crop, 1)).sum(axis=-1)[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (3, 10)


def test_unknown_blocks_and_wrong_crops_are_refused(encoder: Backbone) -> None:
    assert isinstance(encoder, PatchBackbone)
    with pytest.raises(UnknownNameError):
        encoder.patch_tokens(np.zeros((1, 224, 224, 3), np.uint8), 13)
    with pytest.raises(UsageError, match="expected"):
        encoder.patch_tokens(np.zeros((1, 200, 224, 3), np.uint8), 1)


def test_the_map_of_one_tile_is_the_decomposition_of_the_score(encoder: Backbone, real: Detector) -> None:
    pixels = picture(5, 224, 224)
    found = heat_map(real, pixels)
    assert found.scores.shape == (14, 14)
    assert real.patch_probe is not None
    whole = encoder.embed(pixels[None])[0].astype(np.float64) @ real.patch_probe.coef + real.patch_probe.intercept
    assert found.scores.mean() == pytest.approx(whole, abs=1e-3)


def test_a_visible_grid_in_a_smooth_picture_scores_higher_inside(real: Detector) -> None:
    pixels = picture(40, 416, 320)
    pixels[96:224, 192:336] = with_grid(picture(41, 416, 320))[96:224, 192:336]
    scores = heat_map(real, encoded(pixels, "PNG")).scores
    assert scores.shape == (20, 26)
    inside = np.zeros(scores.shape, bool)
    inside[6:14, 12:21] = True
    assert scores[inside].mean() > scores[~inside].mean() + 1
    assert (scores[inside][:, None] > scores[~inside][None]).mean() > 0.8


def test_generated_images_in_photographs_score_higher_inside_and_photographs_do_not(default: Detector) -> None:
    """The shipped probe on pictures that it was not trained on; the model card has the figures on many more."""
    images = samples.fetch()
    reals, fakes = ([i for i in images if i.label is label] for label in Label)
    inside = slice(80, 240), slice(80, 240)
    excess = {}
    for kind, pasted in (("fake", fakes), ("control", reals[1:] + reals[:1])):
        excess[kind] = []
        for i, image in enumerate(pasted):
            pixels = square(reals[i % len(reals)].path, 336).copy()
            pixels[inside] = square(image.path, 160)
            scores = heat_map(default, encoded(pixels, quality=90)).scores
            assert scores.shape == (21, 21)
            mask = np.zeros(scores.shape, bool)
            mask[5:15, 5:15] = True
            excess[kind].append(float(scores[mask].mean() - scores[~mask].mean()))
    assert sum(e > 0 for e in excess["fake"]) >= 5
    assert np.mean(excess["fake"]) > 1
    assert np.mean(excess["fake"]) > np.mean(excess["control"]) + 1


def square(path: Path, side: int) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("h", "w"),
    [(1, 1), (224, 224), (100, 90), (300, 500), (3000, 4000), (448, 1904), (448, 2100), (100_000, 3), (9, 4000)],
)
def test_at_most_48_tiles_cover_the_whole_picture(h: int, w: int) -> None:
    sides = heatmap._working_size(h, w, 224)
    assert 224 <= min(sides) <= 448
    places = [heatmap._offsets(side, 224) for side in sides]
    assert len(places[0]) * len(places[1]) <= MAX_TILES
    for side, starts in zip(sides, places, strict=True):
        assert starts[0] == 0
        assert starts[-1] == side - 224
        assert all(0 < b - a <= 112 for a, b in pairwise(starts))


def test_small_pictures_keep_their_pixels_and_large_ones_are_reduced() -> None:
    assert heatmap._working_size(300, 500, 224) == (300, 500)
    assert heatmap._working_size(3000, 4000, 224) == (448, 597)
    assert heatmap._working_size(112, 224, 224) == (224, 448)


def test_overlapping_tiles_are_averaged_against_a_slow_reference() -> None:
    places = [(0, 0), (0, 112), (0, 140)]
    grids = [np.random.default_rng(i).normal(size=(14, 14)).astype(np.float32) for i in range(3)]
    got = heatmap._joined(grids, places, (224, 364), 224)
    assert got.shape == (14, 23)
    for row in range(14):
        for column in range(23):
            x = (column + 0.5) * 364 / 23
            seen = [
                g[row, int((x - left) // 16)]
                for g, (_, left) in zip(grids, places, strict=True)
                if left <= x < left + 224
            ]
            assert got[row, column] == pytest.approx(np.mean(seen), abs=1e-6)


def test_the_colour_scale_is_fixed_and_symmetric() -> None:
    scores = np.array([[-99.0, -heatmap.RANGE, 0.0, heatmap.RANGE, 99.0]], np.float32)
    colours = heatmap._coloured(scores)[0].tolist()
    assert colours[0] == colours[1] == [33, 102, 172]
    assert colours[2] == [247, 247, 247]
    assert colours[3] == colours[4] == [178, 24, 43]
    flat = np.repeat(np.array([[-99.0, 0.0, 99.0]], np.float32), 3, axis=1)
    over = HeatMap(flat, np.zeros((10, 90, 3), np.uint8), 1, "d").overlay()
    assert (over.shape, over.dtype) == ((10, 90, 3), np.uint8)
    np.testing.assert_allclose(over[5, [15, 45, 75]], np.array(colours)[[0, 2, 4]] / 2, atol=1)
    red = HeatMap(flat * 0, np.full((10, 90, 3), (255, 0, 0), np.uint8), 1, "d").overlay()
    assert (red == red[..., :1]).all(), "the picture is in grey: all colour is the map's"


def test_a_drawn_cell_is_the_mean_of_itself_and_its_neighbours() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    smoothed = HeatMap(scores, np.zeros((4, 5, 3), np.uint8), 1, "d").smoothed
    for y in range(4):
        for x in range(5):
            near = scores[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            assert smoothed[y, x] == pytest.approx(near.mean(), abs=1e-6)


def test_a_large_picture_is_let_go() -> None:
    kept = heatmap.reduced(picture(0, 4096, 30), open_backbone("toy").entry.preprocess)
    assert kept.shown.shape == (8, 1024, 3)
    assert max(kept.working.nbytes, kept.shown.nbytes) < 6_000_000
    assert kept.working.base is None or kept.working.base.nbytes == kept.working.nbytes


def test_the_png_says_what_it_is(toy_mapped: Detector) -> None:
    pixels = picture(0)
    image = Image.open(io.BytesIO(heat_map(toy_mapped, pixels).png()))
    assert image.text["Description"] == CAPTION == "Where the score of the patch probe comes from; not what was edited"
    assert toy_mapped.identity in image.text["Comment"]
    sheet = np.asarray(image)
    assert sheet.shape[0] > 256
    assert sheet.shape[1] >= 320
    np.testing.assert_array_equal(sheet[:256, :320], heat_map(toy_mapped, pixels).overlay())
    below = sheet[256:]
    assert (below.min(axis=2) < 64).any(), "no caption"
    assert {tuple(c) for c in below.reshape(-1, 3)} >= {(33, 102, 172), (178, 24, 43)}, "no colour scale"


def test_a_probe_is_kept_in_the_detectors_folder(toy_detector: Detector, toy_mapped: Detector, tmp_path: Path) -> None:
    toy_mapped.save(tmp_path / "with")
    toy_detector.save(tmp_path / "without")
    again = load(tmp_path / "with")
    np.testing.assert_array_equal(heat_map(again, picture(1)).scores, heat_map(toy_mapped, picture(1)).scores)
    assert again.identity == toy_detector.identity  # no verdict depends on the probe
    assert load(tmp_path / "without").patch_probe is None
    assert not (tmp_path / "without" / "patch_probe.safetensors").exists()
    manifest = json.loads((tmp_path / "with" / "detector.json").read_text())
    record = manifest["patch_probe"]
    assert (record["data"], record["space"]["taps"]) == ("nothing", ["mean.1"])
    for broken, words in [
        ({"data": "nothing"}, "needs a feature space"),
        (record | {"space": record["space"] | {"taps": ["proj"]}}, "expected one, mean.i"),
        (record | {"space": record["space"] | {"dim": 3}}, r"needs \(3,\)"),
    ]:
        (tmp_path / "with" / "detector.json").write_text(json.dumps(manifest | {"patch_probe": broken}))
        with pytest.raises(FormatError, match=words):
            load(tmp_path / "with")
    other = record | {"space": record["space"] | {"weights": "1" * 64}}
    (tmp_path / "with" / "detector.json").write_text(json.dumps(manifest | {"patch_probe": other}))
    with pytest.raises(FeatureSpaceError, match="the detector's patch probe"):
        load(tmp_path / "with")


def test_what_a_map_cannot_be_made_of(toy_detector: Detector, toy_mapped: Detector) -> None:
    with pytest.raises(UsageError, match="no patch probe"):
        heat_map(toy_detector, picture(0))
    with pytest.raises(UsageError, match="several"):
        heat_map(toy_mapped, [picture(0), picture(1)])
    with pytest.raises(InputError):
        heat_map(toy_mapped, b"")
    with pytest.raises(UsageError, match="does not show its patches"):
        heat_map(replace(toy_mapped, backbone=WithoutPatches(toy_mapped.backbone)), picture(0))


class WithoutPatches:
    """An encoder that only embeds."""

    def __init__(self, inner: Backbone) -> None:
        self.entry, self.taps, self.embed = inner.entry, inner.taps, inner.embed


def drawn(n: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Mean patches of 4 values with their labels, and the rest that a fit takes."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    means = rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) + labels[:, None] * [1, 0.5, 0, 0]
    space = FeatureSpace("toy", "", ("mean.1",), "native", "0" * 16, 4)
    return means.astype(np.float32), labels, {"scatter": np.diag([9.0, 1, 1, 1]), "space": space, "data": ""}


def test_the_probe_is_the_discriminant_of_scikit_learn_where_patches_do_not_scatter() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    means, labels, options = drawn(200)
    probe = fit_patch_probe(means, labels, **options | {"scatter": np.zeros((4, 4))}, shrinkage=1e-12)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5]).fit(means.astype(float), labels)
    np.testing.assert_allclose(probe.scores(means), theirs.decision_function(means), rtol=1e-4, atol=1e-4)


def test_features_that_scatter_among_patches_count_less_the_smaller_the_region() -> None:
    means, labels, options = drawn(200)
    weight = [abs(fit_patch_probe(means, labels, **options, region=n).coef[0]) for n in (1, 10, 100)]
    assert weight[0] < weight[1] < weight[2]


def test_the_scatter_is_the_covariance_within_each_crop() -> None:
    tokens = np.random.default_rng(0).normal(size=(3, 2, 2, 5)).astype(np.float32)
    expected = np.mean([np.cov(crop.reshape(4, 5), rowvar=False, bias=True) for crop in tokens], axis=0)
    np.testing.assert_allclose(patch_scatter(tokens + np.arange(3)[:, None, None, None]), expected, atol=1e-5)


def test_groups_weigh_the_same_and_bad_data_are_refused() -> None:
    means, labels, options = drawn(60)
    groups = np.where(np.arange(60) < 10, "a", "b")
    once = fit_patch_probe(means, labels, groups, **options)
    again = np.arange(60) < 10  # the small group twice over: the same weight in sum
    twice = fit_patch_probe(*(np.concatenate([x, x[again]]) for x in (means, labels, groups)), **options)
    np.testing.assert_allclose(once.coef, twice.coef, rtol=1e-5)
    assert np.abs(once.coef - fit_patch_probe(means, labels, **options).coef).max() > 0.01
    with pytest.raises(DataError):
        fit_patch_probe(means, np.ones(60), **options)
    with pytest.raises(DataError, match="3 groups"):
        fit_patch_probe(means, labels, ["a"] * 3, **options)
    with pytest.raises(DataError, match="scatter of shape"):
        fit_patch_probe(means, labels, **options | {"scatter": np.eye(3)})


def univfd(*args: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "univfd", *map(str, args)], capture_output=True, check=False)


def test_the_command_writes_a_map_an_image_and_overwrites_none(toy_mapped: Detector, tmp_path: Path) -> None:
    toy_mapped.save(tmp_path / "d")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b?.jpg").write_bytes(encoded(picture(0)))
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    (tmp_path / "in" / "c.png").write_bytes(encoded(picture(1), "PNG"))
    maps = tmp_path / "new" / "maps"
    result = univfd("detect", tmp_path / "in", "--detector", tmp_path / "d", "--jsonl", "--heatmap", maps)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert result.returncode == 3
    first = {p.name: p.read_bytes() for p in maps.iterdir()}
    assert sorted(first) == [f"a_b-{rows[0]['sha256'][:8]}.png", f"c-{rows[2]['sha256'][:8]}.png"]
    for data in first.values():
        assert Image.open(io.BytesIO(data)).text["Description"] == CAPTION

    output = tmp_path / "rows.csv"
    again = univfd("detect", tmp_path / "in" / "c.png", "--detector", tmp_path / "d", "-o", output, "--heatmap", maps)
    assert (again.returncode, output.exists()) == (0, True)
    assert {p.name for p in maps.iterdir()} - set(first) == {f"c-{rows[2]['sha256'][:8]}-2.png"}
    assert all((maps / name).read_bytes() == data for name, data in first.items())


def test_maps_among_the_images_are_not_judged(toy_mapped: Detector, tmp_path: Path) -> None:
    """Neither those that the run itself writes while it walks, nor those of the run before."""
    toy_mapped.save(tmp_path / "d")
    (tmp_path / "in" / "maps").mkdir(parents=True)
    for i in range(6):
        (tmp_path / "in" / f"{i}.png").write_bytes(encoded(picture(i), "PNG"))
    (tmp_path / "in" / "maps" / "own.png").write_bytes(encoded(picture(6), "PNG"))
    maps = tmp_path / "in" / "maps"
    command = ("detect", tmp_path / "in", "--detector", tmp_path / "d", "--jsonl", "--batch-size", 1)
    for _ in range(2):
        result = univfd(*command, "--heatmap", maps)
        names = [Path(json.loads(line)["image"]).name for line in result.stdout.splitlines()]
        assert names == [*(f"{i}.png" for i in range(6)), "own.png"]
    assert f"heat maps in {maps}: no input" in result.stderr.decode()
    # The maps of another folder are pictures like any other.
    assert len(list(beyond_maps([tmp_path / "in"], tmp_path / "in"))) == 7 + 14


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("secret/a.b.png", "a.b"),
        ("secret/photo", "photo"),
        ("secret/.hidden", "hidden"),
        ("secret\\12", "12"),
        ("secret/shard.parquet/12", "shard.parquet_12"),
        ("secret/x.tar/deep/a", "a"),
        ("a?", "a"),
        ("secret/?", "image"),
    ],
)
def test_a_map_s_name_has_no_folder_in_it(name: str, stem: str) -> None:
    assert _stem(name, "0123456789") == f"{stem}-01234567"


def test_the_page_of_evidence_has_the_maps(toy_mapped: Detector, tmp_path: Path) -> None:
    toy_mapped.save(tmp_path / "d")
    (tmp_path / "in").mkdir()
    pictures = {"a.png": picture(0), "b.png": picture(1), "copy of b.png": picture(1)}
    for name, pixels in pictures.items():
        (tmp_path / "in" / name).write_bytes(encoded(pixels, "PNG"))
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    command = ("detect", tmp_path / "in", "--detector", tmp_path / "d", "--explain-html")
    univfd(*command, tmp_path / "page.html", "--heatmap", tmp_path / "maps")
    univfd(*command, tmp_path / "without.html")
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="heat map', (tmp_path / "page.html").read_text())
    maps = {path.name[0]: path for path in (tmp_path / "maps").iterdir()}
    assert len(shown) == 3
    for name, address in zip("abc", shown, strict=True):
        small = Image.open(io.BytesIO(base64.b64decode(address)))
        whole = Image.open(maps[name]).convert("RGB").resize(small.size)
        assert max(small.size) <= 320
        assert np.abs(np.asarray(small, int) - np.asarray(whole, int)).mean() < 6
    assert shown[1] == shown[2] != shown[0]
    assert "not what was edited" in (tmp_path / "page.html").read_text()
    assert "heat map" not in (tmp_path / "without.html").read_text()


def test_what_a_service_sends_in_place_of_a_map_is_not_shown(tmp_path: Path) -> None:
    page = Explaining(tmp_path / "p.html")
    for png in (b"", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"x" * 100):
        page.keep_map("a", "b", png)
        assert page._of({"image": "a", "sha256": "b"}).heat_map == ""
    page.keep_map("a", "b", encoded(picture(0), "PNG"))
    assert page._of({"image": "a", "sha256": "b"}).heat_map.startswith("data:image/jpeg;base64,")
    assert page._of({"image": "a", "sha256": "b"}).heat_map == ""


def test_the_command_says_what_stands_in_the_way(
    toy_detector: Detector, toy_mapped: Detector, photo: Path, tmp_path: Path
) -> None:
    toy_detector.save(tmp_path / "without")
    toy_mapped.save(tmp_path / "with")
    result = univfd("detect", photo, "--detector", tmp_path / "without", "--heatmap", tmp_path / "maps")
    assert result.returncode == 2
    assert b"no patch probe" in result.stderr
    assert not (tmp_path / "maps").exists()
    result = univfd("detect", photo, "--detector", tmp_path / "with", "--heatmap", photo)
    assert result.returncode == 2
    assert b"cannot be written" in result.stderr


def test_a_map_that_cannot_be_written_is_named_and_the_row_stays(
    toy_mapped: Detector, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from univfd.cli._heatmaps import HeatMaps

    maps = HeatMaps(toy_mapped, tmp_path / "maps")
    (tmp_path / "maps").rmdir()
    (verdict,) = maps.beside(partial(toy_mapped.detect))(expand(photo))
    assert verdict.image
    assert maps.failed == 1
    assert "no heat map of" in capsys.readouterr().err


def test_the_map_is_of_the_very_pixels_that_were_judged(toy_mapped: Detector, tmp_path: Path) -> None:
    """Inputs that can be read once only, some of the same name, some broken: each map is its own image's."""
    from univfd.cli._heatmaps import HeatMaps

    refs = [ImageRef("x.png", encoded(picture(i), "PNG") if i % 3 else b"broken") for i in range(9)]
    maps = HeatMaps(toy_mapped, tmp_path / "maps")
    items = list(maps.beside(partial(toy_mapped.detect, batch_size=2, workers=3))(iter(refs)))
    assert [item.to_dict()["status"] for item in items] == ["failed", "ok", "ok"] * 3
    assert maps.failed == 0
    assert len(list((tmp_path / "maps").iterdir())) == 6
    for i in (1, 2, 4, 5, 7, 8):
        written = np.asarray(Image.open(tmp_path / "maps" / f"x-{items[i].sha256[:8]}.png"))
        np.testing.assert_array_equal(written[:256, :320], heat_map(toy_mapped, picture(i)).overlay())
    assert not maps._kept


def test_an_image_that_cannot_be_reached_is_named(toy_mapped: Detector, tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=r"none\.png: no such file"):
        heat_map(toy_mapped, tmp_path / "none.png")
