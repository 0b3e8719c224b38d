"""Band-limited resampling, of a whole waveform or of one that comes block by block: the same samples either way."""

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def resample(waveform: FloatArray, from_rate: int, to_rate: int) -> FloatArray:
    """Resample (…, samples) between two rates in Hz; ceil(samples * to_rate / from_rate) samples."""
    return waveform if from_rate == to_rate else Resampler(from_rate, to_rate).push(waveform, last=True)


class Resampler:
    """Resamples a stream between two rates in Hz, holding back the few samples that later ones still change."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._filters = _build_filters(from_rate, to_rate)
        self._held: FloatArray | None = None
        self._first = self._taken = self._given = 0  # Groups before what is held, and samples.

    def push(self, samples: FloatArray, last: bool = False) -> FloatArray:
        """Take the next (…, samples); return what is settled by now, and after the `last` ones all the rest."""
        if self._filters is None or (samples.size == 0 and not last):
            return samples
        import torch

        # Each group of so many samples becomes one of so many others, by filters that reach `width` to both sides.
        group, made = (rate // self._filters.gcd for rate in (self._filters.orig_freq, self._filters.new_freq))
        width = self._filters.width
        held = samples if self._held is None else np.concatenate([self._held, samples], axis=-1)
        self._taken += samples.shape[-1]
        if last:
            # torchaudio counts in float32 and may leave out the last sample: it is asked for a group more.
            held = np.concatenate([held, np.zeros((*held.shape[:-1], group), np.float32)], axis=-1)
            end = -(-self._taken * made // group)
        else:
            end = max(self._taken - width, 0) // group * made
        resampled: FloatArray = self._filters(torch.from_numpy(held)).numpy()
        given = resampled[..., self._given - self._first * made : end - self._first * made]
        self._given = end
        first = max(0, self._given // made - -(-width // group))
        self._held = held[..., (first - self._first) * group :].copy()
        self._first = first
        return given


@lru_cache(maxsize=64)
def _build_filters(from_rate: int, to_rate: int) -> Any:
    # A kernel has a row for each output phase: of a rate like 22,051 Hz it would fill the memory. The nearest ratio
    # of small numbers is off by less than a millionth.
    ratio = Fraction(from_rate, to_rate).limit_denominator(1000)
    if ratio == 1:
        return None
    # torchaudio.functional.resample rebuilds its kernel at each call; the transform keeps it.
    import torchaudio

    return torchaudio.transforms.Resample(ratio.numerator, ratio.denominator)
