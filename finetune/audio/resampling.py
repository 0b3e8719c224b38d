"""Band-limited resampling of a whole waveform, or block by block with the same result.

The kernel is that of `torchaudio.transforms.Resample` with its defaults: a Hann-windowed sinc with six zero crossings
to each side. It is computed here since the last torchaudio, 2.11, can only be imported with torch for CUDA 13.0.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# torchaudio's defaults: zero crossings to each side, and the cutoff as a share of the lower Nyquist frequency.
_ZERO_CROSSINGS, _ROLLOFF = 6, 0.99


def resample(waveform: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """Resample (…, samples) between two rates in Hz; ceil(samples * to_rate / from_rate) samples."""
    return waveform if from_rate == to_rate else Resampler(from_rate, to_rate).push(waveform, last=True)


class Resampler:
    """Resamples a stream between two rates in Hz; the last few samples are held back until the next block."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._kernel = _build_kernel(from_rate, to_rate)
        self._held: FloatArray | None = None
        self._first = self._taken = self._given = 0  # Groups before the held samples; input and output samples.

    def push(self, samples: FloatArray, last: bool = False) -> FloatArray:
        """Take the next (…, samples); return the samples that are final, and all the rest after the `last` block."""
        if self._kernel is None or (samples.size == 0 and not last):
            return samples
        group, made, width = self._kernel.group, self._kernel.made, self._kernel.width
        held = samples if self._held is None else np.concatenate([self._held, samples], axis=-1)
        self._taken += samples.shape[-1]
        end = -(-self._taken * made // group) if last else max(self._taken - width, 0) // group * made
        given = self._kernel.apply(held)[..., self._given - self._first * made : end - self._first * made]
        self._given = end
        first = max(0, self._given // made - -(-width // group))
        self._held = held[..., (first - self._first) * group :].copy()
        self._first = first
        return given


@dataclass(frozen=True)
class _Kernel:
    """Filters from each `group` of input samples to `made` output samples, `width` samples wide to both sides."""

    filters: Any  # A tensor: (made, 1, width + group + width).
    group: int
    made: int
    width: int

    def apply(self, waveform: FloatArray) -> FloatArray:
        """Resample zero-padded (…, samples); at least `made` samples for each group, full or not."""
        import torch
        from torch.nn.functional import conv1d, pad

        rows = torch.from_numpy(waveform.reshape(-1, 1, waveform.shape[-1]))
        resampled = conv1d(pad(rows, (self.width, self.width + self.group)), self.filters, stride=self.group)
        return resampled.transpose(1, 2).reshape(*waveform.shape[:-1], -1).numpy()


@lru_cache(maxsize=64)
def _build_kernel(from_rate: int, to_rate: int) -> _Kernel | None:
    # The filters have a row for each output phase: at a rate like 22,051 Hz they would fill the memory. The nearest
    # ratio of small numbers has a relative error of less than a millionth.
    group, made = Fraction(from_rate, to_rate).limit_denominator(1000).as_integer_ratio()
    if group == made:
        return None
    import torch

    cutoff = min(group, made) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * group / cutoff)
    # Times of each output (rows, in float32 as in torchaudio) relative to each input, in units of a group.
    taken = torch.arange(-width, width + group, dtype=torch.float64) / group
    times = (torch.arange(0, -made, -1)[:, None, None] / made + taken) * cutoff
    times = times.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(times * math.pi / _ZERO_CROSSINGS / 2) ** 2
    filters = torch.sinc(times) * (window * (cutoff / group))
    return _Kernel(filters.float(), group, made, width)
