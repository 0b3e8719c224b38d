"""Forced alignment against an independent implementation of the search."""

import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.decoding import alignment
from finetune.decoding.alignment import Alignment, Costs, align
from finetune.errors import UserError

BLANK, DELIMITER = 0, 1
SYMBOLS = ("", "|", "a", "b", "c")
IDS = {symbol: number for number, symbol in enumerate(SYMBOLS) if symbol}


def align_text(logits: NDArray[np.float32], text: str) -> Alignment:
    return align(logits, text.split(), IDS, blank_id=BLANK, delimiter_id=DELIMITER)


def say(emitted: str) -> NDArray[np.float32]:
    """Logits with one likely symbol in each frame, `_` for the blank."""
    logits = np.zeros((len(emitted), len(SYMBOLS)), np.float32)
    for frame, symbol in enumerate(emitted):
        logits[frame, SYMBOLS.index(symbol) if symbol != "_" else BLANK] = 12.0
    return logits


def frames_of(aligned: Alignment) -> list[tuple[str, int, int]]:
    return [(letter.text, letter.start_frame, letter.end_frame) for word in aligned.words for letter in word.characters]


def best_score(log_probs: NDArray[np.float64], words: Sequence[Sequence[int]], costs: Costs) -> float:
    """The best path's score with each choice of words that are said: plain CTC over their symbols."""
    between = np.maximum(log_probs[:, :2].max(axis=1), log_probs[:, 2:].max(axis=1) - costs.foreign)
    best = -np.inf
    for count in range(len(words) + 1):
        for said in combinations(range(len(words)), count):
            states: list[tuple[NDArray[np.float64], bool, int]] = [(between, True, -1)]  # Emission, optional, symbol.
            for number in said:
                for place, symbol in enumerate(words[number]):
                    states += [(log_probs[:, BLANK], True, -1)] * (place > 0) + [(log_probs[:, symbol], False, symbol)]
                states.append((between, False, -1))
            states[-1] = (between, True, -1)
            skips = sum(len(word) for number, word in enumerate(words) if number not in said) * costs.skip
            scores = np.full(len(states), -np.inf)
            for frame in range(len(log_probs)):
                new = np.full(len(states), -np.inf)
                for state, (emission, _, symbol) in enumerate(states):
                    before = [scores[state]] if frame else [0.0 if state == 0 or state == 1 else -np.inf]
                    if frame and state >= 1:
                        before.append(scores[state - 1])
                    if frame and state >= 2 and states[state - 1][1] and symbol != states[state - 2][2]:
                        before.append(scores[state - 2])
                    new[state] = max(before) + emission[frame]
                scores = new
            ending = scores[-2:] if len(states) > 1 else scores
            best = max(best, float(ending.max()) - skips)
    return best


@pytest.mark.long
@pytest.mark.parametrize(("cells", "stretches"), [(2**22, 64), (8, 3), (1, 2)])
def test_the_path_is_optimal_for_any_division_into_stretches(
    monkeypatch: pytest.MonkeyPatch, cells: int, stretches: int
) -> None:
    monkeypatch.setattr(alignment, "_MOST_CELLS", cells)
    monkeypatch.setattr(alignment, "_STRETCHES", stretches)
    rng = np.random.default_rng(0)
    for _ in range(60):
        logits = rng.normal(0, 3, (rng.integers(1, 25), len(SYMBOLS))).astype(np.float32)
        words = [rng.integers(2, len(SYMBOLS), rng.integers(1, 4)).tolist() for _ in range(rng.integers(0, 6))]
        costs = Costs(skip=rng.uniform(0, 5), foreign=rng.uniform(0, 3))
        texts = ["".join(SYMBOLS[symbol] for symbol in word) for word in words]
        aligned = align(logits, texts, IDS, blank_id=BLANK, delimiter_id=DELIMITER, costs=costs)
        log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
        free = log_probs.max(axis=1).sum()
        assert free - aligned.cost == pytest.approx(best_score(log_probs, words, costs), abs=1e-4)
        assert free - aligned.cost == pytest.approx(score_path(aligned, log_probs, words, costs), abs=1e-4)


def score_path(
    aligned: Alignment, log_probs: NDArray[np.float64], words: Sequence[Sequence[int]], costs: Costs
) -> float:
    """The score of the aligned frames, which must be in order, with blanks between equal symbols."""
    between = np.maximum(log_probs[:, :2].max(axis=1), log_probs[:, 2:].max(axis=1) - costs.foreign)
    score, at, last = 0.0, 0, -1
    for word, ids in zip(aligned.words, words, strict=True):
        if not word.characters:
            assert word.start_frame == word.end_frame >= at
            score -= costs.skip * len(ids)
            continue
        for place, (letter, symbol) in enumerate(zip(word.characters, ids, strict=True)):
            assert letter.end_frame > letter.start_frame >= at + (last >= 0 and (place == 0 or last == symbol))
            silence = between if place == 0 else log_probs[:, BLANK]
            score += silence[at : letter.start_frame].sum()
            score += log_probs[letter.start_frame : letter.end_frame, symbol].sum()
            assert letter.confidence == pytest.approx(
                np.exp(log_probs[letter.start_frame : letter.end_frame, symbol].max()), abs=1e-4
            )
            at, last = letter.end_frame, symbol
    return score + between[at:].sum()


def test_symbols_are_aligned_to_the_frames_that_emit_them() -> None:
    aligned = align_text(say("__aa_ab|__c"), "aab c")
    assert frames_of(aligned) == [("a", 2, 4), ("a", 5, 6), ("b", 6, 7), ("c", 10, 11)]
    assert [(word.text, word.start_frame, word.end_frame) for word in aligned.words] == [("aab", 2, 7), ("c", 10, 11)]
    assert aligned.cost == pytest.approx(0, abs=1e-3)
    assert [word.delimiter_frame for word in aligned.words] == [None, 8]
    assert aligned.words[0].confidence > 0.99 and aligned.words[0].start_seconds == 0.04


def test_words_that_are_not_said_are_skipped_and_speech_that_is_not_in_the_text_is_ignored() -> None:
    aligned = align_text(say("_ab|_cc_b_c_|ba_"), "ab aaa aa ba")
    assert [bool(word.characters) for word in aligned.words] == [True, False, False, True]
    assert frames_of(aligned) == [("a", 1, 2), ("b", 2, 3), ("b", 13, 14), ("a", 14, 15)]
    left_out = aligned.words[1]
    assert left_out.text == "aaa" and left_out.confidence == 0 and 3 <= left_out.start_frame == left_out.end_frame <= 13
    assert aligned.cost > 20


def test_a_character_without_a_column_matches_any_symbol() -> None:
    aligned = align_text(say("_a_c|b"), "a? b")
    assert frames_of(aligned) == [("a", 1, 2), ("?", 3, 4), ("b", 5, 6)]


def test_an_empty_text_and_no_frames_are_aligned() -> None:
    assert align_text(say("__a_"), "").words == ()
    nothing = align_text(np.zeros((0, len(SYMBOLS)), np.float32), "ab c")
    assert [(word.text, word.characters) for word in nothing.words] == [("ab", ()), ("c", ())]


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        align_text(np.full((3, len(SYMBOLS)), np.nan, np.float32), "a")


@pytest.mark.long
def test_memory_grows_with_the_logits_and_the_text_only() -> None:
    """Ten minutes with 8,000 symbols: storing all scores would take 3.8 GB."""
    program = """
import resource, numpy as np
from finetune.decoding.alignment import align
rng = np.random.default_rng(0)
letters = "".join(chr(ord("A") + number) for number in range(30))
words = ["".join(rng.choice(list(letters), 5)) for _ in range(1600)]
def run(frames, words):
    logits = rng.standard_normal((frames, 32)).astype(np.float32)
    return align(logits, words, {letter: 2 + i for i, letter in enumerate(letters)}, blank_id=0, delimiter_id=1)
run(2000, words[:500])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(30000, words)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 150_000  # kB
