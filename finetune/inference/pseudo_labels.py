"""Pseudo-labels: what a model has transcribed, cut into utterances that it is sure of, as training data."""

import math
from collections.abc import Sequence
from dataclasses import replace

from finetune.inference.matching import HeardSymbol, Match, MatchedWord
from finetune.inference.segmentation import DIFFERENT, Limits, Passage, cut_passages
from finetune.inference.transcript import Transcript

UNSURE = "low confidence"
_LEAST_CONFIDENCE = 1e-6


def cut_transcript(transcript: Transcript, speech: Sequence[tuple[float, float]], limits: Limits) -> list[Passage]:
    """Utterances of a transcript, and with their reasons all other passages, in order; see `cut_passages`.

    The score of an utterance is its confidence: the geometric mean of its words', weighted by their symbols. `speech`
    are stretches in seconds. Training on what a model is sure of: Noisy Student for speech, Park et al. 2020, arXiv
    2005.09629.
    """
    words, heard = [], []
    for number, word in enumerate(transcript.words):
        symbols = word.characters
        cost = -math.log(max(word.confidence, _LEAST_CONFIDENCE)) * len(symbols)
        words.append(MatchedWord(word.text, tuple(each.start for each in symbols), cost, len(symbols)))
        heard += [HeardSymbol(each.text, each.start, number, foreign=False) for each in symbols]
    match = Match(tuple(words), tuple(heard), transcript.seconds)
    passages = cut_passages(match, speech, limits)
    # A phrase differs from its own text by its score alone.
    return [replace(each, reason=UNSURE) if each.reason == DIFFERENT else each for each in passages]
