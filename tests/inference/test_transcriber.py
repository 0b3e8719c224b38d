"""Recordings of any length give their words with times, independent of the batch."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import SAMPLING_RATE, WORDS, speak

from finetune.audio.waveforms import CANCELLED, AudioError
from finetune.inference.recogniser import Recogniser
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript
from finetune.inference.windows import Lengths

LENGTHS = Lengths(2.0, 5.0)


@pytest.fixture
def load(tone_recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Transcriber]:
    """`load(preprocessing=(), lengths=LENGTHS, **options)` is a transcriber of tones."""

    def build(preprocessing: Sequence[Any] = (), lengths: Lengths = LENGTHS, **options: Any) -> Transcriber:
        monkeypatch.setattr(tone_recogniser, "preprocessing", tuple(preprocessing))
        monkeypatch.setattr(tone_recogniser, "trained_lengths", lengths)
        return Transcriber(tone_recogniser, **options)

    return build


def say(count: int, pause: float, seed: int = 0) -> tuple[np.ndarray, list[str], list[float]]:
    """Utterances of three words with pauses (s) of faint noise between: samples, words, and when each begins."""
    rng = np.random.default_rng(seed)
    samples, words, starts = [], [], []
    now = 0.0
    for _ in range(count):
        said = rng.choice(WORDS, size=3).tolist()
        for i in range(3):
            starts.append(now + 0.1 + 0.1 * (sum(map(len, said[:i])) + i))
        words += said
        quiet = 0.002 * rng.standard_normal(round(pause * rng.uniform(0.5, 1.5) * SAMPLING_RATE))
        samples += [speak(" ".join(said), rng), quiet.astype(np.float32)]
        now += sum(map(len, samples[-2:])) / SAMPLING_RATE
    return np.concatenate(samples), words, starts


def test_channels_that_cancel_each_other_are_transcribed_with_a_warning(
    load: Callable[..., Transcriber], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples, words, _ = say(2, 0.5)
    soundfile.write(tmp_path / "call.wav", np.stack([samples, -samples], axis=1), SAMPLING_RATE)
    assert load().transcribe(tmp_path / "call.wav").text.split() == words
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'call.wav'}: {CANCELLED}"]


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
@pytest.mark.parametrize("pause", [0.0, 0.3, 2.0])
def test_a_long_recording_gives_its_words_with_their_times(
    load: Callable[..., Transcriber], pause: float, decoder: str
) -> None:
    samples, words, starts = say(20, pause)
    transcript = load(decoder=decoder).transcribe(samples, sampling_rate=SAMPLING_RATE)
    assert transcript.text.split() == words
    assert transcript.seconds == pytest.approx(len(samples) / SAMPLING_RATE)
    assert transcript.channels == 1
    # Against a late model's times, which `place_words` expects, these are early.
    assert [word.start for word in transcript.words] == pytest.approx(starts, abs=0.15)
    assert all(a.end <= b.start for a, b in pairwise(transcript.words))
    assert transcript.words[-1].end <= transcript.seconds
    assert all(word.confidence > 0.99 for word in transcript.words)


def test_without_a_pause_windows_give_the_text_of_the_whole(load: Callable[..., Transcriber]) -> None:
    rng = np.random.default_rng(0)
    samples = np.concatenate([speak("".join(rng.choice(list("abcd"), 8)), rng)[1600:-1600] for _ in range(20)])
    windows = load(lengths=Lengths(2.0, 3.0))
    pieces, seconds = windows.compute_logits(samples, sampling_rate=SAMPLING_RATE)
    assert len(pieces) > 5 and not any(piece.after_pause for piece in pieces[1:])
    logits, [frames] = windows.recogniser.logits([samples])
    stitched = np.concatenate([piece.logits for piece in pieces])
    assert stitched.shape == (frames, 7)
    assert np.allclose(stitched, logits[0].numpy(), atol=1e-3)
    assert seconds == len(samples) / SAMPLING_RATE


def test_a_recording_as_long_as_training_utterances_is_transcribed_as_in_evaluation(
    load: Callable[..., Transcriber], tone_recogniser: Recogniser
) -> None:
    samples, words, _ = say(3, 0.8)
    transcriber = load(lengths=Lengths(2.0, 20.0))
    [text] = tone_recogniser.recognise([samples])
    transcript = transcriber.transcribe(samples, sampling_rate=SAMPLING_RATE)
    assert transcript.text.split() == text.split() == words
    pieces, _ = transcriber.compute_logits(samples, sampling_rate=SAMPLING_RATE)
    assert [piece.first_frame for piece in pieces] == [0]


def test_trimmed_silence_does_not_change_times(load: Callable[..., Transcriber]) -> None:
    samples, words, _ = say(12, 1.0)
    samples = np.concatenate([np.zeros(7777, np.float32), samples])
    plain = load().transcribe(samples, sampling_rate=SAMPLING_RATE)
    trimmed = load(preprocessing=[{"trim_silence": 30}]).transcribe(samples, sampling_rate=SAMPLING_RATE)
    assert trimmed.text.split() == plain.text.split() == words
    assert [word.start for word in trimmed.words] == pytest.approx([word.start for word in plain.words], abs=0.021)


def test_the_text_does_not_depend_on_the_batch(model_folder: Path) -> None:
    rng = np.random.default_rng(0)
    recogniser = Recogniser.load(model_folder, "cpu")
    head = recogniser.model.lm_head.weight
    head.data.copy_(np_to(rng.standard_normal(tuple(head.shape)), head))
    recogniser.trained_lengths = Lengths(1.0, 3.0)
    recordings = [(i, (0.1 * rng.standard_normal(rng.integers(4000, 90_000))).astype(np.float32)) for i in range(8)]
    found = [
        list(Transcriber(recogniser, batch_seconds=seconds).transcribe_many(recordings, sampling_rate=SAMPLING_RATE))
        for seconds in (0.1, 5, 300)
    ]
    assert [key for key, _ in found[0]] == list(range(8))
    for other in found[1:]:
        for (_, one), (_, another) in zip(found[0], other, strict=True):
            assert isinstance(one, Transcript) and isinstance(another, Transcript)
            assert [(w.text, w.start, w.end) for w in one.words] == [(w.text, w.start, w.end) for w in another.words]
    assert len({transcript.text for _, transcript in found[0] if isinstance(transcript, Transcript)}) == 8


def np_to(values: np.ndarray, like: Any) -> Any:
    return like.new_tensor(values)


def test_windows_of_several_recordings_share_batches_and_progress_is_reported(
    load: Callable[..., Transcriber], tone_recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    compute = tone_recogniser.logits

    def note(waveforms: Sequence[np.ndarray]) -> Any:
        batches.append([len(waveform) for waveform in waveforms])
        return compute(waveforms)

    monkeypatch.setattr(tone_recogniser, "logits", note)
    recordings = [say(6, 0.7, seed) for seed in range(4)]
    done: list[float] = []
    found = load(batch_seconds=20.0).transcribe_many(
        enumerate(samples for samples, _, _ in recordings), sampling_rate=SAMPLING_RATE, on_progress=done.append
    )
    texts = [transcript.text.split() for _, transcript in found if isinstance(transcript, Transcript)]
    assert texts == [words for _, words, _ in recordings]
    # More than one recording has windows, of similar lengths, padded to no more than was asked for.
    assert max(map(len, batches)) > 6
    assert all(len(batch) * max(batch) <= 20 * SAMPLING_RATE for batch in batches)
    assert all(min(batch) > 0.6 * max(batch) for batch in batches[:-1])
    assert sum(done) == pytest.approx(sum(len(samples) for samples, _, _ in recordings) / SAMPLING_RATE)
    assert min(done) >= 0 and len(done) > len(batches)


def test_an_unreadable_recording_does_not_stop_the_others(load: Callable[..., Transcriber], tmp_path: Path) -> None:
    samples, words, _ = say(8, 0.5)
    soundfile.write(tmp_path / "good.wav", samples, SAMPLING_RATE)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "cut.flac", samples, SAMPLING_RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:200_000])
    soundfile.write(tmp_path / "short.wav", samples[:500], SAMPLING_RATE)
    names = ["good.wav", "bad.wav", "cut.flac", "short.wav", "missing.wav", "good.wav"]
    done: list[float] = []
    found = dict(
        enumerate(load().transcribe_many([(name, tmp_path / name) for name in names], on_progress=done.append))
    )
    assert [key for key, _ in found.values()] == names
    results = [result for _, result in found.values()]
    assert [type(result) for result in results] == [Transcript, *[AudioError] * 4, Transcript]
    assert results[0].text.split() == results[5].text.split() == words
    assert "too short: 0.031 s; expected 0.05 s or more" in str(results[3])
    assert min(done) >= 0
    assert sum(done) >= 2 * len(samples) / SAMPLING_RATE - 1e-6
    with pytest.raises(AudioError, match="no such file"):
        load().transcribe(tmp_path / "missing.wav")


def test_channels_of_a_call_are_transcribed_separately(load: Callable[..., Transcriber], tmp_path: Path) -> None:
    (left, said, _), (right, answered, _) = say(10, 1.0, 0), say(8, 1.0, 1)
    call = np.zeros((max(len(left), len(right)), 3), np.float32)
    call[: len(left), 0], call[: len(right), 1] = left, right
    transcript = load().transcribe(call, sampling_rate=SAMPLING_RATE, separate_channels=True)
    assert transcript.channels == 3
    assert transcript.text == f"{' '.join(said)}\n{' '.join(answered)}\n"
    assert {word.channel for word in transcript.words} == {1, 2}
    starts = [word.start for word in transcript.words]
    assert starts == sorted(starts)


def test_several_threads_use_one_transcriber(load: Callable[..., Transcriber]) -> None:
    transcriber = load(decoder="beam")
    recordings = [say(6, 0.6, seed) for seed in range(4)]
    found: dict[int, str] = {}

    def run(i: int) -> None:
        found[i] = transcriber.transcribe(recordings[i][0], sampling_rate=SAMPLING_RATE).text

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [found[i].split() for i in range(4)] == [words for _, words, _ in recordings]


def test_closing_the_iterator_ends_the_reading_thread(load: Callable[..., Transcriber]) -> None:
    drawn = []

    def endless() -> Any:
        samples, _, _ = say(4, 0.5)
        for i in range(10**6):
            drawn.append(i)
            yield i, samples

    found = load(batch_seconds=5.0).transcribe_many(endless(), sampling_rate=SAMPLING_RATE)
    assert next(found)[0] == 0
    found.close()
    deadline = time.monotonic() + 10
    while any(thread.name == "reading" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "reading" for thread in threading.enumerate())
    assert len(drawn) < 50


def test_exceptions_of_the_recordings_are_raised(load: Callable[..., Transcriber]) -> None:
    def broken() -> Any:
        yield 0, say(2, 0.5)[0]
        raise RuntimeError("the list ended too soon")

    found = load().transcribe_many(broken(), sampling_rate=SAMPLING_RATE)
    with pytest.raises(RuntimeError, match="the list ended too soon"):
        list(found)


def test_hours_of_silence_give_no_words(load: Callable[..., Transcriber]) -> None:
    transcript = load().transcribe(np.zeros(3600 * 8000, np.int16), sampling_rate=8000)
    assert transcript == Transcript((), 3600.0)


_MEASURE = """
import io, resource, struct, sys
import numpy as np, torch
from finetune.inference.transcriber import Transcriber

class Talk(io.RawIOBase):
    # A WAV file of so many minutes that is nowhere: of each, three seconds are loud.
    def __init__(self, minutes):
        samples = 3000 * np.random.default_rng(0).standard_normal(960_000)
        samples[48_000:] /= 1000
        self.minute = samples.astype("<i2").tobytes()
        size = minutes * len(self.minute)
        self.header = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack(
            "<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16) + b"data" + struct.pack("<I", size)
        self.size, self.place = size + len(self.header), 0
    def readable(self): return True
    def seekable(self): return True
    def tell(self): return self.place
    def seek(self, offset, whence=0):
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place
    def readinto(self, buffer):
        if self.place < len(self.header):
            piece = self.header[self.place:]
        else:
            piece = self.minute[(self.place - len(self.header)) % len(self.minute):]
        piece = piece[:min(len(buffer), self.size - self.place)]
        buffer[:len(piece)] = piece
        self.place += len(piece)
        return len(piece)

torch.set_num_threads(1)
transcriber = Transcriber(sys.argv[1])
for minutes in map(int, sys.argv[2:]):
    transcript = transcriber.transcribe(Talk(minutes))
    print(transcript.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.long
def test_hours_take_no_more_memory_than_minutes(model_folder: Path) -> None:
    program = [sys.executable, "-c", _MEASURE, str(model_folder), "5", "60"]
    said = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True).stdout.split()
    seconds, megabytes = [float(each) for each in said[::2]], [float(each) for each in said[1::2]]
    assert seconds == [300, 3600]
    # An hour's samples are 230 MB.
    assert megabytes[1] < megabytes[0] + 50
