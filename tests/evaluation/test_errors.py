"""Error analysis on texts with known errors."""

from dataclasses import asdict

from finetune.evaluation import errors
from finetune.evaluation.errors import Confusion, Missed, Worst, analyse_errors, rank_worst
from finetune.evaluation.results import Result, count_results

TEXTS = [
    ("one", "the cat sat on the mat", "the cap sat on the mat"),
    ("two", "a cat and a dog", "a cap and dog"),
    ("three", "all is well", "all is is well"),
    ("four", "all is well", "all is well"),
    ("five", "cat", ""),
]
RESULTS = [Result(name, reference, hypothesis, "", 1.0, None) for name, reference, hypothesis in TEXTS]


def analyse(results=RESULTS):
    return analyse_errors(results, count_results(results))


def test_confusions_are_counted_with_an_example():
    found = analyse()
    assert found.substitutions == (Confusion("cat", "cap", 2, "one"),)
    assert found.insertions == (Confusion("", "is", 1, "three"),)
    assert found.deletions == (Confusion("a", "", 1, "two"), Confusion("cat", "", 1, "five"))


def test_repeated_words_are_distinguished_from_other_insertions():
    assert analyse().repeated == (Confusion("", "is", 1, "three"),)
    assert analyse([Result("x", "all is well", "all is very well", "", 1.0, None)]).repeated == ()


def test_missed_words_have_their_count_in_the_references():
    assert analyse().missed == (Missed("cat", 3, 3), Missed("a", 2, 1))


def test_characters_are_substituted_inserted_and_deleted():
    found = {(each.reference, each.hypothesis): each.count for each in analyse().characters}
    assert found["t", "p"] == 2
    assert found["a", ""] == 2  # From "a dog" and "cat".
    assert found["", "s"] == 1
    assert analyse().characters[0].count == 2


def test_worst_utterances_come_first_and_correct_ones_are_not_listed():
    assert analyse().worst == (Worst("two", 2, 5), Worst("five", 1, 1), Worst("three", 1, 3), Worst("one", 1, 6))
    assert rank_worst(count_results(RESULTS)) == [1, 4, 2, 0, 3]


def test_lists_are_limited(monkeypatch):
    monkeypatch.setattr(errors, "MOST", 1)
    assert [len(values) for values in asdict(analyse()).values()] == [1] * 7


def test_each_han_character_is_a_word():
    found = analyse([Result("x", "我爱你", "我爱他", "", 1.0, None)])
    assert found.substitutions == (Confusion("你", "他", 1, "x"),)
    assert found.missed == (Missed("你", 1, 1),)


def test_no_errors_and_no_results():
    for results in (RESULTS[3:4], []):
        assert not any(asdict(analyse(results)).values())
