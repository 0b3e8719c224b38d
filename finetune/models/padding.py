"""Encoders whose output for an utterance does not depend on the padding of its batch."""

from typing import Any

import torch
from torch import nn

from finetune.models.group_norm import normalize_valid_frames
from finetune.models.relatives import get_relative
from finetune.models.replacement import replace_submodule


def ignore_padding(model: Any) -> None:
    """Let no padding change the output of a model with a CTC head; parameters keep their names.

    Group norm uses valid frames only. Padding stays zero between the positional convolutions of data2vec. Encoders in
    which it changes valid frames (convolutions of the conformer that see it, pairs of frames in SEW) compute utterances
    one by one. Batch norm always uses the pretrained statistics, which training leaves as they are.
    """
    normalize_valid_frames(model)
    relative, base = get_relative(model.config), model.base_model
    if relative.layered_positions:
        replace_submodule(base, "encoder.pos_conv_embed", _LayeredPositions)
    if relative.one_by_one and not isinstance(base.encoder, _OneByOne):
        kind = type(base.encoder)
        replace_submodule(base, "encoder", type(f"OneByOne{kind.__name__}", (_OneByOne, kind), {}))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm1d) and not isinstance(module, _FixedBatchNorm):
            replace_submodule(model, name, _FixedBatchNorm)


class _LayeredPositions(nn.Module):
    """The positional convolutions of data2vec, in place of `Data2VecAudioPositionalConvEmbedding`."""

    layers: nn.ModuleList

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden) to the same; padding is what is zero, as encoders make it before."""
        valid, positions = hidden.ne(0).any(-1)[:, None], hidden.transpose(1, 2)
        for layer in self.layers:
            positions = layer(positions) * valid
        return positions.transpose(1, 2)


class _OneByOne(nn.Module):
    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """(batch, frames, hidden) to the same; the output of padding is zero."""
        if attention_mask is None:
            return super().forward(hidden, attention_mask=None, **details)
        frames = hidden.shape[1]
        rows = []
        for row, length in zip(hidden, attention_mask.sum(-1).tolist(), strict=True):
            encoded = super().forward(row[None, :length], attention_mask=None, **details)
            rows.append(nn.functional.pad(encoded.last_hidden_state[0], (0, 0, 0, frames - length)))
        encoded.last_hidden_state = torch.stack(rows)
        return encoded


class _FixedBatchNorm(nn.BatchNorm1d):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, channels, frames) to the same, with the statistics of pretraining."""
        return nn.functional.batch_norm(
            hidden, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
