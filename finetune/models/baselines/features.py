"""Log-mel energies and MFCC of waveforms, by convolutions whose filters are fixed."""

import contextlib
import math
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from finetune.models.baselines.configuration import BaselineConfig

# Energies are not less than this; waveforms have unit variance. It is 50 dB below the energy of white noise that is as
# loud as the speech is on average, in one mel bin of low frequency.
_FLOOR = 1e-3
# Added to the variance of a feature over an utterance, in units of log² energy, so that silence is not amplified.
_LEAST_VARIANCE = 0.1
# Lower frequencies are hum.
_LOWEST_HERTZ = 20.0


class SpectralFeatures(nn.Module):
    """The features of an utterance, each with zero mean and unit variance over its valid frames.

    The Fourier transform is a convolution with windowed sines and cosines, so that any length is exported to ONNX. It
    has no weights: filters are no buffers, which would be rounded with the weights to 16 bits.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.hop_samples, self.stacked_frames = config.hop_samples, config.stacked_frames
        fourier, mel = _build_filters(config)
        # Not by functions that build on the device that is being set: models are built without memory, to be loaded.
        self.fourier, self.mel = torch.from_numpy(fourier), torch.from_numpy(mel)
        cosines = _build_cosines(config.num_coefficients, config.num_mel_bins) if config.features == "mfcc" else None
        self.cosines = None if cosines is None else torch.from_numpy(cosines)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Features (batch, frames, stacked, features) of waveforms (batch, samples) with `lengths` (batch,) in samples.

        Without lengths all samples are valid. Computed in float32.
        """
        with without_autocast(waveforms.device.type):
            windows = self._transform(waveforms.float()[:, None])
        num_windows = windows.shape[-1]
        if lengths is None:
            mean, variance = windows.mean(-1, keepdim=True), windows.var(-1, keepdim=True, correction=0)
        else:
            count = ((lengths - self.fourier.shape[-1]) // self.hop_samples + 1)[:, None, None]
            valid = torch.arange(num_windows, device=windows.device) < count
            mean = (windows * valid).sum(-1, keepdim=True) / count
            variance = ((windows - mean).square() * valid).sum(-1, keepdim=True) / count
        normalised = (windows - mean) * (variance + _LEAST_VARIANCE).rsqrt()
        frames = num_windows // self.stacked_frames
        stacked = normalised[..., : frames * self.stacked_frames].unflatten(-1, (frames, self.stacked_frames))
        return stacked.permute(0, 2, 3, 1)

    def _transform(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, 1, samples) to (batch, features, windows)."""
        fourier, mel = self.fourier.to(waveforms.device), self.mel.to(waveforms.device)
        cosine, sine = nn.functional.conv1d(waveforms, fourier, stride=self.hop_samples).square().chunk(2, 1)
        # Matrix products would be rounded to 8 bits in a quantised export.
        energies = nn.functional.conv1d(cosine + sine, mel).clamp(min=_FLOOR).log()
        if self.cosines is None:
            return energies
        return nn.functional.conv1d(energies, self.cosines.to(waveforms.device))


def without_autocast(kind: str) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast on a kind of device; exported graphs do not have it."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _build_filters(config: BaselineConfig) -> tuple[np.ndarray, np.ndarray]:
    """Filters of the Fourier transform, (2 × frequencies, 1, samples), and of mel bins, (bins, frequencies, 1).

    Windows are Hann's, padded with zeros to the next power of two; mel bins are triangles on HTK's scale.
    """
    samples = config.window_samples
    size = 2 ** math.ceil(math.log2(samples))
    frequencies, times = np.arange(size // 2 + 1), np.arange(samples)
    angles = 2 * np.pi * (np.outer(frequencies, times) % size) / size
    window = 0.5 - 0.5 * np.cos(2 * np.pi * times / samples)
    fourier = np.concatenate([np.cos(angles), np.sin(angles)]) * window
    mel = mel_filter_bank(
        len(frequencies),
        config.num_mel_bins,
        _LOWEST_HERTZ,
        config.sampling_rate / 2,
        config.sampling_rate,
        mel_scale="htk",
    )
    return fourier[:, None].astype(np.float32), mel.T[..., None].astype(np.float32)


def _build_cosines(coefficients: int, bins: int) -> np.ndarray:
    """The first rows of the orthonormal discrete cosine transform (DCT-II), (coefficients, bins, 1)."""
    matrix = np.cos(np.pi / bins * np.outer(np.arange(coefficients), np.arange(bins) + 0.5)) * math.sqrt(2 / bins)
    matrix[0] /= math.sqrt(2)
    return matrix[..., None].astype(np.float32)
