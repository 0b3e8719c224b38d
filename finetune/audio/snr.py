"""Estimating the signal-to-noise ratio of speech from the waveform."""

import numpy as np

from finetune.audio.waveforms import Waveform

_FRAME_SECONDS = 0.02
# The share of frames without speech, which also fluent speech has: its stops and breaths.
_QUIETEST = 0.1
# The power of half a quantisation step of 16 bits: less is digital silence.
_FLOOR = 2.0**-32


def estimate_snr(waveform: Waveform, sampling_rate: int) -> float | None:
    """Estimate the signal-to-noise ratio in dB of speech, (samples,) float32; None where it is silence or under 0.2 s.

    The noise power is that of the quietest tenth of all frames of 20 ms. This is minimum statistics (Martin 2001,
    "Noise power spectral density estimation based on optimal smoothing and minimum statistics") for noise that is
    stationary within an utterance. The estimate is too low where speech pauses for less than a tenth of the time, and
    in reverberation. It is clipped to -10 to 60.
    """
    length = round(_FRAME_SECONDS * sampling_rate)
    count = len(waveform) // length
    if count * _QUIETEST < 1:
        return None
    frames = waveform[: count * length].reshape(count, length)
    # The variance, since a constant offset is not sound; ten times as fast as `frames.var`.
    power = np.maximum(np.einsum("ij,ij->i", frames, frames) / length - frames.mean(axis=1) ** 2, 0)
    noise = max(float(np.quantile(power, _QUIETEST)), _FLOOR)
    speech = float(power.mean()) - noise
    if power.mean() <= _FLOOR:
        return None
    return round(float(np.clip(10 * np.log10(max(speech, 1e-9 * noise) / noise), -10, 60)), 1)
