"""A recording: the source of its audio, its header, and the errors for which it can't be used."""

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

# Headers with other rates are damaged: no microphone records more, and speech needs more than the least.
_LEAST_SAMPLING_RATE, _MAX_SAMPLING_RATE = 1000, 192_000
# By rounding in a manifest a segment may end slightly after the audio.
PAST_THE_END_SECONDS = 0.1
# With full scale at 1. 32-bit integers that were written as floats are below; larger values may overflow float32.
_LOUDEST = 1e10


class AudioError(Exception):
    """A recording that can't be used; the message is the reason in `rejected.csv`.

    >>> from pathlib import Path
    >>> from finetune.inference.transcriber import Transcriber
    >>> _ = Path("damaged.wav").write_bytes(b"RIFF")
    >>> [(name, found)] = Transcriber("runs/quickstart/model", device="cpu").transcribe_many([(1, "damaged.wav")])
    >>> type(found).__name__
    'AudioError'
    """


@contextmanager
def fault_as_reason() -> Iterator[None]:
    """Raise any error of one recording as its AudioError, so that it does not stop other recordings.

    This includes MemoryError: the recording's memory is free again. KeyboardInterrupt and SystemExit are not caught.
    The error is the cause of the AudioError, whose message has the error's type and place where it is a bug of ours.
    """
    try:
        yield
    except AudioError:
        raise
    except Exception as error:
        raise AudioError(describe_fault(error)) from error


@dataclass(frozen=True)
class Recording:
    """The source of an utterance's audio: a file, a URL, or its bytes from a data set.

    `start` and `end` are in seconds. `piece` is the first byte and the number of bytes of a file within a tar. With a
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
        """The path or file for soundfile; with `whole`, a URL's audio is fetched all at once.

        Raises AudioError when there are no bytes and no such file.
        """
        if self.data is not None:
            yield _Bytes(self.data)
        elif self.path is None or not (is_url(self.path) or Path(self.path).is_file()):
            raise AudioError(f"no such file: {self.path}" if self.path else "no audio")
        elif self.piece is not None:
            yield _Bytes(read_bytes(self.path, self.piece))
        elif not is_url(self.path):
            yield self.path if self.path != "-" else "./-"  # libsndfile reads "-" as the standard input.
        elif whole:
            yield _Bytes(read_bytes(self.path))
        else:
            with open_file(self.path) as file:
                yield file


class _Bytes(io.BytesIO):
    """Bytes in which libsndfile may seek to a negative place: an exception in its callback would only be printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@dataclass(frozen=True)
class Header:
    """An audio file's length in samples, sampling rate in hertz, and number of channels."""

    samples: int
    sampling_rate: int
    channels: int


def find_segment(recording: Recording, frames: int, rate: int) -> tuple[int, int]:
    """The first sample of a recording and the one after its last; raises AudioError for an impossible segment."""
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
    """Raise AudioError for (…, samples) that are not finite or too large, with the time where the `rate` (Hz) is given.

    `first` is the place of the first sample in the recording.
    """
    heard = (np.abs(np.atleast_2d(samples)) < _LOUDEST).all(axis=0)  # False for NaN.
    if heard.all():
        return
    place = int(np.argmin(heard))
    loudest = float(np.abs(samples[..., place]).max())
    where = "" if rate is None else f", the first at {(first + place) / rate:.2f} s"
    if not np.isfinite(loudest):
        raise AudioError(f"audio holds values that are not numbers{where}")
    raise AudioError(f"audio louder than any sound: {loudest:.2g} where 1 is full scale{where}")


def find_reason(error: BaseException) -> str:
    """An error's message without the name of the source."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # libsndfile puts the source's name first ("Error opening <_io.BytesIO object …>: …").
    return str(error).rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
