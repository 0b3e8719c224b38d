"""The accelerator of a run divides nothing that the loop has divided already."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from finetune.training.processes import build_accelerator


def test_accumulation_in_the_environment_does_not_scale_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in (PartialState, AcceleratorState, GradientState):
        monkeypatch.setattr(state, "_shared_state", {})
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = build_accelerator(
        precision="float32",
        trackers=(),
        folder=tmp_path,
        batch_seconds=10.0,
        compiled=False,
        max_gradient_norm=1.0,
        layer_drop=0.0,
    )
    assert accelerator.gradient_accumulation_steps == 1
