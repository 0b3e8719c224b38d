"""The benchmark of a feedback store runs, and the queue's first page is far below its target."""

import re
import sys

import bench_feedback
import pytest


def test_each_part_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_feedback.py", "--records", "3000", "--audio", "20"])
    bench_feedback.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("machine: ") and lines[1].startswith("filled with 3,000 records")
    times = [float(found[1]) for line in lines if (found := re.match(r"queue, first page.*: ([\d.]+) ms \(", line))]
    assert len(times) == 2 and max(times) < 200
    assert any(line.startswith("reading 2,000 corrections") for line in lines)
    assert any(re.match(r"copy of 1 MB of audio: [\d.]+ MB/s", line) for line in lines)
    assert lines[-1].startswith(("export: ", "peak memory: "))
