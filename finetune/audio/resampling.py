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
# Filters of `_Kernel`, each as long as a group of samples; and samples that `_PhaseKernel` computes at once.
_MOST_FILTERS, _CHUNK = 1000, 2**14


def resample(waveform: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """Resample (…, samples) between two rates in Hz; ceil(samples * to_rate / from_rate) samples."""
    return waveform if from_rate == to_rate else Resampler(from_rate, to_rate).push(waveform, last=True)


class Resampler:
    """Resamples a stream between two rates in Hz; the last few samples are held back until the next block."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._kernel = _build_kernel(from_rate, to_rate)
        self._held: FloatArray | None = None
        self._first = self._taken = self._given = 0  # Input samples before the held ones; input and output samples.

    def push(self, samples: FloatArray, last: bool = False) -> FloatArray:
        """Take the next (…, samples); return the samples that are final, and all the rest after the `last` block."""
        kernel = self._kernel
        if kernel is None or (samples.size == 0 and not last):
            return samples
        held = samples if self._held is None else np.concatenate([self._held, samples], axis=-1)
        self._taken += samples.shape[-1]
        end = -(-self._taken * kernel.made // kernel.group) if last else kernel.count_final(self._taken)
        given = kernel.apply(held, self._first, self._given, end)
        self._given, first = end, kernel.find_first(end)
        self._held = held[..., first - self._first :].copy()
        self._first = first
        return given


@dataclass(frozen=True)
class _Kernel:
    """Filters from each `group` of input samples to `made` output samples, `width` samples wide to both sides."""

    filters: Any  # A tensor: (made, 1, width + group + width).
    group: int
    made: int
    width: int

    def count_final(self, taken: int) -> int:
        """The output samples that follow from so many input samples, whatever comes after them."""
        return max(taken - self.width, 0) // self.group * self.made

    def find_first(self, given: int) -> int:
        """The first input sample that output samples from `given` on need."""
        return max(0, given // self.made - -(-self.width // self.group)) * self.group

    def apply(self, waveform: FloatArray, first: int, given: int, end: int) -> FloatArray:
        """The output samples from `given` to `end` of zero-padded (…, samples), which begin at the sample `first`."""
        import torch
        from torch.nn.functional import conv1d, pad

        rows = torch.from_numpy(waveform.reshape(-1, 1, waveform.shape[-1]))
        resampled = conv1d(pad(rows, (self.width, self.width + self.group)), self.filters, stride=self.group)
        before = first // self.group * self.made
        whole: FloatArray = resampled.transpose(1, 2).reshape(*waveform.shape[:-1], -1).numpy()
        return whole[..., given - before : end - before]


@dataclass(frozen=True)
class _PhaseKernel:
    """A filter for the phase of each of `made` output samples between the input samples, `width` to both sides.

    For rates with a small common divisor, such as 44,101 and 16,000 Hz: the filters of `_Kernel` would fill the memory,
    and those of a near ratio drift, by half a second an hour.
    """

    filters: Any  # A tensor: (made, width + 1 + width).
    group: int
    made: int
    width: int

    def count_final(self, taken: int) -> int:
        """As of `_Kernel`."""
        return -(-max(taken - self.width, 0) * self.made // self.group)

    def find_first(self, given: int) -> int:
        """As of `_Kernel`."""
        return max(0, given * self.group // self.made - self.width)

    def apply(self, waveform: FloatArray, first: int, given: int, end: int) -> FloatArray:
        """As of `_Kernel`."""
        import torch
        from torch.nn.functional import pad

        past = max(1, end * self.group // self.made - first - waveform.shape[-1])
        rows = pad(torch.from_numpy(waveform), (self.width, past + self.width))
        windows = rows.unfold(-1, 2 * self.width + 1, 1)  # (…, samples, width + 1 + width)
        made = np.empty((*waveform.shape[:-1], end - given), np.float32)
        for begin in range(given, end, _CHUNK):
            places = torch.arange(begin, min(begin + _CHUNK, end)) * self.group
            taps = windows[..., places // self.made - first, :] * self.filters[places % self.made]
            made[..., begin - given : begin - given + len(places)] = taps.sum(-1).numpy()
        return made


@lru_cache(maxsize=64)
def _build_kernel(from_rate: int, to_rate: int) -> _Kernel | _PhaseKernel | None:
    group, made = Fraction(from_rate, to_rate).as_integer_ratio()
    if group == made:
        return None
    import torch

    cutoff = min(group, made) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * group / cutoff)
    by_phase = made > _MOST_FILTERS
    # Times of each output (rows, in float32 as in torchaudio) relative to each input, in units of a group.
    taken = torch.arange(-width, width + (1 if by_phase else group), dtype=torch.float64) / group
    outputs = torch.arange(0, -made, -1)[:, None, None] / made
    if by_phase:
        outputs = torch.arange(0, -made, -1, dtype=torch.float64)[:, None] / made / group
    times = ((outputs + taken) * cutoff).clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(times * math.pi / _ZERO_CROSSINGS / 2) ** 2
    filters = (torch.sinc(times) * (window * (cutoff / group))).float()
    return (_PhaseKernel if by_phase else _Kernel)(filters, group, made, width)
