"""Audio bytes or files to mono float32 at the model's sampling rate, without FFmpeg."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from finetune.data.resampling import resample
from finetune.data.storage import is_url, open_file, read_bytes
from finetune.errors import describe_fault

Waveform = npt.NDArray[np.float32]

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
NEEDS_FFMPEG = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".mov", ".mkv", ".mka", ".avi", ".3gp"})

# No microphone records more, and a header that says so is broken.
_MAX_SAMPLING_RATE = 192_000
# Rounding in a manifest may put a segment's end a little behind the audio's.
_PAST_THE_END_SECONDS = 0.1

# After a seek libsndfile 1.2 reads about a quarter of a second of silence from MP3, whose frames lean on those before.
_RUN_UP_SECONDS = 1.0

# What libsndfile notes of a file with fewer bytes of sound than its header says. A program that wrote into a pipe could
# not know how many, and said about as many as there can be (sox 0x7ffff000, FFmpeg 0xffffffff).
_SHORTER_THAN_SAID = re.compile(r"^ ?(?:data|SSND|  Data Size  ) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_WRITTEN_TO_A_PIPE = 0x7FFF0000

# TypeError: of a file named .raw, which has no header, soundfile wants to be told the sampling rate.
UNREADABLE = (soundfile.SoundFileError, OSError, TypeError)


class AudioError(Exception):
    """One recording that can't be used; the message is the reason, as it stands in `rejected.csv`."""


@contextmanager
def fault_as_reason() -> Iterator[None]:
    """Raise whatever goes wrong with one recording as its AudioError: its fault stops no other recording.

    MemoryError is such a fault: what the recording took is free again. KeyboardInterrupt and SystemExit pass. The error
    is the cause of the AudioError, whose message keeps the type and place of what is not a recording's fault but ours.
    """
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        raise AudioError(describe_fault(error)) from error


@dataclass(frozen=True)
class Recording:
    """Where one utterance's audio is: a file or a URL, or its bytes as they stood in a data set.

    `start` and `end` are in seconds. `piece` is the first byte and the number of bytes of what lies in a tar.
    """

    path: str | None
    data: bytes | None
    start: float = 0.0
    end: float | None = None
    piece: tuple[int, int] | None = None

    @classmethod
    def from_cell(cls, cell: "dict[str, Any] | str | bytes | None") -> "Recording":
        """From a path, from bytes, or from a cell of a `datasets.Audio(decode=False)` column or of `read_archive`."""
        if isinstance(cell, str):
            return cls(cell, None)
        if isinstance(cell, bytes):
            return cls(None, cell)
        cell = cell or {}
        piece = (cell["offset"], cell["size"]) if cell.get("offset") is not None else None
        return cls(cell.get("path"), cell.get("bytes"), piece=piece)

    @contextmanager
    def open(self, whole: bool = True) -> Iterator[str | BinaryIO]:
        """What soundfile reads from, a URL's audio all at once where it is needed `whole`.

        Raises AudioError when there is neither bytes nor a file.
        """
        if self.data is not None:
            yield io.BytesIO(self.data)
        elif self.path is None or not (is_url(self.path) or Path(self.path).is_file()):
            raise AudioError(f"no such file: {self.path}" if self.path else "no audio")
        elif self.piece is not None:
            yield io.BytesIO(read_bytes(self.path, self.piece))
        elif not is_url(self.path):
            yield self.path
        elif whole:
            yield io.BytesIO(read_bytes(self.path))
        else:
            with open_file(self.path) as file:
                yield file


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its length in samples, its sampling rate in hertz, its channels."""

    samples: int
    sampling_rate: int
    channels: int


def read_seconds(recording: Recording) -> float:
    """Length in seconds from the header alone; raises AudioError when there is no readable audio."""
    return measure_seconds(recording, read_header(recording))


@fault_as_reason()
def read_header(recording: Recording) -> Header:
    """The header of a recording's file, without decoding; raises AudioError when there is no readable audio."""
    try:
        # `soundfile.info` would also ask for the names of the format, which takes as long again.
        with recording.open(whole=False) as opened, soundfile.SoundFile(opened) as file:
            return Header(file.frames, file.samplerate, file.channels)
    except UNREADABLE as error:
        if find_suffix(recording) in NEEDS_FFMPEG:
            return _read_ffmpeg_header(_open_with_ffmpeg(recording))
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error


def measure_seconds(recording: Recording, header: Header) -> float:
    """Length in seconds of a recording, or of its segment; raises AudioError when there is no such piece."""
    first, last = find_segment(recording, header.samples, header.sampling_rate)
    return (last - first) / float(header.sampling_rate)


@fault_as_reason()
def read_waveform(recording: Recording, sampling_rate: int) -> Waveform:
    """Decode, mix to mono and resample to `sampling_rate` (Hz): float32, shape (samples,).

    Raises AudioError when the audio can't be decoded to its end or holds values that are not numbers.
    """
    rate, promised, samples = _decode(recording)
    if len(samples) < promised:
        raise AudioError(f"truncated audio: {len(samples)} of {promised} samples could be decoded")
    mono = mix_channels(samples)
    if not np.isfinite(mono).all():
        raise AudioError("audio holds values that are not numbers")
    return resample(mono, rate, sampling_rate)


def mix_channels(samples: Waveform) -> Waveform:
    """The mean of all channels of (samples, channels); numpy's own takes fifty times as long over so few."""
    mono = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    if samples.shape[1] > 1:
        mono /= np.float32(samples.shape[1])
    return mono


def _decode(recording: Recording) -> tuple[int, int, Waveform]:
    """Sampling rate, number of samples that the header promises, and those there are: (samples, channels)."""
    try:
        with recording.open() as opened, SequentialFile(opened) as file:
            rate = file.samplerate
            promised = seek_segment(file, recording)
            samples = file.read(promised, dtype="float32", always_2d=True)
    except UNREADABLE as error:
        if find_suffix(recording) in NEEDS_FFMPEG:
            return _decode_with_ffmpeg(recording)
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error
    return rate, promised, samples


class SequentialFile(soundfile.SoundFile):
    """A sound file that is read on without a seek after each read, as soundfile does it to those that can seek.

    A seek makes MP3's decoder start anew, and fails behind the last sample of a FLAC that came through a pipe.
    """

    def seekable(self) -> bool:
        """No, and yet `seek` works."""
        return False


def seek_segment(file: SequentialFile, recording: Recording) -> int:
    """Go to a recording's first sample in its opened file; how many samples follow. Raises AudioError as others do."""
    first, last = find_segment(recording, file.frames, file.samplerate)
    promised = _find_promised_samples(file)
    if recording.end is None and promised - file.frames > _PAST_THE_END_SECONDS * file.samplerate:
        raise AudioError(f"truncated audio: {file.frames} of {promised} samples could be decoded")
    if first:
        before = min(first, round(_RUN_UP_SECONDS * file.samplerate)) if file.format == "MP3" else 0
        file.seek(first - before)
        file.read(before)
    return last - first


def _find_promised_samples(file: SequentialFile) -> int:
    """How many samples the header of a WAV, AIFF or AU speaks of; libsndfile only counts those that are there."""
    said = _SHORTER_THAN_SAID.search(file.extra_info)
    if said is None or int(said[1]) >= _WRITTEN_TO_A_PIPE or int(said[2]) == 0:
        return int(file.frames)
    return int(file.frames * int(said[1]) / int(said[2]))


def _decode_with_ffmpeg(recording: Recording) -> tuple[int, int, Waveform]:
    decoder = _open_with_ffmpeg(recording)
    header = _read_ffmpeg_header(decoder)
    rate = header.sampling_rate
    first, last = find_segment(recording, header.samples, rate)
    try:
        decoded = decoder.get_samples_played_in_range(first / rate, last / rate).data.T.numpy()
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error
    # Compressed audio's length is known to a frame of about 0.05 s.
    return rate, last - first - round(_PAST_THE_END_SECONDS * rate), decoded[: last - first]


def _open_with_ffmpeg(recording: Recording) -> Any:
    suffix = find_suffix(recording)
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: FFmpeg's libraries are not there.
        raise AudioError(
            f"unreadable audio: {suffix} needs FFmpeg and torchcodec (pip install 'finetune[ffmpeg]'); or convert it, "
            f"for example with: ffmpeg -i FILE{suffix} FILE.flac"
        ) from error
    try:
        with recording.open() as file:
            return AudioDecoder(file if isinstance(file, str) else file.read())
    except (RuntimeError, ValueError, OSError) as error:
        raise AudioError(f"unreadable audio: {find_reason(error)}") from error


def _read_ffmpeg_header(decoder: Any) -> Header:
    metadata = decoder.metadata
    return Header(
        round((metadata.duration_seconds or 0) * metadata.sample_rate), metadata.sample_rate, metadata.num_channels or 1
    )


def find_segment(recording: Recording, frames: int, rate: int) -> tuple[int, int]:
    """The first sample of a recording and the one behind its last; raises AudioError where there is no such piece."""
    if frames <= 0:
        raise AudioError("audio of zero length")
    if rate > _MAX_SAMPLING_RATE:
        raise AudioError(f"impossible sampling rate: {rate} Hz")
    if recording.end is None and recording.start == 0:
        return 0, frames
    seconds = frames / rate
    start, end = recording.start, seconds if recording.end is None else recording.end
    if not 0 <= start < end:
        raise AudioError(f"impossible segment: from {start:g} to {end:g} s")
    if end > seconds + _PAST_THE_END_SECONDS:
        raise AudioError(f"segment outside the audio: ends at {end:g} s, the audio at {seconds:g} s")
    first, last = round(start * rate), min(round(end * rate), frames)
    if first >= last:
        raise AudioError("audio of zero length")
    return first, last


def find_suffix(recording: Recording) -> str:
    """The suffix of a recording's file, small, with its dot; of bytes there is none."""
    return Path(recording.path or "").suffix.lower()


def find_reason(error: BaseException) -> str:
    """What an error says, without the name of what was read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # libsndfile puts the source's name first ("Error opening <_io.BytesIO object …>: …").
    return str(error).rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
