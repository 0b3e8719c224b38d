"""A sound file opened by whoever tells the truth of it: libsndfile, which is fast, or FFmpeg's libraries."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

import soundfile

from finetune.audio.containers import ContainerSound
from finetune.audio.endings import needs_ffmpeg, refuse_joined
from finetune.audio.recordings import PAST_THE_END_SECONDS, AudioError, Waveform, find_reason
from finetune.resources.limits import MAX_BLOCK_VALUES, MAX_CHANNELS

BLOCK_SECONDS = 10

# What libsndfile notes of a file with fewer bytes of sound than its header says. A program that wrote into a pipe could
# not know how many, and said about as many as there can be (sox 0x7ffff000, FFmpeg 0xffffffff).
_SHORTER_THAN_SAID = re.compile(r"^ ?(?:data|SSND|  Data Size  ) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_WRITTEN_TO_A_PIPE = 0x7FFF0000
# What libsndfile says of a FLAC that came through a pipe, whose header was written before its length was known.
_UNKNOWN_SAMPLES = 2**63 - 1

# TypeError: of a file named .raw, which has no header, soundfile wants to be told the sampling rate.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError)


class Sound(Protocol):
    """An opened sound file: its sampling rate in Hz, its channels, and its length in samples as its header says it.

    `said` is None where only reading shows the length.
    """

    sampling_rate: int
    channels: int
    said: int | None

    def count(self, whole: bool) -> int:
        """How many samples there are; raises AudioError where it must be `whole` and the header speaks of more."""

    def blocks(self, first: int, last: int | None) -> Iterator[Waveform]:
        """Pieces of any length of (samples, channels), from the sample `first` up to `last` or to the end.

        Without a `last` all that the header speaks of must be there, else this raises AudioError.
        """


class SequentialFile(soundfile.SoundFile):
    """A sound file that is read on without a seek after each read, as soundfile does it to those that can seek.

    A seek fails behind the last sample of a FLAC that came through a pipe.
    """

    def seekable(self) -> bool:
        """No, and yet `seek` works."""
        return False


class _SndfileSound:
    """A file that libsndfile reads to its end."""

    def __init__(self, file: SequentialFile) -> None:
        self._file = file
        self.sampling_rate, self.channels = int(file.samplerate), int(file.channels)
        self.said: int | None = int(file.frames)

    def count(self, whole: bool) -> int:
        promised = _find_promised_samples(self._file)
        if whole and promised - self._file.frames > PAST_THE_END_SECONDS * self.sampling_rate:
            raise AudioError(f"truncated audio: {self._file.frames} of {promised} samples could be decoded")
        return int(self._file.frames)

    def blocks(self, first: int, last: int | None) -> Iterator[Waveform]:
        promised = int((self.count(whole=True) if last is None else last) - first)
        if first:
            self._file.seek(first)
        left = promised
        size = max(1, min(self.sampling_rate * BLOCK_SECONDS, MAX_BLOCK_VALUES // self.channels))
        while left > 0:
            block = self._file.read(min(left, size), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise AudioError(f"truncated audio: {promised - left} of {promised} samples could be decoded")
            left -= len(block)
            yield block


def open_sound(source: str | BinaryIO, opened: ExitStack, here: bool = True) -> Sound:
    """Open a path or a file that can be read in any order; what must be closed is put on `opened`.

    The end of a FLAC that is not `here` is not looked at: it would be one more request. Raises AudioError where there
    is no readable audio, or more channels than a microphone has.
    """
    sound = _open_any(source, opened, here)
    if sound.channels > MAX_CHANNELS:
        raise AudioError(f"impossible number of channels: {sound.channels}")
    return sound


def _open_any(source: str | BinaryIO, opened: ExitStack, here: bool) -> Sound:
    try:
        file = opened.enter_context(SequentialFile(source))
    except UNREADABLE as error:
        try:
            refuse_joined(_open_file(source, opened))
            return _open_container(source, opened)
        except AudioError as other:
            _raise_known(error, other)
    if file.subtype.startswith("MPEG_LAYER") or file.frames == _UNKNOWN_SAMPLES:
        return _open_container(source, opened)
    if here or file.format != "FLAC":
        with ExitStack() as looked_at:
            content = _open_file(source, looked_at)
            if needs_ffmpeg(content, file.format, file.frames, file.samplerate):
                return _open_container(source, opened)
    return _SndfileSound(file)


def _open_container(source: str | BinaryIO, opened: ExitStack) -> Sound:
    return ContainerSound(_open_file(source, opened))


def _open_file(source: str | BinaryIO, opened: ExitStack) -> BinaryIO:
    return opened.enter_context(Path(source).open("rb")) if isinstance(source, str) else source


def _raise_known(error: BaseException, other: AudioError) -> NoReturn:
    """The reason of the two that says more."""
    if "Invalid data" not in str(other) and "End of file" not in str(other):
        raise other
    raise AudioError(f"unreadable audio: {find_reason(error)}") from error


def _find_promised_samples(file: SequentialFile) -> int:
    """How many samples the header of a WAV, AIFF or AU speaks of; libsndfile only counts those that are there."""
    said = _SHORTER_THAN_SAID.search(file.extra_info)
    if said is None or int(said[1]) >= _WRITTEN_TO_A_PIPE or int(said[2]) == 0:
        return int(file.frames)
    return int(file.frames * int(said[1]) / int(said[2]))
