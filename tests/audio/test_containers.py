"""Audio in containers is decoded in blocks without opening other files; files without audio are refused."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from encoding import encode

from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, read_seconds, read_waveform

KINDS = {
    "m4a": ("ipod", "aac"),
    "mov": ("mov", "pcm_s16le"),
    "mka": ("matroska", "aac"),
    "mkv": ("matroska", "pcm_s16le"),
    "webm": ("webm", "libopus"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "alac.m4a": ("ipod", "alac"),
}


def make_sweep(seconds: float, rate: int = 48000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    left, right = (0.5 * np.sin(2 * np.pi * (start + 40 * time) * time) for start in (200, 500))
    return np.stack([left, right], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 seconds of two channels in each container."""
    folder = tmp_path_factory.mktemp("containers")
    for kind, (container, codec) in KINDS.items():
        (folder / f"a.{kind}").write_bytes(encode(make_sweep(25), 48000, container, codec, bit_rate=192_000))
    return folder


def read(audio: object, separate: bool = False) -> np.ndarray:
    with open_stream(audio, 16000, separate_channels=separate) as stream:  # type: ignore[arg-type]
        return np.concatenate(list(stream.blocks()), axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_containers_are_read_in_blocks(folder: Path, tmp_path: Path, kind: str) -> None:
    expected = read(make_sweep_array(), separate=True)
    with open_stream(folder / f"a.{kind}", 16000, separate_channels=True) as stream:
        assert stream.channels == 2
        assert stream.seconds is None or stream.seconds == pytest.approx(25, abs=0.2)
        blocks = list(stream.blocks())
    assert len(blocks) >= 3
    sound = np.concatenate(blocks, axis=1)
    late = kind in ("aac", "wma")  # These do not store their encoder's delay.
    assert sound.shape[1] == pytest.approx(expected.shape[1], abs=2100)
    if not late:
        middle = slice(16000, 16000 * 20)
        assert np.corrcoef(sound[1, middle], expected[1, middle])[0, 1] > 0.99
    with (folder / f"a.{kind}").open("rb") as file:
        np.testing.assert_array_equal(read(file, separate=True), sound)
    hidden = tmp_path / "recording.dat"
    hidden.write_bytes((folder / f"a.{kind}").read_bytes())
    np.testing.assert_array_equal(read(hidden, separate=True), sound)
    whole = Recording(str(hidden), None)
    assert abs(len(read_waveform(whole, 16000)) - sound.shape[1]) == 0
    assert read_seconds(whole) * 16000 == pytest.approx(sound.shape[1], abs=1)


def make_sweep_array() -> Path | io.BytesIO:
    return io.BytesIO(encode(make_sweep(25), 48000, "wav", "pcm_s16le"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_of_a_container_equals_the_part_of_the_whole(folder: Path, kind: str) -> None:
    whole = read(folder / f"a.{kind}")
    segment = Recording(str(folder / f"a.{kind}"), None, start=9.0, end=21.5)
    piece = read(segment)
    assert piece.shape == (1, round(12.5 * 16000))
    np.testing.assert_allclose(piece[:, 100:-100], whole[:, 9 * 16000 + 100 : round(21.5 * 16000) - 100], atol=1e-5)
    np.testing.assert_allclose(read_waveform(segment, 16000), piece[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_container_is_refused_with_one_sentence(folder: Path, tmp_path: Path, kind: str) -> None:
    content = (folder / f"a.{kind}").read_bytes()
    (tmp_path / f"half.{kind}").write_bytes(content[: len(content) // 2 + 7])
    with pytest.raises(AudioError, match=r"^(unreadable|truncated|damaged) audio: [^/\n]+$"):
        read(tmp_path / f"half.{kind}")


def test_a_video_without_audio_and_other_files_are_refused_with_one_sentence(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        for _ in range(5):
            film.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        film.mux(stream.encode(None))
    with pytest.raises(AudioError, match=r"^no audio track$"):
        read(tmp_path / "film.mp4")
    for name in ("words.mp4", "words.wav", "words"):
        (tmp_path / name).write_bytes(b"These are words, not audio. " * 100)
        with pytest.raises(AudioError, match=r"^unreadable audio: [^/\n]+$"):
            read(tmp_path / name)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n#{}",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["mp4", "mp3", "m3u8"])
def test_a_playlist_is_not_followed(folder: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"list.{suffix}"
    file.write_text(PLAYLISTS[kind].format(folder / "a.m4a"))
    for reading in (read, read_seconds_of):
        with pytest.raises(AudioError, match="unreadable audio"):
            reading(file)


def read_seconds_of(file: Path) -> float:
    return read_seconds(Recording(str(file), None))
