"""What all benchmarks share: each names its machine, and computes in the precision that was asked for."""

import importlib
import sys
from pathlib import Path

import pytest
from parts import report_machine

# Their speed depends on no precision, and their help says so.
WITHOUT_PRECISION = {"bench_decoding", "bench_detection", "bench_evaluation", "bench_feedback", "bench_loading"}
SCRIPTS = Path(__file__).parents[2] / "scripts"
BENCHMARKS = [*sorted(file.stem for file in SCRIPTS.glob("bench_*.py")), "compare_trainer"]


def test_the_line_names_instruction_sets_and_the_precision_that_they_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert report_machine("auto", "cpu") == "float32"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("machine: ") and line.endswith(", float32")
    for what in ("thread", "usable cores", "torch "):
        assert what in line
    assert "avx512" not in line and "amx" not in line
    with pytest.raises(SystemExit, match="no instructions for bf16"):
        report_machine("bf16", "cpu")
    report_machine(None)
    assert capsys.readouterr().out.endswith(", no model\n")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_takes_a_precision_or_says_why_not(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    main = importlib.import_module(name).main
    with pytest.raises(SystemExit):
        main(*[["--help"]] * main.__code__.co_argcount)
    printed = " ".join(capsys.readouterr().out.split())
    if name in WITHOUT_PRECISION:
        assert "no --precision" in printed
    else:
        assert "--precision {auto,float32,bf16" in printed
