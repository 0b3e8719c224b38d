"""The accelerator of a run: its precision, its trackers, and what is spread over its processes."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from finetune.errors import UserError
from finetune.training.sharding import is_sharded, set_up_sharding
from finetune.training.trackers import require_trackers
from finetune.training.zero_redundancy import asks_for_zero, set_up_zero, uses_zero


def build_accelerator(
    *,
    precision: str,
    trackers: Sequence[str],
    folder: Path,
    batch_seconds: float | str,
    compiled: bool,
    max_gradient_norm: float,
    layer_drop: float,
) -> Accelerator:
    """Accelerate's object for all processes, with FSDP or DeepSpeed where its configuration asks for them.

    Trackers write into `folder`. Raises UserError for a precision that the device does not have, and for settings that
    do not go together.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("training.mixed_precision: fp16 needs a GPU; expected no or bf16 on a CPU.")
    taken = "no" if asks_for_zero() else precision  # DeepSpeed's would round the weights, too.
    # Accelerate keeps its precision for the whole process, which may have made another run before.
    if AcceleratorState._shared_state.get("_mixed_precision", taken) != taken:
        AcceleratorState._reset_state()
    if not torch.cuda.is_available():
        # Where DeepSpeed is installed Accelerate imports it now and then, and it would say on stdout what it lacks.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    accelerator = Accelerator(
        mixed_precision=taken,
        # Without a GPU, Accelerate forms a group of several processes only when told that it runs on CPUs.
        cpu=not torch.cuda.is_available(),
        log_with=require_trackers(trackers) or None,
        project_dir=folder if trackers else None,
    )
    set_up_sharding(accelerator, batch_seconds, compiled)
    set_up_zero(accelerator, max_gradient_norm, batch_seconds, compiled, precision, layer_drop)
    return accelerator


def describe_shares(accelerator: Accelerator) -> list[str]:
    """A line of what is in shares, where anything is."""
    if is_sharded(accelerator):
        return [f"FSDP: weights, gradients and the optimizer's state lie in {accelerator.num_processes} shares"]
    if uses_zero(accelerator):
        stage = accelerator.state.deepspeed_plugin.zero_stage
        what = "gradients and the optimizer's state lie" if stage == 2 else "the optimizer's state lies"
        return [f"DeepSpeed: {what} in {accelerator.num_processes} shares"]
    return []
