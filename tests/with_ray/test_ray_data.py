"""Ray Data on a real cluster of three nodes of this machine, one of which is lost; buckets on an S3 stand-in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from nodes import Nodes

from conftest import encoded, picture
from univfd import runner
from univfd.backbones import Backbone
from univfd.cli._ray import _everywhere
from univfd.detector import Detector
from univfd.distributed import cluster as clusters
from univfd.distributed import running
from univfd.distributed.cached import embed_missing
from univfd.distributed.cluster import Cluster as Where
from univfd.distributed.entry import Entry, table_of
from univfd.distributed.listing import entries, partition_name, references
from univfd.distributed.stores import Folder, open_store
from univfd.distributed.workers import Packed, Work
from univfd.embedding import embed_images, space_of
from univfd.embedding_cache import EmbeddingCache, keyed
from univfd.embedding_cache import embed_missing as embed_here
from univfd.errors import MissingExtraError, OutputExistsError, UnivFDError, UsageError, WeightsError
from univfd.sources import expand, read_bytes
from univfd.types import Failure, ImageRef
from univfd.views import view

WORK = Work(threads=1, loaders=1)
PNG = encoded(picture(0, 32, 32), "PNG")
BAD = {"cut.jpg": b"\xff\xd8\xff\xe0 cut", "empty.png": b"", "words.jpg": b"no picture, only words"}


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URL of an empty bucket of an S3 server in a process of its own; its keys are in the environment."""
    import boto3
    from botocore.config import Config

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = dict(os.environ)
    os.environ.update(settings)
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = boto3.client("s3", endpoint_url=address, config=Config(retries={"max_attempts": 0}, connect_timeout=1))
    for _ in range(100):
        try:
            client.create_bucket(Bucket="pictures")
            break
        except Exception:
            time.sleep(0.2)
    yield f"s3://pictures?region=us-east-1&scheme=http&endpoint_override=127.0.0.1%3A{port}"
    server.kill()
    server.wait()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def nodes(bucket: str) -> Iterator[Nodes]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Nodes()
    ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.cluster.shutdown()


@pytest.fixture(scope="session")
def where(nodes: Nodes) -> Where:
    return Where(address=nodes.cluster.address)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 images in folders, three of them in a tar, eight broken ones, a loop and a text."""
    top = tmp_path_factory.mktemp("pictures")
    for i in range(150):
        kind, ending = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "WebP"), ("JPEG", ""))[i % 4]
        folder = top / ("a", "a/b.c", "Z", "ä")[i % 3] / str(i % 5)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (f"{i:03}.{ending}" if ending else f"{i:03}")).write_bytes(encoded(picture(i, 160, 150), kind))
    for folder in ("a", "Z/2"):
        for name, data in BAD.items():
            (top / folder / name).write_bytes(data)
    with tarfile.open(top / "a" / "shard.tar", "w") as tar:
        for i in range(3):
            one = top / f"in-tar-{i}.png"
            one.write_bytes(encoded(picture(500 + i, 300, 280), "PNG"))
            tar.add(one, arcname=f"sub/{i}.png")
            one.unlink()
    (top / "Z" / "loop").symlink_to(top)
    (top / "Z" / "nowhere.jpg").symlink_to(top / "missing.jpg")
    (top / "readme.txt").write_text("words")
    return top


def single(detector: Detector, inputs: list[Any], path: Path) -> pa.Table:
    """What the single process writes."""
    line = detector.detect
    for _ in runner.run(line, inputs, path, "parquet", detector=detector.identity):
        pass
    return pq.read_table(path)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "rows").iterdir())


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in parts(folder)])


def same(ours: pa.Table, theirs: pa.Table) -> None:
    """Equal rows, but for the last bits of scores: those depend on which images shared a batch."""
    assert ours.schema == theirs.schema
    assert len(ours) == len(theirs)
    for name in ours.schema.names:
        a, b = ours[name].to_pylist(), theirs[name].to_pylist()
        if pa.types.is_floating(ours.schema.field(name).type):
            assert [x is None for x in a] == [x is None for x in b], name
            pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            assert max((abs(x - y) for x, y in pairs), default=0) <= 1e-6, name
        else:
            assert a == b, name


# -- the listing -------------------------------------------------------------------------------------------------------


def test_a_listing_is_what_the_single_process_walks(pictures: Path) -> None:
    inputs = [str(pictures), str(pictures / "a" / "shard.tar"), str(pictures / "gone.jpg"), str(pictures / "Z" / "*")]
    found = list(references(table_of(entries(inputs))))
    expected = list(expand(inputs))
    assert found == expected
    assert sum(isinstance(f, Failure) for f in found) >= 4


def test_paths_of_a_listing_do_not_depend_on_the_working_folder(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(pictures)
    listed = list(entries(["a"]))
    monkeypatch.chdir(tmp_path)
    refs = [r for r in references(table_of(listed)) if isinstance(r, ImageRef)]
    assert all(r.name.startswith("a/") for r in refs)
    assert all(isinstance(read_bytes(r), bytes) for r in refs)


@pytest.fixture(scope="session")
def uploaded(bucket: str, pictures: Path) -> str:
    """The pictures in the bucket, links apart."""
    system, top = open_store(bucket)
    for path in sorted(pictures.rglob("*")):
        if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents)):
            with system.open_output_stream(f"{top}/in/{path.relative_to(pictures)}") as file:
                file.write(path.read_bytes())
    return bucket.replace("pictures?", "pictures/in?")


def test_a_bucket_is_walked_like_a_folder(uploaded: str, pictures: Path) -> None:
    ours = list(references(table_of(entries([uploaded]))))
    theirs = [r for r in expand(str(pictures)) if isinstance(r, ImageRef)]
    assert [r.name.removeprefix("s3://pictures/in/") for r in ours] == [
        r.name.removeprefix(f"{pictures}/") for r in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, ImageRef)
        assert read_bytes(a) == read_bytes(b)


def test_objects_that_are_not_there_are_rows(uploaded: str) -> None:
    gone = uploaded.replace("/in?", "/gone.jpg?")
    (entry,) = entries([gone])
    assert (entry.name, entry.error) == ("s3://pictures/gone.jpg", "access")
    lost = Entry("s3://pictures/x.jpg", "object", uploaded, b"pictures/x.jpg")
    (row,) = references(table_of([lost]))
    assert isinstance(row, Failure)
    assert row.error == "access"
    (unknown,) = entries(["nosuch://bucket/x.jpg"])
    assert (unknown.kind, unknown.error) == ("failure", "access")
    assert "nosuch" in unknown.message


def test_odd_names_in_a_bucket_lead_back(bucket: str) -> None:
    system, top = open_store(bucket)
    odd = ["a", "a#1.png", "b?x.png", "c%41.png", "cA.png", "d e+f.png"]
    for name in odd:
        with system.open_output_stream(f"{top}/odd/{name}") as file:
            file.write(PNG + name.encode())
    listed = list(entries([bucket.replace("?", "/odd?")]))
    assert [e.place.decode() for e in listed] == [f"pictures/odd/{name}" for name in odd]
    for given in ([e.name for e in listed], [f"{e.name}?{bucket.partition('?')[2]}" for e in listed]):
        found = list(references(table_of(entries(given))))
        assert [read_bytes(r) for r in found if isinstance(r, ImageRef)] == [PNG + name.encode() for name in odd]


@pytest.mark.parametrize("shape", ["binary", "struct"])
def test_images_in_parquet(shape: str, tmp_path: Path, bucket: str) -> None:
    data: list[bytes | None] = [encoded(picture(i, 60, 50)) for i in range(40)]
    data[7] = None
    column = data if shape == "binary" else [{"bytes": d, "path": f"{i}.jpg"} for i, d in enumerate(data)]
    table = pa.table({"image": column, "label": list(range(40))})
    (tmp_path / "b").mkdir()
    pq.write_table(table, tmp_path / "b" / "one.parquet", row_group_size=9)
    pq.write_table(table.slice(5, 3), tmp_path / "a.parquet")
    (tmp_path / "readme.md").write_text("passed over")
    listed = list(entries([str(tmp_path)], image_column="image"))
    assert [e.name for e in listed[:4]] == [
        *(f"{tmp_path}/a.parquet/{i}" for i in range(3)),
        f"{tmp_path}/b/one.parquet/0",
    ]
    found = list(references(table_of(listed[3 + 4 : 3 + 31])))  # a partition that begins and ends inside row groups
    for i, ref in enumerate(found, start=4):
        assert ref == ImageRef(f"{tmp_path}/b/one.parquet/{i}", data[i]) if i != 7 else isinstance(ref, Failure)
    with pytest.raises(UsageError, match="no column 'picture'; it has image, label"):
        list(entries([str(tmp_path)], image_column="picture"))
    system, top = open_store(bucket)
    with system.open_output_stream(f"{top}/{shape}/one.parquet") as file:
        file.write((tmp_path / "b" / "one.parquet").read_bytes())
    from_bucket = list(references(table_of(entries([bucket.replace("?", f"/{shape}?")], image_column="image"))))
    assert [r.name if isinstance(r, ImageRef) else r.image for r in from_bucket] == [
        f"s3://pictures/{shape}/one.parquet/{i}" for i in range(40)
    ]
    assert [r.source for r in from_bucket if isinstance(r, ImageRef)] == [d for d in data if d is not None]


# -- losses ------------------------------------------------------------------------------------------------------------


def test_a_lost_node_and_a_killed_worker_change_no_row(
    nodes: Nodes, where: Where, toy_detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    inputs = [str(pictures), str(pictures / "gone.jpg"), *[str(pictures / "a" / "0")] * 8]
    killed: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what == "images" and not killed and done >= 40:
            for pid in nodes.actors()[:1]:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)
        elif killed and len(nodes.workers) == 2 and done >= 80:
            nodes.lose()

    out = tmp_path / "run"
    report = running.detect(toy_detector, inputs, Folder(str(out)), where, WORK, size=10, on_done=watch)
    assert killed
    assert len(nodes.workers) == 1
    nodes.add()
    assert not Path("/proc", str(killed[0])).exists()
    expected = single(toy_detector, inputs, tmp_path / "single.parquet")
    same(rows(out), expected)
    failures = expected["status"].to_pylist().count("failed")
    assert failures >= 8
    assert report.images == len(expected)
    assert report.counts["failed"] == failures
    assert report.partitions == len(parts(out)) == -(-len(expected) // 10)
    assert report.workers >= 2
    assert [len(pq.read_table(p)) for p in parts(out)][:-1] == [10] * (report.partitions - 1)
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp") and p.stat().st_mtime > time.time() - 1]


def test_what_kills_every_worker_is_given_up_and_the_rest_goes_on(
    nodes: Nodes, where: Where, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying:
        """Takes its process along on partition 3, every time."""

        def has(self, table: Any) -> bool:
            return False

        def __call__(self, table: Any) -> Any:
            if 3 in table["partition"].to_pylist():
                os._exit(1)
            return table

    monkeypatch.setattr(clusters, "_TRIES", 1)
    found = [r["partition"] for r in clusters.over_partitions(ray, where, Dying, {}, list(range(12)))]
    assert sorted(found) == [0, 1, 2, *range(4, 12)]


def test_what_kills_every_worker_costs_no_other_partition_of_its_block(
    nodes: Nodes, where: Where, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Dying:
        """Takes its process along on partition 4, every time; the others are written once."""

        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def has(self, table: Any) -> bool:
            return all((self.folder / str(n)).exists() for n in table["partition"].to_pylist())

        def __call__(self, table: Any) -> Any:
            for number in table["partition"].to_pylist():
                if number == 4:
                    os._exit(1)
                (self.folder / str(number)).touch()
            return table

    monkeypatch.setattr(clusters, "_TRIES", 1)
    monkeypatch.setattr(clusters, "_BLOCKS", 4)  # of three partitions each
    found = [r["partition"] for r in clusters.over_partitions(ray, where, Dying, {"folder": tmp_path}, [*range(12)])]
    assert sorted(found) == [*range(4), *range(5, 12)]


def test_what_kills_workers_too_often_ends_the_run(
    nodes: Nodes, where: Where, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Dying:
        """Takes its process along on each partition but two."""

        def has(self, table: Any) -> bool:
            return False

        def __call__(self, table: Any) -> Any:
            for number in table["partition"].to_pylist():
                (tmp_path / str(number)).touch()
                if number >= 2:
                    os._exit(1)
            return table

    monkeypatch.setattr(clusters, "_TRIES", 1)
    with pytest.raises(
        UnivFDError, match=r"^more than 10 pieces of work, the last from number \d+, failed, or were begun"
    ):
        list(clusters.over_partitions(ray, where, Dying, {}, list(range(40))))
    assert len(list(tmp_path.iterdir())) < 25


@pytest.mark.parametrize("at_opening", [True, False])
def test_what_a_worker_refuses_reaches_the_driver_as_it_was(
    nodes: Nodes, where: Where, monkeypatch: pytest.MonkeyPatch, at_opening: bool
) -> None:
    class Refusing:
        """Opens nothing, or refuses one partition."""

        def __init__(self) -> None:
            if at_opening:
                raise WeightsError("the weights are not here")

        def has(self, table: Any) -> bool:
            return False

        def __call__(self, table: Any) -> Any:
            if 3 in table["partition"].to_pylist():
                raise WeightsError("the weights are not here")
            return table

    done: list[int] = []
    rows = clusters.over_partitions(ray, where, Refusing, {}, list(range(12)))
    with pytest.raises(WeightsError, match=r"^the weights are not here$"):
        done.extend(row["partition"] for row in rows)
    assert sorted(done) == ([] if at_opening else [0, 1, 2, *range(4, 12)])


def test_an_actor_larger_than_any_node_is_refused_here_and_waited_for_elsewhere(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    words = r"each actor asks for 64 CPU and 0.5 GPU .*, and no node has more than [\d.]+ CPU, 0 GPU"
    with pytest.raises(UsageError, match=words):
        clusters._room(ray, Where(cpus=64, gpus=0.5))
    assert clusters._room(ray, Where("auto", cpus=64, gpus=0.5)) == 1
    assert "waiting until one joins the cluster" in caplog.text
    assert clusters._room(ray, Where("auto")) > 1


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_resumed_and_never_overwritten(
    nodes: Nodes, where: Where, toy_detector: Detector, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, out = [str(pictures / "a")], tmp_path / "run"
    folder = Folder(str(out))
    first = running.detect(toy_detector, inputs, folder, where, WORK, size=20)
    whole, times = rows(out), {p: p.stat().st_mtime_ns for p in parts(out)}
    for lost in (parts(out)[0], parts(out)[2]):
        lost.unlink()
    again = running.detect(toy_detector, inputs, folder, where, WORK, resume=True)
    assert again.done_before == first.partitions - 2
    assert (again.images, again.counts) == (first.images, first.counts)
    assert rows(out) == whole
    assert sum(p.stat().st_mtime_ns == times[p] for p in parts(out)) == first.partitions - 2

    monkeypatch.setattr(running, "connected", None)  # a finished run asks for no cluster
    start = time.perf_counter()
    done = running.detect(toy_detector, inputs, folder, where, WORK, resume=True)
    assert time.perf_counter() - start < 2
    assert (done.images, done.counts, done.done_before) == (first.images, first.counts, first.partitions)
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == first.images

    with pytest.raises(OutputExistsError, match="--resume"):
        running.detect(toy_detector, inputs, folder, where, WORK)
    with pytest.raises(UsageError, match="other inputs"):
        running.detect(toy_detector, [str(pictures / "Z")], folder, where, WORK, resume=True)
    with pytest.raises(UsageError, match="max_pixels"):
        running.detect(toy_detector, inputs, folder, where, Work(1, 1, max_pixels=5), resume=True)
    with pytest.raises(UsageError, match="partition: 20 there, 30 now"):
        running.detect(toy_detector, inputs, folder, where, WORK, size=30, resume=True)
    (out / "run.json").unlink()
    with pytest.raises(UsageError, match="holds no run"):
        running.detect(toy_detector, inputs, folder, where, WORK, resume=True)


def test_a_run_below_its_inputs_does_not_read_itself(
    nodes: Nodes, where: Where, toy_detector: Detector, tmp_path: Path
) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i), "PNG"))
    folder = Folder(str(tmp_path / "a-run"))  # sorted before the images
    report = running.detect(toy_detector, [str(tmp_path)], folder, where, WORK, size=2)
    assert (report.images, dict(report.counts).get("failed")) == (6, None)
    (tmp_path / "a-run" / "rows" / partition_name(1)).unlink()
    again = running.detect(toy_detector, [str(tmp_path)], folder, where, WORK, resume=True)
    assert (again.images, again.done_before) == (6, 2)
    assert [i.name for i in expand([str(tmp_path)]) if isinstance(i, Failure)] == []
    assert len(list(expand([str(tmp_path)]))) == 6


def test_a_run_below_parquet_inputs_does_not_read_itself(
    nodes: Nodes, where: Where, toy_detector: Detector, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": [encoded(picture(i), "PNG") for i in range(6)]}), tmp_path / "images.parquet")
    folder = Folder(str(tmp_path / "z-run"))  # its listing is there when the walk comes to it
    first = running.detect(toy_detector, [tmp_path], folder, where, WORK, size=2, image_column="image")
    again = running.detect(toy_detector, [tmp_path], folder, where, WORK, image_column="image", resume=True)
    assert (first.images, again.images, again.done_before) == (6, 6, 3)


def test_what_cannot_be_sent_is_refused_before_anything_is_listed(
    where: Where, toy_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UsageError("decides with rows of a store, which are not copied")

    monkeypatch.setattr(Detector, "save", refuse)
    with pytest.raises(UsageError, match="which are not copied"):
        running.detect(toy_detector, [str(tmp_path)], Folder(str(tmp_path / "run")), where, WORK)
    assert not (tmp_path / "run").exists()


def test_from_bucket_to_bucket(
    nodes: Nodes, where: Where, toy_detector: Detector, uploaded: str, pictures: Path, tmp_path: Path
) -> None:
    inputs = [uploaded.replace("/in?", "/in/Z?"), uploaded.replace("/in?", "/in/a/shard.tar?")]
    folder = Folder(uploaded.replace("/in?", "/out/run?"))
    report = running.detect(toy_detector, inputs, folder, where, WORK, size=30)
    system, top = open_store(folder.place)
    ours = pa.concat_tables(
        [pq.read_table(f"{top}/rows/{partition_name(n)}", filesystem=system) for n in range(report.partitions)]
    )
    here = [pictures / "Z", pictures / "a" / "shard.tar"]
    for link in ("loop", "nowhere.jpg"):
        (pictures / "Z" / link).rename(tmp_path / link)
    theirs = single(toy_detector, list(map(str, here)), tmp_path / "single.parquet")
    for link in ("loop", "nowhere.jpg"):
        (tmp_path / link).rename(pictures / "Z" / link)
    names = [n.replace(str(pictures), "s3://pictures/in") for n in theirs["image"].to_pylist()]
    same(ours, theirs.set_column(0, theirs.schema.field("image"), [names]))
    assert report.counts["failed"] == 3
    (folder_names, done) = folder.names(), running.detect(toy_detector, inputs, folder, where, WORK, resume=True)
    assert folder_names == {"run.json", "report.json", "listing", "rows"}
    assert done.done_before == report.partitions


def test_embeddings_and_the_embedding_cache(
    nodes: Nodes, where: Where, toy: Backbone, pictures: Path, tmp_path: Path
) -> None:
    inputs, out, cut = [str(pictures / "a")], tmp_path / "run", view("native")
    report = running.embed("toy", toy, cut, inputs, Folder(str(out)), where, WORK, perturb="jpeg:60", size=25)
    ours = rows(out)
    batches = list(embed_images(toy, cut, inputs, perturb="jpeg:60"))
    items = [i for b in batches for i in b.items]
    assert ours["image"].to_pylist() == [i.image if isinstance(i, Failure) else i.name for i in items]
    assert [e for e in ours["error"].to_pylist() if e] == [i.error for i in items if isinstance(i, Failure)]
    vectors = [v for v in ours["vector"].to_pylist() if v is not None]
    expected = [v.tolist() for b in batches for v in b.embeddings.vectors]
    assert vectors == [pytest.approx(v, abs=1e-6) for v in expected]
    assert report.counts == {"failed": ours["status"].to_pylist().count("failed"), "ok": len(vectors)}

    images = list(keyed(inputs))
    space = space_of(toy, cut)
    remote, local = EmbeddingCache(space, root=tmp_path / "r"), EmbeddingCache(space, root=tmp_path / "l")
    told: list[int] = []
    failures = embed_missing(remote, "toy", images, where, WORK, shard=30, on_done=told.append)
    expected_failures = embed_here(local, toy, cut, images)
    assert failures == expected_failures
    assert failures
    a, b = remote.batch(images, failures), local.batch(images, expected_failures)
    assert a.items == b.items
    assert a.embeddings.vectors == pytest.approx(b.embeddings.vectors, abs=1e-6)
    assert sum(told) == len({i.sha256 for i in images if not isinstance(i, Failure)})


# -- the command line --------------------------------------------------------------------------------------------------


def univfd(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "univfd", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_the_command_on_a_cluster_of_its_own(
    toy_folder: Path, toy_detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("detect", pictures / "Z", "--detector", toy_folder, "-o", out, "--partition", 40, "--ray")
    said = univfd(*command, code=3).stderr
    expected = single(toy_detector, [str(pictures / "Z")], tmp_path / "single.parquet")
    partitions = -(-len(expected) // 40)
    assert f"{partitions} partitions" in said
    assert f"{expected['status'].to_pylist().count('failed')} failed" in said
    same(rows(out), expected)
    assert f"{partitions} were there" in univfd(*command[:-1], "--resume", "--ray", code=3).stderr
    assert "never overwritten" in univfd(*command, code=2).stderr


@pytest.mark.parametrize("engine", ["cpu-int8", "openvino-bf16"])
def test_the_actors_take_the_lossy_engine_that_was_named(engine: str, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i, 240, 260), "PNG"))
    command = ("detect", *sorted(tmp_path.glob("*.png")), "--engine", engine, "--parquet")
    univfd(*command, "-o", tmp_path / "single.parquet")
    univfd(*command[:-1], "-o", tmp_path / "run", "--ray")
    expected, got = pq.read_table(tmp_path / "single.parquet"), rows(tmp_path / "run")
    for column in ("image", "detector", "space", "verdict"):
        assert got[column].to_pylist() == expected[column].to_pylist()
    moved = np.abs(np.subtract(got["score"].to_pylist(), expected["score"].to_pylist())).max()
    assert moved < 0.1  # its rows hang a little on the batch
    assert "no engine is called" in univfd(*command[:-2], "nonsense", "-o", tmp_path / "other", "--ray", code=2).stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(
    sent: signal.Signals, code: int, toy_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    """Ray puts a handler of its own in place, which ended the process with a dump."""
    command = [
        sys.executable,
        "-m",
        "univfd",
        "detect",
        pictures / "Z",
        "--detector",
        toy_folder,
        "-o",
        tmp_path / "run",
    ]
    arguments = [*map(str, command), "--partition", "1", "--ray"]
    # The tests may run where SIGINT is ignored (in the background of a script), which a child would inherit.
    deaf = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        started = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, deaf)
    with started as run:
        until = time.monotonic() + 120
        while not list((tmp_path / "run" / "rows").glob("*.parquet")) and time.monotonic() < until:
            time.sleep(0.05)
        run.send_signal(sent)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == code, said
    assert "--resume goes on" in said


def test_the_bank_is_added_to_in_one_edit(where: Where, pictures: Path, tmp_path: Path) -> None:
    from univfd.store import BankStore

    store = tmp_path / "store"
    univfd("bank", "create", store, "--backbone", "toy")
    for folder, more in (("a", [f"--ray={where.address}"]), ("Z", [])):
        univfd("bank", "add", store, pictures / folder, "--label", "real", *more, code=3)
    first, second = (BankStore.open(str(store)).snapshot(n) for n in ("1", "2"))
    assert len(first.edit.added) == len(first.rows) > 100
    assert len(second.rows) > len(first.rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-actors", "2"], "--ray-actors: of --ray"),
        (["--ray=photos"], "put --ray behind the images"),
        (["--ray", "--ray-actors", "3:2"], "the other way round"),
        (["--ray", "--ray-actors", "x"], "expected MIN"),
        (["--ray", "--csv", "-o", "x"], "leave the format out"),
        (["--ray", "--provenance", "-o", "x"], "--provenance: not with --ray"),
        (["--ray"], "needs -o"),
        (["--ray", "-o", "out.parquet"], "named like a file"),
    ],
)
def test_what_says_nothing_on_a_cluster_is_refused(options: list[str], words: str) -> None:
    from click.testing import CliRunner

    from univfd.cli import group

    result = CliRunner().invoke(group, ["detect", "x.jpg", *options])
    assert words in str(result.exception) + result.output


def test_an_output_may_be_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from univfd.cli._ray import place

    monkeypatch.chdir(tmp_path)
    assert place(Path("s3://pictures/out/run?region=x")) == "s3://pictures/out/run?region=x"
    assert place(Path("out")) == str(tmp_path / "out")
    assert place(Path("/a/b")) == "/a/b"


def test_embedding_nothing_is_said(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = univfd("embed", tmp_path / "empty", "-o", tmp_path / "e", "--backbone", "toy", "--ray", code=3)
    assert "there was nothing to embed; check the paths" in done.stderr


def test_a_folder_named_like_an_encoder_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("toy", "mine"):
        (tmp_path / name).mkdir()
    assert [_everywhere(name) for name in ("toy", "mine", "other")] == ["toy", str(tmp_path / "mine"), "other"]


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"univfd\[ray\]"), clusters.connected(Where()):
        pass


def test_another_detector_on_a_node_is_refused(toy_detector: Detector) -> None:
    packed = Packed.of(toy_detector)
    assert packed.open(1).identity == toy_detector.identity
    with pytest.raises(UnivFDError, match="same version"):
        Packed(packed.files, "toy@0").open(1)
