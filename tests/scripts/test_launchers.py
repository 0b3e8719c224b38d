"""Training on several nodes: what Slurm and SkyPilot are to run is valid, and trains one model."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import execute

DEPLOY = Path(__file__).parents[2] / "scripts" / "deploy"
SBATCH, SKYPILOT = DEPLOY / "slurm" / "train.sbatch", DEPLOY / "skypilot" / "train.yaml"

# Starts its command once for each node, at the same time, as srun does; fails where one does.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for number in $(seq $SLURM_NNODES); do "$@" & started+=($!); done
for one in ${started[@]}; do wait $one || exit 1; done
"""
SCONTROL = """#!/bin/bash
[ "$*" == "show hostnames a,b" ] && printf '127.0.0.1\\nb\\n'
"""


def check_shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_files_are_valid_and_launch_training() -> None:
    script = SBATCH.read_text()
    check_shell(script)
    options = [line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=1"} <= set(options)  # One launcher on each node.
    task: dict[str, Any] = yaml.safe_load(SKYPILOT.read_text())
    known = {"name", "num_nodes", "workdir", "resources", "envs", "file_mounts", "setup", "run"}
    assert set(task) == known and task["num_nodes"] == 2
    for part in ("setup", "run"):
        check_shell(task[part])
    for text in (script, task["run"]):
        assert "-m torch.distributed.run" in text and "-m finetune train " in text
    assert "--output /runs" in task["run"] and "/runs" in task["file_mounts"]
    assert (DEPLOY.parents[1] / task["envs"]["RECIPE"]).is_file()


def test_without_a_recipe_the_script_says_how_it_is_used() -> None:
    ended = subprocess.run(["bash", SBATCH], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("usage: sbatch train.sbatch RECIPE")


@pytest.mark.slow
def test_two_nodes_train_one_model(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    bash = shutil.which("bash")
    said = execute(
        [bash, SBATCH, recipe, "--output", run],
        PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin",
        FINETUNE_PYTHON=sys.executable,
        SLURM_SUBMIT_DIR=str(DEPLOY.parents[1]),
        SLURM_JOB_NODELIST="a,b",
        SLURM_NNODES="2",
        SLURM_JOB_ID="4711",
    )
    # Two worlds of one process each would both report.
    assert said.count("\nWER ") == 1 and (run / "model" / "model.safetensors").is_file()
