"""Training steps of wav2vec2's relatives at base size: which share of the matrix peak each reaches.

    python scripts/bench_relatives.py [--layers 12] [--utterances 4] [--rounds 3] [--precision auto|float32|bf16]
                                      [--only TYPE ...]

Each architecture has random weights and the shape of its base checkpoint (12 layers of width 768, `--layers` of them),
its feature encoder frozen. A step is what `finetune train` computes for a batch of `--utterances` of 8 to 12 s of
noise: padding, masks, loss and gradient, without the optimizer. The architectures take turns, each once to warm up.

The operations of a step are counted by torch's `FlopCounterMode` in steps of one utterance each, so that those for
padding are not among them. The limit is the matrix peak: the FLOP/s of one large product in the same precision,
measured in the same run. The last column is the share divided by that of wav2vec2.

Measured on 2 cores of an Intel Xeon (avx512_bf16, amx_bf16) in bf16, nothing else running; the peak was 0.63 TFLOP/s
then (0.6 to 1.9 at other times: the machine is shared), so that the last column says more than the one before:

    | architecture | TFLOP | seconds of a step | share of the peak | of wav2vec2's |
    |---|---|---|---|---|
    | wav2vec2 | 1.68 | 5.26 (4.90 to 5.26) | 51 % | 1.00 |
    | hubert | 1.68 | 4.95 (4.63 to 5.14) | 54 % | 1.06 |
    | wavlm | 1.68 | 7.28 (7.19 to 8.41) | 37 % | 0.72 |
    | unispeech | 1.68 | 4.77 (4.69 to 5.58) | 56 % | 1.10 |
    | unispeech-sat | 1.68 | 4.77 (3.25 to 5.95) | 56 % | 1.10 |
    | wav2vec2-conformer | 3.37 | 12.67 (12.62 to 12.98) | 42 % | 0.83 |
    | wav2vec2-bert | 5.26 | 25.55 (24.69 to 26.74) | 33 % | 0.64 |

In runs with wav2vec2 alone data2vec-audio took 4.42 s (4.13 to 4.52) for 1.59 TFLOP, 0.93 of its share, and, since
they compute padded batches at once:

    | wav2vec2 | 1.68 | 5.16 (4.61 to 5.18) | 51 % | 1.00 |
    | sew | 0.72 | 3.07 (2.86 to 3.24) | 36 % | 0.72 |
    | sew-d | 0.98 | 4.33 (4.21 to 4.86) | 35 % | 0.69 |

What lies below 0.85 has work that is not in large products. By torch's profiler (4 layers, same machine) products and
convolutions take 65 % of the time of wav2vec2, 50 % of WavLM's and SEW-D's and 58 % of Wav2Vec2-BERT's: the rest is
biases for each pair of frames in the attention and their copies. Were their products as fast as wav2vec2's, and nothing
else faster, they could reach 0.77, 0.77 and 0.89 of it. SEW (70 %) and the conformer (67 %) lose it within products
and convolutions: perhaps in narrow ones over the waveform, and in depthwise ones and utterances one by one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from measurement import measure_matrix_peak
from parts import add_precision, report_machine
from torch.utils.flop_counter import FlopCounterMode

from finetune.data.batching import Batch
from finetune.models.build import CTCObjective, build_model
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.relatives import RELATIVES

_RATE = 16000
_VOCABULARY = {symbol: number for number, symbol in enumerate(["<pad>", "|", *"abcdefghijklmnopqrstuvwxyz'"])}


def build_objective(kind: str, layers: int, precision: str) -> CTCObjective:
    """An architecture with random weights and the defaults of its configuration class, which are those of its base."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, num_hidden_layers=layers)
    model = build_model(
        config, None, vocabulary=_VOCABULARY, blank="<pad>", dropout=0.0, mask_time_probability=0.05, seed=0
    )
    use_cpu_operations(model)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else None
    return CTCObjective(model, autocast=autocast).train()


def make_batch(model: Any, seconds: Sequence[float]) -> Batch:
    """Noise of these lengths with labels and masks, padded to the longest."""
    rng = np.random.default_rng(0)
    lengths = [round(_RATE * each) for each in seconds]
    values = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(values, lengths, strict=True):
        row[:length] = torch.from_numpy(rng.standard_normal(length).astype(np.float32))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    frames = model._get_feat_extract_output_lengths(torch.tensor(lengths))
    labels = [rng.integers(1, len(_VOCABULARY), size=round(14 * each)) for each in seconds]
    return Batch(
        input_values=values,
        attention_mask=mask,
        samples=sum(lengths),
        num_frames=frames,
        mask_time_indices=torch.from_numpy(rng.random((len(lengths), int(frames.max()))) < 0.05),
        mask_feature_indices=None,
        labels=torch.from_numpy(np.concatenate(labels)),
        label_lengths=torch.tensor([len(each) for each in labels]),
        unreadable=(),
    )


def step(objective: CTCObjective, batch: Batch) -> float:
    """The seconds of a forward and a backward pass."""
    began = time.perf_counter()
    loss, _ = objective(batch)
    loss.backward()
    objective.zero_grad()
    return time.perf_counter() - began


def count(objective: CTCObjective, seconds: Sequence[float]) -> float:
    """The operations of a step over utterances that are computed one by one."""
    with FlopCounterMode(display=False) as counter:
        for each in seconds:
            step(objective, make_batch(objective.model, [each]))
    return float(counter.get_total_flops())


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    kinds = [kind for kind, relative in RELATIVES.items() if not relative.baseline]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="TYPE")
    add_precision(parser)
    options = parser.parse_args(arguments)
    precision = report_machine(options.precision, "cpu")
    peak = measure_matrix_peak(torch.bfloat16 if precision == "bf16" else torch.float32)
    print(f"peak: {peak / 1e12:.3f} TFLOP/s", flush=True)
    seconds = np.linspace(8, 12, options.utterances).tolist()
    found: dict[str, list[float]] = {kind: [] for kind in options.only}
    objectives = {kind: build_objective(kind, options.layers, precision) for kind in options.only}
    operations = {kind: count(objective, seconds) for kind, objective in objectives.items()}
    for number in range(1 + options.rounds):
        for kind, objective in objectives.items():
            found[kind].append(step(objective, make_batch(objective.model, seconds)))
            print(f"round {number}, {kind}: {found[kind][-1]:.2f} s", flush=True)
    found = {kind: times[1:] for kind, times in found.items()}
    shares = {kind: operations[kind] / statistics.median(times) / peak for kind, times in found.items()}
    print("| architecture | TFLOP | seconds of a step | share of the peak | of wav2vec2's |\n|---|---|---|---|---|")
    for kind, times in found.items():
        share = shares[kind] / shares["wav2vec2"] if "wav2vec2" in shares else float("nan")
        taken = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        print(f"| {kind} | {operations[kind] / 1e12:.2f} | {taken} | {100 * shares[kind]:.0f} % | {share:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
