"""Opening sound files with libsndfile, which is fast, or with FFmpeg where libsndfile can't read them in full."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

import soundfile

from finetune.audio.containers import ContainerSound
from finetune.audio.endings import needs_ffmpeg, refuse_unread
from finetune.audio.recordings import PAST_THE_END_SECONDS, AudioError, Waveform, find_reason
from finetune.resources.limits import MAX_BLOCK_VALUES, MAX_CHANNELS

BLOCK_SECONDS = 10

# libsndfile's log of a file with fewer bytes of sound than its header says. A program that writes into a pipe does not
# know the number and writes about the largest possible (sox 0x7ffff000, FFmpeg 0xffffffff).
_SHORTER_THAN_SAID = re.compile(r"^ ?(?:data|SSND|riff|  Data Size  ) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SHORTER_THAN_DS64 = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
_WRITTEN_TO_A_PIPE = 0x7FFF0000
# libsndfile's length of a FLAC that was written into a pipe, whose header has no length.
_UNKNOWN_SAMPLES = 2**63 - 1

# TypeError: for a file named .raw, which has no header, soundfile needs the sampling rate as an argument.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError)


class Sound(Protocol):
    """An opened sound file: its sampling rate in Hz, its channels, and the length in samples in its header.

    `said` is None where the length is known only after reading.
    """

    sampling_rate: int
    channels: int
    said: int | None

    def count(self, whole: bool) -> int:
        """The number of samples; with `whole` raises AudioError where the header has more."""

    def blocks(self, first: int, last: int | None) -> Iterator[Waveform]:
        """Pieces of any length of (samples, channels), from the sample `first` up to `last` or to the end.

        Without a `last` raises AudioError where there are fewer samples than in the header.
        """


class SequentialFile(soundfile.SoundFile):
    """A sound file without the seek that soundfile does after each read of a seekable file.

    Such a seek fails after the last sample of a FLAC that was written into a pipe.
    """

    def seekable(self) -> bool:
        """False, although `seek` works."""
        return False


class _SndfileSound:
    """A file that libsndfile reads in full."""

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
        size = max(1, min(self.sampling_rate * BLOCK_SECONDS, MAX_BLOCK_VALUES // self.channels))
        try:
            if first:
                self._file.seek(first)
        except soundfile.SoundFileError:  # Some encodings are read from the beginning only, as GSM 6.10.
            for skipped in range(0, first, size):
                self._file.read(min(size, first - skipped))
        left = promised
        while left > 0:
            block = self._file.read(min(left, size), dtype="float32", always_2d=True)
            if len(block) == 0:
                raise AudioError(f"truncated audio: {promised - left} of {promised} samples could be decoded")
            left -= len(block)
            yield block


def open_sound(source: str | BinaryIO, opened: ExitStack, here: bool = True) -> Sound:
    """Open a path or a seekable file; what has to be closed is added to `opened`.

    The end of a FLAC that is not `here` (local) is not checked, which would be one more request. Raises AudioError
    where there is no readable audio, or too many channels.
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
            refuse_unread(_open_file(source, opened))
            return _open_container(source, opened)
        except AudioError as other:
            _raise_known(error, other)
    # libsndfile reads the headers of a VOC's blocks as sound.
    if file.subtype.startswith("MPEG_LAYER") or file.format == "VOC" or file.frames == _UNKNOWN_SAMPLES:
        return _open_container(source, opened)
    if here or file.format != "FLAC":
        with ExitStack() as looked_at:
            content = _open_file(source, looked_at)
            if needs_ffmpeg(content, file.format, file.frames, file.samplerate, here):
                return _open_container(source, opened)
    return _SndfileSound(file)


def _open_container(source: str | BinaryIO, opened: ExitStack) -> Sound:
    return ContainerSound(_open_file(source, opened))


def _open_file(source: str | BinaryIO, opened: ExitStack) -> BinaryIO:
    return opened.enter_context(Path(source).open("rb")) if isinstance(source, str) else source


def _raise_known(error: BaseException, other: AudioError) -> NoReturn:
    """Raise the more informative of two errors."""
    if "Invalid data" not in str(other) and "End of file" not in str(other):
        raise other
    reason = find_reason(error)
    if reason.startswith("File does not exist"):  # libsndfile's words for an empty or a foreign file named .mp3.
        reason = "Format not recognised"
    raise AudioError(f"unreadable audio: {reason}") from error


def _find_promised_samples(file: SequentialFile) -> int:
    """The samples in the header of a WAV, RF64, W64, AIFF or AU; libsndfile's count is that of the present samples."""
    if found := _SHORTER_THAN_DS64.search(file.extra_info):
        return int(found[1])
    said = _SHORTER_THAN_SAID.search(file.extra_info)
    if said is None or int(said[1]) >= _WRITTEN_TO_A_PIPE or int(said[2]) == 0:
        return int(file.frames)
    return int(file.frames * int(said[1]) / int(said[2]))
