"""Cutting recordings of tones at pauses, where their text is what is said and where it is not."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from conftest import LETTER_SECONDS, SAMPLING_RATE, speak
from numpy.typing import NDArray
from tones import build_tone_recogniser

from finetune.audio.speech_activity import EnergyDetector
from finetune.errors import UserError
from finetune.inference import matching
from finetune.inference.matching import match_text
from finetune.inference.segmentation import (
    DIFFERENT,
    NO_PAUSE,
    NOT_IN_SPEECH,
    NOT_IN_TEXT,
    SHORT,
    UNHEARD,
    Limits,
    Passage,
    cut_passages,
    find_speech,
)
from finetune.inference.transcriber import Transcriber
from finetune.text.transcripts import DEFAULT_TRANSFORMS

SAID = ["bad cab add", "dab dad ab cab", "cab add dab", "ab bad dab", "dad dad add bad", "bad cab ab"]
SHORT_UTTERANCES = Limits(max_seconds=2.4)
WRITTEN = "Bad, cab add. — Dab dad: ab cab! “Cab” add dab; ab bad dab.\n\nDad dad add bad, bad cab AB."


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(build_tone_recogniser(), device="cpu")


def say(texts: Sequence[str], pause_seconds: float = 0.6, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    silence = round(pause_seconds * SAMPLING_RATE)
    return np.concatenate(
        [part for text in texts for part in (speak(text, rng), 0.002 * rng.standard_normal(silence).astype(np.float32))]
    )


def cut(
    transcriber: Transcriber,
    audio: NDArray[np.float32],
    text: str,
    limits: Limits = SHORT_UTTERANCES,
) -> list[Passage]:
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    match = match_text(transcriber, file, text, DEFAULT_TRANSFORMS)
    file.seek(0)
    speech = find_speech(file, EnergyDetector(SAMPLING_RATE), SAMPLING_RATE, limits.min_pause)
    passages = cut_passages(match, speech, limits)
    # No word is lost or used twice.
    assert " ".join(each.text for each in passages if each.text).split() == text.split()
    starts = [each.start for each in passages]
    assert starts == sorted(starts)
    for each in passages:
        assert 0 <= each.start <= each.end <= match.seconds
        if not each.reason:
            assert limits.min_seconds - 1e-6 <= each.end - each.start <= limits.max_seconds + 1e-6
            assert each.score is not None and each.score >= limits.min_score
    kept = [each for each in passages if not each.reason]
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(kept))
    return passages


def split(passages: Sequence[Passage]) -> tuple[list[str], list[tuple[str, str, str]]]:
    return [each.text for each in passages if not each.reason], [
        (each.reason, each.text, each.heard) for each in passages if each.reason
    ]


def test_utterances_are_cut_at_pauses_and_keep_the_written_text(transcriber: Transcriber) -> None:
    audio = say(SAID)
    kept, lost = split(cut(transcriber, audio, WRITTEN))
    assert kept == [
        "Bad, cab add. —",
        "Dab dad: ab cab!",
        "“Cab” add dab;",
        "ab bad dab.",
        "Dad dad add bad,",
        "bad cab AB.",
    ]
    assert not lost
    longer, lost = split(cut(transcriber, audio, WRITTEN, Limits(max_seconds=5)))
    assert 3 <= len(longer) < 6 and not lost
    # The pauses are at the utterances' ends: a quarter of a second without a tone.
    for each in cut(transcriber, audio, WRITTEN):
        samples = audio[round(each.start * SAMPLING_RATE) : round(each.end * SAMPLING_RATE)]
        edge = round(0.2 * SAMPLING_RATE)
        assert np.abs(samples[-edge:]).max() < 0.02 and np.abs(samples).max() > 0.3


def test_speech_that_is_not_in_the_text_is_left_out(transcriber: Transcriber) -> None:
    said = [*SAID[:2], "dada baba", "caca bada", *SAID[2:]]
    kept, lost = split(cut(transcriber, say(said), WRITTEN))
    assert len(kept) == 6 and lost == [(NOT_IN_TEXT, "", "dada baba caca bada")]


def test_text_that_is_not_in_the_speech_is_left_out(transcriber: Transcriber) -> None:
    written = WRITTEN.replace("“Cab”", "Dada, baba caca! “Cab”")
    kept, lost = split(cut(transcriber, say(SAID), written))
    assert len(kept) == 6 and lost == [(NOT_IN_SPEECH, "Dada, baba caca!", "")]
    # At the beginning and at the end too.
    kept, lost = split(cut(transcriber, say(SAID), f"Baba caca dada. {WRITTEN} Caca dada baba."))
    assert len(kept) == 6 and [each[1] for each in lost] == ["Baba caca dada.", "Caca dada baba."]


@pytest.mark.parametrize("changed", ["caca baba dada", "dab baba dad ab cab", "dab ab cab"])
def test_passages_that_differ_are_left_out(transcriber: Transcriber, changed: str) -> None:
    """Another passage, an inserted word, a missing word."""
    kept, lost = split(cut(transcriber, say([SAID[0], changed, *SAID[2:]]), WRITTEN))
    assert kept == ["Bad, cab add. —", "“Cab” add dab;", "ab bad dab.", "Dad dad add bad,", "bad cab AB."]
    assert {reason for reason, _, _ in lost} == {DIFFERENT}
    assert lost[0][2] == changed


def test_random_changes_leave_no_wrong_text(transcriber: Transcriber) -> None:
    """What is kept is what is said there, and most of what could be kept is."""
    rng = np.random.default_rng(7)
    right = possible = 0
    for seed in range(4):
        phrases = [" ".join(rng.choice(["bad", "cab", "add", "dab", "dad", "ab"], 4)) for _ in range(12)]
        said, written, both = [], [], 0
        for phrase in phrases:
            fate = rng.choice(["kept", "kept", "kept", "inserted", "missing"])
            said += [phrase] if fate != "missing" else []
            written += [phrase] if fate != "inserted" else []
            both += fate == "kept"
        passages = cut(transcriber, say(said, seed=seed), " ".join(written))
        kept = [each for each in passages if not each.reason]
        assert all(each.text == each.heard for each in kept)
        right += len(kept)
        possible += both
    assert right >= 0.7 * possible


def test_speech_until_the_last_sample_is_kept(transcriber: Transcriber) -> None:
    """But for the frames by which the recogniser of tones is late."""
    audio = say(SAID)
    audio = audio[: len(audio) - round((0.6 + LETTER_SECONDS - 0.07) * SAMPLING_RATE)]
    passages = cut(transcriber, audio, WRITTEN)
    assert passages[-1].text == "bad cab AB." and not passages[-1].reason
    assert passages[-1].end == len(audio) / SAMPLING_RATE


def test_lengths_that_cannot_be_cut_are_named(transcriber: Transcriber) -> None:
    audio = say(["bad cab add dab bad cab add dab bad cab", "ab", "dab dad ab cab"], 1.5)
    written = "bad cab add dab bad cab add dab bad cab ab dab dad ab cab"
    kept, lost = split(cut(transcriber, audio, written, Limits(max_seconds=2.5)))
    assert kept == ["dab dad ab cab"]
    assert [each[:2] for each in lost] == [(NO_PAUSE, "bad cab add dab bad cab add dab bad cab"), (SHORT, "ab")]


def test_sound_in_which_nothing_is_recognised_is_named(transcriber: Transcriber) -> None:
    """It may be speech that the model does not hear; no pause parts it from the words behind it."""
    time = np.arange(round(1.5 * SAMPLING_RATE)) / SAMPLING_RATE
    chord = 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in (200, 550, 1150, 2300, 5000))
    audio = np.concatenate([say(SAID[:2]), chord.astype(np.float32), say(SAID[2:])])
    kept, lost = split(cut(transcriber, audio, WRITTEN))
    assert len(kept) == 5 and lost == [(UNHEARD, "“Cab” add dab;", "cab add dab")]


def test_nothing_is_kept_of_another_text(transcriber: Transcriber) -> None:
    kept, lost = split(cut(transcriber, say(SAID), "cacaca bababa cccc bbbb"))
    assert not kept and " ".join(each[1] for each in lost).split() == ["cacaca", "bababa", "cccc", "bbbb"]
    silence = np.zeros(4 * SAMPLING_RATE, np.float32)
    kept, lost = split(cut(transcriber, silence, "bad cab"))
    assert not kept and [each[1] for each in lost] == ["bad cab"]
    with pytest.raises(UserError, match="empty text"):
        cut(transcriber, say(SAID), " … \n")


def test_parts_between_anchors_are_as_the_whole(transcriber: Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    said = [" ".join(rng.choice(["bad", "cab", "add", "dab", "dad", "ab"], 4)) for _ in range(40)]
    written = " ".join([*said[:15], "caca baba", *said[18:]])
    whole = cut(transcriber, say(said), written)
    calls: list[int] = []
    align = matching.align

    def count(logits: NDArray[np.float32], *arguments: object, **options: object) -> object:
        calls.append(len(logits))
        return align(logits, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(matching, "align", count)
    monkeypatch.setattr(matching, "_PART_SECONDS", 8.0)
    assert cut(transcriber, say(said), written) == whole
    assert len(calls) > 4 and max(calls) < 2000


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="below the longest"):
        Limits(min_seconds=5, max_seconds=4)
    with pytest.raises(UserError, match="score from 0 to 1"):
        Limits(min_score=2)
