"""Waveforms for Wav2Vec2-BERT, whose input are log-mel energies: its own feature extractor as a part of the model.

So training, batches, windows and live sessions feed it as they feed wav2vec2, and its saved files do not change.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor
from transformers.audio_utils import mel_filter_bank, window_function

from finetune.models.configuration import adapter_stride
from finetune.models.relatives import get_relative
from finetune.models.replacement import replace_submodule

# All that follows is Transformers' SeamlessM4TFeatureExtractor (feature_extraction_seamless_m4t.py), as Kaldi's fbank.
WINDOW_SAMPLES, HOP_SAMPLES, STACKED = 400, 160, 2
_TRANSFORM_SIZE, _LOWEST_HERTZ = 512, 20
MOST_MEL_BINS = _TRANSFORM_SIZE // 2  # More would have no frequency each.
_SCALE = 2.0**15  # waveforms as whole numbers of 16 bits
_PREEMPHASIS = 0.97
_FLOOR = 1.192092955078125e-07
_LEAST_VARIANCE = 1e-7
SAMPLING_RATE = 16000


class LogMelExtractor(Wav2Vec2FeatureExtractor):
    """Pads waveforms as they are; saved it is the SeamlessM4TFeatureExtractor that plain Transformers needs."""

    def __init__(self, num_mel_bins: int) -> None:
        super().__init__(sampling_rate=SAMPLING_RATE, do_normalize=False, return_attention_mask=True)
        self.num_mel_bins = num_mel_bins

    def to_dict(self) -> dict[str, Any]:
        """The values of preprocessor_config.json."""
        from transformers import SeamlessM4TFeatureExtractor

        size = self.num_mel_bins
        return dict(SeamlessM4TFeatureExtractor(feature_size=size, num_mel_bins=size).to_dict())


def hear_waveforms(model: Any) -> None:
    """Let a model with a CTC head whose input are log-mel energies take waveforms, and others as they are.

    Parameters and the names of the classes stay, so that saved files are those of plain Transformers.
    """
    if not get_relative(model.config).log_mel or isinstance(model, _HearsWaveforms):
        return
    kind, base = type(model), type(model.base_model)
    hearing = type(base.__name__, (_WaveformBase, base), {"__module__": base.__module__})
    features = LogMelFeatures(model.config.feature_projection_input_dim // STACKED)
    replace_submodule(model, model.base_model_prefix, hearing, log_mel=features)
    if model.config.add_adapter:
        adapter = type(model.base_model.adapter)
        replace_submodule(model.base_model, "adapter", type(adapter.__name__, (_OneByOneAdapter, adapter), {}))
    model.__class__ = type(kind.__name__, (_HearsWaveforms, kind), {"__module__": kind.__module__})


def count_frames(samples: Any, config: Any = None) -> Any:
    """The transformer's frames of waveforms with so many samples, or with a configuration those of the output.

    The last may have a single window, and is then not attended to.
    """
    frames = ((samples - WINDOW_SAMPLES) // HOP_SAMPLES + STACKED) // STACKED
    return frames if config is None else (frames - 1) // adapter_stride(config) + 1


class _HearsWaveforms(nn.Module):
    """The model with its head."""

    config: Any

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """Logits of waveforms (batch, samples) with their mask (batch, samples)."""
        return super().forward(input_values, attention_mask=attention_mask, **details)

    def freeze_feature_encoder(self) -> None:
        """Do nothing: the features have no weights."""

    def _get_feat_extract_output_lengths(self, lengths: Any, *_: Any) -> Any:
        return count_frames(lengths, self.config)


class _WaveformBase(nn.Module):
    """The model without its head."""

    log_mel: "LogMelFeatures"
    feature_projection: nn.Module
    adapter: nn.Module | None

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None, **details: Any) -> Any:
        """States of waveforms (batch, samples) with their mask (batch, samples)."""
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        features, valid = self.log_mel(input_values, lengths)
        dtype = next(self.feature_projection.parameters()).dtype
        if self.adapter is not None and lengths is not None:
            details["adapted_frames"] = count_frames(lengths).tolist()
        return super().forward(features.to(dtype), attention_mask=valid, **details)


class _OneByOneAdapter(nn.Module):
    """The layers of `add_adapter`, whose convolutions would see the padding of a batch."""

    def forward(
        self,
        hidden: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        adapted_frames: list[int] | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """(batch, frames, hidden) to fewer frames, those of `adapted_frames` for each utterance by itself."""
        if adapted_frames is None or attention_mask is None:
            adapted: torch.Tensor = super().forward(hidden, attention_mask=attention_mask)
            return adapted
        rows = []
        for row, mask, frames in zip(hidden, attention_mask, adapted_frames, strict=True):
            rows.append(super().forward(row[None, :frames], attention_mask=mask[None, :frames])[0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


class LogMelFeatures:
    """Log-mel energies of an utterance, each bin with zero mean and unit variance over its windows."""

    def __init__(self, num_mel_bins: int) -> None:
        filters = mel_filter_bank(
            _TRANSFORM_SIZE // 2 + 1,
            num_mel_bins,
            _LOWEST_HERTZ,
            SAMPLING_RATE // 2,
            SAMPLING_RATE,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.mel = torch.from_numpy(filters)
        self.fourier = torch.from_numpy(_build_transform())

    def __call__(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (batch, frames, 2 × bins) and which frames are attended to, (batch, frames).

        Waveforms are (batch, samples), `lengths` (batch,) in samples; without them all samples are valid. In float64:
        in float32 digital silence with an offset would not be the same everywhere.
        """
        windows = waveforms.double().unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * _SCALE  # (batch, windows, samples)
        windows = windows - windows.mean(-1, keepdim=True)
        cosine, sine = (windows @ self.fourier.to(waveforms.device)).chunk(2, -1)
        energies = (cosine.square() + sine.square()) @ self.mel.to(waveforms.device)
        bins = energies.clamp(min=_FLOOR).log()
        if lengths is None:
            lengths = torch.full(waveforms.shape[:1], waveforms.shape[1], device=waveforms.device)
        count = (lengths[:, None] - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        valid = torch.arange(bins.shape[1], device=waveforms.device) < count
        mask, total = valid[..., None], count[..., None]
        mean = (bins * mask).sum(1, keepdim=True) / total.clamp(min=1)
        variance = ((bins - mean).square() * mask).sum(1, keepdim=True) / (total - 1).clamp(min=1)  # Of one window 0.
        normed = (bins - mean) * (variance + _LEAST_VARIANCE).rsqrt() * mask
        # Pairs of windows; the last one may be without its second. By slices, which torch exports for any length.
        second, attended = (nn.functional.pad(each, (0, 0, 0, 1))[:, 1::STACKED] for each in (normed, mask))
        return torch.cat([normed[:, ::STACKED], second], -1).float(), attended[..., 0]


def _build_transform() -> np.ndarray:
    """Preemphasis in a window, Povey's window and the Fourier transform as one matrix, (samples, 2 × frequencies)."""
    emphasis = np.eye(WINDOW_SAMPLES) - _PREEMPHASIS * np.eye(WINDOW_SAMPLES, k=1)
    emphasis[0, 0] = 1 - _PREEMPHASIS
    weights = emphasis * window_function(WINDOW_SAMPLES, "povey", periodic=False)
    times, frequencies = np.arange(WINDOW_SAMPLES), np.arange(_TRANSFORM_SIZE // 2 + 1)
    angles = 2 * np.pi * (np.outer(times, frequencies) % _TRANSFORM_SIZE) / _TRANSFORM_SIZE
    transform: np.ndarray = weights @ np.concatenate([np.cos(angles), np.sin(angles)], 1)
    return transform
