"""Audio preprocessing, the same in training, evaluation and transcription: named transforms in the recipe's order."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from finetune.audio.filters import filter_highpass, measure_loudness
from finetune.audio.waveforms import Waveform
from finetune.errors import TransformError
from finetune.resources.storage import load_transforms, save_transforms

PREPROCESSING_FILE = "audio_preprocessing.json"

Transform = str | dict[str, float]
"""A transform's name, or its name and argument: `denoise`, `{highpass: 80}`."""

Preprocessor = Callable[[Waveform], Waveform]

# Silence is detected in frames of 20 ms; this margin is kept before and after speech.
_FRAME_SECONDS, _MARGIN_SECONDS = 0.02, 0.1
# BS.1770 measures blocks of 0.4 s.
_LOUDNESS_SECONDS = 0.4


def _highpass(hertz: float, sampling_rate: int) -> Preprocessor:
    """A second-order Butterworth high-pass, 12 dB per octave below `hertz`."""
    if not 0 < hertz < sampling_rate / 2:
        raise TransformError(f"highpass: found {hertz}; expected hertz, between 0 and {sampling_rate // 2}")
    return lambda waveform: filter_highpass(waveform, hertz, sampling_rate)


class _TrimSilence:
    """Trim before the first and after the last frame whose level is within `decibels` of the loudest frame's."""

    def __init__(self, decibels: float, sampling_rate: int) -> None:
        if not 0 < decibels <= 120:
            raise TransformError(f"trim_silence: found {decibels}; expected dB below the loudest frame, up to 120")
        self._decibels = decibels
        self._frame, self._margin = round(_FRAME_SECONDS * sampling_rate), round(_MARGIN_SECONDS * sampling_rate)

    def __call__(self, waveform: Waveform) -> Waveform:
        return waveform[self.find(waveform)]

    def find(self, waveform: Waveform) -> slice:
        """The part of a waveform that is kept."""
        power = np.add.reduceat(waveform.astype(np.float64) ** 2, np.arange(0, len(waveform), self._frame))
        loud = np.flatnonzero(power > power.max() * 10 ** (-self._decibels / 10))
        if not len(loud):
            return slice(0, len(waveform))
        return slice(max(0, loud[0] * self._frame - self._margin), (loud[-1] + 1) * self._frame + self._margin)


def _peak(dbfs: float, sampling_rate: int) -> Preprocessor:
    """Scale so that the largest sample is at `dbfs`, decibels relative to full scale."""
    if not -60 <= dbfs <= 0:
        raise TransformError(f"peak: found {dbfs}; expected decibels of full scale, between -60 and 0")

    def transform(waveform: Waveform) -> Waveform:
        largest = np.abs(waveform).max()
        # For smaller samples the factor would overflow in float32.
        audible = largest >= np.finfo(np.float32).tiny
        return waveform * np.float32(10 ** (dbfs / 20) / largest) if audible else waveform

    return transform


def _loudness(lufs: float, sampling_rate: int) -> Preprocessor:
    """Scale to a loudness in LUFS (ITU-R BS.1770-4); audio shorter than its blocks of 0.4 s is not changed."""
    if not -70 <= lufs <= 0:
        raise TransformError(f"loudness: found {lufs}; expected LUFS, between -70 and 0")

    def transform(waveform: Waveform) -> Waveform:
        if len(waveform) < _LOUDNESS_SECONDS * sampling_rate:
            return waveform
        measured = measure_loudness(waveform, sampling_rate)
        return waveform * np.float32(10 ** ((lufs - measured) / 20)) if np.isfinite(measured) else waveform

    return transform


def _denoise(sampling_rate: int) -> Preprocessor:
    """Spectral gating by noisereduce (Sainburg 2020, https://github.com/timsainb/noisereduce)."""
    try:
        import noisereduce
    except ImportError as error:
        raise TransformError("denoise needs noisereduce: pip install 'finetune[denoise]'") from error

    def transform(waveform: Waveform) -> Waveform:
        if not waveform.any():  # noisereduce would divide zero by zero.
            return waveform
        return np.asarray(noisereduce.reduce_noise(waveform, sampling_rate), dtype=np.float32)

    return transform


_WITH_ARGUMENT: dict[str, Callable[[float, int], Preprocessor]] = {
    "highpass": _highpass,
    "trim_silence": _TrimSilence,
    "peak": _peak,
    "loudness": _loudness,
}


def build_preprocessor(transforms: Sequence[Transform], sampling_rate: int) -> Preprocessor:
    """All transforms as one function of (samples,) float32 at `sampling_rate` Hz; its result may be shorter.

    Raises TransformError for a transform that is unknown or has an invalid argument.
    """
    preprocess = build_placing_preprocessor(transforms, sampling_rate)
    return lambda waveform: preprocess(waveform)[0]


def build_placing_preprocessor(
    transforms: Sequence[Transform], sampling_rate: int
) -> Callable[[Waveform], tuple[Waveform, int]]:
    """As `build_preprocessor`, but the function also returns how many samples were cut from the beginning."""
    built = [_build_transform(transform, sampling_rate) for transform in transforms]

    def preprocess(waveform: Waveform) -> tuple[Waveform, int]:
        first = 0
        for transform in built:
            if isinstance(transform, _TrimSilence):
                stays = transform.find(waveform)
                waveform, first = waveform[stays], first + int(stays.start)
            else:
                waveform = transform(waveform)
        return waveform, first

    return preprocess


def _build_transform(transform: Transform, sampling_rate: int) -> Preprocessor:
    if transform == "denoise":
        return _denoise(sampling_rate)
    if isinstance(transform, dict) and len(transform) == 1:
        [(name, argument)] = transform.items()
        if name in _WITH_ARGUMENT:
            if isinstance(argument, bool) or not isinstance(argument, int | float):
                raise TransformError(f"{name}: found {argument!r}; expected a number")
            return _WITH_ARGUMENT[name](argument, sampling_rate)
    known = ", ".join(f"{{{name}: NUMBER}}" for name in _WITH_ARGUMENT)
    raise TransformError(f"unknown transform {transform!r}; expected one of {known}, denoise")


def save_preprocessing(model: Path, transforms: Sequence[Transform]) -> None:
    """Write the transforms into the model's folder, where `finetune evaluate` and `transcribe` find them."""
    save_transforms(model / PREPROCESSING_FILE, transforms)


def load_preprocessing(model: str | Path, sampling_rate: int = 16000) -> tuple[Transform, ...]:
    """The transforms saved with a model in a folder or on a hub; empty where there are none.

    Raises UserError for a damaged file, and for transforms that can't be used at the model's sampling rate.
    """
    return load_transforms(model, PREPROCESSING_FILE, lambda found: build_preprocessor(found, sampling_rate)) or ()
