"""A bidirectional LSTM and residual convolutions with a CTC head, as models of Transformers."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from finetune.models.baselines.configuration import BaselineConfig, CNNConfig, LSTMConfig
from finetune.models.baselines.features import SpectralFeatures, without_autocast


class LSTMLayer(GradientCheckpointingLayer):
    """One layer in both directions (Graves and Schmidhuber 2005), layer norm and dropout.

    Each utterance is reversed by itself, so that its padding comes last in both directions and changes nothing. Packed
    sequences do the same, and are slower on a CPU, where autocast to bf16 is slower, too (recipes/baselines).
    """

    def __init__(self, config: LSTMConfig, input_size: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(input_size, config.hidden_size, batch_first=True)
        self.back = nn.LSTM(input_size, config.hidden_size, batch_first=True)
        self.norm = nn.LayerNorm(config.output_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: torch.Tensor, reverse: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, input) to (batch, frames, output); `reverse` is that of `LSTMEncoder`."""
        with without_autocast("cpu"):
            ahead, _ = self.ahead(hidden)
            back, _ = self.back(_reverse(hidden, reverse))
        return self.dropout(self.norm(torch.cat([ahead, _reverse(back, reverse)], -1)))


def _reverse(hidden: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """(batch, frames, width) with the valid frames in reverse order."""
    return hidden.flip(1) if order is None else hidden.gather(1, order[..., None].expand_as(hidden))


class LSTMEncoder(nn.Module):
    """Layers of LSTM."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        sizes = [config.input_size] + [config.output_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList([LSTMLayer(config, size) for size in sizes])

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        """(batch, frames, features), with the valid frames as a mask (batch, frames), to (batch, frames, output)."""
        reverse = None  # For each frame, (batch, frames), the one that takes its place; None without padding.
        if attention_mask is not None:
            frames, lengths = torch.arange(hidden.shape[1], device=hidden.device), attention_mask.sum(-1, keepdim=True)
            reverse = torch.where(frames < lengths, lengths - 1 - frames, frames)
        for layer in self.layers:
            hidden = layer(hidden, reverse)
        return BaseModelOutput(last_hidden_state=hidden)


class CNNLayer(GradientCheckpointingLayer):
    """A residual block: layer norm, a convolution over time, GELU, dropout, and a linear layer."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.conv = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """(batch, frames, hidden) to the same; `valid` (batch, frames, 1), None without padding."""
        normed = self.norm(hidden)
        if valid is not None:  # What is beyond the end of an utterance is zero, whatever its batch.
            normed = normed.masked_fill(~valid, 0)
        convolved = self.conv(normed.transpose(1, 2)).transpose(1, 2)
        return hidden + self.linear(self.dropout(nn.functional.gelu(convolved)))


class CNNEncoder(nn.Module):
    """Residual convolutions."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.input_size, config.hidden_size)
        self.layers = nn.ModuleList([CNNLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> BaseModelOutput:
        """(batch, frames, features), with the valid frames as a mask (batch, frames), to (batch, frames, output)."""
        valid = None if attention_mask is None else attention_mask[..., None].bool()
        hidden = self.projection(hidden)
        for layer in self.layers:
            hidden = layer(hidden, valid)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))


class BaselinePreTrainedModel(PreTrainedModel):
    """What Transformers asks of the models."""

    config: BaselineConfig
    base_model_prefix = "baseline"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def _init_weights(self, module: nn.Module) -> None:
        """As PyTorch does, except for what Transformers builds itself: PyTorch's depends on the width of each layer."""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LSTM | nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, _BaselineModel):
            nn.init.zeros_(module.masked_spec_embed)

    def _get_feat_extract_output_lengths(self, lengths: Any) -> Any:
        """The number of frames of waveforms with so many samples."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths


class _BaselineModel(BaselinePreTrainedModel):
    """Features of waveforms, masks in training, and an encoder."""

    def __init__(self, config: BaselineConfig, encoder: nn.Module) -> None:
        super().__init__(config)
        self.feature_extractor = SpectralFeatures(config)
        # What masked frames are replaced by; at first the mean of each feature, as in SpecAugment.
        self.masked_spec_embed = nn.Parameter(torch.zeros(config.num_features))
        self.encoder = encoder
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mask_time_indices: torch.Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode waveforms (batch, samples) with their `attention_mask` (batch, samples).

        `mask_time_indices` (batch, frames) are frames to mask. Padding changes no valid frame.
        """
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        features = self.feature_extractor(input_values, lengths)  # (batch, frames, stacked, features)
        features = self._mask_hidden_states(features, mask_time_indices=mask_time_indices)
        valid = None
        if lengths is not None:
            frames = self._get_feat_extract_output_lengths(lengths)
            valid = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        hidden = features.flatten(2).to(self.masked_spec_embed.dtype)
        output: BaseModelOutput = self.encoder(hidden, attention_mask=valid)
        return output

    def _mask_hidden_states(self, features: torch.Tensor, mask_time_indices: torch.Tensor | None) -> torch.Tensor:
        if mask_time_indices is not None:
            features[mask_time_indices] = self.masked_spec_embed.to(features.dtype)
        return features


class LSTMModel(_BaselineModel):
    """The LSTM without a head."""

    config_class = LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config, LSTMEncoder(config))


class CNNModel(_BaselineModel):
    """The convolutions without a head."""

    config_class = CNNConfig

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config, CNNEncoder(config))


class _ForCTC(BaselinePreTrainedModel):
    """A model with dropout and a linear layer on top, for CTC (Graves et al. 2006)."""

    def __init__(self, config: Any, model: _BaselineModel) -> None:
        super().__init__(config)
        self.baseline = model
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """Do nothing: the features have no weights."""

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **details: Any,
    ) -> CausalLMOutput:
        """Logits (batch, frames, vocabulary); with `labels` (batch, characters), padded by -100, also the CTC loss."""
        hidden = self.baseline(input_values, attention_mask=attention_mask, **details).last_hidden_state
        logits = self.lm_head(self.dropout(hidden))
        if labels is None:
            return CausalLMOutput(logits=logits)
        samples = torch.full(logits.shape[:1], input_values.shape[1], device=logits.device)
        lengths = samples if attention_mask is None else attention_mask.sum(-1)
        loss = nn.functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            labels.masked_select(labels >= 0),
            self._get_feat_extract_output_lengths(lengths),
            (labels >= 0).sum(-1),
            blank=self.config.pad_token_id or 0,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )
        return CausalLMOutput(loss=loss, logits=logits)


class LSTMForCTC(_ForCTC):
    """A bidirectional LSTM over log-mel energies or MFCC, with a CTC head."""

    config_class = LSTMConfig

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config, LSTMModel(config))


class CNNForCTC(_ForCTC):
    """Residual convolutions over log-mel energies or MFCC, with a CTC head."""

    config_class = CNNConfig

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config, CNNModel(config))
