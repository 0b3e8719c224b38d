"""Reading a recording of any length block by block, in constant memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from finetune.audio.containers import scale
from finetune.audio.recordings import AudioError, Recording, Waveform, find_reason, require_sound
from finetune.audio.resampling import Resampler
from finetune.audio.sound_files import BLOCK_SECONDS, open_sound
from finetune.audio.source_bytes import WatchedFile, open_bytes
from finetune.audio.waveforms import choose_channel, cut_blocks, locate, mix_channels

Audio = str | Path | BinaryIO | npt.NDArray[Any] | Recording
"""A path, an open binary file, samples of shape (samples,) or (samples, channels), or a recording of a data set."""


@dataclass(frozen=True)
class _Source:
    """Audio as it is stored: blocks of (samples, channels), and the length if its header has one."""

    channels: int
    sampling_rate: int
    seconds: float | None
    blocks: Iterator[Waveform]


class AudioStream:
    """An opened recording; use it in a `with` statement. It can be read once.

    `channels` is the number of channels, `seconds` the length in the header or None, `sampling_rate` that of the blocks
    in Hz. After reading, `cancelled` is whether channels cancel each other; then one of them is used.
    """

    def __init__(self, source: _Source, sampling_rate: int, separate_channels: bool, opened: ExitStack) -> None:
        self.channels = source.channels
        self.seconds = source.seconds
        self.sampling_rate = sampling_rate
        self.cancelled = False
        self._source, self._separate, self._opened = source, separate_channels, opened

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def blocks(self) -> Iterator[Waveform]:
        """The audio in blocks of about ten seconds: float32, (tracks, samples).

        There is one track, the mean of all channels, or a track for each channel where they are read separately. Raises
        AudioError when the audio can't be decoded to its end or holds values that are not numbers.
        """
        rate, samples = self._source.sampling_rate, 0
        resampler = Resampler(rate, self.sampling_rate)
        for block in self._source.blocks:
            tracks = block.T if self._separate else self._mix(block)
            require_sound(tracks, samples, rate)
            samples += len(block)
            yield from _unless_empty(resampler.push(tracks))
        if samples == 0:
            raise AudioError("audio of zero length")
        yield from _unless_empty(resampler.push(tracks[:, :0], last=True))

    def _mix(self, block: Waveform) -> Waveform:
        mono, cancelled = mix_channels(block)
        self.cancelled |= cancelled
        return mono[None]


def open_stream(
    audio: Audio, sampling_rate: int, *, separate_channels: bool = False, source_rate: int | None = None
) -> AudioStream:
    """Open a recording to read it in blocks at `sampling_rate` Hz; their samples are those of `read_waveform`.

    `source_rate` is that of an array, in Hz. An open file is read from its beginning and not closed. Raises AudioError
    when there is no readable audio.
    """
    with ExitStack() as opened:
        if isinstance(audio, np.ndarray):
            source = _read_array(audio, source_rate)
        elif isinstance(audio, str | Path | Recording):
            recording = audio if isinstance(audio, Recording) else Recording(str(audio), None)
            source = _open_file(recording, recording, opened)
        elif not hasattr(audio, "read"):
            raise TypeError(f"a {type(audio).__name__} is not audio; expected a path, an open file or a numpy array")
        else:
            source = _open_file(audio, Recording(str(getattr(audio, "name", "")), None), opened)
        return AudioStream(source, sampling_rate, separate_channels, opened.pop_all())


def _unless_empty(block: Waveform) -> Iterator[Waveform]:
    if block.shape[1]:
        yield block


def _read_array(array: npt.NDArray[Any], rate: int | None) -> _Source:
    """The blocks of an array; integers are scaled to between -1 and 1."""
    if rate is None:
        raise AudioError("an array has no sampling rate: give it with the array")
    samples = array[:, None] if array.ndim == 1 else array
    if samples.ndim != 2 or samples.shape[1] > max(len(samples), 1) or array.dtype.kind not in "fiu":
        raise AudioError(f"an array of {array.dtype}, shape {array.shape}; expected numbers, (samples, channels)")
    if len(samples) == 0:
        raise AudioError("audio of zero length")
    size = rate * BLOCK_SECONDS
    blocks = (scale(samples[first : first + size]) for first in range(0, len(samples), size))
    return _Source(samples.shape[1], rate, len(samples) / rate, blocks)


def _open_file(stored: BinaryIO | Recording, recording: Recording, opened: ExitStack) -> _Source:
    """The audio of a recording's file, or of an open file, whose name `recording` has."""
    try:
        watched = open_bytes(stored, opened)
    except OSError as error:
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error
    if watched.size == 0:
        raise AudioError("unreadable audio: the file is empty")
    with _reading(watched):
        sound = open_sound(cast(BinaryIO, watched), opened)
        channel = choose_channel(recording, sound.channels)
        first, last = locate(recording, sound)
    samples = sound.said if last is None else last - first
    seconds = None if samples is None else samples / sound.sampling_rate
    blocks = cut_blocks(_read_blocks(sound.blocks(first, last), watched), sound.sampling_rate)
    if channel is not None:
        return _Source(1, sound.sampling_rate, seconds, (block[:, [channel]] for block in blocks))
    return _Source(sound.channels, sound.sampling_rate, seconds, blocks)


@contextmanager
def _reading(watched: WatchedFile) -> Iterator[None]:
    """Raise any error while reading bytes as an AudioError; KeyboardInterrupt is not caught."""
    try:
        yield
        watched.raise_error()
    except AudioError:
        raise
    except Exception as error:
        cause = watched.error or error
        if not isinstance(cause, Exception):
            raise cause from None
        raise AudioError(f"unreadable audio: {find_reason(cause)}") from cause


def _read_blocks(blocks: Iterator[Waveform], watched: WatchedFile) -> Iterator[Waveform]:
    while True:
        with _reading(watched):
            block = next(blocks, None)
        if block is None:
            return
        yield block
