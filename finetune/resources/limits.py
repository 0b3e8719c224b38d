"""What foreign data may cost: each limit is far above honest data, and whoever needs more is told how.

A recording of any length is transcribed, in constant memory; the limits are on what is held at once. The seconds of an
utterance that is trained on are the recipe's data.max_seconds; all else here holds for everybody.
"""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from finetune.errors import UserError

MAX_UTTERANCE_SECONDS = 300.0
"""Of an utterance that is evaluated, which is decoded and computed as a whole; --max-seconds sets another limit."""

MAX_DECODED_SAMPLES = 2**27
"""Of an utterance, or an impulse response, that is decoded as a whole: 512 MB, or 46 minutes at 48 kHz."""

MAX_IMPULSE_SECONDS = 60.0
"""Of an impulse response of augmentation; that of a cathedral has ten."""

MAX_CHANNELS = 256
"""Of a recording, as its header says; arrays of microphones have fewer."""

MAX_BLOCK_VALUES = 2**24
"""Samples of all channels that are held at once while a recording is read: 64 MB."""

MAX_SAMPLES_PER_BYTE = 30_000
"""Of a recording in a container: silence gives some 6000 for a byte in FLAC and 25,000 in Monkey's Audio.

A file that promises more has an index in which the same bytes stand again and again.
"""

MAX_READINGS = 10
"""Of a file in a container, from one packet to the next: what makes no progress has no end."""

MAX_BOXES, MAX_INDEX_BYTES = 2**22, 2**27
"""Of an MP4 and of what says in it where its samples are: some hundred hours."""

MAX_CHUNKS = 10_000
"""Chunks of a WAV that are looked at; programs write some ten."""

MAX_HELD_BYTES = 2**30
"""Of a recording that is read at once from a tar or from a compressed archive."""

MAX_PIPED_BYTES = 2**32
"""Of a recording that is kept in a temporary file, as of a pipe: as much as a WAV's header can say."""

MAX_TEXT_BYTES = 2**30
"""Of a text file that is read at once: a manifest of some ten million rows."""

MAX_WORD_LIST_BYTES = 2**26
"""Of the words of a run's training, unpacked: some six million."""

MAX_LINE = 1_000_000
"""Characters or bytes of a line, and of the text or JSON of one utterance: more is a file that lost its line ends."""

MAX_UNPACKED_RATIO = 200
"""Of the bytes of a text to those it was compressed to by gzip; of natural text it is 3 to 10."""

MAX_YAML_BYTES, MAX_YAML_VALUES, MAX_YAML_DEPTH = 2**20, 100_000, 100
"""Of a recipe; what stands behind an anchor counts each time that it is named."""

# Below this much nothing is said of a ratio: a short text of one word again and again is no attack.
_SMALL_BYTES = 2**22
_CHUNK_BYTES = 2**16


class Tell(Protocol):
    """A file that says where it is, in bytes."""

    def tell(self) -> int:
        """How far it was read."""


def read_at_most(file: BinaryIO, limit: int, name: str) -> bytes:
    """All bytes of a file, of which there may be no end; raises UserError where there are more than `limit`."""
    size = 0
    if file.seekable():
        place = file.tell()
        size = file.seek(0, io.SEEK_END) - place
        file.seek(place)
    content = b"" if size > limit else file.read(limit + 1)
    if max(size, len(content)) > limit:
        raise UserError(f"{name} has more than {limit:,} bytes, which are not read at once: part it into several.")
    return content


def read_lines(file: BinaryIO, name: str, packed: Tell | None = None) -> Iterator[bytes]:
    """The lines of a text of any length, with their line ends; of what gzip makes, `packed` is the compressed file.

    Raises UserError for a line longer than MAX_LINE, and where MAX_UNPACKED_RATIO is exceeded.
    """
    number, total, rest = 0, 0, b""
    while chunk := file.read(_CHUNK_BYTES):
        total += len(chunk)
        if packed is not None:
            require_honest_ratio(total, packed, name)
        *lines, rest = (rest + chunk).split(b"\n")
        if len(lines[0] if lines else rest) > MAX_LINE:  # Only this one began before the chunk.
            raise UserError(
                f"{name}, line {number + 1}: more than {MAX_LINE:,} bytes; expected a sentence on each line."
            )
        for line in lines:
            yield line + b"\n"
        number += len(lines)
    if rest:
        yield rest


def require_honest_ratio(unpacked: int, packed: Tell, name: str) -> None:
    """Raise UserError where so many bytes came of a compressed file, as far as that was read, that it is a trap."""
    if unpacked > _SMALL_BYTES and unpacked > MAX_UNPACKED_RATIO * packed.tell():
        raise UserError(
            f"{name} unpacks to more than {MAX_UNPACKED_RATIO} times its size, as no text does: unpack it first, if it "
            "is to be read all the same."
        )


def unpack(packed: bytes, limit: int) -> bytes:
    """What gzip compressed, of up to `limit` bytes; raises ValueError where it is more, or damaged."""
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = decompressor.decompress(packed, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {limit:,} bytes")
    if not decompressor.eof:
        raise ValueError("it ends too soon")
    return content
