"""The synthesisers behind the made corpora: voices, and text to a waveform with espeak-ng or flite."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from acoustics import Waveform

ESPEAK_SAMPLING_RATE = 22050

ACCENTS = {
    "en-us": 0.65,
    "en-gb": 0.1,
    "en-us-nyc": 0.05,
    "en-gb-scotland": 0.05,
    "en-gb-x-rp": 0.05,
    "en-029": 0.04,
    "en-gb-x-gbcwmd": 0.03,
    "en-gb-x-gbclan": 0.03,
}

# Variants of espeak-ng, one list for each use; a variant stands in one list only, except that the
# quickstart corpus trains on voices the base may have heard. Near copies (steph, steph2) stay together.
_PLAIN_VARIANTS = ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f4")
BASE_VARIANTS = (
    *_PLAIN_VARIANTS,
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "klatt5",
    "adam",
    "Andrea",
    "Andy",
    "anika",
    "Annie",
    "antonio",
    "aunty",
    "benjamin",
    "boris",
    "caleb",
    "croak",
    "david",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "Gene2",
    "grandpa",
    "Henrique",
    "Hugo",
    "iven",
    "iven2",
    "iven4",
    "john",
    "linda",
    "marcelo",
    "Mario",
    "max",
    "Michael",
    "michel",
    "miguel",
    "norbert",
    "pedro",
    "robert",
    "steph",
    "steph2",
    "steph3",
    "travis",
    "victor",
)
BASE_VALIDATION_VARIANTS = ("belinda", "sandro", "Jacky", "zac", "Nguyen", "Alex", "rob", "grandma")
QUICKSTART_TRAIN_VARIANTS = (
    *_PLAIN_VARIANTS,
    "adam",
    "Gene",
    "john",
    "max",
    "Michael",
    "robert",
    "steph",
)
QUICKSTART_VALIDATION_VARIANTS = ("f5", "m8", "pablo", "gustave")
QUICKSTART_TEST_VARIANTS = ("f3", "m5", "Mike", "paul", "shelby", "quincy")

# flite's clustergen voices (awb, rms, slt) are built from people's recordings and count for more.
FLITE_VOICES = {"rms": 0.28, "slt": 0.3, "awb": 0.24, "kal16": 0.13, "kal": 0.05}

# Alone, both engines may read A as the article and espeak-ng reads "ay" as "eye"; these they say alike.
_LETTER_SOUNDS = {"A": "eigh", "I": "eye", "Z": "zee"}


class SynthesisError(Exception):
    """A synthesiser is missing or said nothing."""


@dataclass(frozen=True)
class Voice:
    """A speaker: engine ("espeak-ng" or "flite"), the engine's own voice name, and how it talks."""

    engine: str
    name: str
    words_per_minute: float = 165.0
    pitch: int = 50  # 0 to 99; of flite's voices only kal and kal16 listen to it
    pitch_range_percent: int = 100  # the same
    word_gap: int = 0  # tens of milliseconds between words, espeak-ng only


def require_program(name: str) -> None:
    """Raise SynthesisError when a synthesiser is not installed."""
    if shutil.which(name) is None:
        raise SynthesisError(f"{name} was not found; install it, for example with: apt-get install {name}")


def respell_letters(script: str, zed: bool = False) -> str:
    """Turn the upper-case letters of a script, which are spelled ones, into what engines say as letters."""
    sounds = {**_LETTER_SOUNDS, "Z": "zed"} if zed else _LETTER_SOUNDS
    return re.sub(r"\b[A-Z]\b", lambda match: sounds.get(match.group(), match.group()), script)


def speak(spoken: str, voice: Voice) -> tuple[Waveform, int]:
    """Say a text with a voice; return mono samples, (samples,), and their sampling rate in hertz."""
    return _run_flite(spoken, voice) if voice.engine == "flite" else _run_espeak(spoken, voice)


def _run_espeak(spoken: str, voice: Voice) -> tuple[Waveform, int]:
    marked = f"<speak><prosody range='{voice.pitch_range_percent}%'>{spoken}</prosody></speak>"
    command = [
        "espeak-ng",
        "--stdout",
        "-m",
        "-v",
        voice.name,
        "-s",
        str(round(voice.words_per_minute)),
        "-p",
        str(voice.pitch),
        "-g",
        str(voice.word_gap),
        marked,
    ]
    wave = subprocess.run(command, capture_output=True, check=True).stdout
    # The header promises two gigabytes, because espeak-ng cannot seek in a pipe; the samples follow it.
    samples = np.frombuffer(wave[44 : len(wave) - len(wave) % 2], dtype="<i2")
    return _check((samples / 32768).astype(np.float32), voice), ESPEAK_SAMPLING_RATE


def _run_flite(spoken: str, voice: Voice) -> tuple[Waveform, int]:
    stretch = 165.0 / voice.words_per_minute
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(
            [
                "flite",
                "-voice",
                voice.name,
                "--setf",
                f"duration_stretch={stretch:.3f}",
                "--setf",
                f"int_f0_target_mean={60 + voice.pitch:.1f}",
                "--setf",
                f"int_f0_target_stddev={voice.pitch_range_percent / 6:.1f}",
                "-t",
                f"{spoken} ",
                "-o",
                str(path),
            ],
            capture_output=True,
            check=True,
        )
        samples, sampling_rate = soundfile.read(path, dtype="float32")
    return _check(samples, voice), int(sampling_rate)


def _check(samples: Waveform, voice: Voice) -> Waveform:
    if len(samples) == 0 or float(np.max(np.abs(samples))) < 1e-3:
        raise SynthesisError(f"{voice.engine} said nothing with the voice {voice.name}")
    return samples
