"""A Ray cluster of several nodes on this machine, and work for it that needs no model."""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.errors import UserError

ROOT = Path(__file__).parents[1]
_MARK = "FINETUNE_NODES"  # A variable that all processes of a cluster have.
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}


class Nodes:
    """A head and one more node, each with one core; nodes are added and killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.add()
        self.address: str = self.cluster.address
        self.add()

    def add(self, cores: int = 1) -> Any:
        """Another node."""
        for left in (2, 1, 0):
            try:
                return self.cluster.add_node(**{**NODE, "num_cpus": cores})
            except Exception:  # Ray waits 30 s for a node, which is not enough where others use the machine.
                if not left:
                    raise
        raise AssertionError

    def kill(self, node: Any) -> None:
        """End a node without a warning, and all that runs on it."""
        self.cluster.remove_node(node, allow_graceful=False)

    def restore(self) -> list[Any]:
        """The nodes besides the head, of which there is one again."""
        for node in self.cluster.worker_nodes.copy():
            if not node.any_processes_alive():
                self.cluster.worker_nodes.remove(node)
        if not self.cluster.worker_nodes:
            self.add()
        self.cluster.wait_for_nodes()
        return list(self.cluster.worker_nodes)


@contextmanager
def started_nodes() -> Iterator[Nodes]:
    """A cluster of which no process is left at the end of the `with` statement."""
    mark = secrets.token_hex(8)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "RAY_USAGE_STATS_ENABLED": "0",
            _MARK: mark,
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Its default of 15 s is not enough where others use the machine.
            "RAY_agent_register_timeout_ms": "120000",
        }.items():
            patch.setenv(name, value)
        nodes = Nodes()
        try:
            yield nodes
        finally:
            import ray

            ray.shutdown()
            for node in (*nodes.cluster.worker_nodes, nodes.cluster.head_node):
                if node is not None:
                    node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            for pid in _list_processes(mark):  # Agents, which miss their node only after a while.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while left := _list_processes(mark):
                assert time.monotonic() < deadline, f"processes of Ray were left: {left}"
                time.sleep(0.1)


def _list_processes(mark: str) -> dict[int, str]:
    """The processes that a cluster has started, wherever they stand now."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found[process.pid] = " ".join(process.cmdline()[:3])
    return found


@dataclass(frozen=True)
class Squares:
    """Squares numbers; writes down which process and node had which, and does what is asked for on some of them."""

    folder: str
    pause: float = 0.01
    nodes: int = 1  # Nodes that have tried to load it before anything is computed.
    broken: str = ""  # A node on which it can't be loaded.
    other: str = ""  # A node on which it is another.
    deadly: tuple[int, ...] = ()  # Numbers that end the process.

    def load(self) -> tuple[Callable[[Sequence[int]], list[int]], str]:
        """What squares, and its name."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        (Path(self.folder) / f"tried-{node}").touch()
        if self.broken in (node, "all"):
            raise UserError("there is no model at /models/talks.")

        def square(batch: Sequence[int]) -> list[int]:
            deadline = time.monotonic() + 120
            while len(list(Path(self.folder).glob("tried-*"))) < self.nodes and time.monotonic() < deadline:
                time.sleep(0.05)
            for number in batch:
                with (Path(self.folder) / "log").open("a") as log:
                    log.write(f"{number} {os.getpid()} {node} {os.environ.get('FINETUNE_TEST', '')}\n")
                if number in self.deadly:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(self.pause)
            return [number * number for number in batch]

        return square, "another" if node == self.other else "the same"


def read_log(folder: Path) -> list[tuple[int, int, str, str]]:
    """What `Squares` wrote down: numbers with process, node and a variable."""
    file = folder / "log"
    lines = [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []
    return [(int(number), int(pid), node, value) for number, pid, node, value in lines]
