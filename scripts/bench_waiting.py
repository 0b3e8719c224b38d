"""Training on cores that another program uses too: threads that spin while they wait, and threads that sleep.

    python scripts/bench_waiting.py CORPUS [--busy 0 1 2] [--steps 60] [--rounds 3] [--precision auto|float32|bf16]
                                    [section.key=value ...]

CORPUS is that of the quickstart (`scripts/make_quickstart_corpus.py`). `finetune train` runs so many steps of
`recipes/quickstart/recipe.yaml` beside so many processes that only compute, the variants in turn: `spins` as OpenMP
does by itself (libgomp's 300,000 rounds), `sleeps` as `finetune` has it (`OMP_WAIT_POLICY=PASSIVE`), and `one thread`.
Told are seconds of speech a second, the median of the rounds, without the first 20 steps.

The limit beside N busy programs on C cores, where the scheduler shares evenly: C threads get C / (C + N) of the cores,
one thread C / (N + 1) of a core, but not more than a whole one.

On 2 cores of an Intel Xeon (avx512_bf16, amx_bf16) in bf16, alone, two runs of `--busy 0 --rounds 1`: spins 32.6 and
32.0 seconds of speech a second, sleeps 34.9 and 39.2, one thread 41.4 and 45.1. So the process that reads and augments
speech needs the second core there, and a second thread disturbs it. A few rounds before sleeping
(`GOMP_SPINCOUNT=3000`) gained nothing in training (34.9 in the first run), though a step of the small base by itself
took 0.23 to 0.25 s instead of 0.28; in float32, capped to AVX2, they made no difference to a step (0.52 and 0.51 s).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from parts import add_precision, report_machine

VARIANTS = {
    "spins": {"GOMP_SPINCOUNT": "300000"},
    "sleeps": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart" / "recipe.yaml"
_LOG_STEPS = 20


def train(corpus: str, steps: int, overrides: Sequence[str], variant: str, busy: int) -> float:
    """Seconds of speech a second of a run beside `busy` processes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        for _ in range(busy):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        command = ["-m", "finetune", "train", str(RECIPE), "--output", folder, f"data.root={corpus}"]
        command += [f"training.max_steps={steps}", f"training.eval_steps={steps}", f"training.log_steps={_LOG_STEPS}"]
        subprocess.run(
            [sys.executable, *command, *overrides], check=True, capture_output=True, env=environment | VARIANTS[variant]
        )
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["audio_seconds_per_second"] for line in lines if "audio_seconds_per_second" in line]
    return statistics.median(speeds[1:])


def main() -> None:
    """Run all variants in turn, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("corpus", metavar="CORPUS")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="busy programs beside it")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="of each run (default: 60)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    add_precision(parser)
    options = parser.parse_args()
    precision = {"float32": "no"}.get(options.precision, options.precision)
    overrides = [f"training.mixed_precision={precision}", *options.overrides]
    report_machine(options.precision, "cpu")
    for busy in options.busy:
        found: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for _ in range(options.rounds):
            for name, speeds in found.items():
                speeds.append(train(options.corpus, options.steps, overrides, name, busy))
        medians = {name: statistics.median(speeds) for name, speeds in found.items()}
        rates = ", ".join(
            f"{name} {speed:.1f} s/s ({min(found[name]):.1f} to {max(found[name]):.1f})"
            for name, speed in medians.items()
        )
        print(f"{busy} busy: {rates}; sleeping is {medians['sleeps'] / medians['spins']:.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
