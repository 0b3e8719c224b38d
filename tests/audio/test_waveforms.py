"""Audio of any format, rate and number of channels becomes mono at the model's rate; other files are refused."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.resampling import resample
from finetune.audio.waveforms import AudioError, Recording, read_seconds, read_waveform

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def make_tone(sampling_rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def find_pitch(waveform: np.ndarray, sampling_rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum)) * sampling_rate / len(waveform)


def at(path: Path) -> Recording:
    return Recording(path=str(path), data=None)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = make_tone(16000), make_tone(16000, hertz=1000.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    waveform = read_waveform(at(tmp_path / "stereo.wav"), 16000)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_every_rate_is_converted_to_the_models_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", make_tone(rate, seconds=0.7), rate)
    waveform = read_waveform(at(tmp_path / "tone.wav"), 16000)
    assert len(waveform) == math.ceil(round(0.7 * rate) * 16000 / rate)
    assert find_pitch(waveform, 16000) == pytest.approx(440, abs=2)
    assert np.abs(waveform[2000:-2000]).max() == pytest.approx(0.5, abs=0.01)


def test_audio_at_the_models_rate_is_not_changed() -> None:
    waveform = make_tone(16000)
    assert resample(waveform, 16000, 16000) is waveform


def test_frequencies_above_the_nyquist_frequency_are_removed_and_not_aliased() -> None:
    waveform = resample(make_tone(48000, hertz=12000.0), 48000, 16000)
    assert np.abs(waveform[1000:-1000]).max() < 0.01


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["path", "bytes"])
def test_formats_are_read_from_path_and_from_bytes(tmp_path: Path, name: str, source: str) -> None:
    file = tmp_path / f"tone.{name}"
    container, subtype = FORMATS[name]
    soundfile.write(file, make_tone(48000), 48000, format=container, subtype=subtype)
    recording = at(file) if source == "path" else Recording(path=None, data=file.read_bytes())
    waveform = read_waveform(recording, 16000)
    assert read_seconds(recording) == pytest.approx(1.0, abs=0.1)
    assert len(waveform) / 16000 == pytest.approx(read_seconds(recording), abs=1e-3)
    assert find_pitch(waveform, 16000) == pytest.approx(440, abs=2)


def test_bytes_take_precedence_over_a_path(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, make_tone(16000), 16000, format="WAV")
    recording = Recording.from_cell({"path": "not-here.wav", "bytes": buffer.getvalue()})
    assert read_seconds(recording) == 1.0


def test_the_length_in_seconds_is_that_of_the_header(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", make_tone(22050, seconds=0.5), 22050)
    assert read_seconds(at(tmp_path / "tone.wav")) == pytest.approx(0.5)


def halve(file: Path) -> Path:
    soundfile.write(file, make_tone(16000, seconds=2.0), 16000)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


@pytest.mark.parametrize("container", ["flac", "ogg", "mp3"])
def test_half_a_file_is_refused(tmp_path: Path, container: str) -> None:
    half = halve(tmp_path / f"half.{container}")
    with pytest.raises(AudioError, match=r"unreadable audio|truncated audio"):
        read_waveform(at(half), 16000)


def unreadable(folder: Path, kind: str) -> Recording:
    file = folder / "audio.wav"
    if kind == "no bytes":
        file.write_bytes(b"")
    elif kind == "not audio":
        file.write_bytes(b"These are words, not audio. " * 100)
    elif kind == "no samples":
        soundfile.write(file, np.zeros(0, dtype=np.float32), 16000)
    elif kind == "no header":
        file = folder / "audio.raw"
        file.write_bytes(bytes(1000))
    elif kind == "folder":
        file.mkdir()
    elif kind == "empty cell":
        return Recording.from_cell(None)
    return at(file)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("no bytes", "unreadable audio: "),
        ("not audio", "unreadable audio: "),
        ("no samples", "audio of zero length"),
        ("no header", "unreadable audio: "),
        ("folder", "no such file: "),
        ("missing", "no such file: "),
        ("empty cell", "no audio"),
    ],
)
def test_files_that_are_not_audio_are_refused_with_the_reason(tmp_path: Path, kind: str, reason: str) -> None:
    recording = unreadable(tmp_path, kind)
    with pytest.raises(AudioError, match=reason):
        read_seconds(recording)
    with pytest.raises(AudioError, match=reason):
        read_waveform(recording, 16000)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    waveform = make_tone(16000)
    waveform[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", waveform, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        read_waveform(at(tmp_path / "nan.wav"), 16000)


@pytest.mark.parametrize("name", FORMATS)
def test_a_segment_equals_the_part_of_the_whole(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"sweep.{name}"
    container, subtype = FORMATS[name]
    time = np.arange(48000) / 16000
    sweep = (0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)
    soundfile.write(file, sweep, 16000, format=container, subtype=subtype)
    whole = read_waveform(at(file), 16000)
    piece = Recording(str(file), None, start=1.0, end=1.75)
    assert read_seconds(piece) == pytest.approx(0.75)
    waveform = read_waveform(piece, 16000)
    assert waveform.shape == (12000,)
    # Decoders of lossy formats start at this place, so their first samples differ slightly.
    np.testing.assert_allclose(waveform[2000:], whole[18000:28000], atol=0.02 if container in ("OGG", "MP3") else 0)


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (0.5, 0.5, "impossible segment: from 0.5 to 0.5 s"),
        (0.9, 0.1, "impossible segment: from 0.9 to 0.1 s"),
        (-1.0, 0.5, "impossible segment: from -1 to 0.5 s"),
        (2.0, None, "impossible segment"),
        (0.5, 3.0, "segment outside the audio: ends at 3 s, the audio at 1 s"),
        (math.nan, 0.5, "impossible segment"),
    ],
)
def test_impossible_segments_are_refused(tmp_path: Path, start: float, end: float | None, reason: str) -> None:
    soundfile.write(tmp_path / "tone.wav", make_tone(16000), 16000)
    recording = Recording(str(tmp_path / "tone.wav"), None, start, end)
    for read in (read_seconds, lambda piece: read_waveform(piece, 16000)):
        with pytest.raises(AudioError, match=reason):
            read(recording)


def test_a_segment_that_ends_slightly_after_the_audio_is_cut_to_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", make_tone(16000), 16000)
    assert read_seconds(Recording(str(tmp_path / "tone.wav"), None, 0.5, 1.05)) == 0.5


def test_a_header_of_an_impossible_rate_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", make_tone(16000), 400_000)
    with pytest.raises(AudioError, match="impossible sampling rate: 400000 Hz"):
        read_seconds(at(tmp_path / "tone.wav"))


def test_twelve_channels_and_rates_without_a_common_divisor_are_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "many.wav", np.stack([make_tone(22051)] * 12, axis=1), 22051, subtype="PCM_24")
    waveform = read_waveform(at(tmp_path / "many.wav"), 16000)
    assert len(waveform) == pytest.approx(16000, abs=1)
    assert find_pitch(waveform, 16000) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".m4a", ""])
def test_a_wrong_extension_does_not_matter(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / "a.wav", make_tone(16000), 16000)
    file = (tmp_path / "a.wav").rename(tmp_path / f"b{suffix}")
    assert read_seconds(at(file)) == 1.0 and len(read_waveform(at(file), 16000)) == 16000
