"""FSDP by its configuration file, on two CPU processes: the run that DDP makes, and files that know nothing of it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from programs import execute
from safetensors.torch import load_file
from transformers import Wav2Vec2ForCTC

from finetune.cli import main
from finetune.errors import UserError
from finetune.training.sharding import set_up_sharding

FSDP = Path(__file__).parents[2] / "recipes" / "accelerate" / "fsdp.yaml"
# All that a sharded model could get wrong: group norm's other forward, dropped layers, an encoder without gradients,
# several groups of parameters, micro-batches.
SECTIONS = {
    "model": {"dropout": 0.1, "layer_drop": 0.3, "freeze_feature_encoder": False},
    "training": {
        "max_steps": 8,
        "eval_steps": 4,
        "batch_seconds": 4,
        "accumulation": 2,
        "learning_rate": 3e-3,
        "layer_decay": 0.9,
        "freeze_transformer_steps": 2,
        "gradient_checkpointing": True,
    },
}


# One start of the processes for all runs: starting takes most of the time.
RUNS = """
import os, shutil, sys, torch
from pathlib import Path
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from finetune.cli import main

Accelerator.end_training = lambda self: None  # It ends the processes' group, which the next run needs.
assert os.environ["ACCELERATE_USE_FSDP"] == "true"
folder = Path(sys.argv[1])
bf16 = ["training.mixed_precision=bf16", "training.max_steps=1", "training.freeze_transformer_steps=0"]
for name, fsdp, *overrides in [
    ("sharded", True),
    ("whole", False),
    ("resumed", True),
    ("resumed whole", False),
    ("bf16 sharded", True, *bf16),
    ("bf16 whole", False, *bf16),
]:
    if "resumed" in name and os.environ["RANK"] == "0":  # From where the sharded run was before its last checkpoint.
        shutil.copytree(folder / "sharded", folder / name)
        for late in ("checkpoints/step-000008", "model", "report"):
            shutil.rmtree(folder / name / late)
    if name != "sharded":
        torch.distributed.barrier()
    os.environ["ACCELERATE_USE_FSDP"] = str(fsdp).lower()
    AcceleratorState._reset_state()
    print("run", name, file=sys.stderr)
    assert main(["train", str(folder / "recipe.yaml"), *overrides, "--output", str(folder / name)]) == 0
"""


def launch(*arguments):
    """What `accelerate launch` with FSDP's configuration did."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", FSDP, *arguments]
    return execute(command, PYTHONPATH=str(FSDP.parents[2]))


def numbers(run, read_lines):
    """Step by step, what is the same on every machine."""
    lines = read_lines(run / "metrics.jsonl")
    keys = ("step", "loss", "gradient_norm", "learning_rate", "validation_wer", "validation_cer", "blank_ratio")
    return [{key: line[key] for key in keys if key in line} for line in lines]


def test_sharded_run_is_that_of_ddp_and_goes_on_with_and_without_sharding(
    write_recipe, group_norm_base_folder, read_lines, tmp_path
):
    model = {**SECTIONS["model"], "base": str(group_norm_base_folder)}
    write_recipe(tmp_path, **{**SECTIONS, "model": model})
    (tmp_path / "runs.py").write_text(RUNS)
    said = launch(tmp_path / "runs.py", tmp_path)
    assert said.count("FSDP: weights, gradients and the optimizer's state lie in 2 shares") == 3
    assert said.count("going on from step 4") == 2

    sharded = tmp_path / "sharded"
    for name in ("whole", "resumed whole"):
        whole = tmp_path / name
        for mine, other in zip(numbers(sharded, read_lines), numbers(whole, read_lines), strict=True):
            assert mine == pytest.approx(other, abs=1e-4)
        # The files are those of a run without sharding, and hold the same.
        files = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in (sharded, whole)]
        assert files[0] == files[1]
        for file in sorted(file for file in files[0] if file.endswith(".safetensors")):
            torch.testing.assert_close(load_file(sharded / file), load_file(whole / file), atol=1e-4, rtol=0)
        state, other = (
            torch.load(run / "checkpoints/step-000008/optimizer.pt", weights_only=True) for run in (sharded, whole)
        )
        assert state["param_groups"] == other["param_groups"]
        torch.testing.assert_close(state["state"], other["state"], atol=1e-4, rtol=0)
    _, loading = Wav2Vec2ForCTC.from_pretrained(sharded / "model", output_loading_info=True)
    assert not any(loading.values())

    resumed = tmp_path / "resumed"
    assert numbers(resumed, read_lines) == numbers(sharded, read_lines)
    for file in ("model/model.safetensors", "checkpoints/step-000008/optimizer.pt"):
        assert (resumed / file).read_bytes() == (sharded / file).read_bytes()

    # A loss in bf16 would be off by up to 0.4 %.
    losses = [numbers(tmp_path / name, read_lines)[0] for name in ("bf16 sharded", "bf16 whole")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0]["loss"] != pytest.approx(numbers(sharded, read_lines)[0]["loss"], abs=1e-5)


@pytest.fixture
def asked_for_fsdp(monkeypatch):
    """An accelerator of two CPU processes, as Accelerate makes it, with the configuration's variables set."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    state = SimpleNamespace()
    return SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, state=state, mixed_precision="bf16")


@pytest.mark.parametrize(
    ("variables", "batch_seconds", "compiled", "named"),
    [
        ({"FSDP_VERSION": "1"}, 80.0, False, "fsdp_version: 1"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, 80.0, False, "fsdp_offload_params"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, 80.0, False, "fsdp_cpu_ram_efficient_loading"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, 80.0, False, "training.gradient_checkpointing"),
        ({}, "auto", False, "training.batch_seconds: auto"),
        ({}, 80.0, True, "training.compile"),
    ],
)
def test_what_does_not_work_with_fsdp_is_refused(
    asked_for_fsdp, monkeypatch, variables, batch_seconds, compiled, named
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"FSDP does not work here with [^,]*{named}[^,]*; see"):
        set_up_sharding(asked_for_fsdp, batch_seconds, compiled)


def test_accelerates_own_precision_is_left_out(asked_for_fsdp):
    """It would compute the loss itself in bf16, and average gradients in it; Accelerate sets it on GPUs only."""
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    asked_for_fsdp.distributed_type, asked_for_fsdp.state.fsdp_plugin = DistributedType.FSDP, plugin
    set_up_sharding(asked_for_fsdp, 80.0, False)
    assert plugin.mixed_precision_policy is None


def test_deepspeed_is_refused(monkeypatch, capsys, write_recipe, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert main(["train", str(write_recipe(tmp_path)), "--output", str(tmp_path / "run")]) == 2
    assert "DeepSpeed does not work here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
