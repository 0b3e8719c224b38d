"""What is decoded is what is in the file, and its header's length is the decoded one, or the reason says why not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from encoding import encode

from finetune.data.audio import AudioError, Recording, decode, read_seconds, read_waveform
from finetune.data.audio_stream import open_stream
from finetune.data.sources import Source, load_splits, select_table

RATE = 16000
SWEEP = (0.3 * np.sin((np.arange(16 * RATE) / RATE) ** 2 * 300)).astype(np.float32)[:, None]
LOUD_THEN_QUIET = np.concatenate([SWEEP[: 4 * RATE], np.zeros((12 * RATE, 1), np.float32)])
QUIET_THEN_LOUD = LOUD_THEN_QUIET[::-1].copy()


def write(samples: np.ndarray, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=container, subtype=subtype)
    return file.getvalue()


def stale(content: bytes, length: int) -> bytes:
    """A WAV whose header says another length of its sound."""
    place = content.index(b"data") + 4
    riff = (36 + length).to_bytes(4, "little") if length < 2**31 else b"\xff" * 4
    return content[:4] + riff + content[8:place] + length.to_bytes(4, "little") + content[place + 4 :]


def tag(bytes_of_picture: int) -> bytes:
    """An ID3 tag with a cover."""
    size = bytes(bytes_of_picture >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + size + b"\xff\xfb\x90\x00" * (bytes_of_picture // 4)


def mp3(samples: np.ndarray, **options: object) -> bytes:
    return encode(samples, RATE, "mp3", "libmp3lame", **options)  # type: ignore[arg-type]


WAV = write(SWEEP, "WAV", "PCM_16")
# The length in seconds, as far as the format knows it.
FILES: dict[str, Callable[[], bytes]] = {
    "mp3": lambda: mp3(SWEEP),
    "mp3 without Xing, loud first": lambda: mp3(LOUD_THEN_QUIET, pipe=True),
    "mp3 without Xing, quiet first": lambda: mp3(QUIET_THEN_LOUD, write_xing="0"),
    "mp3 of constant bit rate from a pipe": lambda: mp3(SWEEP, pipe=True, bit_rate=64_000),
    "mp3 with a large tag": lambda: tag(200_000) + mp3(SWEEP, pipe=True),
    "mp3 with a large tag and Xing": lambda: tag(200_000) + mp3(SWEEP),
    "mp3 with a tag behind": lambda: mp3(SWEEP) + b"TAG" + b"title".ljust(125, b"\0"),
    "mp3 in wav": lambda: encode(SWEEP, RATE, "wav", "libmp3lame"),
    "flac": lambda: write(SWEEP, "FLAC", "PCM_16"),
    "flac from a pipe": lambda: encode(SWEEP, RATE, "flac", "flac", pipe=True),
    "wav": lambda: WAV,
    "wav of length 0": lambda: stale(WAV, 0),
    "wav of length 100": lambda: stale(WAV, 100),
    "wav of length 0xFFFFFFFF": lambda: stale(WAV, 2**32 - 1),
    "wav of length 0x7FFFF000": lambda: stale(WAV, 0x7FFFF000),
    "24-bit extensible wav of length 0": lambda: stale(write(SWEEP, "WAVEX", "PCM_24"), 0),
    "24-bit extensible wav of length 100": lambda: stale(write(SWEEP, "WAVEX", "PCM_24"), 100),
    "float wav of length 0": lambda: stale(write(SWEEP, "WAV", "FLOAT"), 0),
    "wav with a chunk behind": lambda: WAV + b"LIST\x04\0\0\0INFO",
    "wav with a tag behind": lambda: WAV + tag(20_000),
    "wav with zeros behind": lambda: WAV + bytes(20_000),
    "opus": lambda: write(SWEEP, "OGG", "OPUS"),
    "vorbis": lambda: write(SWEEP, "OGG", "VORBIS"),
    "aiff": lambda: write(SWEEP, "AIFF", "PCM_16"),
    "m4a": lambda: encode(SWEEP, RATE, "ipod", "aac"),
    "webm": lambda: encode(SWEEP, 48000, "webm", "libopus"),
}


@pytest.mark.parametrize("kind", FILES)
def test_all_that_is_in_a_file_is_decoded_and_its_length_is_known(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "sound"
    file.write_bytes(FILES[kind]())
    seconds = 16 / 3 if kind == "webm" else 16
    for recording in (Recording(str(file), None), Recording(None, file.read_bytes())):
        decoded = decode(recording, RATE)
        assert decoded.seconds == pytest.approx(seconds, abs=0.13)
        assert read_seconds(recording) == decoded.seconds
    with open_stream(file, RATE) as stream:
        assert stream.seconds is None or stream.seconds == pytest.approx(seconds, abs=0.13)
        streamed = np.concatenate(list(stream.blocks()), axis=1)[0]
    np.testing.assert_allclose(streamed, decoded.waveform, atol=1e-6)
    segment = Recording(str(file), None, start=3.0, end=4.5)
    if kind != "webm":
        assert read_seconds(segment) == 1.5
        np.testing.assert_allclose(
            read_waveform(segment, RATE)[2000:-100], decoded.waveform[3 * RATE + 2000 : 72_000 - 100], atol=0.02
        )


def test_a_tiny_mp3_is_read_or_a_reason_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(mp3(SWEEP, pipe=True)[:552])
    recording = Recording(str(tmp_path / "a.mp3"), None)
    try:
        assert read_seconds(recording) == decode(recording, RATE).seconds < 1
    except AudioError as error:
        assert "audio" in str(error)


def test_half_an_mp3_that_says_its_length_is_truncated(tmp_path: Path) -> None:
    content = mp3(SWEEP)
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    recording = Recording(str(tmp_path / "a.mp3"), None)
    for read in (read_seconds, lambda half: read_waveform(half, RATE)):
        with pytest.raises(AudioError, match=r"truncated audio|unreadable audio"):
            read(recording)


def test_a_damaged_piece_is_named_with_its_place(tmp_path: Path) -> None:
    content = bytearray(encode(SWEEP, RATE, "adts", "aac"))
    middle = len(content) // 2
    content[middle : middle + 20] = np.random.default_rng(0).bytes(20)
    with pytest.raises(AudioError, match=r"damaged audio: the piece at 8\.\d\d s can't be decoded"):
        decode(Recording(None, bytes(content)), RATE)


def test_channels_that_cancel_each_other_are_named_and_one_is_taken(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "turned.wav", np.hstack([SWEEP, -SWEEP]), RATE, subtype="FLOAT")
    decoded = decode(Recording(str(tmp_path / "turned.wav"), None), RATE)
    assert decoded.cancelled
    np.testing.assert_array_equal(decoded.waveform, SWEEP[:, 0])
    with open_stream(tmp_path / "turned.wav", RATE) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks()), axis=1)[0], SWEEP[:, 0])
        assert stream.cancelled
    soundfile.write(tmp_path / "two.wav", np.hstack([SWEEP, SWEEP[::-1]]), RATE, subtype="FLOAT")
    assert not decode(Recording(str(tmp_path / "two.wav"), None), RATE).cancelled


def test_the_channel_of_a_kaldi_segment_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", np.hstack([SWEEP, 0.5 * SWEEP]), RATE, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text("call call.wav\n")
    (tmp_path / "segments").write_text(
        "a call 0 1 0\nb call 0 1 1\nc call 0 1\nd call 0 1 -1\n"  # Two say none, which means all.
        "e call 0 1 2\nf call 0 1 A\n"
    )
    (tmp_path / "text").write_text("".join(f"{name} words\n" for name in "abcdef"))
    source = Source(str(tmp_path))
    table = select_table(load_splits(source), "train", source)
    for row, factor in enumerate((1, 0.5, 0.75, 0.75)):
        np.testing.assert_allclose(read_waveform(table.recording(row), RATE), factor * SWEEP[:RATE, 0], atol=1e-6)
    for row in (4, 5):
        with pytest.raises(AudioError, match=r"no such channel: [2A]"):
            read_seconds(table.recording(row))
