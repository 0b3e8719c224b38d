"""FSDP and DeepSpeed by their configuration files, on two CPU processes: the run that DDP makes, and its files."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from programs import execute
from safetensors.torch import load_file
from transformers import Wav2Vec2ForCTC

from finetune.cli import main
from finetune.errors import UserError
from finetune.resources.machine import has_fast_bf16
from finetune.training import deepspeed
from finetune.training.deepspeed import set_up_zero
from finetune.training.sharding import set_up_sharding

ROOT = Path(__file__).parents[2]
FSDP, DEEPSPEED = (ROOT / "recipes" / "accelerate" / name for name in ("fsdp.yaml", "deepspeed.yaml"))
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
from accelerate.state import AcceleratorState, PartialState
from finetune.cli import main
from finetune.resources.machine import has_fast_bf16

Accelerator.end_training = lambda self: None  # It ends the processes' group, which the next run needs.
folder, asks = Path(sys.argv[1]), sys.argv[2]
assert os.environ[asks] == "true"
rounded = has_fast_bf16(torch.device("cpu"))
bf16 = ["training.mixed_precision=bf16", "training.max_steps=1", "training.freeze_transformer_steps=0"]
bf16.append("model.layer_drop=0.3")
for name, sharded, *overrides in [
    ("sharded", True),
    ("whole", False),
    ("resumed", True),
    ("resumed whole", False),
    *([("bf16 sharded", True, *bf16), ("bf16 whole", False, *bf16)] if rounded else []),
]:
    if "resumed" in name and os.environ["RANK"] == "0":  # From where the sharded run was before its last checkpoint.
        shutil.copytree(folder / "sharded", folder / name)
        for late in ("model", "report", *(["checkpoints/step-000008"] if name == "resumed whole" else [])):
            shutil.rmtree(folder / name / late)
        if name == "resumed":  # Of which the main process finds that it is damaged, for all.
            os.truncate(folder / name / "checkpoints/step-000008/optimizer.pt", 1000)
    if name != "sharded":
        torch.distributed.barrier()
    os.environ[asks] = str(sharded).lower()
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = "1" if "bf16" in name else "2"
    AcceleratorState._reset_state()
    PartialState._reset_state()
    print("run", name, file=sys.stderr)
    assert main(["train", str(folder / "recipe.yaml"), *overrides, "--output", str(folder / name)]) == 0
"""
# In the same processes, what DeepSpeed itself has to do: nothing, where one has a gradient that is not finite.
NOT_FINITE = """
import math
from finetune.training.deepspeed import ZeroState, add_zero_gradients, set_up_zero, take_zero_step

os.environ.update({asks: "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
AcceleratorState._reset_state()
PartialState._reset_state()
accelerator = Accelerator(cpu=True)
set_up_zero(accelerator, 1.0, 80.0, False, "no", 0.0)
head = torch.nn.Linear(3, 2)
engine, _ = accelerator.prepare(head, torch.optim.AdamW([{"params": head.parameters(), "encoder": False}]))
state = ZeroState(engine)
before = head.weight.detach().clone()
for factor, moves in ((math.inf, False), (math.nan, False), (1.0, True)):
    add_zero_gradients(engine, engine(torch.ones(1, 3)).sum() * (factor if os.environ["RANK"] == "1" else 1.0), True)
    norm = take_zero_step(engine, False)
    assert math.isfinite(norm) == moves, norm
    assert torch.equal(before, head.weight) != moves
    assert state.state_dict()["state"][0]["step"] == moves
torch.distributed.barrier()
"""


def launch(configuration, *arguments):
    """What `accelerate launch` with a configuration did."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration, *arguments]
    return execute(command, PYTHONPATH=str(ROOT))


def numbers(run, read_lines):
    """Step by step, what is the same on every machine."""
    lines = read_lines(run / "metrics.jsonl")
    keys = ("step", "loss", "gradient_norm", "learning_rate", "validation_wer", "validation_cer", "blank_ratio")
    return [{key: line[key] for key in keys if key in line} for line in lines]


@pytest.fixture(
    scope="module", params=[FSDP, pytest.param(DEEPSPEED, marks=pytest.mark.slow)], ids=["FSDP", "DeepSpeed"]
)
def runs(request, write_recipe, group_norm_base_folder, tmp_path_factory):
    """The folder of runs with and without sharding, which were made in the same two processes."""
    fsdp, folder = request.param is FSDP, tmp_path_factory.mktemp("sharding")
    model = {**SECTIONS["model"], "base": str(group_norm_base_folder), "layer_drop": 0.3 if fsdp else 0.0}
    write_recipe(folder, **{**SECTIONS, "model": model})
    (folder / "runs.py").write_text(RUNS + ("" if fsdp else NOT_FINITE))
    asks = "ACCELERATE_USE_FSDP" if fsdp else "ACCELERATE_USE_DEEPSPEED"
    said = launch(request.param, folder / "runs.py", folder, asks)
    what = "FSDP: weights, gradients and" if fsdp else "DeepSpeed ZeRO: gradients and"
    with_bf16 = fsdp and has_fast_bf16(torch.device("cpu"))  # DeepSpeed's are in stage 1, which says something else.
    assert said.count(f"{what} the optimizer's state are in 2 shards") == 2 + with_bf16
    assert said.count("going on from step 4") == 2 and said.count("going on from step-000004 instead") == 1
    return folder


@pytest.mark.long
def test_sharded_run_equals_ddp_and_is_resumed_with_and_without_sharding(runs, read_lines):
    sharded = runs / "sharded"
    for name in ("whole", "resumed whole"):
        whole = runs / name
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

    resumed = runs / "resumed"
    assert numbers(resumed, read_lines) == numbers(sharded, read_lines)
    for file in ("model/model.safetensors", "checkpoints/step-000008/optimizer.pt"):
        assert (resumed / file).read_bytes() == (sharded / file).read_bytes()


@pytest.mark.bf16
def test_sharded_loss_in_bf16_equals_ddp(runs, read_lines):
    """Computed in bf16 itself it would be off by up to 0.4 %."""
    losses = [numbers(runs / name, read_lines)[0] for name in ("bf16 sharded", "bf16 whole")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0]["loss"] != pytest.approx(numbers(runs / "sharded", read_lines)[0]["loss"], abs=1e-5)


@pytest.fixture
def asked_for_fsdp(monkeypatch):
    """An accelerator of two CPU processes, as Accelerate makes it, with the configuration's variables set."""
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(PartialState(), "distributed_type", PartialState().distributed_type)  # Put back afterwards.
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


def test_precision_of_accelerate_is_not_used(asked_for_fsdp):
    """It would compute the loss itself in bf16, and average gradients in it; Accelerate sets it on GPUs only."""
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    asked_for_fsdp.distributed_type, asked_for_fsdp.state.fsdp_plugin = DistributedType.FSDP, plugin
    set_up_sharding(asked_for_fsdp, 80.0, False)
    assert plugin.mixed_precision_policy is None


@pytest.fixture
def asked_for_deepspeed(monkeypatch):
    """An accelerator of two CPU processes, as Accelerate makes it, with the configuration's variables set."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(PartialState(), "distributed_type", PartialState().distributed_type)  # Put back afterwards.
    return SimpleNamespace(distributed_type=DistributedType.MULTI_CPU, state=SimpleNamespace())


@pytest.mark.parametrize(
    ("variables", "settings", "named"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, "zero_stage: 3"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, {}, "offload_optimizer_device"),
        ({}, {"batch_seconds": "auto"}, "training.batch_seconds: auto"),
        ({}, {"precision": "fp16"}, "training.mixed_precision: fp16"),
        ({}, {"compiled": True}, "training.compile"),
        ({}, {"layer_drop": 0.1}, "model.layer_drop"),
    ],
)
def test_what_does_not_work_with_deepspeed_is_refused(asked_for_deepspeed, monkeypatch, variables, settings, named):
    for name, value in {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    usual = {"batch_seconds": 80.0, "compiled": False, "precision": "bf16", "layer_drop": 0.0}
    with pytest.raises(UserError, match=f"DeepSpeed does not work here with [^,]*{named}[^,]*; see"):
        set_up_zero(asked_for_deepspeed, 1.0, **{**usual, **settings})


def test_missing_deepspeed_is_one_error(monkeypatch, capsys, write_recipe, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(deepspeed, "is_deepspeed_available", lambda: False)
    assert main(["train", str(write_recipe(tmp_path)), "--output", str(tmp_path / "run")]) == 2
    assert "pip install 'finetune[deepspeed]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
