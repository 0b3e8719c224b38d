"""How much of long recordings `finetune segment` keeps, and how much of that is right, where the text is often wrong.

    python scripts/bench_segmentation.py MODEL FOLDER [--talk 20] [--most 400] [--write DIR] [--precision auto]

FOLDER is one split of a corpus: audio and a `metadata.csv` with file_name, text and speaker. Utterances of a speaker
are joined to talks of so many, with pauses of 0.3 to 1.2 s that hold noise as loud as the utterances' own. Of 100
utterances 10 are only in the speech (inserted), 10 only in the text (missing), and 10 have the text of another
(changed). In 10 a word of the text is left out, added or replaced (slip). The rest is right.

`right`: the share of kept utterances of which each word is said there, no word that is said is missing inside, and no
more than 0.2 s is of an utterance that is inserted or changed; with its 95 % interval (Wilson). `wrong by` counts what
the others hold. `recall`: the share of the words of right utterances that are kept. The first table has one row for
each least score, with the other options at their defaults; the second one row for each number of symbols between two
words that may be recognised and are not in the text.

`--write DIR` writes the talks with `talks.csv`, to train on what `finetune segment` makes of them, and the utterances
themselves, all with their own text, as DIR/original/train.

Measured on one thread of an Intel Xeon (amx_bf16, avx512_bf16) beside other work, in bf16, with voices that neither
model was trained on. `quickstart`: 600 synthesised sentences, a quickstart model of WER 8 %, 24 times real time. `AN4`:
420 utterances of 33 people, mostly spelled letters, a model of WER 42 %. In percent:

                              quickstart                        AN4
    least score      kept  right               recall    kept  right               recall
    0                 248   98.0 (95.4 to 99.1)  84.4     163   91.4 (86.1 to 94.8)  60.9
    0.4 (default)     248   98.4 (95.9 to 99.4)  84.4     134   95.5 (90.6 to 97.9)  52.9
    0.6               248   98.8 (96.5 to 99.6)  84.3     111   94.6 (88.7 to 97.5)  42.1
    0.8               243   98.8 (96.4 to 99.6)  81.3      69   94.2 (86.0 to 97.7)  22.5
    symbols that are not in the text
    0                 238  100.0 (98.4 to 100.0) 78.4     114   98.2 (93.8 to 99.5)  45.0
    1 (default)       248   98.4 (95.9 to 99.4)  84.4     134   95.5 (90.6 to 97.9)  52.9
    any               273   89.0 (84.7 to 92.2)  90.5     145   88.3 (82.0 to 92.5)  56.2

All that is wrong at the defaults is a slip, but for one changed utterance of AN4's. Of 200 of Debian's English prompts,
of whose speech it recognises next to nothing, the AN4 model keeps 0.6 % of the words.

That AN4 model, trained on (200 steps of 12 s) with what was kept of AN4, or with utterances as they were cut by people,
and evaluated on the 104 utterances of eight further people: see scripts/docs/how_to/segment.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from acoustics import Waveform
from parts import add_precision, report_machine

from finetune.audio.speech_activity import build_detector
from finetune.audio.waveforms import Recording, read_waveform
from finetune.inference.matching import Match, match_text
from finetune.inference.segmentation import Limits, Passage, cut_passages, find_speech
from finetune.inference.transcriber import Transcriber

RATE = 16000
SCORES, FOREIGN = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0, 1, 2, 3, 1000)
KINDS = ("right", "inserted", "missing", "changed", "slip")
SHARES = (0.6, 0.1, 0.1, 0.1, 0.1)
TOLERANCE_SECONDS = 0.2


@dataclass(frozen=True)
class Source:
    """An utterance as it is in the corpus."""

    samples: Waveform
    text: str
    speaker: str
    start: float  # of its speech, in seconds
    end: float


@dataclass
class Word:
    """A word of the written text: whether it is said, of which kind, and what is said and not written before it."""

    text: str
    kind: str
    said: bool = True
    lost_before: str = ""
    span: tuple[float, float] = (0.0, 0.0)


@dataclass
class Talk:
    """A joined recording with its text, and the times of speech that is not written."""

    samples: Waveform
    words: list[Word] = field(default_factory=list)
    unwritten: list[tuple[float, float, str]] = field(default_factory=list)
    speaker: str = ""

    @property
    def text(self) -> str:
        """The text as it is given to the command."""
        return " ".join(word.text for word in self.words)


def read_sources(folder: Path, most: int) -> list[Source]:
    """The utterances of a split, by speaker."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["speaker"], row["file_name"]))
    detector = build_detector("energy", RATE)
    sources = []
    for row in rows[:: max(1, len(rows) // most)][:most]:
        samples = read_waveform(Recording(str(folder / row["file_name"]), None), RATE)
        state = detector.start()
        speech = np.flatnonzero(np.concatenate([state.detect(samples), state.finish()]) > 0.5) * 0.02
        if len(speech) and row["text"].split():
            sources.append(Source(samples, row["text"], row["speaker"], float(speech[0]), float(speech[-1]) + 0.02))
    return sources


def join(sources: Sequence[Source], others: Sequence[Source], rng: np.random.Generator) -> Talk:
    """A talk of these utterances, with faults at random; `others` lend their texts."""
    parts: list[Waveform] = []
    talk = Talk(np.empty(0, np.float32), speaker=sources[0].speaker)
    length, lost = 0, ""
    for source in sources:
        kind = str(rng.choice(KINDS, p=SHARES))
        other = others[int(rng.integers(len(others)))]
        if kind == "changed" and other.text == source.text:
            kind = "right"
        own = source.text.split()
        if kind != "missing":
            noise = float(np.percentile(np.abs(source.samples), 20))
            pause = rng.standard_normal(round(rng.uniform(0.3, 1.2) * RATE)) * noise
            at = length / RATE
            span = at + source.start, at + source.end
            parts += [source.samples, pause.astype(np.float32)]
            length += len(source.samples) + len(pause)
        if kind == "inserted":
            talk.unwritten.append((*span, kind))
            lost = kind
            continue
        if kind == "missing":
            talk.words += [Word(word, kind, said=False) for word in own]
            continue
        if kind == "changed":
            talk.unwritten.append((*span, kind))
            talk.words += [Word(word, kind, said=False, span=span) for word in other.text.split()]
            continue
        words = [Word(word, kind, span=span) for word in own]
        words[0].lost_before, lost = lost, ""
        talk.words += add_slip(words, other.text.split(), rng) if kind == "slip" else words
    talk.samples = np.concatenate(parts)
    return talk


def add_slip(words: list[Word], others: Sequence[str], rng: np.random.Generator) -> list[Word]:
    """The words with one left out, repeated in the text, or another in its place."""
    place = int(rng.integers(len(words)))
    what = rng.choice(["left out", "repeated", "replaced"])
    if what == "left out" and len(words) > 1:
        words.pop(place)
        if place < len(words):
            words[place].lost_before = "slip"
        return words
    other = str(rng.choice(others))
    if what == "repeated":
        return [*words[: place + 1], Word(other, "slip", said=False, span=words[0].span), *words[place + 1 :]]
    words[place].said = other == words[place].text
    words[place].text = other
    return words


def judge(talk: Talk, passages: Sequence[Passage]) -> tuple[Counter[str], int]:
    """What the kept utterances hold, "right" or the worst fault, and how many words of right utterances are kept."""
    found: Counter[str] = Counter()
    kept = place = 0
    for passage in passages:
        words = talk.words[place : place + len(passage.text.split())]
        place += len(words)
        if passage.reason:
            continue
        faults = [word.kind for word in words if not word.said]
        faults += [word.lost_before for word in words[1:] if word.lost_before]
        faults += [
            kind
            for start, end, kind in talk.unwritten
            if min(end, passage.end) - max(start, passage.start) > TOLERANCE_SECONDS
        ]
        if any(word.said and not (word.span[0] < passage.end and passage.start < word.span[1]) for word in words):
            faults.append("misplaced")
        found[faults[0] if faults else "right"] += 1
        kept += sum(word.kind == "right" for word in words)
    return found, kept


def interval(right: int, total: int) -> str:
    """A share with its 95 % interval (Wilson 1927), in percent."""
    if not total:
        return "none kept"
    share, z = right / total, 1.96
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{100 * share:5.1f} ({100 * (middle - half):.1f} to {100 * (middle + half):.1f})"


def report(
    name: str, limits: Limits, talks: Sequence[Talk], matched: Sequence[tuple[Match, list[tuple[float, float]]]]
) -> None:
    """Print what is kept with some limits."""
    found: Counter[str] = Counter()
    kept = 0
    for talk, (match, speech) in zip(talks, matched, strict=True):
        faults, words = judge(talk, cut_passages(match, speech, limits))
        found += faults
        kept += words
    total = sum(found.values())
    possible = sum(word.kind == "right" for talk in talks for word in talk.words)
    wrong = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()) if kind != "right")
    right = interval(found["right"], total)
    print(
        f"{name:>8}  {total:5} kept  right {right:24}  recall {100 * kept / possible:5.1f}  wrong by: {wrong}",
        flush=True,
    )


def write_talks(folder: Path, talks: Sequence[Talk], sources: Sequence[Source]) -> None:
    """Write the talks with their table, and the utterances as they were."""
    original = folder / "original" / "train"
    original.mkdir(parents=True)
    rows = [["audio", "text", "speaker"]]
    for number, talk in enumerate(talks):
        soundfile.write(folder / f"talk{number:03d}.flac", talk.samples, RATE)
        rows.append([f"talk{number:03d}.flac", talk.text, talk.speaker])
    with (folder / "talks.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    with (original / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker"])
        for number, source in enumerate(sources):
            soundfile.write(original / f"{number:04d}.flac", source.samples, RATE)
            writer.writerow([f"{number:04d}.flac", source.text, source.speaker])


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--talk", type=int, default=20, help="utterances in a talk")
    parser.add_argument("--most", type=int, default=400, help="utterances in all")
    parser.add_argument("--write", type=Path, metavar="DIR")
    add_precision(parser)
    arguments = parser.parse_args()
    precision = report_machine(arguments.precision, "cpu")
    rng = np.random.default_rng(0)
    sources = read_sources(arguments.folder, arguments.most)
    speakers = sorted({source.speaker for source in sources})
    talks = []
    for speaker in speakers:
        own = [source for source in sources if source.speaker == speaker]
        talks += [join(own[at : at + arguments.talk], sources, rng) for at in range(0, len(own), arguments.talk)]
    if arguments.write:
        write_talks(arguments.write, talks, sources)
    names = {"bf16": "bfloat16"}
    transcriber = Transcriber(arguments.model, device="cpu", precision=names.get(precision, precision))
    detector = build_detector("energy", RATE)
    matched = []
    began = time.perf_counter()
    for talk in talks:
        recording = Recording(None, _encode(talk.samples))
        match = match_text(transcriber, recording, talk.text, transcriber.recogniser.normalization)
        matched.append((match, find_speech(recording, detector, RATE, Limits.min_pause)))
    seconds = sum(len(talk.samples) for talk in talks) / RATE
    speed = seconds / (time.perf_counter() - began)
    print(f"{len(sources)} utterances in {len(talks)} talks, {seconds / 60:.1f} minutes, {speed:.1f} times real time")
    print("least score")
    for score in SCORES:
        report(f"{score:g}", Limits(min_score=score), talks, matched)
    print("symbols that are not in the text")
    for foreign in FOREIGN:
        report(f"{foreign}", Limits(most_foreign=foreign), talks, matched)


def _encode(samples: Waveform) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return file.getvalue()


if __name__ == "__main__":
    main()
