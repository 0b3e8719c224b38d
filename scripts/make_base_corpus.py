"""Make a large, varied corpus of synthesised English to train a small wav2vec2 from nothing.

    python scripts/make_base_corpus.py OUTPUT_DIR [--utterances 24000] [--invented-voices 0] [--natural DIR ...]
        [--natural-share 0.6] [--seed 0] [--processes 2]

Needs the programs espeak-ng and flite, and WordNet's texts (Debian: espeak-ng flite wordnet-base); each DIR is
what make_natural_speech.py made (the first one's validation/ is used). The result is a Hugging Face `audiofolder`:
train/ and validation/ (voices that train/ never uses), 16 kHz FLAC, metadata.csv with file_name, text, speaker and
source. Each utterance follows from the seed and its number alone, so any number of processes makes the same corpus; the
sentences come from WordNet and from the documentation of the Python that runs this, so another version makes others.
"""

from __future__ import annotations

import argparse
import csv
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from acoustics import Waveform, record, resample, trim_silence, warp_formants
from make_natural_speech import read_shards
from sentences import add_pauses, collect_texts, write_script
from synthesis import (
    ACCENTS,
    BASE_VALIDATION_VARIANTS,
    BASE_VARIANTS,
    FLITE_VOICES,
    SynthesisError,
    Voice,
    invent_variant,
    report,
    require_program,
    respell_letters,
    speak,
    write_espeak_data,
)

SAMPLING_RATE = 16000
MIN_SECONDS, MAX_SECONDS = 0.6, 9.0
FLITE_SHARE = 0.3
INVENTED_SHARE = 0.6  # of what espeak-ng says in train/
VALIDATION_UTTERANCES = 400
SPLIT_NUMBERS = {"train": 0, "validation": 1, "babble": 2, "voices": 3}


@dataclass(frozen=True)
class Utterance:
    """One line of metadata.csv; `seconds` is for the totals only."""

    file_name: str
    text: str
    speaker: str
    source: str
    seconds: float


@dataclass(frozen=True)
class InventedVoices:
    """Voice variants that only this corpus has, and the data folder that espeak-ng finds them in."""

    names: list[str]
    data_path: Path


@dataclass(frozen=True)
class NaturalSpeech:
    """Dry utterances of neural voices by split, as (audio file, its row), and how often one of them is taken."""

    utterances: dict[str, list[tuple[Path, dict[str, str]]]]
    share: float


@dataclass(frozen=True)
class Sources:
    """Where dry speech comes from: texts, and voices beside those of espeak-ng and flite."""

    clauses: list[str]
    invented: InventedVoices | None
    natural: NaturalSpeech | None


@dataclass(frozen=True)
class Studio:
    """What every utterance of a process draws on."""

    folder: Path
    seed: int
    sources: Sources
    babble_clips: list[Waveform]


_studio: Studio | None = None


def read_natural_speech(folders: list[Path], share: float) -> NaturalSpeech:
    """Return the train/ of all folders and the validation/ of the first."""
    train = [each for folder in folders for each in read_shards(folder / "train")]
    return NaturalSpeech({"train": train, "validation": read_shards(folders[0] / "validation")}, share)


def draw_voice(split: str, rng: np.random.Generator, vocal_tract: float, invented: InventedVoices | None) -> Voice:
    """Return a random voice; `vocal_tract` is the resampling to come, which its speed makes up for."""
    # The power makes fast talkers rarer than slow ones.
    words_per_minute = (110 + 110 * rng.random() ** 1.6) / vocal_tract
    if split != "validation" and rng.random() < FLITE_SHARE:
        name = str(rng.choice(list(FLITE_VOICES), p=list(FLITE_VOICES.values())))
        return Voice("flite", name, words_per_minute * 1.1, int(rng.integers(15, 86)), int(rng.integers(50, 180)))
    variants = BASE_VALIDATION_VARIANTS if split == "validation" else BASE_VARIANTS
    accent = str(rng.choice(list(ACCENTS), p=list(ACCENTS.values())))
    variant, data_path = variants[int(rng.integers(len(variants)))], None
    # Only drawn where there are any, so that a corpus without them stays what it was.
    if invented and split != "validation" and rng.random() < INVENTED_SHARE:
        variant, data_path = invented.names[int(rng.integers(len(invented.names)))], invented.data_path
    word_gap = int(rng.integers(0, 9)) if rng.random() < 0.4 else 0
    return Voice(
        "espeak-ng",
        f"{accent}+{variant}",
        words_per_minute,
        int(rng.integers(15, 86)),
        int(rng.integers(40, 190)),
        word_gap,
        data_path,
    )


def find_turn(index: int, share: float) -> int | None:
    """The number of the natural utterance whose turn it is, where a share of all are natural; None for another one."""
    before, after = math.floor(index * share), math.floor((index + 1) * share)
    return before if after > before else None


def say(split: str, index: int, rng: np.random.Generator, sources: Sources) -> tuple[Waveform, str, str, str]:
    """Return a dry utterance at SAMPLING_RATE with its text, speaker and source: natural in turn, or made here."""
    turn = find_turn(index, sources.natural.share) if sources.natural else None
    if sources.natural and turn is not None:
        utterances = sources.natural.utterances[split]
        return say_naturally(rng, *utterances[turn % len(utterances)])
    script, source = write_script(rng, sources.clauses)
    vocal_tract = float(rng.uniform(0.82, 1.2))
    voice = draw_voice(split, rng, vocal_tract, sources.invented)
    british = "en-gb" in voice.name or "en-029" in voice.name
    spoken = respell_letters(add_pauses(script, source, rng), zed=british and bool(rng.random() < 0.25))
    samples, sampling_rate = speak(spoken, voice)
    if voice.engine == "flite":
        # Few people stand behind flite, so each also gets throats that do not go with the pitch.
        samples = warp_formants(samples, float(rng.uniform(0.88, 1.14)))
    waveform = resample(samples, SAMPLING_RATE / (sampling_rate * vocal_tract))
    speaker = f"{voice.engine}-{voice.name}"
    return trim_silence(waveform, SAMPLING_RATE), script.lower(), speaker, source


def say_naturally(rng: np.random.Generator, path: Path, row: dict[str, str]) -> tuple[Waveform, str, str, str]:
    """Return an utterance with another vocal tract, like `say`."""
    samples, _ = soundfile.read(path, dtype="float32")
    if rng.random() < 0.5:
        samples = warp_formants(samples, float(rng.uniform(0.88, 1.14)))
    waveform = resample(samples, 1 / float(rng.uniform(0.88, 1.14)))
    return waveform, row["text"], row["speaker"], row["source"]


def make_utterance(job: tuple[str, int]) -> Utterance:
    """Synthesise and write the utterance with this split and number."""
    assert _studio is not None
    split, index = job
    rng = np.random.default_rng([_studio.seed, SPLIT_NUMBERS[split], index])
    for _ in range(50):
        dry, text, speaker, source = say(split, index, rng, _studio.sources)
        waveform = record(dry, SAMPLING_RATE, rng, _studio.babble_clips)
        seconds = len(waveform) / SAMPLING_RATE
        if MIN_SECONDS <= seconds <= MAX_SECONDS:
            file_name = f"{index // 1000:04d}/{index:06d}.flac"
            soundfile.write(_studio.folder / split / file_name, waveform, SAMPLING_RATE, subtype="PCM_16")
            return Utterance(file_name, text, speaker, source, seconds)
    raise SynthesisError(f"no utterance of {MIN_SECONDS} to {MAX_SECONDS} s came out in 50 tries")


def open_studio(folder: Path, seed: int, sources: Sources) -> None:
    """Prepare a process: what is said, and clips of other speakers to make babble of."""
    global _studio
    os.nice(5)
    clips = []
    for number in range(24):
        rng = np.random.default_rng([seed, SPLIT_NUMBERS["babble"], number])
        clip = say("train", number, rng, sources)[0]
        clips.append(clip / max(1e-6, float(np.std(clip))))
    _studio = Studio(folder, seed, sources, clips)


def make_split(folder: Path, split: str, count: int, pool: multiprocessing.pool.Pool) -> list[Utterance]:
    """Make one split with its metadata.csv, showing progress on a terminal."""
    for number in range((count + 999) // 1000):
        (folder / split / f"{number:04d}").mkdir(parents=True)
    started, utterances = time.monotonic(), []
    jobs = [(split, index) for index in range(count)]
    for utterance in pool.imap(make_utterance, jobs, chunksize=16):
        utterances.append(utterance)
        if sys.stderr.isatty() and len(utterances) % 50 == 0:
            rate = len(utterances) / (time.monotonic() - started)
            left = (count - len(utterances)) / rate / 60
            print(
                f"\r{split}: {len(utterances)}/{count}, {rate:.0f}/s, {left:.1f} min left ",
                end="",
                file=sys.stderr,
                flush=True,
            )
    with (folder / split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file_name", "text", "speaker", "source"))
        writer.writerows((each.file_name, each.text, each.speaker, each.source) for each in utterances)
    return utterances


def invent_voices(folder: Path, count: int, seed: int) -> InventedVoices | None:
    """Write `count` variants into a data folder for espeak-ng; None for none."""
    if count == 0:
        return None
    names = [f"invented{number:04d}" for number in range(count)]
    rngs = [np.random.default_rng([seed, SPLIT_NUMBERS["voices"], number]) for number in range(count)]
    write_espeak_data(folder, {name: invent_variant(rng) for name, rng in zip(names, rngs, strict=True)})
    return InventedVoices(names, folder)


def make_corpus(
    output: Path, num_utterances: int, num_voices: int, natural: NaturalSpeech | None, seed: int, num_processes: int
) -> str:
    """Make the whole corpus beside `output`, rename it when complete, and return a summary."""
    if output.exists():
        raise SynthesisError(f"{output} exists already; remove it or choose another folder")
    require_program("espeak-ng")
    require_program("flite")
    folder = output.with_name(output.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    summary = []
    with tempfile.TemporaryDirectory() as data:
        sources = Sources(collect_texts(), invent_voices(Path(data), num_voices, seed), natural)
        with multiprocessing.Pool(num_processes, open_studio, (folder, seed, sources)) as pool:
            for split, count in (("validation", VALIDATION_UTTERANCES), ("train", num_utterances)):
                utterances = make_split(folder, split, count, pool)
                hours = sum(each.seconds for each in utterances) / 3600
                speakers = len({each.speaker for each in utterances})
                summary.append(f"{split}: {count} utterances, {hours:.2f} h, {speakers} voices")
    folder.rename(output)
    return "\n".join(summary)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--utterances", type=int, default=24000, help="size of train/ (default: 24000)")
    parser.add_argument(
        "--invented-voices", type=int, default=0, help="espeak-ng voices of random formants in train/ (default: 0)"
    )
    parser.add_argument("--natural", type=Path, metavar="DIR", nargs="+", help="speech of neural voices to draw from")
    parser.add_argument("--natural-share", type=float, default=0.6, help="share of such utterances (default: 0.6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.invented_voices < 0:
        parser.error(f"--invented-voices is {options.invented_voices}; expected 0 or more")
    if not 0 <= options.natural_share <= 1:
        parser.error(f"--natural-share is {options.natural_share}; expected 0 to 1")

    def make() -> str:
        natural = read_natural_speech(options.natural, options.natural_share) if options.natural else None
        numbers = options.utterances, options.invented_voices
        return make_corpus(options.output, *numbers, natural, options.seed, options.processes)

    return report(make)


if __name__ == "__main__":
    sys.exit(main())
