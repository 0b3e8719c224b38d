"""Training for live use: the transformer sees some utterances in windows with little right context.

A live session computes frames as soon as `right` seconds after them are known. A model that was trained on whole
utterances only is less accurate there. With block-wise processing in training (Tsunoo et al. 2019, arXiv 1910.07204)
and a right context drawn for each batch (dynamic chunks: Zhang et al. 2020, arXiv 2012.05481) one model serves both.
Unlike attention masks, whose right contexts add up over the layers and which leave the positional convolution as it
is, each window is computed by itself, exactly as in a live session.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finetune.models.replacement import replace_submodule

# The share of batches that are computed in windows; the others see whole utterances.
_SHARE = 0.5
# An utterance has at most so many windows, which bounds the additional time.
_MAX_WINDOWS = 4


@dataclass(frozen=True, kw_only=True)
class WindowContext:
    """Frames before a window's chunk, the range of those after it, and the smallest chunk."""

    left: int
    right: tuple[int, int]
    chunk: int


def encode_in_windows(model: Any, context: WindowContext) -> None:
    """Let the transformer of a model with a CTC head compute half of the training batches in windows.

    For each such batch a right context is drawn, log-uniformly. Parameters keep their names, and nothing changes in
    evaluation. To be called after `use_cpu_operations`.
    """
    kind = type(model.base_model.encoder)
    windowed = type(f"Windowed{kind.__name__}", (_WindowedEncoder, kind), {})
    replace_submodule(model.base_model, "encoder", windowed, context=context)


class _WindowedEncoder(nn.Module):
    context: WindowContext

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """(batch, frames, hidden) to the same."""
        if not self.training or torch.rand(()) >= _SHARE:
            return super().forward(hidden, attention_mask=attention_mask, **details)
        low, high = self.context.right
        right = round(low * math.exp(torch.rand(()).item() * math.log(high / low)))
        batch, frames, _ = hidden.shape
        lengths = [frames] * batch if attention_mask is None else attention_mask.sum(-1).tolist()
        chunk = max(self.context.chunk, -(-frames // _MAX_WINDOWS))
        windows = [(row, *window) for row, length in enumerate(lengths) for window in self._cut(length, chunk, right)]
        inputs = nn.utils.rnn.pad_sequence([hidden[row, first:last] for row, first, last, *_ in windows], True)
        sizes = torch.tensor([last - first for _, first, last, *_ in windows], device=hidden.device)
        mask = torch.arange(inputs.shape[1], device=hidden.device) < sizes[:, None]  # (windows, frames)
        encoded = super().forward(inputs, attention_mask=mask, **details)
        parts: list[list[torch.Tensor]] = [[] for _ in range(batch)]
        for (row, first, _, start, end), states in zip(windows, encoded.last_hidden_state, strict=True):
            parts[row].append(states[start - first : end - first])
        output = nn.utils.rnn.pad_sequence([torch.cat(chunks) for chunks in parts], True)
        output = nn.functional.pad(output, (0, 0, 0, frames - output.shape[1]))
        encoded.last_hidden_state = output
        return encoded

    def _cut(self, length: int, chunk: int, right: int) -> Iterator[tuple[int, int, int, int]]:
        """The windows of an utterance: first and last frame (exclusive), and those of its chunk."""
        start = 0
        while start < length:
            last = min(length, start + chunk + right)
            # A window that is the whole utterance computes all frames that are left.
            end = length if last == length <= self.context.left else min(length, start + chunk)
            yield max(0, start - self.context.left), last, start, end
            start = end
