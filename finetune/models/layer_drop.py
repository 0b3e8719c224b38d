"""Layer drop: each training step skips random transformer layers (Fan et al. 2020, arXiv 1909.11556)."""

from typing import Any

import torch
from torch import nn
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2EncoderLayer, Wav2Vec2EncoderLayerStableLayerNorm

from finetune.models.build import zero_gradient
from finetune.models.replacement import replace_submodule


def drop_layers(model: Any, probability: float) -> None:
    """Skip each transformer layer of a `Wav2Vec2ForCTC` in a training step with this probability.

    With Transformers' own `layerdrop` the parameters of a skipped layer have no gradient, for which distributed
    training waits forever; here the gradient is zero.
    """
    kind = _StableLayer if model.config.do_stable_layer_norm else _Layer
    for number in range(len(model.wav2vec2.encoder.layers)):
        replace_submodule(model, f"wav2vec2.encoder.layers.{number}", kind, drop_probability=probability)


class _LayerDrop(nn.Module):
    drop_probability: float

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """The output of the layer, or its input where it is skipped."""
        if not self.training or torch.rand(()) >= self.drop_probability:
            return super().forward(hidden_states, *arguments, **options)
        return hidden_states + zero_gradient(self)


class _Layer(_LayerDrop, Wav2Vec2EncoderLayer):
    pass


class _StableLayer(_LayerDrop, Wav2Vec2EncoderLayerStableLayerNorm):
    pass
