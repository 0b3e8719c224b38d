"""A run that is stopped by a signal, a kill or a full disk is resumed by the same command, with the same results."""

import fcntl
import json
import os
import pty
import random
import resource
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from programs import started

from finetune.cli import main
from finetune.files import lock_folder

# All that is random is switched on, and a worker loads the data.
SECTIONS = {
    "model": {"dropout": 0.2, "layer_drop": 0.2},
    "augmentation": {"speed": [0.9, 1.1], "noise_snr_db": [5, 20]},
    "training": {
        "max_steps": 60,
        "eval_steps": 20,
        "log_steps": 7,
        "mask_time_probability": 0.2,
        "mask_feature_probability": 0.1,
        "right_context_seconds": [0.1, 0.5],
        "learning_rate": 3e-3,
        "num_workers": 1,
        "keep_best": 2,
        "average_best": 2,
    },
}
OF_THE_MACHINE = {"step_seconds", "audio_seconds_per_second", "memory_gib"}


def command_for(recipe: Path, run: Path) -> list[object]:
    return [sys.executable, "-m", "finetune", "train", recipe, "--output", run]


def lines_in(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def assert_same_result(run: Path, whole: Path, read_lines) -> None:
    """The same lines of the log, and bit for bit the same weights, optimizer and scores."""
    logged = [
        [{key: value for key, value in line.items() if key not in OF_THE_MACHINE} for line in read_lines(file)]
        for file in (run / "metrics.jsonl", whole / "metrics.jsonl")
    ]
    assert logged[0] == logged[1]
    files = [{str(p.relative_to(each)) for p in each.rglob("*") if p.is_file()} for each in (run, whole)]
    assert files[0] == files[1]
    for file in files[0]:
        if file.endswith((".safetensors", ".pt", ".csv", "utterances.jsonl", "scores.json")):
            assert (run / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.fixture(scope="module")
def whole(finetune_run_in, tmp_path_factory):
    """The uninterrupted run, which tests compare with others and do not change."""
    return finetune_run_in(tmp_path_factory.mktemp("whole"), "whole", **SECTIONS)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_leaves_a_checkpoint_and_the_run_is_resumed(
    number, write_recipe, finetune_run, whole, read_lines, tmp_path
):
    run, recipe = tmp_path / "run", write_recipe(tmp_path, **SECTIONS)
    # As a terminal does with Ctrl-C and a scheduler with SIGTERM: to the whole group, the loader's worker too.
    with started(command_for(recipe, run)) as program:
        program.wait_for(lambda: lines_in(run) >= 1)
        program.signal_all(number)
        said = program.wait(120)
    assert program.process.returncode == 75, said
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    step = json.loads((checkpoint / "progress.json").read_text())["step"]
    assert 7 <= step < 60
    assert f"finetune: stopped after step {step}; the same command goes on from there." in said
    assert f"{number.name}: stopping after this step" in said
    assert "Traceback" not in said
    assert_same_result(finetune_run("run", **SECTIONS), whole, read_lines)


@pytest.mark.long
def test_a_closed_terminal_stops_a_run_like_a_signal(write_recipe, tmp_path):
    run, recipe = tmp_path / "run", write_recipe(tmp_path, **SECTIONS)
    terminal, end = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": end, "stdout": end, "stderr": end}
    with subprocess.Popen(list(map(str, command_for(recipe, run))), preexec_fn=take_terminal, **streams) as process:
        os.close(end)
        deadline = time.monotonic() + 300
        try:
            while lines_in(run) < 1:
                assert time.monotonic() < deadline and process.poll() is None
                while select.select([terminal], [], [], 0.05)[0]:  # A terminal that nobody reads stops who writes.
                    os.read(terminal, 10000)
            os.close(terminal)
            assert process.wait(120) == 75
        finally:
            process.kill()
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    assert 7 <= json.loads((checkpoint / "progress.json").read_text())["step"] < 60


def test_second_signal_stops_at_once():
    program = """
import os, signal
from finetune.training.interruption import StopSignals
with StopSignals() as signals:
    print(signals.asked(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print(signals.asked(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("still there", flush=True)
"""
    with started([sys.executable, "-c", program]) as stopped:
        said = stopped.wait().split("\n")
    assert stopped.process.returncode == -signal.SIGINT
    assert [line.split(":")[0] for line in said] == ["False", "", "SIGTERM", "True", ""]


def test_signal_handlers_are_restored_after_training():
    from finetune.training.interruption import StopSignals

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As nohup has it.
    before = [signal.getsignal(number) for number in numbers]
    with StopSignals():
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert [signal.getsignal(number) for number in numbers] == before
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.long
def test_a_run_is_locked_and_an_interrupted_beginning_is_resumed(
    write_recipe, finetune_run, whole, read_lines, tmp_path, capsys
):
    run, recipe = tmp_path / "run", write_recipe(tmp_path, **SECTIONS)
    run.mkdir()
    for name in ("rejected.csv", "metrics.jsonl", ".recipe.yaml.01ab.partial"):
        (run / name).touch()
    with lock_folder(run):
        assert main(["train", str(recipe), "--output", str(run)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"finetune: Another process is writing to {run}: wait for its end, or give another folder."
    )
    assert sorted(file.name for file in run.iterdir()) == ["metrics.jsonl", "rejected.csv"]
    assert_same_result(finetune_run("run", **SECTIONS), whole, read_lines)


def can_mount() -> bool:
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.long
def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(
    write_recipe, finetune_run, whole, read_lines, tmp_path
):
    """On a small file system, or where it cannot be mounted, with a limit on the size of files."""
    run, recipe = tmp_path / "run", write_recipe(tmp_path, **SECTIONS)
    with started(command_for(recipe, run)) as program:
        program.wait_for((run / "checkpoints" / "step-000020").exists)
    for later in (run / "checkpoints").glob(".*partial"):
        assert later.name != ".step-000020.partial"
    checkpoint = run / "checkpoints" / "step-000020"
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    with (run / "metrics.jsonl").open("a") as log:  # What a full disk leaves of a line.
        log.write('{"step": 21, "lo')
    train = f"{sys.executable} -m finetune train {recipe} --output"
    if can_mount():
        size = (
            sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) + sum(map(len, before.values())) // 2
        )
        disk = tmp_path / "disk"
        disk.mkdir()
        script = f"""
            mount -t tmpfs -o size={size} tmpfs {disk} && cp -a {run} {disk}/run && mv {run} {run}.old || exit 1
            {train} {disk}/run; code=$?; cp -a {disk}/run {run}; exit $code
        """
        command, limit = ["unshare", "--map-root-user", "--mount", "sh", "-c", script], None
    else:
        size = len(before["optimizer.pt"]) // 2
        command, limit = ["sh", "-c", f"{train} {run}"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert "can't be written: " in sentence and "The last checkpoint is" in sentence and "step-000020" in sentence
    assert "Traceback" not in done.stderr
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before
    assert_same_result(finetune_run("run", **SECTIONS), whole, read_lines)


@pytest.mark.slow
def test_a_run_killed_twenty_times_has_the_same_bits(write_recipe, finetune_run, read_lines, tmp_path):
    training = {**SECTIONS["training"], "max_steps": 400, "eval_steps": 4, "keep_checkpoints": 1}
    sections = {**SECTIONS, "training": training}
    run, recipe, chance = tmp_path / "run", write_recipe(tmp_path, **sections), random.Random(0)
    reached = []
    for _ in range(20):
        with started(command_for(recipe, run)) as program:
            before = lines_in(run)
            program.wait_for(lambda seen=before: lines_in(run) != seen)
            time.sleep(chance.uniform(0.0, 2.5))
        reached.append(max((path.name for path in (run / "checkpoints").glob("step-*")), default=""))
    assert not (run / "report").exists() and len(set(reached)) > 5
    assert_same_result(finetune_run("run", **sections), finetune_run("whole", **sections), read_lines)
