"""Commands on a real disk that fills up: a tmpfs of every size from one page to what the command needs (as root).

    python tests/by_hand/full_disk.py FOLDER [SIZES [WORK ...]]   # detect page fit bank embed store train ray

Whatever libraries write is met here too (pyarrow, safetensors, LanceDB). `train` needs PyTorch, and `ray` needs Ray.
After each refusal the error must say that the disk is full, nothing of a target may be there but what is whole, and
once the disk is larger the same command must end well, with the rows of an undisturbed run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands import run
from conftest import random_bank, toy_samples
from faults import left_over
from test_faults import error_of
from univfd import runner
from univfd.backbones import open_backbone
from univfd.building import assemble, build_bank
from univfd.detector import load
from univfd.store import BankStore, Rows
from univfd.store.adding import add_rows
from univfd.views import view

PAGE = 4096
AMPLE = 64 << 20


@contextmanager
def disk(place: Path, size: int) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def grow(place: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={AMPLE}", place], check=True)


def used(place: Path) -> int:
    return shutil.disk_usage(place).used


class Work:
    """A command, how it is taken up again, and what must hold of its disk afterwards."""

    def __init__(
        self, begin: Callable[[Path], object], again: Callable[[Path], object], whole: Callable[[Path], object],
        prepare: Callable[[Path], object] = lambda _: None, room: float = 1,
    ) -> None:  # fmt: skip
        """`room`: how many times what is there at the end is needed meanwhile."""
        self.begin, self.again, self.whole, self.prepare, self.room = begin, again, whole, prepare, room


def judging(images: Path, toy: Path, suffix: str, page: bool) -> Work:
    def options(disk: Path) -> tuple[object, ...]:
        html = ("--explain-html", disk / "page.html") if page else ()
        return ("-q", "detect", images, "--detector", toy, "-o", disk / f"x.{suffix}", "--batch-size", 2, *html)

    def whole(disk: Path) -> list[str]:
        if (disk / "page.html").exists():
            assert (disk / "page.html").read_text("utf-8").rstrip().endswith("</html>")
        names = []
        if (disk / f"x.{suffix}").exists():
            names = [r["image"] for r in runner.writer(suffix).read(disk / f"x.{suffix}")]
            assert len(names) == len(list(images.iterdir())), len(names)
        return names

    def again(disk: Path) -> None:
        (disk / "page.html").unlink(missing_ok=True)
        run(*options(disk), "--resume")

    return Work(lambda disk: run(*options(disk)), again, whole)


def making(*command: object, made: Callable[[Path], object]) -> Work:
    def go(disk: Path) -> None:
        run("-q", *command, "-o", disk / "new")

    def whole(disk: Path) -> object:
        return made(disk / "new") if (disk / "new").exists() else None

    return Work(go, go, whole)


def storing() -> Work:
    """A store of one version; the edit is an addition."""
    first, more = random_bank(300, 1), random_bank(300, 2)

    def prepare(disk: Path) -> None:
        add_rows(store := BankStore.create(disk / "s", first.space), Rows.of(first), "a", "import", store.snapshot())

    def add(disk: Path) -> None:
        store = BankStore.open(disk / "s")
        if len(store.snapshot().bank) < 600:
            add_rows(store, Rows.of(more), "b", "import", store.snapshot())

    def whole(disk: Path) -> list[int]:
        store = BankStore.open(disk / "s")
        numbers = [e.number for e in store.history().edits]
        assert len(store.snapshot().bank) in {300, 600}
        return numbers

    return Work(add, add, whole, prepare)


def training(data: Path) -> Work:
    """Two epochs; the checkpoints take more room than the detector."""

    def go(disk: Path, *more: str) -> None:
        run("-q", "train", data, "-o", disk / "new", "--arch", "small", "--epochs", 2, "--batch-size", 8,
            "--short-side", 0, "--validate-by", "image", *more)  # fmt: skip

    def whole(disk: Path) -> object:
        return load(disk / "new").identity if (disk / "new").exists() else None

    return Work(go, lambda disk: go(disk, "--resume"), whole, room=5)


@contextmanager
def judging_on_ray(images: Path, toy: Path) -> Iterator[Work]:
    import pyarrow.parquet as pq
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    address = ray.get_runtime_context().gcs_address

    def go(disk: Path, *more: str) -> None:
        run("-q", "detect", images, "--detector", toy, "-o", disk / "new", "--partition", 4, f"--ray={address}", *more)

    def whole(disk: Path) -> list[str]:
        parts = sorted((disk / "new" / "rows").glob("*.parquet"))
        return [name for part in parts for name in pq.read_table(part)["image"].to_pylist()]

    try:
        yield Work(go, lambda disk: go(disk, "--resume"), whole)
    finally:
        ray.shutdown()


def sweep(name: str, work: Work, place: Path, sizes: int) -> None:
    with disk(place, AMPLE):
        work.prepare(place)
        before = used(place)
        work.begin(place)
        needed, wanted = used(place), work.whole(place)
    most = before + round((needed - before) * work.room) + 8 * PAGE
    seen: Counter[str] = Counter()
    for i in range(sizes):
        size = before + (most - before) * i // sizes // PAGE * PAGE or PAGE
        with disk(place, AMPLE):
            work.prepare(place)
            subprocess.run(["mount", "-o", f"remount,size={max(size, used(place))}", place], check=True)
            if said := error_of(work.begin, place):
                assert "full" in said, (name, size, said)
                seen["refused"] += 1
                seen["whole then"] += bool(work.whole(place))
                assert not left_over(place), (name, size, left_over(place))
                grow(place)
                work.again(place)
            else:
                seen["had room"] += 1
            assert str(work.whole(place)) == str(wanted), (name, size)
    print(f"{name}: needs {(needed - before) / 1024:.0f} KiB; {sizes} sizes: {dict(seen)}", flush=True)


def main(folder: Path, sizes: int, chosen: list[str]) -> None:
    toy, cut = open_backbone("toy"), view("native")
    bank = build_bank(toy, cut, toy_samples(), added="2026-01-01").bank
    detector, images, data = folder / "toy", folder / "images", folder / "data"
    assemble("toy", toy, cut, bank, "linear", {}).save(detector)
    images.mkdir()
    for i, sample in enumerate(toy_samples()):
        target = data / ("fake" if sample.label else "real") / sample.source / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (target, images / f"{i:02}.png"):
            path.write_bytes(bytes(sample.ref.source))  # type: ignore[arg-type]

    def names(made: Path) -> list[str]:
        return sorted(p.name for p in made.iterdir())

    space = ("--backbone", "toy")
    works: dict[str, dict[str, Work]] = {
        "detect": {
            f"detect -o x.{suffix}": judging(images, detector, suffix, page=False)
            for suffix in ("jsonl", "csv", "json", "parquet")
        },
        "page": {"detect --explain-html": judging(images, detector, "jsonl", page=True)},
        "fit": {"fit": making("fit", data, "--uncalibrated", *space, made=lambda new: load(new).identity)},
        "bank": {"bank build": making("bank", "build", data, *space, made=names)},
        "embed": {"embed": making("embed", images, *space, made=names)},
        "store": {"an addition to a store": storing()},
        "train": {"train": training(data)},
    }
    for kind in chosen or [*works, "ray"]:
        with judging_on_ray(images, detector) if kind == "ray" else nullcontext() as on_ray:
            for name, work in {"detect --ray": on_ray}.items() if on_ray else works[kind].items():
                sweep(name, work, folder / "disk", sizes)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        main(Path(scratch), int(sys.argv[2]) if len(sys.argv) > 2 else 12, sys.argv[3:])
