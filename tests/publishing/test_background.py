"""Background pushes: a stand-in for `finetune push` records its calls and behaves as instructed."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hub import OTHER_TOKEN, TOKEN, Hub
from programs import started

from finetune.errors import UserError
from finetune.publishing import background
from finetune.publishing.background import Publisher, require_hub
from finetune.publishing.upload import Destination

# What becomes of it stands in the export's file `told`; who waits is let go by the file `go` in the run's folder.
STAND_IN = """
import os, pathlib, subprocess, sys, time
source, log = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[1])
with log.open("a") as file:
    print(*sys.argv[3:], source.name, file=file)
told = source / "told"
told = told.read_text() if told.exists() else ""
if "wait" in told:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    child.stdout.readline()
    (log.parent / "pids").write_text(f"{os.getpid()} {child.pid}")
    while not (log.parent / "go").exists():
        time.sleep(0.01)
    child.kill()
if "environment" in told:
    print(sorted(os.environ.items()), file=log.open("a"))
if "fail" in told:
    sys.exit("trying again in 1 s\\nfinetune: The hub can't be reached.")
if "crash" in told:
    raise ValueError("a bug")
print("a line\\non the hub: URL")
"""


class Run:
    """A publisher whose program is the stand-in, and the log."""

    def __init__(self, folder: Path, said: list[str], every: bool = False) -> None:
        self.folder, self.said = folder, said
        (folder / "stand_in.py").write_text(STAND_IN)
        self.log = folder / "log"
        program = [sys.executable, str(folder / "stand_in.py"), str(self.log)]
        self.publisher = Publisher(folder / "publishing", ["team/tones"], every=every, program=program)

    def offer(self, step: int, told: str = "") -> None:
        self.publisher.offer(step, lambda folder: (folder / "told").write_text(told) and None)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.said, self.pushed)
            self.publisher.poll()
            time.sleep(0.01)

    @property
    def pushed(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def exports(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "publishing").glob("*"))

    @property
    def pids(self) -> list[int]:
        file = self.folder / "pids"
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []


@pytest.fixture
def run(tmp_path: Path, logged: list[str]) -> Iterator[Run]:
    run = Run(tmp_path, logged)
    yield run
    run.publisher.close()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


ONE = "team/tones --with-parent"


def test_one_at_a_time_and_the_newest_first(run: Run) -> None:
    run.offer(10, "wait")
    run.wait_for(lambda: len(run.pids) == 2)
    run.offer(20)
    run.offer(30)
    assert run.exports == ["step-000010", "step-000030"]
    (run.folder / "go").touch()
    run.wait_for(lambda: len(run.said) == 2)
    assert run.pushed == [f"{ONE} step-000010", f"{ONE} step-000030"]
    assert run.said == [f"{step}: on the hub: URL" for step in ("step-000010", "step-000030")]
    assert run.exports == []


def test_offering_returns_at_once_and_the_push_has_the_lowest_priority(run: Run) -> None:
    began = time.monotonic()
    run.offer(10, "wait")
    assert time.monotonic() - began < 1
    run.wait_for(lambda: len(run.pids) == 2)
    for pid in run.pids:
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert psutil.Process(pid).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    background._restore_priority(run.pids[0])
    assert [os.sched_getscheduler(pid) for pid in run.pids] == [os.SCHED_OTHER] * 2


def test_push_does_not_inherit_the_variables_of_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run.offer(10, "environment")
    run.wait_for(lambda: len(run.said) == 1)
    environment = dict(eval(run.pushed[1]))
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} & set(environment)
    assert environment["OMP_NUM_THREADS"] == "1" and environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["HF_TOKEN"] == TOKEN
    assert environment["TMPDIR"] == str(run.folder / "publishing" / "step-000010")


def test_a_failure_is_logged_once_and_tried_again_later(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.offer(10, "fail")
    run.wait_for(lambda: len(run.said) == 1)
    assert run.said == ["note: step-000010 is not on the hub: The hub can't be reached."]
    run.offer(20, "fail")
    run.wait_for(lambda: len(run.pushed) == 2 and run.publisher._failed is not None)
    run.publisher.poll()
    assert len(run.said) == 1 and len(run.pushed) == 2 and run.exports == ["step-000020"]
    monkeypatch.setattr(background, "_AGAIN_SECONDS", 0.0)
    (run.folder / "publishing" / "step-000020" / "told").write_text("")
    run.wait_for(lambda: run.said[1:] == ["step-000020: on the hub: URL"])
    run.offer(30, "crash")
    run.wait_for(lambda: len(run.said) == 3)
    assert run.said[2] == "note: step-000030 is not on the hub: ValueError: a bug"


def test_export_that_cannot_be_written_or_pushed_is_a_note(run: Run) -> None:
    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("No space left on device")

    run.publisher.offer(10, write)
    assert run.said == ["note: step-000010 is not on the hub: OSError: No space left on device"]
    assert run.exports == []
    run.publisher.program = ["/nowhere/python"]
    run.offer(20)
    assert len(run.said) == 2 and "/nowhere/python" in run.said[1]


def test_close_ends_the_push_and_its_children_and_the_next_run_pushes_again(run: Run) -> None:
    run.offer(10)
    run.wait_for(lambda: len(run.said) == 1)
    run.offer(20, "wait")
    run.wait_for(lambda: len(run.pids) == 2)
    (run.folder / "publishing" / ".step-000030.partial").mkdir()
    began = time.monotonic()
    run.publisher.close()
    assert time.monotonic() - began < 3
    run.wait_for(lambda: not any(is_running(pid) for pid in run.pids))
    (run.folder / "go").touch()
    again = Run(run.folder, run.said)
    again.wait_for(lambda: again.said[1:] == ["step-000020: on the hub: URL"])
    assert again.exports == []


@pytest.mark.parametrize("every", [False, True])
def test_finished_run_is_pushed_after_the_current_push(every: bool, tmp_path: Path, logged: list[str]) -> None:
    run = Run(tmp_path, logged, every)
    run.offer(10, "wait")
    run.wait_for(lambda: len(run.pids) == 2)
    run.offer(20)
    (run.folder / "go").touch()
    run.publisher.finish(tmp_path / "run")
    expected = [f"{ONE} step-000010", f"{ONE} run"]
    if every:
        branch = "team/tones --revision training --with-parent"
        expected = [f"{branch} step-000010", f"{ONE} run", f"{branch} step-000020"]
    assert run.pushed == expected
    assert run.said[-1] == "step-000010: on the hub: URL"
    assert not (tmp_path / "publishing").exists()


def test_finished_run_that_cannot_be_pushed_is_logged_with_the_command(tmp_path: Path, logged: list[str]) -> None:
    run = Run(tmp_path, logged, every=True)
    finished = tmp_path / "my run"
    finished.mkdir()
    (finished / "told").write_text("fail")
    run.offer(10, "fail")
    run.publisher.finish(finished)
    export = tmp_path / "publishing" / "step-000010"
    assert run.said[-1].splitlines() == [
        "note: not on the hub yet; this pushes it later:",
        f"  finetune push '{finished}' team/tones",
        f"  finetune push {export} team/tones --revision training",
    ]
    assert export.is_dir()


@pytest.mark.long
def test_push_ends_with_a_training_that_was_killed(tmp_path: Path) -> None:
    """By SIGKILL, so that training cannot end the push."""
    push = "import sys, time; from finetune.publishing.background import end_with_parent as e; e(); time.sleep(600)"
    training = f"""
import sys, time
from pathlib import Path
from finetune.publishing.background import Publisher
program = [sys.executable, "-c", {push!r}]
publisher = Publisher(Path({str(tmp_path)!r}) / "publishing", [], every=False, program=program)
publisher.offer(10, lambda folder: None)
print("pid", publisher._push.process.pid, flush=True)
time.sleep(60)
"""
    with started([sys.executable, "-c", training]) as program:
        program.wait_for(lambda: "pid" in program.said())
        pid = int(program.said().split()[-1])
        assert psutil.pid_exists(pid)
        time.sleep(1)  # It may be importing still, or watch already: either way it ends.
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
        deadline = time.monotonic() + 120  # It has the lowest priority: nothing else may be left to it for long.
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_invalid_names_and_tokens_are_refused_before_training(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    with pytest.raises(UserError, match=r"can't be a repository's name: expected USER/NAME"):
        require_hub(Destination("no spaces/here"))
    monkeypatch.setattr("finetune.publishing.connection.get_token", lambda: None)
    with pytest.raises(UserError, match="There is no token for the hub"):
        require_hub(Destination("team/tones"))
    monkeypatch.undo()


def test_an_unknown_token_is_refused_and_an_unreachable_hub_is_logged(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    require_hub(Destination("team/tones"))
    assert not logged
    monkeypatch.setenv("HF_TOKEN", "hf_" + "z" * 34)
    with pytest.raises(UserError, match="doesn't know this token") as refused:
        require_hub(Destination("team/tones"))
    assert "zzz" not in str(refused.value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    require_hub(Destination("team/tones"))
    (note,) = logged
    assert "can't be reached" in note and "Training starts all the same" in note and "zzz" not in note
