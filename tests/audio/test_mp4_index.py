"""An MP4 whose index has more samples than the file has bytes is refused before FFmpeg allocates entries for them."""

import io
from pathlib import Path

import numpy as np
import pytest
from encoding import encode

from finetune.audio.mp4_index import require_honest_index
from finetune.audio.waveforms import AudioError, Recording, read_seconds, read_waveform

MANY = (2_000_000).to_bytes(4, "big")


@pytest.fixture(scope="module")
def honest() -> bytes:
    noise = 0.1 * np.random.default_rng(0).normal(size=(16000, 1)).astype(np.float32)
    return encode(noise, 16000, "ipod", "aac", bit_rate=48_000)


def box(name: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    return (8 + len(content) if length is None else length).to_bytes(4, "big") + name + content


def promise(content: bytes) -> bytes:
    """The same file with an index of many samples of one byte in its only chunk."""
    changed, one = bytearray(content), (1).to_bytes(4, "big")
    for name, value in {
        b"stsz": one + MANY,
        b"stsc": one + one + MANY + one,
        b"stco": one,
        b"stts": one + MANY + (1024).to_bytes(4, "big"),
    }.items():
        place = content.index(name) + 8
        changed[place : place + len(value)] = value
    return bytes(changed)


def change(honest: bytes, kind: str) -> bytes:
    sizes = box(b"stsz", b"\0\0\0\0\0\0\0\1" + MANY)
    match kind:
        case "sizes":
            return promise(honest)
        case "behind an empty box":
            return box(b"free") + promise(honest)
        case "long length":
            start = honest.index(b"moov") - 4
            moov = promise(honest)[start:]
            return honest[:start] + b"\0\0\0\1moov" + (len(moov) + 8).to_bytes(8, "big") + moov[8:]
        case "fragment":
            return honest + box(b"moof", box(b"traf", box(b"trun", b"\0\0\0\0" + MANY)))
        case "elsewhere":
            return honest + box(b"moov", box(b"udta", box(b"meta", b"\0\0\0\0" + box(b"hdlr") + sizes)))
        case "cut":
            return honest + box(b"moov", box(b"trak", sizes, 2**31), 2**31)
        case "short":
            return honest + box(b"moov", b"\0\0\0\x08stsz") + b"\0\0\0\0\0\0\0\1" + MANY
        case "description":
            return honest + box(b"moov", box(b"stsd", b"\0" * 37 + sizes))
        case _:
            return honest + box(b"moov", box(b"cmov", box(b"dcom", b"zlib")))


KINDS = ("sizes", "behind an empty box", "long length", "fragment", "elsewhere", "cut", "short", "description", "cmov")


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_of_more_samples_than_bytes_is_refused(honest: bytes, kind: str) -> None:
    recording = Recording(None, change(honest, kind))
    for read in (read_seconds, lambda one: read_waveform(one, 16000)):
        with pytest.raises(AudioError, match=r"^damaged audio: its index has more samples than the file has bytes$"):
            read(recording)


def test_valid_files_and_other_files_are_accepted(honest: bytes) -> None:
    noise = np.zeros((16000, 2), np.float32)
    others = [("mov", "pcm_s16le"), ("mp4", "alac"), ("matroska", "aac"), ("adts", "aac"), ("wav", "pcm_s16le")]
    for content in (honest, honest[:1000], b"", b"\0" * 100, *(encode(noise, 16000, *kind) for kind in others)):
        assert require_honest_index(io.BytesIO(content), len(content)) is None  # It must not raise.


def test_a_box_name_within_the_sound_is_ignored(honest: bytes) -> None:
    content = box(b"ftyp", b"M4A ") + box(b"mdat", box(b"moov", box(b"stsz", b"\0" * 8 + MANY)))
    assert require_honest_index(io.BytesIO(content), len(content)) is None


def test_the_nesting_of_boxes_is_limited(honest: bytes, tmp_path: Path) -> None:
    nested = b""
    for _ in range(5000):
        nested = box(b"moov", nested)
    with pytest.raises(AudioError, match="its index has more samples"):
        require_honest_index(io.BytesIO(nested), len(nested))
