"""Two processes make the run that one makes, and score each utterance exactly once."""

import json
import re
import sys
from pathlib import Path

import pytest
from programs import execute, started

from finetune.cli import main

LAUNCHERS = {
    "accelerate launch": [sys.executable, str(Path(sys.executable).with_name("accelerate")), "launch"],
    "accelerate-launch": [sys.executable, str(Path(sys.executable).with_name("accelerate-launch"))],
    "python -m": [sys.executable, "-m", "accelerate.commands.launch"],
}


def logged(key, folder, read_lines):
    return {line["step"]: line[key] for line in read_lines(folder / "metrics.jsonl") if key in line}


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one_with_two_micro_batches(
    write_recipe, finetune_run, read_lines, corpus_folder, tmp_path
):
    steps = {"max_steps": 50, "eval_steps": 25}
    sections = {"model": {"dropout": 0.0}, "training": {"batch_seconds": 4, "learning_rate": 3e-3, **steps}}
    recipe, run = write_recipe(tmp_path, **sections), tmp_path / "two"
    launcher = LAUNCHERS["accelerate launch"]
    said = execute([*launcher, "--num_processes", 2, "-m", "finetune", "train", recipe, "--output", run], tmp_path)
    assert len(re.findall(r"^WER ", said, re.MULTILINE)) == 1
    assert not list(tmp_path.glob("**/*.partial"))

    training = {**sections["training"], "accumulation": 2}
    one = finetune_run("one", model=sections["model"], training=training)
    half = finetune_run("half", **sections)
    losses = [logged("loss", folder, read_lines) for folder in (run, one, half)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] != pytest.approx(losses[2], abs=1e-2)
    # Adam hides a gradient's wrong scale from the losses.
    norms = [logged("gradient_norm", folder, read_lines) for folder in (run, one)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)

    names = [row["name"] for row in read_lines(run / "report/utterances.jsonl")]
    assert sorted(names) == [f"{i:02d}.wav" for i in range(6)]
    logged_steps = [line["step"] for line in read_lines(run / "metrics.jsonl")]
    assert logged_steps == sorted(
        [*range(1, 51), 25, 50]
    )  # Training at each, validation at 25 and 50: one process writes.

    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(run / "model"), "--data", str(corpus_folder), "--json", str(scores)]) == 0
    command = [*launcher, "--num_processes", 2, "-m", "finetune", "evaluate", run / "model", "--data", corpus_folder]
    said = execute([*command, "--json", tmp_path / "by-two.json"], tmp_path)
    assert len(re.findall(r"^WER ", said, re.MULTILINE)) == 1 and "of each of 2 processes on" in said
    reported = json.loads((run / "report/scores.json").read_text())
    for file in (scores, tmp_path / "by-two.json"):
        found = json.loads(file.read_text())
        assert {key: found[key] for key in reported} == reported


@pytest.mark.slow
def test_layers_are_dropped_and_a_signal_stops_both_processes_and_one_goes_on(write_recipe, finetune_run, tmp_path):
    """Each process drops other layers: none may wait for a gradient that another does not make."""
    sections = {
        "model": {"layer_drop": 0.5},
        "training": {"max_steps": 40, "eval_steps": 30, "freeze_transformer_steps": 2, "num_workers": 1},
    }
    recipe, run = write_recipe(tmp_path, **sections), tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "finetune"]
    command += ["train", str(recipe), "--output", str(run)]
    log = run / "metrics.jsonl"
    with started(command) as program:
        program.wait_for(lambda: log.exists() and log.read_text().count("\n") >= 4)
        program.process.terminate()  # The launcher hands it on to both.
        said = program.wait(120)
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    step = json.loads((checkpoint / "progress.json").read_text())["step"]
    assert 4 <= step < 30
    assert said.count(f"stopped after step {step}; the same command goes on") == 1
    finetune_run("run", **sections)
    assert json.loads((run / "report" / "scores.json").read_text())["utterances"] == 6


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_number_of_processes_is_read_from_every_form_of_the_launcher(launcher, tmp_path):
    (tmp_path / "probe.py").write_text(
        "from finetune.commands.launch import _asked_for\nprint('processes', *_asked_for())\n"
    )
    said = execute([*LAUNCHERS[launcher], "--num_processes", 3, "--cpu", "probe.py"], tmp_path, OMP_NUM_THREADS="5")
    assert said.splitlines()[-1] == "processes 3 5"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"},
        {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no", "RANK": "0"},
    ],
    ids=["plain", "variables left by another launcher", "inside a group already"],
)
def test_outside_of_accelerate_the_process_stays_what_it_is(variables, tmp_path):
    program = "import os\npid = os.getpid()\nfrom finetune.commands.launch import join_processes\n"
    program += "print(join_processes(), pid == os.getpid())"
    said = execute([sys.executable, "-c", program, "launch", "--num_processes", 2], tmp_path, **variables)
    assert said == "None True\n"


@pytest.mark.parametrize(("command", "code"), [("lambda: 75", 75), ("lambda: 1 / 0", 1)], ids=["ends", "fails"])
def test_process_of_a_group_ends_without_waiting_in_a_destructor(command, code):
    program = f"""
import atexit, time
from finetune.commands.launch import run
class Stuck:
    def __del__(self):
        time.sleep(900)
stuck = Stuck()
atexit.register(print, "tidied up")
run({command})
"""
    with started([sys.executable, "-c", program], RANK="0") as process:
        said = process.wait(30)
    assert process.process.returncode == code
    assert said.endswith("tidied up\n")
    assert ("ZeroDivisionError" in said) == (code == 1)
