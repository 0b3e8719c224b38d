"""`finetune align`, and what `finetune check` aligns. How well words are found is tested in inference/."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from tones import build_tone_recogniser

from finetune.cli import main
from finetune.data.corpus import AudioSpec, prepare_split
from finetune.data.sources import Source, load_splits, select_table
from finetune.evaluation import mismatches
from finetune.evaluation.mismatches import find_mismatches
from finetune.models.configuration import encoder_convolutions
from finetune.text.transcripts import DEFAULT_TRANSFORMS

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


@pytest.mark.parametrize(
    ("piped", "told"), [(b"bad \xff cab", "byte 4 is not UTF-8"), (b"", "no words"), (None, "Standard input is closed")]
)
def test_a_piped_text_that_cannot_be_read_is_said_in_a_sentence(
    recording: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    piped: bytes | None,
    told: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", None if piped is None else io.TextIOWrapper(io.BytesIO(piped)))
    assert main(["align", str(model_folder), str(recording), "-"]) == 2
    assert told in capsys.readouterr().err


def test_texts_of_other_audio_are_found(tmp_path: Path, make_corpus: Callable[..., Path]) -> None:
    said = ["bad cab", "dad add dab", "ab bad", "cab add", "dab dad", "add ab cab"]
    make_corpus(tmp_path / "corpus", said)
    metadata = tmp_path / "corpus" / "metadata.csv"
    listed = metadata.read_text(encoding="utf-8")
    metadata.write_text(listed.replace("ab bad", "cab dad cab").replace("cab add", "CAB, add!"), encoding="utf-8")
    recogniser = build_tone_recogniser()
    source = Source(str(tmp_path / "corpus"))
    table = select_table(load_splits(source), "train", source)
    limits = AudioSpec(SAMPLING_RATE, encoder_convolutions(recogniser.model.config))
    split = prepare_split("train", table, DEFAULT_TRANSFORMS, limits)
    [finding] = find_mismatches(recogniser, {"train": split})
    assert finding.utterances == ((2, "02.wav"),) and finding.kind == "text mismatch"
    assert finding.sentence == "1 utterances of train have a transcript that does not match their audio"

    shifted = [replace(u, raw_transcript=said[u.row - 1]) for u in split.utterances]
    [finding] = find_mismatches(recogniser, {"train": replace(split, utterances=tuple(shifted))})
    assert len(finding.utterances) > 3 and "belong to other audio" in finding.sentence


def test_check_looks_for_such_texts(
    tmp_path: Path, model_folder: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an untrained model, to which all texts are alike."""
    monkeypatch.setattr(mismatches, "_MISMATCH", 0.0)
    output = tmp_path / "found.json"
    command = ["check", str(write_recipe(tmp_path)), "--json", str(output)]
    assert main([*command, "--align", str(model_folder)]) == 0
    found = [each for each in json.loads(output.read_text())["findings"] if each["kind"] == "text mismatch"]
    assert {each["split"]: len(each["utterances"]) for each in found} == {"train": 24, "validation": 6, "test": 6}
