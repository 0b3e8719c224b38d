"""A check of an MP4's index before FFmpeg reads it and allocates an entry for each sample in it at once.

An index of a kilobyte can declare a hundred million samples, for which FFmpeg would allocate gigabytes. A sample has at
least one byte, so a valid file has no more samples than bytes. Boxes are found as FFmpeg does (libavformat/mov.c).
"""

import re
from typing import BinaryIO

from finetune.audio.recordings import AudioError
from finetune.resources.limits import MAX_BOXES, MAX_INDEX_BYTES

# Boxes in which FFmpeg looks for other boxes, whether or not the standard allows them; it skips the others.
_HOLDERS = frozenset(b"dinf edts ilst iprp mdia meta minf moof moov mvex schi sinf stbl traf trak tref udta".split())
# Codec descriptions, in which boxes may begin anywhere.
_DESCRIPTIONS = frozenset({b"stsd", b"wave"})
# The place of the number of samples after a box's length and name (ISO/IEC 14496-12, 8.7.3 and 8.8.8).
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
_COUNTED = re.compile(rb"stsz|stz2|trun")
# FFmpeg reads the number even where the box ends before it.
_BEHIND = 16
# A compressed box, as old versions of QuickTime wrote, may declare any number.
_COMPRESSED = b"cmov"
_DEEPEST = 10


def require_honest_index(file: BinaryIO, size: int) -> None:
    """Raise AudioError for an MP4 of `size` bytes whose index has more samples; do nothing for other files."""
    place = samples = index_bytes = 0
    for _ in range(MAX_BOXES):
        file.seek(place)
        name, _, end = _read_head(file.read(16), place, size)
        if not name:
            return
        if name in _HOLDERS or name in _DESCRIPTIONS or name in _COUNTS:
            index_bytes += end - place
            if index_bytes > MAX_INDEX_BYTES:
                break
            file.seek(place)
            samples += _count_samples(file.read(end - place + _BEHIND), 0, end - place, size)
            if samples > size:
                break
        place = end
    raise AudioError("damaged audio: its index has more samples than the file has bytes")


def _read_head(head: bytes, place: int, end: int) -> tuple[bytes, int, int]:
    """A box's name, empty where there is no box, and where its content begins and ends."""
    length, start = int.from_bytes(head[:4], "big"), place + 8
    if length == 1:
        length, start = int.from_bytes(head[8:16], "big"), place + 16
    if start > end or (length and length < start - place):
        return b"", end, end
    return head[4:8], start, min(place + length, end) if length else end


def _count_samples(content: bytes, place: int, end: int, size: int, depth: int = 0) -> int:
    """The number of samples that boxes declare; more than `size` where it can't be determined."""
    total = 0
    while place < end and total <= size:
        name, start, stop = _read_head(content[place : place + 16], place, end)
        if name in _COUNTS:
            total += _read_count(content, name, start)
        elif name == _COMPRESSED or depth > _DEEPEST:
            return size + 1
        elif name in _DESCRIPTIONS:
            for found in _COUNTED.finditer(content, start, stop):
                total += _read_count(content, found[0], found.end())
        elif name in _HOLDERS:
            if name == b"meta":  # Its header has several forms; its first box is hdlr.
                start = max(start, content.find(b"hdlr", start, stop) - 4)
            total += _count_samples(content, start, stop, size, depth + 1)
        place = stop
    return total


def _read_count(content: bytes, name: bytes, start: int) -> int:
    place = start + _COUNTS[name]
    return int.from_bytes(content[place : place + 4], "big")
