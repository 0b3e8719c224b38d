"""The price of live transcription: WER, latency, changes and compute for right contexts from 0.16 s to 4 s.

    python scripts/bench_live.py MODEL --data FOLDER [--utterances 60] [--pause 0.8] [--right 0.16 0.32 0.64 1.28 4]
    python scripts/bench_live.py MODEL --data FOLDER --streams 1 4 8 11 [--right 0.64] [--seconds 60]
    python scripts/bench_live.py --shape base --data FOLDER --streams 1 [--left 2] [--hop 0.64]

FOLDER has audio and a metadata.csv with `file_name` and `text`. Utterances are joined to recordings of about a minute,
with `--pause` seconds of faint noise between them. Each recording is fed in blocks of a hop, as fast as it is computed;
times are those of the audio.

- `whole`: WER of each utterance by itself; `recording`: of the joined recordings by `Transcriber`.
- `final`, `partial`: WER of the final texts, and of the last partial text of each segment; behind each the difference
  from `whole` with its 95 % interval, by a paired bootstrap over utterances (an error counts where its reference word
  stands).
- `shown`, `stable`: seconds from the end of a word (by the final text's times) to its first appearance in a partial
  text, and to its becoming stable: median and 95th percentile. A word at the end of a segment that no partial text had
  yet counts with the final text. A word for which the stable text has another one, or none between its neighbours, has
  no such time: these are `corrected`, of all final words.
- `changed`: words shown in a partial text and different in the next one at the same place, of all words shown.
- `load`: processor seconds for each second of audio; the usable cores divided by it are the number of streams.

With `--streams` a `LiveEngine` computes so many streams at the pace of a clock, begun at different moments; `shown` and
`stable` then are seconds of the clock from the end of a word, computing included, and `lag` is the audio that was fed
and not computed, at most and at the end. A stream that cannot keep up has a lag that grows. The limit is that of a
window with its whole left context; at the beginning of a segment windows are shorter. `--shape base` is
wav2vec2-base with random weights: its `stable` are times of letters that mean nothing.

The results stand in scripts/docs/how_to/live_captions.md. Models: the quickstart's recipe with training.seed=0, and
AN4's with training.max_steps=1400 training.eval_steps=700, in bf16, each also with
training.right_context_seconds=[0.2,1].
Commands, on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), with nothing else running for --streams:

    OMP_NUM_THREADS=1 python scripts/bench_live.py MODEL --data FOLDER --utterances 200
    python scripts/bench_live.py MODEL --data FOLDER --threads 2 --seconds 30 --right 0.64 --streams 1 12 14 16 20

The first in bf16: 0.06 of a core for each stream. The second capped to AVX2 (ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2, --precision float32): p95 of `stable` 1.11, 1.16, 1.27, 2.43 and 7.15 s, and all but the last
keep up; with one thread of the engine and two of torch 8 streams keep up and 16 do not. In bf16 1.06 s (1 stream), 1.15
(16), 1.68 (20) and 3.84 (24, which do not keep up); with --int8 1.08 (16), 1.09 (24), 1.13 (32) and 1.45 s (40).
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import accumulate
from pathlib import Path

import jiwer
import numpy as np
import torch
from acoustics import Waveform
from measurement import count_operations, measure_matrix_peak
from parts import add_precision, export_int8, report_machine, write_shape

from finetune.audio.waveforms import Recording, read_waveform
from finetune.evaluation.intervals import find_interval, resample
from finetune.inference.events import Event, Final, Partial
from finetune.inference.live import LiveContext, LiveTranscriber
from finetune.inference.live_engine import LiveEngine
from finetune.inference.transcriber import Transcriber
from finetune.resources.machine import count_cores
from finetune.text.transcripts import normalize

RECORDING_SECONDS = 60.0


@dataclass
class Found:
    """What streams gave: for each recording its texts, and for each final word its delays in seconds."""

    finals: list[str] = field(default_factory=list)
    partials: list[str] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)
    corrected: int = 0
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


class Listener:
    """Adds the events of one recording to what is found."""

    def __init__(self, found: Found) -> None:
        self._found, self._shown = found, list[tuple[float, Partial]]()
        found.finals.append("")
        found.partials.append("")

    def hear(self, events: Sequence[Event], now: float) -> None:
        """Take events at `now`, in seconds since the beginning of the audio."""
        found = self._found
        for event in events:
            if isinstance(event, Partial):
                before = self._shown[-1][1].text.split() if self._shown else []
                after = event.text.split()
                found.changed += sum(a != b for a, b in zip(before[:-1], after, strict=False))
                found.words += max(0, len(after) - len(before))
                self._shown.append((now, event))
            elif isinstance(event, Final):
                found.finals[-1] += f" {event.text}"
                found.partials[-1] += f" {self._shown[-1][1].text if self._shown else ''}"
                _, corrected = find_moments([(when, each.stable) for when, each in self._shown], event)
                found.corrected += sum(corrected)
                for attribute, delays in (("text", found.shown), ("stable", found.stable)):
                    moments, _ = find_moments([(when, getattr(each, attribute)) for when, each in self._shown], event)
                    delays += [
                        (now if moment is None else moment) - word.end
                        for moment, word, wrong in zip(moments, event.words, corrected, strict=True)
                        if not wrong
                    ]
                self._shown = []


def find_moments(texts: Sequence[tuple[float, str]], final: Final) -> tuple[list[float | None], list[bool]]:
    """When each word of a final text was first in the texts before it, and which words the last of them had wrong."""
    words = [word.text for word in final.words]
    moments: list[float | None] = [None] * len(words)
    corrected = [False] * len(words)
    for when, text in texts:
        earlier = text.split()
        matcher = SequenceMatcher(None, earlier, words, autojunk=False)
        corrected = [False] * len(words)
        for tag, begin, end, first, last in matcher.get_opcodes():
            for place in range(first, last):
                if tag == "equal" and moments[place] is None:
                    moments[place] = when
                # At its end the earlier text lacks words, and its last word may lack letters: these are not wrong.
                left = end - begin - (place - first)
                begun = left == 1 and words[place].startswith(earlier[end - 1])
                corrected[place] = tag != "equal" and not (end == len(earlier) and (left <= 0 or begun))
    return moments, corrected


def count_errors(references: Sequence[str], hypothesis: str) -> list[int]:
    """The word errors of a joined hypothesis, each in the utterance in which its reference word stands."""
    ends = list(accumulate(len(text.split()) for text in references))
    errors = [0] * len(references)
    aligned = jiwer.process_words(" ".join(references), hypothesis)
    for chunk in aligned.alignments[0]:
        if chunk.type != "equal":
            number = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for step in range(number):
                word = min(chunk.ref_start_idx + step, max(chunk.ref_start_idx, chunk.ref_end_idx - 1), ends[-1] - 1)
                errors[next(place for place, end in enumerate(ends) if word < end)] += 1
    return errors


def compare(errors: Sequence[int], other: Sequence[int], words: Sequence[int]) -> str:
    """WER of `errors`, and its difference from `other` with an interval."""
    counts = np.stack([errors, other, words], axis=1).astype(np.int64)
    sums = resample(counts)
    interval = find_interval(100 * (sums[:, 0] - sums[:, 1]) / sums[:, 2], len(counts))
    assert interval is not None
    wer, whole = 100 * sum(errors) / sum(words), 100 * sum(other) / sum(words)
    return f"{wer:5.1f} % ({wer - whole:+.1f}, {interval.low:+.1f} to {interval.high:+.1f})"


def percentiles(delays: Sequence[float]) -> str:
    """The median and the 95th percentile."""
    return " ".join(f"{float(np.percentile(delays, q)):.2f}" for q in (50, 95)) if delays else "none"


def run_streams(live: LiveTranscriber, samples: Waveform, num_streams: int, seconds: float, num_threads: int) -> str:
    """Feed streams at the pace of a clock, and compute them in threads; a line of delays and lags."""
    rate, hop = live.recogniser.sampling_rate, live.context.hop
    engine = LiveEngine(live, max_sessions=num_streams, max_lag_seconds=1e9)
    found, lags, stopped = Found(), [0.0], threading.Event()
    computing = [threading.Thread(target=engine.run, args=(stopped.is_set,)) for _ in range(num_threads)]
    began, used = time.monotonic(), time.process_time() - time.thread_time()
    for thread in computing:
        thread.start()
    # Streams begin at different places of the audio and at different moments within a hop.
    sessions = [engine.open(rate) for _ in range(num_streams)]
    listeners = [Listener(found) for _ in sessions]
    audio = [np.roll(samples, -number * len(samples) // num_streams) for number in range(num_streams)]
    fed = [0] * num_streams
    while (clock := time.monotonic() - began) < seconds:
        for number, session in enumerate(sessions):
            now = clock - hop * number / num_streams
            if (end := int(now * rate)) - fed[number] >= 0.1 * rate:
                session.feed(np.take(audio[number], np.arange(fed[number], end), mode="wrap"))
                fed[number] = end
            listeners[number].hear(session.events(), now)
        lags.append(max(session.lag_seconds for session in sessions))
        time.sleep(0.05)
    left = [session.lag_seconds for session in sessions]
    used = time.process_time() - time.thread_time() - used  # without that of this thread, which feeds and reads
    stopped.set()
    for thread in computing:
        thread.join()
    return (
        f"{num_streams:3} streams: shown {percentiles(found.shown)} s, stable {percentiles(found.stable)} s, "
        f"lag at most {max(lags):.2f} s, at the end {min(left):.2f} to {max(left):.2f} s, "
        f"load {used / seconds / num_streams:.3f}"
    )


def find_limit(live: LiveTranscriber, precision: str, num_threads: int) -> str:
    """A line: the operations of a window, the rate of plain matrix products, and how many streams that would allow."""
    context, recogniser = live.context, live.recogniser
    samples = round((context.left + context.right + context.hop) * recogniser.sampling_rate)
    operations = count_operations(recogniser.model.config, samples, recogniser.num_symbols, training=False)
    peak = num_threads * measure_matrix_peak(torch.bfloat16 if precision == "bf16" else torch.float32)
    return (
        f"{operations / 1e9:.1f} GFLOP for each hop; matrix products of 2048 x 2048 run at {peak / 1e9:.0f} GFLOP/s, "
        f"which would be {peak * context.hop / operations:.1f} streams"
    )


def print_prices(
    options: argparse.Namespace, transcriber: Transcriber, texts: list[str], audio: list[Waveform]
) -> None:
    """Print a row for each right context."""
    recogniser, rate = transcriber.recogniser, transcriber.recogniser.sampling_rate
    recordings = join(audio, options.pause, rate)
    seconds = sum(len(samples) for _, samples in recordings) / rate
    words = [len(text.split()) for text in texts]
    alone = [count_errors([text], said)[0] for text, said in zip(texts, recogniser.recognise(audio), strict=True)]

    def find_errors(hypotheses: Sequence[str]) -> list[int]:
        pairs = zip(recordings, hypotheses, strict=True)
        return [error for (numbers, _), said in pairs for error in count_errors([texts[n] for n in numbers], said)]

    joined = find_errors([transcriber.transcribe(samples, sampling_rate=rate).text for _, samples in recordings])
    print(f"{len(texts)} utterances, {len(recordings)} recordings, {seconds:.0f} s, pauses of {options.pause:g} s")
    print(f"WER whole {100 * sum(alone) / sum(words):.1f} %, recording {compare(joined, alone, words)}")
    for right in options.right:
        live = LiveTranscriber(recogniser, context=LiveContext(left=options.left, right=right, hop=options.hop))
        found, used = Found(), time.process_time()
        for _, samples in recordings:
            session, listener, hop = live.session(rate), Listener(found), round(options.hop * rate)
            for first in range(0, len(samples), hop):
                listener.hear(session.feed(samples[first : first + hop]), min(first + hop, len(samples)) / rate)
            listener.hear(session.finish(), len(samples) / rate)
        load = (time.process_time() - used) / seconds
        print(
            f"right {right:4.2f}: final {compare(find_errors(found.finals), alone, words)}, "
            f"partial {compare(find_errors(found.partials), alone, words)}, "
            f"shown {percentiles(found.shown)} s, stable {percentiles(found.stable)} s, "
            f"corrected {100 * found.corrected / (found.corrected + len(found.stable)):.1f} %, "
            f"changed {100 * found.changed / max(found.words, 1):.1f} %, "
            f"load {load:.3f} ({count_cores() / load:.0f} streams)",
            flush=True,
        )


def main() -> None:
    """Print a row for each right context, or for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--shape", choices=("base",))
    parser.add_argument("--int8", action="store_true", help="export the model to ONNX with 8-bit matrix products")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.8)
    parser.add_argument("--right", type=float, nargs="+", default=[0.16, 0.32, 0.64, 1.28, 4.0])
    parser.add_argument("--left", type=float, default=LiveContext.left)
    parser.add_argument("--hop", type=float, default=LiveContext.hop)
    parser.add_argument("--streams", type=int, nargs="+", help="how many at the pace of a clock")
    parser.add_argument("--threads", type=int, default=1, help="with --streams: that compute, with one of torch each")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each number of streams")
    add_precision(parser)
    options = parser.parse_args()
    if (options.model is None) == (options.shape is None):
        parser.error("expected MODEL or --shape")
    if options.threads > 1:
        torch.set_num_threads(1)
    precision = report_machine(options.precision)
    with (options.data / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: options.utterances]
    with tempfile.TemporaryDirectory() as name:
        model = write_shape(Path(name, "shape"), {}) if options.shape else Path(options.model)
        model = export_int8(model, Path(name, "int8")) if options.int8 else model
        transcriber = Transcriber(model, precision="auto" if options.int8 else precision)
    recogniser, rate = transcriber.recogniser, transcriber.recogniser.sampling_rate
    texts = [normalize(row["text"], recogniser.normalization) for row in rows]
    audio = [read_waveform(Recording(str(options.data / row["file_name"]), None), rate) for row in rows]
    if not options.streams:
        print_prices(options, transcriber, texts, audio)
    for right in options.right if options.streams else ():
        live = LiveTranscriber(recogniser, context=LiveContext(left=options.left, right=right, hop=options.hop))
        print(f"left {options.left:g} s, right {right:g} s, hop {options.hop:g} s")
        if not options.int8:
            print(find_limit(live, precision, options.threads))
        samples = np.concatenate([samples for _, samples in join(audio, options.pause, rate)])
        for num_streams in options.streams:
            print(run_streams(live, samples, num_streams, options.seconds, options.threads), flush=True)


if __name__ == "__main__":
    main()
