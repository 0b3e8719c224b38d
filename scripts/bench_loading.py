"""What it takes to feed training from audio files, against the way of the Transformers example.

    python scripts/bench_loading.py first-batch [--data FOLDER] [--rounds 3]
    python scripts/bench_loading.py headers
    python scripts/bench_loading.py feeding
    python scripts/bench_loading.py memory
    python scripts/bench_loading.py padding

Without `--data` the corpus is made: 12-second FLAC files of noise shaped like speech, 16 kHz.

`first-batch`: from a corpus that was never seen to the first batch, in turn: ours reads headers and decodes what the
batch needs; the example decodes everything and writes `input_values` with `datasets.map` (with soundfile here, since
its own decoder wants FFmpeg), which is as much work as the corpus is long and 64 kB for each second of it.
`headers`: files a second, at first and from the index. The limit is an open, a read and a close of each.
`feeding`: decode, resample, normalise, augment and collate, against decoder and resampler alone, on one core.
`memory`: resident memory over an epoch of 100,000 utterances, the worker's included.
`padding`: the share of a batch that is padding, for durations like those of LibriSpeech's train-clean-100.

Measured on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), in seconds where nothing else is said:

    first-batch                   0.14 against 2.56: 18 times less; extra disk 0.0 % against 339 % of the audio
    first-batch --data AN4        0.16 against 0.83: 5.1 times less; 0.2 % against 429 %
    headers                       15,900 files a second anew, 70,200 from the index
    feeding, 16 kHz, one core     2,480 times real time; decoder alone 5,530; with speed, noise and rooms 390
    feeding, 48 kHz, one core     1,150 times real time; decoder and resampler 1,280; augmented 340
    memory                        345 MB at the first batch, 385 to 418 MB from 10,000 to 100,000 utterances
    padding                       3.4, 4.8 % for a CPU's batches of 40 and 80 s, 4.3, 4.7 % for a GPU's of 160 and
                                  320 s, whose lengths are rounded less; random ones 17 to 24 %
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import torch
from parts import report_machine
from tqdm.auto import tqdm

SAMPLING_RATE = 16000
BATCH_SECONDS = 80.0


def make_corpus(folder: Path, count: int, seconds: float, sampling_rate: int = SAMPLING_RATE) -> Path:
    """Write `count` FLAC files of noise in syllables, which is about as hard to decode as speech, and their list."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time_axis = np.arange(round(seconds * sampling_rate)) / sampling_rate
    syllables = 0.1 * np.sin(2 * np.pi * 2 * time_axis) ** 2
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker"])
        for number in tqdm(range(count), "making the corpus", leave=False, disable=None):
            noise = np.convolve(rng.standard_normal(len(time_axis)), np.ones(8) / 8, "same")
            soundfile.write(folder / f"{number:05d}.flac", syllables * noise, sampling_rate)
            writer.writerow([f"{number:05d}.flac", "the quick brown fox", f"s{number % 50}"])
    return folder


def prepare(folder: Path, **augmentation: Any) -> Any:
    """Read a corpus as a training does: the batches it would learn from."""
    from transformers import Wav2Vec2FeatureExtractor

    from finetune.audio.augmentation import Augmentation
    from finetune.data.batching import BatchOptions, Masking, SpeechBatches
    from finetune.data.corpus import AudioSpec, prepare_split
    from finetune.data.sources import Source, load_splits, select_table
    from finetune.text.transcripts import DEFAULT_TRANSFORMS
    from finetune.text.vocabulary import build_vocabulary

    source = Source(str(folder))
    audio_spec = AudioSpec(SAMPLING_RATE, ((400, 320),), max_seconds=30.0)
    splits = load_splits(source)
    table = select_table(splits, "train", source)
    split = prepare_split("train", table, DEFAULT_TRANSFORMS, audio_spec, training=True)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    vocabulary = build_vocabulary(sorted({c for u in split.utterances for c in u.transcript if c != " "}))
    options = BatchOptions(vocabulary, extractor, audio_spec, Augmentation(**augmentation), Masking(0.05, 10), seed=0)
    return SpeechBatches(split, options)


def first_batch(folder: Path) -> None:
    """Prepare a corpus that was never seen, and take the first batch from the loader."""
    from finetune.data.batching import batch_order

    data = prepare(folder)
    seconds = [utterance.seconds for utterance in data.split.utterances]
    next(iter(data.loader(batch_order(seconds, BATCH_SECONDS, 0), 0)))


def example_first_batch(folder: Path, cache: Path) -> None:
    """The same as the Transformers example does it (run_speech_recognition_ctc.py): `map`, then a random batch."""
    import datasets
    from transformers import Wav2Vec2FeatureExtractor

    from finetune.audio.waveforms import Recording, read_waveform

    datasets.disable_progress_bars()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    with (folder / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = datasets.Dataset.from_list([{"audio": str(folder / row["file_name"]), "text": row["text"]} for row in rows])

    def decode(row: dict[str, Any]) -> dict[str, Any]:
        waveform = read_waveform(Recording(row["audio"], None), SAMPLING_RATE)
        return {"input_values": extractor(waveform, sampling_rate=SAMPLING_RATE).input_values[0]}

    decoded = table.map(decode, cache_file_name=str(cache / "map.arrow"))
    order = np.random.default_rng(0).permutation(len(decoded))[: round(BATCH_SECONDS / 12)]
    extractor.pad([{"input_values": decoded[int(row)]["input_values"]} for row in order], return_tensors="pt")


def folder_bytes(folder: Path) -> int:
    """The size of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def bench_first_batch(data: Path | None, rounds: int) -> None:
    """Print both times and the disk that each needed."""
    with tempfile.TemporaryDirectory() as place:
        folder = data or make_corpus(Path(place) / "corpus", 500, 12.0)
        first_batch(folder)  # What is imported is imported for both.
        times: dict[str, list[float]] = {"ours": [], "the example's": []}
        for number in range(rounds):
            for name, run in (("ours", first_batch), ("the example's", example_first_batch)):
                with tempfile.TemporaryDirectory() as cache:
                    os.environ["XDG_CACHE_HOME"] = cache
                    started = time.perf_counter()
                    run(folder) if run is first_batch else run(folder, Path(cache))  # type: ignore[call-arg]
                    times[name].append(time.perf_counter() - started)
                    extra = folder_bytes(Path(cache)) / folder_bytes(folder)
                print(
                    f"round {number + 1}, {name}: {times[name][-1]:.2f} s, extra disk {100 * extra:.1f} %", flush=True
                )
        ours, theirs = (statistics.median(values) for values in times.values())
        print(f"ratio of medians: {theirs / ours:.1f}")


def bench_headers(rounds: int) -> None:
    """Print files a second, read anew and from the index."""
    from finetune.audio.headers import HeaderIndex
    from finetune.audio.waveforms import Recording

    with tempfile.TemporaryDirectory() as place:
        folder = make_corpus(Path(place) / "corpus", 4000, 1.0)
        recordings = [Recording(str(file), None) for file in sorted(folder.glob("*.flac"))]
        rates: dict[str, list[float]] = {"anew": [], "from the index": []}
        for number in range(rounds):
            for name in rates:
                started = time.perf_counter()
                with HeaderIndex(Path(place) / f"index{number}") as index:
                    for recording in recordings:
                        index.read(recording)
                rates[name].append(len(recordings) / (time.perf_counter() - started))
        for name, values in rates.items():
            print(f"{name}: {statistics.median(values):,.0f} files a second")


AUGMENTATION: dict[str, Any] = {"speed": (0.9, 1.1), "noise_snr_db": (5.0, 30.0), "reverb_seconds": (0.2, 0.8)}


def decoder(files: list[Path]) -> Callable[[], None]:
    """What decodes and resamples these files, and nothing else."""
    from finetune.audio.waveforms import Recording, read_waveform

    def run() -> None:
        for file in files:
            read_waveform(Recording(str(file), None), SAMPLING_RATE)

    return run


def feeder(folder: Path, **augmentation: Any) -> Callable[[], None]:
    """What takes an epoch of batches from a corpus of 60 utterances, in this process."""
    from finetune.data.batching import batch_order

    data = prepare(folder, **augmentation)
    batches = batch_order([u.seconds for u in data.split.utterances], BATCH_SECONDS, 0)

    def run() -> None:
        seen, loaded = 0, iter(data.loader(batches, 0))
        while seen < 60:
            seen += len(next(loaded).num_frames)

    return run


def bench_feeding(rounds: int) -> None:
    """Print seconds of speech a second of one core, for 16 kHz (nothing to resample) and 48 kHz."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        for rate in (SAMPLING_RATE, 48000):
            folder = make_corpus(Path(place) / str(rate), 60, 12.0, rate)

            variants = {
                "decoder and resampler": decoder(sorted(folder.glob("*.flac"))),
                "feeding": feeder(folder),
                "augmented": feeder(folder, **AUGMENTATION),
            }
            speeds: dict[str, list[float]] = {name: [] for name in variants}
            for _ in range(rounds):
                for name, run in variants.items():
                    started = time.process_time()
                    run()
                    speeds[name].append(60 * 12.0 / (time.process_time() - started))
            for name, values in speeds.items():
                print(f"{rate} Hz, {name}: {statistics.median(values):,.0f} times real time a core", flush=True)


def bench_memory() -> None:
    """Print resident memory after each tenth of an epoch of 100,000 utterances with one worker."""
    from finetune.data.batching import batch_order

    with tempfile.TemporaryDirectory() as place:
        folder = make_corpus(Path(place) / "corpus", 1000, 0.6)
        rows = (folder / "metadata.csv").read_text().splitlines()
        (folder / "metadata.csv").write_text("\n".join([rows[0], *(rows[1:] * 100)]) + "\n")
        data = prepare(folder)
        batches = batch_order([u.seconds for u in data.split.utterances], BATCH_SECONDS, 0)
        seen, shown = 0, 0
        for batch in data.loader(batches, 1):
            seen += len(batch.num_frames)
            if seen >= shown:
                print(f"{seen:,} utterances: {resident_megabytes():,.0f} MB", flush=True)
                shown += 10_000
            if seen >= 100_000:
                return


def resident_megabytes() -> float:
    """The unshared memory of this process and its workers."""
    here = psutil.Process()
    return sum(process.memory_full_info().uss for process in [here, *here.children()]) / 1e6


def draw_librispeech_seconds(count: int, rng: np.random.Generator) -> list[float]:
    """Durations like those of train-clean-100: three quarters from 12 to 16.5 s, the rest below (mean 12.7 s)."""
    long, short = np.clip(rng.normal(14.3, 1.3, count), 2, 17.5), rng.uniform(1.5, 14, count)
    seconds: list[float] = np.where(rng.random(count) < 0.75, long, short).tolist()
    return seconds


def bench_padding() -> None:
    """Print the share of padding for several batch sizes, and of random batches."""
    from finetune.data.batching import GPU_PADDING_SAMPLES, bucket
    from finetune.resources.machine import length_step

    rng = np.random.default_rng(0)
    seconds = draw_librispeech_seconds(28000, rng)

    def waste(batches: Iterator[list[int]], step: int | None = None) -> float:
        longest = [(round(SAMPLING_RATE * max(seconds[i] for i in batch)), len(batch)) for batch in batches]
        steps = [(most, step or length_step(most), count) for most, count in longest]
        computed = sum(-(-most // multiple) * multiple * count for most, multiple, count in steps)
        return 1 - sum(seconds) * SAMPLING_RATE / computed

    for batch_seconds in (40, 80, 160, 320):
        order, size = rng.permutation(len(seconds)).tolist(), round(batch_seconds / 12.7)
        random = (order[first : first + size] for first in range(0, len(order), size))
        step = None if batch_seconds <= 80 else GPU_PADDING_SAMPLES  # A CPU's batches, and a GPU's.
        ours = iter(bucket(seconds, batch_seconds, rng))
        print(f"{batch_seconds} s: {100 * waste(ours, step):.1f} % padding, random {100 * waste(random, step):.1f} %")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="No model is computed and audio is loaded in float32, so there is no --precision.",
    )
    parser.add_argument("part", choices=("first-batch", "headers", "feeding", "memory", "padding"))
    parser.add_argument("--data", type=Path, help="a folder with metadata.csv, for first-batch")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report_machine(None)
    if options.part == "first-batch":
        bench_first_batch(options.data, options.rounds)
    elif options.part == "headers":
        bench_headers(options.rounds)
    elif options.part == "feeding":
        bench_feeding(options.rounds)
    elif options.part == "memory":
        bench_memory()
    else:
        bench_padding()


if __name__ == "__main__":
    main()
