"""The header of a WAV that comes through a pipe, which cannot seek."""

from dataclasses import dataclass
from typing import BinaryIO

from finetune.audio.recordings import AudioError
from finetune.audio.samples import Encoding
from finetune.resources.limits import MAX_CHUNKS

# The encodings by WAVE_FORMAT tag and bits of a sample. Source: mmreg.h of Windows.
_ENCODINGS: dict[tuple[int, int], Encoding] = {(1, 16): "s16le", (3, 32): "f32le", (6, 8): "alaw", (7, 8): "mulaw"}
_EXTENSIBLE = 0xFFFE
# Programs that do not know the length write 0, or about the largest possible (sox 0x7ffff000, FFmpeg 0xffffffff).
_LONGEST = 0x7FFF0000
_MOST_SKIPPED_BYTES = 2**24
_FIELDS = ((0, 2), (2, 2), (4, 4), (14, 2))  # Place and size of tag, channels, rate and bits.


@dataclass(frozen=True)
class WavHeader:
    """The sampling rate in Hz, channels and encoding, and the bytes of sound that follow; None is up to the end."""

    rate: int
    channels: int
    encoding: Encoding
    size: int | None


def read_wav_header(file: BinaryIO) -> WavHeader:
    """Read a RIFF WAVE up to its sound; raises AudioError for another file or an encoding other than `_ENCODINGS`."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise AudioError("not a WAV file")
    kind = b""
    for _ in range(MAX_CHUNKS):
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"data" or len(name) < 4 or length > _MOST_SKIPPED_BYTES:
            break
        content = file.read(length + length % 2)
        kind = content if name == b"fmt " else kind
    if name != b"data" or len(kind) < 16:
        raise AudioError("a WAV file without a header or sound")
    tag, channels, rate, bits = (int.from_bytes(kind[at : at + size], "little") for at, size in _FIELDS)
    if tag == _EXTENSIBLE:  # The tag is the beginning of a GUID.
        tag = int.from_bytes(kind[24:26], "little")
    encoding = _ENCODINGS.get((tag, bits))
    if encoding is None:
        raise AudioError(f"a WAV file of {bits} bits in format {tag}")
    return WavHeader(rate, channels, encoding, length if 0 < length < _LONGEST else None)
