"""Transcripts become utterances where the model is sure; each word is in one passage."""

from finetune.inference.pseudo_labels import UNSURE, cut_transcript
from finetune.inference.segmentation import Limits
from finetune.inference.transcript import Character, Transcript, Word


def say(text: str, start: float, confidence: float) -> list[Word]:
    """Words of 0.4 s, one after the other."""
    words = []
    for number, word in enumerate(text.split()):
        begin = start + 0.5 * number
        symbols = [Character(each, begin + 0.1 * place, begin + 0.1, confidence) for place, each in enumerate(word)]
        words.append(Word(word, begin, begin + 0.4, confidence, tuple(symbols)))
    return words


def test_phrases_below_the_confidence_are_left_out_and_cut_around() -> None:
    words = (*say("we are sure", 0.2, 0.95), *say("of that", 2.2, 0.5), *say("and of this", 4.0, 0.9))
    speech = [(0.2, 1.6), (2.2, 3.1), (4.0, 5.4)]
    passages = cut_transcript(Transcript(words, 6.0), speech, Limits(min_score=0.8))
    assert [(each.text, each.reason) for each in passages] == [
        ("we are sure", ""),
        ("of that", UNSURE),
        ("and of this", ""),
    ]
    assert [round(each.score or 0, 3) for each in passages] == [0.95, 0.5, 0.9]
    assert passages[0].start == 0.0 and round(passages[-1].end, 3) == 5.7  # With some of the silence beside them.
    [kept] = cut_transcript(Transcript(words, 6.0), speech, Limits(min_score=0.4))
    assert kept.text == "we are sure of that and of this" and kept.reason == ""


def test_long_words_count_more_and_sound_without_words_is_no_label() -> None:
    words = (*say("a", 0.2, 0.5), *say("abcdefg", 0.7, 1.0))
    [sure] = cut_transcript(Transcript(words, 2.0), [(0.2, 1.5)], Limits(min_score=0.8))
    assert not sure.reason and round(sure.score or 0, 3) == round(0.5 ** (1 / 8), 3)
    [silent] = cut_transcript(Transcript((), 2.0), [(0.2, 1.5)], Limits())
    assert silent.reason == "sound without words" and silent.text == ""
    [unheard] = cut_transcript(Transcript(tuple(say("we are", 0.2, 0.9)), 4.0), [(0.2, 3.9)], Limits())
    assert unheard.reason == "sound without words" and unheard.text == "we are"
