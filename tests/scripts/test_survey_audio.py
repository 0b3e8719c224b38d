"""A survey names the files that are decoded otherwise than by FFmpeg."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from survey_audio import main


def test_files_alike_and_a_truncated_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=(16000, 2))
    for name in ("a.wav", "b.flac", "c.mp3"):
        soundfile.write(tmp_path / name, noise, 16000)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "4 files: 3 alike, 1 that neither can read, 0 that differ\n"
    (tmp_path / "e.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:20000])
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("e.wav: ours: truncated audio")
