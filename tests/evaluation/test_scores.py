"""Error counts and rates of a corpus, against values computed by hand."""

import json

import jiwer
import numpy as np
import pytest

from finetune.evaluation import scores
from finetune.evaluation.scores import (
    Column,
    ErrorCounts,
    Scores,
    align_words,
    count_errors,
    error_rates,
    pair_units,
    score,
)


def test_wer_of_a_corpus_is_not_the_mean_of_its_utterances():
    # 4 correct words, then 1 substitution and 1 insertion: 2 errors in 5 words. The mean would be (0 + 2) / 2.
    scores = score(["a b c d", "x"], ["a b c d", "y z"], audio_seconds=3.5)
    assert scores.words == ErrorCounts(hits=4, substitutions=1, deletions=0, insertions=1)
    assert scores.wer == pytest.approx(0.4)
    assert (scores.utterances, scores.audio_seconds) == (2, 3.5)


def test_characters_include_the_spaces_between_words():
    # "a b c d" has 7 characters and "x" 1; "y z" for "x" is 1 substitution and 2 insertions.
    scores = score(["a b c d", "x"], ["a b c d", "y z"])
    assert scores.characters == ErrorCounts(hits=7, substitutions=1, deletions=0, insertions=2)
    assert scores.cer == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("", "two words", ErrorCounts(0, 0, 0, 2), ErrorCounts(0, 0, 0, 9)),
        ("  ", "", ErrorCounts(0, 0, 0, 0), ErrorCounts(0, 0, 0, 0)),
        ("two words", "", ErrorCounts(0, 0, 2, 0), ErrorCounts(0, 0, 9, 0)),
        (" two \t words\n", "two  words", ErrorCounts(2, 0, 0, 0), ErrorCounts(9, 0, 0, 0)),
        ("two\u00a0words", "two words", ErrorCounts(2, 0, 0, 0), ErrorCounts(9, 0, 0, 0)),
    ],
)
def test_empty_texts_and_whitespace(reference, hypothesis, words, characters):
    scores = score([reference], [hypothesis])
    assert (scores.words, scores.characters) == (words, characters)


def test_an_empty_reference_adds_insertions():
    scores = score(["", "a b"], ["x y", "a b"])
    assert scores.words == ErrorCounts(hits=2, substitutions=0, deletions=0, insertions=2)
    assert scores.wer == 1.0


def test_no_reference_words_give_no_rate():
    assert score([""], ["a"]).wer is None
    nothing = score([], [])
    assert nothing == Scores(0, 0.0, ErrorCounts(0, 0, 0, 0), ErrorCounts(0, 0, 0, 0), 0)
    assert nothing.ser is None


def test_a_rate_may_exceed_one():
    assert score(["a"], ["b c d"]).wer == 3.0


def test_adding_parts_equals_scoring_the_whole():
    references, hypotheses = ["a b c", "d e", "", "f"], ["a c", "d x e", "y", "f"]
    parts = score(references[:1], hypotheses[:1], 1.5) + score(references[1:], hypotheses[1:], 2.0)
    assert parts == score(references, hypotheses, 3.5)
    assert parts.words == ErrorCounts(hits=5, substitutions=0, deletions=1, insertions=2)


def test_each_han_character_is_a_word():
    scores = score(["我爱你 hello world"], ["我爱他 hello"])
    assert scores.words == ErrorCounts(hits=3, substitutions=1, deletions=1, insertions=0)
    assert score(["かな"], ["かさ"]).wer == 0.5


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        score(["a", "b"], ["a"])


def test_a_sentence_is_wrong_if_it_has_a_word_error_regardless_of_spaces():
    counts = count_errors(["a b", "c", "我爱", ""], [" a  b", "d", "我 爱", ""])
    assert counts[:, Column.WRONG].tolist() == [0, 1, 0, 0]
    assert score(["a b", "c"], ["a b", "d"]).ser == 0.5


def test_counts_of_each_utterance_add_up_to_those_of_all(monkeypatch):
    references, hypotheses = ["a b c", "d e", "", "f", "g"], ["a c", "d x e", "y", "", "h"]
    monkeypatch.setattr(scores, "_BLOCK", 2)
    counts = count_errors(references, hypotheses)
    assert counts.dtype == np.int64 and counts.shape == (5, len(Column))
    for row, pair in zip(counts, zip(references, hypotheses, strict=True), strict=True):
        alone = score([pair[0]], [pair[1]])
        assert Scores.from_counts(row[None], 0.0) == alone
        words = jiwer.process_words(*pair)
        named = ErrorCounts.of_words(row)
        assert named == ErrorCounts(words.hits, words.substitutions, words.deletions, words.insertions)
        characters = jiwer.process_characters(*pair)
        assert ErrorCounts.of_characters(row).errors == (
            characters.substitutions + characters.deletions + characters.insertions
        )
    assert Scores.from_counts(counts, 0.0) == score(references, hypotheses)


def test_rates_are_ratios_of_sums():
    counts = count_errors(["a b c", "", "d"], ["a b", "x", "d"])
    assert error_rates(counts)[:, 0].tolist() == pytest.approx([1 / 3, np.nan, 0], nan_ok=True)
    found = score(["a b c", "", "d"], ["a b", "x", "d"])
    assert error_rates(counts.sum(axis=0)).tolist() == [found.wer, found.cer, found.ser]


def test_pairs_of_units_show_each_edit():
    [alignment] = align_words(["one two three four five"], ["one three for five six"])
    pairs = [("one", "one"), ("two", ""), ("three", "three"), ("four", "for"), ("five", "five"), ("", "six")]
    assert pair_units(alignment) == pairs


def test_json_gives_rates_and_counts():
    found = score(["a b c d", "x"], ["a b c d", "y z"], audio_seconds=90.0)
    assert json.loads(json.dumps(found.to_json())) == {
        "wer": 0.4,
        "cer": 0.375,
        "ser": 0.5,
        "utterances": 2,
        "wrong_utterances": 1,
        "audio_seconds": 90.0,
        "words": 5,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 1,
        "characters": 8,
        "character_substitutions": 1,
        "character_deletions": 0,
        "character_insertions": 2,
    }
