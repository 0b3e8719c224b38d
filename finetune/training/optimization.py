"""Parameter groups and the learning rate's schedule."""

import torch
from torch import nn


def build_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW over the parameters that are trained, with no decay on biases and norms; betas as in wav2vec2."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )


def learning_rate_factor(step: int, max_steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate at a step (counted from 0): linear warm-up, then linear decay to zero."""
    warmup = max(1, round(warmup_ratio * max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (max_steps - step) / max(1, max_steps - warmup))
