"""What it costs a CPU that each batch has another length, and what rounding lengths and keeping kernels save.

    python scripts/bench_shapes.py [--rounds 3] [--warm-up 150] [--steps 60]

Two variants in turn, each in a process of its own: lengths as they come with oneDNN's own cache of kernels, and
lengths rounded up as batches are with the cache that `finetune train` asks for. Both train the recipe's small base in
bf16 on the same batches of 24 s; what is compared is seconds of speech (padding left out) a second, after warm-up.

oneDNN makes the kernels of a shape when it first sees it: about forty a step, and 1,024 are kept. A step's arithmetic
does not change with the shape, so the limit is the speed at one fixed shape. A kept kernel of a matrix product takes
0.6 MB, of a convolution up to 0.8 MB.

Measured on 2 cores of an AMD EPYC with bf16, three rounds, nothing else running, when lengths were rounded to 0.1 s and
30,000 kernels kept, which took 2 GB: 37.2, 34.1 and 41.9 s of speech a second against 44.4, 45.5 and 43.2; ratio of
medians 1.19.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RECIPE = Path(__file__).parent.parent / "recipes" / "base" / "recipe.yaml"
VARIANTS = ("as they come", "rounded, kernels kept")


def measure(variant: str, warm_up: int, steps: int) -> float:
    """Return the seconds of speech learned from in a second."""
    from finetune.launch import keep_kernels

    if variant != VARIANTS[0]:
        keep_kernels()  # Before torch is loaded.
    import numpy as np
    import torch
    import yaml
    from transformers import Wav2Vec2ForCTC

    from finetune.data.batching import bucket
    from finetune.data.features import build_config, length_step

    architecture = yaml.safe_load(RECIPE.read_text())["model"]["architecture"]
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(build_config({**architecture, "vocab_size": 30, "layerdrop": 0.0})).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    rng = np.random.default_rng(0)
    samples = rng.integers(16000, 128000, size=24000)
    batches = bucket((samples / 16000).tolist(), 24, rng)[: warm_up + steps]
    started = speech = 0.0
    for step, batch in enumerate(batches):
        if step == warm_up:
            started, speech = time.perf_counter(), 0.0
        lengths = torch.tensor(samples[batch])
        longest = int(lengths.max())
        step_samples = 1 if variant == VARIANTS[0] else length_step(longest)
        longest = -(-longest // step_samples) * step_samples
        mask = (torch.arange(longest) < lengths[:, None]).long()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.randn(len(batch), longest) * mask, attention_mask=mask).logits
        logits.float().log_softmax(-1)[..., 0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        speech += float(lengths.sum()) / 16000
    return speech / (time.perf_counter() - started)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=150)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one alone, in this process")
    options = parser.parse_args()
    if options.variant:
        print(measure(options.variant, options.warm_up, options.steps))
        return
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(options.rounds):
        for name in VARIANTS:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("ONEDNN")}
            command = [sys.executable, __file__, "--variant", name]
            command += ["--warm-up", str(options.warm_up), "--steps", str(options.steps)]
            done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
            speeds[name].append(float(done.stdout))
            print(f"round {number + 1}, {name}: {speeds[name][-1]:.1f} s of speech a second", flush=True)
    before, after = (statistics.median(values) for values in speeds.values())
    print(f"ratio of medians: {after / before:.2f}")


if __name__ == "__main__":
    main()
