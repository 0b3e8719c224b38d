"""Report audio, for the players of an HTML report: whole local files are copied, all else is encoded as FLAC."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path

import soundfile

from finetune.audio.waveforms import AudioError, Recording, read_header, read_waveform
from finetune.resources.limits import MAX_HELD_BYTES
from finetune.resources.storage import is_url

FOLDER = "audio"
# Larger HTML files open slowly and are hard to send.
MAX_EMBEDDED_BYTES = 5_000_000

# Formats and encodings that all current browsers play, by libsndfile's names.
_SUFFIXES = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3"}
_ENCODINGS = frozenset({"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "VORBIS", "OPUS", "MPEG_LAYER_III"})
_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}


def write_report_audio(folder: Path, number: int, recording: Callable[[int], Recording]) -> list[str | None]:
    """Each result's audio as a URL: a file such as `audio/000000.wav`, or `data:` if the total is small.

    None is audio that cannot be read. Files are named by number, since an utterance's name can contain anything.
    """
    audio = folder / FOLDER
    audio.mkdir()
    files = [_write_audio(audio, place, recording) for place in range(number)]
    if sum(file.stat().st_size for file in files if file) > MAX_EMBEDDED_BYTES:
        return [f"{FOLDER}/{file.name}" if file else None for file in files]
    embedded = [_embed(file) if file else None for file in files]
    shutil.rmtree(audio)
    return embedded


def _write_audio(audio: Path, place: int, recording: Callable[[int], Recording]) -> Path | None:
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
    """The suffix for a whole local file that browsers play, by its content; else None."""
    whole = recording.start == 0 and recording.end is None and recording.piece is None and recording.data is None
    if not whole or recording.path is None or is_url(recording.path):
        return None
    try:
        if Path(recording.path).stat().st_size > MAX_HELD_BYTES:  # Such as a sparse file.
            return None
        with recording.open() as source, soundfile.SoundFile(source) as file:
            return _SUFFIXES.get(file.format) if file.subtype in _ENCODINGS else None
    except (soundfile.SoundFileError, OSError, TypeError):
        return None


def _embed(file: Path) -> str:
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
