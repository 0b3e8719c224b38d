"""`finetune align`: what it prints, writes and refuses. How well words are found is tested in inference/."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak

from finetune.cli import main

LONG = "da" * 30  # More letters than the recording has frames.


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "talk.wav"
    soundfile.write(file, speak("bad cab", np.random.default_rng(0)), SAMPLING_RATE)
    file.with_suffix(".txt").write_text(f"Bad, {LONG}\ncab!\n", encoding="utf-8")
    return file


def test_a_text_with_times_is_printed(recording: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", str(model_folder), str(recording), str(recording.with_suffix(".txt"))]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [word["text"] for word in told["words"]] == ["Bad,", LONG, "cab!"]
    times = [time for word in told["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times) and times[-1] <= told["seconds"] == 0.9
    missing = [word["text"] for word in told["words"] if not word["found"]]
    assert LONG in missing
    assert f"{len(missing)} of 3 words are not in the audio: {missing[0]} (" in printed.err


def test_it_is_written_whole_and_over_nothing(
    recording: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "talk.TextGrid"
    command = ["align", str(model_folder), str(recording), str(recording.with_suffix(".txt"))]
    assert main([*command, "--format", "textgrid", "--output", str(output)]) == 0
    assert output.read_text().startswith('File type = "ooTextFile"') and capsys.readouterr().out == ""
    assert main([*command, "--output", str(output)]) == 2
    assert "there already" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["talk.TextGrid", "talk.txt", "talk.wav"]


@pytest.mark.parametrize(
    ("audio", "text", "told"),
    [
        ("talk.wav", "none.txt", "none.txt can't be read: No such file"),
        ("none.wav", "talk.txt", "There is no "),
        ("talk.wav", "empty.txt", "no words"),
        ("talk.txt", "talk.txt", "talk.txt: "),
        ("-", "-", "name a file for one of them"),
        (".", "talk.txt", "2 recordings"),
    ],
)
def test_what_cannot_be_aligned_is_said_in_a_sentence(
    recording: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], audio: str, text: str, told: str
) -> None:
    folder = recording.parent
    (folder / "empty.txt").write_text(" … ")
    soundfile.write(folder / "other.wav", np.zeros(SAMPLING_RATE), SAMPLING_RATE)
    places = [place if place == "-" else str(folder / place) for place in (audio, text)]
    assert main(["align", str(model_folder), *places]) == 2
    assert told in capsys.readouterr().err
