"""Streams become events in order, the same ones however they are divided, and finals are what recordings give."""

import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLING_RATE, WORDS, speak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.audio.resampling import resample
from finetune.audio.waveforms import AudioError
from finetune.decoding.beam import BeamSearch
from finetune.decoding.greedy import GreedySearch
from finetune.inference.events import Event, Final, Partial, SpeechEnded, SpeechStarted
from finetune.inference.live import LiveContext, LiveTranscriber
from finetune.inference.recogniser import Recogniser
from finetune.inference.windows import Lengths

CONTEXT = LiveContext(left=1.0, right=0.2, hop=0.1)


@pytest.fixture(scope="module")
def build(tone_recogniser: Recogniser) -> Iterable[Callable[[str], LiveTranscriber]]:
    """`build(decoder)` is a live transcriber of tones, trained on utterances of 2 s on average and at most 5 s."""
    before = tone_recogniser.trained_lengths
    tone_recogniser.trained_lengths = Lengths(2.0, 5.0)
    yield lambda decoder: LiveTranscriber(tone_recogniser, context=CONTEXT, decoder=decoder)
    tone_recogniser.trained_lengths = before


@pytest.fixture(scope="module")
def live(build: Callable[[str], LiveTranscriber]) -> LiveTranscriber:
    """One that decodes greedily."""
    return build("greedy")


def say(pauses: Sequence[float], seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Utterances of three words, each after a pause (s) of faint noise: samples and words."""
    rng = np.random.default_rng(seed)
    samples, words = [], []
    for pause in pauses:
        said = rng.choice(WORDS, size=3).tolist()
        words += said
        samples += [0.002 * rng.standard_normal(round(pause * SAMPLING_RATE)), speak(" ".join(said), rng)]
    return np.concatenate(samples).astype(np.float32), words


def stream(live: LiveTranscriber, chunks: Iterable[Any], rate: int = SAMPLING_RATE, **options: Any) -> list[Event]:
    session = live.session(rate, **options)
    events = [event for chunk in chunks for event in session.feed(chunk)]
    return events + session.finish()


def divide(samples: np.ndarray, sizes: Iterable[int]) -> Iterable[np.ndarray]:
    place = 0
    for size in sizes:
        yield samples[place : place + size]
        place += size
    yield samples[place:]


def check_order(events: Sequence[Event]) -> list[Final]:
    """Each segment is started, shown, ended and final; stable text only grows; times only advance."""
    finals: list[Final] = []
    shown: list[Partial] = []
    started = ended = None
    for event in events:
        match event:
            case SpeechStarted():
                assert started is None and event.start >= (finals[-1].end - 0.6 if finals else 0)
                started = event.start
            case Partial():
                assert event.start == started and ended is None
                assert event.text.startswith(event.stable)
                shown.append(event)
            case SpeechEnded():
                assert started is not None and ended is None and event.end > started
                ended = event.end
            case Final():
                assert (event.start, event.end) == (started, ended)
                assert all(event.start <= word.start <= word.end <= event.end + 1e-6 for word in event.words)
                assert all(a.end <= b.start + 1e-9 for a, b in pairwise(event.words))
                assert event.text.split() == [word.text for word in event.words]
                finals.append(event)
                for before, after in pairwise(shown):
                    assert after.stable.startswith(before.stable) and after.stable_until >= before.stable_until
                started, ended, shown = None, None, []
    assert started is ended is None
    return finals


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_words_are_shown_as_they_are_spoken_and_each_segment_is_final(
    build: Callable[[str], LiveTranscriber], decoder: str
) -> None:
    live, (samples, words) = build(decoder), say([1.0, 1.5, 0.8])
    events = stream(live, divide(samples, [1600] * (len(samples) // 1600)))
    finals = check_order(events)
    assert [word for final in finals for word in final.text.split()] == words and len(finals) == 3
    first = next(event for event in events if isinstance(event, Partial) and words[0] in event.stable.split()[:1])
    # The first word of up to 0.4 s begins 1 s after the stream does: stable with the right context and a hop more.
    assert first.stable_until <= 1.0 + 0.4 + 0.2
    assert {final.confidence is not None and final.confidence > 0.9 for final in finals} == {True}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    decoder=st.sampled_from(["greedy", "greedy", "greedy", "beam"]),
    pauses=st.lists(st.floats(0, 2.5), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 40_000), max_size=30),
    seed=st.integers(0, 99),
)
def test_however_a_stream_is_divided_its_events_are_the_same(
    build: Callable[[str], LiveTranscriber], decoder: str, pauses: list[float], sizes: list[int], seed: int
) -> None:
    live, (samples, words) = build(decoder), say(pauses, seed)
    whole = stream(live, [samples])
    assert stream(live, divide(samples, sizes)) == whole
    finals = check_order(whole)
    assert [word for final in finals for word in final.text.split()] == words
    for final in finals:
        piece = samples[round(final.start * SAMPLING_RATE) : round(final.end * SAMPLING_RATE)]
        assert live.transcriber.transcribe(piece, sampling_rate=SAMPLING_RATE).text == final.text


@pytest.mark.long
@pytest.mark.parametrize(
    ("longest", "utterances"),
    [
        (5.0, 60),
        pytest.param(20.0, 53, marks=pytest.mark.slow),
        pytest.param(20.0, 55, marks=pytest.mark.slow),
        (20.0, 60),
    ],
)
def test_speech_that_never_pauses_is_cut_between_words(
    live: LiveTranscriber, monkeypatch: pytest.MonkeyPatch, longest: float, utterances: int
) -> None:
    monkeypatch.setattr(live.recogniser, "trained_lengths", Lengths(longest / 2, longest))
    samples, words = say([0.0] * utterances)
    finals = check_order(stream(live, divide(samples, [16_000] * (len(samples) // 16_000))))
    assert len(samples) > 61 * SAMPLING_RATE and max(final.end - final.start for final in finals) < 70
    assert [word for final in finals for word in final.text.split()] == words


def test_stable_text_of_a_beam_search_keeps_up(build: Callable[[str], LiveTranscriber]) -> None:
    """Unlikely hypotheses of the first word hold up no others."""
    samples, words = say([0.0] * 6)
    shown = [event for event in stream(build("beam"), [samples]) if isinstance(event, Partial)]
    assert len(shown[-1].stable.split()) >= len(words) - 2


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_partial_texts_have_the_spaces_of_their_script_as_final_ones_have(
    build: Callable[[str], LiveTranscriber], decoder: str
) -> None:
    live, (samples, _) = build(decoder), say([1.0])
    kind = GreedySearch if decoder == "greedy" else BeamSearch
    live.transcriber.search = kind(("", "|", "你", "好", "我", "们", ""), blank_id=0, delimiter_id=1, special_ids=[6])
    events = stream(live, divide(samples, [1600] * (len(samples) // 1600)))
    final = next(event.text for event in events if isinstance(event, Final))
    shown = [event for event in events if isinstance(event, Partial)]
    assert len(final) > 6 and " " not in final
    assert all(final.startswith(event.stable) and " " not in event.text for event in shown) and shown[-1].stable


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_give_the_same_words(live: LiveTranscriber, rate: int) -> None:
    samples, words = say([0.5, 1.0])
    events = stream(live, [resample(samples, SAMPLING_RATE, rate)], rate)
    assert [word for final in check_order(events) for word in final.text.split()] == words


def encode_mulaw(samples: np.ndarray) -> bytes:
    """ITU-T G.711: the nearest of the codes' values, by a search that needs no formula."""
    from finetune.audio.samples import _TABLES

    table = _TABLES["mulaw"]
    return np.abs(samples[:, None] - table[None]).argmin(axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize("encoding", ["s16le", "f32le", "mulaw"])
def test_bytes_are_decoded_wherever_they_are_cut(live: LiveTranscriber, encoding: Any, logged: list[str]) -> None:
    samples, words = say([0.5, 1.0])
    stored = {
        "s16le": lambda: (samples * 2**15).astype("<i2").tobytes(),
        "f32le": lambda: samples.astype("<f4").tobytes(),
        "mulaw": lambda: encode_mulaw(samples),
    }[encoding]()
    chunks = [stored[first : first + 1001] for first in range(0, len(stored), 1001)]
    events = stream(live, [*chunks, b"\1"], encoding=encoding)
    assert [word for final in check_order(events) for word in final.text.split()] == words
    assert len(logged) == (0 if encoding == "mulaw" else 1)


def test_one_channel_of_several_is_heard(live: LiveTranscriber) -> None:
    samples, words = say([0.5])
    both = np.stack([np.zeros_like(samples), samples], axis=1)
    events = stream(live, [both], channels=2, channel=2)
    assert [word for final in check_order(events) for word in final.text.split()] == words
    assert stream(live, [both], channels=2, channel=1) == []


def test_channels_that_cancel_each_other_are_not_mixed(live: LiveTranscriber, logged: list[str]) -> None:
    samples, words = say([0.5, 0.7])
    inverted = np.stack([samples, -0.98 * samples], axis=1)
    chunks = list(divide(inverted, [4001] * 9))
    events = stream(live, chunks, channels=2)
    assert [word for final in check_order(events) for word in final.text.split()] == words
    assert events == stream(live, [inverted], channels=2)
    assert len(logged) == 2 and logged[0].startswith("note: the stream: its channels cancel each other"), (
        "once for each"
    )


def test_a_quiet_block_does_not_change_how_channels_are_mixed(live: LiveTranscriber) -> None:
    samples, words = say([0.2, 1.5, 1.5])
    noise = 0.03 * np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
    noise[:3200] = 0
    expected = stream(live, [samples])
    # The channels' noise cancels in the mean, and alone it would look like channels that cancel each other.
    events = stream(live, [np.stack([samples + noise, samples - noise], axis=1)], channels=2)
    finals = check_order(events)
    assert [final.text for final in finals] == [final.text for final in check_order(expected)]
    assert [word for final in finals for word in final.text.split()] == words


def test_what_cannot_be_heard_ends_its_session_alone(live: LiveTranscriber) -> None:
    samples, words = say([0.5])
    good, bad = live.session(SAMPLING_RATE), live.session(SAMPLING_RATE)
    events = good.feed(samples[:8000])
    bad.feed(samples[:8000])
    with pytest.raises(AudioError, match=r"not numbers, the first at 0\.50 s"):
        bad.feed(np.full(10, np.nan, np.float32))
    with pytest.raises(ValueError, match="has ended"):
        bad.feed(samples)
    assert bad.finish() == []
    events += good.feed(samples[8000:]) + good.finish()
    assert [word for final in check_order(events) for word in final.text.split()] == words
    with pytest.raises(ValueError, match="has ended"):
        good.feed(samples)
    with pytest.raises(AudioError, match="expected numbers"):
        live.session(SAMPLING_RATE).feed(np.zeros((10, 3), np.float32))
    with pytest.raises(AudioError, match="channel 0 of 2"):
        live.session(SAMPLING_RATE, channels=2, channel=0)
    with pytest.raises(AudioError, match="a sampling rate of 0 Hz; expected 1000 to 192000"):
        live.session(0)
    with pytest.raises(TypeError, match="a str is not audio"):
        live.session(SAMPLING_RATE).feed("audio")  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="channel 3 of 2"):
        live.session(SAMPLING_RATE, channels=2, channel=3)
    assert live.session(SAMPLING_RATE).finish() == []


@pytest.mark.long
def test_memory_does_not_grow_and_dropped_sessions_leave_nothing(live: LiveTranscriber) -> None:
    samples, _ = say([0.7] * 10)
    session = live.session(SAMPLING_RATE)
    session.feed(samples)
    threads = threading.active_count()
    tracemalloc.start()
    for _ in range(3):
        session.feed(samples)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(8):
        session.feed(samples)
        live.session(SAMPLING_RATE).feed(samples[: len(samples) // 7])  # Dropped in a word.
    session.feed(np.zeros(60 * SAMPLING_RATE, np.float32))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 2**20 and threading.active_count() == threads
