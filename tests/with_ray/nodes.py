"""A real cluster of Ray on this machine, whose nodes and actors can be lost."""

from __future__ import annotations

from pathlib import Path

from ray.cluster_utils import Cluster


class Nodes:
    """A real cluster on this machine: a head and workers, each with one CPU."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
        )
        self.workers = [self.cluster.add_node(num_cpus=1, num_gpus=0), self.cluster.add_node(num_cpus=1, num_gpus=0)]

    def lose(self) -> None:
        """Kill a node with all that runs on it."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=1, num_gpus=0))

    def actors(self) -> list[int]:
        """Processes of actors of Ray Data that belong to this cluster."""
        raylets = {n.all_processes["raylet"][0].process.pid for n in self.cluster.list_all_nodes()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in raylets and command.startswith(b"ray::MapWorker"):
                found.append(int(entry.name))
        return found
