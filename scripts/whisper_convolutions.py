"""Convolutions of a wav2vec2 that compute what Whisper's encoder begins with: a log-mel spectrum and two convolutions.

A wav2vec2 hears the waveform, and has nothing but convolutions before its layers, each with a normalisation over
channels (`feat_extract_norm="layer"`) and GELU. Four of them do:
1. Four filters for each band, a quarter of a period apart, 400 samples long and 10 ms apart like Whisper's windows;
   GELU rectifies them. Channels with a bias alone keep the level, which the normalisation would remove.
2. A kernel of one frame bends them, so that a linear map of its output is the logarithm. These two are trained.
3. and 4. Whisper's own convolutions, the first of them joined with that linear map. The normalisations that a wav2vec2
   has in between change little, because the deviation over channels is nearly the same in each frame; their scales and
   shifts give each channel its own mean and deviation back.
The linear map before the layers is fitted to the output of Whisper's convolutions (least squares).
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from synthesis import SynthesisError
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import get_linear_schedule_with_warmup
from transformers.audio_utils import hertz_to_mel, mel_to_hertz
from whisper_encoder import HOP, SAMPLING_RATE, WINDOW, WhisperEncoder, explained, fit_linear

NUM_PHASES, NUM_LEVELS, NUM_BENT = 4, 16, 320
BIASES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, -0.5, -1.0)
SHARPNESS = 8.0  # of the rectification
LOWEST_HZ, HIGHEST_HZ, NARROWEST_HZ = 20.0, 7900.0, 45.0
STRIDE = 2 * HOP
RECEPTIVE_FIELD = WINDOW + 4 * HOP
# Frame i of the student and frame i + FRAME_OFFSET of Whisper, which hears LEAD zeros first, have the same centre.
FRAME_OFFSET = math.ceil(RECEPTIVE_FIELD / 2 / STRIDE)
LEAD = FRAME_OFFSET * STRIDE - RECEPTIVE_FIELD // 2
SILENCE_SECONDS = 0.5  # behind an utterance, for Whisper
CROP_SECONDS, NUM_CROPS = 2, 12
PEAK_LEARNING_RATE, WARMUP_RATIO = 3e-3, 0.05
NOISE_DB = (10.0, 40.0)
RIDGE = 5e-4


class Crops:
    """Draws pieces of recordings, half of them with noise."""

    def __init__(self, paths: list[Path], seed: int) -> None:
        self._random, self._noise = random.Random(seed), torch.Generator().manual_seed(seed)
        length = CROP_SECONDS * SAMPLING_RATE
        self._paths = [path for path in paths if soundfile.info(path).frames >= length]
        if not self._paths:
            raise SynthesisError(f"none of {len(paths)} recordings has {CROP_SECONDS} seconds")

    def draw(self) -> torch.Tensor:
        """Some pieces, (NUM_CROPS, samples)."""
        pieces, length = [], CROP_SECONDS * SAMPLING_RATE
        for path in self._random.choices(self._paths, k=NUM_CROPS):
            start = self._random.randrange(soundfile.info(path).frames - length + 1)
            piece = torch.from_numpy(soundfile.read(path, length, start, dtype="float32")[0])
            if self._random.random() < 0.5:
                level = piece.std() * 10 ** (-self._random.uniform(*NOISE_DB) / 20)
                piece = piece + level * torch.randn(length, generator=self._noise)
            pieces.append(piece)
        return torch.stack(pieces)


def read(path: Path, max_seconds: int | None = None) -> torch.Tensor:
    """The samples of a recording, at most `max_seconds`; raises SynthesisError for another sampling rate."""
    samples, sampling_rate = soundfile.read(path, dtype="float32")
    if sampling_rate != SAMPLING_RATE:
        raise SynthesisError(f"{path} has a sampling rate of {sampling_rate} Hz; expected {SAMPLING_RATE}")
    return torch.from_numpy(samples[: max_seconds * SAMPLING_RATE] if max_seconds else samples)


def normalise(samples: torch.Tensor) -> torch.Tensor:
    """What wav2vec2's feature extractor does, (samples,) or (batch, samples)."""
    variance, mean = torch.var_mean(samples, dim=-1, keepdim=True, correction=0)
    return (samples - mean) / (variance + 1e-7).sqrt()


def describe_convolutions(teacher: WhisperEncoder) -> dict[str, Any]:
    """What a `Wav2Vec2Config` says of these convolutions."""
    channels = [NUM_PHASES * teacher.num_bands + NUM_LEVELS, NUM_BENT, teacher.width, teacher.width]
    return {
        "conv_dim": channels,
        "conv_kernel": [WINDOW, 1, 3, 3],
        "conv_stride": [HOP, 1, 1, 2],
        "num_feat_extract_layers": len(channels),
        "conv_bias": True,
        "feat_extract_norm": "layer",
    }


def hear(teacher: WhisperEncoder, samples: torch.Tensor) -> torch.Tensor:
    """The output of Whisper's convolutions for the student's frames of (batch, samples), (batch, frames, width)."""
    num_frames = (samples.shape[-1] - RECEPTIVE_FIELD) // STRIDE + 1
    return teacher.stem(_surround(samples))[:, FRAME_OFFSET : FRAME_OFFSET + num_frames]


def _surround(samples: torch.Tensor) -> torch.Tensor:
    return functional.pad(samples, (LEAD, round(SILENCE_SECONDS * SAMPLING_RATE)))


def fit_convolutions(student: Any, teacher: WhisperEncoder, crops: Crops, num_steps: int) -> float:
    """Make the convolutions of a `Wav2Vec2ForCTC` and what projects them imitate Whisper's.

    Returns the share of the variance of Whisper's convolutions that is explained.
    """
    *lower, third, fourth = student.wav2vec2.feature_extractor.conv_layers
    _design_filters(lower[0], teacher.num_bands, crops)
    readout, offset = _train_spectrum(nn.Sequential(*lower), teacher, crops, num_steps)
    with torch.no_grad():
        hidden = normalise(crops.draw())[:, None]
        for layer in lower:
            hidden = layer(hidden)
        weight, bias = (teacher.weights[f"conv1/{name}"] for name in ("weight", "bias"))
        joined = torch.einsum("omk,mi->oik", weight, readout)
        hidden = _copy_convolution(third, joined, bias + weight.sum(2) @ offset, hidden)
        _copy_convolution(fourth, teacher.weights["conv2/weight"], teacher.weights["conv2/bias"], hidden)
        known, wanted = _pairs(student, teacher, crops)
        projection = student.wav2vec2.feature_projection.projection
        weight, bias = fit_linear(known, wanted, RIDGE)
        projection.weight.copy_(weight)
        projection.bias.copy_(bias)
        known, wanted = _pairs(student, teacher, crops)
        return explained([projection(known)], [wanted])


@torch.no_grad()
def _design_filters(layer: Any, num_bands: int, crops: Crops) -> None:
    """Filters on the mel scale, as loud as each other on speech, and channels with a bias alone."""
    lowest, highest = (hertz_to_mel(hertz) for hertz in (LOWEST_HZ, HIGHEST_HZ))
    edges = mel_to_hertz(np.linspace(lowest, highest, num_bands + 2)).tolist()
    time = (torch.arange(WINDOW) - (WINDOW - 1) / 2) / SAMPLING_RATE
    nn.init.normal_(layer.conv.weight, std=0.02)
    nn.init.zeros_(layer.conv.bias)
    nn.init.constant_(layer.layer_norm.weight, SHARPNESS)
    for band in range(num_bands):
        width = max((edges[band + 2] - edges[band]) / 2, NARROWEST_HZ)
        window = torch.exp(-0.5 * (2.2 * width * time) ** 2) * torch.hann_window(WINDOW, periodic=False)
        for phase in range(NUM_PHASES):
            wave = window * torch.cos(2 * math.pi * (edges[band + 1] * time + phase / NUM_PHASES))
            layer.conv.weight[NUM_PHASES * band + phase, 0] = wave / wave.norm()
    bands = NUM_PHASES * num_bands
    layer.conv.bias[bands : bands + len(BIASES)] = torch.tensor(BIASES)
    power = layer.conv(normalise(crops.draw())[:, None])[:, :bands].square().mean((0, 2))
    level = power.reshape(num_bands, NUM_PHASES).mean(1).sqrt().repeat_interleave(NUM_PHASES)
    layer.conv.weight[:bands] *= (0.5 / level)[:, None, None]


def _train_spectrum(
    lower: nn.Module, teacher: WhisperEncoder, crops: Crops, num_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Train the first convolutions so that a linear map of their output is the log-mel spectrum.

    Returns the weight (bands, channels) and the bias of the map.
    """
    readout = nn.Conv1d(NUM_BENT, teacher.num_bands, 1)
    assert readout.bias is not None

    def pairs() -> tuple[torch.Tensor, torch.Tensor]:
        samples = crops.draw()
        hidden = lower(normalise(samples)[:, None])
        # Ours has its centre WINDOW / 2 behind its begin, Whisper's at its begin, LEAD later.
        first = (WINDOW // 2 + LEAD) // HOP
        spectrum = teacher.spectrum(_surround(samples))
        return hidden, spectrum[:, :, first : first + hidden.shape[2]]

    with torch.no_grad():
        hidden, spectrum = pairs()
        frames = [values.transpose(1, 2).flatten(0, 1) for values in (hidden, spectrum)]
        weight, bias = fit_linear(frames[0], frames[1], RIDGE)
        readout.weight.copy_(weight[:, :, None])
        readout.bias.copy_(bias)
        variance = spectrum.var((0, 2)).sum()
    parameters = [*lower.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP_RATIO * num_steps), num_steps)
    for _ in tqdm(range(num_steps), "spectrum", disable=None):
        hidden, spectrum = pairs()
        loss = (readout(hidden) - spectrum).square().sum(1).mean() / variance
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return readout.weight.detach()[:, :, 0], readout.bias.detach()


def _copy_convolution(layer: Any, weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Copy a convolution, let the normalisation behind it change little, and return the output for `inputs`."""
    layer.conv.weight.copy_(weight)
    layer.conv.bias.copy_(bias)
    wanted = layer.conv(inputs).transpose(1, 2).flatten(0, 1)
    normalised = functional.layer_norm(wanted, wanted.shape[-1:])
    centred = normalised - normalised.mean(0)
    scale = (centred * (wanted - wanted.mean(0))).mean(0) / centred.square().mean(0).clamp(min=1e-8)
    layer.layer_norm.weight.copy_(scale)
    layer.layer_norm.bias.copy_(wanted.mean(0) - scale * normalised.mean(0))
    return layer(inputs)


def _pairs(student: Any, teacher: WhisperEncoder, crops: Crops) -> tuple[torch.Tensor, torch.Tensor]:
    """What the projection is given and what it should give, each (frames, width)."""
    samples = torch.cat([crops.draw() for _ in range(4)])
    features = student.wav2vec2.feature_extractor(normalise(samples)).transpose(1, 2)
    known = student.wav2vec2.feature_projection.layer_norm(features)
    return known.flatten(0, 1), hear(teacher, samples).flatten(0, 1)
