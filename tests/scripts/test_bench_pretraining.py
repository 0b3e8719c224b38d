"""The benchmark of pre-training runs from end to end, every variant in turn."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_pretraining.py"


@pytest.mark.slow
def test_every_variant_is_measured():
    command = [sys.executable, SCRIPT, "--utterances", "4", "--batch-seconds", "20", "--rounds", "1"]
    done = subprocess.run([*command, "--precision", "float32"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for variant in ("finetune", "example"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"round 1, {variant}:"))
        assert float(line.split()[3]) > 0, line
    assert done.stdout.count(" times as fast ") == 1 and "whole matrix-product peak" in done.stdout
