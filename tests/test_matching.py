from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import encoded, picture
from univfd import pairing
from univfd.audit import audit
from univfd.datasets import open_dataset
from univfd.errors import DataError, OutputExistsError, UsageError
from univfd.matching import MOST_SCALE, Encoder, Matched, write_matched
from univfd.metadata import read_metadata
from univfd.pairing import CALIPERS, ENOUGH, GROUP_LIMIT, find_pairs
from univfd.types import ImageRef, Label

FAKE, REAL = Label.FAKE, Label.REAL
images = st.tuples(
    st.sampled_from([FAKE, REAL]),
    st.dictionaries(st.sampled_from([64, 128, 256]), st.integers(1000, 1200), max_size=3),
    st.sampled_from(["", "", "", "a", "b"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(images, max_size=40), st.integers(0, 3))
def test_pairs_are_disjoint_alike_and_as_many_as_the_caliper_allows(
    drawn: list[tuple[Label, dict[int, int], str]], seed: int
) -> None:
    labels, taken, groups = [d[0] for d in drawn], [d[1] for d in drawn], [d[2] for d in drawn]
    pairs, joined = find_pairs(labels, groups, taken, seed=seed)
    used = [i for p in pairs for i in (p.fake, p.real)]
    assert len(used) == len(set(used))
    for p in pairs:
        assert (labels[p.fake], labels[p.real]) == (FAKE, REAL)
        assert abs(np.log(taken[p.fake][p.side]) - np.log(taken[p.real][p.side])) <= CALIPERS[-1]
        assert joined[p.fake] == joined[p.real]
    for name in "ab":
        assert len({j for j, g in zip(joined, groups, strict=True) if g == name}) <= 1
    free = set(range(len(drawn))) - set(used)
    able = [label for label, sides in zip(labels, taken, strict=True) if sides]
    enough = len(pairs) >= ENOUGH * min(able.count(FAKE), able.count(REAL))
    caliper = CALIPERS[0] if enough else CALIPERS[-1]
    for f in (i for i in free if labels[i] is FAKE):
        for r in (i for i in free if labels[i] is REAL):
            for side in taken[f].keys() & taken[r].keys():
                assert abs(np.log(taken[f][side]) - np.log(taken[r][side])) > caliper


def test_the_largest_common_side_comes_first() -> None:
    both = {256: 1000, 128: 400}
    pairs, _ = find_pairs([FAKE, REAL, REAL], [""] * 3, [both, {128: 400}, both])
    assert [(p.fake, p.real, p.side) for p in pairs] == [(0, 2, 256)]
    pairs, _ = find_pairs([FAKE, REAL], [""] * 2, [both, {128: 400}])
    assert [p.side for p in pairs] == [128]


def test_the_seed_decides_who_finds_a_partner() -> None:
    labels = [FAKE] * 20 + [REAL]
    found = [find_pairs(labels, [""] * 21, [{64: 1000}] * 21, seed=s)[0][0].fake for s in range(8)]
    assert found == [find_pairs(labels, [""] * 21, [{64: 1000}] * 21, seed=s)[0][0].fake for s in range(8)]
    assert len(set(found)) > 3


def test_groups_do_not_grow_into_one() -> None:
    """Each fake is of the same input as a real: paired freely, they would soon all hang together."""
    n = 400
    rng = np.random.default_rng(0)
    taken = [{64: int(b)} for b in rng.integers(1000, 1100, 2 * n)]
    pairs, joined = find_pairs([FAKE] * n + [REAL] * n, [f"input {i % n}" for i in range(2 * n)], taken)
    assert max(Counter(joined).values()) <= GROUP_LIMIT
    assert len(pairs) > 0.8 * n


def test_a_big_group_may_pair_with_images_of_no_group() -> None:
    n = 2 * GROUP_LIMIT
    pairs, joined = find_pairs([FAKE] * n + [REAL] * n, ["one person"] * n + [""] * n, [{64: 1000}] * 2 * n)
    assert len(pairs) == n
    assert len(set(joined)) == 1


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_the_encoder_writes_the_central_square_without_marks(format: str) -> None:
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 20:80] = 200  # the central square, and nothing else
    encoder = Encoder(format, None if format == "png" else 90)  # type: ignore[arg-type]
    data = encoder.encode(pixels, 48)
    with Image.open(io.BytesIO(data)) as image:
        got = np.asarray(image.convert("RGB"))
    assert got.shape == (48, 48, 3)
    assert np.abs(got.astype(int) - 200).max() <= 3
    found = read_metadata(ImageRef("x", data))
    assert found.marks == (("JFIF header",) if format == "jpeg" else ())
    assert found.quality == (90 if format == "jpeg" else None)


def test_png_has_no_quality_and_the_others_need_one() -> None:
    for bad in (("png", 90), ("jpeg", None), ("jpeg", 0), ("webp", 101), ("jpeg", True)):
        with pytest.raises(UsageError, match="PNG takes none"):
            Encoder(*bad)  # type: ignore[arg-type]


def noisy(seed: int, side: int, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = picture(seed, side, side).astype(float)
    return np.clip(smooth + rng.normal(0, sigma, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fakes: square PNG, rather smooth. Reals: JPEG of several sizes, rather noisy. And some that do not belong."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(240):
        fake = i % 2 == 0
        pixels = noisy(
            i, 80 if fake else int(rng.integers(80, 120)), rng.uniform(0, 20) if fake else rng.uniform(5, 30)
        )
        if not fake:
            pixels = pixels[:-5]
        origin = f"fake/g{i % 8}" if fake else f"real/s{i % 12}"
        place = root / origin / f"{i:03}.img"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(pixels, "PNG") if fake else encoded(pixels, quality=90))
    (root / "real/s1/tiny.png").write_bytes(encoded(picture(900, 20, 20), "PNG"))
    (root / "real/s1/broken.jpg").write_bytes(encoded(picture(901))[:900])
    again = (root / "fake/g0/000.img").read_bytes()
    (root / "fake/g2/copy.img").write_bytes(again)
    claimed = encoded(picture(902, 90, 90), "PNG")
    (root / "fake/g4/claimed.img").write_bytes(claimed)
    (root / "real/s3/claimed.img").write_bytes(claimed)
    return root


def matched(data: Path, folder: Path, **options: object) -> Matched:
    return write_matched(open_dataset(data), folder, sizes=(32, 48, 64), **options)  # type: ignore[arg-type]


def test_a_matched_list_cannot_be_told_by_metadata(data: Path, tmp_path: Path) -> None:
    raw = audit(open_dataset(data))
    assert raw.verdict == "unfit"
    assert raw.checks[1].auroc.value > 0.95
    made = matched(data, tmp_path / "m", workers=2)
    found = audit(open_dataset(tmp_path / "m"))
    assert found.verdict != "unfit"
    assert all(check.auroc.value <= 0.6 for check in found.checks)
    assert found.fakes == found.reals == made.pairs
    assert made.pairs >= 50

    rows = [json.loads(line) for line in (tmp_path / "m" / "manifest.jsonl").read_text().splitlines()]
    sides = {word: Counter(r["side"] for r in rows if r["label"] == word) for word in ("fake", "real")}
    assert sides["fake"] == sides["real"]
    for row in rows:
        file = tmp_path / "m" / row["file"]
        meta = read_metadata(ImageRef("x", file))
        assert (meta.format, meta.quality, meta.sampling) == ("JPEG", 85, "4:2:0")
        assert (meta.width, meta.height, meta.bytes) == (row["side"], row["side"], row["bytes"])
        assert row["side"] <= MOST_SCALE * row["original"]["short_side"]
    twins = Counter((r["pair"], r["group"]) for r in rows)
    assert set(twins.values()) == {2}


def test_every_image_of_the_collection_is_in_the_list_or_left_out_with_a_reason(data: Path, tmp_path: Path) -> None:
    made = matched(data, tmp_path / "m")
    taken = [s.extra["original"]["image"] for s in open_dataset(tmp_path / "m")]
    left = [json.loads(line) for line in (tmp_path / "m" / "left_out.jsonl").read_text().splitlines()]
    assert sorted(taken + [r["image"] for r in left]) == sorted(s.ref.name for s in open_dataset(data))
    reasons = {Path(r["image"]).name: r["reason"] for r in left if r["reason"] != "no-partner"}
    assert reasons == {
        "tiny.png": "too-small", "broken.jpg": "truncated", "copy.img": "duplicate", "claimed.img": "both-classes",
    }  # fmt: skip
    assert made.unreadable == 1
    record = json.loads((tmp_path / "m" / "match.json").read_text())
    assert record["left_out"] == made.to_dict()["left_out"]
    assert sum(record["left_out"].values()) + 2 * record["pairs"] == 245


def test_a_cell_that_is_no_number_is_none_in_the_list(data: Path, tmp_path: Path) -> None:
    """Other readers of JSON refuse the whole line."""
    odd = {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf")}, "e": "NaN"}
    write_matched((replace(s, extra=odd) for s in open_dataset(data)), tmp_path / "m", sizes=(32, 48, 64))
    rows = (tmp_path / "m" / "manifest.jsonl").read_text().splitlines()
    columns = json.loads(rows[0], parse_constant=pytest.fail)["original"]["columns"]
    assert columns == {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN"}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    matched(data, tmp_path / "a", workers=1)
    matched(data, tmp_path / "b", workers=3)
    matched(data, tmp_path / "c", seed=1)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "c")


def test_what_is_there_is_never_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(OutputExistsError):
        matched(data, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.parametrize("after", [10, 300])
def test_an_interrupted_run_leaves_nothing(data: Path, tmp_path: Path, after: int) -> None:
    done = 0

    def interrupt(n: int) -> None:
        nonlocal done
        done += n
        if done > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        matched(data, tmp_path / "m", on_done=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_simply_started_again(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "univfd", "-q", "audit", str(data), "--match", str(tmp_path / "m")]
    command += ["--size", "32", "--size", "48", "--size", "64"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".m-*/images/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".m-*/images/*"))
    assert not (tmp_path / "m").exists()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 3  # one broken file
    matched(data, tmp_path / "straight")
    assert content(tmp_path / "m") == content(tmp_path / "straight")


def test_a_file_that_changes_meanwhile_stops_the_run(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    for name, held in content(data).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(held)
    count = 0

    def change(n: int) -> None:
        nonlocal count
        count += n
        if count == 245:  # all are measured
            for i, file in enumerate(copy.rglob("*.img")):
                file.write_bytes(encoded(picture(i, 90, 90), "PNG") if i % 2 else b"")

    with pytest.raises(DataError, match="changed while the list was made"):
        matched(copy, tmp_path / "m", on_done=change)
    assert not (tmp_path / "m").exists()


def test_too_few_pairs_are_no_list(tmp_path: Path) -> None:
    for i in range(12):
        place = tmp_path / "data" / ("fake" if i % 2 else "real") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(picture(i, 80, 80), "PNG"))
    with pytest.raises(DataError, match="pairs of a fake and a real, of at least 10"):
        matched(tmp_path / "data", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_wider_calipers_are_only_for_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """At half a per cent apart most find a partner: those left over stay alone."""
    taken = [{64: 100_000}, {64: 100_100}, {64: 200_000}, {64: 203_000}]
    assert len(find_pairs([FAKE, REAL, FAKE, REAL], [""] * 4, taken)[0]) == 1
    monkeypatch.setattr(pairing, "ENOUGH", 1.0)
    assert len(find_pairs([FAKE, REAL, FAKE, REAL], [""] * 4, taken)[0]) == 2
