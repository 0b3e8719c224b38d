"""Report audio: formats that browsers play are copied, others become FLAC, small audio is embedded."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio.waveforms import AudioError, Recording
from finetune.evaluation import report_audio as clips
from finetune.evaluation.report_audio import write_report_audio

TONE = np.sin(np.arange(8000) / 10).astype(np.float32) / 2


@pytest.fixture
def write(tmp_path):
    def write(name: str, **options) -> str:
        soundfile.write(tmp_path / name, TONE, 16000, **options)
        return str(tmp_path / name)

    return write


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    return folder


def put(folder, *recordings) -> list[str | None]:
    def find(place: int) -> Recording:
        if isinstance(recordings[place], Exception):
            raise recordings[place]
        return recordings[place]

    return write_report_audio(folder, len(recordings), find)


def test_large_audio_is_copied_into_files(folder, write, monkeypatch):
    monkeypatch.setattr(clips, "MAX_EMBEDDED_BYTES", 100)
    places = [write("a.wav"), write("b.flac"), write("c.ogg"), write("d.mp3")]
    links = put(folder, *(Recording(place, None) for place in places))
    assert links == ["audio/000000.wav", "audio/000001.flac", "audio/000002.ogg", "audio/000003.mp3"]
    for place, link in zip(places, links, strict=True):
        assert (folder / link).read_bytes() == Path(place).read_bytes()


def test_segments_bytes_and_formats_that_browsers_cannot_play_become_flac(folder, write, monkeypatch):
    monkeypatch.setattr(clips, "MAX_EMBEDDED_BYTES", 100)
    wav, aiff, sphere = write("a.wav"), write("b.aiff"), write("c.wav", format="NIST")
    content = Path(wav).read_bytes()
    recordings = [
        Recording(wav, None, 0.1, 0.3),
        Recording(aiff, None),
        Recording(sphere, None),
        Recording("a.wav", content),
        Recording(wav, None, piece=(0, len(content))),
        Recording(write("d.wav", subtype="MS_ADPCM"), None),
    ]
    links = put(folder, *recordings)
    assert links == [f"audio/{place:06d}.flac" for place in range(6)]
    lengths = [soundfile.info(folder / link).frames for link in links]
    assert lengths[:5] == [3200, 8000, 8000, 8000, 8000]
    sound, rate = soundfile.read(folder / links[0], dtype="float32")
    assert rate == 16000 and np.allclose(sound, TONE[1600:4800], atol=1e-4)


def test_small_audio_is_embedded(folder, write):
    [link] = put(folder, Recording(write("a.wav"), None))
    start, content = link.split(",")
    assert start == "data:audio/wav;base64"
    assert np.allclose(soundfile.read(io.BytesIO(base64.b64decode(content)))[0], TONE, atol=1e-4)
    assert list(folder.iterdir()) == []


def test_unreadable_audio_has_no_player(folder, tmp_path, write):
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(b"RIFF")
    recordings = [Recording("nowhere.wav", None), Recording(str(damaged), None), AudioError("outside the corpus")]
    links = put(folder, *recordings, Recording(write("a.wav"), None))
    assert links[:3] == [None] * 3 and links[3]
