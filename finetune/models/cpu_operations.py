"""CPU operations: three parts of wav2vec2 and its relatives in forms that are faster, with the same results.

scripts/bench_training.py lists the time that each saves. They were not measured on GPUs and are not used there.
"""

import math
from typing import Any

import torch
from torch import nn

from finetune.models.relatives import get_norm, get_relative
from finetune.models.replacement import replace_submodule
from finetune.resources.machine import length_step

# Channels in a group at which the matrix products of a convolution are efficient (scripts/bench_training.py).
_GROUP_CHANNELS = 128

# Attention is computed on multiples of this many frames: oneDNN compiles kernels for each new shape.
_FRAMES = 32

# In float32, `_Attention` computes utterances of at least this many frames.
_LONG = 400

# Rows of attention weights are aligned to this many float32 values.
_ALIGNED = 16


def use_cpu_operations(model: Any, *, frozen: bool = False) -> None:
    """Replace modules of a CTC model by those below if its architecture has them; parameters keep names and values.

    For `frozen` parameters, in inference, what depends on the parameters alone is computed once. That saves a third of
    the time of the small base on utterances of 3.5 s, in bf16 on an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni;
    scripts/bench_transcription.py). Gradient checkpointing recomputes the transformer layers only.
    """
    from transformers import AttentionInterface

    AttentionInterface.register("by_utterance", attend_by_utterance)
    encoder, relative = model.base_model, get_relative(model.config)
    if relative.packs_frames and encoder.config._attn_implementation in ("sdpa", "by_utterance"):
        encoder.config._attn_implementation = "by_utterance"
        replace_submodule(encoder, "encoder", _PackedEncoder)
    if get_norm(encoder.config) == "layer" and not relative.has_fixed_features:
        for number, layer in enumerate(encoder.feature_extractor.conv_layers):
            kept = _to_channels_last(layer.conv) if frozen else None
            replace_submodule(encoder, f"feature_extractor.conv_layers.{number}", _ChannelsLastConvolution, kept=kept)
    # Some checkpoints of HuBERT have batch norm before the positional convolution.
    if relative.folds_positions and not getattr(encoder.config, "conv_pos_batch_norm", False):
        conv = encoder.encoder.pos_conv_embed.conv
        folded = _fold(conv, conv.weight) if frozen else None
        replace_submodule(encoder, "encoder.pos_conv_embed", _FoldedPositions, kept=folded)


class _ChannelsLastConvolution(nn.Module):
    """A convolution of the feature encoder with its layer norm, in place of `Wav2Vec2LayerNormConvLayer`.

    The memory layout is channels-last in all layers, as layer norm needs it. With `conv1d` each layer would transpose
    twice.
    """

    conv: nn.Conv1d
    layer_norm: nn.LayerNorm
    activation: nn.Module
    kept: torch.Tensor | None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, channels, samples) to (batch, channels, frames)."""
        conv = self.conv
        if conv.in_channels == 1:  # oneDNN takes 0.5 s to compile the convolution below for each new length.
            windows = hidden[:, 0].unfold(-1, *conv.kernel_size, *conv.stride)  # (batch, frames, kernel)
            convolved = nn.functional.linear(windows, conv.weight[:, 0], conv.bias)
        else:
            weight = _to_channels_last(conv) if self.kept is None else self.kept
            convolved = nn.functional.conv2d(hidden[:, :, None], weight, conv.bias, (1, *conv.stride))
            convolved = convolved[:, :, 0].transpose(1, 2)  # (batch, frames, channels)
        activated: torch.Tensor = self.activation(self.layer_norm(convolved))
        return activated.transpose(1, 2)


def _to_channels_last(conv: nn.Conv1d) -> torch.Tensor:
    """The weight of a convolution, (out, in, 1, kernel), in channels-last layout."""
    return conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)


class _FoldedPositions(nn.Module):
    """The positional convolution on several neighbouring frames at once, in place of `Wav2Vec2PositionalConvEmbedding`.

    Its groups are too narrow to be efficient: 16 channels in the small base. With `fold` neighbouring frames as
    channels of one position, a group is `fold` times as wide and its kernel `fold` times as short. The kernel is padded
    with zeros by `fold - 1` frames, which is wasted work.
    """

    conv: nn.Conv1d
    activation: nn.Module
    kept: tuple[torch.Tensor, torch.Tensor] | None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, frames, hidden) to the same."""
        conv, (batch, frames, channels) = self.conv, hidden.shape
        wide, bias = self.kept or _fold(conv, conv.weight.to(hidden.dtype))
        fold, taps = len(bias) // channels, wide.shape[-1]
        places, before = -(-frames // fold), int(conv.padding[0])
        padded = nn.functional.pad(hidden.transpose(1, 2), (before, (places + taps - 1) * fold - frames - before))
        folded = padded.view(batch, channels, -1, fold).transpose(2, 3).reshape(batch, channels * fold, -1)
        output = nn.functional.conv1d(folded, wide, bias, groups=conv.groups)
        unfolded = output.view(batch, channels, fold, places).permute(0, 3, 2, 1).reshape(batch, -1, channels)
        return self.activation(unfolded[:, :frames])


def _fold(conv: nn.Conv1d, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the bias of the positional convolution for `fold` frames in one position."""
    channels, groups, kernel = conv.out_channels, conv.groups, weight.shape[-1]
    fold = max(1, _GROUP_CHANNELS * groups // channels)
    taps = -(-(kernel + fold - 1) // fold)
    # The kernel for the a-th frame of a position is the same kernel, shifted by a frames.
    shifted = nn.functional.pad(weight, (fold - 1, taps * fold - kernel)).unfold(-1, taps * fold, 1).flip(2)
    wide = shifted.unflatten(-1, (taps, fold)).permute(0, 2, 1, 4, 3)  # (channels, fold, in a group, fold, taps)
    assert conv.bias is not None
    return wide.reshape(channels * fold, -1, taps), conv.bias.repeat_interleave(fold)


class _PackedEncoder(nn.Module):
    """The transformer layers on valid frames only, for `Wav2Vec2Encoder` and `Wav2Vec2EncoderStableLayerNorm`.

    After the positional convolution only attention combines frames. The layers get the frames of all utterances as one
    sequence, (1, frames of all, hidden), and the number of frames of each utterance as `attention_mask`. The output of
    padding is zero.
    """

    config: Any
    pos_conv_embed: nn.Module
    layer_norm: nn.LayerNorm
    dropout: nn.Dropout
    layers: nn.ModuleList

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """(batch, frames, hidden) to the same."""
        from transformers.modeling_outputs import BaseModelOutput

        batch, frames, channels = hidden.shape
        lengths = [frames] * batch if attention_mask is None else attention_mask.sum(-1).tolist()
        if attention_mask is not None:
            hidden = hidden.masked_fill(~attention_mask[..., None].bool(), 0)
        hidden = hidden + self.pos_conv_embed(hidden)
        total = sum(lengths)
        # Without padding the sequence is a view.
        packed = hidden.reshape(1, -1, channels) if total == batch * frames else _pack(hidden, lengths)
        stable = getattr(self.config, "do_stable_layer_norm", False)  # data2vec has no key for it.
        packed = self.dropout(packed if stable else self.layer_norm(packed))
        for layer in self.layers:
            packed = layer(packed, attention_mask=lengths, **details)
        if stable:
            packed = self.layer_norm(packed)
        if total == batch * frames:
            return BaseModelOutput(last_hidden_state=packed.view(batch, frames, channels))
        parts = packed[0, :total].split(lengths)
        room = [nn.functional.pad(part, (0, 0, 0, frames - len(part))) for part in parts]
        return BaseModelOutput(last_hidden_state=torch.stack(room))


def _pack(hidden: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The valid frames of all utterances in one sequence, (1, frames, hidden).

    In bf16 it is padded with zeros to fewer different lengths, as oneDNN compiles kernels for each length.
    """
    parts = [row[:length] for row, length in zip(hidden, lengths, strict=True)]
    if torch.is_autocast_enabled("cpu") or hidden.dtype != torch.float32:
        step = length_step(sum(lengths))
        parts.append(hidden.new_zeros(-sum(lengths) % step, hidden.shape[-1]))
    return torch.cat(parts)[None]


def attend_by_utterance(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: list[int],
    dropout: float = 0.0,
    scaling: float | None = None,
    **details: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `_PackedEncoder`: (1, heads, frames, width) three times to (1, frames, heads, width).

    `attention_mask` is the number of frames of each utterance; frames after them are zero. The attention weights of one
    utterance fit into the CPU's cache, where plain products in bf16 are twice as fast as torch's
    `scaled_dot_product_attention`. In float32 `_Attention` computes 0.133 TFLOP/s at 700 frames and torch's function
    0.104 (forward and backward, 4 heads, 2 cores of an AMD EPYC (Zen 4) capped to AVX2); at 200 frames 0.078 and 0.090.
    """
    width, frames = query.shape[-1], query.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    lengths = [*attention_mask, frames - sum(attention_mask)]
    outputs: list[torch.Tensor] = []
    for q, k, v in zip(*(part[0].split(lengths, 1) for part in (query, key, value)), strict=True):
        if len(outputs) == len(attention_mask):
            outputs.append(torch.zeros_like(q))
        elif q.dtype == torch.bfloat16 or dropout:
            outputs.append(_attend(q * scale, k, v, dropout))
        elif q.shape[1] < _LONG:
            outputs.append(nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=scale)[0])
        else:
            outputs.append(_Attention.apply(q, k, v, scale))
    return torch.cat(outputs, 1).transpose(0, 1)[None], None


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float) -> torch.Tensor:
    """Attention of one utterance by plain matrix products, (heads, frames, width) three times to the same."""
    frames = query.shape[1]
    size = -(-frames // _FRAMES) * _FRAMES
    q, k, v = (nn.functional.pad(part, (0, 0, 0, size - frames)) for part in (query, key, value))
    scores = q @ k.transpose(1, 2)  # (heads, size, size)
    scores[..., frames:] = -torch.inf
    return (nn.functional.dropout(scores.softmax(-1), dropout) @ v)[:, :frames]


class _Attention(torch.autograd.Function):
    """Attention of one utterance in float32, (heads, frames, width) three times to the same.

    With what is large, the weights (heads, frames, frames), little is done, and that in place: powers of two, which
    take half the time of powers of e, and no division; it is the small output that is divided by their sums. The
    gradient needs one more such buffer, for a moment.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """Output; the weights, before they are divided, are kept for the gradient."""
        frames = query.shape[1]
        room = (0, 0, 0, -frames % _ALIGNED)
        q, k, v = query * (scale / math.log(2)), nn.functional.pad(key, room), nn.functional.pad(value, room)
        weights = torch.bmm(q, k.transpose(1, 2))
        weights[..., frames:] = -torch.inf
        weights.sub_(weights.amax(-1, keepdim=True)).exp2_()
        sums = weights.sum(-1, keepdim=True)
        output = torch.bmm(weights, v).div_(sums)
        ctx.save_for_backward(q, k, v, weights, sums, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """The gradients of query, key and value."""
        q, k, v, weights, sums, output = ctx.saved_tensors
        gradient, frames = gradients[0] / sums, q.shape[1]
        by_value = torch.bmm(weights.transpose(1, 2), gradient)[:, :frames]
        by_scores = torch.bmm(gradient, v.transpose(1, 2))
        by_scores.sub_((gradient * output).sum(-1, keepdim=True)).mul_(weights)
        by_query = torch.bmm(by_scores, k).mul_(ctx.scale)
        by_key = torch.bmm(by_scores.transpose(1, 2), q)[:, :frames].mul_(math.log(2))
        return by_query, by_key, by_value, None
