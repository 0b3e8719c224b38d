"""The engine: who is computed next, what a full queue says, and what ends a recording."""

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLING_RATE, WORDS, speak

from finetune.audio.recordings import AudioError
from finetune.inference.recogniser import Recogniser
from finetune.inference.stepwise import StepwiseTranscription
from finetune.inference.transcriber import Transcriber
from finetune.serving.engine import Busy, Cancelled, FileEngine, Job


class SlowRecogniser:
    """A recogniser that needs 20 ms for a window, and remembers the lengths of windows in their order."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser, self.lengths = recogniser, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recogniser, name)

    def logits(self, waveforms: Any) -> Any:
        time.sleep(0.02)
        self.lengths += [len(waveform) for waveform in waveforms]
        if any(np.isnan(waveform).any() for waveform in waveforms):
            raise RuntimeError("the device has failed")
        return self._recogniser.logits(waveforms)


@pytest.fixture(scope="module")
def transcriber(tone_folder: Path) -> Transcriber:
    return Transcriber(tone_folder)


@pytest.fixture
def engine() -> Iterator[FileEngine]:
    with_one_thread = FileEngine(1, 8)
    yield with_one_thread
    with_one_thread.close(5)


def talk(num_texts: int, seed: int) -> tuple[np.ndarray, str]:
    """Speech with pauses of a second, and its text."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=3)) for _ in range(num_texts)]
    quiet = np.zeros(SAMPLING_RATE)
    samples = np.concatenate([part for text in texts for part in (speak(text, rng), quiet)]).astype(np.float32)
    return samples, " ".join(texts)


def make_job(transcriber: Transcriber, key: str, samples: np.ndarray, recogniser: Any = None) -> Job:
    # Samples at the model's rate are read like a file.
    transcription = StepwiseTranscription(transcriber, _as_file(samples))
    return Job(key, recogniser or transcriber.recogniser, transcription, 1)


def _as_file(samples: np.ndarray) -> Any:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    file.seek(0)
    return file


def test_texts_are_those_of_the_transcriber_and_no_one_elses(transcriber: Transcriber) -> None:
    engine = FileEngine(3, 100)
    talks = [talk(1 + number % 5, number) for number in range(24)]
    jobs = [make_job(transcriber, f"key{number % 3}", samples) for number, (samples, _) in enumerate(talks)]
    for job in jobs:
        engine.submit(job)
    for job, (_, text) in zip(jobs, talks, strict=True):
        assert job.done.result(30).text == text
    engine.close(1)


def test_a_short_recording_does_not_wait_for_a_long_one(engine: FileEngine, transcriber: Transcriber) -> None:
    slow = SlowRecogniser(transcriber.recogniser)
    ends: list[str] = []
    jobs = {"long": make_job(transcriber, "a", talk(30, 0)[0], slow)}
    jobs |= {f"short{n}": make_job(transcriber, "a", talk(1, n)[0], slow) for n in range(3)}
    for name, job in jobs.items():
        job.done.add_done_callback(lambda _, name=name: ends.append(name))
        engine.submit(job)
    for job in jobs.values():
        job.done.result(30)
    assert ends[-1] == "long"


def test_many_recordings_of_one_key_do_not_delay_another_key(engine: FileEngine, transcriber: Transcriber) -> None:
    slow = SlowRecogniser(transcriber.recogniser)
    many = [make_job(transcriber, "greedy", talk(6, n)[0], slow) for n in range(6)]
    for job in many:
        engine.submit(job)
    time.sleep(0.1)
    one = make_job(transcriber, "modest", talk(6, 9)[0], slow)
    engine.submit(one)
    one.done.result(30)
    # Both keys had about half of the work so far: six windows, and few of the 36.
    assert len(slow.lengths) <= 6 + 6 + 8
    for job in many:
        job.done.result(30)


@pytest.mark.parametrize("key", ["a", "b"])
def test_a_long_recording_ends_although_short_ones_never_do(transcriber: Transcriber, key: str) -> None:
    """Of the same key it gets a window for each that it has waited as long as, of another one half of the work."""
    engine, slow = FileEngine(1, 8), SlowRecogniser(transcriber.recogniser)
    long = make_job(transcriber, key, talk(3, 0)[0], slow)
    short, shorts = talk(1, 1)[0], deque[Job]()

    def submit_short() -> None:
        shorts.append(make_job(transcriber, "a", short, slow))
        engine.submit(shorts[-1])

    for _ in range(4):
        submit_short()
    engine.submit(long)
    for _ in range(400):
        shorts.popleft().done.result(30)
        if long.done.done():
            break
        submit_short()
    assert long.done.done()
    engine.close(5)


def test_a_full_engine_refuses_and_says_when_to_come_back(transcriber: Transcriber) -> None:
    engine = FileEngine(1, 2)
    slow = SlowRecogniser(transcriber.recogniser)
    jobs = [make_job(transcriber, "a", talk(5, n)[0], slow) for n in range(2)]
    for job in jobs:
        engine.submit(job)
    with pytest.raises(Busy) as caught:
        engine.submit(make_job(transcriber, "b", talk(1, 0)[0]))
    assert 1 <= caught.value.retry_seconds <= 5
    for job in jobs:
        job.done.result(30)
    again = make_job(transcriber, "b", talk(1, 0)[0])
    engine.submit(again)
    assert again.done.result(30).words
    engine.close(1)


def test_what_fails_or_goes_ends_alone(engine: FileEngine, transcriber: Transcriber) -> None:
    slow = SlowRecogniser(transcriber.recogniser)
    broken = make_job(transcriber, "a", np.full(SAMPLING_RATE, np.nan, np.float32))
    empty = make_job(transcriber, "a", np.zeros(0, np.float32))
    gone = make_job(transcriber, "a", talk(50, 0)[0], slow)
    good = make_job(transcriber, "a", talk(3, 1)[0], slow)
    for job in (broken, empty, gone, good):
        engine.submit(job)
    time.sleep(0.1)
    gone.gone.set()
    assert isinstance(broken.done.exception(30), AudioError) and isinstance(empty.done.exception(30), AudioError)
    assert isinstance(gone.done.exception(30), Cancelled)
    assert good.done.result(30).text == talk(3, 1)[1]
    assert len(slow.lengths) < 50


def test_who_goes_leaves_before_others_are_computed(engine: FileEngine, transcriber: Transcriber) -> None:
    slow = SlowRecogniser(transcriber.recogniser)
    long, *others = (make_job(transcriber, "a", talk(count, 0)[0], slow) for count in (60, *[10] * 7))
    engine.submit(long)
    while long.computed_seconds < 60:
        time.sleep(0.001)
    for job in others:
        engine.submit(job)
    while not others[0].computed_seconds:
        time.sleep(0.001)
    long.gone.set()
    assert isinstance(long.done.exception(30), Cancelled)
    assert sum(job.computed_seconds > 0 for job in others) < 5


def test_a_bug_ends_its_recording_and_not_the_engine(transcriber: Transcriber) -> None:
    engine = FileEngine(1, 8, on_step=lambda step: 1 / 0)
    first, second = (make_job(transcriber, "a", talk(2, n)[0]) for n in range(2))
    for job in (first, second):
        engine.submit(job)
        assert isinstance(job.done.exception(10), ZeroDivisionError)
    assert engine.num_jobs == 0
    engine.close(1)


def test_live_sessions_hold_recordings_back_for_a_while(transcriber: Transcriber) -> None:
    engine = FileEngine(1, 8, must_wait=lambda: True)
    job = make_job(transcriber, "a", talk(2, 0)[0])
    began = time.monotonic()
    engine.submit(job)
    assert job.done.result(30).text == talk(2, 0)[1]
    assert 0.9 < time.monotonic() - began < 10  # A second for the window.
    engine.close(1)


def test_an_end_waits_for_what_has_begun_and_drops_the_rest(transcriber: Transcriber) -> None:
    slow = SlowRecogniser(transcriber.recogniser)
    engine = FileEngine(1, 8)
    short, long = (make_job(transcriber, "a", talk(count, 0)[0], slow) for count in (3, 400))
    engine.submit(short)
    engine.submit(long)
    engine.close(1.5)
    assert short.done.result(0).words and isinstance(long.done.exception(0), Cancelled)
