"""Parameter groups of the optimizer, and the schedule of the learning rate."""

import math
import re
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(r"(?:^|\.)encoder\.layers?\.(\d+)\.")
# Where tri-stage decay ends, relative to the peak: the value of wav2vec 2.0's fine-tuning recipes in fairseq.
_TRI_STAGE_END = 0.05


def build_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, without decay on biases and norms, and with the betas of wav2vec2.

    Each group has a `scale` that multiplies the rate of the schedule, and says whether it is of the `encoder`. With
    `layer_decay` below 1 the rate of each layer is that of the layer above it times the decay, and parameters below the
    layers have the lowest rate (discriminative fine-tuning, Howard and Ruder 2018; in the form of BEiT, Bao et al.
    2022). The update is one fused pass.
    """
    head_scale = 1.0 if head_learning_rate is None else head_learning_rate / learning_rate
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = 1 + max((_layer(name) for name, _ in model.named_parameters()), default=-1)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        encoder = not name.startswith("lm_head.")
        scale = layer_decay ** (layers - _layer(name)) if encoder else head_scale
        groups.setdefault((parameter.ndim > 1, scale, encoder), []).append(parameter)
    # Matrices first; within a group the parameters are in the order of the model.
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": weight_decay * decayed, "scale": scale, "encoder": encoder}
            for (decayed, scale, encoder), parameters in sorted(groups.items(), key=lambda item: not item[0][0])
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Set the rate of each parameter group to `rate` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def forget_encoder_gradients(optimizer: Any) -> None:
    """Make the next step change neither the encoder's weights nor their state in the optimizer."""
    for group in optimizer.param_groups:
        if group["encoder"]:
            for parameter in group["params"]:
                parameter.grad = None


def learning_rate_factor(
    step: int, max_steps: int, warmup_ratio: float, schedule: str = "linear", hold_ratio: float = 0.0
) -> float:
    """The learning rate at a step (from 0) relative to its peak: linear warm-up, then the decay of the schedule.

    `linear` decays to zero linearly, and `cosine` by half a cosine (Loshchilov and Hutter 2017, without restarts).
    `tri_stage` holds the peak for `hold_ratio` of all steps and decays exponentially to 5 % of it (SpecAugment, Park
    et al. 2019; wav2vec 2.0, Baevski et al. 2020, warms up for 10 % and holds for 40 %).
    """
    warmup = max(1, round(warmup_ratio * max_steps))
    if step < warmup:
        return (step + 1) / warmup
    hold = round(hold_ratio * max_steps) if schedule == "tri_stage" else 0
    left = min(1.0, max(0.0, (max_steps - step) / max(1, max_steps - warmup - hold)))
    if schedule == "tri_stage":
        return _TRI_STAGE_END ** (1 - left)
    if schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return left


def _layer(name: str) -> int:
    """The index of a parameter's transformer layer; -1 for parameters below the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else -1
