"""Three parts of a wav2vec2 in forms that a CPU computes faster; weights and results stay what they are.

What each saves is in scripts/bench_training.py. On GPUs, where nobody has measured them, models are left alone.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn

# Channels of a group that make a convolution's matrix products large enough (scripts/bench_training.py).
_GROUP_CHANNELS = 128

# Utterances are attended to in whole multiples of so many frames: each new shape costs a CPU the making of its kernels.
_FRAMES = 32


def use_cpu_kernels(model: Any, *, frozen: bool = False) -> None:
    """Have a `Wav2Vec2ForCTC` compute with the functions below; its parameters keep their names and values.

    Where they are `frozen`, in inference, what is made of them alone is made now, and kept. That is a third of the time
    of the small base on utterances of 3.5 s, in bf16 on an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni;
    scripts/bench_transcription.py).
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("by_utterance", attend_by_utterance)
    AttentionMaskInterface.register("by_utterance", sdpa_mask)
    encoder = model.wav2vec2
    if encoder.config._attn_implementation == "sdpa":
        encoder.config._attn_implementation = "by_utterance"
    if encoder.config.feat_extract_norm == "layer":
        for layer in encoder.feature_extractor.conv_layers:
            layer.forward = MethodType(convolve_frames, layer)
            layer.kept = _lay_together(layer.conv) if frozen else None
    positions = encoder.encoder.pos_conv_embed
    positions.forward = MethodType(embed_positions, positions)
    positions.kept = _fold(positions.conv, positions.conv.weight) if frozen else None


def convolve_frames(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A convolution of the feature encoder with its layer norm: (batch, channels, samples) to the same, fewer.

    In memory the channels of a frame stay together from layer to layer, as the norm wants them. `conv1d` would have
    them apart, and each layer transpose twice.
    """
    conv = layer.conv
    if conv.in_channels == 1:  # Laid so, it would take oneDNN half a second to begin with each new length.
        windows = hidden[:, 0].unfold(-1, *conv.kernel_size, *conv.stride)  # (batch, frames, kernel)
        convolved = nn.functional.linear(windows, conv.weight[:, 0], conv.bias)
    else:
        weight = _lay_together(conv) if layer.kept is None else layer.kept
        convolved = nn.functional.conv2d(hidden[:, :, None], weight, conv.bias, (1, *conv.stride))
        convolved = convolved[:, :, 0].transpose(1, 2)  # (batch, frames, channels)
    activated: torch.Tensor = layer.activation(layer.layer_norm(convolved))
    return activated.transpose(1, 2)


def _lay_together(conv: nn.Conv1d) -> torch.Tensor:
    """A convolution's weight, (out, in, 1, kernel), with the input's channels side by side in memory."""
    return conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)


def embed_positions(embedding: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The positional convolution, (batch, frames, hidden) to the same, on several neighbouring frames at once.

    Its groups are too narrow to be computed well: 16 channels in the small base. With `fold` frames laid side by side
    as channels, a group is `fold` times as wide, and its kernel reaches over as many times fewer places. What is
    computed in vain is the kernel's ends, `fold - 1` frames in its length.
    """
    conv, (batch, frames, channels) = embedding.conv, hidden.shape
    wide, bias = embedding.kept or _fold(conv, conv.weight.to(hidden.dtype))
    fold, taps = len(bias) // channels, wide.shape[-1]
    places, before = -(-frames // fold), conv.padding[0]
    padded = nn.functional.pad(hidden.transpose(1, 2), (before, (places + taps - 1) * fold - frames - before))
    folded = padded.view(batch, channels, -1, fold).transpose(2, 3).reshape(batch, channels * fold, -1)
    output = nn.functional.conv1d(folded, wide, bias, groups=conv.groups)
    unfolded = output.view(batch, channels, fold, places).permute(0, 3, 2, 1).reshape(batch, -1, channels)
    activated: torch.Tensor = embedding.activation(unfolded[:, :frames])
    return activated


def _fold(conv: nn.Conv1d, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positional convolution's weight and bias for `fold` frames side by side."""
    channels, groups, kernel = conv.out_channels, conv.groups, weight.shape[-1]
    fold = max(1, _GROUP_CHANNELS * groups // channels)
    taps = -(-(kernel + fold - 1) // fold)
    # The kernel for a place's a-th frame is the same one, a frames later.
    shifted = nn.functional.pad(weight, (fold - 1, taps * fold - kernel)).unfold(-1, taps * fold, 1).flip(2)
    wide = shifted.unflatten(-1, (taps, fold)).permute(0, 2, 1, 4, 3)  # (channels, fold, in a group, fold, taps)
    assert conv.bias is not None
    return wide.reshape(channels * fold, -1, taps), conv.bias.repeat_interleave(fold)


def attend_by_utterance(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **details: Any,
) -> tuple[torch.Tensor, None]:
    """Attention, (batch, heads, frames, width) three times to (batch, frames, heads, width), on valid frames alone.

    An utterance's weights stay in the processor's cache, and plain products in bf16 are twice as fast there as torch's
    `scaled_dot_product_attention`; in other precisions they are not, and that is called. `attention_mask`
    (batch, 1, frames, frames) is true where a frame may be attended to; padding comes last, and its rows mean nothing.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.dtype != torch.bfloat16:
        attended: torch.Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **details
        )[0]
        return attended, None
    batch, _, frames, width = query.shape
    valid = [frames] * batch if attention_mask is None else attention_mask[:, 0, 0].sum(-1).tolist()
    sizes = [-(-count // _FRAMES) * _FRAMES for count in valid]
    room = (0, 0, 0, max(sizes) - frames)  # in the frames; less than none where all are shorter
    scaled = query * (width**-0.5 if scaling is None else scaling)
    parts = (nn.functional.pad(part, room) for part in (scaled, key, value))
    outputs = []
    for q, k, v, count, size in zip(*parts, valid, sizes, strict=True):
        scores = q[:, :size] @ k[:, :size].transpose(1, 2)  # (heads, size, size)
        scores[..., count:] = -torch.inf
        output = nn.functional.dropout(scores.softmax(-1), dropout) @ v[:, :size]
        outputs.append(nn.functional.pad(output, (0, 0, 0, frames - size)))
    return torch.stack(outputs).transpose(1, 2), None
