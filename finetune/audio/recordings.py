"""One recording: where its audio is, what its header says, and the reason why it can't be used."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from finetune.errors import describe_fault
from finetune.resources.storage import is_url, open_file, read_bytes

Waveform = npt.NDArray[np.float32]

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"})
CONTAINERS = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".mov", ".mkv", ".mka", ".avi", ".3gp"})

# No microphone records more, or so little of a voice, and a header that says so is broken.
_LEAST_SAMPLING_RATE, _MAX_SAMPLING_RATE = 1000, 192_000
# Rounding in a manifest may put a segment's end a little behind the audio's.
PAST_THE_END_SECONDS = 0.1
# At a full scale of 1. Integers of 32 bits that were written as floats are softer; what is louder overflows in float32.
_LOUDEST = 1e10


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

    `start` and `end` are in seconds. `piece` is the first byte and the number of bytes of what lies in a tar. With a
    `channel` (the first is 0) only that one is read, else the mean of all.
    """

    path: str | None
    data: bytes | None
    start: float = 0.0
    end: float | None = None
    piece: tuple[int, int] | None = None
    channel: int | None = None

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
            yield _Bytes(self.data)
        elif self.path is None or not (is_url(self.path) or Path(self.path).is_file()):
            raise AudioError(f"no such file: {self.path}" if self.path else "no audio")
        elif self.piece is not None:
            yield _Bytes(read_bytes(self.path, self.piece))
        elif not is_url(self.path):
            yield self.path if self.path != "-" else "./-"  # To libsndfile that alone is standard input.
        elif whole:
            yield _Bytes(read_bytes(self.path))
        else:
            with open_file(self.path) as file:
                yield file


class _Bytes(io.BytesIO):
    """Bytes of which libsndfile may ask for a place before the first: an exception would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its length in samples, its sampling rate in hertz, its channels."""

    samples: int
    sampling_rate: int
    channels: int


def find_segment(recording: Recording, frames: int, rate: int) -> tuple[int, int]:
    """The first sample of a recording and the one behind its last; raises AudioError where there is no such piece."""
    if frames <= 0:
        raise AudioError("audio of zero length")
    if not _LEAST_SAMPLING_RATE <= rate <= _MAX_SAMPLING_RATE:
        raise AudioError(f"impossible sampling rate: {rate} Hz")
    if recording.end is None and recording.start == 0:
        return 0, frames
    seconds = frames / rate
    start, end = recording.start, seconds if recording.end is None else recording.end
    if not 0 <= start < end:
        raise AudioError(f"impossible segment: from {start:g} to {end:g} s")
    if end > seconds + PAST_THE_END_SECONDS:
        raise AudioError(f"segment outside the audio: ends at {end:g} s, the audio at {seconds:g} s")
    first, last = round(start * rate), min(round(end * rate), frames)
    if first >= last:
        raise AudioError("audio of zero length")
    return first, last


def require_sound(samples: Waveform, first: int = 0, rate: int | None = None) -> None:
    """Raise AudioError where (…, samples) hold values that are no sound, with their time where a `rate` (Hz) is known.

    `first` is the place of the first sample in the recording.
    """
    heard = (np.abs(np.atleast_2d(samples)) < _LOUDEST).all(axis=0)  # A NaN is not heard.
    if heard.all():
        return
    place = int(np.argmin(heard))
    loudest = float(np.abs(samples[..., place]).max())
    where = "" if rate is None else f", the first at {(first + place) / rate:.2f} s"
    if not np.isfinite(loudest):
        raise AudioError(f"audio holds values that are not numbers{where}")
    raise AudioError(f"audio louder than any sound: {loudest:.2g} where 1 is full scale{where}")


def find_reason(error: BaseException) -> str:
    """What an error says, without the name of what was read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # libsndfile puts the source's name first ("Error opening <_io.BytesIO object …>: …").
    return str(error).rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
