"""Limits on untrusted data: each is far above real data, and the error says how to process more.

Recordings of any length are transcribed in constant memory; the limits are for what is in memory at once. Utterances
for training are limited by the recipe's data.max_seconds; the limits here hold for all commands.
"""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from finetune.errors import UserError

MAX_UTTERANCE_SECONDS = 300.0
"""The length of an utterance in evaluation, which is computed as a whole; --max-seconds sets another limit."""

MAX_DECODED_SAMPLES = 2**27
"""Samples of an utterance or an impulse response that is decoded as a whole: 512 MB, or 46 minutes at 48 kHz."""

MAX_IMPULSE_SECONDS = 60.0
"""The length of an impulse response for augmentation; that of a cathedral has ten seconds."""

MAX_CHANNELS = 256
"""Channels in the header of a recording; microphone arrays have fewer."""

MAX_BLOCK_VALUES = 2**24
"""Samples of all channels in memory while a recording is read: 64 MB."""

MAX_SAMPLES_PER_BYTE = 30_000
"""The compression of a recording in a container: silence has 6000 samples a byte in FLAC, 25,000 in Monkey's Audio.

The index of a file with a higher ratio refers to the same bytes repeatedly.
"""

MAX_READINGS = 10
"""Attempts to read the next packet of a container: a file that makes no progress would never end."""

MAX_BOXES, MAX_INDEX_BYTES = 2**22, 2**27
"""Boxes of an MP4 and bytes of its sample index: some hundred hours."""

MAX_CHUNKS = 10_000
"""Chunks of a WAV that are read; programs write about ten."""

MAX_HELD_BYTES = 2**30
"""The size of a recording that is read as a whole from a tar or a compressed archive."""

MAX_PIPED_BYTES = 2**32
"""The size of a recording in a temporary file, as for a pipe: the most that the header of a WAV can state."""

MAX_TEXT_BYTES = 2**30
"""The size of a text file that is read as a whole: a manifest of about ten million rows."""

MAX_WORD_LIST_BYTES = 2**26
"""The uncompressed size of the list of a run's training words: about six million words."""

MAX_LINE = 1_000_000
"""Characters or bytes of a line, and of the text or JSON of an utterance: longer lines mean missing line ends."""

MAX_UNPACKED_RATIO = 200
"""The ratio of the sizes of a text before and after gzip; natural text has 3 to 10."""

MAX_YAML_BYTES, MAX_YAML_VALUES, MAX_YAML_DEPTH = 2**20, 100_000, 100
"""The size of a recipe; the contents of an anchor count for each reference to it."""

# Smaller texts may have any ratio: a short text that repeats one word is harmless.
_SMALL_BYTES = 2**22
_CHUNK_BYTES = 2**16


class Tell(Protocol):
    """A file that knows its position in bytes."""

    def tell(self) -> int:
        """The position."""


def read_at_most(file: BinaryIO, limit: int, name: str) -> bytes:
    """All bytes of a file, which may be endless; raises UserError for more than `limit` bytes."""
    size = 0
    if file.seekable():
        place = file.tell()
        size = file.seek(0, io.SEEK_END) - place
        file.seek(place)
    content = b"" if size > limit else file.read(limit + 1)
    if max(size, len(content)) > limit:
        raise UserError(f"{name} has more than {limit:,} bytes, which are not read at once: split it into several.")
    return content


def read_lines(file: BinaryIO, name: str, packed: Tell | None = None) -> Iterator[bytes]:
    """The lines of a text of any length, with their line ends; `packed` is the compressed file of a gzip stream.

    Raises UserError for a line longer than MAX_LINE, and if MAX_UNPACKED_RATIO is exceeded.
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
    """Raise UserError if the part of a compressed file that was read has a ratio above MAX_UNPACKED_RATIO."""
    if unpacked > _SMALL_BYTES and unpacked > MAX_UNPACKED_RATIO * packed.tell():
        raise UserError(
            f"{name} unpacks to more than {MAX_UNPACKED_RATIO} times its size, as no text does: unpack it first to "
            "read it anyway."
        )


def unpack(packed: bytes, limit: int) -> bytes:
    """Decompress gzip data of up to `limit` bytes; raises ValueError for more, and for damaged data."""
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
