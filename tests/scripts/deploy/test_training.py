"""Training on several nodes: the Slurm script with stand-ins for Slurm's programs, and SkyPilot's file."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

TRAINING = Path(__file__).parents[3] / "scripts" / "deploy" / "training"
# Runs the command once for each node, at the same time, as srun does, and hands SIGTERM on to all.
SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
command = [argument for argument in sys.argv[1:] if not argument.startswith("--kill-on-bad-exit")]
nodes = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_JOB_NUM_NODES"]))]
signal.signal(signal.SIGTERM, lambda *_: [node.terminate() for node in nodes])
sys.exit(max(abs(node.wait()) for node in nodes))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$REQUEUED"; fi
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """`submit(recipe, output)` starts the script as Slurm does on two nodes of a process each."""
    programs = tmp_path / "bin"
    programs.mkdir()
    torchrun = f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", torchrun)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "requeued").touch()

    def start(recipe: Path, output: Path) -> "subprocess.Popen[bytes]":
        job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
        places = {
            "RECIPE": str(recipe),
            "OUTPUT": str(output),
            "PORT": str(free_port()),
            "REQUEUED": f"{tmp_path}/requeued",
        }
        path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(TRAINING.parents[2])}
        return subprocess.Popen(["bash", TRAINING / "train.slurm"], env=os.environ | job | places | path)

    return start


@pytest.mark.slow
def test_two_nodes_train_stop_and_go_on(
    submit: Callable[..., "subprocess.Popen[bytes]"], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, training={"max_steps": 40, "eval_steps": 30})
    run = tmp_path / "run"
    job = submit(recipe, run)
    log, deadline = run / "metrics.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= 4):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    # Slurm's --signal goes to srun and what it started.
    for process in Path("/proc").glob("[0-9]*/stat"):
        fields = process.read_text().rpartition(")")[2].split()
        if int(fields[1]) == job.pid:
            os.kill(int(process.parent.name), signal.SIGTERM)
    assert job.wait(120) != 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    assert 4 <= json.loads((checkpoint / "progress.json").read_text())["step"] < 30
    assert submit(recipe, run).wait(300) == 0
    assert json.loads((run / "report" / "scores.json").read_text())["utterances"] == 6
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"  # once


def test_scripts_are_valid_and_name_what_is_there() -> None:
    done = subprocess.run(["bash", "-n", TRAINING / "train.slurm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    task = yaml.safe_load((TRAINING / "skypilot.yaml").read_text())
    root = TRAINING.parents[2]
    assert (root / task["envs"]["RECIPE"]).is_file()
    lock = next(word for word in task["setup"].split() if word.endswith(".lock"))
    assert (root / lock).is_file()
    assert subprocess.run(["bash", "-n"], input=task["run"] + task["setup"], text=True).returncode == 0
