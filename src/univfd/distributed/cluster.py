"""Ray: connecting to a cluster, and handing work to actors with Ray Data. There is no scheduler of our own.

Ray Data restarts actors and tries their tasks again without limit. So a lost worker or node costs the partitions that
it was working on. What kills its worker every time would then be tried for ever: `Guarded` counts, and gives a
partition up at its sixth beginning. The others go on, and the run says at its end which are missing. What a worker
raises on purpose comes to the driver by the actor that counts: Ray hands on its text alone.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import UnivFDError, UsageError
from ..registry import missing_extra

log = logging.getLogger(__name__)

LOCAL = "local"
_ADDRESS = re.compile(r"auto|local|[\w.-]+:\d+|\[[0-9a-f:]+\]:\d+")
_TRIES = 5
_GIVEN_UP = 10
_BLOCKS = 20_000
_IN_FLIGHT = 2  # one that is worked on, one that waits: the pool of Ray Data does not grow with fewer


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where to run, and on what.

    Attributes:
        address: `local` (a cluster of this machine for the time of the run), `auto`, or `HOST:PORT` of a running one.
        cpus: of each actor.
        gpus: of each actor.
        least: number of actors that are kept.
        most: number of actors; None: as many as there is room for at the start.
    """

    address: str = LOCAL
    cpus: int = 1
    gpus: float = 0
    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no address, and bounds that are none."""
        if not _ADDRESS.fullmatch(self.address):
            raise UsageError(
                f"{self.address!r} is no address of a Ray cluster; expected local, auto or HOST:PORT. On the command "
                "line write --ray=ADDRESS, or put --ray behind the images"
            )
        if self.most is not None and self.most < self.least:
            raise UsageError(f"at least {self.least} actors and at most {self.most}; expected the other way round")


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected; a local cluster ends with the block. A connection that is there already is used and kept.

    Raises:
        MissingExtraError: Ray is not installed.
        UnivFDError: no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise a local cluster reports to its makers
    os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: beside any other work a local cluster stands still
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise missing_extra("--ray", error) from error
    if ray.is_initialized():
        yield ray
        return
    of_the_program = signal.getsignal(signal.SIGTERM)  # Ray puts one in its place that ends the process with a dump
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, **_local(cluster))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnivFDError(f"no Ray cluster at {cluster.address}: {error}") from error
    with suppress(ValueError):  # in another thread than the main one nothing was replaced either
        signal.signal(signal.SIGTERM, of_the_program)
    try:
        yield ray
    finally:
        ray.shutdown()


def _local(cluster: Cluster) -> dict[str, Any]:
    return {"include_dashboard": False} if cluster.address == LOCAL else {}


def over_partitions(
    ray: Any, cluster: Cluster, worker: Any, arguments: dict[str, Any], partitions: list[int]
) -> Iterator[dict[str, Any]]:
    """What the workers say of each partition, as they are done.

    Args:
        ray: connected.
        cluster: actors and what each gets.
        worker: a class of `univfd.distributed.workers`.
        arguments: of its constructor.
        partitions: numbers.

    Raises:
        UsageError: an actor asks for more than this machine has.
        UnivFDError: the work failed, by a mistake or on more than ten partitions.
    """
    import pyarrow as pa

    tables = [pa.table({"partition": part}) for part in _blocks(partitions)]
    for table in over_tables(ray, cluster, worker, arguments, tables, 1):
        yield from table.to_pylist()


def over_tables(
    ray: Any, cluster: Cluster, worker: Any, arguments: dict[str, Any], tables: list[Any], size: int
) -> Iterator[Any]:
    """The tables that workers make of tables of `size` rows (the last may be shorter), as they are done."""
    record = _record(ray)
    mapped = _mapped(ray, cluster, tables, worker, arguments, size, record)
    try:
        for table in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if len(table):
                yield table
    except ray.exceptions.RayError as error:
        raise _said(ray, record) or _in_words(error) from error
    if (said := _said(ray, record)) is not None:  # of so few pieces of work that the others went on
        raise said


def _blocks(partitions: list[int]) -> list[list[int]]:
    """One partition a block, or a few where there are very many: a block is what an actor gets at a time."""
    step = -(-len(partitions) // _BLOCKS)
    return [partitions[i : i + step] for i in range(0, len(partitions), step)]


def _mapped(
    ray: Any, cluster: Cluster, tables: list[Any], worker: Any, arguments: dict[str, Any], size: int, record: Any
) -> Any:  # fmt: skip
    """The dataset; nothing runs yet."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data = ray.data.from_arrow(tables)
    data.context.enable_progress_bars = False
    room = _room(ray, cluster)
    most = max(cluster.least, cluster.most or room)
    pool = ray.data.ActorPoolStrategy(
        min_size=cluster.least, max_size=most, initial_size=max(cluster.least, min(most, room)),
        max_tasks_in_flight_per_actor=_IN_FLIGHT,
    )  # fmt: skip
    guard = {"worker": worker, "arguments": arguments, "record": record, "tries": _TRIES}
    return data.map_batches(
        Guarded, batch_size=size, batch_format="pyarrow", compute=pool, fn_constructor_kwargs=guard,
        num_cpus=cluster.cpus, num_gpus=cluster.gpus or None,
    )  # fmt: skip


class Guarded:
    """A worker that gives up what has been begun too often without coming to an end."""

    def __init__(self, worker: Any, arguments: dict[str, Any], record: Any, tries: int) -> None:
        """Open the worker.

        Args:
            worker: a class of `univfd.distributed.workers`.
            arguments: of its constructor.
            record: from `_record`.
            tries: how often a piece of work may be begun.
        """
        self._record, self._tries = record, tries
        try:
            self._work = worker(**arguments)
        except UnivFDError as error:
            self._say(error)
            raise

    def __call__(self, table: Any) -> Any:
        """The worker's answer; an empty one where the work is given up.

        Raises:
            UnivFDError: it gave up too much.
        """
        import ray

        number = table.column(table.num_columns - 1)[0].as_py()
        # of a block that is begun again, what was done before counts as begun each time
        if ray.get(self._record.begin.remote(number)) <= self._tries or self._work.has(table):
            try:
                return self._work(table)
            except UnivFDError as error:
                self._say(error)
            except Exception as error:  # a mistake of ours costs this piece alone; Ray's log has where
                log.exception("work from number %s", number)
                self._say(UnivFDError(f"a worker failed: {type(error).__name__}: {error}"))
        if ray.get(self._record.give_up.remote(number)) > _GIVEN_UP:
            enough = UnivFDError(
                f"more than {_GIVEN_UP} pieces of work, the last from number {number}, failed, or were begun "
                f"{self._tries} times and their workers died each time"
            )
            self._say(enough)
            raise enough
        return self._work(table.slice(0, 0))

    def _say(self, error: UnivFDError) -> None:
        """Tell the driver."""
        import ray

        with suppress(Exception):  # the record is lost, or the error cannot be sent: Ray has its text
            ray.get(self._record.say.remote(error))


def _record(ray: Any) -> Any:
    """An actor beside the driver: how often each piece of work was begun, what was given up, what workers raised."""

    class Record:
        def __init__(self) -> None:
            self._counts: Counter[int] = Counter()
            self._given_up: set[int] = set()
            self._said: list[UnivFDError] = []

        def begin(self, number: int) -> int:
            self._counts[number] += 1
            return self._counts[number]

        def give_up(self, number: int) -> int:
            self._given_up.add(number)
            return len(self._given_up)

        def say(self, error: UnivFDError) -> None:
            self._said = self._said or [error]

        def said(self) -> UnivFDError | None:
            return self._said[0] if self._said else None

    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Record).remote()


def _said(ray: Any, record: Any) -> UnivFDError | None:
    """What a worker raised first; None: nothing, or the record is lost."""
    with suppress(ray.exceptions.RayError):
        found = ray.get(record.said.remote())
        return found if isinstance(found, UnivFDError) else None
    return None


def _room(ray: Any, cluster: Cluster) -> int:
    """Actors that the nodes have room for as they are now.

    Raises:
        UsageError: none, on this machine alone.
    """
    wanted = {"CPU": float(cluster.cpus)} | ({"GPU": cluster.gpus} if cluster.gpus else {})
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(there.get(name, 0) // n) for name, n in wanted.items()) for there in nodes)
    if not room:
        asked = " and ".join(f"{n:g} {name}" for name, n in wanted.items())
        most = ", ".join(f"{max(there.get(name, 0) for there in nodes):g} {name}" for name in wanted)
        words = f"each actor asks for {asked} (--ray-cpus, --ray-gpus), and no node has more than {most}"
        if cluster.address == LOCAL:
            raise UsageError(f"{words}. Ask for less; where the run has begun, with --resume: its listing is kept")
        log.warning("%s: waiting until one joins the cluster", words)
    return max(1, room)


def _in_words(error: BaseException) -> UnivFDError:
    """What a worker raised on purpose, as it was; else Ray's words."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for each in (cause, seen):
            if isinstance(each, UnivFDError):
                return each
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return UnivFDError(f"the work on the cluster failed: {error}")
