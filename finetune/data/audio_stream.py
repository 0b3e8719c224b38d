"""One recording of any length, read once and block by block: memory doesn't grow with its length."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from finetune.data.audio import (
    UNREADABLE,
    AudioError,
    Recording,
    SequentialFile,
    Waveform,
    find_reason,
    seek_segment,
)
from finetune.data.resampling import Resampler

Audio = str | Path | BinaryIO | npt.NDArray[Any] | Recording
"""A path, an open binary file, samples of shape (samples,) or (samples, channels), or a recording of a data set."""

_BLOCK_SECONDS = 10

# What libsndfile says of a FLAC that came through a pipe, whose header was written before its length was known.
_UNKNOWN_SAMPLES = 2**63 - 1


@dataclass(frozen=True)
class _Source:
    """Audio as it is stored: blocks of (samples, channels), and how many samples to expect where that is known."""

    channels: int
    sampling_rate: int
    samples: int | None
    blocks: Iterator[Waveform]


class AudioStream:
    """An opened recording; use it in a `with` statement, and read it once.

    `channels` is how many it has, `seconds` its length as its header says (None where it doesn't), `sampling_rate` that
    of the blocks in Hz.
    """

    def __init__(self, source: _Source, sampling_rate: int, separate_channels: bool, opened: ExitStack) -> None:
        self.channels = source.channels
        self.seconds = None if source.samples is None else source.samples / source.sampling_rate
        self.sampling_rate = sampling_rate
        self._source, self._separate, self._opened = source, separate_channels, opened

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self) -> Iterator[Waveform]:
        """The audio in pieces of some ten seconds: float32, shape (tracks, samples).

        There is one track, the mean of all channels, or one for each channel where they are read separately. Raises
        AudioError when the audio can't be decoded to its end or holds values that are not numbers.
        """
        rate, samples = self._source.sampling_rate, 0
        resampler = Resampler(rate, self.sampling_rate)
        for block in self._source.blocks:
            tracks = block.T if self._separate else block.mean(axis=1, dtype=np.float32)[None]
            finite = np.isfinite(tracks).all(axis=0)
            if not finite.all():
                place = (samples + int(np.argmin(finite))) / rate
                raise AudioError(f"audio holds values that are not numbers, the first at {place:.2f} s")
            samples += len(block)
            yield from _unless_empty(resampler.push(tracks))
        if samples == 0:
            raise AudioError("audio of zero length")
        if self._source.samples is not None and samples < self._source.samples:
            raise AudioError(f"truncated audio: {samples} of {self._source.samples} samples could be decoded")
        yield from _unless_empty(resampler.push(tracks[:, :0], last=True))


def open_stream(
    audio: Audio, sampling_rate: int, *, separate_channels: bool = False, source_rate: int | None = None
) -> AudioStream:
    """Open a recording to read it in blocks at `sampling_rate` Hz; together they are what `read_waveform` reads.

    An array has `source_rate`, in Hz. An open file is read from its beginning and left open. Raises AudioError when
    there is no readable audio.
    """
    with ExitStack() as opened:
        source = _read_array(audio, source_rate) if isinstance(audio, np.ndarray) else _open_file(audio, opened)
        return AudioStream(source, sampling_rate, separate_channels, opened.pop_all())


def _unless_empty(block: Waveform) -> Iterator[Waveform]:
    if block.shape[1]:
        yield block


def _read_array(array: npt.NDArray[Any], rate: int | None) -> _Source:
    """Blocks of an array; integers are scaled to between -1 and 1."""
    if rate is None:
        raise AudioError("an array doesn't say its sampling rate: give it with the array")
    samples = array[:, None] if array.ndim == 1 else array
    if samples.ndim != 2 or samples.shape[1] > max(len(samples), 1) or array.dtype.kind not in "fiu":
        raise AudioError(f"an array of {array.dtype}, shape {array.shape}; expected numbers, (samples, channels)")
    if len(samples) == 0:
        raise AudioError("audio of zero length")
    size = rate * _BLOCK_SECONDS
    blocks = (_scale(samples[first : first + size]) for first in range(0, len(samples), size))
    return _Source(samples.shape[1], rate, len(samples), blocks)


def _scale(samples: npt.NDArray[Any]) -> Waveform:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    middle = 2 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (middle if samples.dtype.kind == "u" else 0)) / middle).astype(np.float32)


def _open_file(audio: str | Path | BinaryIO | Recording, opened: ExitStack) -> _Source:
    recording = audio if isinstance(audio, Recording) else Recording(str(audio), None)
    try:
        place: Any = audio if hasattr(audio, "read") else opened.enter_context(recording.open(whole=False))
        file = opened.enter_context(SequentialFile(place))
        unknown = file.frames == _UNKNOWN_SAMPLES
        promised = seek_segment(file, recording)
    except UNREADABLE as error:
        raise AudioError(f"unreadable audio: {find_reason(error, recording)}") from error
    blocks = _read_blocks(file, recording, promised)
    return _Source(file.channels, file.samplerate, None if unknown else promised, blocks)


def _read_blocks(file: SequentialFile, recording: Recording, samples: int) -> Iterator[Waveform]:
    while samples > 0:
        try:
            block = file.read(min(samples, file.samplerate * _BLOCK_SECONDS), dtype="float32", always_2d=True)
        except UNREADABLE as error:
            raise AudioError(f"unreadable audio: {find_reason(error, recording)}") from error
        if len(block) == 0:
            return
        samples -= len(block)
        yield block
