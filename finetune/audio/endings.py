"""Data after the length in a file's header, which libsndfile does not read."""

import io
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from finetune.audio.recordings import PAST_THE_END_SECONDS, AudioError
from finetune.resources.limits import MAX_CHUNKS

# The largest length in a WAV header, with a margin for other chunks.
_WAV_BYTES = 2**32 + 2**20
# Tags after a file's sound that are not chunks.
_TAGS = (b"ID3", b"TAG", b"APETAG")
# The first bytes of formats that consist of chunks, and the chunk with the sound.
_BEGINNINGS = {b"RIFF": b"data", b"FORM": b"SSND"}
_AU_UNKNOWN = 0xFFFFFFFF
_OGG_PAGE_BYTES = 65307  # The largest.
_OGG_HEAD_BYTES = 36  # Of a page that begins a stream, with the name of the codec.
_FLAC_FRAME_BYTES = 32768  # More than encoders write; used where a file has no maximum.
_ID3V1_BYTES = 128
_SPHERE_HEAD_BYTES = 1024
_BLOCK_BYTES = 2**20
_FEW_BYTES = round(PAST_THE_END_SECONDS * 8000)  # Of any sound: one channel at 8 kHz is a lower bound.
_BEGINS_AGAIN: dict[tuple[int, ...], bool] = {}  # Of long files, by their identity.
_MORE = "more sound than its header says: convert it with a program that reads all of it"


def refuse_unread(file: BinaryIO) -> None:
    """Raise AudioError for a file of which FFmpeg would leave out sound without telling.

    It is a WAV or AIFF that is followed by another one, or a CAF whose sound is longer or shorter than its header says.
    """
    place = file.tell()
    file.seek(0)
    kind = file.read(4)
    if kind in _BEGINNINGS:
        _is_stale(file)
    elif kind == b"caff":
        _refuse_cut_caf(file)
    file.seek(place)


def needs_ffmpeg(file: BinaryIO, kind: str, samples: int, rate: int, here: bool = True) -> bool:
    """Whether a file that libsndfile opened has sound that it would not read, and FFmpeg does.

    `kind` is soundfile's format, `samples` libsndfile's length at `rate` Hz. A file that is not `here` (local) is not
    read from its beginning to its end. The file's position is restored. Raises AudioError where neither reads it:
    after some wrong headers, and where a second file follows the first.
    """
    place = file.tell()
    try:
        if kind in ("WAV", "WAVEX", "AIFF"):
            return _is_stale(file)
        if kind == "AU":
            return _refuse_stale_au(file, rate)
        if kind == "CAF":
            return _refuse_cut_caf(file)
        if kind == "NIST":
            return _refuse_cut_sphere(file, samples, rate)
        if kind == "OGG":
            return _is_chained(file) or (here and _begins_again(file))
        return kind == "FLAC" and _ends_later(file, samples)
    finally:
        file.seek(place)


def _is_stale(file: BinaryIO) -> bool:
    """Whether a WAV has more sound than its header says, since the program that wrote it was interrupted.

    Raises AudioError for such an AIFF, of which FFmpeg reads no more either.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = file.read(4)
    order = "big" if kind == b"FORM" else "little"
    place, bytes_a_second = 12, 0
    for _ in range(MAX_CHUNKS):
        if place + 8 > size:
            break
        file.seek(place)
        chunk = file.read(26)
        length = int.from_bytes(chunk[4:8], order)  # type: ignore[arg-type]
        if chunk[:4] == b"fmt ":
            bytes_a_second = int.from_bytes(chunk[16:20], "little")
        elif chunk[:4] == b"COMM":  # The rate is an 80-bit float; one channel at 8 kHz is a lower bound.
            bytes_a_second = 8000 * int.from_bytes(chunk[14:16], "big") // 8
        if chunk[:4] == _BEGINNINGS.get(kind):
            behind = place + 8 + length
            if kind == b"RIFF" and size > _WAV_BYTES:
                return True
            # Padding of other programs is short.
            if size - behind <= PAST_THE_END_SECONDS * bytes_a_second:
                return False
            begin = _skip_zeros(file, behind)
            # Without any sound before them, zeros are the sound; else other programs' padding.
            if begin == size and length > 0:
                return False
            if begin < size and _holds_chunks(file, begin + behind % 2 * (begin == behind), size, order):
                return False
            if kind == b"FORM":
                raise AudioError(_MORE)
            return True
        place += 8 + length + length % 2
    return False


def _holds_chunks(file: BinaryIO, place: int, size: int, order: str) -> bool:
    """Whether the rest of a file is chunks or a tag, not sound; raises AudioError where another file begins."""
    file.seek(place)
    if file.read(8).startswith(_TAGS):
        return True
    for _ in range(MAX_CHUNKS):
        if place + 8 > size:
            return place <= size + 1
        file.seek(place)
        name = file.read(8)
        _refuse_second(name[:4] in _BEGINNINGS)
        if not all(32 <= byte < 127 for byte in name[:4]):
            return False
        length = int.from_bytes(name[4:], order)  # type: ignore[arg-type]
        place += 8 + length + length % 2
    return True


def _skip_zeros(file: BinaryIO, place: int) -> int:
    """The place of the first byte from `place` on that is not zero, or the end of the file."""
    file.seek(place)
    while block := file.read(_BLOCK_BYTES):
        if rest := block.lstrip(b"\0"):
            return place + len(block) - len(rest)
        place += len(block)
    return place


def _refuse_second(found: bool) -> None:
    if found:
        raise AudioError(
            "a second recording after the first in one file: split the file, or join the recordings in an audio editor"
        )


def _refuse_stale_au(file: BinaryIO, rate: int) -> bool:
    file.seek(4)
    head = file.read(8)
    first, length = (int.from_bytes(head[at : at + 4], "big") for at in (0, 4))
    size = file.seek(0, io.SEEK_END)
    if length != _AU_UNKNOWN and size - first - length > PAST_THE_END_SECONDS * rate:  # A sample has at least one byte.
        raise AudioError(_MORE)
    return False


def _refuse_cut_caf(file: BinaryIO) -> bool:
    """Raise AudioError for a CAF with more or less sound than its header says; its chunks have no padding.

    Where the length is unknown (-1, or 0 after an interruption) FFmpeg reads to the end of the file.
    """
    size = file.seek(0, io.SEEK_END)
    end = None
    for name, first, length in _list_caf_chunks(file, size):
        if name == b"data" and length <= 0:
            return False
        if name == b"data" and first + length - size > _FEW_BYTES:
            raise AudioError(f"truncated audio: {size - first} of {length} bytes of its sound are there")
        end = first + length if end is not None or name == b"data" else None
    if end is not None and size - end > _FEW_BYTES and _skip_zeros(file, end) < size:
        raise AudioError(_MORE)
    return False


def _list_caf_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk of a CAF, the place of its content, and its length, up to what is no chunk."""
    place = 8
    for _ in range(MAX_CHUNKS):
        file.seek(place)
        head = file.read(12)
        name, length = head[:4], int.from_bytes(head[4:], "big", signed=True)
        if len(head) < 12 or not all(32 <= byte < 127 for byte in name):
            return
        if name != b"data" and not 0 <= length <= size - place - 12:
            return
        yield name, place + 12, length
        place += 12 + max(length, 0)


def _refuse_cut_sphere(file: BinaryIO, samples: int, rate: int) -> bool:
    """Raise AudioError for a NIST SPHERE with fewer samples than its header says, which libsndfile does not tell."""
    file.seek(0)
    said = re.search(rb"\nsample_count -i (\d+)\s", file.read(_SPHERE_HEAD_BYTES))
    if said and int(said[1]) - samples > PAST_THE_END_SECONDS * rate:
        raise AudioError(f"truncated audio: {samples} of {int(said[1])} samples could be decoded")
    return False


def _is_chained(file: BinaryIO) -> bool:
    """Whether an Ogg's last page is of another stream than its first: chained streams (RFC 3533)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    first = file.read(18)
    file.seek(max(0, size - _OGG_PAGE_BYTES))
    end = file.read(_OGG_PAGE_BYTES)
    last = end.rfind(b"OggS\0")
    return last >= 0 and end[last + 14 : last + 18] != first[14:18]


def _begins_again(file: BinaryIO) -> bool:
    """Whether an Ogg's first stream begins a second time: chained streams with equal serial numbers."""
    size = file.seek(0, io.SEEK_END)
    if size <= _BLOCK_BYTES or not isinstance(file, io.BufferedReader):
        return _find_beginning(file)
    # Segments of a long recording are read one by one.
    status = os.fstat(file.fileno())
    known = (status.st_dev, status.st_ino, size, status.st_mtime_ns)
    if known not in _BEGINS_AGAIN:
        _BEGINS_AGAIN[known] = _find_beginning(file)
    return _BEGINS_AGAIN[known]


def _find_beginning(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(_OGG_HEAD_BYTES)
    # A page's mark and version, its flags with that of a beginning, its place in the sound, and its serial number; the
    # codec's name, which stands behind these and a table of one entry, is found ten times faster.
    beginning, name = re.compile(rb"OggS\0[\x02\x03\x06\x07].{8}" + re.escape(head[14:18]), re.DOTALL), head[28:]
    kept = head[4:]
    while block := file.read(_BLOCK_BYTES):
        if name in (searched := kept + block) and beginning.search(searched):
            return True
        kept = searched[-(len(head) - 1) :]
    return False


def _ends_later(file: BinaryIO, samples: int) -> bool:
    """Whether a FLAC's last frame ends after the length in its header (RFC 9639, section 9.1).

    A truncated one ends before it, which libsndfile detects.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(42)
    if head[:4] != b"fLaC":
        return False  # A tag is in front of it; libsndfile skips it.
    block = int.from_bytes(head[10:12], "big")
    longest = int.from_bytes(head[15:18], "big") or _FLAC_FRAME_BYTES
    file.seek(max(42, size - longest - _ID3V1_BYTES))
    end = file.read(longest + _ID3V1_BYTES)
    place = len(end)
    while (place := end.rfind(b"\xff", 0, place)) >= 0:
        if (behind := _find_end_of_frame(end[place : place + 16], block)) is not None:
            if behind != samples:
                file.seek(4)
                _refuse_second(b"fLaC\0\0\0\x22" in file.read(size))
            return behind > samples
    return False


def _find_end_of_frame(head: bytes, block: int) -> int | None:
    """The place after a FLAC frame's last sample, by the frame's header; None where there is no frame header."""
    if len(head) < 16 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    variable = bool(head[1] & 1)
    ones = 8 - (~head[4] & 0xFF).bit_length()  # The number is coded like a character in UTF-8.
    if ones in (1, 8):
        return None
    number = head[4] & (0x7F >> ones)
    for byte in head[5 : 5 + max(0, ones - 1)]:
        number = number << 6 | byte & 0x3F
    place, code = 5 + max(0, ones - 1), head[2] >> 4
    length = 192 if code == 1 else 576 << (code - 2) if 2 <= code <= 5 else 256 << (code - 8) if code >= 8 else 0
    if code in (6, 7):
        length = int.from_bytes(head[place : place + code - 5], "big") + 1
        place += code - 5
    place += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if length == 0 or place >= len(head) or _compute_crc8(head[:place]) != head[place]:
        return None
    return (number if variable else number * block) + length


def _compute_crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc
