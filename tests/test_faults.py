"""A fault in one recording is that recording's reason, whatever it is, and stops no other, in any command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, speak
from tones import build_tone_recogniser

from finetune.audio.waveforms import AudioError
from finetune.cli import main
from finetune.inference.recogniser import Recogniser
from finetune.inference.stitching import RecordingDecoder
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript
from finetune.inference.windows import Lengths, WindowCutter

# The recording with a fault is the only one of this length.
BAD_SAMPLES = 23_456
EMPTY = "max() arg is an empty sequence"

Break = Callable[[BaseException], None]


def is_bad(value: Any) -> bool:
    return len(value) == BAD_SAMPLES


def break_reading(patched: pytest.MonkeyPatch, error: BaseException) -> None:
    finish = WindowCutter.finish

    def fail(self: WindowCutter) -> Any:
        if self.num_samples == BAD_SAMPLES:
            raise error
        return finish(self)

    patched.setattr(WindowCutter, "finish", fail)


def break_model(patched: pytest.MonkeyPatch, error: BaseException) -> None:
    logits = Recogniser.logits

    def fail(self: Recogniser, waveforms: Any) -> Any:
        if any(map(is_bad, waveforms)):
            raise error
        return logits(self, waveforms)

    patched.setattr(Recogniser, "logits", fail)


def break_decoding(patched: pytest.MonkeyPatch, error: BaseException) -> None:
    advance = RecordingDecoder.advance

    def fail(self: RecordingDecoder, piece: Any) -> None:
        if len(piece.logits) == (BAD_SAMPLES - 400) // 320 + 1:
            raise error
        advance(self, piece)

    patched.setattr(RecordingDecoder, "advance", fail)


def break_placing(patched: pytest.MonkeyPatch, error: BaseException) -> None:
    from finetune.inference import transcriber

    place_words = transcriber.place_words

    def fail(words: Any, frame_seconds: float, seconds: float, *others: Any) -> Any:
        if seconds == BAD_SAMPLES / SAMPLING_RATE:
            raise error
        return place_words(words, frame_seconds, seconds, *others)

    patched.setattr(transcriber, "place_words", fail)


PLACES = [break_reading, break_model, break_decoding, break_placing]


@pytest.fixture
def recordings() -> dict[str, np.ndarray]:
    said = {name: speak(text, np.random.default_rng(0)) for name, text in (("a", "bad cab"), ("c", "dad add"))}
    return {"a": said["a"], "bad": np.resize(said["a"], BAD_SAMPLES), "c": said["c"]}


@pytest.mark.parametrize("broken", PLACES)
@pytest.mark.parametrize("error", [ValueError(EMPTY), KeyError("x"), MemoryError("64 GiB"), OSError(5)])
def test_the_others_are_transcribed_and_the_fault_keeps_its_type_and_place(
    recordings: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, broken: Any, error: Exception
) -> None:
    transcriber = Transcriber(build_tone_recogniser(), batch_seconds=100)
    broken(monkeypatch, error)
    done: list[float] = []
    found = dict(transcriber.transcribe_many(recordings.items(), sampling_rate=SAMPLING_RATE, on_progress=done.append))
    assert list(found) == ["a", "bad", "c"]
    assert [found[name].text for name in "ac"] == ["bad cab", "dad add"]
    reason = found["bad"]
    assert isinstance(reason, AudioError) and reason.__cause__ is error
    kind = "out of memory" if isinstance(error, MemoryError) else "internal error"
    assert re.match(rf"{kind} {type(error).__name__} in finetune/inference/\w+\.py:\d+", str(reason))
    assert str(error) in str(reason)
    assert min(done) >= 0 and sum(done) > 1
    with pytest.raises(AudioError, match=kind):
        transcriber.transcribe(recordings["bad"], sampling_rate=SAMPLING_RATE)


@pytest.mark.parametrize("broken", PLACES)
def test_who_ends_the_program_ends_it(
    recordings: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    transcriber = Transcriber(build_tone_recogniser())
    broken(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(transcriber.transcribe_many(recordings.items(), sampling_rate=SAMPLING_RATE))


def test_one_window_s_fault_is_its_recording_s_and_of_no_other_in_the_batch(
    recordings: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = build_tone_recogniser()
    recogniser.trained_lengths = Lengths(2.0, 5.0)
    long = np.concatenate([np.resize(recordings["a"], 100_000), recordings["bad"], np.zeros(50_000, np.float32)])
    windows: list[int] = []
    logits = Recogniser.logits

    def fail(self: Recogniser, waveforms: Any) -> Any:
        windows.append(len(waveforms))
        if any(len(waveform) > 79_000 for waveform in waveforms):
            raise RuntimeError("cuDNN error")
        return logits(self, waveforms)

    monkeypatch.setattr(Recogniser, "logits", fail)
    found = dict(
        Transcriber(recogniser, batch_seconds=100).transcribe_many(
            {"a": recordings["a"], "long": long, "c": recordings["c"]}.items(), sampling_rate=SAMPLING_RATE
        )
    )
    assert windows[0] > 3 and [found[name].text for name in "ac"] == ["bad cab", "dad add"]
    assert str(found["long"]).startswith("internal error RuntimeError in finetune/inference/transcriber.py:")


def test_logits_that_are_no_numbers_are_a_reason(
    recordings: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = Recogniser.logits

    def spoil(self: Recogniser, waveforms: Any) -> Any:
        computed, num_frames = logits(self, waveforms)
        spoilt = computed.clone()
        spoilt[[is_bad(waveform) for waveform in waveforms], 3:] = float("nan")
        return spoilt, num_frames

    monkeypatch.setattr(Recogniser, "logits", spoil)
    found = dict(Transcriber(build_tone_recogniser()).transcribe_many(recordings.items(), sampling_rate=SAMPLING_RATE))
    assert isinstance(found["a"], Transcript) and isinstance(found["c"], Transcript)
    assert str(found["bad"]).startswith("The recording has logits that are not finite numbers, first in frame 3")


@pytest.fixture
def folder(recordings: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """Three recordings with their texts, as a corpus."""
    (tmp_path / "talks").mkdir()
    for name, samples in recordings.items():
        soundfile.write(tmp_path / "talks" / f"{name}.wav", samples, SAMPLING_RATE)
    rows = ["file_name,text", *(f"{name}.wav,bad cab" for name in recordings)]
    (tmp_path / "talks" / "metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "talks"


@pytest.mark.parametrize("broken", PLACES)
def test_transcribe_goes_on(
    folder: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: Any,
) -> None:
    broken(monkeypatch, ValueError(EMPTY))
    assert main(["transcribe", str(model_folder), str(folder)]) == 2
    assert sorted(file.name for file in folder.glob("*.txt")) == ["a.txt", "c.txt"]
    said = capsys.readouterr().err
    assert "1 of 3 recordings can't be transcribed" in said and "2 of 3 recordings, " in said
    assert re.search(rf"bad\.wav: internal error ValueError in finetune/\S+\.py:\d+: {re.escape(EMPTY)}\n", said)


def test_transcribe_goes_on_where_a_format_fails(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune.inference import formats

    def fail(transcript: Transcript, name: str) -> str:
        return str(1 // (name != "bad"))

    monkeypatch.setitem(formats.FORMATS, "ctm", formats.Format(".ctm", fail))
    assert main(["transcribe", str(model_folder), str(folder), "--format", "text", "--format", "ctm"]) == 2
    # All of a recording's files or none.
    assert sorted(file.stem for file in folder.iterdir() if file.suffix in (".txt", ".ctm")) == ["a", "a", "c", "c"]
    assert "bad.wav: internal error ZeroDivisionError in finetune/inference/formats.py:" in capsys.readouterr().err


def test_align_says_it_in_a_sentence(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.txt").write_text("bad cab")
    command = ["align", str(model_folder), str(folder / "bad.wav"), str(folder / "bad.txt")]
    for broken in (break_reading, break_model):
        with monkeypatch.context() as patched:
            broken(patched, ValueError(EMPTY))
            assert main([*command, "--output", str(folder / "bad.json")]) == 2
        said = capsys.readouterr().err
        assert re.search(rf"bad\.wav: internal error ValueError in finetune/\S+\.py:\d+: {re.escape(EMPTY)}\n", said)
    with monkeypatch.context() as patched:
        patched.setattr("finetune.inference.aligner.align", lambda *_, **__: [][0])
        assert main([*command, "--output", str(folder / "bad.json")]) == 2
    assert "internal error IndexError in finetune/inference/aligner.py:" in capsys.readouterr().err
    assert not (folder / "bad.json").exists()


def test_evaluate_leaves_it_out_and_names_it(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder.parent / "scores.json"
    command = ["evaluate", str(model_folder), "--data", str(folder), "--json", str(output)]
    with monkeypatch.context() as patched:
        break_model(patched, IndexError("out of range"))
        assert main(command) == 0
    assert "left out: bad.wav: internal error IndexError in finetune/" in capsys.readouterr().err
    told = json.loads(output.read_text())
    assert told["utterances"] == 2 and [each["name"] for each in told["rejected"]] == ["bad.wav"]
    monkeypatch.setattr(Recogniser, "logits", lambda *_: 1 // 0)
    assert main(command) == 2
    assert "Every utterance of the split 'train' was left out: 3 × internal error ZeroDivisionError in finetune/" in (
        capsys.readouterr().err
    )


def test_check_names_what_cannot_be_aligned(
    tmp_path: Path, folder: Path, model_folder: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, data={"root": str(folder), "validation_fraction": 0.4})
    output = tmp_path / "found.json"
    break_model(monkeypatch, ValueError(EMPTY))
    assert main(["check", str(recipe), "--json", str(output), "--align", str(model_folder)]) == 0
    [finding] = [each for each in json.loads(output.read_text())["findings"] if each["kind"] == "not aligned"]
    assert "internal error ValueError in finetune/" in finding["sentence"]
    assert "bad.wav" in json.dumps(finding["utterances"])


def test_training_leaves_out_what_cannot_be_varied(
    tmp_path: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a file of noise that breaks off."""
    noises = tmp_path / "noises"
    noises.mkdir()
    soundfile.write(noises / "hum.flac", 0.1 * np.random.default_rng(0).standard_normal(SAMPLING_RATE), SAMPLING_RATE)
    whole = (noises / "hum.flac").read_bytes()
    (noises / "hum.flac").write_bytes(whole[: len(whole) // 2])
    augmentation = {"noise_snr_db": [5, 30], "noise_folder": str(noises), "noise_probability": 0.3}
    recipe = write_recipe(tmp_path, augmentation=augmentation)
    assert main(["train", str(recipe), "--output", str(tmp_path / "run")]) == 0
    rejected = (tmp_path / "run" / "rejected.csv").read_text().splitlines()[1:]
    assert 1 < len(rejected) < 24 and all("unusable file of the augmentation" in row for row in rejected)
    assert all("hum.flac: unreadable audio" in row for row in rejected)


def test_evaluate_goes_on_where_what_is_said_of_an_utterance_fails(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune.evaluation.scoring.estimate_snr", lambda waveform, _: 1 // (not is_bad(waveform)))
    output = folder.parent / "scores.json"
    assert main(["evaluate", str(model_folder), "--data", str(folder), "--json", str(output)]) == 0
    assert "left out: bad.wav: internal error ZeroDivisionError in finetune/" in capsys.readouterr().err
    told = json.loads(output.read_text())
    assert told["utterances"] == 2 and [each["name"] for each in told["rejected"]] == ["bad.wav"]


def test_check_goes_on_where_one_recording_cannot_be_judged_or_played(
    tmp_path: Path, folder: Path, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, data={"root": str(folder), "validation_fraction": 0.4})
    monkeypatch.setattr("finetune.data.validation_report.judge", lambda waveform: 1 // (not is_bad(waveform)) and "odd")
    monkeypatch.setattr("finetune.data.html_report.soundfile.write", lambda *_, **__: 1 // 0)
    files = tmp_path / "found.json", tmp_path / "found.html"
    assert main(["check", str(recipe), "--listen", "--json", str(files[0]), "--html", str(files[1])]) == 0
    found = {each["kind"].partition(" in ")[0]: each for each in json.loads(files[0].read_text())["findings"]}
    assert [name for _, name in found["internal error ZeroDivisionError"]["utterances"]] == ["bad.wav"]
    assert "internal error ZeroDivisionError in finetune/data/html_report.py" in files[1].read_text()


def test_a_language_model_is_built_without_the_line_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune.decoding.language_model.split_words", lambda line: [line][line == "bad"].split())
    (tmp_path / "text").write_text("one two\nbad\nthree one two\n" * 3)
    assert main(["lm", "build", str(tmp_path / "text"), "-o", str(tmp_path / "lm"), "--order", "2"]) == 0
    assert "6 sentences, 15 words, left out 3 × internal error IndexError in finetune/" in capsys.readouterr().out
