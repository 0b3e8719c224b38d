"""Work in batches on the actors of a Ray cluster: each task is answered once, whichever actors and nodes are lost.

Plain actors and not Ray Data: its `read_audio` loads whole files into the object store, its checkpoints are for its own
file sinks, and an actor pool that loses its last node fails. Here a batch of paths goes to an actor and a small answer
comes back; whoever asked alone writes files, so that a batch that is computed twice is written once.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from finetune.errors import UserError, describe_fault, format_error

_LOGGER = logging.getLogger(__name__)

Task = TypeVar("Task")
Sent = TypeVar("Sent", contravariant=True)
Answer = TypeVar("Answer")
Computed = TypeVar("Computed", covariant=True)

# A batch computes while the next is there already, and is read.
_BATCHES_EACH = 2
# A batch is to take this long: long enough to be worth sending, and little is lost with it.
_BATCH_SECONDS, _MAX_BATCH = 5.0, 256
# Towards the end batches become smaller, so that actors end together.
_BATCHES_LEFT = 3
# A task whose actor ended this often is given up; from the second time on it has an actor to itself.
_MAX_LOSSES = 3
# Ends without an answer between before all is given up: of actors while they start and none is ready, and, for each
# actor that there was at most, of ready ones.
_MAX_FAILED_STARTS, _MAX_ENDS = 3, 10
# After an actor that failed to start the next waits, twice as long each time.
_MAX_PAUSE_SECONDS = 60.0
# How often free places are counted, how long a cluster may be out of reach, and when a wait for it is worth a note.
_LOOK_SECONDS, _GONE_SECONDS, _NOTE_SECONDS = 1.0, 20.0, 120.0
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class ClusterOptions:
    """Where a cluster is, and what of it is used.

    Without an `address` it is that of RAY_ADDRESS, else one that runs on this machine, else one is started for this
    command. `max_actors` is None for as many as fit. An actor has `cores`, and a GPU where `device` allows it and the
    cluster has one. `variables` of this process's environment are set in the actors, too.
    """

    address: str | None = None
    max_actors: int | None = None
    cores: int = 1
    device: str = "auto"
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """The answer to a task whose actors ended, each time that it was tried."""

    reason: str


class Work(Protocol[Sent, Computed]):
    """What actors compute: it is sent to each, small, and loaded there once."""

    def load(self) -> tuple[Callable[[Sequence[Sent]], Computed], str]:
        """What computes batches, and what identifies it: the same in each actor. Raises UserError."""


@contextmanager
def join_cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or to one that is started; it ends with the context.

    Raises UserError if Ray is not installed, if there is no cluster at the address, or if it can't be joined.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs the package ray: pip install 'finetune[ray]'.") from error
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _require_reachable(address)
    try:
        dashboard = False if address in (None, "local") else None
        ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
        where = f"at {address}" if address else "here"
        raise UserError(f"The Ray cluster {where} can't be joined: {format_error(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raise UserError unless something listens there: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise UserError(
            f"{address} is not the address of a Ray cluster: expected HOST:PORT of its head, such as 10.0.0.1:6379, "
            "on a machine that is one of its nodes."
        )
    if (reason := _find_fault(host, int(port))) is not None:
        raise UserError(f"There is no Ray cluster at {address}: {reason}; start its head with `ray start --head`.")


def _find_fault(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host.strip("[]"), port), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    return None


def compute_on_cluster(
    work: Work[Task, Answer], tasks: Sequence[Task], options: ClusterOptions
) -> Generator[tuple[Sequence[Task], Answer | Lost]]:
    """Batches of tasks with their answers, in the order of their ends; each task is in exactly one.

    Actors are started as long as the cluster has places and tasks are left, also on nodes that join later. Batches of
    actors that end are computed by others. Only a few batches are on their way at any time. Call it within
    `join_cluster`.

    Raises UserError if the cluster is gone, if no node can load the work, or if two nodes load different ones.
    """
    crew = _Crew(work, tasks, options)
    try:
        yield from crew.compute()
    finally:
        crew.dismiss()


def name_for_nodes(place: str) -> str:
    """A folder or file here by its whole path, which it must have on each node; a name on a hub or a URL as it is."""
    return os.path.abspath(place) if os.path.exists(place) else place  # noqa: PTH100, PTH110 (links stay as they are)


@dataclass(frozen=True)
class _Loaded:
    """Where an actor is, and what identifies its work, or why it can't be loaded there."""

    node: str
    name: str
    identity: str = ""
    fault: str | None = None


class _Actor:
    """Holds what computes batches, in a process of its own on a node."""

    def __init__(self, variables: dict[str, str]) -> None:
        os.environ.update(variables)  # Before the work comes: its module may import what reads them once.
        self._compute: Callable[[Sequence[Any]], Any] | None = None

    def load(self, work: Work[Any, Any]) -> _Loaded:
        """Load the work."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        name = f"{socket.gethostname()} ({node[:8]})"
        try:
            self._compute, identity = work.load()
        except Exception as error:
            return _Loaded(node, name, fault=describe_fault(error))
        return _Loaded(node, name, identity)

    def compute(self, batch: Sequence[Any]) -> Any:
        """Compute a batch."""
        assert self._compute is not None
        return self._compute(batch)


@dataclass(eq=False)
class _Member(Generic[Task]):
    """A ready actor, and when each of its batches was sent; `losses` of a task that it computes alone."""

    actor: Any
    running: dict[Any, tuple[Sequence[Task], float]] = field(default_factory=dict)
    losses: int = 0


class _Crew(Generic[Task, Answer]):
    """The actors of one computation, and its tasks: those left, those on their way, and those lost with an actor."""

    def __init__(self, work: Work[Task, Answer], tasks: Sequence[Task], options: ClusterOptions) -> None:
        import ray

        self._ray, self._work, self._options = ray, work, options
        self._variables = {name: os.environ[name] for name in options.variables if name in os.environ}
        self._tasks, self._next = tasks, 0
        self._lost: deque[tuple[Task, int]] = deque()  # With the number of times.
        self._starting: dict[Any, Any] = {}
        self._ready: list[_Member[Task]] = []
        self._first: _Loaded | None = None
        self._excluded: dict[str, str] = {}
        self._failed_starts = self._ends = self._most_ready = 0
        self._start_again = 0.0
        self._task_seconds: float | None = None
        self._looked = self._reached = self._worked = time.monotonic()
        self._noted = False
        self._places = 0

    def compute(self) -> Iterator[tuple[Sequence[Task], Answer | Lost]]:
        """All batches with their answers."""
        self._count_places()
        while self._count_left() or any(member.running for member in self._ready):
            self._look()
            self._recruit()
            self._assign()
            waiting = [*self._starting, *(ref for member in self._ready for ref in member.running)]
            for ref in self._ray.wait(waiting, num_returns=1, timeout=_LOOK_SECONDS)[0] if waiting else ():
                if ref in self._starting:
                    self._admit(ref)
                else:
                    yield from self._collect(ref)

    def dismiss(self) -> None:
        """End all actors."""
        for actor in (*self._starting.values(), *(member.actor for member in self._ready)):
            with suppress(Exception):  # What is gone already has ended.
                self._ray.kill(actor)

    def _count_left(self) -> int:
        """Tasks that no actor has."""
        return len(self._tasks) - self._next + len(self._lost)

    def _look(self) -> None:
        """Once in a while, see whether the cluster is there, and how many more actors it has places for."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
        if _find_fault(host, int(port)) is None:
            self._reached = now
            self._count_places()
        elif now - self._reached > _GONE_SECONDS:
            raise UserError("The Ray cluster is gone: its head does not answer any more.")
        if self._ready:
            self._worked = now
        elif self._excluded:
            self._require_node()
        if now - self._worked > _NOTE_SECONDS and not self._noted:
            self._noted = True
            wanted = ", ".join(f"{count:g} {name}" for name, count in self._resources().items())
            _LOGGER.warning(f"still waiting for the cluster: an actor needs {wanted} of a node, and loads the model")

    def _resources(self) -> dict[str, float]:
        """What an actor needs of a node."""
        device = self._options.device
        on_gpu = device.startswith("cuda") or (device == "auto" and self._ray.cluster_resources().get("GPU", 0) >= 1)
        return {"CPU": self._options.cores, **({"GPU": 1} if on_gpu else {})}

    def _count_places(self) -> None:
        free = self._ray.available_resources()
        self._places = int(min(free.get(name, 0) // count for name, count in self._resources().items()))

    def _recruit(self) -> None:
        """Start actors where there are places, and one more: it waits for a node, and has an autoscaler add one."""
        if time.monotonic() < self._start_again:
            return
        wanted = min(self._count_left(), max(1, self._places)) - len(self._starting)
        if self._options.max_actors is not None:
            wanted = min(wanted, self._options.max_actors - len(self._ready) - len(self._starting))
        resources = self._resources() if wanted > 0 else {}
        for _ in range(wanted):
            how: dict[str, Any] = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
            if self._excluded:
                how["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._excluded)})"}
            actor = self._ray.remote(_Actor).options(max_concurrency=_BATCHES_EACH, **how)
            actor = actor.remote(self._variables)
            self._starting[actor.load.remote(self._work)] = actor

    def _admit(self, ref: Any) -> None:
        """Take in an actor that has loaded the work; leave out its node if it could not."""
        actor = self._starting.pop(ref)
        try:
            loaded: _Loaded = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            self._start_again = time.monotonic() + min(2.0**self._failed_starts, _MAX_PAUSE_SECONDS)
            if self._failed_starts >= _MAX_FAILED_STARTS and not self._ready:
                raise UserError(f"No actor starts on the Ray cluster: {_shorten(error)}") from error
            return
        if loaded.fault is not None:
            self._exclude(loaded)
            self._ray.kill(actor)
            return
        self._first = self._first or loaded
        if loaded.identity != self._first.identity:
            raise UserError(
                f"The nodes {self._first.name} and {loaded.name} have different models or versions of finetune under "
                "one name: expected the same on each node; nothing was lost, and --resume goes on."
            )
        self._failed_starts = 0
        self._ready.append(_Member(actor))
        self._most_ready = max(self._most_ready, len(self._ready))

    def _exclude(self, loaded: _Loaded) -> None:
        if loaded.node not in self._excluded:
            self._excluded[loaded.node] = f"node {loaded.name} of the Ray cluster can't be used: {loaded.fault}"
            self._require_node()
            _LOGGER.warning(self._excluded[loaded.node])

    def _require_node(self) -> None:
        """Raise UserError if no actor is ready and every node is left out."""
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if not self._ready and alive <= self._excluded.keys():
            raise UserError(f"No node can be used; {[*self._excluded.values()][-1]}")

    def _assign(self) -> None:
        """Send batches to actors that have fewer than they can take, the idle ones first."""
        for busy in range(_BATCHES_EACH):
            for member in self._ready:
                if len(member.running) == busy and not member.losses and (batch := self._take(member)):
                    member.running[member.actor.compute.remote(batch)] = (batch, time.monotonic())

    def _take(self, member: _Member[Task]) -> Sequence[Task]:
        """The next batch for an actor; a task that was lost goes to an idle one, alone, to see whose fault it is."""
        if self._lost and not member.running:
            task, member.losses = self._lost.popleft()
            return [task]
        left = len(self._tasks) - self._next
        count = 1 if self._task_seconds is None else int(_BATCH_SECONDS / max(self._task_seconds, 1e-6))
        count = max(1, min(count, _MAX_BATCH, left // (_BATCHES_LEFT * len(self._ready))))
        batch = self._tasks[self._next : self._next + count]
        self._next += len(batch)
        return batch

    def _collect(self, ref: Any) -> Iterator[tuple[Sequence[Task], Answer | Lost]]:
        """The answer to a batch; where its actor has ended, all of the actor's batches are to be computed anew."""
        member = next(each for each in self._ready if ref in each.running)
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from error
            raise
        except errors.RayError as error:
            yield from self._lose(member, error)
            return
        batch, began = member.running.pop(ref)
        seconds = (time.monotonic() - began) / len(batch)
        self._task_seconds = seconds if self._task_seconds is None else 0.7 * self._task_seconds + 0.3 * seconds
        member.losses = self._ends = 0
        yield batch, answer

    def _lose(self, member: _Member[Task], error: Exception) -> Iterator[tuple[Sequence[Task], Lost]]:
        self._ready.remove(member)
        with suppress(Exception):
            self._ray.kill(member.actor)
        self._ends += 1
        if self._ends >= _MAX_ENDS * self._most_ready:
            raise UserError(f"Each actor on the Ray cluster ends before it has computed anything: {_shorten(error)}")
        losses = 1 + member.losses
        batches = [batch for batch, _ in member.running.values()]
        count = sum(map(len, batches))
        _LOGGER.info(f"an actor has ended: {_shorten(error)}; others compute its {count} tasks")
        for task in (task for batch in batches for task in batch):
            if losses >= _MAX_LOSSES:
                yield [task], Lost(f"the actor that computed it ended {losses} times; its memory may not be enough")
            else:
                self._lost.append((task, losses))


def _shorten(error: Exception) -> str:
    """What Ray says of an actor's end, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:1])[:300] or type(error).__name__
