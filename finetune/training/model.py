"""A pretrained wav2vec2 encoder with a fresh CTC head, and the loss it is trained by."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from finetune.data.batching import Batch
from finetune.errors import UserError


def build_model(
    config: Any,
    base: str | None,
    *,
    vocabulary: dict[str, int],
    blank: str,
    dropout: float,
    mask_time_probability: float,
    seed: int,
    revision: str | None = None,
    freeze_feature_encoder: bool = True,
) -> nn.Module:
    """`Wav2Vec2ForCTC` with the base's encoder (random weights if `base` is None) and a new head.

    The head has one output for each token of the vocabulary, drawn from `seed` even where the base had a head
    of the same size: its outputs meant other characters. Raises UserError when the base has no usable weights.
    """
    from transformers import AutoModelForCTC

    config.vocab_size = len(vocabulary)
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
            model = AutoModelForCTC.from_pretrained(
                base,
                config=config,
                revision=revision,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{base or 'model.architecture'} makes no model: {reason}") from error
    torch.manual_seed(seed)
    nn.init.normal_(model.lm_head.weight, std=config.initializer_range)
    nn.init.zeros_(model.lm_head.bias)
    if freeze_feature_encoder:
        model.freeze_feature_encoder()
    return model


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
