"""The benchmark of training runs from end to end, and counts the operations that torch counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measurement import count_operations
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2ForCTC

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_training.py"


def test_operations_are_those_of_the_forward_pass(model_folder):
    model = Wav2Vec2ForCTC.from_pretrained(model_folder, attn_implementation="eager")  # counted whole
    samples = 16000
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = model.wav2vec2.feature_extractor(torch.zeros(1, samples))
        convolutions = counter.get_total_flops()
        model(torch.zeros(1, samples))
    whole = counter.get_total_flops() - convolutions
    # The convolution over positions makes one frame more, which is cut off.
    config = model.config
    extra = 2 * config.hidden_size**2 // config.num_conv_pos_embedding_groups * config.num_conv_pos_embeddings
    expected = convolutions + 3 * (whole - convolutions - extra)
    assert features.shape[-1] == 49
    assert count_operations(config, samples, len(model.lm_head.weight)) == expected


@pytest.mark.slow
def test_every_variant_is_measured():
    command = [sys.executable, SCRIPT, "--utterances", "4", "--batch-seconds", "20", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    for variant in ("finetune", "documented", "best"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"round 1, {variant}:"))
        assert float(line.split()[3]) > 0, line
        assert 0 <= float(line.split(", ")[3].split()[0]) < 60, line  # % of padding
    assert done.stdout.count(" times as fast ") == 2


@pytest.mark.slow
def test_a_step_is_profiled():
    command = [sys.executable, SCRIPT, "--utterances", "8", "--batch-seconds", "20", "--profile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert "aten::mm" in done.stdout, done.stderr
