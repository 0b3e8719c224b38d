"""Headers are read once, and again when a file changes; an unusable cache is ignored."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from finetune.audio import headers
from finetune.audio.headers import HeaderIndex
from finetune.audio.waveforms import AudioError, Header, Recording, read_header


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The files whose header was read."""
    files: list[str | None] = []

    def read(recording: Recording) -> Header:
        files.append(recording.path)
        return read_header(recording)

    monkeypatch.setattr(headers, "read_header", read)
    return files


def write_tone(file: Path, samples: int) -> Recording:
    soundfile.write(file, 0.1 * np.ones((samples, 2)), 8000)
    return Recording(str(file), None)


def read_once(index: Path, recording: Recording) -> Header:
    with HeaderIndex(index) as opened:
        return opened.read(recording)


def test_a_header_is_read_once(tmp_path: Path, reads: list[str | None]) -> None:
    recording = write_tone(tmp_path / "a.wav", 4000)
    for _ in range(3):
        assert read_once(tmp_path / "index", recording) == Header(4000, 8000, 2)
    assert reads == [recording.path]


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[str | None], change: str) -> None:
    recording = write_tone(tmp_path / "a.wav", 4000)
    before = read_once(tmp_path / "index", recording)
    if change == "size":
        write_tone(tmp_path / "a.wav", 6000)
    else:
        os.utime(tmp_path / "a.wav", ns=(0, 0))
    after = read_once(tmp_path / "index", recording)
    assert len(reads) == 2 and after.samples == (6000 if change == "size" else before.samples)


def test_files_without_a_header_are_not_stored(tmp_path: Path, reads: list[str | None]) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(AudioError, match="unreadable audio"):
            read_once(tmp_path / "index", Recording(str(tmp_path / "a.wav"), None))
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["text", "folder", "unwritable"])
def test_an_unusable_index_is_ignored(tmp_path: Path, damage: str) -> None:
    recording, index = write_tone(tmp_path / "a.wav", 4000), tmp_path / "index"
    if damage == "text":
        index.write_text("this is no database" * 100)
    elif damage == "folder":
        index.mkdir()
    else:
        (tmp_path / "file").write_text("")
        index = tmp_path / "file" / "index"
    assert read_once(index, recording) == Header(4000, 8000, 2)
