"""The price of live transcription: WER, latency, changes and compute for right contexts from 0.16 s to 4 s.

    python scripts/bench_live.py MODEL --data FOLDER [--utterances 60] [--pause 0.8] [--right 0.16 0.32 0.64 1.28 4]

FOLDER has audio and a metadata.csv with `file_name` and `text`. Utterances are joined to recordings of about a minute,
with `--pause` seconds of faint noise between them. Each recording is fed in blocks of a hop, as fast as it is computed;
times are those of the audio.

- `whole`: WER of each utterance by itself; `recording`: of the joined recordings by `Transcriber`.
- `final`, `partial`: WER of the final texts, and of the last partial text of each segment.
- `shown`, `stable`: seconds from the end of a word (by the final text's times) to its first appearance in a partial
  text, and to its becoming stable: median and 95th percentile. A word that is in the final text only counts there.
- `changed`: words shown in a partial text and different in the next one at the same place, of all words shown.
- `load`: processor seconds for each second of audio; the usable cores divided by it are the number of streams.

The quickstart's model (bf16 training, seed 0) on 60 of its test utterances, `OMP_NUM_THREADS=1 --precision float32`, on
an AMD EPYC (Zen 4) with its instruction sets capped to AVX2, nothing else running; a left context of 6 s and a hop of
0.32 s. Whole utterances have a WER of 8.7 %, recordings with pauses of 0.8 s 8.9 %, without pauses 10.8 %. With all
instruction sets and other work beside, the WER and the latencies were the same.

    pause  right   final  partial   shown p50 p95   stable p50 p95   changed   load
    0.8    0.16     8.4    16.4      0.23  2.24       0.38  2.32       1.4 %   0.086
           0.32     8.4    14.3      0.23  2.16       0.51  2.22       4.7 %   0.090
           0.64     8.4     9.8      0.22  1.57       0.81  1.90      10.0 %   0.087
           1.28     8.4     9.1      0.22  0.65       1.40  1.60      15.3 %   0.087
           2.56     8.4     8.7      0.22  0.67       1.83  2.75      17.6 %   0.087
    0      0.32    10.5    15.7      0.23  2.24       0.52  2.24       3.5 %   0.106
           0.64    10.5    11.9      0.23  1.39       0.80  1.79      10.9 %   0.113
           1.28    10.5    11.5      0.23  0.79       1.38  1.60      17.4 %   0.114
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
from acoustics import Waveform
from parts import add_precision, report_machine

from finetune.audio.waveforms import Recording, read_waveform
from finetune.inference.events import Final, Partial
from finetune.inference.live import LiveContext, LiveTranscriber
from finetune.inference.transcriber import Transcriber
from finetune.resources.machine import count_cores
from finetune.text.transcripts import normalize

RECORDING_SECONDS = 60.0


@dataclass
class Found:
    """What a stream gave: texts, and for each final word its delays in seconds."""

    finals: list[str] = field(default_factory=list)
    partials: list[str] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)
    changed: int = 0
    words: int = 0


def join(utterances: Sequence[Waveform], pause: float, rate: int) -> list[tuple[list[int], Waveform]]:
    """Recordings of about a minute: the numbers of their utterances, and the samples."""
    rng = np.random.default_rng(0)
    recordings: list[tuple[list[int], Waveform]] = []
    numbers: list[int] = []
    parts: list[Waveform] = []
    for number, utterance in enumerate(utterances):
        numbers.append(number)
        parts += [utterance, (0.0005 * rng.standard_normal(round(pause * rate))).astype(np.float32)]
        if sum(map(len, parts)) > RECORDING_SECONDS * rate or number == len(utterances) - 1:
            recordings.append((numbers, np.concatenate(parts)))
            numbers, parts = [], []
    return recordings


def listen(live: LiveTranscriber, samples: Waveform, rate: int, found: Found) -> None:
    """Feed a recording, and add to what is found."""
    session = live.session(rate)
    hop = round(live.context.hop * rate)
    shown: list[tuple[float, Partial]] = []
    for first in range(0, len(samples) + hop, hop):
        block = samples[first : first + hop]
        events = session.feed(block) if first < len(samples) else session.finish()
        now = min(first + hop, len(samples)) / rate
        for event in events:
            if isinstance(event, Partial):
                before = shown[-1][1].text.split() if shown else []
                after = event.text.split()
                found.changed += sum(a != b for a, b in zip(before[:-1], after, strict=False))
                found.words += max(0, len(after) - len(before))
                shown.append((now, event))
            elif isinstance(event, Final):
                found.finals.append(event.text)
                found.partials.append(shown[-1][1].text if shown else "")
                for place, word in enumerate(event.words):
                    for attribute, delays in (("text", found.shown), ("stable", found.stable)):
                        moments = [when for when, each in shown if _has(getattr(each, attribute), place, word.text)]
                        delays.append(min(moments, default=now) - word.end)
                shown = []


def _has(text: str, place: int, word: str) -> bool:
    words = text.split()
    return len(words) > place and words[place] == word


def main() -> None:
    """Print a row for each right context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.8)
    parser.add_argument("--right", type=float, nargs="+", default=[0.16, 0.32, 0.64, 1.28, 4.0])
    parser.add_argument("--left", type=float, default=LiveContext.left)
    parser.add_argument("--hop", type=float, default=LiveContext.hop)
    add_precision(parser)
    options = parser.parse_args()
    precision = report_machine(options.precision)
    with (options.data / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: options.utterances]
    transcriber = Transcriber(options.model, precision=precision)
    recogniser, rate = transcriber.recogniser, transcriber.recogniser.sampling_rate
    texts = [normalize(row["text"], recogniser.normalization) for row in rows]
    utterances = [read_waveform(Recording(str(options.data / row["file_name"]), None), rate) for row in rows]
    recordings = join(utterances, options.pause, rate)
    seconds = sum(len(samples) for _, samples in recordings) / rate
    references = [" ".join(texts[number] for number in numbers) for numbers, _ in recordings]
    whole = jiwer.wer(texts, recogniser.recognise(utterances))
    joined = [transcriber.transcribe(samples, sampling_rate=rate).text for _, samples in recordings]
    print(f"{len(rows)} utterances, {len(recordings)} recordings, {seconds:.0f} s, pauses of {options.pause:g} s")
    print(f"WER whole {100 * whole:.1f} %, recording {100 * jiwer.wer(references, joined):.1f} %")
    for right in options.right:
        context = LiveContext(left=options.left, right=right, hop=options.hop)
        live = LiveTranscriber(recogniser, context=context)
        found, finals, partials, used = Found(), [], [], time.process_time()
        for _, samples in recordings:
            one = Found(shown=found.shown, stable=found.stable)
            listen(live, samples, rate, one)
            finals.append(" ".join(one.finals))
            partials.append(" ".join(one.partials))
            found.changed, found.words = found.changed + one.changed, found.words + one.words
        load = (time.process_time() - used) / seconds
        delays = [float(np.percentile(each, q)) for each in (found.shown, found.stable) for q in (50, 95)]
        print(
            f"right {right:4.2f}: final {100 * jiwer.wer(references, finals):5.1f} %, "
            f"partial {100 * jiwer.wer(references, partials):5.1f} %, shown {delays[0]:.2f} {delays[1]:.2f} s, "
            f"stable {delays[2]:.2f} {delays[3]:.2f} s, changed {100 * found.changed / max(found.words, 1):.1f} %, "
            f"load {load:.3f} ({count_cores() / load:.0f} streams)",
            flush=True,
        )


if __name__ == "__main__":
    main()
