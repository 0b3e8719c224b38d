"""The decoded audio is that of the file and has the length in the header, or there is an error with the reason."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
import soundfile
from encoding import encode

from finetune.audio import endings
from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, decode, read_seconds, read_waveform
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
    """A WAV with another length in its header."""
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
HALVES = np.split(SWEEP, 2)
WITH_PAUSE = np.concatenate([SWEEP[: 4 * RATE], np.zeros((4 * RATE, 1), np.float32), SWEEP[8 * RATE :]])


def flac(lengths: list[int]) -> bytes:
    """A FLAC of frames of these lengths, each with one value (RFC 9639)."""

    def check(content: bytes, bits: int, polynomial: int) -> bytes:
        crc = 0
        for byte in content:
            crc ^= byte << (bits - 8)
            for _ in range(8):
                crc = (crc << 1 ^ (polynomial if crc >> (bits - 1) & 1 else 0)) & (2**bits - 1)
        return crc.to_bytes(bits // 8, "big")

    frames, first = [], 0
    for length in lengths:
        number = chr(first).encode("utf-8", "surrogatepass") if first < 0x10000 else b"\xf0"
        number += bytes(0x80 | first >> shift & 63 for shift in (12, 6, 0)) if first >= 0x10000 else b""
        head = b"\xff\xf9\x75\x08" + number + (length - 1).to_bytes(2, "big")
        head += check(head, 8, 0x07)
        frame = head + b"\0" + (first % 20000).to_bytes(2, "big")
        frames.append(frame + check(frame, 16, 0x8005))
        first += length
    info = b"\0\x10" + b"\xff\xff" + bytes(6) + (RATE << 44 | 15 << 36 | first).to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\0\0\x22" + info + b"".join(frames)


def chained_vorbis() -> bytes:
    """Two streams; libsndfile draws serial numbers from the time in seconds, so equal ones are drawn again."""
    first, second = (write(half, "OGG", "VORBIS") for half in HALVES)
    while first[14:18] == second[14:18]:
        time.sleep(0.2)
        second = write(HALVES[1], "OGG", "VORBIS")
    return first + second


def renumber(content: bytes, serial: int) -> bytes:
    """An Ogg with another serial number, and so other checksums, in its pages (RFC 3533)."""
    pages, place = [], 0
    while place < len(content):
        segments = content[place + 26]
        end = place + 27 + segments + sum(content[place + 27 : place + 27 + segments])
        page = bytearray(content[place:end])
        page[14:18], page[22:26], crc = serial.to_bytes(4, "little"), bytes(4), 0
        for byte in page:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
        page[22:26] = crc.to_bytes(4, "little")
        pages.append(bytes(page))
        place = end
    return b"".join(pages)


def caf(subtype: str = "PCM_16", said: int | None = None, before: bytes = b"", seconds: int = 16) -> bytes:
    """A CAF of `said` bytes of sound by its header, with chunks before the sound, and nothing behind it."""
    content = write(SWEEP[: seconds * RATE], "CAF", subtype)
    place = content.index(b"data") + 4
    length = int.from_bytes(content[place : place + 8], "big")
    sound = content[place + 8 : place + 8 + length]
    return (
        content[: place - 4]
        + before
        + b"data"
        + (length if said is None else said).to_bytes(8, "big", signed=True)
        + sound
    )


ODD_CHUNK = b"info" + (7).to_bytes(8, "big") + bytes(7)

# The length in seconds, where the format has one.
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
    "wav with zeros and a chunk behind": lambda: WAV + bytes(20_000) + b"LIST\x04\0\0\0INFO",
    "wav of length 0, quiet first": lambda: stale(write(QUIET_THEN_LOUD, "WAV", "PCM_16"), 0),
    "wav of length 4 s, with a pause there": lambda: stale(write(WITH_PAUSE, "WAV", "PCM_16"), 8 * RATE),
    "gsm in wav": lambda: write(SWEEP, "WAV", "GSM610"),
    "mp3 with zeros behind": lambda: mp3(SWEEP) + bytes(5000),
    "mp2": lambda: encode(SWEEP, RATE, "mp2", "mp2"),
    "mp2 in wav": lambda: encode(SWEEP, RATE, "wav", "mp2"),
    "opus": lambda: write(SWEEP, "OGG", "OPUS"),
    "vorbis": lambda: write(SWEEP, "OGG", "VORBIS"),
    "aiff": lambda: write(SWEEP, "AIFF", "PCM_16"),
    "chained vorbis": chained_vorbis,
    "chained opus": lambda: b"".join(
        encode(half, 48000, "ogg", "libopus") for half in np.split(np.repeat(SWEEP, 3, 0), 2)
    ),
    "chained vorbis of one serial number": lambda: b"".join(
        renumber(write(half, "OGG", "VORBIS"), 7) for half in HALVES
    ),
    "chained opus of one serial number": lambda: b"".join(renumber(write(half, "OGG", "OPUS"), 7) for half in HALVES),
    "caf": caf,
    "caf with a chunk behind": lambda: caf() + ODD_CHUNK,
    "caf of unknown length": lambda: caf(said=-1),
    "caf of length 0": lambda: caf(said=0),
    "24-bit caf of unknown length, with an odd chunk": lambda: caf("PCM_24", said=-1, before=ODD_CHUNK),
    "float caf of unknown length, with an odd chunk": lambda: caf("FLOAT", said=-1, before=ODD_CHUNK),
    "alac in caf": lambda: caf("ALAC_16", before=ODD_CHUNK),
    "flac of frames of different lengths": lambda: flac([100, 65535, 60000, 65535, 64830]),
    "m4a": lambda: encode(SWEEP, RATE, "ipod", "aac"),
    "webm": lambda: encode(SWEEP, 48000, "webm", "libopus"),
}


@pytest.mark.parametrize("kind", FILES)
def test_all_audio_in_a_file_is_decoded_and_its_length_is_known(tmp_path: Path, kind: str) -> None:
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


def test_a_long_ogg_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its identity, so another file in its place is looked through, too."""
    monkeypatch.setattr(endings, "_BLOCK_BYTES", 4000)
    looked_through = Mock(side_effect=endings._find_beginning)
    monkeypatch.setattr(endings, "_find_beginning", looked_through)
    file, twice = tmp_path / "long.ogg", FILES["chained vorbis of one serial number"]()
    for number, (content, seconds) in enumerate([(write(SWEEP[: 8 * RATE], "OGG", "VORBIS"), 8), (twice, 16)], 1):
        file.write_bytes(content)
        assert read_seconds(Recording(str(file), None)) == pytest.approx(seconds, abs=0.13)
        assert read_seconds(Recording(str(file), None, start=3.0, end=4.0)) == 1.0
        assert looked_through.call_count == number


def test_mp3_files_that_were_joined_are_read_to_their_end() -> None:
    joined = Recording(None, mp3(HALVES[0]) + tag(2000) + mp3(HALVES[1]))
    decoded = decode(joined, RATE)
    assert decoded.seconds == read_seconds(joined) == pytest.approx(16, abs=0.2)
    assert np.corrcoef(decoded.waveform[: 7 * RATE], SWEEP[: 7 * RATE, 0])[0, 1] > 0.99


def test_an_avi_is_read_although_its_header_rounds_up(tmp_path: Path) -> None:
    long = np.tile(SWEEP, (5, 1))
    assert decode(Recording(None, encode(long, RATE, "avi", "pcm_s16le")), RATE).seconds == 80


@pytest.mark.parametrize(("container", "codec", "rate"), [("webm", "libopus", 48000), ("asf", "wmav2", 48000)])
def test_sound_that_begins_late_in_its_container_is_read(container: str, codec: str, rate: int) -> None:
    content, late = encode(SWEEP, rate, container, codec, bit_rate=96_000), io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(late, "w", format=container) as target:
        track = source.streams.audio[0]
        copied = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.pts is not None:
                packet.pts, packet.dts = packet.pts + 2000, packet.dts + 2000  # Milliseconds.
                packet.stream = copied
                target.mux(packet)
    recordings = [Recording(None, each) for each in (content, late.getvalue())]
    assert read_seconds(recordings[1]) == read_seconds(recordings[0])


def interrupt(content: bytes, container: str, milliseconds: int, pipe: bool = False) -> bytes:
    """A Matroska whose blocks are later after 8 s, and before it every second tenth of a second by 20 ms (jitter)."""
    written = io.BytesIO()

    class Pipe:
        write = written.write

    target: Any = Pipe() if pipe else written
    with av.open(io.BytesIO(content)) as source, av.open(target, "w", format=container) as file:
        track = source.streams.audio[0]
        copied = file.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.pts is not None:
                seconds = float(packet.pts * packet.time_base)
                packet.pts += milliseconds if seconds > 8 else 20 * (int(seconds * 10) % 2)
                packet.dts = packet.pts
                packet.stream = copied
                file.mux(packet)
    return written.getvalue()


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("webm", "libopus", 48000), ("matroska", "pcm_s16le", 16000), ("matroska", "aac", 48000)],
)
def test_missing_blocks_are_silence(container: str, codec: str, rate: int, pipe: bool) -> None:
    content = encode(np.repeat(SWEEP, rate // RATE, 0), rate, container, codec)
    before, after = Recording(None, content), Recording(None, interrupt(content, container, 3000, pipe))
    whole, gap = decode(before, rate).waveform, decode(after, rate).waveform
    moved = len(gap) - len(whole)
    assert len(gap) == read_seconds(after) * rate
    assert moved / rate == pytest.approx(3, abs=0.02)
    np.testing.assert_array_equal(gap[: round(7.9 * rate)], whole[: round(7.9 * rate)])
    assert not gap[round(8.2 * rate) : round(10.9 * rate)].any()
    np.testing.assert_array_equal(gap[moved + 9 * rate :], whole[9 * rate :])
    with open_stream(io.BytesIO(interrupt(content, container, 3000, pipe)), rate) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks()), axis=1)[0], gap)


def test_a_gap_that_is_too_long_for_its_file_is_damage() -> None:
    content = encode(SWEEP[: 9 * RATE], RATE, "matroska", "libopus", bit_rate=6000)
    longer = Recording(None, interrupt(content, "matroska", 10**9))
    with pytest.raises(AudioError, match="its index promises more than its bytes can hold"):
        read_seconds(longer)
    with pytest.raises(AudioError, match="too long"):
        decode(longer, RATE)


def test_a_voc_is_its_sound_without_the_headers_of_its_blocks() -> None:
    waveform = decode(Recording(None, encode(SWEEP, RATE, "voc", "pcm_s16le")), RATE).waveform
    assert len(waveform) == len(SWEEP)
    assert np.corrcoef(waveform, SWEEP[:, 0])[0, 1] > 0.99


def test_a_tiny_mp3_gives_a_waveform_or_a_reason_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(mp3(SWEEP, pipe=True)[:552])
    recording = Recording(str(tmp_path / "a.mp3"), None)
    try:
        assert read_seconds(recording) == decode(recording, RATE).seconds < 1
    except AudioError as error:
        assert "audio" in str(error)


@pytest.mark.parametrize("container", ["RF64", "W64", "NIST"])
def test_half_a_file_of_these_is_truncated(container: str) -> None:
    content = write(SWEEP, container, "PCM_16")
    assert decode(Recording(None, content), RATE).seconds == 16
    half = Recording(None, content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"truncated audio: 12\d{4} of 25\d{4} samples could be decoded"):
        decode(half, RATE)


def test_what_is_no_mp3_is_called_so(tmp_path: Path) -> None:
    for content in (b"", b"x", b"<html>404</html>" * 50):
        (tmp_path / "a.mp3").write_bytes(content)
        with pytest.raises(AudioError, match=r"^unreadable audio: Format not recognised$"):
            read_waveform(Recording(str(tmp_path / "a.mp3"), None), RATE)


def test_half_an_mp3_with_a_length_in_its_header_is_truncated(tmp_path: Path) -> None:
    content = mp3(SWEEP)
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    recording = Recording(str(tmp_path / "a.mp3"), None)
    for read in (read_seconds, lambda half: read_waveform(half, RATE)):
        with pytest.raises(AudioError, match=r"truncated audio|unreadable audio"):
            read(recording)


def test_a_damaged_packet_is_reported_with_its_time(tmp_path: Path) -> None:
    content = bytearray(encode(SWEEP, RATE, "adts", "aac"))
    middle = len(content) // 2
    content[middle : middle + 20] = np.random.default_rng(0).bytes(20)
    with pytest.raises(AudioError, match=r"damaged audio: the packet at 8\.\d\d s can't be decoded"):
        decode(Recording(None, bytes(content)), RATE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("wav behind a wav", "a second recording after the first in one file"),
        ("aiff behind an aiff", "a second recording after the first in one file"),
        ("flac behind a flac", "a second recording after the first in one file"),
        ("aiff of length 100", "more sound than its header says"),
        ("au of length 100", "more sound than its header says"),
        ("caf of length 100", "more sound than its header says"),
        ("caf of more than its size", "truncated audio: 128004 of 130000 bytes of its sound are there"),
    ],
)
def test_sound_that_no_decoder_reads_is_reported(tmp_path: Path, kind: str, said: str) -> None:
    first, second = (SWEEP[: 4 * RATE], SWEEP[: 3 * RATE])
    if "behind" in kind:
        form = kind.split()[0].upper()
        content = write(first, form, "PCM_16") + write(second, form, "PCM_16")
    elif kind.startswith("aiff"):
        whole = write(first, "AIFF", "PCM_16")
        content = whole.replace((8 + 8 * RATE).to_bytes(4, "big"), (108).to_bytes(4, "big"))
        assert content != whole
    elif kind.startswith("caf"):
        content = caf(said=100 if "100" in kind else 130_000, seconds=4)
    else:
        whole = write(first, "AU", "PCM_16")
        content = whole[:8] + (100).to_bytes(4, "big") + whole[12:]
    (tmp_path / "sound").write_bytes(content)
    for recording in (Recording(str(tmp_path / "sound"), None), Recording(None, content)):
        with pytest.raises(AudioError, match=said):
            decode(recording, RATE)
        with pytest.raises(AudioError, match=said):
            read_seconds(recording)


def test_channels_that_cancel_each_other_are_reported_and_one_is_used(tmp_path: Path, logged: list[str]) -> None:
    soundfile.write(tmp_path / "turned.wav", np.hstack([SWEEP, -SWEEP]), RATE, subtype="FLOAT")
    decoded = decode(Recording(str(tmp_path / "turned.wav"), None), RATE)
    assert decoded.cancelled
    np.testing.assert_array_equal(decoded.waveform, SWEEP[:, 0])
    read_waveform(Recording(str(tmp_path / "turned.wav"), None), RATE)
    assert logged[0].startswith("note: of a recording its channels cancel each other")
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
