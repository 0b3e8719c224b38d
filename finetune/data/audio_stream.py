"""One recording of any length, read once and block by block: memory doesn't grow with its length."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from finetune.data.audio import (
    NEEDS_FFMPEG,
    AudioError,
    Recording,
    SequentialFile,
    Waveform,
    find_reason,
    find_segment,
    find_suffix,
    mix_channels,
    seek_segment,
)
from finetune.data.audio_bytes import WatchedFile, open_bytes, save_bytes
from finetune.data.containers import decode_sound, find_sound, is_ffmpeg_here
from finetune.data.resampling import Resampler

Audio = str | Path | BinaryIO | npt.NDArray[Any] | Recording
"""A path, an open binary file, samples of shape (samples,) or (samples, channels), or a recording of a data set."""

_BLOCK_SECONDS = 10

# As long as a WAV's header can say, and something for other chunks. What is behind it would be left out in silence.
_WAV_BYTES = 2**32 + 2**20
# libsndfile's codes for a format and for an encoding that it doesn't know.
_FOREIGN = (1, 4)
# More bytes behind an MP3's sound than its last frame and a tag.
_MP3_TAIL_BYTES = 64 * 1024
_MP3_HEAD_BYTES = 2048
# What libsndfile says of a FLAC that came through a pipe, whose header was written before its length was known.
_UNKNOWN_SAMPLES = 2**63 - 1


@dataclass(frozen=True)
class _Source:
    """Audio as it is stored: blocks of (samples, channels), its length, the samples that must be there, if known."""

    channels: int
    sampling_rate: int
    seconds: float | None
    samples: int | None
    blocks: Iterator[Waveform]


class AudioStream:
    """An opened recording; use it in a `with` statement, and read it once.

    `channels` is how many it has, `seconds` its length as its header says (None where it doesn't), `sampling_rate` that
    of the blocks in Hz.
    """

    def __init__(self, source: _Source, sampling_rate: int, separate_channels: bool, opened: ExitStack) -> None:
        self.channels = source.channels
        self.seconds = source.seconds
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
            tracks = block.T if self._separate else mix_channels(block)[None]
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
        if isinstance(audio, np.ndarray):
            source = _read_array(audio, source_rate)
        elif isinstance(audio, str | Path | Recording):
            recording = audio if isinstance(audio, Recording) else Recording(str(audio), None)
            source = _open_file(recording, recording, opened)
        elif not hasattr(audio, "read"):
            raise TypeError(f"a {type(audio).__name__} is no audio; expected a path, an open file or a numpy array")
        else:
            source = _open_file(audio, Recording(str(getattr(audio, "name", "")), None), opened)
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
    return _Source(samples.shape[1], rate, len(samples) / rate, len(samples), blocks)


def _scale(samples: npt.NDArray[Any]) -> Waveform:
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    middle = 2 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (middle if samples.dtype.kind == "u" else 0)) / middle).astype(np.float32)


def _open_file(stored: BinaryIO | Recording, recording: Recording, opened: ExitStack) -> _Source:
    """What is stored in a file of a recording, or in an open one for which it only gives the name."""
    try:
        watched = open_bytes(stored, opened)
    except OSError as error:
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error
    if watched.size == 0:
        raise AudioError("unreadable audio: the file is empty")
    try:
        with _reading(watched):
            file = opened.enter_context(SequentialFile(watched))
            if file.format in ("WAV", "WAVEX") and watched.size > _WAV_BYTES:
                raise AudioError(
                    "a WAV of more than 4 GiB, whose header can't say how much more; write it as FLAC, "
                    "for example with: ffmpeg -ignore_length 1 -i FILE.wav FILE.flac"
                )
            promised = seek_segment(file, recording)
            open_ended = file.frames == _UNKNOWN_SAMPLES or (file.format == "MP3" and not _says_length(watched))
    except AudioError as error:
        if not _may_be_container(error, recording):
            raise
        return _open_container(stored, recording, watched, opened)
    blocks = _read_blocks(file, watched, promised)
    if open_ended and file.format == "MP3":
        blocks = _read_guessed(file, watched, blocks)
    seconds = None if open_ended else promised / file.samplerate
    return _Source(file.channels, file.samplerate, seconds, None if open_ended else promised, blocks)


@contextmanager
def _reading(watched: WatchedFile) -> Iterator[None]:
    """Raise what goes wrong while bytes are read as an AudioError, whoever hands them over; let Ctrl-C pass."""
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


def _read_blocks(file: SequentialFile, watched: WatchedFile, samples: int) -> Iterator[Waveform]:
    while samples > 0:
        with _reading(watched):
            block = file.read(min(samples, file.samplerate * _BLOCK_SECONDS), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        samples -= len(block)
        yield block


def _read_guessed(file: SequentialFile, watched: WatchedFile, blocks: Iterator[Waveform]) -> Iterator[Waveform]:
    """The blocks of an MP3 whose length is guessed: behind it libsndfile reads nothing, be there ever so much."""
    yield from blocks
    if file.tell() >= file.frames and watched.size - watched.tell() > _MP3_TAIL_BYTES:
        raise AudioError(
            "an MP3 that doesn't say its length, of which only a part can be read; "
            "write it anew, for example with: ffmpeg -i FILE.mp3 -c copy NEW.mp3"
        )


def _says_length(watched: WatchedFile) -> bool:
    """Whether an MP3 has its number of frames in its first one (Xing, Info or VBRI); or else it is only guessed."""
    place = watched.tell()
    watched.seek(0)
    head = watched.read(_MP3_HEAD_BYTES)
    if head[:3] == b"ID3":  # A tag with a size of four times seven bits, and cover art.
        watched.seek(10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        head = watched.read(_MP3_HEAD_BYTES)
    watched.seek(place)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def _may_be_container(error: AudioError, recording: Recording) -> bool:
    """Whether FFmpeg may read what libsndfile doesn't: another format, not one of its own that is damaged."""
    cause = error.__cause__
    if find_suffix(recording) in NEEDS_FFMPEG:
        return isinstance(cause, soundfile.SoundFileError)
    return isinstance(cause, soundfile.LibsndfileError) and cause.code in _FOREIGN and is_ffmpeg_here()


def _open_container(
    stored: BinaryIO | Recording, recording: Recording, watched: WatchedFile, opened: ExitStack
) -> _Source:
    suffix = find_suffix(recording)
    if not is_ffmpeg_here():
        raise AudioError(
            f"unreadable audio: {suffix} needs FFmpeg's programs ffmpeg and ffprobe; or convert it elsewhere, "
            f"for example with: ffmpeg -i FILE{suffix} FILE.flac"
        )
    if (
        stored is recording
        and recording.data is None
        and recording.piece is None
        and Path(str(recording.path)).is_file()
    ):
        path = str(Path(str(recording.path)).absolute())
    else:
        with _reading(watched):
            path = save_bytes(watched, opened)
    sound = find_sound(path)
    samples = _UNKNOWN_SAMPLES if sound.seconds is None else round(sound.seconds * sound.sampling_rate)
    first, last = find_segment(recording, samples, sound.sampling_rate)
    seconds = None if last == _UNKNOWN_SAMPLES else (last - first) / sound.sampling_rate
    blocks = decode_sound(sound, sound.sampling_rate * _BLOCK_SECONDS, opened)
    if recording.start or recording.end is not None:
        blocks = _cut(blocks, first, last)
    return _Source(sound.channels, sound.sampling_rate, seconds, None, blocks)


def _cut(blocks: Iterator[Waveform], first: int, last: int) -> Iterator[Waveform]:
    """The samples of a stream from `first` up to `last`."""
    place = 0
    for block in blocks:
        yield block[max(0, first - place) : max(0, last - place)]
        place += len(block)
        if place >= last:
            return
