"""The benchmark of transcribing runs from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_transcription.py"


@pytest.mark.slow
@pytest.mark.parametrize("capped", [True, False])
def test_every_variant_is_measured(model_folder: Path, corpus_folder: Path, capped: bool) -> None:
    """In float32, and in what `auto` means with a CPU's instruction sets capped."""
    data = ["--model", str(model_folder), "--data", str(corpus_folder / "test")]
    small = ["--files", "4", "--rounds", "1", "--batch-sizes", "2", "--device", "cpu"]
    precision = "auto" if capped else "float32"
    command = [sys.executable, str(SCRIPT), *data, *small, "--precision", precision]
    cap = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"} if capped else {}
    environment = {**os.environ, **cap}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=SCRIPT.parents[1])
    assert done.returncode == 0, done.stderr
    machine = done.stdout.splitlines()[0]
    assert machine.startswith("machine: ") and machine.endswith(", float32")
    assert not (capped and "avx512" in machine)
    for recording in ("files", "pauses", "joined"):
        found = [line.split(": ") for line in done.stdout.splitlines() if line.startswith(f"round 1, {recording}, ")]
        names = [name.rpartition(", ")[2] for name, _ in found]
        assert names == ["float32", "int8", "pipeline float32"]
        for _, values in found:
            assert float(values.split()[2].rstrip(",")) > 0
