"""Layer drop: each training step skips random transformer layers (Fan et al. 2020, arXiv 1909.11556)."""

from typing import Any

import torch
from torch import nn

from finetune.errors import UserError
from finetune.models.build import zero_gradient
from finetune.models.relatives import get_relative, list_layers
from finetune.models.replacement import replace_submodule


def drop_layers(model: Any, probability: float) -> None:
    """Skip each transformer layer of a model with a CTC head in a training step with this probability.

    With Transformers' own `layerdrop` the parameters of a skipped layer have no gradient, for which distributed
    training waits forever; here the gradient is zero. Raises UserError for
    architectures whose layers can't be skipped.
    """
    if reason := get_relative(model.config).kept_layers:
        raise UserError(
            f"model.layer_drop: the layers of a {model.config.model_type} model {reason}, and none can be skipped; "
            "leave it out."
        )
    for number, layer in enumerate(list_layers(model)):
        kind = type(f"Dropped{type(layer).__name__}", (_LayerDrop, type(layer)), {})
        place = f"{get_relative(model.config).layers}.{number}"
        replace_submodule(model.base_model, place, kind, drop_probability=probability)


class _LayerDrop(nn.Module):
    drop_probability: float

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """The output of the layer, or its input where it is skipped."""
        if not self.training or torch.rand(()) >= self.drop_probability:
            return super().forward(hidden_states, *arguments, **options)
        return hidden_states + zero_gradient(self)
