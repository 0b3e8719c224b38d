"""What pushing in the background adds to training time: the same run without it, with `best` and with `every`, in turn.

    python scripts/bench_publishing.py [--shape small|base|large] [--steps 60] [--eval-steps 10] [--rounds 3]
                                        [--threads N] [--precision auto|float32|bf16]

Each run is in a process of its own, on bench_training.py's corpus of noise, by its recipe. The clock runs from the
first step to the last, evaluations, checkpoints and checkpoint exports included; the push of the finished model, which
training has ended for, is left out. The hub is that of the tests, as its own process at idle priority: it stands for
another machine. Evaluations follow each other so closely that there is always something to push with `every`; with
`best` the first alone is pushed, as nothing is learned from noise.

What must be moved: the weights (22 MB for `small`, 378 MB for wav2vec2-base) are not written again, but read twice,
hashed (SHA-256) and sent. In the loop itself an export costs a link, some small files and eight utterances read
again. The process beside takes 0.5 s to import what it needs; plain Transformers, in which the model is tried, some
4 s, and then the model's time for at most 60 s of speech. All of that has the scheduling class SCHED_IDLE, whose weight
is 3 against 1024: where training keeps all cores busy, it gets 0.3 % of them, and a push may take a quarter of an hour.
So the limit is 0.3 % and the time in the loop; the goal is less than 2 %. `--threads 1` leaves other cores idle, as
training on a GPU does: there all is pushed, and what the processes share is caches, memory and the disk.

Measured with `--steps 30 --eval-steps 5` in bf16 on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), little
else running, medians of three rounds: 22.8 s without, 22.9 s with `best` (+0.4 %), 22.7 s with `every` (-0.5 %); runs
of one variant differ by up to 7 %. An export takes 0.04 to 0.05 s in the loop: 0.2 s for six of them, one every four
seconds. With both cores busy no push ended in that time. With `--threads 1 --steps 40`, nothing else running, medians
of two rounds: 41.3 s without, 42.0 s with `best` (+1.6 %, one push ends), 42.7 s with `every` (+3.2 %, two or three
end): a push beside costs 0.6 s, so that 2 % is an evaluation every half a minute; here there is one every ten seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench_training import LARGE, SMALL, make_corpus
from parts import add_precision, parse_arguments, report_machine, start_part

VARIANTS = ("none", "best", "every")

SERVER = """
import os, pathlib, sys
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from hub import TOKEN, serve
with serve(pathlib.Path(sys.argv[1])) as hub:
    print(hub.endpoint, TOKEN, flush=True)
    sys.stdin.read()
"""


@contextmanager
def serve_hub(folder: Path) -> Iterator[dict[str, str]]:
    """A hub for as long as the `with` statement lasts, and the environment that leads to it."""
    tests = Path(__file__).parent.parent / "tests"
    command = [sys.executable, "-c", SERVER, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tests, stdin=pipe, stdout=pipe, encoding="utf-8") as server:
        assert server.stdin and server.stdout
        endpoint, token = server.stdout.readline().split()
        yield {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": token,
            "NO_PROXY": "127.0.0.1",
        }
        server.stdin.close()


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train once; returns seconds of training, of them in the loop for exports, and of the pushes' processors."""
    from finetune.commands.launch import keep_kernels

    keep_kernels(options.precision)  # As `finetune train` does.
    import yaml

    from finetune.errors import Interrupted
    from finetune.publishing.background import Publisher
    from finetune.recipe.load import Recipe
    from finetune.run.callbacks import TrainerCallback
    from finetune.run.experiment import run

    architectures = {"small": yaml.safe_load(SMALL.read_text())["model"]["architecture"], "base": {}, "large": LARGE}
    training = {
        "max_steps": options.steps,
        "eval_steps": options.eval_steps,
        "batch_seconds": options.batch_seconds,
        "mixed_precision": "bf16" if options.precision == "bf16" else "no",
        "learning_rate": 1e-4,
        "num_workers": 1,
    }
    values: dict[str, Any] = {
        "model": {"architecture": architectures[options.shape], "dropout": 0.0},
        "data": {"root": str(options.folder / "corpus")},
        "training": training,
    }
    if options.part != "none":
        values["publishing"] = {"repo_id": f"team/{options.part}-{os.getpid()}", "push": options.part}
    measured: dict[str, float] = {"seconds": 0.0, "in_the_loop": 0.0, "pushed": 0}

    class Clock(TrainerCallback):
        def on_train_begin(self, step: int) -> None:
            self.started = time.perf_counter()

        def on_train_end(self) -> None:
            measured["seconds"] += time.perf_counter() - self.started
            raise Interrupted(options.steps)  # Neither scored nor written.

    def offer(self: Publisher, *arguments: Any, offer: Any = Publisher.offer) -> None:
        started = time.perf_counter()
        offer(self, *arguments)
        measured["in_the_loop"] += time.perf_counter() - started

    def take_result(self: Publisher, push: Any, take_result: Any = Publisher._take_result) -> None:
        take_result(self, push)
        measured["pushed"] += push.process.returncode == 0

    publisher: Any = Publisher
    publisher.offer, publisher._take_result, publisher.finish = offer, take_result, lambda self, run: None
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, suppress(Interrupted):
        run(Recipe.model_validate(values), Path(folder) / "run", Clock())
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return measured | {"processors": children.ru_utime + children.ru_stime}


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=("small", "base", "large"), default="small")
    parser.add_argument("--batch-seconds", type=float, default=80.0)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--eval-steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of training (default: as many as there are cores)")
    add_precision(parser)
    options = parse_arguments(parser, arguments, train)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)  # As in the processes that train, for the line on the machine.
    arguments = [*arguments, "--precision", report_machine(options.precision)]
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_corpus(folder / "corpus", options.utterances, validation=8)
        with serve_hub(folder / "hub") as environment:
            if options.threads:
                environment["OMP_NUM_THREADS"] = str(options.threads)
            for number in range(options.rounds):
                for variant in VARIANTS:
                    done = start_part(__file__, arguments, variant, folder, environment)
                    for line in done.said.splitlines():
                        if line.startswith("note:"):
                            print(line)
                    result = done.values
                    results[variant].append(result)
                    print(
                        f"round {number + 1}, {variant}: {result['seconds']:.2f} s, of them "
                        f"{result['in_the_loop']:.2f} s for checkpoint exports; {result['pushed']:.0f} pushed, "
                        f"{result['processors']:.1f} s of a processor",
                        flush=True,
                    )
    seconds = {variant: statistics.median(each["seconds"] for each in results[variant]) for variant in VARIANTS}
    for variant in VARIANTS[1:]:
        print(f"{variant}: {100 * (seconds[variant] / seconds['none'] - 1):+.2f} % training time (medians)")


if __name__ == "__main__":
    main(sys.argv[1:])
