"""Training on a GPU: its losses are the CPU's, and those of a resumed run the uninterrupted one's.

Each run is a process of its own, for Accelerate keeps a process to one device.
"""

import shutil
import sys

import pytest
from programs import execute

pytestmark = pytest.mark.gpu
STEPS = {"max_steps": 6, "eval_steps": 3, "learning_rate": 3e-3, "mask_time_probability": 0.2}


def train(recipe, run, read_lines, *overrides, on_cpu=False):
    """The loss of each step of a run."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    execute([sys.executable, "-m", "finetune", "train", recipe, *overrides, "--output", run], **hidden)
    return {line["step"]: line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line}


@pytest.mark.parametrize("base", ["base_folder", "group_norm_base_folder"])
def test_steps_in_bf16_are_those_of_the_cpu_in_float32(base, request, write_recipe, read_lines, tmp_path):
    """Within 2 % of each loss: bf16 keeps eight bits."""
    model = {"base": str(request.getfixturevalue(base)), "dropout": 0.0, "freeze_feature_encoder": False}
    recipe = write_recipe(tmp_path, model=model, training=STEPS)
    found = train(recipe, tmp_path / "gpu", read_lines, "training.mixed_precision=bf16")
    exact = train(recipe, tmp_path / "cpu", read_lines, "training.mixed_precision=no", on_cpu=True)
    assert len(exact) == 6
    assert found == pytest.approx(exact, rel=0.02)
    assert found != exact


def test_resumed_run_equals_the_uninterrupted_one(write_recipe, read_lines, tmp_path):
    """To a thousandth: CTC's gradient on a GPU is a sum in no fixed order. Other dropout or masks would change more."""
    recipe = write_recipe(tmp_path, model={"dropout": 0.2}, training={**STEPS, "mixed_precision": "bf16"})
    whole = train(recipe, tmp_path / "whole", read_lines)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for late in ("checkpoints/step-000006", "model", "report"):
        shutil.rmtree(tmp_path / "resumed" / late)
    resumed = train(recipe, tmp_path / "resumed", read_lines)
    assert len(whole) == 6
    assert resumed == pytest.approx(whole, rel=1e-3)
    restored, other = (load_checkpoint_files(tmp_path / name) for name in ("resumed", "whole"))
    assert restored == other


def load_checkpoint_files(run):
    """What training goes on from: bytes of weights and optimizer after the third step."""
    folder = run / "checkpoints" / "step-000003"
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "optimizer.pt")}
