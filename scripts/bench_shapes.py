"""What it costs a CPU that each batch has another length, and what rounding lengths and keeping kernels save.

    python scripts/bench_shapes.py [--rounds 3] [--warm-up 150] [--steps 60] [--precision auto|float32|bf16]

Two variants in turn, each in a process of its own: lengths as they come with oneDNN's own cache of kernels, and
lengths rounded up as batches are with the cache that `finetune train` asks for. Both train the recipe's small base on
the same batches of 24 s; what is compared is seconds of speech (padding left out) a second, after warm-up.

oneDNN makes the kernels of a shape when it first sees it: about forty a step, and 1,024 are kept. A step's arithmetic
does not change with the shape, so the limit is the speed at one fixed shape. A kept kernel of a matrix product takes
0.6 MB, of a convolution up to 0.8 MB.

Measured in bf16 on 2 cores of an AMD EPYC (Zen 4: avx512_bf16, avx512_vnni), three rounds, nothing else running,
when lengths were rounded to 0.1 s and 30,000 kernels kept, which took 2 GB: 37.2, 34.1 and 41.9 s of speech a second
against 44.4, 45.5 and 43.2; ratio of medians 1.19.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from parts import add_precision, parse_arguments, report_machine, start_part

RECIPE = Path(__file__).parent.parent / "recipes" / "base" / "recipe.yaml"
VARIANTS = ("as they come", "rounded, kernels kept")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """The seconds of speech that the variant `options.part` learns from in a second."""
    from finetune.commands.launch import keep_kernels

    variant, warm_up = options.part, options.warm_up
    if variant != VARIANTS[0]:
        keep_kernels(options.precision)  # Before torch computes.
    import numpy as np
    import torch
    import yaml
    from transformers import Wav2Vec2ForCTC

    from finetune.data.batching import bucket
    from finetune.models.configuration import build_config
    from finetune.resources.machine import length_step

    architecture = yaml.safe_load(RECIPE.read_text())["model"]["architecture"]
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(build_config({**architecture, "vocab_size": 30, "layerdrop": 0.0})).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    rng = np.random.default_rng(0)
    samples = rng.integers(16000, 128000, size=24000)
    batches = bucket((samples / 16000).tolist(), 24, rng)[: warm_up + options.steps]
    started = speech = 0.0
    for step, batch in enumerate(batches):
        if step == warm_up:
            started, speech = time.perf_counter(), 0.0
        lengths = torch.tensor(samples[batch])
        longest = int(lengths.max())
        step_samples = 1 if variant == VARIANTS[0] else length_step(longest)
        longest = -(-longest // step_samples) * step_samples
        mask = (torch.arange(longest) < lengths[:, None]).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(torch.randn(len(batch), longest) * mask, attention_mask=mask).logits
        logits.float().log_softmax(-1)[..., 0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        speech += float(lengths.sum()) / 16000
    return {"speed": speech / (time.perf_counter() - started)}


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=150)
    parser.add_argument("--steps", type=int, default=60)
    add_precision(parser)
    options = parse_arguments(parser, arguments, measure)
    arguments = [*arguments, "--precision", report_machine(options.precision, "cpu")]
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name in VARIANTS:
                speeds[name].append(start_part(__file__, arguments, name, Path(folder)).values["speed"])
                print(f"round {number + 1}, {name}: {speeds[name][-1]:.1f} s of speech a second", flush=True)
    before, after = (statistics.median(values) for values in speeds.values())
    print(f"ratio of medians: {after / before:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
