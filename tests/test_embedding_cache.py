"""What is kept must be what would be made anew: for every image, whatever was killed, damaged or done beside it."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from conftest import encoded, picture
from test_architecture import imported
from univfd import embedding_cache
from univfd.backbones import Backbone
from univfd.building import build_bank
from univfd.embedding import Batch, Loaded, embed_images, space_of
from univfd.embedding_cache import EmbeddingCache, Keyed, embed_missing, keyed
from univfd.errors import FeatureSpaceError, UnivFDError, UnknownNameError
from univfd.types import Failure, ImageRef, Label, Sample
from univfd.views import view

CUT = view("native")


class Counting:
    """An encoder that says how many images it was given."""

    def __init__(self, inner: Backbone) -> None:
        self.entry, self.taps, self._inner, self.seen = inner.entry, inner.taps, inner, 0

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.seen += len(crops)
        return self._inner.embed(crops)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine pictures, one of them twice, one too small, and one that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i in range(9):
        path = folder / f"{i}.jpg"
        path.write_bytes(encoded(picture(i % 8, 40 if i == 5 else 300, 260), quality=20 if i == 3 else 90))
        paths.append(path)
    (folder / "bad.png").write_bytes(b"\x89PNG that is all")
    return [*paths[:4], folder / "bad.png", *paths[4:]]


def images_of(files: list[Path]) -> list[Keyed | Failure]:
    return list(keyed(files))


def through(
    root: Path, backbone: Backbone, files: list[Path], perturb: str = "clean", shard: int = 4, **options: int
) -> Batch:
    kept = EmbeddingCache(space_of(backbone, CUT), perturb, root)
    images = images_of(files)
    failures = embed_missing(kept, backbone, CUT, images, shard=shard, **options)
    return EmbeddingCache(kept.space, perturb, root).batch(images, failures)


def facts(batch: Batch) -> list[object]:
    names = ("name", "sha256", "format", "width", "height", "conditions", "notes")
    return [tuple(getattr(i, n) for n in names) if isinstance(i, Loaded) else i for i in batch.items]


def test_a_bank_is_built_out_of_what_is_kept(
    toy: Backbone, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "SHARD", 4)
    samples = [Sample(ImageRef(str(f), f), Label(i % 2), "g" if i % 2 else "", "s") for i, f in enumerate(files)]
    plain = build_bank(toy, CUT, samples, added="2026-01-01")
    counting, counts = Counting(toy), []
    for again in (False, True):
        kept = EmbeddingCache(space_of(toy, CUT), root=tmp_path)
        counts.append(0)

        def count(n: int) -> None:
            counts[-1] += n

        built = build_bank(counting, CUT, iter(samples), added="2026-01-01", kept=kept, on_done=count)
        assert (built.bank.digest, built.groups, built.failures) == (plain.bank.digest, plain.groups, plain.failures)
        assert counting.seen == 8  # nine pictures, one of them twice
        assert len(kept) == 8, again
    assert counts == [10, 10]


def test_a_disk_that_fills_up_does_not_end_what_needs_no_cache(
    toy: Backbone, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedding_cache, "SHARD", 4)
    samples = [Sample(ImageRef(str(f), f), Label(i % 2), "g" if i % 2 else "", "s") for i, f in enumerate(files)]
    plain = build_bank(toy, CUT, samples, added="2026-01-01")
    honest, written = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    kept = EmbeddingCache(space_of(toy, CUT), root=tmp_path, may_fail=True)
    built = build_bank(toy, CUT, samples, added="2026-01-01", kept=kept)
    assert (built.bank.digest, built.failures) == (plain.bank.digest, plain.failures)
    assert caplog.text.count("no longer kept for the next time") == 1
    batch = kept.batch(images_of(files[:4]), {})
    assert [i.conditions for i in batch.loaded] == [
        i.conditions for i in next(embed_images(toy, CUT, files[:4])).loaded
    ]
    assert len(list(kept.folder.iterdir())) == 1


@pytest.mark.parametrize("perturb", ["clean", "jpeg:60", "limit:128+webp:50"])
def test_what_is_kept_is_what_would_be_made(toy: Backbone, files: list[Path], tmp_path: Path, perturb: str) -> None:
    direct = next(embed_images(toy, CUT, files, perturb=perturb, batch_size=len(files)))
    for _ in range(2):
        kept = through(tmp_path, toy, files, perturb)
        assert facts(kept) == facts(direct)
        assert np.array_equal(kept.embeddings.vectors, direct.embeddings.vectors)
        assert kept.embeddings.space == direct.embeddings.space
    assert any(i.conditions for i in kept.loaded)
    assert any(i.notes for i in kept.loaded)


def test_each_file_is_embedded_once_for_ever(toy: Backbone, files: list[Path], tmp_path: Path) -> None:
    counting = Counting(toy)
    through(tmp_path, counting, files)
    assert counting.seen == 8, "nine readable files, two of them the same"
    through(tmp_path, counting, files[::-1])
    assert counting.seen == 8
    through(tmp_path, counting, files, "jpeg:60")
    assert counting.seen == 16, "another perturbation is another picture"


def test_failures_are_not_kept_and_pixels_over_the_limit_are_refused_again(
    toy: Backbone, files: list[Path], tmp_path: Path
) -> None:
    bad = files[4]
    assert isinstance(through(tmp_path, toy, [bad]).items[0], Failure)
    whole = bad.with_name("mended.png")
    whole.write_bytes(encoded(picture(77), "PNG"))
    through(tmp_path, toy, [whole])
    small = through(tmp_path, toy, [whole], max_pixels=1000)
    assert [i.error for i in small.items if isinstance(i, Failure)] == ["too-many-pixels"]
    assert through(tmp_path, toy, [whole]).loaded


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_shard_is_noticed_and_made_anew(
    toy: Backbone, files: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    counting = Counting(toy)
    first = through(tmp_path, counting, files)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    assert len(shards) == 3
    content = bytearray(shards[1].read_bytes())
    content[-100] ^= 1
    shards[1].write_bytes({"flip": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}[damage])
    before = counting.seen
    with caplog.at_level(logging.WARNING, "univfd"):
        again = through(tmp_path, counting, files)
    assert f"{shards[1]} is damaged" in caplog.text
    assert 0 < counting.seen - before < 5, "only its images are embedded again"
    assert np.array_equal(again.embeddings.vectors, first.embeddings.vectors)
    assert facts(again) == facts(first)


def test_two_at_once_and_what_a_killed_one_left(toy: Backbone, files: list[Path], tmp_path: Path) -> None:
    batches: list[Batch] = []
    threads = [
        threading.Thread(target=lambda: batches.append(through(tmp_path, toy, files, shard=2))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(batches) == 4
    assert all(np.array_equal(b.embeddings.vectors, batches[0].embeddings.vectors) for b in batches)
    folder = next(tmp_path.rglob("*.safetensors")).parent
    old, young = folder / ".writing-1", folder / ".writing-2"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    young.write_bytes(b"half")
    kept = EmbeddingCache(batches[0].embeddings.space, "clean", tmp_path)
    assert len(kept) == 8
    assert [p.name for p in folder.glob(".writing*")] == [young.name], "another process may be at it"


def test_a_kill_loses_no_more_than_the_shard_under_way(files: list[Path], tmp_path: Path) -> None:
    """The process kills itself in the encoder, at the sixth image: the first shard of four stays."""
    code = f"""
        import os, signal
        from pathlib import Path
        import univfd.backbones.toy as toy
        from univfd.backbones import open_backbone
        from univfd.embedding import space_of
        from univfd.embedding_cache import EmbeddingCache, embed_missing, keyed
        from univfd.views import view
        backbone, cut, seen = open_backbone("toy"), view("native"), 0
        embed = backbone.embed
        def dies(crops):
            global seen
            seen += len(crops)
            if seen > 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return embed(crops)
        backbone.embed = dies
        kept = EmbeddingCache(space_of(backbone, cut), "clean", Path({str(tmp_path)!r}))
        embed_missing(kept, backbone, cut, keyed({[str(f) for f in files]!r}), batch_size=1, shard=4)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_vectors_of_another_space_are_refused(toy: Backbone, files: list[Path], tmp_path: Path) -> None:
    kept = EmbeddingCache(space_of(toy, view("resize")), "clean", tmp_path)
    with pytest.raises(FeatureSpaceError):
        embed_missing(kept, toy, CUT, images_of(files))
    with pytest.raises(FeatureSpaceError):
        kept.add([], next(embed_images(toy, CUT, files[:1])).embeddings)
    with pytest.raises(UnknownNameError):
        EmbeddingCache(kept.space, "../elsewhere", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(toy: Backbone, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnivFDError, match="cannot be written"):
        through(tmp_path / "file", toy, files)


def test_a_change_of_the_code_in_front_of_the_vector_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remark more changes nothing; a number does."""
    package = tmp_path / "univfd"
    (package / "backbones").mkdir(parents=True)
    for name in ("images", "perturbations", "views", "conditions", "embedding", "engines", "parity", "backbones/toy"):
        (package / f"{name}.py").write_text('"""Says."""\n\n\ndef f():\n    """Gives."""\n    return 1\n')
    monkeypatch.setattr(embedding_cache, "__file__", str(package / "embedding_cache.py"))

    def digest() -> str:
        embedding_cache._code_digest.cache_clear()
        return embedding_cache._code_digest()

    try:
        first = digest()
        (package / "views.py").write_text('"""Says more."""\n\n# much more\ndef f():\n    return 1\n')
        assert digest() == first
        (package / "views.py").write_text("def f():\n    return 2\n")
        second = digest()
        (package / "backbones" / "toy.py").write_text("def f():\n    return 3\n")
        assert len({first, second, digest()}) == 3
    finally:
        embedding_cache._code_digest.cache_clear()


def test_a_file_that_changes_during_the_run_is_a_failure(toy: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(picture(1), "PNG"))
    images = images_of([path])
    path.write_bytes(encoded(picture(2), "PNG"))
    kept = EmbeddingCache(space_of(toy, CUT), "clean", tmp_path / "cache")
    failures = embed_missing(kept, toy, CUT, images)
    assert [f.message for f in failures.values()] == ["the file changed during the run"]
    assert len(kept) == 0


def test_what_cannot_be_read_keeps_its_place(tmp_path: Path) -> None:
    found = images_of([tmp_path / "absent.png"])
    assert [f.error for f in found if isinstance(f, Failure)] == ["access"]
    assert isinstance(next(keyed(ImageRef("b", b"bytes"))), Keyed)


def test_the_digest_covers_all_code_that_decides_on_a_vector() -> None:
    """What `embedding` imports, directly or not, is digested, covered by the space, or without a say in the pixels."""
    without = {
        "_version",
        "errors",
        "remarks",
        "registry",
        "types",
        "card",
        "pipeline",
        "blas",
        "sources",
        "machine",
        "storage",
        "wording",
    }
    in_the_space = {"catalogue", "weights", "downloads", "recipes"}
    reached, waiting = set(), ["embedding"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        place = Path(embedding_cache.__file__).parent / name
        for file in [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.glob("*.py")):
            waiting += [t[0] for t in imported(file) if t and t[0] not in reached]
    assert reached - without - in_the_space == set(embedding_cache._DECIDING)


def test_a_shard_that_cannot_be_read_is_not_removed(
    toy: Backbone, files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(tmp_path, toy, files)
    shards = sorted(tmp_path.rglob("*.safetensors"))
    really = embedding_cache.sha256_of

    def sha256_of(path: Path) -> str:
        if path == shards[1]:
            raise OSError(errno.EIO, "Input/output error")
        return really(path)

    with monkeypatch.context() as away, caplog.at_level(logging.WARNING, "univfd"):
        away.setattr(embedding_cache, "sha256_of", sha256_of)
        fewer = len(EmbeddingCache(space_of(toy, CUT), root=tmp_path))
    assert f"{shards[1]} cannot be read" in caplog.text
    assert sorted(tmp_path.rglob("*.safetensors")) == shards
    assert len(EmbeddingCache(space_of(toy, CUT), root=tmp_path)) > fewer
