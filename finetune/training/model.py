"""A pretrained wav2vec2 encoder with a fresh CTC head, and the loss it is trained by."""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from finetune.data.batching import Batch
from finetune.errors import UserError
from finetune.training.adapters import freeze_all_but_adapters, start_language_adapter


def build_model(
    config: Any,
    base: str | None,
    *,
    vocabulary: dict[str, int],
    blank: str,
    dropout: float,
    mask_time_probability: float,
    seed: int,
    head_rows: Sequence[int | None] | None = None,
    revision: str | None = None,
    freeze_feature_encoder: bool = True,
    language_adapter: str | None = None,
) -> nn.Module:
    """`Wav2Vec2ForCTC` with the base's encoder (random weights if `base` is None) and a new head.

    The head has one output for each token of the vocabulary, drawn from `seed` even where the base had a head
    of the same size: its outputs meant other characters. With `head_rows` a token whose place holds a number takes
    that row of the base's head instead. With a `language_adapter` only that language's adapters and the head are
    trained. Raises UserError when the base has no usable weights, or no head to take.
    """
    from transformers import AutoModelForCTC

    # Loaded as it is where its rows are wanted: another size would not be loaded at all.
    config.vocab_size = config.vocab_size if head_rows else len(vocabulary)
    config.pad_token_id = vocabulary[blank]
    config.bos_token_id = config.eos_token_id = None
    config.hidden_dropout = config.attention_dropout = config.activation_dropout = dropout
    config.feat_proj_dropout = config.final_dropout = dropout
    # A dropped layer leaves parameters without a gradient, which hangs training on several processes.
    config.layerdrop = 0.0
    # Masks come with the batch; drawn in the model they would depend on the order of the batches.
    config.apply_spec_augment = mask_time_probability > 0
    config.mask_time_prob = mask_time_probability
    config.mask_feature_prob = 0.0
    config.ctc_zero_infinity = True
    config.ctc_loss_reduction = "mean"
    torch.manual_seed(seed)
    try:
        if base is None:
            model = AutoModelForCTC.from_config(config, dtype=torch.float32)
        else:
            model, loading = AutoModelForCTC.from_pretrained(
                base,
                config=config,
                revision=revision,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{base or 'model.architecture'} makes no model: {reason}") from error
    if head_rows and base is not None and any("lm_head" in key for key in loading["missing_keys"]):
        raise UserError(f"{base} has a vocabulary but no CTC head to go with it: set text.vocabulary=training.")
    if language_adapter and base is not None:  # Its file holds the head for its vocabulary, too.
        start_language_adapter(model, base, language_adapter, revision)
    torch.manual_seed(seed)
    model.lm_head = _build_head(model.lm_head, len(vocabulary), config.initializer_range, head_rows or ())
    config.vocab_size = model.config.vocab_size = len(vocabulary)
    if freeze_feature_encoder:
        model.freeze_feature_encoder()
    if language_adapter:
        freeze_all_but_adapters(model)
    return model


def _build_head(old: nn.Linear, tokens: int, deviation: float, rows: Sequence[int | None]) -> nn.Linear:
    head: nn.Linear = nn.utils.skip_init(nn.Linear, old.in_features, tokens)
    nn.init.normal_(head.weight, std=deviation)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        for token, row in enumerate(rows):
            if row is not None:
                head.weight[token], head.bias[token] = old.weight[row], old.bias[row]
    return head


class CTCObjective(nn.Module):
    """A `Wav2Vec2ForCTC` whose forward pass gives the summed loss, so that it can be divided by a global count."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """The negative log likelihood of the labels, summed over the batch; utterances without labels count 0."""
        model = self.model
        hidden = model.wav2vec2(
            batch.input_values,
            attention_mask=batch.attention_mask,
            mask_time_indices=batch.mask_time_indices,
        ).last_hidden_state
        logits = model.lm_head(model.dropout(hidden))  # (batch, frames, vocabulary)
        losses = nn.functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            batch.labels,
            batch.num_frames,
            batch.label_lengths,
            blank=model.config.pad_token_id,
            reduction="none",
            zero_infinity=True,
        )
        total: torch.Tensor = losses[batch.label_lengths > 0].sum()
        return total
