"""Audio bytes or files to mono float32 at the model's sampling rate, without FFmpeg."""

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.float32]

# TypeError: of a file named .raw, which has no header, soundfile wants to be told the sampling rate.
_UNREADABLE = (soundfile.SoundFileError, OSError, TypeError)


class AudioError(Exception):
    """One recording that can't be used; the message is the reason, as it stands in `rejected.csv`."""


@dataclass(frozen=True)
class Recording:
    """Where one utterance's audio is: a file, or its bytes as they stood in a data set."""

    path: str | None
    data: bytes | None

    @classmethod
    def from_cell(cls, cell: dict[str, Any] | None) -> "Recording":
        """From a cell of a `datasets.Audio(decode=False)` column."""
        cell = cell or {}
        return cls(path=cell.get("path"), data=cell.get("bytes"))

    def open(self) -> str | io.BytesIO:
        """What soundfile reads from. Raises AudioError when there is neither bytes nor a file."""
        if self.data is not None:
            return io.BytesIO(self.data)
        if self.path is None or not Path(self.path).is_file():
            raise AudioError(f"no such file: {self.path}" if self.path else "no audio")
        return self.path


def read_seconds(recording: Recording) -> float:
    """Length in seconds from the header alone; raises AudioError when there is no readable audio."""
    try:
        header = soundfile.info(recording.open())
    except _UNREADABLE as error:
        raise AudioError(f"unreadable audio: {_reason(error)}") from error
    if header.frames <= 0:
        raise AudioError("audio of zero length")
    return float(header.frames) / float(header.samplerate)


def read_waveform(recording: Recording, sampling_rate: int) -> Waveform:
    """Decode, mix to mono and resample to `sampling_rate` (Hz): float32, shape (samples,).

    Raises AudioError when the audio can't be decoded to its end or holds values that are not numbers.
    """
    try:
        with soundfile.SoundFile(recording.open()) as file:
            promised, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except _UNREADABLE as error:
        raise AudioError(f"unreadable audio: {_reason(error)}") from error
    if len(samples) == 0:
        raise AudioError("audio of zero length")
    if len(samples) < promised:
        raise AudioError(f"truncated audio: {len(samples)} of {promised} samples could be decoded")
    mono: Waveform = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError("audio holds values that are not numbers")
    return resample(mono, rate, sampling_rate)


def resample(waveform: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Band-limited resampling between two rates in Hz; ceil(samples * to_rate / from_rate) samples."""
    if from_rate == to_rate:
        return waveform
    import torch

    resampled: Waveform = _resampler(from_rate, to_rate)(torch.from_numpy(waveform)).numpy()
    return resampled


@lru_cache(maxsize=64)
def _resampler(from_rate: int, to_rate: int) -> Any:
    # torchaudio.functional.resample rebuilds its kernel at each call; the transform keeps it.
    import torchaudio

    divisor = math.gcd(from_rate, to_rate)
    return torchaudio.transforms.Resample(from_rate // divisor, to_rate // divisor)


def _reason(error: Exception) -> str:
    # libsndfile puts the source's name first ("Error opening <_io.BytesIO object …>: …").
    return str(error).rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
