"""The benchmark of transcribing runs from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_transcription.py"


@pytest.mark.slow
def test_every_variant_is_measured(model_folder: Path, corpus_folder: Path) -> None:
    data = ["--model", str(model_folder), "--data", str(corpus_folder / "test")]
    small = ["--files", "4", "--rounds", "1", "--batch-sizes", "2", "--device", "cpu"]
    command = [sys.executable, str(SCRIPT), *data, *small]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    for recording in ("files", "pauses", "joined"):
        for variant in ("float32", "auto", "int8", "pipeline float32", "pipeline bfloat16"):
            (line,) = (
                line for line in done.stdout.splitlines() if line.startswith(f"round 1, {recording}, {variant}:")
            )
            assert float(line.split("real-time factor ")[1].split(",")[0]) > 0
