"""Second-order filters, and loudness.

Formulas, gains and clipping to full scale are those of torchaudio 2.11, for models that were trained with it; the
coefficients are computed in double precision here, in single precision there.
"""

import math

import numpy as np
import numpy.typing as npt

from finetune.audio.waveforms import Waveform

DoubleArray = npt.NDArray[np.float64]

# BS.1770-4: blocks of 0.4 s that overlap by 75 %, gated at -70 LUFS and at 10 LU below the mean of the rest.
_BLOCK_SECONDS, _OVERLAP = 0.4, 0.75
_ABSOLUTE_GATE, _RELATIVE_GATE, _OFFSET = -70.0, -10.0, -0.691


def filter_highpass(waveform: Waveform, hertz: float, sampling_rate: int) -> Waveform:
    """Filter (samples,) with a second-order Butterworth high-pass, -3 dB at `hertz`; clipped to -1 … 1."""
    return _apply_highpass(waveform.astype(np.float64), hertz, 0.707, sampling_rate).astype(np.float32)


def measure_loudness(waveform: Waveform, sampling_rate: int) -> float:
    """The loudness of (samples,), one channel, in LUFS (ITU-R BS.1770-4); NaN where no block is above -70 LUFS.

    The K-weighting is torchaudio's: a shelf of 4 dB at 1.5 kHz and a high-pass at 38 Hz. It needs at least 0.4 s.
    """
    weighted = _apply_treble(waveform.astype(np.float64), 4.0, 1500.0, 1 / math.sqrt(2), sampling_rate)
    weighted = _apply_highpass(weighted, 38.0, 0.5, sampling_rate)
    length = round(_BLOCK_SECONDS * sampling_rate)
    blocks = np.lib.stride_tricks.sliding_window_view(weighted**2, length)[:: round(length * (1 - _OVERLAP))]
    power = blocks.mean(axis=-1)
    power = power[power > 10 ** ((_ABSOLUTE_GATE - _OFFSET) / 10)]
    if not len(power):
        return math.nan
    power = power[power > power.mean() * 10 ** (_RELATIVE_GATE / 10)]
    return _OFFSET + 10 * math.log10(power.mean())


# Both filters: Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients"; q is the quality factor.


def _apply_highpass(waveform: DoubleArray, hertz: float, q: float, sampling_rate: int) -> DoubleArray:
    angle = 2 * math.pi * hertz / sampling_rate
    cosine, alpha = math.cos(angle), math.sin(angle) / 2 / q
    numerator = [(1 + cosine) / 2, -1 - cosine, (1 + cosine) / 2]
    return _apply(waveform, numerator, [1 + alpha, -2 * cosine, 1 - alpha])


def _apply_treble(waveform: DoubleArray, decibels: float, hertz: float, q: float, sampling_rate: int) -> DoubleArray:
    angle, gain = 2 * math.pi * hertz / sampling_rate, 10 ** (decibels / 40)
    cosine, slope = math.cos(angle), math.sqrt(gain) * math.sin(angle) / q
    more, less = gain + 1, gain - 1
    numerator = [
        gain * (more + less * cosine + slope),
        -2 * gain * (less + more * cosine),
        gain * (more + less * cosine - slope),
    ]
    denominator = [more - less * cosine + slope, 2 * (less - more * cosine), more - less * cosine - slope]
    return _apply(waveform, numerator, denominator)


def _apply(waveform: DoubleArray, numerator: list[float], denominator: list[float]) -> DoubleArray:
    from scipy.signal import lfilter

    return lfilter(numerator, denominator, waveform).clip(-1, 1)
