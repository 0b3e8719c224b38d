"""The simplest CTC decoding: the likeliest symbol of each frame, repeats collapsed, blanks dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_greedy(logits: torch.Tensor, num_frames: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Turn logits into one text for each utterance, the same text that transformers' pipeline gives.

    `logits` is (batch, frames, vocabulary), on any device; log-probabilities do as well. `num_frames`
    holds the number of valid frames of each utterance: what lies behind them is padding. The tokenizer
    is a CTC tokenizer whose pad token is the blank.

    Each utterance goes through `tokenizer.decode(ids, skip_special_tokens=False)`, the call the
    pipeline makes. Three other ways look right and are not:

    - `skip_special_tokens=True` drops blanks before repeats are collapsed: "hello book" -> "helo bok".
    - In transformers 5 the word delimiter "|" counts as a special token too, so that skipping special
      tokens anywhere else on the way joins the words.
    - Filling the padding with -100, as for labels, puts "[UNK]" at the end of the text, since no token
      has that id. We cut the ids at `num_frames` instead.

    Where two word delimiters stand with a blank between them the text has a doubled space, as the
    pipeline's has; scoring collapses it.

    Raises ValueError when `num_frames` does not fit the logits.
    """
    _check(logits, num_frames)
    best = logits.argmax(dim=-1).tolist()  # (batch, frames)
    return [
        str(tokenizer.decode(ids[:frames], skip_special_tokens=False))
        for ids, frames in zip(best, num_frames, strict=True)
    ]


def count_blanks(logits: torch.Tensor, num_frames: Sequence[int], blank_id: int) -> tuple[int, int]:
    """Count the valid frames whose likeliest symbol is the blank.

    `logits` is (batch, frames, vocabulary), `num_frames` as for `decode_greedy`. Returns (blank frames,
    frames), which add up over batches; a ratio near 1 says that the model has learnt to say nothing.

    Raises ValueError when `num_frames` does not fit the logits.
    """
    _check(logits, num_frames)
    lengths = torch.tensor(list(num_frames), device=logits.device)
    valid = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]  # (batch, frames)
    blanks = (logits.argmax(dim=-1) == blank_id) & valid
    return int(blanks.sum()), int(valid.sum())


def _check(logits: torch.Tensor, num_frames: Sequence[int]) -> None:
    if logits.ndim != 3 or len(num_frames) != logits.shape[0]:
        raise ValueError(
            f"Got logits of shape {tuple(logits.shape)} with {len(num_frames)} lengths: "
            "needs (batch, frames, vocabulary) and one length for each utterance."
        )
    # A slice past the end, or a negative one, would be accepted in silence.
    if not all(0 <= frames <= logits.shape[1] for frames in num_frames):
        raise ValueError(f"Lengths {list(num_frames)} do not fit in {logits.shape[1]} frames.")
