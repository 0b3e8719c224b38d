"""What stands behind the sound that a file's header speaks of, which libsndfile, believing the header, doesn't read."""

import io
from typing import BinaryIO

from finetune.audio.recordings import PAST_THE_END_SECONDS, AudioError
from finetune.resources.limits import MAX_CHUNKS

# As long as a WAV's header can say, and something for other chunks.
_WAV_BYTES = 2**32 + 2**20
# Chunks that stand behind a file's sound, and tags that are no chunks.
_TAGS = (b"ID3", b"TAG", b"APETAG")
# How files begin that consist of chunks, and the chunk with the sound.
_BEGINNINGS = {b"RIFF": b"data", b"FORM": b"SSND"}
_AU_UNKNOWN = 0xFFFFFFFF
_OGG_PAGE_BYTES = 65307  # The longest.
_FLAC_FRAME_BYTES = 32768  # Longer than encoders write, where a file doesn't say.
_ID3V1_BYTES = 128


def refuse_joined(file: BinaryIO) -> None:
    """Raise AudioError for a WAV or an AIFF behind which another one begins; libsndfile opens none of them."""
    place = file.tell()
    file.seek(0)
    if file.read(4) in _BEGINNINGS:
        _is_stale(file)
    file.seek(place)


def needs_ffmpeg(file: BinaryIO, kind: str, samples: int, rate: int) -> bool:
    """Whether a file that libsndfile opened holds sound that it would leave unread, and FFmpeg reads.

    `kind` is soundfile's format, `samples` what libsndfile counts at `rate` Hz. The file's place is kept. Raises
    AudioError where neither reads such sound: a header with a wrong length, and a second file behind the first.
    """
    place = file.tell()
    try:
        if kind in ("WAV", "WAVEX", "AIFF"):
            return _is_stale(file)
        if kind == "AU":
            return _refuse_stale_au(file, rate)
        if kind == "OGG":
            return _is_chained(file)
        return kind == "FLAC" and _ends_later(file, samples)
    finally:
        file.seek(place)


def _is_stale(file: BinaryIO) -> bool:
    """Whether a WAV has more sound than its header says: a program wrote it that never came to its end.

    Of an AIFF like that FFmpeg reads no more either.
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
        elif chunk[:4] == b"COMM":  # Of one channel at 8 kHz, which is little enough: the rate is an 80-bit float.
            bytes_a_second = 8000 * int.from_bytes(chunk[14:16], "big") // 8
        if chunk[:4] == _BEGINNINGS.get(kind):
            behind = place + 8 + length
            if kind == b"RIFF" and size > _WAV_BYTES:
                return True
            # Other programs' padding is short.
            if size - behind <= PAST_THE_END_SECONDS * bytes_a_second or _holds_chunks(file, behind, size, order):
                return False
            if kind == b"FORM":
                raise AudioError("more sound than its header says: write it anew with a program that reads it whole")
            return True
        place += 8 + length + length % 2
    return False


def _holds_chunks(file: BinaryIO, place: int, size: int, order: str) -> bool:
    """Whether the rest of a file is chunks, a tag or zeros, and so no sound; raises AudioError where a file begins."""
    file.seek(place)
    head = file.read(4096)
    if head.lstrip(b"\0").startswith(_TAGS) or not any(head):
        return True
    place += place % 2
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


def _refuse_second(found: bool) -> None:
    if found:
        raise AudioError("a second recording behind the first in one file: split it, or join them as sound")


def _refuse_stale_au(file: BinaryIO, rate: int) -> bool:
    file.seek(4)
    head = file.read(8)
    first, length = (int.from_bytes(head[at : at + 4], "big") for at in (0, 4))
    size = file.seek(0, io.SEEK_END)
    if length != _AU_UNKNOWN and size - first - length > PAST_THE_END_SECONDS * rate:  # Of one byte at least.
        raise AudioError("more sound than its header says: write it anew with a program that reads it whole")
    return False


def _is_chained(file: BinaryIO) -> bool:
    """Whether an Ogg's last page is of another stream than its first: they stand one behind the other (RFC 3533)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    first = file.read(18)
    file.seek(max(0, size - _OGG_PAGE_BYTES))
    end = file.read(_OGG_PAGE_BYTES)
    last = end.rfind(b"OggS\0")
    return last >= 0 and end[last + 14 : last + 18] != first[14:18]


def _ends_later(file: BinaryIO, samples: int) -> bool:
    """Whether a FLAC's last frame ends behind its header's length (RFC 9639, section 9.1).

    One that is cut off ends before; libsndfile will find that.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(42)
    if head[:4] != b"fLaC":
        return False  # With a tag in front of it, for which libsndfile looks.
    block = int.from_bytes(head[10:12], "big")
    longest = int.from_bytes(head[15:18], "big") or _FLAC_FRAME_BYTES
    file.seek(max(42, size - longest - _ID3V1_BYTES))
    end = file.read(longest + _ID3V1_BYTES)
    place = len(end)
    while (place := end.rfind(b"\xff", 0, place)) >= 0:
        behind = _find_end_of_frame(end[place : place + 16], block)
        if behind is not None:
            if behind != samples:
                file.seek(4)
                _refuse_second(b"fLaC\0\0\0\x22" in file.read(size))
            return behind > samples
    return False


def _find_end_of_frame(head: bytes, block: int) -> int | None:
    """The sample behind a FLAC frame's last, by the frame's header; None for what is no frame."""
    if len(head) < 16 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    variable = bool(head[1] & 1)
    ones = 8 - (~head[4] & 0xFF).bit_length()  # The number is written as UTF-8 writes a character.
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
