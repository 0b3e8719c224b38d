"""A recording read in blocks has the same samples as read at once, for each kind of source."""

import io
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.audio.stream import open_stream
from finetune.audio.waveforms import AudioError, Recording, read_waveform

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def make_noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(0).normal(size=(round(seconds * rate), channels))
    return noise.astype(np.float32)


def join(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """All blocks of a stream, (tracks, samples)."""
    return np.concatenate(list(blocks), axis=1)


def read(audio: Any, rate: int = 16000, **options: Any) -> np.ndarray:
    with open_stream(audio, rate, **options) as stream:
        return join(stream.blocks())


def write(file: Path, seconds: float = 23.4, rate: int = 24000, channels: int = 2) -> Path:
    container, subtype = FORMATS[file.name.partition(".")[2]]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=container) as opened:
        for second in np.array_split(
            make_noise(seconds, rate, channels), 20
        ):  # libsndfile crashes when it writes much Vorbis at once.
            opened.write(second)
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_have_the_samples_of_the_whole(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / f"noise.{name}")
    whole = read_waveform(Recording(str(file), None), 16000)
    with open_stream(file, 16000) as stream:
        assert (stream.channels, stream.sampling_rate) == (2, 16000)
        assert stream.seconds == pytest.approx(23.4, abs=0.1)
        blocks = list(stream.blocks())
    assert len(blocks) >= 3 and {block.dtype for block in blocks} == {np.dtype(np.float32)}
    np.testing.assert_allclose(join(blocks)[0], whole, atol=1e-6)
    for source in (str(file), Recording(None, file.read_bytes()), io.BytesIO(file.read_bytes())):
        np.testing.assert_array_equal(read(source), join(blocks))


@pytest.mark.parametrize("name", FORMATS)
def test_a_segment_has_the_same_samples_as_read_at_once(tmp_path: Path, name: str) -> None:
    segment = Recording(str(write(tmp_path / f"noise.{name}")), None, start=3.21, end=20.5)
    np.testing.assert_allclose(read(segment)[0], read_waveform(segment, 16000), atol=1e-6)


def test_channels_are_tracks_where_they_are_read_separately(tmp_path: Path) -> None:
    noise = make_noise(12, 16000, channels=2)
    soundfile.write(tmp_path / "call.wav", noise, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read(tmp_path / "call.wav", separate_channels=True), noise.T)
    np.testing.assert_array_equal(read(tmp_path / "call.wav"), noise.mean(axis=1)[None])


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "int32", "uint8"])
def test_arrays_are_read_at_their_own_rate(kind: str) -> None:
    noise = make_noise(11, 8000, channels=2)
    array: np.ndarray = noise.astype(kind)
    if array.dtype.kind != "f":
        half = 2.0 ** (8 * array.dtype.itemsize - 1)
        array = (noise * half + (half if kind == "uint8" else 0)).astype(kind)
    tracks = read(array, source_rate=8000, rate=8000, separate_channels=True)
    np.testing.assert_allclose(tracks, noise.T, atol=0.01 if kind == "uint8" else 1e-4)
    assert read(array[:, 0], source_rate=8000).shape == (1, 11 * 16000)


@pytest.mark.parametrize(
    ("array", "rate", "reason"),
    [
        (np.zeros(10), None, "sampling rate"),
        (np.zeros(0), 16000, "zero length"),
        (np.zeros((2, 16000)), 16000, r"shape \(2, 16000\); expected .*\(samples, channels\)"),
        (np.array(["a", "b"]), 16000, "expected numbers"),
    ],
)
def test_arrays_that_are_not_audio_are_refused(array: np.ndarray, rate: int | None, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        open_stream(array, 16000, source_rate=rate)


def test_values_that_are_not_finite_are_refused_with_their_time(tmp_path: Path) -> None:
    noise = make_noise(25, 16000)
    noise[16000 * 21] = np.inf
    soundfile.write(tmp_path / "inf.wav", noise, 16000, subtype="FLOAT")
    with open_stream(tmp_path / "inf.wav", 16000) as stream:
        blocks = stream.blocks()
        assert next(blocks).shape[0] == 1
        with pytest.raises(AudioError, match=r"not numbers, the first at 21\.00 s"):
            list(blocks)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_truncated_during_reading_is_refused(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / f"noise.{name}", seconds=45, rate=16000)
    with open_stream(file, 16000) as stream:
        blocks = stream.blocks()
        next(blocks)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size // 2)
        with pytest.raises(AudioError, match=r"truncated audio: \d+ of \d+ samples|unreadable audio: "):
            list(blocks)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU"])
def test_a_file_of_half_its_headers_length_is_refused(tmp_path: Path, container: str) -> None:
    file = tmp_path / "half"
    soundfile.write(file, make_noise(4, 16000), 16000, format=container, subtype="PCM_16")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    for read_it in (read, lambda half: read_waveform(Recording(str(half), None), 16000)):
        with pytest.raises(AudioError, match=r"truncated audio: 319\d\d of 6[34]\d{3} samples"):
            read_it(file)
    assert read(Recording(str(file), None, start=0.5, end=1.5)).shape == (1, 16000)
    file.write_bytes(content[:-400])  # Headers with small errors are common.
    assert read(file).shape == (1, 4 * 16000 - 200)


def test_a_wav_longer_than_its_header_allows_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.wav"
    soundfile.write(file, np.zeros(16000, np.float32), 16000, subtype="PCM_16")
    with file.open("r+b") as opened:
        for place in (4, 40):
            opened.seek(place)
            opened.write(b"\xff\xff\xff\xff")
        opened.truncate(5 * 10**9)  # A hole in the file, which takes no disk space.
    with open_stream(file, 16000) as stream:
        assert stream.seconds is None and next(stream.blocks()).shape == (1, 160_000)
    file.unlink()


@pytest.mark.long
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from finetune.audio.stream import open_stream\n"
        "from finetune.audio.speech_activity import build_detector\n"
        "state = build_detector('energy', 16000).start()\n"
        "with open_stream(sys.argv[1], 16000) as stream:\n"
        "    found = sum((state.detect(block[0]) > 0.5).sum() for block in stream.blocks())\n"
        "print(found + (state.finish() > 0.5).sum(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for seconds in (60, 3600):
        file = tmp_path / "silence.wav"
        soundfile.write(file, np.zeros(16000, np.float32), 16000, subtype="PCM_16")
        with file.open("r+b") as opened:  # The rest is a hole in the file.
            opened.truncate(44 + 32000 * seconds)
            for place, value in ((4, 36 + 32000 * seconds), (40, 32000 * seconds)):
                opened.seek(place)
                opened.write(value.to_bytes(4, "little"))
        done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True)
        found, peak = map(int, done.stdout.split())
        assert found == 0
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]
