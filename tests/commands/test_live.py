"""The command `finetune live`: events as they come, from files, pipes and devices, and sentences for what cannot be."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import types
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from finetune.cli import main

RATE = 16000


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels: half a second of faint noise, one of loud noise, and a second of faint noise; and silence."""
    rng = np.random.default_rng(0)
    loudness = np.repeat([0.001, 0.1, 0.001], [RATE // 2, RATE, RATE])
    heard = loudness * rng.standard_normal(len(loudness))
    file = tmp_path_factory.mktemp("speech") / "call.wav"
    soundfile.write(file, np.stack([heard, np.zeros_like(heard)], axis=1), RATE, subtype="PCM_16")
    return file


Live = Callable[..., tuple[int, str, str]]


@pytest.fixture
def live(model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Live:
    """`live(FILE, …, stdin=bytes)` runs the command; its exit code and what it printed."""

    def run(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["live", str(model), *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run


def read_events(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_a_file_becomes_its_final_texts(live: Live, model: Path, speech: Path, capsys: Any) -> None:
    code, text, said = live(speech, "--channel", 1)
    assert code == 0 and said == "" and len(text) > 10 and text.count("\n") == 1
    code, printed, _ = live(speech, "--channel", 1, "--format", "json")
    events = read_events(printed)
    assert [event["type"] for event in (events[0], *events[-2:])] == ["speech_started", "speech_ended", "final"]
    assert {event["type"] for event in events[1:-2]} == {"partial"}
    final = events[-1]
    assert final["text"] + "\n" == text and 0 < final["confidence"] <= 1
    assert " ".join(word["text"] for word in final["words"]) == final["text"]
    assert all(event["text"].startswith(event["stable"]) for event in events[1:-2])
    # What the recording path says of the same piece of audio.
    piece, _ = soundfile.read(speech, start=round(final["start"] * RATE), stop=round(final["end"] * RATE))
    soundfile.write(speech.with_name("piece.wav"), piece[:, 0], RATE, subtype="PCM_16")
    assert main(["transcribe", str(model), str(speech.with_name("piece.wav"))]) == 0
    assert capsys.readouterr().out == text
    assert live(speech, "--channel", 2) == (0, "", "")


def test_pipes_give_what_files_give(live: Live, speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="int16")
    expected = live(speech, "--channel", 1)
    raw = ("-", "--rate", RATE, "--channels", 2, "--channel", 1)
    assert live(*raw, stdin=samples.tobytes()) == expected
    assert live("-", "--channel", 1, stdin=speech.read_bytes()) == expected, "a WAV's header says the rest"
    header = bytearray(speech.read_bytes())
    place = header.index(b"data") + 4
    header[place : place + 4] = bytes(4)
    assert live("-", "--channel", 1, stdin=bytes(header)) == expected, "a length of 0 is an unknown one"
    cut = header + bytes(4000)
    cut[place : place + 4] = (len(header) - place - 4).to_bytes(4, "little")
    assert live("-", "--channel", 1, stdin=bytes(cut)) == expected, "what is behind the length is no sound"
    for container, subtype in (("WAVEX", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "FLOAT")):
        written = io.BytesIO()
        values = (samples / 2**15).astype(np.float32)
        soundfile.write(written, samples if subtype == "PCM_16" else values, RATE, format=container, subtype=subtype)
        assert live("-", "--channel", 1, stdin=written.getvalue()) == expected
    for subtype in ("ULAW", "ALAW"):
        written = io.BytesIO()
        soundfile.write(written, samples, RATE, format="WAV", subtype=subtype)
        assert live("-", "--channel", 1, stdin=written.getvalue())[:1] == (0,)
    code, text, said = live(*raw, stdin=samples.tobytes() + b"\0")
    assert (code, text) == expected[:2] and said == "note: the stream ends within a sample: 1 bytes are left out\n"
    code, _, said = live(*raw, "--encoding", "f32le", stdin=np.full(20, np.nan, "<f4").tobytes())
    assert code == 2 and said.startswith("finetune: Standard input: audio holds values that are not numbers")


def test_a_file_can_be_read_at_the_speed_of_a_clock(live: Live, speech: Path) -> None:
    began = time.monotonic()
    assert live(speech, "--pace", "--latency", "0.4", "--channel", 1)[0] == 0
    assert time.monotonic() - began >= 2.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Expected one source of audio: FILE"),
        (("x.wav", "--microphone"), "Expected one source of audio: FILE"),
        (("none.wav",), "none.wav: no such file"),
        (("-", "--rate", "10"), "Standard input: a sampling rate of 10 Hz; expected 1000 to 192000"),
        (("-", "--rate", "8000", "--channels", "0"), "Standard input: 0 channels of s16le; expected 1 to 256"),
        (("-", "--rate", "8000", "--channel", "0"), "Standard input: channel 0 of 1"),
        (("SPEECH", "--channel", "0"), "has 2 channels, and no channel 0"),
        (("SPEECH", "--rate", "8000"), "describe raw audio on standard input: give - as FILE"),
        (("-",), "Standard input is not a WAV file: expected a WAV file of 16 bits"),
        (("-", "--rate", "8000", "--channel", "2"), "Standard input: channel 2 of 1"),
        (("SPEECH", "--channel", "3"), "has 2 channels, and no channel 3"),
        (("SPEECH", "--latency", "0.01"), "--latency is 0.01 s: expected 0.16 to 10"),
    ],
)
def test_what_cannot_be_heard_is_one_sentence(live: Live, speech: Path, arguments: tuple[str, ...], said: str) -> None:
    code, printed, error = live(*(str(speech) if each == "SPEECH" else each for each in arguments), stdin=b"no sound")
    assert code == 2 and printed == "" and said in error and error.count("\n") == 1


def test_a_microphone_is_listened_to_until_ctrl_c(live: Live, speech: Path, monkeypatch: Any) -> None:
    """A stand-in for sounddevice, whose devices cannot be had here."""
    samples, _ = soundfile.read(speech, dtype="int16", always_2d=True)
    chunks = iter([samples[first : first + RATE // 10, 0] for first in range(0, len(samples), RATE // 10)])

    class Stream:
        def __init__(self, rate: int, **options: object) -> None:
            assert (rate, options) == (RATE, {"device": None, "channels": 1, "dtype": "int16"})

        def __enter__(self) -> "Stream":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, frames: int) -> tuple[bytes, bool]:
            if (chunk := next(chunks, None)) is None:
                raise KeyboardInterrupt
            return chunk.tobytes(), False

    def query(device: object = None, kind: object = None) -> Any:
        if kind is None:
            return [{"name": "built-in", "max_input_channels": 1}, {"name": "speaker", "max_input_channels": 0}]
        if device is not None:
            raise ValueError("no match")
        return {"default_samplerate": float(RATE)}

    devices = types.SimpleNamespace(query_devices=query, RawInputStream=Stream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", devices)
    assert live("--microphone") == live(speech, "--channel", 1)
    code, _, said = live("--microphone", "--microphone-name", "nowhere")
    assert code == 2 and "There is no such microphone (no match): expected --microphone-name, one of built-in." in said
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "pip install 'finetune[microphone]'" in live("--microphone")[2]


def test_ctrl_c_in_the_middle_of_computing_waits_for_it(
    live: Live, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.inference.recogniser import Recogniser

    compute, calls = Recogniser.logits, []

    def interrupt(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return compute(*arguments)

    monkeypatch.setattr(Recogniser, "logits", interrupt)
    code, printed, _ = live(speech, "--channel", 1, "--format", "json")
    types = [event["type"] for event in read_events(printed)]
    assert code == 0 and types[0] == "speech_started" and types[-2:] == ["speech_ended", "final"]
    assert len(calls) == 5, "after the third partial text, that of the last audio, and the final text"


@pytest.mark.parametrize(("letter", "count"), [("a", 36), ("世", 18), ("ש", 36)])
def test_the_newest_part_of_a_long_partial_text_fits_into_the_terminal(
    letter: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.commands.live import _Display
    from finetune.inference.events import Partial

    monkeypatch.setenv("COLUMNS", "40")
    shown: list[str] = []
    display = _Display("text")
    monkeypatch.setattr(display._line, "set_description_str", shown.append)
    display.show([Partial(letter * 100 + "。", letter * 100 + "。", 0.0, 1.0, ())])
    display.close()
    assert shown == [letter * count + "。"]


def test_a_pipe_without_audio_is_one_sentence(live: Live) -> None:
    code, _, said = live("-", "--rate", 8000, stdin=b"")
    assert code == 2 and said == "finetune: Standard input: audio of zero length.\n"


@pytest.mark.long
def test_ctrl_c_ends_with_the_last_words(model: Path, speech: Path) -> None:
    """In a process of its own, whose pipe stays open; events come before the audio ends."""
    with wave.open(str(speech)) as file:
        audio = file.readframes(file.getnframes())
    command = [sys.executable, "-m", "finetune", "live", str(model), "-", "--format", "json"]
    options = ["--rate", str(RATE), "--channels", "2", "--channel", "1"]
    with subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(audio[: 4 * RATE])  # Half a second into the speech.
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["type"] == "speech_started"
        assert json.loads(process.stdout.readline())["type"] == "partial"
        process.send_signal(signal.SIGINT)
        rest = read_events(process.stdout.read().decode())
        process.stdin.close()
    assert process.returncode == 0 and [event["type"] for event in rest[-2:]] == ["speech_ended", "final"]
