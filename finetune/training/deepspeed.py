"""DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): gradients and the optimizer's state in shards.

Each process keeps all weights in float32, so that evaluating and saving a model are as without DeepSpeed. Stage 1
shards the optimizer's state, stage 2 the gradients too.
"""

from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, DistributedType, PartialState
from accelerate.utils import is_deepspeed_available, parse_flag_from_env
from torch import nn

from finetune.errors import UserError

_MOMENTS = ("exp_avg", "exp_avg_sq")


def uses_zero(accelerator: Accelerator) -> bool:
    """Whether the accelerator trains with DeepSpeed."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def asks_for_zero() -> bool:
    """Whether Accelerate's configuration asks for DeepSpeed; raises UserError when it is not installed."""
    asked = bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))
    if asked and not is_deepspeed_available():
        raise UserError(
            "Accelerate's configuration asks for DeepSpeed, which is missing: pip install 'finetune[deepspeed]'."
        )
    return asked


def set_up_zero(
    accelerator: Accelerator,
    max_gradient_norm: float,
    batch_seconds: float | str,
    compiled: bool,
    precision: str,
    layer_drop: float,
) -> None:
    """Make the accelerator use DeepSpeed where Accelerate's configuration asks for it.

    Raises UserError for settings that do not work with it.
    """
    state = accelerator.state
    if asks_for_zero() and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate 1.15 leaves the configuration out on CPUs (AcceleratorState.__init__).
        plugin = DeepSpeedPlugin()
        plugin.select(_from_accelerator_state=True)
        state.deepspeed_plugins = {"default": plugin}
        # Each new AcceleratorState copies it from there.
        state.distributed_type = PartialState().distributed_type = DistributedType.DEEPSPEED
    elif uses_zero(accelerator):
        plugin = state.deepspeed_plugin
    else:
        return
    zero = plugin.deepspeed_config["zero_optimization"]
    devices = [zero.get(name, {}).get("device", "none") for name in ("offload_optimizer", "offload_param")]
    refused = {
        f"zero_stage: {plugin.zero_stage} (1 or 2; for more use FSDP)": plugin.zero_stage not in (1, 2),
        "offload_optimizer_device or offload_param_device (none)": set(devices) != {"none"},
        # Each try exchanges gradients: a process that runs out of memory would leave the others waiting.
        "training.batch_seconds: auto (give a number of seconds)": batch_seconds == "auto",
        "training.mixed_precision: fp16 (use bf16)": precision == "fp16",
        "training.compile: true": compiled,
        # Stage 2 (DeepSpeed 0.19) adds up gradients in the order in which they are ready. Where processes drop other
        # layers the order differs, and gradients of different parameters are added without an error.
        "zero_stage: 2 with model.layer_drop (take zero_stage: 1)": plugin.zero_stage == 2 and layer_drop > 0,
    }
    if found := [setting for setting, is_set in refused.items() if is_set]:
        raise UserError(f"DeepSpeed does not work here with {', '.join(found)}; see recipes/accelerate/deepspeed.yaml.")
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,  # Only printed: the size of our batches varies.
        "gradient_accumulation_steps": 1,  # The loop says which backward pass is the last.
        "gradient_clipping": max_gradient_norm,
        "steps_per_print": None,
        # Weights stay in float32, as without DeepSpeed: the objective computes in mixed precision.
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
    }


def add_zero_gradients(engine: Any, loss: torch.Tensor, is_last: bool) -> None:
    """Add the gradients of a loss, averaged over all processes."""
    engine.set_gradient_accumulation_boundary(is_last)
    engine.backward(loss, scale_wrt_gas=False)


def take_zero_step(engine: Any, frozen: bool) -> float:
    """Clip the gradient and make an optimizer step; returns the norm before clipping.

    With a norm that is not finite nothing changes. With `frozen` the encoder does not change.
    """
    optimizer = engine.optimizer
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        if frozen and group["encoder"]:
            group["lr"] = 0.0
    engine.step()
    for group, rate, shard in zip(optimizer.param_groups, rates, _list_shards(optimizer), strict=True):
        group["lr"] = rate
        # Its gradients were zero, and so are the moments; AdamW corrects them by the number of steps.
        if frozen and group["encoder"]:
            optimizer.optimizer.state[shard]["step"].zero_()
    return float(engine.get_global_grad_norm())


class ZeroState:
    """The optimizer's state in the format of AdamW without DeepSpeed: gathered from all shards, and scattered."""

    def __init__(self, engine: Any) -> None:
        self._optimizer = engine.optimizer
        states = self._optimizer.optimizer.state
        for shard in _list_shards(self._optimizer):
            zeros = {name: torch.zeros_like(shard) for name in _MOMENTS}
            states[shard] = {"step": torch.zeros((), device=shard.device), **zeros}
        # Maps each parameter to its part of its group's state. DeepSpeed 0.19 does it after the first step of the first
        # group, when the other groups have no state yet.
        self._optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of whole parameters, not of shards."""
        groups = zip(self._optimizer.param_groups, self._optimizer.bit16_groups, strict=True)
        return [{**group, "params": parameters} for group, parameters in groups]

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter by its number; all processes must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state, groups, number = {}, [], 0
        for group, shard in zip(self.param_groups, _list_shards(self._optimizer), strict=True):
            parameters = group["params"]
            groups.append({**group, "params": list(range(number, number + len(parameters)))})
            step = self._optimizer.optimizer.state[shard]["step"].cpu()
            for parameter in parameters:
                moments = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in _MOMENTS}
                state[number] = {"step": step.clone(), **moments}
                number += 1
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Load what `state_dict` returned, and the current weights of the model."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        state = saved["state"]
        for group, shard in zip(saved["param_groups"], _list_shards(self._optimizer), strict=True):
            for number in group["params"]:
                if number in state:  # Saved without DeepSpeed, a frozen encoder has no state.
                    self._optimizer.optimizer.state[shard]["step"].copy_(state[number]["step"])
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            safe_set_full_fp32_param(parameter, parameter.detach())
            for name in _MOMENTS:
                if number in state:
                    safe_set_full_optimizer_state(parameter, state[number][name].to(parameter.device), name)


def _list_shards(optimizer: Any) -> list[nn.Parameter]:
    """This process's shard of each group of parameters, which AdamW updates."""
    return optimizer.single_partition_of_fp32_groups
