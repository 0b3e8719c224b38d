"""Make the small corpus of the quickstart recipe: written sentences read by neural voices and by espeak-ng.

    python scripts/make_quickstart_corpus.py recipes/quickstart/corpus --voices DIR [--seed 0] [--test 100]

DIR is where neural_voices.py put its voices, or will be. The result is a Hugging Face `audiofolder`: train/,
validation/, test/ (neural voices) and test_formant/ (espeak-ng), each with files in several formats, sampling rates and
channel counts and a metadata.csv of file_name, text and speaker. No voice is in two splits, alone or in a blend, no
sentence is said twice, and every word of the other splits also stands in train. The same seed makes the same texts and
samples; OGG files still differ between runs in the random serial number of their streams.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from acoustics import Waveform, add_noise, make_noise, resample, trim_silence
from neural_voices import (
    QUICKSTART_TEST_VOICES,
    QUICKSTART_TRAIN_VOICES,
    QUICKSTART_VALIDATION_VOICES,
    NeuralSynthesizer,
    draw_hibari_voice,
    draw_kokoro_voice,
    fetch_voices,
)
from sentences import pick
from synthesis import (
    QUICKSTART_TEST_VARIANTS,
    QUICKSTART_TRAIN_VARIANTS,
    QUICKSTART_VALIDATION_VARIANTS,
    SynthesisError,
    Voice,
    require_program,
    speak,
)

UTTERANCES = {"train": 800, "validation": 50, "test": 100, "test_formant": 40}
SPLIT_NUMBERS = {"train": 0, "validation": 1, "test": 2, "test_formant": 3}
FORMANT_VOICES = {
    "train": QUICKSTART_TRAIN_VARIANTS,
    "validation": QUICKSTART_VALIDATION_VARIANTS,
    "test_formant": QUICKSTART_TEST_VARIANTS,
}
KOKORO_VOICES = {
    "train": QUICKSTART_TRAIN_VOICES,
    "validation": QUICKSTART_VALIDATION_VOICES,
    "test": QUICKSTART_TEST_VOICES,
}
# How often each synthesiser speaks; an utterance of hibari has a throat of its own (throats.py).
SYNTHESIZERS = {
    "train": ("espeak-ng",) * 2 + ("kokoro",) * 5 + ("hibari",) * 3,
    "validation": ("espeak-ng", "kokoro", "kokoro", "kokoro", "kokoro"),
    "test": ("kokoro",),
    "test_formant": ("espeak-ng",),
}

# (suffix, libsndfile subtype, sampling rate, channels) and its share; OGG is small enough to be committed.
RECORDINGS = {
    ("ogg", "OPUS", 16000, 1): 0.53,
    ("ogg", "OPUS", 48000, 1): 0.10,
    ("ogg", "OPUS", 8000, 1): 0.06,
    ("ogg", "OPUS", 48000, 2): 0.05,
    ("ogg", "VORBIS", 16000, 1): 0.09,
    ("ogg", "VORBIS", 22050, 1): 0.08,
    ("ogg", "VORBIS", 44100, 1): 0.03,
    ("ogg", "VORBIS", 44100, 2): 0.02,
    ("ogg", "OPUS", 24000, 1): 0.018,
    ("flac", "PCM_16", 16000, 1): 0.006,
    ("flac", "PCM_16", 11025, 1): 0.005,
    ("wav", "PCM_16", 8000, 1): 0.005,
}
COMPRESSION = {"OPUS": 0.97, "VORBIS": 0.95}  # Opus at about 17 kbit/s: small, and speech stays clear
PACES = (0.85, 1.2)  # of the neural voices, as espeak-ng's words a minute: people who read to be understood

# Some eighty words in all: two minutes of training must be enough for a small model to learn them.
PEOPLE = ("Anna", "Peter", "Maria", "David", "Emma", "Robert")
RELATIVES = ("brother", "sister", "teacher")
NUMBERS = ("two", "three", "four", "five", "six", "twenty")
COLOURS = ("red", "green", "blue", "yellow", "white")
THINGS = ("apple", "book", "hat", "lamp", "letter", "table", "ticket", "flower")
PAST_VERBS = ("bought", "found", "painted", "wanted", "washed")
VERBS = ("buy", "find", "paint", "wash")
DAYS = ("Monday", "Friday", "Saturday", "Sunday")
TIMES = ("yesterday", "today", "last week")
PLACES = ("in the kitchen", "in the garden", "at the station", "near the river")
WEATHER = ("cold", "dark", "warm")

FRAMES = (
    "{person} {past} {number} {colour} {thing}s {time}.",
    "{person} {past} the {colour} {thing} {place}.",
    "On {day}, {person} {past} {number} {thing}s.",
    "Did {person} {verb} the {thing} on {day}?",
    "Did the {relative} {verb} {number} {thing}s {time}?",
    "{person}'s {relative} {past} the {thing} {time}.",
    "Where is {person}'s {colour} {thing}?",
    "The {colour} {thing} is {place}, {person}.",
    "Please {verb} the {thing} {place}.",
    "{person}, please {verb} {number} {colour} {thing}s.",
    "We don't {verb} {thing}s on {day}.",
    "I can't {verb} the {colour} {thing} {place}.",
    "It's {weather} {place} on {day}.",
    "My {relative} and I {past} {number} {thing}s.",
    "{person} and {other} {past} the {colour} {thing}.",
    "There are {number} {thing}s {place}, {person}.",
    "Is the {thing} {colour} or {other_colour}?",
    "Yes, my {relative} {past} it on {day}.",
    "No, it was {weather} {place} {time}.",
)


def write_sentence(rng: np.random.Generator) -> str:
    """Return a random sentence of 4 to 9 words, as people write it."""
    while True:
        person, other = (PEOPLE[int(place)] for place in rng.choice(len(PEOPLE), 2, replace=False))
        colour, other_colour = (COLOURS[int(place)] for place in rng.choice(len(COLOURS), 2, replace=False))
        sentence = pick(rng, FRAMES).format(
            person=person,
            other=other,
            colour=colour,
            other_colour=other_colour,
            relative=pick(rng, RELATIVES),
            number=pick(rng, NUMBERS),
            thing=pick(rng, THINGS),
            past=pick(rng, PAST_VERBS),
            verb=pick(rng, VERBS),
            day=pick(rng, DAYS),
            time=pick(rng, TIMES),
            place=pick(rng, PLACES),
            weather=pick(rng, WEATHER),
        )
        if 4 <= len(sentence.split()) <= 9:
            return sentence


def split_words(sentence: str) -> list[str]:
    """Return the words of a sentence in lower case, without punctuation but with apostrophes."""
    return re.findall(r"[a-z']+", sentence.lower())


def write_sentences(seed: int, utterances: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the sentences of each split: all different, and train knows every word."""
    rng = np.random.default_rng(seed)
    taken: set[str] = set()
    known: set[str] = set()
    sentences: dict[str, list[str]] = {}
    for split, count in utterances.items():
        sentences[split] = []
        while len(sentences[split]) < count:
            sentence = write_sentence(rng)
            words = split_words(sentence)
            if " ".join(words) in taken or (split != "train" and not known.issuperset(words)):
                continue
            taken.add(" ".join(words))
            sentences[split].append(sentence)
            if split == "train":
                known.update(words)
    return sentences


def draw_recordings(count: int, rng: np.random.Generator) -> Iterator[tuple[str, str, int, int]]:
    """Yield `count` kinds of recording in a random order, each as often as its share says, at least once."""
    kinds = list(RECORDINGS)
    counted = [kind for kind in kinds for _ in range(max(1, round(RECORDINGS[kind] * count)))]
    filled = (counted + [kinds[0]] * count)[:count]
    yield from (filled[int(place)] for place in rng.permutation(count))


def say(
    sentence: str, split: str, index: int, rng: np.random.Generator, neural: NeuralSynthesizer
) -> tuple[Waveform, int, str]:
    """Return a sentence said by a voice of the split, the sampling rate, and the speaker."""
    synthesizers = SYNTHESIZERS[split]
    synthesizer = synthesizers[index % len(synthesizers)]
    if synthesizer == "espeak-ng":
        variant = pick(rng, FORMANT_VOICES[split])
        accent = "en-gb" if variant in ("m4", "f2", "m8", "quincy") else "en-us"
        voice = Voice("espeak-ng", f"{accent}+{variant}", rng.uniform(130, 175), int(rng.integers(35, 66)))
        return *speak(sentence, voice), variant
    if synthesizer == "hibari":
        return *neural.speak(sentence, draw_hibari_voice(rng), rng), f"throat-{index:03d}"
    drawn = replace(draw_kokoro_voice(rng, KOKORO_VOICES[split]), speed=round(rng.uniform(*PACES), 2))
    speaker = "+".join(sorted(drawn.weights))
    return *neural.speak(sentence, drawn, rng), speaker


def record(dry: Waveform, native_rate: int, sampling_rate: int, channels: int, rng: np.random.Generator) -> Waveform:
    """Return what was said as a recording: (samples,) or, in stereo, (samples, 2)."""
    dry = trim_silence(dry, native_rate)
    dry = np.pad(dry, [int(rng.uniform(0.1, 0.35) * native_rate) for _ in range(2)])
    dry = dry * np.float32(rng.uniform(0.35, 0.8) / np.max(np.abs(dry)))
    waveform = np.clip(resample(dry, sampling_rate / native_rate), -1.0, 1.0)
    if rng.random() < 0.5:
        noise = make_noise(pick(rng, ("white", "pink", "brown")), len(waveform), sampling_rate, rng, [])
        waveform = add_noise(waveform, noise, rng.uniform(20, 40))
    if channels == 2:  # as a stereo microphone would: the voice nearer to one side
        return np.stack((waveform, np.float32(rng.uniform(0.5, 0.9)) * waveform), axis=1)
    return waveform


def make_split(folder: Path, split: str, sentences: list[str], seed: int, neural: NeuralSynthesizer) -> None:
    """Write the recordings of one split and its metadata.csv."""
    (folder / split).mkdir(parents=True)
    rows = []
    kinds = draw_recordings(len(sentences), np.random.default_rng([seed, SPLIT_NUMBERS[split]]))
    for index, (sentence, kind) in enumerate(zip(sentences, kinds, strict=True)):
        suffix, subtype, sampling_rate, channels = kind
        rng = np.random.default_rng([seed, SPLIT_NUMBERS[split], index])
        dry, native_rate, speaker = say(sentence, split, index, rng, neural)
        file_name = f"{index:03d}-{speaker}.{suffix}"
        waveform = record(dry, native_rate, sampling_rate, channels, rng)
        soundfile.write(
            folder / split / file_name,
            np.clip(waveform, -1.0, 1.0),
            sampling_rate,
            subtype=subtype,
            compression_level=COMPRESSION.get(subtype),
        )
        rows.append((file_name, sentence, speaker))
    with (folder / split / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "text", "speaker"))
        writer.writerows(rows)


def make_corpus(output: Path, seed: int, voices: Path, utterances: Mapping[str, int]) -> None:
    """Make all splits beside `output` and rename them into it; a README.md that is there stays."""
    require_program("espeak-ng")
    there = [split for split in UTTERANCES if (output / split).exists()]
    if there:
        raise SynthesisError(f"{output / there[0]} exists already; remove it or choose another folder")
    fetch_voices(voices)
    neural = NeuralSynthesizer(voices)
    folder = output.with_name(output.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    for split, sentences in write_sentences(seed, utterances).items():
        make_split(folder, split, sentences, seed, neural)
    output.mkdir(parents=True, exist_ok=True)
    for split in UTTERANCES:
        (folder / split).rename(output / split)
    folder.rmdir()


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--voices", type=Path, required=True, help="folder of the neural voices")
    parser.add_argument("--seed", type=int, default=0)
    for split, count in UTTERANCES.items():
        parser.add_argument(f"--{split.replace('_', '-')}", type=int, default=count, metavar="N")
    arguments = parser.parse_args()
    try:
        utterances = {split: getattr(arguments, split) for split in UTTERANCES}
        make_corpus(arguments.output, arguments.seed, arguments.voices, utterances)
    except SynthesisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
