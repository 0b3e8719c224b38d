"""Each utterance's audio for a page's players: whole local files as they are, all else as FLAC."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import soundfile

from finetune.audio.waveforms import AudioError, Recording, read_header, read_waveform
from finetune.resources.limits import MAX_HELD_BYTES
from finetune.resources.storage import is_url

FOLDER = "audio"
# A page that can be sent around; larger ones open slowly.
MAX_INSIDE_BYTES = 5_000_000

# What today's browsers all play, by the names that libsndfile gives.
_SUFFIXES = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3"}
_ENCODINGS = frozenset({"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "VORBIS", "OPUS", "MPEG_LAYER_III"})
_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}


def write_clips(folder: Path, number: int, recording: Callable[[int], Recording]) -> list[str | None]:
    """The address of each result's audio: `audio/000000.wav` in the folder, or all of it as `data:` where it is small.

    None stands for audio that can't be read. Files are named by number, for names may be anything.
    """
    audio = folder / FOLDER
    audio.mkdir()
    files = [_write_clip(audio, place, recording) for place in range(number)]
    if sum(file.stat().st_size for file in files if file) > MAX_INSIDE_BYTES:
        return [f"{FOLDER}/{file.name}" if file else None for file in files]
    inside = [_embed(file) if file else None for file in files]
    shutil.rmtree(audio)
    return inside


def _write_clip(audio: Path, place: int, recording: Callable[[int], Recording]) -> Path | None:
    stem = f"{place:06d}"
    try:
        found = recording(place)
        suffix = _playable_suffix(found)
        if suffix and found.path:
            return Path(shutil.copyfile(found.path, audio / f"{stem}{suffix}"))
        rate = read_header(found).sampling_rate
        waveform = read_waveform(found, rate)
    except AudioError:
        return None
    file = audio / f"{stem}.flac"
    soundfile.write(file, waveform, rate)
    return file


def _playable_suffix(recording: Recording) -> str | None:
    """The suffix of a whole local file that browsers play as it is, by what is in it; else None."""
    whole = recording.start == 0 and recording.end is None and recording.piece is None and recording.data is None
    if not whole or recording.path is None or is_url(recording.path):
        return None
    try:
        if Path(recording.path).stat().st_size > MAX_HELD_BYTES:  # Much of it is no sound, or a hole.
            return None
        with recording.open() as source, soundfile.SoundFile(source) as file:
            return _SUFFIXES.get(file.format) if file.subtype in _ENCODINGS else None
    except (soundfile.SoundFileError, OSError, TypeError):
        return None


def _embed(file: Path) -> str:
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
