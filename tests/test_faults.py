"""What goes wrong around the program: full disks at every write, signals, closed streams, no home, clocks, limits.

Each row of docs/faults.md names the test here that holds it, or the script of `by_hand/` that has been run.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from commands import run
from conftest import encoded, picture, random_bank, toy_samples
from faults import Refusals, left_over, refusing
from serving import serving
from test_cli import has_rows, started, univfd, wait_for
from test_runner import Row
from univfd import cli, downloads, runner, tuning
from univfd.backbones import Backbone, _gate, _kept_graph
from univfd.calibration import UNCALIBRATED
from univfd.cli._heatmaps import Maps
from univfd.detector import Detector
from univfd.embedding import Batch, Loaded, embed_images, space_of
from univfd.embedding_cache import EmbeddingCache
from univfd.embeddings_file import write_embeddings
from univfd.errors import CacheError, UnivFDError
from univfd.misses import file_miss
from univfd.report.evidence import NOTHING, EvidencePage, through
from univfd.server import keys
from univfd.sources import expand
from univfd.storage import locked
from univfd.types import Failure, ImageRef, Label, Verdict
from univfd.views import view

FULL = "the disk is full"
samples = cache(toy_samples)  # it draws 48 pictures


def line(refs: Iterable[ImageRef | Failure]) -> Iterator[Row | Failure]:
    for ref in refs:
        yield Row(ref.name) if isinstance(ref, ImageRef) else ref


def judge(output: Path, *, resume: bool = False) -> list[str]:
    refs = [*(ImageRef(n, b"") for n in "abc"), Failure("bad", "truncated", "ends early"), ImageRef("d", b"")]
    rows = runner.run(line, refs, output, runner.format_of(output), detector="d@1", resume=resume)
    return [str(r["image"]) for r in rows]


@pytest.fixture(scope="module")
def verdicts(toy_detector: Detector) -> list[Verdict]:
    return [v for v in toy_detector.detect([s.ref for s in samples()[:3]]) if isinstance(v, Verdict)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    for i, sample in enumerate(samples()[:4]):
        (place / f"{i}.png").write_bytes(sample.ref.source)  # type: ignore[arg-type]
    return place


# -- a full disk -------------------------------------------------------------------------------------------------------


def error_of(work: Callable[[Path], object], here: Path) -> str:
    try:
        work(here)
    except UnivFDError as error:
        return str(error)
    return ""


def each_refusal(work: Callable[[Path], object], place: Path) -> Iterator[Path]:
    """Do the work with the k-th write refused, for every k and both kinds of refusal, then let the caller look."""
    (place / "straight").mkdir(parents=True)
    with refusing(Refusals(place / "straight")) as straight:
        work(place / "straight")
    locks = left_over(place / "straight")
    assert all(name.endswith(".lock") for name in locks)
    for once in (False, True):
        for k in range(1, len(straight.seen) + 1):
            here = place / f"{k}-{once}"
            here.mkdir()
            with refusing(Refusals(here, k, once=once)) as refusals:
                said = error_of(work, here)
            assert once or said, straight.seen[k - 1]  # a close may try once more what was refused once
            assert not said or (FULL in said and "make room" in said), (straight.seen[k - 1], said)
            assert len(refusals.seen) >= k
            yield here


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_is_full_at_any_write_of_a_run(
    suffix: str, begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`begun`: a finished run is taken up again, and so its rows are copied first."""
    monkeypatch.setattr(runner, "writer", cache(runner.writer))  # looking for plug-ins hundreds of times takes seconds
    name, all_rows = f"x.{suffix}", ["a", "b", "c", "bad", "d"]
    finished = tmp_path / name
    runner_rows = runner.run(line, [ImageRef("a", b""), ImageRef("b", b"")], finished, suffix, detector="d@1")
    assert len(list(runner_rows)) == 2

    def work(here: Path) -> None:
        if begun and not (here / name).exists():
            os.link(finished, here / name)  # past the refusals: the disk was not full then
        assert judge(here / name, resume=begun) == all_rows

    count = 0
    for here in each_refusal(work, tmp_path / "runs"):
        journal = runner.journal_of(here / name)
        assert {p.name for p in here.iterdir()} <= {name, journal.name}
        if (here / name).exists():
            whole = [r["image"] for r in runner.writer(suffix).read(here / name)]
            assert whole in ([all_rows, all_rows[:2]] if begun else [all_rows])
        if journal.exists():
            kept = [r["image"] for r in runner.writer("jsonl").read(journal)]
            assert kept == all_rows[: len(kept)]
            assert len(kept) >= (2 if begun else 0)
        elif begun:
            assert (here / name).exists()
        assert judge(here / name, resume=True) == all_rows
        straight = tmp_path / "runs" / "straight" / name
        assert list(runner.writer(suffix).read(here / name)) == list(runner.writer(suffix).read(straight))
        assert [p.name for p in here.iterdir()] == [name]
        count += 1
    assert count >= 2 * 10


def test_a_disk_that_is_full_says_how_to_go_on(toy_folder: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    detect = ("detect", folder, "--detector", toy_folder, "-o", out, "--batch-size", 1)
    said: list[str] = []
    with refusing(Refusals(tmp_path, 5)), pytest.MonkeyPatch.context() as patch:
        patch.setattr("univfd.cli.detect.remark", lambda ctx, text: said.append(text))
        with pytest.raises(UnivFDError, match=FULL):
            run(*detect)
    assert "x.csv.partial; the same command with --resume goes on" in "".join(said)
    run(*detect, "--resume")
    assert len(out.read_text("utf-8").splitlines()) == 5


def test_a_disk_that_is_full_at_any_write_of_a_page(verdicts: list[Verdict], tmp_path: Path) -> None:
    def work(here: Path) -> None:
        page = EvidencePage(here / "p.html", detector="toy", calibration=UNCALIBRATED, bank="b")
        assert len(list(through(page, [v.to_dict() for v in verdicts * 10], lambda row: NOTHING))) == 30

    whole = 0
    for here in each_refusal(work, tmp_path):
        if found := list(here.iterdir()):
            assert [p.name for p in found] == ["p.html"]
            assert found[0].read_bytes() == (tmp_path / "straight" / "p.html").read_bytes()
            whole += 1
    assert whole < 3


def test_a_page_that_fails_lets_the_run_go(
    toy_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: EvidencePage, row: object, beside: object) -> None:
        raise UnivFDError(FULL)

    monkeypatch.setattr(EvidencePage, "add", refused)
    out = tmp_path / "x.jsonl"
    with pytest.raises(UnivFDError, match=FULL) as failed:
        run("detect", folder, "--detector", toy_folder, "-o", out, "--explain-html", tmp_path / "p.html")
    assert failed.traceback  # what it holds must not hold the lock
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl.partial"]


def saved_detector(here: Path, detector: Detector, toy: Backbone) -> None:
    detector.save(here / "new")


def saved_bank(here: Path, detector: Detector, toy: Backbone) -> None:
    random_bank(20).save(here / "new")


@cache
def embedded(toy: Backbone) -> list[Batch]:
    return list(embed_images(toy, view("native"), [s.ref for s in samples()[:3]]))


def saved_embeddings(here: Path, detector: Detector, toy: Backbone) -> None:
    cut = view("native")
    write_embeddings(here / "new", toy, cut, embed_images(toy, cut, [s.ref for s in samples()[:3]]), perturb="clean")


@pytest.mark.parametrize("save", [saved_detector, saved_bank, saved_embeddings])
def test_a_disk_that_is_full_at_any_write_of_a_folder(
    save: Callable[[Path, Detector, Backbone], None], toy_detector: Detector, toy: Backbone, tmp_path: Path
) -> None:
    absent = 0
    for here in each_refusal(lambda place: save(place, toy_detector, toy), tmp_path):
        if not (here / "new").exists():
            assert not list(here.iterdir())
            save(here, toy_detector, toy)
            absent += 1
        assert {p.name for p in (here / "new").iterdir()} == {p.name for p in (tmp_path / "straight" / "new").iterdir()}
    assert absent >= 8


def test_a_disk_that_is_full_at_any_write_of_the_embedding_cache(toy: Backbone, tmp_path: Path) -> None:
    cut = view("native")
    batch = embedded(toy)[0]
    items = [i for i in batch.items if isinstance(i, Loaded)]

    def keep(here: Path) -> None:
        EmbeddingCache(space_of(toy, cut), root=here).add(items, batch.embeddings)

    for here in each_refusal(keep, tmp_path):
        assert not [p for p in here.rglob("*") if p.is_file()]
        keep(here)
        assert len(EmbeddingCache(space_of(toy, cut), root=here)) == 3


def test_a_disk_that_is_full_at_any_write_of_feedback(verdicts: list[Verdict], tmp_path: Path) -> None:
    def report(here: Path, which: int = 1) -> str:
        verdict, data = verdicts[which], bytes(samples()[which].ref.source)  # type: ignore[arg-type]
        truth = Label.REAL if verdict.verdict == "fake" else Label.FAKE
        return file_miss(here / "misses", data, verdict, truth, ending=".png", by="test", facts={})

    for here in each_refusal(report, tmp_path):
        done = bool(list(here.glob("misses/manifest.jsonl")) and (here / "misses" / "manifest.jsonl").read_bytes())
        files = [p for p in here.rglob("*") if p.is_file() and p.suffix not in {".lock", ".jsonl"}]
        assert all(p.suffix == ".png" and p.read_bytes() == samples()[1].ref.source for p in files)
        assert report(here) == ("known" if done else "filed")
        assert report(here, 0) == "filed"
        listed = [json.loads(t) for t in (here / "misses" / "manifest.jsonl").read_text().splitlines()]
        assert [(here / "misses" / row["file"]).is_file() for row in listed] == [True, True]


def test_a_disk_that_is_full_at_any_write_of_the_tuning_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(here: Path) -> None:
        monkeypatch.setenv("UNIVFD_HOME", str(here))
        tuning._keep(tuning._place("toy", "", "cpu"), [tuning.Measured(tuning.Work(2, 1, 8, 2), 1.0)])

    for here in each_refusal(keep, tmp_path):
        assert not [p for p in here.rglob("*") if p.is_file()]
        assert tuning.tuned("toy", "") == tuning.Work()
        keep(here)
        assert tuning.tuned("toy", "").batch_size == 8


def test_a_disk_that_is_full_at_any_write_of_an_engines_comparison(tmp_path: Path) -> None:
    """Only a remark: it is made again at the next start."""
    kept = {name: np.ones((4, 8), np.float32) for name in ("reference", "batch", "single")}
    with refusing(Refusals(tmp_path / "0")) as straight:
        _gate._keep(tmp_path / "0" / "e.safetensors", kept)
    assert len(straight.seen) >= 4
    for k in range(1, len(straight.seen) + 1):
        place = tmp_path / str(k) / "e.safetensors"
        with refusing(Refusals(tmp_path / str(k), k)):
            _gate._keep(place, kept)
        assert _gate._read(place) is None
        assert not list(tmp_path.glob(f"{k}/*"))


def test_a_disk_that_is_full_at_any_write_of_a_cut_graph(tmp_path: Path) -> None:
    """Only a remark: it is cut again at the next start."""
    with refusing(Refusals(tmp_path / "0")) as straight:
        _kept_graph._keep(tmp_path / "0" / "g.graph", b"graph")
    assert len(straight.seen) >= 4
    for k in range(1, len(straight.seen) + 1):
        place = tmp_path / str(k) / "g.graph"
        with refusing(Refusals(tmp_path / str(k), k)):
            _kept_graph._keep(place, b"graph")
        assert _kept_graph._read(place) is None
        assert not list(tmp_path.glob(f"{k}/*"))


def test_half_a_key_shuts_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = tmp_path / "keys", os.write
    keys.generate(file, "first")
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
        with pytest.raises(UnivFDError, match=FULL):
            keys.generate(file, "second")
    assert file.read_bytes() == before


def test_a_full_disk_leaves_no_half_of_a_heat_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = Maps(tmp_path)
    with refusing(Refusals(tmp_path, 2)):
        maps.save("a/photo.jpg", "0" * 64, b"png" * 1000)
    assert (maps.failed, list(tmp_path.iterdir())) == (1, [])
    assert FULL in capsys.readouterr().err


def test_a_real_limit_on_what_is_written(tmp_path: Path) -> None:
    """RLIMIT_FSIZE: the operating system's own refusal, of Python's files and of safetensors'."""
    code = """
    import resource, sys
    from pathlib import Path
    from univfd.storage import new_folder, write_arrays
    from univfd.errors import UnivFDError
    import numpy as np
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    for write in (lambda p: write_arrays(p, {"a": np.zeros(10_000)}), lambda p: p.write_bytes(bytes(10_000))):
        try:
            with new_folder(Path(sys.argv[1]) / "new") as scratch:
                write(scratch / "file")
        except UnivFDError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.count("cannot be written: File too large") == 2
    assert not list(tmp_path.iterdir())


# -- signals and streams -----------------------------------------------------------------------------------------------


def test_sigterm_puts_everything_in_order(toy_folder: Path, folder: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "x.csv", tmp_path / "page.html"
    names = [str(p) for p in sorted(folder.iterdir())] * 5
    detect = ("detect", "-o", out, "--detector", toy_folder, "--batch-size", 2, "--explain-html", page)
    process, _ = started(*detect, names=names)
    wait_for(lambda: has_rows(runner.journal_of(out), 10))
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert b"terminated" in said
    assert b"--resume goes on" in said
    assert b"Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv.partial"]
    result = univfd("detect", *names, "-o", out, "--detector", toy_folder, "--resume")
    assert result.returncode == 0, result.stderr
    assert len(out.read_text("utf-8").splitlines()) == 21


def shell(command: str, *, code: int) -> str:
    """What a shell command says on stderr; `univfd` is this one."""
    whole = f'univfd() {{ {sys.executable} -m univfd "$@"; }}; {command}'
    result = subprocess.run(["bash", "-c", whole], capture_output=True, text=True, check=False)
    assert result.returncode == code, result
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    return result.stderr


def test_standard_streams_that_are_closed_or_full(toy_folder: Path, folder: Path, tmp_path: Path) -> None:
    detect = f"univfd detect --detector {toy_folder} {folder}"
    assert "standard output is closed" in shell(f"{detect} >&-", code=2)
    assert "No space left" in shell(f"{detect} --jsonl > /dev/full", code=2)
    shell(f"{detect} -o {tmp_path}/x.jsonl >&- 2>&- <&-", code=0)
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    rows = [json.loads(text) for text in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [r["status"] for r in rows] == ["ok"] * 4
    assert "nothing to judge" in shell(f"univfd detect --detector {toy_folder} --from-file - <&-", code=3)


def test_a_machine_without_threads_or_memory(
    toy_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["univfd", "detect", str(folder), "--detector", str(toy_folder)])

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        assert cli._run() == 2
    assert "starts no more threads" in capsys.readouterr().err

    def exhausted(self: Backbone, crops: np.ndarray) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("univfd.backbones.toy.ToyBackbone.embed", exhausted)
    assert cli._run() == 2
    assert "not enough memory" in capsys.readouterr().err


def test_onnx_runtime_reports_to_nobody_and_leaves_no_file(tmp_path: Path) -> None:
    """Its telemetry, where its build has one, keeps a session in the temporary folder from its import on."""
    code = "import os, univfd.backbones.onnx, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout == "1\n"
    assert not list(tmp_path.iterdir())


# -- homes, clocks, locks ----------------------------------------------------------------------------------------------


def test_no_home_at_all(toy_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "UNIVFD_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="Set UNIVFD_HOME"):
        downloads.home()
    run("detect", folder, "--detector", toy_folder, "-o", "x.jsonl")  # it needs nothing of a home
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    monkeypatch.setenv("UNIVFD_HOME", str(tmp_path / "cache"))
    assert downloads.home() == tmp_path / "cache"


JUMPING = "import itertools, time\nreal, turns = time.time, itertools.count()\n" + (
    "time.time = lambda: real() + (-1) ** next(turns) * 1e8"
)


def test_a_clock_that_jumps_years_to_and_fro(
    toy: Backbone, toy_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("--detector", toy_folder, before=JUMPING) as server:
        for path in sorted(folder.iterdir()):
            assert server.json("POST", "/v1/detect", path.read_bytes())[1]["status"] == "ok"
        assert server.stop() == 0
    straight, turns = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: straight() + (-1) ** next(turns) * 1e8)
    run("detect", folder, "--detector", toy_folder, "-o", tmp_path / "x.jsonl")
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 4
    cut = view("native")
    batch = next(embed_images(toy, cut, sorted(folder.iterdir())))
    kept = EmbeddingCache(space_of(toy, cut), root=tmp_path / "cache")
    kept.add([i for i in batch.items if isinstance(i, Loaded)], batch.embeddings)
    assert len(EmbeddingCache(space_of(toy, cut), root=tmp_path / "cache")) == 4


def test_the_newest_index_is_the_last_also_where_the_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from univfd.store import BankStore

    store = BankStore.create(tmp_path / "store", random_bank(2).space)
    for years, what in ((0, "first"), (-20, "second"), (20, "third"), (-20, "fourth")):
        monkeypatch.setattr(time, "time", lambda years=years: 1.8e9 + years * 3e7)
        store.tables.log_index(what)
    assert store.tables.index_log() == ["first", "second", "third", "fourth"]


def test_a_lock_whose_holder_was_killed_is_free(tmp_path: Path) -> None:
    work = tmp_path / "x.jsonl.partial"
    code = "import sys, time; from pathlib import Path; from univfd.storage import locked\n" + (
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(work)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UnivFDError, match="another process is writing"), locked(work):
        pass
    holder.kill()
    holder.communicate()
    with locked(work):
        assert left_over(tmp_path)
    assert not left_over(tmp_path)


# -- inputs and limits -------------------------------------------------------------------------------------------------


def test_files_that_change_between_listing_and_reading(toy_detector: Detector, tmp_path: Path) -> None:
    whole = encoded(picture(3), "PNG")
    for name in ("cut", "empty", "gone", "grows", "last"):
        (tmp_path / f"{name}.png").write_bytes(whole[:5000] if name == "grows" else whole)
    refs = list(expand(tmp_path))
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "gone.png").unlink()
    (tmp_path / "grows.png").write_bytes(whole)
    items = list(toy_detector.detect(refs))
    assert [getattr(i, "error", "ok") for i in items] == ["truncated", "empty", "access", "ok", "ok"]


def test_a_slow_source_is_waited_for_in_order(toy_detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd import images

    read, under_way, most = images.read_bytes, 0, 0
    lock = threading.Lock()

    def slowly(ref: ImageRef) -> bytes:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01 * (int(ref.name.removesuffix(".png")) % 3))
        with lock:
            under_way -= 1
        return read(ref)

    monkeypatch.setattr(images, "read_bytes", slowly)
    refs = [s.ref for s in samples()[:20]]
    found = [i.image for i in toy_detector.detect(refs, workers=3, batch_size=4)]
    assert found == [r.name for r in refs]
    assert 1 < most <= 3


LIMITED = """
import resource, sys
kind, most = sys.argv.pop(1), int(sys.argv.pop(1))
import numpy, univfd.cli.detect, univfd.detector, univfd.backbones.toy, univfd.writers.jsonl, PIL.Image
if kind == "RLIMIT_AS":
    most += next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmSize"))
resource.setrlimit(getattr(resource, kind), (most, most))
from univfd.cli import main
main()
"""


def limited(kind: str, most: int, *args: object) -> tuple[int, list[dict]]:
    command = [sys.executable, "-c", LIMITED, kind, str(most), "detect", "--jsonl", *map(str, args)]
    result = subprocess.run(command, capture_output=True, check=False)
    assert b"Traceback" not in result.stderr, result.stderr
    return result.returncode, [json.loads(text) for text in result.stdout.splitlines()]


def test_a_picture_that_memory_does_not_hold_is_a_row(toy_folder: Path, folder: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(encoded(np.zeros((8_000, 9_000), np.uint8), "PNG", compress_level=1))
    inputs = (folder / "0.png", large, folder / "1.png")
    code, rows = limited("RLIMIT_AS", 200 << 20, *inputs, "--detector", toy_folder, "--workers", 1)
    assert code == 3
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert "not enough memory" in rows[1]["message"]


def test_few_open_files_are_enough(toy_folder: Path, folder: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 16
    code, rows = limited("RLIMIT_NOFILE", 16, *[folder] * 12, "--detector", toy_folder, "--workers", 8)
    assert code == 0
    assert [r["status"] for r in rows] == ["ok"] * 48


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_of_any_bytes_in_a_locale_without_unicode(
    suffix: str, toy_folder: Path, folder: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    data = (folder / "0.png").read_bytes()
    names = [b"caf\xc3\xa9.png", b"latin\xe9.png", b"new\nline.png", b"\xff\xfe.png"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(odd), name))).write_bytes(data)  # noqa: PTH118 -- bytes
    out = tmp_path / f"x.{suffix}"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = univfd("detect", odd, "--detector", toy_folder, "-o", out, **plain)
    assert result.returncode == 0, result.stderr
    found = {Path(r["image"]).name for r in runner.writer(suffix).read(out)}
    assert found == {"café.png", "latin\\xe9.png", "new\nline.png", "\\xff\\xfe.png"}
    assert univfd("detect", odd, "--detector", toy_folder, "-o", out, "--resume", **plain).returncode == 0
    assert len(list(runner.writer(suffix).read(out))) == 4


def test_paths_longer_than_the_system_takes(toy_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(1), "PNG"))
    here = os.open(tmp_path, os.O_RDONLY)
    deep = "d" * 250
    for _ in range(18):  # 4,500 bytes; a path may have 4,096
        os.mkdir(deep, dir_fd=here)
        below = os.open(deep, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    items = list(toy_detector.detect(tmp_path))
    assert [getattr(i, "error", "ok") for i in items] == ["ok", "access"]
    assert "too long" in items[1].message  # type: ignore[union-attr]


def test_a_folder_that_cannot_be_opened_in_the_middle_of_a_walk(
    toy_detector: Detector, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes((folder / "0.png").read_bytes())
    scandir = os.scandir

    def refusing_one(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing_one)
    items = list(toy_detector.detect(tmp_path))
    assert [getattr(i, "error", "ok") for i in items] == ["ok", "access", "ok"]
    assert items[1].image == str(tmp_path / "b")
