"""The command in a process of its own: it consumes, finishes at SIGTERM, and ends with 0."""

import os
from pathlib import Path

import pytest
from brokers import MockCluster, consume, wait_for
from speech_requests import make_wav
from tone_model import write_tone_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.mark.slow
def test_the_command_consumes_until_sigterm(mock: MockCluster, tmp_path: Path) -> None:
    model = write_tone_model(tmp_path / "tones")
    mock.write("speech", [(f"k{number}", make_wav(), []) for number in range(10)])
    with consume(mock, model, "--metrics-port", "0") as run:
        run.wait_until_ready()
        wait_for(lambda: len(mock.results()) == 10, 90)
        assert run.stop() == 0, run.said()
        lines = run.said().splitlines()
    assert len(lines) == 1 and "consuming speech as g; results go to texts" in lines[0], lines
    assert {each["text"] for each in mock.results()} == {"bad cab"}
