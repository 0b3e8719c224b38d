"""FSDP: a model in shards over processes, and the whole model that is evaluated and saved."""

from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from finetune.errors import UserError
from finetune.training.deepspeed import uses_zero


def set_up_sharding(accelerator: Accelerator, batch_seconds: float | str, compiled: bool) -> None:
    """Make the accelerator shard where Accelerate's configuration asks for FSDP.

    Raises UserError for settings that do not work with it.
    """
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate 1.15 could shard on CPUs, but leaves the configuration out there (AcceleratorState.__init__).
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # Each new AcceleratorState copies it from there.
        accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    elif not is_sharded(accelerator):
        return
    plugin = accelerator.state.fsdp_plugin
    refused = {
        "fsdp_version: 1": plugin.fsdp_version != 2,
        "fsdp_activation_checkpointing: true (use training.gradient_checkpointing)": plugin.activation_checkpointing,
        "fsdp_cpu_ram_efficient_loading: true": plugin.cpu_ram_efficient_loading,
        "fsdp_offload_params: true": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        # Each try gathers weights: a process that runs out of memory would leave the others waiting.
        "training.batch_seconds: auto (give a number of seconds)": batch_seconds == "auto",
        "training.mixed_precision: fp16 (use bf16)": accelerator.mixed_precision == "fp16",
        "training.compile: true": compiled,
    }
    if found := [setting for setting, is_set in refused.items() if is_set]:
        raise UserError(f"FSDP does not work here with {', '.join(found)}; see recipes/accelerate/fsdp.yaml.")
    # Its own would round the loss and the gradients to bf16; weights are gathered in float32 (see `build_autocast`).
    plugin.mixed_precision_policy = None


def build_autocast(accelerator: Accelerator, precision: str) -> torch.autocast | None:
    """Mixed precision for an objective of which parts are sharded, where Accelerate leaves it out; None for others."""
    if not is_sharded(accelerator) and not uses_zero(accelerator):
        return None
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16")


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the accelerator shards models over its processes."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


@torch.no_grad()
def gather_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy the weights of a sharded model into a whole one; all processes must call it."""
    into = whole.state_dict()
    for name, tensor in sharded.state_dict().items():
        into[name].copy_(_gather(tensor))


@torch.no_grad()
def scatter_weights(whole: nn.Module, sharded: nn.Module) -> None:
    """Copy the weights of a whole model, which are the same on every process, into a sharded one."""
    weights = whole.state_dict()
    for name, tensor in sharded.state_dict().items():
        tensor.copy_(_scatter(weights[name], tensor))


def gather_optimizer(optimizer: Any) -> dict[str, Any]:
    """The state of an optimizer without sharding; where it is sharded, all processes must call this."""
    state: dict[str, Any] = optimizer.state_dict()
    return {**state, "state": tree_map(lambda value: _gather(value, "cpu"), state["state"])}


def scatter_optimizer(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The shard of an optimizer's whole state, which is the same on every process, for this process."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    scattered = {
        number: {key: _scatter(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": scattered}


def _gather(value: Any, device: str | None = None) -> Any:
    return value.full_tensor().to(device) if isinstance(value, DTensor) else value


def _scatter(value: Any, like: torch.Tensor) -> Any:
    """The shard of a tensor where `like` is sharded; other values, such as the number of steps, are not."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
