"""The accelerator of a run: its precision, its trackers, and what is sharded over its processes."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list

from finetune.errors import UserError
from finetune.resources.machine import Precision, choose_device, choose_precision, has_fast_bf16
from finetune.training.deepspeed import asks_for_zero, set_up_zero, uses_zero
from finetune.training.sharding import is_sharded, set_up_sharding
from finetune.training.trackers import require_trackers

_LOGGER = logging.getLogger(__name__)

Choice = TypeVar("Choice")


def build_accelerator(
    *,
    precision: Precision,
    trackers: Sequence[str],
    folder: Path,
    batch_seconds: float | str,
    compiled: bool,
    max_gradient_norm: float,
    layer_drop: float,
) -> Accelerator:
    """Build Accelerate's `Accelerator`, with FSDP or DeepSpeed where its configuration asks for them.

    Trackers write to `folder`. Raises UserError for settings that do not work together.
    """
    # DeepSpeed would round the weights, too.
    taken = "no" if asks_for_zero() or precision == "float32" else precision
    # Accelerate keeps its precision for the whole process, which may have trained another run before.
    if AcceleratorState._shared_state.get("_mixed_precision", taken) != taken:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=taken,
        # Without a GPU, Accelerate forms a group of several processes only when told that it runs on CPUs.
        cpu=not torch.cuda.is_available(),
        log_with=require_trackers(trackers) or None,
        project_dir=folder if trackers else None,
        # Otherwise it divides gradients by what the environment says, which the loop has divided already.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    set_up_sharding(accelerator, batch_seconds, compiled)
    set_up_zero(accelerator, max_gradient_norm, batch_seconds, compiled, precision, layer_drop)
    return accelerator


def settle_precision(asked: str, begun: str | None) -> Precision:
    """The precision of a run; a resumed run keeps the one that it was `begun` in, and what follows from it is logged.

    Raises UserError for a precision that the device does not have.
    """
    device = choose_device()
    if begun is None:
        return choose_precision(asked, device, training=True)
    precision = cast(Precision, begun)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("This run was begun in fp16, which needs a GPU: go on with it on one, or begin another run.")
    chosen = choose_precision("auto", device, training=True)
    if chosen != precision and asked == "auto":
        _LOGGER.warning(f"this run was begun in {precision} and goes on in it; a new run would take {chosen} here")
    if precision == "bf16" and not has_fast_bf16(device):
        _LOGGER.warning(
            "this device only emulates bf16, which is many times slower than float32: a new run with "
            "training.mixed_precision=auto may be done sooner"
        )
    return precision


def decide(choose: Callable[[], Choice]) -> Choice:
    """The choice of the main process, on every process; a UserError in it is raised on every process."""
    chosen: Choice | UserError | None = None
    if PartialState().is_main_process:
        try:
            chosen = choose()
        except UserError as error:
            chosen = error
    chosen = broadcast_object_list([chosen])[0]
    if isinstance(chosen, UserError):
        raise chosen
    return cast(Choice, chosen)


def describe_sharding(accelerator: Accelerator) -> list[str]:
    """A line that says what is sharded, with FSDP or DeepSpeed."""
    if is_sharded(accelerator):
        return [f"FSDP: weights, gradients and the optimizer's state are in {accelerator.num_processes} shards"]
    if uses_zero(accelerator):
        stage = accelerator.state.deepspeed_plugin.zero_stage
        what = "gradients and the optimizer's state are" if stage == 2 else "the optimizer's state is"
        return [f"DeepSpeed ZeRO: {what} in {accelerator.num_processes} shards"]
    return []
