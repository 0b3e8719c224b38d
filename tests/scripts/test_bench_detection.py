"""The benchmark of the detectors runs, and they are as good on the quickstart's sentences as its figures say."""

import re
import sys
from pathlib import Path

import bench_detection
import pytest

CORPUS = Path(__file__).parents[2] / "recipes" / "quickstart" / "corpus" / "test"


def test_each_noise_has_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_detection, "NOISES", [("none", 0), ("white", 10)])
    monkeypatch.setattr(sys, "argv", ["bench_detection.py", str(CORPUS), "--utterances", "6"])
    bench_detection.main()
    machine, _, quiet, noisy = capsys.readouterr().out.splitlines()
    assert machine.startswith("machine: ") and machine.endswith("no model")
    assert quiet.startswith("none ") and noisy.startswith("white   10 ")
    for row in (quiet, noisy):
        for missed, lost, kept in re.findall(r": missed +([\d.]+) +([\d.]+) kept +([\d.]+)", row):
            assert float(lost) < 3 and float(missed) < 15 and float(kept) < 30
