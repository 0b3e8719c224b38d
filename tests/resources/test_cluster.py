"""Batches on a Ray cluster of two nodes: each task is answered once, whatever ends; what can't be used is said."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import Nodes, Squares, read_log, started_nodes

from finetune.errors import UserError
from finetune.resources import cluster
from finetune.resources.cluster import ClusterOptions, Lost, compute_on_cluster, join_cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with started_nodes() as started, join_cluster(started.address):
        yield started


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_BATCH_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "_MAX_BATCH", 8)


def compute(work: Squares, count: int, **options: Any) -> tuple[list[int], list[tuple[int, str]]]:
    """The numbers that were answered, each as often as it was, and those that were lost with the reason."""
    answered: list[int] = []
    lost: list[tuple[int, str]] = []
    for batch, answer in compute_on_cluster(work, range(count), ClusterOptions(**options)):
        if isinstance(answer, Lost):
            lost += [(number, answer.reason) for number in batch]
        else:
            assert answer == [number * number for number in batch]
            answered += batch
    return sorted(answered), lost


def wait_for_log(folder: Path, count: int) -> list[tuple[int, int, str, str]]:
    deadline = time.monotonic() + 120
    while len(log := read_log(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return log


def test_all_nodes_work_and_nothing_is_left(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_TEST", "told")
    taken = 0

    class Counted(Sequence[int]):
        def __len__(self) -> int:
            return 300

        def __getitem__(self, places: Any) -> Any:
            nonlocal taken
            taken = max(taken, places.stop)
            return range(300)[places]

    answered: list[int] = []
    work = Squares(str(tmp_path), pause=0.02, nodes=2)
    for batch, _ in compute_on_cluster(work, Counted(), ClusterOptions(variables=("FINETUNE_TEST", "FINETUNE_NONE"))):
        answered += batch
        assert taken - len(answered) <= 3 * 2 * 8  # Three actors at most, two batches each.
    assert sorted(answered) == list(range(300))
    log = read_log(tmp_path)
    assert len(log) == 300 and {value for *_, value in log} == {"told"}
    assert len({node for _, _, node, _ in log}) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in {pid for _, pid, *_ in log}):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_an_actor_and_a_node_that_are_killed_lose_nothing(nodes: Nodes, tmp_path: Path) -> None:
    (node,) = nodes.restore()
    killed: list[str] = []

    def kill() -> None:
        log = wait_for_log(tmp_path, 30)
        os.kill(log[-1][1], signal.SIGKILL)
        killed.append("actor")
        wait_for_log(tmp_path, 120)
        nodes.kill(node)
        killed.append("node")

    thread = threading.Thread(target=kill)
    thread.start()
    answered, lost = compute(Squares(str(tmp_path), pause=0.03), 400)
    thread.join()
    assert killed == ["actor", "node"]
    assert answered == list(range(400)) and not lost
    log = read_log(tmp_path)
    assert 400 < len(log) <= 400 + 3 * 2 * 8


@pytest.mark.slow
def test_a_node_that_joins_later_is_used_and_actors_can_be_limited(nodes: Nodes, tmp_path: Path) -> None:
    for node in nodes.restore():
        nodes.kill(node)
    one, both = tmp_path / "one", tmp_path / "both"
    one.mkdir()
    both.mkdir()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(compute(Squares(str(both), pause=0.05, nodes=2), 200)))
    thread.start()
    deadline = time.monotonic() + 120
    while not list(both.glob("tried-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nodes.add()
    thread.join()
    assert found == [(list(range(200)), [])] and len({node for _, _, node, _ in read_log(both)}) == 2
    answered, _ = compute(Squares(str(one)), 40, max_actors=1)
    assert answered == list(range(40)) and len({pid for _, pid, *_ in read_log(one)}) == 1


@pytest.mark.slow
def test_a_task_that_ends_its_process_is_given_up_and_the_others_are_not(nodes: Nodes, tmp_path: Path) -> None:
    nodes.restore()
    answered, lost = compute(Squares(str(tmp_path), deadly=(7,)), 30)
    assert answered == [number for number in range(30) if number != 7]
    ((number, reason),) = lost
    assert number == 7 and "ended 3 times" in reason
    assert sum(number == 7 for number, *_ in read_log(tmp_path)) == 3


@pytest.mark.slow
def test_actors_that_all_end_are_not_started_for_ever(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_MAX_ENDS", 2)
    nodes.restore()
    with pytest.raises(UserError, match="Each actor on the Ray cluster ends before it has computed anything: "):
        compute(Squares(str(tmp_path), deadly=tuple(range(100))), 100)
    assert len(read_log(tmp_path)) < 30


@pytest.mark.long
def test_a_node_without_the_model_is_left_out_with_its_name(nodes: Nodes, tmp_path: Path, logged: list[str]) -> None:
    (node,) = nodes.restore()
    answered, lost = compute(Squares(str(tmp_path), pause=0.05, nodes=2, broken=node.node_id), 60)
    assert answered == list(range(60)) and not lost
    assert node.node_id not in {name for _, _, name, _ in read_log(tmp_path)}
    said = [line for line in logged if "can't be used" in line]
    name = f"{socket.gethostname()} ({node.node_id[:8]})"
    assert said == [f"note: node {name} of the Ray cluster can't be used: there is no model at /models/talks."]
    with pytest.raises(UserError, match=r"No node can be used; node .* can't be used: there is no model at /models"):
        compute(Squares(str(tmp_path), broken="all"), 60)


def test_nodes_with_different_models_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    (node,) = nodes.restore()
    with pytest.raises(UserError, match="have different models or versions of finetune under one name"):
        compute(Squares(str(tmp_path), pause=0.1, other=node.node_id), 1000)


@pytest.mark.slow
def test_a_wait_for_places_is_said(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr(cluster, "_NOTE_SECONDS", 0.5)
    answers = compute_on_cluster(Squares(str(tmp_path)), range(3), ClusterOptions(cores=64))
    thread = threading.Thread(target=lambda: next(answers, None), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not any("an actor needs 64 CPU of a node" in line for line in logged):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    nodes.restore()
    nodes.add(cores=64)
    thread.join(120)
    assert not thread.is_alive()
    answers.close()


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    began = time.monotonic()
    for address, said in (
        (f"127.0.0.1:{port}", f"There is no Ray cluster at 127.0.0.1:{port}: connection refused; start its head"),
        ("nowhere.invalid:6379", "There is no Ray cluster at nowhere.invalid:6379: "),
        ("ray://127.0.0.1:10001", "is not the address of a Ray cluster: expected HOST:PORT of its head"),
        ("127.0.0.1", "127.0.0.1 is not the address of a Ray cluster"),
    ):
        with pytest.raises(UserError, match=said), join_cluster(address):
            pass
    assert time.monotonic() - began < 30
