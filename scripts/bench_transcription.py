"""Transcribing against `transformers.pipeline`: same model, same audio, in turn, each in a process of its own.

    python scripts/bench_transcription.py --model MODEL --data FOLDER [--rounds 3] [--files 104] [--passes 1]
                                          [--precision auto|float32|bf16]
    python scripts/bench_transcription.py --shape base|large --data FOLDER
    python scripts/bench_transcription.py --model MODEL --data FOLDER --memory

`FOLDER` holds utterances and their metadata.csv with `file_name` and `text`. `files` are its utterances as they are;
`pauses` is one recording, in which they follow each other with 0.3 s to 2 s of faint noise between; `joined` is one in
which they don't pause; both hold all of them `--passes` times, each time in another order, so that their WER can be
compared with that of `files`. With `--shape` the model has the shape of wav2vec2-base or wav2vec2-large-lv60 and random
weights, so that only its speed means something.

Ours is `Transcriber`: in `float32`, in the `--precision` where that is another, and, on a CPU, `int8` of `finetune
export`. Theirs is the pipeline with `chunk_length_s=20`, given samples that soundfile reads, in float32 as it comes and
in that precision, each with the batch size of `--batch-sizes` that is fastest on a part of the audio. The clock
runs from the first file that is opened to the last text; loading the model is left out, the making of kernels is not.

The real-time factor is seconds of computing for a second of audio; medians of the rounds are compared. The limit on a
CPU is its matrix product: wav2vec2-base needs some 14 GFLOP for a second of speech, 7 GFLOP of them in the transformer.
How ours computes was chosen by processor time on one thread of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), other
work beside it, on 24 utterances of 1 to 6 s of noise in bfloat16, in seconds of audio a second: the small base alone
120 and, with what is made of its weights kept, 187, in padded batches of 40 s 175; wav2vec2-base alone 14.5, kept 17.3,
in batches 14.8. In float32 alone 80 and 5.0, in batches 72 and 5.2. Two Python threads with a thread each were as fast
as one with two.

WER is against the texts of metadata.csv, normalised as is saved with the model. `times as alone` is the share of words,
of those that are recognised both ways, that begin and end within 60 ms of when they do in their utterance alone. With
`--memory` what is measured is the most of the process' own pages at any time, for 5 minutes and for three hours of
`pauses`.

On 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), two rounds: with the shape of wav2vec2-base (`--shape base
--files 12`) bfloat16 was 2.7 times as fast as the pipeline in float32 on files and 4.3 to 4.7 times on long recordings,
where the pipeline's chunks overlap by a third (int8 2.7, and 4.0 to 4.9), and 2.4 to 2.7 times as fast as ours in
float32. With a model of the small base on AN4's 104 validation utterances (5 minutes), where half of the time is no
product, it was 1.7 and 2.8 times as fast as the pipeline on files in two runs, 2.1 and 3.1 on long recordings with
pauses, 1.9 and 2.6 without; int8 1.8 and 3.0, 2.3 and 2.9, 1.8 and 2.4. WER was 10.3 % on files in all, on one
recording with pauses 10.3 % (float32 10.6, the pipeline 44), and without 9.7 % (float32 and int8 9.4, the pipeline 30),
and times as alone 98 to 99 %. Memory for three hours was 1.13 times that for five minutes (664 and 590 MB), the
pipeline's 2.4 times (1313 and 556).

These figures of int8 are of weights in 8 bits, before exports had 7. A quickstart model computed 217 s of audio a
second with 8 and 211 with 7 on that machine (12 utterances, medians of 5); `write_model` says what 7 bits are on AVX2.

With the same CPU's instruction sets capped to AVX2 (ONNX Runtime doesn't heed that), `--shape base --files 12
--precision float32 --rounds 2`, nothing else running: float32 is 1.05 times as fast as the pipeline on files, 1.49 on a
recording with pauses, 1.25 without; int8 of 7 bits 0.90, 1.55 and 1.12. So short files gain nothing from it there.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_training import LARGE
from parts import add_precision, export_int8, parse_arguments, report_machine, start_part, write_shape

if TYPE_CHECKING:
    from finetune.inference.transcriber import Transcriber
    from finetune.inference.transcript import Transcript, Word

SAMPLING_RATE = 16000
RECORDINGS = ("files", "pauses", "joined")
CHUNK_SECONDS = 20
TRIAL_SECONDS = 120.0  # of audio, on which the pipeline's batch size is chosen
PAUSES = (0.3, 2.0)  # seconds
NEAR_SECONDS = 0.06


def read_utterances(data: Path, most: int) -> list[tuple[Path, str]]:
    """(file, transcript) of a folder's utterances, of many some, evenly spread."""
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [(data / row["file_name"], row["text"]) for row in csv.DictReader(file)]
    return rows[:: max(1, len(rows) // most)][:most]


def make_recordings(folder: Path, data: Path, options: argparse.Namespace) -> None:
    """Write what is transcribed, and `recordings.json`: each one's files with their texts, and its seconds."""
    import numpy as np
    import soundfile

    from finetune.audio.waveforms import Recording, read_waveform

    rng = np.random.default_rng(0)
    utterances = read_utterances(data, options.files)
    waveforms = [read_waveform(Recording(path=str(file), data=None), SAMPLING_RATE) for file, _ in utterances]
    described: dict[str, Any] = {}

    def describe(name: str, files: Sequence[tuple[str, str]], num_samples: int) -> None:
        described[name] = {"files": files, "seconds": num_samples / SAMPLING_RATE}

    def join(name: str, order: Sequence[int], pauses: bool) -> None:
        length, starts = 0, []
        with soundfile.SoundFile(folder / f"{name}.flac", "w", SAMPLING_RATE, 1) as output:
            for number in order:
                starts.append((str(folder / f"{number}.flac"), length / SAMPLING_RATE))
                pause = int(rng.uniform(*PAUSES) * SAMPLING_RATE) if pauses else 0
                output.write(np.append(waveforms[number], 1e-3 * rng.standard_normal(pause)))
                length += len(waveforms[number]) + pause
        describe(name, [(str(folder / f"{name}.flac"), " ".join(utterances[n][1] for n in order))], length)
        described[name]["starts"] = starts

    def repeat(minutes: float) -> list[int]:
        seconds = sum(map(len, waveforms)) / SAMPLING_RATE + sum(PAUSES) / 2 * len(waveforms)
        passes = minutes * 60 / seconds
        return shuffle(math.ceil(passes))[: math.ceil(passes * len(waveforms))]

    def shuffle(passes: int) -> list[int]:
        return [int(number) for _ in range(passes) for number in rng.permutation(len(waveforms))]

    for i, waveform in enumerate(waveforms):
        soundfile.write(folder / f"{i}.flac", waveform, SAMPLING_RATE)
    files = [(str(folder / f"{i}.flac"), text) for i, (_, text) in enumerate(utterances)]
    describe("files", files, sum(map(len, waveforms)))
    some = files[: max(1, int(np.searchsorted(np.cumsum([len(w) for w in waveforms]) / SAMPLING_RATE, TRIAL_SECONDS)))]
    describe("some files", some, sum(len(waveform) for waveform in waveforms[: len(some)]))
    join("some pauses", repeat(TRIAL_SECONDS / 60), True)
    if options.memory:
        join("5 minutes", repeat(5), True)
        join("3 hours", repeat(180), True)
    else:
        join("pauses", shuffle(options.passes), True)
        join("joined", shuffle(options.passes), False)
    (folder / "recordings.json").write_text(json.dumps(described))


def make_models(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Write the model and what it is exported to, with all that belongs to it."""
    model = folder / "model"
    if options.shape:
        large = options.shape == "large"
        write_shape(model, LARGE if large else {}, attention_mask=large)
    else:
        shutil.copytree(options.model, model)
    export_int8(model, folder / "int8")
    return {}


def transcribe_ours(transcriber: Transcriber, files: Sequence[str]) -> tuple[float, list[Transcript]]:
    """Seconds from the first file to the last transcript, and the transcripts."""
    from finetune.audio.waveforms import AudioError

    started, transcripts = time.perf_counter(), []
    for file, found in transcriber.transcribe_many((file, file) for file in files):
        assert not isinstance(found, AudioError), f"{file}: {found}"
        transcripts.append(found)
    return time.perf_counter() - started, transcripts


def compare_times(transcriber: Transcriber, words: Sequence[Word], starts: Sequence[tuple[str, float]]) -> float:
    """The percentage of a recording's words whose times are those of its utterances alone, which begin at `starts`."""
    alone = [
        (word.text, word.start + start, word.end + start)
        for file, start in starts
        for word in transcriber.transcribe(file).words
    ]
    matcher = SequenceMatcher(None, [text for text, _, _ in alone], [word.text for word in words], autojunk=False)
    same = [(alone[a + i], words[b + i]) for a, b, size in matcher.get_matching_blocks() for i in range(size)]
    near = sum(max(abs(w.start - start), abs(w.end - end)) <= NEAR_SECONDS for (_, start, end), w in same)
    return 100 * near / max(len(same), 1)


def transcribe_theirs(
    folder: Path, precision: str, batch_size: int, files: Sequence[str], device: str
) -> tuple[float, list[str]]:
    """Seconds from the first file to the last text, and the texts."""
    import soundfile
    import torch
    from transformers import pipeline

    recogniser = pipeline(
        "automatic-speech-recognition",
        model=str(folder / "model"),
        device=0 if device == "auto" and torch.cuda.is_available() else "cpu",
        dtype={"float32": torch.float32, "bf16": torch.bfloat16}[precision],
    )

    def read() -> Iterator[dict[str, Any]]:
        for file in files:
            samples, rate = soundfile.read(file, dtype="float32")
            yield {"raw": samples, "sampling_rate": rate}

    started = time.perf_counter()
    found = recogniser(read(), chunk_length_s=CHUNK_SECONDS, batch_size=batch_size)
    texts = [each["text"] for each in found]
    return time.perf_counter() - started, texts


def run_part(options: argparse.Namespace) -> dict[str, float]:
    """Do one part of the benchmark in this process: models, or RECORDING/VARIANT or RECORDING/PRECISION/BATCH SIZE."""
    if options.part == "models":
        return make_models(options.folder, options)
    from measurement import watch_pages

    from finetune.evaluation.scores import score
    from finetune.inference.transcriber import Transcriber
    from finetune.text.transcripts import build_normalizer, load_normalization

    peak = watch_pages()
    name, variant, *batch_size = options.part.split("/")
    recording = json.loads((options.folder / "recordings.json").read_text())[name]
    files, references = zip(*recording["files"], strict=True)
    values = {"wer": float("nan"), "times": float("nan")}
    if batch_size:
        size = int(batch_size[0])
        seconds, texts = transcribe_theirs(options.folder, variant, size, files, options.device)
        values["memory"] = peak()
    else:
        model = "int8" if variant == "int8" else "model"
        precision = "bfloat16" if variant == "bf16" else "float32"
        transcriber = Transcriber(options.folder / model, device=options.device, precision=precision)
        seconds, transcripts = transcribe_ours(transcriber, files)
        values["memory"] = peak()
        texts = [transcript.text for transcript in transcripts]
        if "starts" in recording and not options.shape and not options.memory:
            values["times"] = compare_times(transcriber, transcripts[0].words, recording["starts"])
    if not options.shape and not options.memory:
        normalize = build_normalizer(load_normalization(options.folder / "model") or ())
        wer = score([normalize(text) for text in references], [normalize(text) for text in texts]).wer
        values["wer"] = float("nan") if wer is None else 100 * wer
    return {"factor": seconds / recording["seconds"], **values}


def list_precisions(options: argparse.Namespace) -> list[str]:
    """float32 and, where it is another, the precision that was chosen."""
    return list(dict.fromkeys(("float32", options.precision)))


def choose_batch_sizes(arguments: Sequence[str], options: argparse.Namespace) -> dict[tuple[str, str], str]:
    """For short files and for long ones, the pipeline's fastest batch size in each precision."""
    chosen: dict[tuple[str, str], str] = {}
    for name in ("some files", "some pauses"):
        for precision in list_precisions(options):
            factors = {}
            for size in options.batch_sizes:
                done = start_part(__file__, arguments, f"{name}/{precision}/{size}", options.folder)
                factors[size] = done.values["factor"]
            best = min(factors, key=factors.__getitem__)
            tried = ", ".join(f"{size}: {factor:.4f}" for size, factor in factors.items())
            print(f"pipeline, {precision}, {name}: real-time factor by batch size {tried}", flush=True)
            chosen[name.removeprefix("some "), precision] = f"{precision}/{best}"
    return chosen


def compare(arguments: Sequence[str], options: argparse.Namespace) -> None:
    """Measure all variants on all recordings in turn, and print ratios of medians."""
    batch_sizes = choose_batch_sizes(arguments, options)
    precisions = list_precisions(options)
    ours = [*precisions, *(["int8"] if options.on_cpu else [])]
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(options.rounds):
        for name in RECORDINGS:
            theirs = {
                f"pipeline {precision}": batch_sizes["files" if name == "files" else "pauses", precision]
                for precision in precisions
            }
            for variant, part in {**{each: each for each in ours}, **theirs}.items():
                values = start_part(__file__, arguments, f"{name}/{part}", options.folder).values
                results.setdefault((name, variant), []).append(values)
                print(
                    f"round {number + 1}, {name}, {variant}: real-time factor {values['factor']:.4f}, "
                    f"WER {values['wer']:.2f} %, {values['memory'] / 1e6:.0f} MB"
                    + (f", times as alone {values['times']:.1f} %" if values["times"] == values["times"] else ""),
                    flush=True,
                )
    factors = {key: statistics.median(each["factor"] for each in values) for key, values in results.items()}
    wers = {key: values[0]["wer"] for key, values in results.items()}
    for name in RECORDINGS:
        for variant in ours:
            faster = ", ".join(
                f"{factors[name, other] / factors[name, variant]:.2f} times {other}"
                for other in (*(f"pipeline {precision}" for precision in precisions), "float32")
                if other != variant
            )
            alone = wers["files", variant]
            relative = 100 * (wers[name, variant] / alone - 1) if alone else float("nan")
            print(
                f"{name}, {variant}: as fast as {faster}; WER {wers[name, variant]:.2f} %, "
                f"{wers[name, variant] - wers[name, 'float32']:+.2f} points to float32, "
                f"{wers[name, variant] - alone:+.2f} points to the files ({relative:+.1f} % of theirs)"
            )


def compare_memory(arguments: Sequence[str], options: argparse.Namespace) -> None:
    """Print the most memory for three hours and for five minutes."""
    for variant in (options.precision, f"float32/{options.batch_sizes[0]}"):
        peaks = []
        for name in ("5 minutes", "3 hours"):
            values = start_part(__file__, arguments, f"{name}/{variant}", options.folder).values
            peaks.append(values["memory"])
            said = "pipeline" if "/" in variant else "ours"
            memory, factor = values["memory"] / 1e6, values["factor"]
            print(f"{said}, {name}: at most {memory:.0f} MB, real-time factor {factor:.4f}", flush=True)
        print(f"{said}: {peaks[1] / peaks[0]:.2f} times as much for three hours as for five minutes", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path)
    what.add_argument("--shape", choices=("base", "large"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=int, default=104)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--memory", action="store_true", help="only measure memory")
    add_precision(parser)
    options = parse_arguments(parser, arguments, run_part)
    import torch

    options.on_cpu = options.device == "cpu" or not torch.cuda.is_available()
    options.precision = report_machine(options.precision, options.device)
    with tempfile.TemporaryDirectory() as place:
        options.folder = Path(place)
        make_recordings(options.folder, options.data, options)
        start_part(__file__, arguments, "models", options.folder)
        (compare_memory if options.memory else compare)(arguments, options)


if __name__ == "__main__":
    main(sys.argv[1:])
