"""The line, the service and the statistics at their edges."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from commands import run
from conftest import encoded, picture
from serving import form, serving
from univfd import heatmap, tuning
from univfd.benchmark.compare import matching
from univfd.benchmark.drawing import difference, draw, estimate, mean_over_generators
from univfd.benchmark.groups import everything, groups, redrawing
from univfd.benchmark.rendering import Section, Table, files_of
from univfd.benchmark.rows import Cell, Images
from univfd.building import check_enough
from univfd.cli import group
from univfd.errors import DataError, RateLimitedError, UsageError
from univfd.evaluation import together
from univfd.images import decode
from univfd.metrics import Estimate, proportion, share_difference
from univfd.pipeline import Budget
from univfd.report.plots import short
from univfd.server.limits import RateLimiter
from univfd.server.running import hosts_of
from univfd.study import plots
from univfd.study.data import texts
from univfd.study.plots import shown
from univfd.types import ImageRef, Label, Sample

# -- pictures ----------------------------------------------------------------------------------------------------------


def test_the_tiles_of_a_long_line_are_counted_and_not_listed() -> None:
    tracemalloc.start()
    for shape in ((1, 50_000_000), (50_000_000, 1)):
        assert min(heatmap._working_size(*shape, 224)) == 224
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def png16(colour: int, rows: bytes, clear: bytes, width: int) -> bytes:
    """A PNG of one row with 16 bits a sample and a transparent colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, 1, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress(b"\0" + rows))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    grey = png16(0, struct.pack(">HH", 0x1234, 0x4321), struct.pack(">H", 0x1234), 2)
    assert decode(ImageRef("g", grey)).pixels[0, :, 0].tolist() == [255, 0x43]
    colours = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x4321, 0x5678, 0x9ABC)
    assert decode(ImageRef("c", png16(2, colours, colours[:6], 2))).pixels[0].tolist() == [
        [255, 255, 255],
        [0x43, 0x56, 0x9A],
    ]


def test_what_a_decoder_takes_counts() -> None:
    counted = []
    pixels = picture(0, 64, 64)
    for format, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format, **options)
        decode(ImageRef("x", buffer.getvalue()), on_size=counted.append)
    assert [n // (64 * 64) for n in counted] == [1, 1, 3, 2]


def test_a_cache_that_may_not_be_read_is_as_if_nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refused)
    assert tuning.tuned("toy", "") == tuning.Work()


# -- the command line --------------------------------------------------------------------------------------------------


def test_a_page_in_the_place_of_the_rows_is_refused_before_anything_is_judged(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(0, 240, 240), "PNG"))
    out = tmp_path / "r.jsonl"
    for page in (out, tmp_path / "r.jsonl.partial", tmp_path / "." / "r.jsonl"):
        with pytest.raises(UsageError, match="is the file of the rows"):
            run("detect", tmp_path / "a.png", "--detector", toy_folder, "-o", out, "--explain-html", page)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_an_option_of_a_list_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--null is of --from-file"):
        run("detect", "a.png", "--null")


def test_no_image_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run("embed", tmp_path / "empty", "-o", tmp_path / "out", "--backbone", "toy", code=3)


def test_the_shell_completes_names_of_files() -> None:
    for words in ("univfd detect im", "univfd scan da"):
        env = {"_UNIVFD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
        told = CliRunner().invoke(group, prog_name="univfd", env=env).output
        assert told.splitlines() == [f"file,{words.split()[-1]}"]


# -- the service -------------------------------------------------------------------------------------------------------


def test_images_that_were_not_judged_are_given_back() -> None:
    limiter = RateLimiter(10)
    for _ in range(10):
        limiter.take("ann")
    with pytest.raises(RateLimitedError):
        limiter.take("ann")
    assert limiter.give_back("ann", 4, 9) == pytest.approx(30, abs=0.2)  # five more, at ten a minute
    for _ in range(4):
        limiter.take("ann")
    with pytest.raises(RateLimitedError):
        limiter.take("ann")
    assert limiter.give_back("ann", 0, 99) == pytest.approx(60, abs=0.2)  # there can be ten at most


def test_who_waits_for_much_room_is_not_passed_over() -> None:
    budget, done = Budget(10), threading.Event()

    def small() -> None:
        while not done.is_set():
            with budget.hold(4):
                time.sleep(0.01)

    threads = [threading.Thread(target=small) for _ in range(3)]
    for thread in threads:
        thread.start()
    start = time.monotonic()
    with budget.hold(10):
        waited = time.monotonic() - start
    done.set()
    for thread in threads:
        thread.join()
    assert waited < 5


def test_a_client_that_waits_as_told_gets_its_batch_through(toy_folder: Path) -> None:
    body, headers = form([(f"{i}.png", encoded(picture(i, 64, 64), "PNG")) for i in range(20)])
    with serving("--detector", toy_folder, "--rate", 30, "--max-batch", 30) as server:
        assert server.ask("POST", "/v1/batch", body, headers)[0] == 200
        until = time.monotonic() + 40
        while (answer := server.ask("POST", "/v1/batch", body, headers))[0] != 200:
            assert answer[0] == 429
            assert time.monotonic() < until
            time.sleep(int(answer[1]["retry-after"]))


def test_the_address_that_is_told_is_served() -> None:
    assert "127.0.0.2" in hosts_of("127.0.0.2", (), keys=False)
    assert "[::1]" in hosts_of("::1", (), keys=False)
    assert hosts_of("0.0.0.0", (), keys=False) == ()


def test_a_broken_chunk_is_answered(toy_folder: Path) -> None:
    head = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving("--detector", toy_folder) as server, socket.create_connection((server.host, server.port)) as link:
        link.sendall(head + b"4\r\nabcd\r\n")
        time.sleep(0.2)
        link.sendall(b"zz\r\nabc")
        link.settimeout(20)
        told = b""
        while part := link.recv(4096):
            told += part
        status, _, rest = told.partition(b"\r\n")
        assert status == b"HTTP/1.1 400 Bad Request"
        assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "request"
        assert server.ask("GET", "/healthz")[0] == 200


# -- statistics --------------------------------------------------------------------------------------------------------


Row = tuple[str, str, str, str]


def judged(rows: list[Row], score: np.ndarray) -> tuple[Images, Cell]:
    """Images (name, label, generator, group) and what a detector says of them: fake above 0."""
    columns = dict(zip(("image", "label", "generator", "group"), map(list, zip(*rows, strict=True)), strict=True))
    others = {c: [""] * len(rows) for c in ("family", "source", "subset", "split")}
    images = Images({c: texts(v) for c, v in (columns | others | {"sha256": columns["image"]}).items()})
    said, n = texts(["fake" if s > 0 else "real" for s in score]), len(rows)
    return images, Cell("clean", "d", "d@1", 0.0, 0.0, np.ones(n, bool), score, None, said, np.zeros(n, bool))


def test_the_mean_over_generators_has_an_interval_where_each_group_has_its_own() -> None:
    rng, rows = np.random.default_rng(0), []
    for g in range(12):
        rows += [(f"r{g}{i}", "real", "", f"id{g}") for i in range(5)]
        rows += [(f"f{g}{i}", "fake", f"g{g}", f"id{g}") for i in range(5)]
    images, cell = judged(rows, rng.normal(size=len(rows)) + np.array([label == "fake" for _, label, *_ in rows]))
    about = [everything(images), *groups(images)]
    drawn = draw(cell, images, about, ["auroc"], redrawing(images), rounds=200)
    mean = mean_over_generators(drawn, "auroc", about, cell)
    assert mean.low is not None  # type: ignore[union-attr]
    assert 0.02 < mean.high - mean.low < 0.5  # type: ignore[union-attr]
    assert mean.low < mean.value < mean.high  # type: ignore[union-attr]


def test_the_mean_over_generators_of_one_group_each_has_an_interval_that_covers_the_truth() -> None:
    """Thirty generators, each of ten crops of one picture; whether it is found is the picture's luck, at 69 %."""
    rng = np.random.default_rng(0)
    rows = [(f"f{g}-{i}", "fake", f"g{g}", f"id{g}") for g in range(30) for i in range(10)]
    covered, widths = 0, []
    for _ in range(60):
        images, cell = judged(rows, np.repeat(rng.normal(0.5, 1, 30), 10))
        about = list(groups(images))
        drawn = draw(cell, images, about, ["fake_accuracy_half"], redrawing(images), rounds=200)
        mean = mean_over_generators(drawn, "fake_accuracy_half", about, cell)
        assert isinstance(mean, Estimate)
        covered += mean.low <= 0.6915 <= mean.high
        widths.append(mean.high - mean.low)
    assert covered >= 53
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.6915 * 0.3085 / 30), rel=0.1)


def test_shares_of_images_that_come_in_groups_have_wider_intervals() -> None:
    score = np.repeat(np.random.default_rng(1).random(20) < 0.2, 20) - 0.5
    for places, wider in ((20, True), (400, False)):
        rows = [(f"r{i}", "real", "", f"id{i * places // 400}") for i in range(400)]
        images, cell = judged(rows, score)
        all_of_them = everything(images)
        drawn = draw(cell, images, [all_of_them], ["false_alarms"], redrawing(images), rounds=300)
        found = estimate(drawn, (0, "false_alarms"), all_of_them, cell)
        exact = proportion(int((score > 0).sum()), 400)
        assert isinstance(found, Estimate)
        assert found.value == exact.value
        assert (found.high - found.low > 2 * (exact.high - exact.low)) == wider
        assert (found.low, found.high) == (exact.low, exact.high) or wider


def test_a_share_of_images_of_one_group_and_its_difference_have_no_interval() -> None:
    rows = [(f"r{i}", "real", "", "one") for i in range(60)]
    cells = []
    for wrong in (20, 40):
        images, cell = judged(rows, wrong - 0.5 - np.arange(60))
        cells.append(cell)
    of = everything(images)
    drawn = [draw(c, images, [of], ["false_alarms"], redrawing(images), rounds=50) for c in cells]
    one = estimate(drawn[0], (0, "false_alarms"), of, cells[0])
    both = difference((drawn[0], drawn[1]), (0, "false_alarms"), of, (cells[0], cells[1]))
    for found in (one, both):
        assert isinstance(found, Estimate)
        assert np.isnan([found.low, found.high]).all()


def test_redrawn_sets_without_a_class_have_no_figures_of_both() -> None:
    rows = [(f"{i}", "real" if i % 4 else "fake", "" if i % 4 else "g", f"id{i // 2}") for i in range(8)]
    images, cell = judged(rows, np.arange(8.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw(
            cell, images, [everything(images)], ["auroc", "ap", "accuracy_oracle"], redrawing(images), rounds=300
        )
    lacking = [np.isnan(values) for values in drawn.values.values()]
    assert 0 < lacking[0].sum() < 300
    assert all(np.array_equal(lacking[0], other) for other in lacking)


@pytest.mark.parametrize(("n", "better", "worse"), [(20, 0.98, 0.90), (50, 0.99, 0.97), (100, 0.8, 0.7)])
def test_a_difference_of_shares_is_within_its_interval_though_few_are_wrong(
    n: int, better: float, worse: float
) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        hard = rng.random(n)  # the same images are hard for both
        right = [hard < better, np.where(rng.random(n) < 0.5, hard, rng.random(n)) < worse]
        redrawn = rng.multinomial(n, [1 / n] * n, 200) / n
        both = (proportion(int(r.sum()), n) for r in right)
        found = share_difference(*both, *(redrawn @ r for r in right))
        held += found.low <= better - worse <= found.high
    assert held > 183  # of a true 95 %, hardly ever less; 140 to 165 where differences are redrawn
    same, less = proportion(20, 20), proportion(18, 20)
    assert share_difference(same, same, np.ones(9), np.ones(9)).low < -0.1
    constant = share_difference(same, less, np.full(1000, 1 / 3), np.full(1000, 2 / 3))  # whose std is no exact 0
    assert constant.high - constant.low > 0.2


def test_copies_do_not_narrow_the_interval_of_a_share() -> None:
    once, many = proportion(35, 100), proportion(35 * 8, 800, distinct=1 / 8)
    assert (many.value, many.n) == (once.value, 100)
    assert (many.low, many.high) == pytest.approx((once.low, once.high))
    assert proportion(0, 50, distinct=0.5).high == pytest.approx(proportion(0, 25).high)


def test_equal_files_stay_together() -> None:
    keys = np.zeros((6, 32), np.uint8)
    keys[:, 0] = [1, 2, 1, 3, 4, 5]
    names = together(np.array(["", "a", "b", "b", "", ""], dtype=object), keys)
    assert names[0] == names[2] == names[3] != ""
    assert [names[i] for i in (1, 4, 5)] == ["", "", ""]


def test_sources_that_all_have_everything_are_refused_before_long_work() -> None:
    samples = [
        Sample(ImageRef(f"{i}", b""), label, generator=generator, source=f"s{i % 2}")
        for i in range(100)
        for label, generator in ((Label.REAL, ""), (Label.FAKE, "sd"), (Label.FAKE, "mj"))
    ]
    with pytest.raises(DataError, match="one class alone is left to train on"):
        check_enough(samples)


def test_a_table_called_by_a_family_is_a_file_of_its_folder() -> None:
    made = Table("split-ar/diffusion", "t", (), ("a",), [Section((), [["b"]])])
    assert set(files_of(made)) == {f"split-ar-diffusion.{ending}" for ending in ("md", "tex", "csv")}


def test_no_name_vanishes_from_a_legend() -> None:
    assert not shown("_mine").startswith("_")
    assert not short("_mine").startswith("_")
    assert shown("mine") == short("mine") == "mine"


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    figure, (axes,) = plots.panels()
    plots.curve(axes, [1, 10, 100], [proportion(i, 9) for i in (1, 2, 3)], r"$\frac$", 0)
    axes.set(title=r"$\frac$", xscale="log")
    plots.legend(figure, axes)
    plots.save(figure, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert drawn.count(r"$\frac$<") == 2
    assert r">$\mathdefault" not in drawn  # of the axis; in comments it is


def test_an_image_that_one_run_could_not_read_is_known_by_its_name() -> None:
    def images(*rows: tuple[str, str]) -> Images:
        columns = {"image": [n for n, _ in rows], "sha256": [s for _, s in rows]}
        n = len(rows)
        others = {c: [""] * n for c in ("generator", "family", "source", "group", "subset", "split")}
        return Images({c: texts(v) for c, v in (columns | others | {"label": ["real"] * n}).items()})

    whole = images(("a", "1"), ("b", "2"), ("c", "3"))
    assert matching(whole, images(("c", "3"), ("b", ""), ("a", "1"))).tolist() == [2, 1, 0]
    assert matching(images(("a", ""), ("b", ""), ("c", "3")), whole).tolist() == [0, 1, 2]
    for other in (images(("a", "1"), ("b", "9"), ("c", "3")), images(("a", "1"), ("x", ""), ("c", "3"))):
        with pytest.raises(DataError, match="1 of 3 images of the first are not in the second"):
            matching(whole, other)
