"""Sessions that are computed together give what each gives alone, in turn, and trouble stays with its session."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import SAMPLING_RATE, WORDS, speak

from finetune.audio.recordings import AudioError
from finetune.inference.events import Event, Final, Partial
from finetune.inference.live import LiveContext, LiveTranscriber
from finetune.inference.live_engine import EngineSession, LiveEngine, Overloaded
from finetune.inference.recogniser import Recogniser
from finetune.inference.windows import Lengths


@pytest.fixture(scope="module")
def live(tone_recogniser: Recogniser) -> Iterator[LiveTranscriber]:
    before = tone_recogniser.trained_lengths
    tone_recogniser.trained_lengths = Lengths(2.0, 5.0)
    yield LiveTranscriber(tone_recogniser, context=LiveContext(left=1.0, right=0.2, hop=0.1), decoder="greedy")
    tone_recogniser.trained_lengths = before


def say(seed: int, count: int = 3) -> np.ndarray:
    """Utterances of three words with pauses of 0.7 s of faint noise."""
    rng = np.random.default_rng(seed)
    parts: list[Any] = []
    for _ in range(count):
        parts += [0.002 * rng.standard_normal(round(0.7 * SAMPLING_RATE)), speak(" ".join(rng.choice(WORDS, 3)), rng)]
    return np.concatenate(parts).astype(np.float32)


def expect(live: LiveTranscriber, samples: np.ndarray) -> list[Event]:
    session = live.session(SAMPLING_RATE)
    return session.feed(samples) + session.finish()


def read(session: EngineSession, events: list[Event]) -> list[Event]:
    events += session.events()
    return events


def test_sessions_of_several_threads_give_what_each_gives_alone(live: LiveTranscriber) -> None:
    engine, stop = LiveEngine(live), threading.Event()
    speeches = [say(seed) for seed in range(4)]
    found: list[list[Event]] = [[] for _ in speeches]

    def speak_to(number: int) -> None:
        session = engine.open(SAMPLING_RATE)
        for first in range(0, len(speeches[number]), 5000):
            session.feed(speeches[number][first : first + 5000])
            read(session, found[number])
        session.finish()
        while not session.ended:
            read(session, found[number])
        read(session, found[number])

    computing = [threading.Thread(target=engine.run, args=(stop.is_set,)) for _ in range(2)]
    threads = [threading.Thread(target=speak_to, args=(number,)) for number in range(4)]
    for thread in (*computing, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    for thread in computing:
        thread.join(10)
    assert not any(thread.is_alive() for thread in (*computing, *threads))
    for samples, events in zip(speeches, found, strict=True):
        expected = expect(live, samples)
        # Partial texts that nobody had read are replaced by the next.
        assert [each for each in events if not isinstance(each, Partial)] == [
            each for each in expected if not isinstance(each, Partial)
        ]
        assert [each for each in events if isinstance(each, Partial)][-1] in expected


def test_a_backlog_holds_up_no_other_session(live: LiveTranscriber) -> None:
    """One session feeds a minute at once; the other gets its events after twice as many steps as it has windows."""
    engine = LiveEngine(live, max_lag_seconds=100)
    greedy, patient = engine.open(SAMPLING_RATE), engine.open(SAMPLING_RATE)
    greedy.feed(say(0, 40))
    samples = say(1, 1)
    patient.feed(samples)
    patient.finish()
    steps = 0
    while not patient.ended:
        assert engine.step()
        steps += 1
    assert steps <= 2 * (len(samples) / SAMPLING_RATE / 0.1 + 3) and greedy.lag_seconds > 50
    assert [event.text for event in patient.events() if isinstance(event, Final)] == [
        event.text for event in expect(live, samples) if isinstance(event, Final)
    ]


def test_what_is_too_much_is_refused(live: LiveTranscriber) -> None:
    engine = LiveEngine(live, max_sessions=2, max_lag_seconds=5, max_unread=4)
    first, second = engine.open(SAMPLING_RATE), engine.open(SAMPLING_RATE)
    with pytest.raises(Overloaded, match="2 sessions are open"):
        engine.open(SAMPLING_RATE)
    second.close()
    third = engine.open(SAMPLING_RATE)
    third.feed(say(0, 10))
    with pytest.raises(Overloaded, match="s behind: feed it no faster"):
        third.feed(say(0))
    while engine.step():
        pass
    with pytest.raises(Overloaded, match="4 events of the session were not read"):
        while third.events():
            pass
    assert third.ended and not first.ended and engine.open(SAMPLING_RATE)


def test_trouble_stays_with_its_session(live: LiveTranscriber, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, samples = LiveEngine(live), say(2)
    good, silent, broken = (engine.open(SAMPLING_RATE) for _ in range(3))
    with pytest.raises(AudioError, match="not numbers"):
        silent.feed(np.full(100, np.nan, np.float32))
    with pytest.raises(AudioError, match="not numbers"):
        silent.events()
    compute = live.recogniser.logits

    def fail(waveforms: Any) -> Any:
        if any(np.abs(waveform).max() > 5 for waveform in waveforms):
            raise RuntimeError("CUDA error: an illegal memory access")
        return compute(waveforms)

    monkeypatch.setattr(live.recogniser, "logits", fail)
    broken.feed(20 * samples)
    good.feed(samples)
    good.finish()
    while engine.step():
        pass
    with pytest.raises(AudioError, match="CUDA error"):
        while broken.events():
            pass
    with pytest.raises(AudioError, match="CUDA error"):
        broken.feed(samples)
    with pytest.raises(ValueError, match="has ended"):
        good.feed(samples)
    finals = [event for event in good.events() if isinstance(event, Final)]
    assert finals == [event for event in expect(live, samples) if isinstance(event, Final)] and good.ended


def test_sessions_that_are_dropped_in_a_word_leave_nothing(live: LiveTranscriber) -> None:
    engine, samples = LiveEngine(live, max_sessions=1), say(3, 1)
    for _ in range(20):
        session = engine.open(SAMPLING_RATE)
        session.feed(samples[: len(samples) - 3000])
        for _ in range(5):
            engine.step()
        session.close()
        with pytest.raises(ValueError, match="has ended"):
            session.feed(samples)
    assert not engine.step() and engine.open(SAMPLING_RATE)


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute_and_200_dropped_sessions_none(live: LiveTranscriber) -> None:
    """The process's own memory, as the allocator and torch count in it; silence for ten minutes is in the hour."""
    process, samples = psutil.Process(), say(4, 20)
    session = live.session(SAMPLING_RATE)
    for _ in range(3):
        session.feed(samples)
    threads, handles, before = process.num_threads(), process.num_fds(), process.memory_info().rss
    for _ in range(round(50 * 60 * SAMPLING_RATE / len(samples))):
        assert any(isinstance(event, Final) for event in session.feed(samples))
    for _ in range(10):
        session.feed(np.zeros(60 * SAMPLING_RATE, np.float32))
    engine = LiveEngine(live, max_sessions=1)
    for _ in range(200):
        dropped = engine.open(SAMPLING_RATE)
        dropped.feed(samples[: SAMPLING_RATE * 2])
        engine.step()
        dropped.close()
    assert process.memory_info().rss - before < 20e6
    assert (process.num_threads(), process.num_fds()) == (threads, handles)


def test_a_session_that_is_closed_while_it_is_computed_delivers_nothing(live: LiveTranscriber) -> None:
    engine = LiveEngine(live, max_unread=0)
    session = engine.open(SAMPLING_RATE)
    session.feed(say(0, 1))
    session.close()
    session._deliver([Final("late", (), 0.0, 1.0, None)])
    assert session.events() == []
    session.fail(AudioError("late"))
    assert session.events() == []
