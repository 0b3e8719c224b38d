"""Cutting a recording into utterances at pauses, of the passages in which its text and its speech are the same."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np

from finetune.audio.speech_activity import FRAME_SECONDS, SpeechDetector
from finetune.audio.stream import Audio, open_stream
from finetune.errors import UserError
from finetune.inference.matching import HeardSymbol, Match, MatchedWord
from finetune.text.word_units import join_words

# The silence that an utterance keeps before and after its speech, if there is as much.
_MARGIN_SECONDS = 0.3
# Symbols are heard up to so long after a word begins, or before it ends.
_EDGE_SECONDS = 0.1
# Speech in which so long nothing is recognised may hold words that the model does not hear; beside a word of the text
# that is not found less is enough. Shorter sounds without symbols between pauses are breath or noise.
_UNHEARD_SECONDS, _UNHEARD_BESIDE_MISSING, _NOISE_SECONDS = 1.0, 0.4, 0.5
# A cut in a longer pause is worth more than none, one in a shorter pause less.
_CUT_SECONDS = 1.0

# Reasons, as they are written.
NOT_IN_TEXT, NOT_IN_SPEECH, DIFFERENT = "not in the text", "not in the speech", "text and speech differ"
UNHEARD, NO_PAUSE, SHORT = "sound without words", "no pause", "too short"


@dataclass(frozen=True)
class Limits:
    """The lengths of utterances and of the pauses between them in seconds, and what counts as a match.

    An utterance's score is at least `min_score`. Between two of its words at most `most_foreign` symbols are recognised
    that are not in the text: one is often the model's error, more are a word.
    """

    min_seconds: float = 1.0
    max_seconds: float = 15.0
    min_pause: float = 0.2
    min_score: float = 0.4
    most_foreign: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds < self.max_seconds < math.inf:
            raise UserError(
                f"Utterances of {self.min_seconds:g} to {self.max_seconds:g} s can't be cut: expected a shortest "
                "length above 0 and below the longest."
            )
        if not 0 < self.min_pause <= self.min_seconds or not 0 <= self.min_score <= 1:
            raise UserError("Expected a pause above 0 and no longer than an utterance, and a score from 0 to 1.")


@dataclass(frozen=True)
class Passage:
    """A stretch of a recording in seconds, its text as it is written, and its score; without a `reason` an utterance.

    The score is from 0 to 1: how likely the text is, compared with the most likely symbols, as a geometric mean over
    the text's symbols; None without a text. `heard` is what was recognised.
    """

    start: float
    end: float
    text: str
    score: float | None
    heard: str
    reason: str = ""


@dataclass
class _Phrase:
    """Speech between two pauses, the words of the text in it, and the symbols recognised in it."""

    start: float
    end: float
    words: list[int] = field(default_factory=list)
    heard: list[HeardSymbol] = field(default_factory=list)
    reason: str = ""
    before: float = 0.0  # The silence that belongs to it.
    behind: float = 0.0


def find_speech(
    audio: Audio, detector: SpeechDetector, sampling_rate: int, min_pause: float
) -> list[tuple[float, float]]:
    """The stretches of speech, start and end in seconds, between silences of `min_pause` seconds or more.

    The audio is streamed; `detector` takes `sampling_rate` Hz. Raises AudioError if the audio can't be read to its end.
    """
    state = detector.start()
    with open_stream(audio, sampling_rate) as stream:
        sure = [state.detect(block[0]) for block in stream.blocks()]
    speech = np.concatenate([[False], *(each > 0.5 for each in (*sure, state.finish())), [False]])
    edges = np.flatnonzero(np.diff(speech.astype(np.int8))).reshape(-1, 2) * FRAME_SECONDS
    found: list[tuple[float, float]] = []
    for start, end in edges.tolist():
        if found and start - found[-1][1] < min_pause:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def cut_passages(match: Match, speech: Sequence[tuple[float, float]], limits: Limits) -> list[Passage]:
    """Utterances, and with their reasons all other passages, in order; each word of the text is in one of them."""
    phrases = _build_phrases(match, speech)
    for phrase in phrases:
        phrase.reason = phrase.reason or _find_fault(phrase, match, limits)
    for number, phrase in enumerate(phrases):
        beside = phrases[max(0, number - 1) : number + 2]
        if phrase.reason == NOT_IN_SPEECH and any(each.reason == DIFFERENT for each in beside):
            phrase.reason = DIFFERENT  # Some of its words were found by chance in other speech.
    _add_margins(phrases, match.seconds)
    passages: list[Passage] = []
    # A run is of phrases that match and whose words follow one another in the text, or of others.
    run: list[_Phrase] = []
    for phrase in phrases:
        follows = run and not phrase.reason and not run[-1].reason and phrase.words[0] == run[-1].words[-1] + 1
        if run and not (follows or (phrase.reason and phrase.reason == run[-1].reason)):
            passages += _cut_run(run, match, limits)
            run = []
        run.append(phrase)
    passages += _cut_run(run, match, limits) if run else ()
    return passages


def _build_phrases(match: Match, speech: Sequence[tuple[float, float]]) -> list[_Phrase]:
    """The phrases with all words and symbols; words that are not found between two phrases are one of their own."""
    phrases = [_Phrase(start, min(end, match.seconds)) for start, end in speech if start < match.seconds]
    if not phrases:  # The model hears what the detector does not.
        phrases = [_Phrase(0.0, match.seconds)]
    middles = np.array([(before.end + after.start) / 2 for before, after in pairwise(phrases)])
    homes = [np.searchsorted(middles, word.times, side="right").tolist() for word in match.words]
    bound = {place for home in homes if home for place in range(home[0], home[-1])}  # Pauses within words.
    joined: list[int] = []  # For each phrase the number of that which it becomes a part of.
    merged: list[_Phrase] = []
    for place, phrase in enumerate(phrases):
        if place and place - 1 in bound:
            merged[-1].end = phrase.end
        else:
            merged.append(phrase)
        joined.append(len(merged) - 1)
    for number, (word, home) in enumerate(zip(match.words, homes, strict=True)):
        if home:
            phrase = merged[joined[home[0]]]
            phrase.words.append(number)
            phrase.start = max(0.0, min(phrase.start, word.times[0] - _EDGE_SECONDS))
            phrase.end = min(match.seconds, max(phrase.end, word.times[-1] + _EDGE_SECONDS))
    for symbol in match.heard:
        home = int(np.searchsorted(middles, symbol.time, side="right"))
        merged[joined[home]].heard.append(symbol)
    return list(_add_missing(merged, match))


def _add_missing(phrases: Sequence[_Phrase], match: Match) -> Iterator[_Phrase]:
    """The phrases with the words that are not found: in that of both neighbours, or where nothing else matches."""
    following = 0  # The next word of the text.
    beside: list[_Phrase] = []  # The phrases without found words since the last one with.
    last: _Phrase | None = None
    for phrase in phrases:
        if not phrase.words:
            beside.append(phrase)
            continue
        missing = list(range(following, phrase.words[0]))
        if missing and last and not _is_heard_until_end(last):
            last.reason = DIFFERENT
        if missing and not _is_heard_from_start(phrase):
            phrase.reason = DIFFERENT
        yield from _place_missing(missing, beside, 0.0 if last is None else last.end)
        yield phrase
        following, last, beside = phrase.words[-1] + 1, phrase, []
        inside = range(phrase.words[0], phrase.words[-1] + 1)
        if len(inside) > len(phrase.words):
            phrase.words, phrase.reason = list(inside), DIFFERENT
    missing = list(range(following, len(match.words)))
    if missing and last and not _is_heard_until_end(last):
        last.reason = DIFFERENT
    yield from _place_missing(missing, beside, 0.0 if last is None else last.end)


def _is_heard_until_end(phrase: _Phrase) -> bool:
    return phrase.end - max((symbol.time for symbol in phrase.heard), default=phrase.start) < _UNHEARD_BESIDE_MISSING


def _is_heard_from_start(phrase: _Phrase) -> bool:
    return min((symbol.time for symbol in phrase.heard), default=phrase.end) - phrase.start < _UNHEARD_BESIDE_MISSING


def _place_missing(missing: Sequence[int], beside: Sequence[_Phrase], place: float) -> Iterator[_Phrase]:
    """Phrases without found words, as one if words are missing there, or a phrase of missing words without speech."""
    if not missing:
        yield from (phrase for phrase in beside if len(phrase.heard) > 1 or phrase.end - phrase.start >= _NOISE_SECONDS)
    elif beside:
        heard = [symbol for phrase in beside for symbol in phrase.heard]
        yield _Phrase(beside[0].start, beside[-1].end, list(missing), heard, DIFFERENT)
    else:
        yield _Phrase(place, place, list(missing), [], NOT_IN_SPEECH)


def _add_margins(phrases: Sequence[_Phrase], seconds: float) -> None:
    """Divide each pause between the phrases beside it, which each take up to the margin."""
    sounds = [each for each in phrases if each.end > each.start]
    for before, after in pairwise(sounds):
        before.behind = after.before = min(_MARGIN_SECONDS, max(0.0, after.start - before.end) / 2)
    if sounds:
        sounds[0].before = min(_MARGIN_SECONDS, sounds[0].start)
        sounds[-1].behind = min(_MARGIN_SECONDS, seconds - sounds[-1].end)


def _find_fault(phrase: _Phrase, match: Match, limits: Limits) -> str:
    """The reason why a phrase can't be in an utterance, or ""."""
    if not phrase.words:
        return NOT_IN_TEXT if phrase.heard else UNHEARD
    times = [time for number in phrase.words for time in match.words[number].times]
    known = sorted([phrase.start, *times, *(symbol.time for symbol in phrase.heard), phrase.end])
    if max(after - before for before, after in pairwise(known)) > _UNHEARD_SECONDS:
        return UNHEARD
    foreign = 0
    for symbol in phrase.heard:
        foreign = foreign + 1 if symbol.foreign else 0
        if foreign > limits.most_foreign:
            return DIFFERENT
    score = _score([match.words[number] for number in phrase.words])
    return DIFFERENT if score is None or score < limits.min_score else ""


def _score(words: Sequence[MatchedWord]) -> float | None:
    symbols = sum(word.num_symbols for word in words)
    return math.exp(-sum(word.cost for word in words) / symbols) if symbols else None


def _cut_run(run: Sequence[_Phrase], match: Match, limits: Limits) -> Iterator[Passage]:
    """The utterances of a run of matching phrases, or one passage of a run with a reason."""
    if run[0].reason:
        yield _build_passage(run, match, limits, run[0].reason)
        return
    for first, behind, reason in _choose_cuts(run, limits):
        yield _build_passage(run[first:behind], match, limits, reason)


def _build_passage(phrases: Sequence[_Phrase], match: Match, limits: Limits, reason: str) -> Passage:
    start, end = phrases[0].start, phrases[-1].end
    if not reason:
        room = max(0.0, limits.max_seconds - (end - start)) / 2
        start, end = start - min(phrases[0].before, room), end + min(phrases[-1].behind, room)
    words = [match.words[number] for phrase in phrases for number in phrase.words]
    heard = groupby((symbol for phrase in phrases for symbol in phrase.heard), key=lambda symbol: symbol.word)
    return Passage(
        start=start,
        end=end,
        text=join_words(word.text for word in words),
        score=_score(words),
        heard=join_words("".join(symbol.text for symbol in symbols) for _, symbols in heard),
        reason=reason,
    )


def _choose_cuts(run: Sequence[_Phrase], limits: Limits) -> list[tuple[int, int, str]]:
    """Parts of a run (first phrase, the one behind its last, reason) with the most speech in utterances.

    Of equal choices that with few utterances and long pauses between them is taken; by dynamic programming.
    """
    # Until before each phrase: the speech in utterances (ms), what its cuts are worth, and the last part.
    best: list[tuple[int, float, int, str]] = [(0, 0.0, 0, "")]
    for behind in range(1, len(run) + 1):
        last = run[behind - 1]
        reason = SHORT if last.end - last.start <= limits.max_seconds else NO_PAUSE
        options = [(*best[behind - 1][:2], behind - 1, reason)]
        speech = 0
        for first in range(behind - 1, -1, -1):
            speech += round(1000 * (run[first].end - run[first].start))
            seconds = last.end - run[first].start
            if seconds > limits.max_seconds:
                break
            if run[first].before + seconds + last.behind >= limits.min_seconds:
                pause = run[first].start - run[first - 1].end if first else 0.0
                worth = best[first][1] + min(pause, 2 * _CUT_SECONDS) - _CUT_SECONDS
                options.append((best[first][0] + speech, worth, first, ""))
        best.append(max(options, key=lambda option: option[:2]))
    parts: list[tuple[int, int, str]] = []
    behind = len(run)
    while behind:
        _, _, first, reason = best[behind]
        parts.append((first, behind, reason))
        behind = first
    return parts[::-1]
