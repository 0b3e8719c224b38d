"""The bytes of a recording that a store takes: a whole file as it is, or a piece of one as FLAC, decoded to its end."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import soundfile

from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, decode, fault_as_reason, read_header
from finetune.resources.limits import MAX_HELD_BYTES
from finetune.resources.storage import is_plain, is_url, read_bytes

_SUFFIX = re.compile(r"\.[a-z0-9]{1,7}")


@dataclass(frozen=True)
class Content:
    """Audio to store: bytes, the suffix of their format, and seconds as decoded."""

    audio: bytes
    suffix: str
    seconds: float


@fault_as_reason()
def read_content(recording: Recording) -> Content:
    """Read a recording, which is decoded to its end; a segment or a channel becomes FLAC of 16 bits.

    Raises AudioError when there is no such file or it can't be decoded.
    """
    place = recording.path
    assert place is not None
    if not is_url(place):
        if not is_plain(place) or not Path(place).is_file():
            raise AudioError(f"no such file: {place}")
        if Path(place).stat().st_size > MAX_HELD_BYTES:
            raise AudioError(f"too large: {Path(place).stat().st_size:,} bytes; expected up to {MAX_HELD_BYTES:,}")
    if recording.start or recording.end is not None or recording.channel is not None:
        return _cut(recording)
    content = read_bytes(place)
    suffix = PurePosixPath(place.partition("?")[0]).suffix.lower() if is_url(place) else Path(place).suffix.lower()
    return Content(content, suffix if _SUFFIX.fullmatch(suffix) else "", measure(content))


def measure(content: bytes) -> float:
    """The seconds of audio in the bytes of a file; raises AudioError when they can't be decoded to their end."""
    stored = Recording(None, content)
    rate, samples = read_header(stored).sampling_rate, 0
    with open_stream(io.BytesIO(content), rate) as stream:
        for block in stream.blocks():
            samples += block.shape[1]
    return samples / rate


def _cut(recording: Recording) -> Content:
    rate = read_header(recording).sampling_rate
    waveform = decode(recording, rate).waveform
    written = io.BytesIO()
    soundfile.write(written, waveform, rate, format="FLAC", subtype="PCM_16")
    return Content(written.getvalue(), ".flac", len(waveform) / rate)
