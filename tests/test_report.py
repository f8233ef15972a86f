"""The HTML report: its numbers, and that nothing in it but its own markup is markup."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

from conftest import encoded, picture, toy_samples
from score_rows import HOSTILE, hostile_run, write_run
from univfd.backbones import Backbone
from univfd.benchmark.figures import figures
from univfd.benchmark.rows import Scores, read_rows
from univfd.benchmark.run import KIND, MANIFEST, SCHEMA, SCORES, run
from univfd.cli import group
from univfd.cli._shared import samples_of
from univfd.datasets import open_dataset
from univfd.detector import Detector
from univfd.downloads import sha256_of
from univfd.embedding import space_of
from univfd.errors import MissingExtraError, UnknownNameError
from univfd.metrics import Absent, Estimate
from univfd.palette import COLOURS
from univfd.projection import project
from univfd.report import curves, drawings, feature_map, grids, pictures
from univfd.report.page import Source, page
from univfd.report.svg import inline
from univfd.spectra import SIDE, by_frequency, residual_spectrum
from univfd.storage import read_json
from univfd.types import ImageRef, Label, Sample
from univfd.views import view
from univfd.writers import printable

ROUNDS = 20
OWN = set(
    re.findall(
        r"\w+",
        "html head meta link title style body header main nav section h1 h2 h3 ul li a dl div dt dd p b i strong small "
        "span code table caption thead tbody tr th td details summary figure figcaption img "
        "svg desc g defs clippath path rect use text",
    )
)
VOID = {"meta", "link", "img"}


class Read(HTMLParser):
    """Elements with their attributes, and the text, of a page; notices what is not closed as it was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def values(self, name: str, tag: str = "") -> list[str]:
        return [a[name] for t, a in self.elements if name in a and tag in {"", t}]


def source_of(folder: Path, samples: Iterable[Sample] | Callable[[], Iterable[Sample]] | None = None) -> Source:
    scores = read_rows(folder / SCORES)
    manifest = read_json(folder / MANIFEST, KIND, SCHEMA)
    again = samples if samples is None or callable(samples) else lambda: samples
    return Source(manifest, scores, figures(scores, rounds=ROUNDS), ROUNDS, sha256_of(folder / SCORES), again)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture(scope="module")
def scores(made_up: Path) -> Scores:
    return read_rows(made_up / SCORES)


@pytest.fixture(scope="module")
def html(made_up: Path) -> str:
    return page(source_of(made_up, lambda: samples_of("made up", None, (), False)))  # there is no such data set


# Curves


def test_roc_and_precision_are_the_shares_at_every_threshold(scores: Scores) -> None:
    cell = scores.cells[0]
    fake, score = scores.images.fake[cell.judged], cell.score[cell.judged]
    roc, pr = curves.roc(cell, scores.images), curves.precision_recall(cell, scores.images)
    assert roc is not None
    assert pr is not None
    thresholds = [*sorted(score), np.inf]
    alarms = [((score >= t) & ~fake).sum() / (~fake).sum() for t in thresholds]
    found = [((score >= t) & fake).sum() / fake.sum() for t in thresholds]
    assert set(zip(roc.x, roc.y, strict=True)) <= set(zip(alarms, found, strict=True))
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(np.trapezoid(found[::-1], alarms[::-1]), abs=1e-12)
    points = {(((score >= t) & fake).sum() / fake.sum(), fake[score >= t].mean()) for t in sorted(score)} | {(0.0, 1.0)}
    assert set(zip(pr.x, pr.y, strict=True)) <= points
    assert (roc.n_fake, roc.n_real) == (int(fake.sum()), int((~fake).sum()))


def test_risk_is_of_the_most_confident(scores: Scores) -> None:
    for cell in scores.cells:
        fake, score = scores.images.fake[cell.judged], cell.score[cell.judged]
        curve = curves.risk_coverage(cell, scores.images)
        assert curve is not None
        wrong = ((score > 0) != fake)[np.argsort(-np.abs(score))]
        for x, y in zip(curve.x, curve.y, strict=True):
            kept = x * len(wrong)
            whole = int(kept)
            partly = wrong[whole] * (kept - whole) if whole < len(wrong) else 0
            assert y == pytest.approx((wrong[:whole].sum() + partly) / kept, abs=1e-9)


def test_reliability_counts_every_judged_image_once(scores: Scores) -> None:
    cell = scores.cells[0]
    bins = curves.reliability(cell, scores.images)
    assert cell.probability is not None
    chance, fake = cell.probability[cell.judged], scores.images.fake[cell.judged]
    assert sum(b.fakes.n for b in bins) == len(chance)
    for b in bins:
        tenth = np.floor(b.probability * 10)
        inside = np.floor(chance * 10) == tenth
        assert b.fakes.n == inside.sum()
        assert b.fakes.value == pytest.approx(fake[inside].mean())
        assert b.fakes.low < b.fakes.value < b.fakes.high or b.fakes.value in {0, 1}
    assert curves.reliability(scores.cells[1], scores.images) == []


def test_a_long_curve_is_thinned_and_stays_the_same_line() -> None:
    x = np.linspace(0, 1, 50_000)
    y = np.sqrt(x)
    few_x, few_y = curves.thinned(x, y)
    assert len(few_x) <= curves.POINTS
    assert (few_x[0], few_x[-1]) == (0, 1)
    assert np.abs(np.interp(x, few_x, few_y) - y).max() < 0.003
    assert curves.thinned(x[:9], y[:9])[0] is not x
    assert len(curves.thinned(x[:9], y[:9])[0]) == 9


def test_one_class_alone_has_no_curve(tmp_path: Path, scores: Scores) -> None:
    cell = scores.cells[0]
    for label in (True, False):
        judged = cell.judged & (scores.images.fake == label)
        alone = type(cell)(**{**vars(cell), "judged": judged})
        assert curves.roc(alone, scores.images) is None
        assert curves.precision_recall(alone, scores.images) is None


# Tables


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[("auroc", 0.3, 0), ("auroc", 0.5, 0), ("auroc", 0.75, 5), ("auroc", 1.0, 10), ("recall", 0.5, 5)],
        *[("false_alarms", 0.0, 10), ("false_alarms", 0.15, 5), ("false_alarms", 0.9, 0), ("misses", 1.0, 0)],
    ],
)
def test_a_shade_runs_from_bad_to_good(name: str, value: float, expected: int) -> None:
    assert grids.shade(name, value) == expected


def test_drawings_have_the_colours_of_all_drawings() -> None:
    css = (Path(grids.__file__).parent / "style.css").read_text()
    light = css[: css.index("@media")]
    assert tuple(re.findall(r"--series-\d: (#[0-9a-f]{6})", light)) == COLOURS


@pytest.mark.parametrize("dark", [False, True])
def test_every_shade_can_be_read(dark: bool) -> None:
    css = (Path(grids.__file__).parent / "style.css").read_text()
    css = css[css.index(".h0 {") :]
    css = css[css.index("@media") :] if dark else css[: css.index("@media")]
    found = re.findall(r"\.h(\d+) \{ background: #([0-9a-f]{6}); color: #([0-9a-f]{3}); \}", css)
    assert [int(n) for n, _, _ in found] == list(range(grids.SHADES))

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    backgrounds = [light(background) for _, background, _ in found]
    assert backgrounds == sorted(backgrounds, reverse=dark)  # so that it can be read in grey, too
    for (_, _, text), behind in zip(found, backgrounds, strict=True):
        high, low = sorted([light("".join(c * 2 for c in text)), behind], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_cell_says_value_interval_and_n() -> None:
    assert grids.box("auroc", Estimate(0.8814, 0.8, 0.9, 1200)) == grids.Box("0.881", "0.800–0.900", "n 1,200", "", 8)
    assert grids.box("recall", Estimate(0.5, 0.4, 0.6, 9)) == grids.Box("50.0 %", "40.0–60.0", "n 9", "", 5)
    alone = grids.box("auroc", Estimate(1.0, np.nan, np.nan, 3))
    assert (alone.text, alone.interval) == ("1.000", "")
    assert grids.box("auroc", Absent("no fake was judged")) == grids.Box("—", reason="no fake was judged")


def test_the_main_table_holds_the_figures(made_up: Path) -> None:
    source = source_of(made_up)
    grid = grids.main(source.figures)
    cells = {(c.detector, c.perturbation): c for c in source.figures}
    assert [row.heads for rows in grid.bodies for row in rows] == sorted(cells)
    assert sum(span for _, span in grid.groups) == len(grid.head)
    for row in (row for rows in grid.bodies for row in rows):
        c = cells[row.heads]  # type: ignore[index]
        assert len(row.boxes) == len(grid.head)
        assert row.boxes[1] == grids.box("auroc", c.means["auroc"])
        assert row.boxes[7] == grids.box("false_alarms", c.overall.figures["false_alarms"])
        assert [b.text for b in row.boxes[-4:-1]] == [str(c.overall.n_fake), str(c.overall.n_real), str(sum(c.failed))]


def test_generators_come_hardest_first_and_many_cells_are_split(made_up: Path, tmp_path: Path) -> None:
    source = source_of(made_up)
    (grid,) = grids.generators(source.figures)
    assert [row.heads[0] for row in grid.bodies[0]] == ["gamma", "beta", "alpha"]
    assert grid.groups == (("first", 2), ("second", 2))
    assert grid.head == ("clean", "jpeg:60") * 2
    first = next(c for c in source.figures if (c.detector, c.perturbation) == ("first", "jpeg:60"))
    gamma = next(p for p in first.generators if p.name == "gamma")
    assert grid.bodies[0][0].boxes[1].text == grids.box("auroc", gamma.figures["auroc"]).text
    assert grid.bodies[0][0].boxes[1].n == f"n {gamma.n_fake} + {gamma.n_real}"
    many = source_of(write_run(tmp_path / "many", n=60, perturbations=[f"jpeg:{q}" for q in range(60, 67)]))
    assert [g.groups for g in grids.sources(many.figures)] == [(("first", 7),), (("second", 7),)]


# The page


def test_nothing_but_its_own_markup_is_markup(tmp_path: Path) -> None:
    html = page(source_of(hostile_run(tmp_path / "run")))
    read = Read(html)
    assert {tag for tag, _ in read.elements} <= OWN
    assert read.elements.count(("style", {})) == 1
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert "url(" not in attributes.get("style", "")
        assert re.fullmatch(r"url\(#[\w-]+\)", attributes.get("clip-path", "url(#a)"))
    assert "192.0.2.1" not in "".join(re.findall(r"<style>.*?</style>", html, re.S))
    for name in HOSTILE[:-1]:
        assert printable(name) in read.text  # as text, whole
    assert not {c for c in html if not c.isprintable()} - {"\n"}


def test_every_reference_within_the_page_is_answered(html: str) -> None:
    read = Read(html)
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    inner = [v[1:] for v in read.values("href") if v.startswith("#")]
    inner += re.findall(r"url\(#([^)]+)\)", " ".join(read.values("clip-path")))
    inner += [*read.values("aria-labelledby"), *read.values("aria-describedby")]
    assert len(inner) > 50
    assert set(inner) <= set(ids)


def test_it_says_what_was_run_and_of_how_many(html: str, made_up: Path) -> None:
    text = " ".join(Read(html).text.split())
    for said in ("made up", "240: 120 fake, 120 real", "first@", "jpeg:60", "960, of them 20 failed"):
        assert said in text
    assert f"{ROUNDS} redrawn sets" in text
    assert sha256_of(made_up / SCORES) in text
    read = Read(html)
    assert sum(tag == "caption" for tag, _ in read.elements) == sum(tag == "table" for tag, _ in read.elements) > 5
    for tag, attributes in read.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            for name, least in (("labelledby", 2), ("describedby", 30)):
                (said,) = re.findall(rf'<[a-z]+ id="{attributes[f"aria-{name}"]}">([^<]*)<', html)
                assert len(said) > least
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    drawn = [c for c in captions if "<span>" not in c]
    assert len(drawn) == sum(tag == "svg" for tag, _ in read.elements) == 12
    assert all(re.search(r"\d", c) for c in drawn)
    assert "115 fakes and 120 reals" in drawn[0]


def test_what_is_missing_is_said(html: str) -> None:
    text = " ".join(Read(html).text.split())
    assert "24 of 24 pictures are not shown: the data set cannot be read again: " in text
    assert "None: the run does not say in which feature spaces its detectors look." in text
    assert "None: the data set cannot be read again: " in text
    assert text.count("bench report --data DATA says where") == 2


def test_it_needs_no_script_and_forbids_all(html: str) -> None:
    assert "<script" not in html
    policy = Read(html).values("content", "meta")[0]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "http://" not in html
    assert "https://" not in html


def test_the_same_run_gives_the_same_bytes_in_another_process(made_up: Path, html: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "univfd", "bench", "report", made_up, "-o", tmp_path / "tables", "--html",
         tmp_path / "page.html", "--rounds", str(ROUNDS)],
        env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"page -> {tmp_path / 'page.html'}" in done.stderr
    assert (tmp_path / "page.html").read_text("utf-8") == html


@pytest.mark.parametrize("label", ["fake", "real"])
def test_a_run_of_one_class_has_a_page(tmp_path: Path, label: str) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder = write_run(tmp_path / "run", n=40, detectors=("first",), perturbations=("clean",))
    table = pq.read_table(folder / SCORES)
    pq.write_table(table.filter(pc.equal(table["label"], label)), folder / SCORES)
    text = " ".join(Read(page(source_of(folder))).text.split())
    assert ("The run has no real images." if label == "fake" else "The run has no fakes.") in text
    assert f"no {'real' if label == 'fake' else 'fake'} was judged" in text


# Pictures


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory, toy_detector: Detector) -> Path:
    """A run with real files in `data` and embeddings in `cache` beside it."""
    folder = tmp_path_factory.mktemp("pictured")
    (folder / "data").mkdir()
    rows = []
    for i, sample in enumerate(toy_samples()):
        (folder / "data" / f"{i}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
        row = {"file": f"{i}.png", "label": sample.label.word, "generator": sample.generator, "source": sample.source}
        rows.append(json.dumps(row))
    (folder / "data" / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    samples = list(open_dataset(folder / "data"))
    run(samples, [toy_detector], folder / "run", data=str(folder / "data"), cache=folder / "cache")
    return folder


def test_worst_cases_are_shown_from_the_files_of_the_run(pictured: Path) -> None:
    samples = list(open_dataset(pictured / "data"))
    source = source_of(pictured / "run", samples)
    (cell,) = source.scores.cells
    reals, fakes = pictures.worst_cases(cell, source.scores.images, 3)
    fake = source.scores.images.fake
    assert [c.score for c in reals] == sorted(cell.score[~fake], reverse=True)[:3]
    assert [c.score for c in fakes] == sorted(cell.score[fake])[:3]
    read = Read(page(source, thumbnails=3, spectra=False, maps=()))
    shown = read.values("src", "img")
    assert len(shown) == 6
    assert read.values("alt", "img") == [c.image for c in (*reals, *fakes)]
    first = Image.open(io.BytesIO(base64.b64decode(shown[0].removeprefix("data:image/jpeg;base64,"))))
    wanted = Image.open(reals[0].image).convert("RGB").resize(first.size, Image.Resampling.LANCZOS)
    assert max(first.size) == pictures.THUMBNAIL
    assert np.abs(np.asarray(first, float) - np.asarray(wanted, float)).mean() < 8
    assert Read(page(source, thumbnails=0, spectra=False, maps=())).values("src", "img") == []


def test_a_picture_that_is_gone_or_changed_is_not_shown(pictured: Path, tmp_path: Path) -> None:
    samples = list(open_dataset(pictured / "data"))
    source = source_of(pictured / "run", samples)
    (cell,) = source.scores.cells
    (worst, _, _), _ = pictures.worst_cases(cell, source.scores.images, 3)
    others = [s for s in samples if s.ref.name != worst.image]
    (tmp_path / "changed.png").write_bytes(encoded(picture(99), "PNG"))
    changed = Sample(ImageRef(worst.image, tmp_path / "changed.png"), Label.REAL)
    for now in (others, [*others, changed]):
        html = page(source_of(pictured / "run", now), thumbnails=3, spectra=False, maps=())
        assert len(Read(html).values("src", "img")) == 5
        assert "1 of 6 pictures are not shown: not found again, or changed since the run" in html


def test_a_thumbnail_has_no_metadata() -> None:
    data = pictures.thumbnail(picture(1, 900, 300))
    image = Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2])))
    assert image.size == (160, 53)
    assert not image.getexif()
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


# Feature maps


def test_maps_show_the_cached_embeddings(pictured: Path) -> None:
    source = source_of(pictured / "run")
    html = page(source, cache=pictured / "cache", thumbnails=0)
    assert "PCA of 48 images under clean in the feature space of toy" in html
    assert "t-SNE of 48 images" in html
    assert "n: real 24, g0 6, g1 6, g2 6, g3 6." in html
    assert page(source, cache=pictured / "cache", thumbnails=0) == html
    without = page(source, cache=pictured / "elsewhere", thumbnails=0)
    assert "the embeddings of this run are not in the cache" in without


def test_hostile_names_are_text_on_a_map(tmp_path: Path, toy: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "\u202egnp \x07\x1b[2J\x00<b>"
    run = write_run(tmp_path / "run", n=40, generators=(hostile, "b"), families=())
    images = source_of(run).scores.images
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    monkeypatch.setattr(feature_map, "cached", lambda *_: (np.arange(40), vectors))
    space = space_of(toy, view("native"))
    (drawn,) = drawings.feature_maps(space, [hostile], "clean", images, None, ("pca",), lambda: "a")
    text = "".join(ElementTree.fromstring(drawn.svg).itertext())  # it can be parsed
    assert printable(hostile) in text
    assert f"of {printable(hostile)} (" in drawn.caption
    assert all(c.isprintable() or c == "\n" for c in drawn.svg + drawn.caption)


def test_pca_is_the_plane_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(200, 2)) * [9, 4]
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    vectors = np.concatenate([plane, rng.normal(size=(200, 6)) * 0.1], axis=1) @ turn.T + 3
    (found,) = project(vectors.astype(np.float32), ["pca"])
    centred = plane - plane.mean(axis=0)
    for axis in (0, 1):
        assert abs(np.corrcoef(found.places[:, axis], centred[:, axis])[0, 1]) > 0.99 - 0.1 * axis
    distances = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (found.places, plane)]
    assert np.abs(distances[0] - distances[1]).max() < 1.0


def test_a_map_takes_from_every_generator_and_source(pictured: Path) -> None:
    source = source_of(pictured / "run")
    (space,) = source.spaces
    images = source.scores.images
    rows, vectors = feature_map.cached(space, "clean", images, pictured / "cache", limit=20)
    assert vectors.shape == (20, space.dim)
    origins = [images.columns["generator" if images.fake[r] else "source"][r] for r in rows]
    assert {origins.count(o) for o in (*(f"g{i}" for i in range(4)), *(f"s{i}" for i in range(6)))} == {2}
    again, whole = feature_map.cached(space, "clean", images, pictured / "cache")
    assert np.array_equal(vectors, whole[np.isin(again, rows)])


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch, pictured: Path) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    source = source_of(pictured / "run")
    with pytest.raises(MissingExtraError, match=r"umap.*univfd\[umap\]"):
        page(source, maps=("umap",), cache=pictured / "cache", thumbnails=0)

    class UMAP:
        def __init__(self, *, n_neighbors: int, random_state: int, n_jobs: int) -> None:
            assert (n_neighbors, random_state, n_jobs) == (15, 0, 1)

        def fit_transform(self, values: Any) -> Any:
            return values[:, :2]

    module = ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    assert "UMAP of 48 images" in page(source, maps=("umap",), cache=pictured / "cache", thumbnails=0)
    with pytest.raises(UnknownNameError, match="Did you mean pca"):
        page(source, maps=("pac",))


# Spectra


def test_a_spectrum_shows_a_grid() -> None:
    pixels = picture(3, 300, 280)
    plain = residual_spectrum(pixels)
    pixels[::4, ::4] = np.clip(pixels[::4, ::4].astype(int) + 60, 0, 255)
    grid = residual_spectrum(pixels)
    assert plain is not None
    assert grid is not None
    assert grid.shape == (SIDE, SIDE)
    middle, step = SIDE // 2, SIDE // 4
    peaks = [(middle + a * step, middle + b * step) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    assert all(grid[p] > 17 + np.median(grid) for p in peaks)  # dB
    assert not any(plain[p] > 17 + np.median(plain) for p in peaks)
    assert residual_spectrum(pixels[: SIDE - 1]) is None


def test_rings_average_the_spectrum() -> None:
    assert by_frequency(np.full((SIDE, SIDE), 7.0)).tolist() == pytest.approx([7.0] * (SIDE // 2 + 1))
    power = np.zeros((SIDE, SIDE))
    power[SIDE // 2, SIDE // 2 + 40] = 1.0
    assert np.flatnonzero(by_frequency(power)).tolist() == [40]


def test_spectra_are_means_over_the_images_found(tmp_path: Path, toy_detector: Detector) -> None:
    rows = []
    for i in range(12):
        fake = i % 2 == 1
        side = 100 if i == 11 else 200  # too small
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i, side, side), "PNG"))
        rows.append({"file": f"{i}.png", "label": "fake" if fake else "real", "generator": f"g{i % 4}" if fake else ""})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    samples = list(open_dataset(tmp_path))
    run(samples, [toy_detector], tmp_path / "run", data="here", cache=tmp_path / "cache")
    source = source_of(tmp_path / "run", samples)
    images = source.scores.images
    of = pictures.kinds(images, source.scores.cells[0].judged)
    places = pictures.find((row for rows in of.values() for row in rows), images, samples)
    found = pictures.spectra(of, images, places, "clean", 10**9)
    assert [(s.name, s.n) for s in found] == [("all reals", 6), ("g1", 3), ("g3", 2)]
    g3 = [np.asarray(Image.open(tmp_path / f"{i}.png")) for i in (3, 7)]
    assert found[2].mean == pytest.approx(np.mean([residual_spectrum(p) for p in g3], axis=0))
    html = page(source, thumbnails=0, maps=())
    assert len(Read(html).values("src", "img")) == 3
    assert "n: all reals 6, g1 3, g3 2." in html
    gone = page(source_of(tmp_path / "run", []), thumbnails=0, maps=())
    assert "None: not found again, or changed since the run. Spectra are made of the images" in Read(gone).text
    assert Read(page(source, spectra=False, thumbnails=0, maps=())).text.count("Not asked for.") == 3


# Drawings


def test_only_shapes_and_text_of_a_drawing_are_kept() -> None:
    class Hostile(Figure):
        def savefig(self, out: Any, **_: Any) -> None:
            out.write(
                b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="a()">'
                b"<style>@import 'http://192.0.2.1'</style><script>a()</script><metadata>m</metadata>"
                b'<foreignObject><b>x</b></foreignObject><image xlink:href="http://192.0.2.1/x.png"/>'
                b'<a href="http://192.0.2.1"><text>linked</text></a>'
                b'<defs><path id="p" d="M 0 0.123456 L 1 1"/></defs>'
                b'<g id="g"><use xlink:href="#p" x="1.000" style="fill: #000001; cursor: url(http://192.0.2.1)"/>'
                b'<use xlink:href="http://192.0.2.1#p"/><path d="M 0 0" clip-path="url(http://192.0.2.1)"/>'
                b'<text style="font: 9px \'DejaVu Sans\'; fill: #000010" onclick="a()">&lt;b&gt;</text></g></svg>'
            )

    made = inline(Hostile(), prefix="z-", title="<i>", label='a "label" <b>')
    assert made == (
        '<svg role="img" aria-labelledby="z-title" aria-describedby="z-desc"><title id="z-title">&lt;i&gt;</title>'
        '<desc id="z-desc">a "label" &lt;b&gt;</desc><defs><path id="z-p" d="M 0 0.12 L 1 1" /></defs>'
        '<g><use href="#z-p" x="1" style="fill:var(--ink)" /><use /><path d="M 0 0" />'
        '<text style="font-size:9px;fill:var(--series-0)">&lt;b&gt;</text></g></svg>'
    )


# The command


def test_a_report_is_never_overwritten(made_up: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    arguments = ["bench", "report", str(made_up), "-o", str(tmp_path / "t"), "--html", str(target), "--rounds", "2"]
    obj = {"quiet": False}
    first = CliRunner().invoke(group, arguments, obj=obj, catch_exceptions=False)
    assert first.exit_code == 0
    before = target.read_bytes()
    again = CliRunner().invoke(group, arguments, obj=obj, catch_exceptions=False)
    assert "is this very page already" in again.output
    other = CliRunner().invoke(group, [*arguments, "--thumbnails", "1"], obj=obj)
    assert "holds something else; results are never overwritten" in str(other.exception)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "t"]


def test_without_the_extra_the_tables_are_still_to_be_had(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    arguments = ["bench", "report", str(made_up), "-o", str(tmp_path / "t"), "--rounds", "2"]
    refused = CliRunner().invoke(group, arguments)
    assert isinstance(refused.exception, MissingExtraError)
    assert "univfd[report]" in str(refused.exception)
    assert not (tmp_path / "t").exists()
    assert CliRunner().invoke(group, [*arguments, "--no-html"]).exit_code == 0
    assert (tmp_path / "t" / "main.md").is_file()
