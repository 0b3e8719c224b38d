"""Alignment of recordings with their texts, with a recogniser of tones."""

from collections.abc import Sequence

import numpy as np
import pytest
from conftest import LETTER_SECONDS, SAMPLING_RATE, speak
from numpy.typing import NDArray
from tones import build_tone_recogniser

from finetune.errors import UserError
from finetune.inference.aligner import align_text
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript
from finetune.text.transcripts import DEFAULT_TRANSFORMS


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(build_tone_recogniser(), device="cpu")


def say(*texts: str, pause_seconds: float = 0.0) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Texts one after another, and from when to when each of their words is said."""
    rng = np.random.default_rng(0)
    audio: list[NDArray[np.float32]] = []
    times = []
    samples = 0
    for text in texts:
        at = samples / SAMPLING_RATE + LETTER_SECONDS
        for word in text.split():
            times.append((at, at + len(word) * LETTER_SECONDS))
            at = times[-1][1] + LETTER_SECONDS
        audio.append(speak(text, rng))
        audio.append(0.002 * rng.standard_normal(round(pause_seconds * SAMPLING_RATE)).astype(np.float32))
        samples += len(audio[-1]) + len(audio[-2])
    return np.concatenate(audio), times


def align(transcriber: Transcriber, audio: NDArray[np.float32], text: str) -> Transcript:
    return align_text(transcriber, audio, text, sampling_rate=SAMPLING_RATE)


def assert_near(transcript: Transcript, times: Sequence[tuple[float, float]]) -> None:
    found = [(word.start, word.end) for word in transcript.words if word.found]
    np.testing.assert_allclose(found, times, atol=0.06)


def test_the_words_of_a_text_are_found_as_they_are_written(transcriber: Transcriber) -> None:
    audio, times = say("bad cab add dab")
    transcript = align(transcriber, audio, "— Bad cab –\n“Add”, DAB!")
    assert [word.text for word in transcript.words] == ["— Bad", "cab –", "“Add”,", "DAB!"]
    assert all(word.found and word.confidence > 0.9 for word in transcript.words)
    assert_near(transcript, times)
    assert [character.text for character in transcript.words[2].characters] == ["a", "d", "d"]
    assert transcript.seconds == len(audio) / SAMPLING_RATE


def test_a_recording_of_many_windows_is_aligned_as_one(transcriber: Transcriber) -> None:
    """A minute without speech is longer than a window."""
    texts = ["bad cab add dab", "dad add ab cab bad dad"] * 12
    audio, times = say(*texts[:12], pause_seconds=0.6)
    more, later = say(*texts[12:], pause_seconds=2.0)
    silence = np.zeros(60 * SAMPLING_RATE, np.float32)
    shift = (len(audio) + len(silence)) / SAMPLING_RATE
    transcript = align(transcriber, np.concatenate([audio, silence, more]), " ".join(texts))
    assert all(word.found for word in transcript.words)
    assert_near(transcript, times + [(start + shift, end + shift) for start, end in later])


def test_words_that_are_not_in_the_audio_are_flagged(transcriber: Transcriber) -> None:
    audio, times = say("bad cab add dab")
    transcript = align(transcriber, audio, "bad cab dad dad bad add")
    assert [word.found for word in transcript.words] == [True, True, False, False, False, True]
    assert_near(transcript, times[:3])
    missing = transcript.words[2:5]
    assert all(times[1][1] - 0.06 <= word.start <= word.end <= times[2][0] + 0.06 for word in missing)
    assert {word.confidence for word in missing} == {0.0}


def test_a_word_is_aligned_by_its_spoken_form(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ({"replace": ["2", " cab bad "]}, *DEFAULT_TRANSFORMS)
    monkeypatch.setattr(transcriber.recogniser, "normalization", steps)
    audio, times = say("bad cab bad dab")
    transcript = align(transcriber, audio, "bad 2 dxx")
    assert [word.text for word in transcript.words] == ["bad", "2", "dxx"]
    assert_near(transcript, [times[0], (times[1][0], times[2][1]), times[3]])


def test_words_are_not_found_in_silence(transcriber: Transcriber) -> None:
    for seconds in (2, 30):
        transcript = align(transcriber, np.zeros(seconds * SAMPLING_RATE, np.float32), "bad cab")
        assert [word.found for word in transcript.words] == [False, False]
        assert all(0 <= word.start <= word.end <= seconds for word in transcript.words)


def test_a_text_without_words_is_refused(transcriber: Transcriber) -> None:
    with pytest.raises(UserError, match="no words"):
        align(transcriber, say("bad")[0], " … \n")
