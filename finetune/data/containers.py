"""Sound in M4A, MP4, MOV, MKV, WebM and what else libsndfile doesn't know, decoded by FFmpeg's program in a stream.

torchcodec, which `read_waveform` decodes such files with, begins at a file's start again for each piece that is asked
of it, so it is no way to read hours.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from finetune.data.audio import AudioError, Waveform

_SAMPLE_BYTES = 4
# What FFmpeg says of anything that isn't sound or film.
_UNKNOWN_FORMAT = "Invalid data found when processing input"
# A list of other files to play, in a file that calls itself audio, shall not be followed to a network.
_ALLOWED = ("-protocol_whitelist", "file,pipe")


@dataclass(frozen=True)
class Sound:
    """A file's first audio track: what is known of it, and its length in seconds if that is."""

    path: str
    channels: int
    sampling_rate: int
    seconds: float | None


def is_ffmpeg_here() -> bool:
    """Whether FFmpeg's two programs are installed."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def find_sound(path: str) -> Sound:
    """The first audio track of a file; raises AudioError where there is none."""
    asked = "stream=channels,sample_rate,duration:format=duration"
    command = ["ffprobe", "-v", "error", *_ALLOWED, "-select_streams", "a:0", "-show_entries", asked, "-of", "json"]
    probed = subprocess.run([*command, f"file:{path}"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if probed.returncode:
        reason = _last_line(probed.stderr).replace(_UNKNOWN_FORMAT, "neither libsndfile nor FFmpeg knows its format")
        raise AudioError(f"unreadable audio: {reason}")
    answer: dict[str, Any] = json.loads(probed.stdout)
    if not answer.get("streams"):
        raise AudioError("no audio track")
    stream = answer["streams"][0]
    rate, channels = int(stream.get("sample_rate") or 0), int(stream.get("channels") or 0)
    if rate <= 0 or channels <= 0:
        raise AudioError("unreadable audio: its first audio track says no sampling rate or no channels")
    seconds = stream.get("duration") or answer.get("format", {}).get("duration")
    return Sound(path, channels, rate, float(seconds) if seconds else None)


def decode_sound(sound: Sound, block_samples: int, opened: ExitStack) -> Iterator[Waveform]:
    """The sound in blocks of (samples, channels); the program ends with `opened` at the latest.

    Raises AudioError when it can't be decoded to its end.
    """
    said = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", *_ALLOWED, "-i", f"file:{sound.path}"]
    command += ["-map", "0:a:0", "-ar", str(sound.sampling_rate), "-ac", str(sound.channels), "-f", "f32le", "-"]
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
    opened.callback(_end, program)
    assert program.stdout is not None
    return _read_blocks(program, program.stdout, said, (block_samples, sound.channels))


def _read_blocks(
    program: "subprocess.Popen[bytes]", output: IO[bytes], said: IO[bytes], shape: tuple[int, int]
) -> Iterator[Waveform]:
    samples, channels = shape
    while block := output.read(samples * channels * _SAMPLE_BYTES):
        whole = len(block) // (channels * _SAMPLE_BYTES) * channels
        yield np.frombuffer(block, "<f4", count=whole).astype(np.float32).reshape(-1, channels)
    code = program.wait()
    said.seek(0)
    complaint = said.read()
    if code or b"ended prematurely" in complaint:  # Of half an MKV it says so, and is content.
        raise AudioError(f"unreadable audio: {_last_line(complaint)}")


def _end(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()
    if program.stdout is not None:
        program.stdout.close()


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    # "file:PATH: Invalid data found when processing input", "[matroska,webm @ 0x…] File ended prematurely"
    return lines[-1].rsplit(": ", 1)[-1].rsplit("] ", 1)[-1].rstrip(".") if lines else "FFmpeg can't decode it"
