"""`finetune transcribe --engine ray` on this machine against the plain command, and its memory over many files.

    python scripts/bench_cluster.py throughput --model MODEL --data FOLDER [--files 500] [--actors 2] [--rounds 3]
                                               [--precision auto|float32|bf16]
    python scripts/bench_cluster.py memory [--files 100000] [--actors 2]

`throughput`: both commands write the texts of links to the folder's recordings, in turn, each in a process of its own.
Files a second are counted from the first text that is written to the last, so that loading models is left out: a
cluster loads one for each actor, while the plain command counts nothing before the first recording. With few files that
load weighs more than all else, which the seconds of the whole command show.

`memory`: the texts of links to four clips of 0.5 s, by a tiny model. The pages of the command's own process are read
ten times a second; what is printed is their mean in each tenth of the time between the first and the last text. The
list of files itself is in memory before the first.

Measured on 2 cores of an Intel Xeon (avx512_bf16, amx_bf16) in bf16: `throughput` with a quickstart model and 500 links
to recordings of AN4, nothing beside it: 27.6 files a second by the plain command and 43.2 by two actors (medians), 1.53
times (1.39 to 1.77): two processes with one thread each use two cores better than one with two threads of torch, for a
model as small as this. The whole commands took 28.1 and 27.0 s, as a cluster and its actors need 10 s to begin.

`memory` over 100,000 files on the same machine, training beside it: 263 MB in the first tenth of the time and 278 in
the last, at 90 files a second. The list of files takes most of it (92 MB with 8,000 files); what grows are 150 bytes a
file, most of it probably the text that a path keeps once it was asked for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from parts import add_precision, parse_arguments, report_machine, start_part, write_shape

TINY = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    **{"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
}
SAMPLING_RATE = 16000
TENTHS = 10


def link_files(folder: Path, sources: Sequence[Path], count: int) -> None:
    """Make a folder of links, with so many files in each folder below it that listing one is quick."""
    for number in range(count):
        source = sources[number % len(sources)]
        link = folder / f"{number // 1000:03d}" / f"{number:06d}{source.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve())


def make_clips(folder: Path) -> list[Path]:
    """Write four clips of noise."""
    import numpy as np
    import soundfile

    folder.mkdir()
    files = [folder / f"{number}.wav" for number in range(4)]
    for number, file in enumerate(files):
        noise = 0.1 * np.random.default_rng(number).standard_normal(SAMPLING_RATE // 2)
        soundfile.write(file, noise, SAMPLING_RATE)
    return files


def watch(pages: list[tuple[float, float]]) -> None:
    """Keep reading this process's own pages: (time, bytes)."""
    while True:
        status = Path("/proc/self/status").read_text()
        pages.append((time.time(), 1024.0 * int(status.partition("RssAnon:")[2].split()[0])))
        time.sleep(0.1)


def run_part(options: argparse.Namespace) -> dict[str, float]:
    """Run one command in this process: `plain` or `ray`, with the output in a folder of the part's name."""
    from finetune.cli import main as run

    engine, output = options.part.split("/")
    precision = "bfloat16" if options.precision == "bf16" else options.precision
    command = ["transcribe", str(options.folder / "model"), str(options.folder / "files"), "--precision", precision]
    command += ["--output", str(options.folder / output), "--device", "cpu", "--quiet"]
    if engine == "ray":
        command += ["--engine", "ray", "--address", "local", "--actors", str(options.actors)]
    pages: list[tuple[float, float]] = []
    threading.Thread(target=watch, args=[pages], daemon=True).start()
    began = time.time()
    code = run(command)
    seconds = time.time() - began
    assert code == 0, f"the command ended with {code}"
    written = sorted(file.stat().st_mtime for file in (options.folder / output).rglob("*.txt"))
    first, last = written[0], written[-1]
    later = sum(moment > first + 1 for moment in written)
    values = {"seconds": seconds, "rate": later / max(last - first - 1, 1e-3), "files": float(len(written))}
    for tenth in range(TENTHS):
        start, end = (first + (last - first) * (tenth + step) / TENTHS for step in (0, 1))
        own = [size for moment, size in pages if start <= moment <= end]
        values[f"memory {tenth}"] = statistics.fmean(own) if own else float("nan")
    return values


def compare_throughput(arguments: Sequence[str], options: argparse.Namespace) -> None:
    """Print the files a second of both commands in turn, and the ratio of their medians."""
    (options.folder / "model").symlink_to(options.model.resolve())
    suffixes = (".wav", ".flac", ".mp3", ".ogg")
    sources = sorted(file for file in options.data.rglob("*") if file.suffix in suffixes)
    link_files(options.folder / "files", sources, options.files)
    rates: dict[str, list[float]] = {"plain": [], "ray": []}
    for number in range(options.rounds):
        for engine, found in rates.items():
            values = start_part(__file__, arguments, f"{engine}/{engine}{number}", options.folder).values
            found.append(values["rate"])
            print(
                f"round {number + 1}, {engine}: {values['rate']:.1f} files a second, {values['files']:.0f} files, "
                f"{values['seconds']:.1f} s with the loading of models",
                flush=True,
            )
    pairs = [ray / plain for ray, plain in zip(rates["ray"], rates["plain"], strict=True)]
    print(
        f"ray: {statistics.median(pairs):.2f} of the plain command's throughput ({min(pairs):.2f} to {max(pairs):.2f})"
    )


def measure_memory(arguments: Sequence[str], options: argparse.Namespace) -> None:
    """Print the pages of the command's process over the files."""
    write_shape(options.folder / "model", TINY)
    link_files(options.folder / "files", make_clips(options.folder / "clips"), options.files)
    values = start_part(__file__, arguments, "ray/ray", options.folder).values
    sizes = [values[f"memory {tenth}"] / 1e6 for tenth in range(TENTHS)]
    print(f"{values['files']:.0f} files in {values['seconds']:.0f} s, {values['rate']:.0f} a second")
    print(f"own pages in each tenth: {', '.join(f'{size:.0f}' for size in sizes)} MB")


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("throughput", "memory"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--files", type=int)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    add_precision(parser)
    options = parse_arguments(parser, arguments, run_part)
    options.files = options.files or (500 if options.what == "throughput" else 100_000)
    if options.what == "throughput" and not (options.model and options.data):
        parser.error("throughput needs --model and --data")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    report_machine(options.precision, "cpu")
    with tempfile.TemporaryDirectory() as place:
        options.folder = Path(place)
        (compare_throughput if options.what == "throughput" else measure_memory)(arguments, options)


if __name__ == "__main__":
    main(sys.argv[1:])
