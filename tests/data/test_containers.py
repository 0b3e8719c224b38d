"""Sound in containers is decoded by FFmpeg's program in a stream, and what holds none is one sentence."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.data.audio import AudioError, Recording
from finetune.data.audio_stream import open_stream
from finetune.data.containers import is_ffmpeg_here

needs_ffmpeg = pytest.mark.skipif(not is_ffmpeg_here(), reason="FFmpeg's programs are not installed")

# Endings whose files FFmpeg can write wherever it is built.
KINDS = ("m4a", "mov", "mkv", "webm", "aac")


def make_sweep(seconds: float, rate: int = 48000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    left, right = (0.5 * np.sin(2 * np.pi * (start + 40 * time) * time) for start in (200, 500))
    return np.stack([left, right], axis=1).astype(np.float32)


def run(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 seconds of two channels in each container, and a film without sound."""
    folder = tmp_path_factory.mktemp("containers")
    soundfile.write(folder / "sweep.wav", make_sweep(25), 48000)
    for kind in KINDS:
        codec = ("-c:a", {"webm": "libopus", "mkv": "flac"}.get(kind, "aac"), "-b:a", "192k")
        run(
            "-i",
            folder / "sweep.wav",
            *codec,
            *(("-movflags", "faststart") if kind == "m4a" else ()),
            folder / f"a.{kind}",
        )
    run("-f", "lavfi", "-i", "color=size=16x16:duration=1:rate=5", "-c:v", "mpeg4", folder / "film.mp4")
    return folder


def read(audio: object, separate: bool = False) -> np.ndarray:
    with open_stream(audio, 16000, separate_channels=separate) as stream:  # type: ignore[arg-type]
        return np.concatenate(list(stream.blocks()), axis=1)


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_containers_are_read_in_blocks(folder: Path, tmp_path: Path, kind: str) -> None:
    expected = read(folder / "sweep.wav", separate=True)
    with open_stream(folder / f"a.{kind}", 16000, separate_channels=True) as stream:
        assert stream.channels == 2
        assert stream.seconds is None or stream.seconds == pytest.approx(25, abs=0.5)
        blocks = list(stream.blocks())
    assert len(blocks) >= 3
    sound = np.concatenate(blocks, axis=1)
    late = sound.shape[1] - expected.shape[1] if kind == "aac" else 0  # Bare AAC doesn't say how its encoder delays it.
    assert 0 <= late < 2100 and sound.shape[1] == pytest.approx(expected.shape[1], abs=2100)
    if not late:
        middle = slice(16000, 16000 * 20)
        assert np.corrcoef(sound[1, middle], expected[1, middle])[0, 1] > 0.99
    with (folder / f"a.{kind}").open("rb") as file:
        np.testing.assert_array_equal(read(file, separate=True), sound)
    hidden = tmp_path / "recording.dat"
    hidden.write_bytes((folder / f"a.{kind}").read_bytes())
    np.testing.assert_array_equal(read(hidden, separate=True), sound)


@needs_ffmpeg
def test_a_segment_of_a_container_is_a_piece_of_the_whole(folder: Path) -> None:
    whole = read(folder / "a.m4a")
    piece = read(Recording(str(folder / "a.m4a"), None, start=9.0, end=21.5))
    assert piece.shape == (1, round(12.5 * 16000))
    np.testing.assert_allclose(piece[:, 100:-100], whole[:, 9 * 16000 + 100 : round(21.5 * 16000) - 100], atol=1e-5)


@needs_ffmpeg
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_container_is_a_sentence(folder: Path, tmp_path: Path, kind: str) -> None:
    content = (folder / f"a.{kind}").read_bytes()
    (tmp_path / f"half.{kind}").write_bytes(content[: len(content) // 2 + 7])
    with pytest.raises(AudioError, match=r"^unreadable audio: [^/\n]+$"):
        read(tmp_path / f"half.{kind}")


@needs_ffmpeg
def test_a_film_without_sound_and_what_is_no_film_are_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^no audio track$"):
        read(folder / "film.mp4")
    for name in ("words.mp4", "words.wav", "words"):
        (tmp_path / name).write_bytes(b"These are words, not audio. " * 100)
        with pytest.raises(AudioError, match=r"^unreadable audio: [^/\n]+$"):
            read(tmp_path / name)


@needs_ffmpeg
def test_the_program_ends_with_the_stream(folder: Path) -> None:
    with open_stream(folder / "a.m4a", 16000) as stream:
        next(stream.blocks())
        [program] = [child for child in _children() if "ffmpeg" in child]
    assert program not in _children()


def _children() -> list[str]:
    import psutil

    return [f"{child.name()} {child.pid}" for child in psutil.Process(os.getpid()).children()]


def test_without_ffmpeg_it_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "talk.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    with pytest.raises(
        AudioError, match=r"\.m4a needs FFmpeg's programs .* convert it elsewhere, .* ffmpeg -i FILE.m4a"
    ):
        read(tmp_path / "talk.m4a")
    (tmp_path / "talk.wav").write_bytes(b"no audio at all")
    with pytest.raises(AudioError, match="unreadable audio: Format not recognised"):
        read(tmp_path / "talk.wav")
