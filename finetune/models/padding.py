"""Encoders whose output for an utterance does not depend on the padding of its batch."""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from finetune.models.group_norm import normalize_valid_frames
from finetune.models.relatives import get_relative
from finetune.models.replacement import replace_submodule


def ignore_padding(model: Any) -> None:
    """Let no padding change the output of a model with a CTC head; parameters keep their names.

    Group norm uses valid frames only. Padding stays zero between the positional convolutions of data2vec. The last
    frame of an odd number has no partner in SEW, whose layers compute pairs of frames. The conformer, whose
    convolutions see padding, computes utterances one by one. Batch norm always uses the pretrained statistics, which
    training leaves as they are.
    """
    normalize_valid_frames(model)
    relative, base = get_relative(model.config), model.base_model
    if relative.layered_positions:
        replace_submodule(base, "encoder.pos_conv_embed", _LayeredPositions)
    for wanted, way in ((relative.one_by_one, _OneByOne), (relative.squeezes_frames, _Squeezed)):
        if wanted and not isinstance(base.encoder, way):
            kind = type(base.encoder)
            replace_submodule(base, "encoder", type(f"{way.__name__[1:]}{kind.__name__}", (way, kind), {}))
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


class _Squeezed(nn.Module):
    """The encoder of SEW and SEW-D for padded batches, in which each row is computed as if it was alone."""

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """(batch, frames, hidden) to the same; padding and the odd last frame of a row are zero."""
        if attention_mask is None:
            return super().forward(hidden, attention_mask=None, **details)
        encoder: Any = self
        factor, frames = encoder.config.squeeze_factor, hidden.shape[1]
        valid = (attention_mask.sum(-1) // factor)[:, None] > torch.arange(frames // factor, device=hidden.device)
        # The positions see the odd last frame, too.
        channels = (hidden * attention_mask[..., None].to(hidden.dtype)).transpose(1, 2)
        positions, pooled = encoder.pos_conv_embed(channels), encoder.pool(channels)
        squeezed = (pooled + positions[..., : pooled.shape[-1]]).transpose(1, 2) * valid[..., None]
        if hasattr(encoder, "layers"):
            mask = create_bidirectional_mask(encoder.config, squeezed, valid)
            squeezed = encoder.dropout(encoder.layer_norm(squeezed))
            for layer in encoder.layers:
                squeezed = layer(squeezed, attention_mask=mask, **details)
        else:  # SEW-D's transformer is a module of its own
            squeezed = encoder.encoder(squeezed, valid.long(), **details).last_hidden_state
        # After the upsampling, which gives frames without input values of their own.
        encoded = encoder.upsample(squeezed) * valid.repeat_interleave(factor, 1)[..., None]
        return BaseModelOutput(last_hidden_state=nn.functional.pad(encoded, (0, 0, 0, frames - encoded.shape[1])))


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
