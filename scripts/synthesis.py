"""The synthesisers behind the made corpora: voices, and text to a waveform with espeak-ng or flite."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
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
    data_path: Path | None = None  # what `write_espeak_data` made, for a variant that espeak-ng does not bring


def require_program(name: str) -> None:
    """Raise SynthesisError when a synthesiser is not installed."""
    if shutil.which(name) is None:
        raise SynthesisError(f"{name} was not found; install it, for example with: apt-get install {name}")


def invent_variant(rng: np.random.Generator) -> str:
    """Return the file of a random espeak-ng voice variant: a throat, and resonances that stray from it one by one.

    A formant's line is its number and its frequency, strength and width in percent of the usual; the ranges are
    about those of the variants that come with espeak-ng.
    """
    lowest = int(rng.integers(60, 190))
    lines = ["language variant", f"pitch {lowest} {round(lowest * rng.uniform(1.15, 1.8))}"]
    throat = rng.uniform(88, 120)
    for formant, stray in enumerate((0.2, 0.2, 0.3, 0.25, 0.15, 0.15)):
        frequency = min(140, max(70, round(throat * rng.uniform(1 - stray, 1 + stray))))
        lines.append(f"formant {formant} {frequency} {rng.integers(60, 151)} {rng.integers(60, 171)}")
    strength, width = rng.integers(0, 101), rng.integers(60, 151)
    lines += [f"formant {formant} 100 {strength} {width}" for formant in (6, 7, 8)]
    lines += [f"flutter {rng.integers(0, 6)}", f"roughness {rng.integers(0, 5)}"]
    lines += [f"voicing {rng.integers(60, 131)}", f"consonants {rng.integers(70, 131)}"]
    return "\n".join(lines) + "\n"


def write_espeak_data(folder: Path, variants: dict[str, str]) -> None:
    """Make a data folder for a `Voice`: links to what espeak-ng brings, and these variants by name."""
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, check=True, text=True).stdout
    installed = Path(version.split("Data at:")[1].strip())
    made = folder / "espeak-ng-data"
    (made / "voices" / "!v").mkdir(parents=True)
    for path in (*installed.iterdir(), *(installed / "voices").iterdir(), *(installed / "voices" / "!v").iterdir()):
        link = made / path.relative_to(installed)
        if not link.exists():
            link.symlink_to(path)
    for name, text in variants.items():
        (made / "voices" / "!v" / name).write_text(text)


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
        *([f"--path={voice.data_path}"] if voice.data_path else []),
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


def report(make: Callable[[], str]) -> int:
    """Print what `make` returns, or its SynthesisError as a sentence; return the exit code."""
    try:
        print(make())
    except SynthesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
