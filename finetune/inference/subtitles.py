"""Subtitles: segmentation of words into cues of one or two lines, and their times.

Lengths, durations and gaps are those of Netflix's Timed Text Style Guide (General Requirements and Subtitle Timing
Guidelines, and 16 characters a line for Chinese and Korean), reading speeds its 17 and 20 characters a second; the
BBC's Subtitle Guidelines are similar. Cues are chosen for the whole recording at once: dynamic programming minimises a
cost of bad cuts, as TeX breaks a paragraph into lines (Knuth and Plass 1981).
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from finetune.inference.transcript import Transcript, count_milliseconds
from finetune.text.word_units import join_words, split_words

LINE_COLUMNS = 42
_WIDE_COLUMNS = LINE_COLUMNS / 16
# Times are integers in milliseconds, as in the files: 5/6 s, 7 s, and two frames at 24 frames a second.
MIN_MILLISECONDS, MAX_MILLISECONDS, GAP_MILLISECONDS = 834, 7000, 84
COLUMNS_PER_SECOND, MAX_COLUMNS_PER_SECOND = 17, 20
# How long a cue may stay after its words for slow readers; if the next cue is nearer, it stays until then.
_LINGER_MILLISECONDS = 500
# A longer silence ends a cue.
_MAX_PAUSE_MILLISECONDS = 1500

_SENTENCE_ENDS, _CLAUSE_ENDS = ".?!…。？！؟।។៕။", ",;:—–，、；：،؛၊"
_CLOSING = "\"'”’»)]）」』"
# Characters that belong to the one before and never begin a line: Japanese length and iteration marks and small kana,
# Thai and Lao vowels that follow their consonant, and signs of repetition or abbreviation.
_NEVER_FIRST = "々ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ" + "ะาำๅๆฯ" + "ະາຳຽໆຯ"
# Thai and Lao vowels that precede their consonant and never end a line.
_NEVER_LAST = "เแโใไ" + "ເແໂໃໄ"
# A Burmese consonant with this sign has no vowel, and ends the syllable before.
_ASAT = "\u103a"


@dataclass(frozen=True)
class Line:
    """One line of a cue: speech of one channel of the recording; channels count from 1."""

    text: str
    channel: int


@dataclass(frozen=True)
class Cue:
    """A subtitle with its times in milliseconds; two lines are of one channel, or one line of each of two."""

    start_milliseconds: int
    end_milliseconds: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _Piece:
    """An unbreakable part, a word or in scripts without spaces a character, and its times in milliseconds."""

    text: str
    start: int
    end: int
    channel: int
    spaced: bool  # Whether a space stands before it.

    @cached_property
    def columns(self) -> float:
        return measure_columns(self.text)


def measure_columns(text: str) -> float:
    """The width of a text: 42 characters fill a line, or 16 wide East Asian ones; combining ones have no width."""
    return sum(
        _WIDE_COLUMNS if unicodedata.east_asian_width(character) in "WF" else 1.0
        for character in text
        if unicodedata.category(character) not in ("Mn", "Me", "Cf")
    )


def build_cues(transcript: Transcript) -> list[Cue]:
    """The cues of a transcript, in order; they do not overlap or end after the audio.

    They have all words that are in the audio, and break words in scripts without spaces only. A word longer than a line
    makes the line too long; if speech is faster than people can read, cues are too fast.
    """
    total = count_milliseconds(transcript.seconds)
    pieces = sorted(_cut_words(transcript, total), key=lambda piece: (piece.start, piece.channel))
    groups = [pieces[first:last] for first, last in pairwise(_choose_cuts(pieces, total))]
    times = _set_times(groups, total)
    return [Cue(start, end, _break_lines(group)) for group, (start, end) in zip(groups, times, strict=True)]


def _cut_words(transcript: Transcript, total: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    latest: dict[int, int] = {}  # The place of the last piece of each channel.
    for word in transcript.words:
        parts = _cut_word(word.text) if word.found else []
        place, length = 0, sum(map(len, parts))
        known = [character.text for character in word.characters] == list("".join(parts))
        for part in parts:
            if known:
                start, end = word.characters[place].start, word.characters[place + len(part) - 1].end
            else:
                seconds = (word.end - word.start) / length
                start, end = word.start + seconds * place, word.start + seconds * (place + len(part))
            first = min(max(count_milliseconds(start), 0), total)
            last = min(max(count_milliseconds(end), first), total)
            before = pieces[latest[word.channel]] if word.channel in latest else None
            spaced = place == 0 and " " in join_words((before.text if before else "a", part))
            near = before is not None and first - before.end <= _MAX_PAUSE_MILLISECONDS
            if before and near and not spaced and _belong_together(before.text, part):
                # Punctuation of scripts without spaces can be a word of its own.
                pieces[latest[word.channel]] = replace(before, text=before.text + part, end=last)
            else:
                latest[word.channel] = len(pieces)
                pieces.append(_Piece(text=part, start=first, end=last, channel=word.channel, spaced=spaced))
            place += len(part)
    return pieces


def _cut_word(text: str) -> list[str]:
    """A word as one part, or in scripts without spaces its characters, with the signs that belong to them."""
    parts: list[str] = []
    for part in split_words("".join(text.split())):
        if parts and _belong_together(parts[-1], part):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _belong_together(before: str, part: str) -> bool:
    return _leans_back(part) or _leans_forward(before)


def _leans_back(part: str) -> bool:
    category = unicodedata.category(part[0])
    leans = part[0] in _NEVER_FIRST or category[0] == "M" or (category[0] == "P" and category not in ("Ps", "Pi"))
    return leans or part[1:2] == _ASAT


def _leans_forward(part: str) -> bool:
    return part[-1] in _NEVER_LAST or unicodedata.category(part[-1]) in ("Ps", "Pi")


def _choose_cuts(pieces: Sequence[_Piece], total: int) -> list[int]:
    """The beginnings of the cues and the end of the last one, with the least total cost."""
    starts = [*(piece.start for piece in pieces), total + GAP_MILLISECONDS]
    widths = [0.0, *accumulate(piece.columns + piece.spaced for piece in pieces)]
    # Cumulative costs of not cutting at each place, so that the cost of a cue is a difference.
    going_on = [0.0, *accumulate(_cost_of_going_on(*pair) for pair in pairwise(pieces)), 0.0]
    mixed = len({piece.channel for piece in pieces}) > 1
    filled = _fill_lines(pieces, widths)
    best, came_from = [0.0], [0]
    for last in range(1, len(pieces) + 1):
        best.append(float("inf"))
        came_from.append(last - 1)
        cut = _cost_of_cut(pieces[last - 1], pieces[last]) if last < len(pieces) else 0.0
        end = pieces[last - 1].end
        for first in range(last - 1, -1, -1):
            if first < last - 1:
                end = max(end, pieces[first].end)
                too_long = end - starts[first] > MAX_MILLISECONDS
                if too_long or pieces[first + 1].start - pieces[first].end > _MAX_PAUSE_MILLISECONDS:
                    break
                if not (_fits(pieces[first:last]) if mixed else filled[filled[first]] >= last):
                    break
            room = min(starts[last] - GAP_MILLISECONDS - starts[first], MAX_MILLISECONDS)
            cost = best[first] + cut + going_on[last - 1] - going_on[first]
            cost += _cost_of_cue(widths[last] - widths[first] - pieces[first].spaced, room)
            if cost < best[last]:
                best[last], came_from[last] = cost, first
    cuts = [len(pieces)]
    while cuts[-1] > 0:
        cuts.append(came_from[cuts[-1]])
    return cuts[::-1]


def _fill_lines(pieces: Sequence[_Piece], widths: Sequence[float]) -> list[int]:
    """For a line that begins at each piece, the first piece that does not fit into it."""
    filled, last = [], 0
    for first, piece in enumerate(pieces):
        last = max(last, first + 1)
        while last < len(pieces) and widths[last + 1] - widths[first] - piece.spaced <= LINE_COLUMNS:
            last += 1
        filled.append(last)
    return [*filled, len(pieces)]


def _fits(pieces: Sequence[_Piece]) -> bool:
    """Whether the pieces fit into two lines."""
    lines = _break_lines(pieces)
    return len(lines) <= 2 and all(measure_columns(line.text) <= LINE_COLUMNS for line in lines)


def _cost_of_cue(columns: float, room: int) -> float:
    """The cost of a cue of this width that can be shown for `room` milliseconds: a constant, and more if it is bad."""
    cost = 1.0 + (1 - columns / (2 * LINE_COLUMNS)) ** 2  # Few cues, of like lengths.
    if room < MIN_MILLISECONDS:
        cost += 50 * (2 - room / MIN_MILLISECONDS)
    speed = columns / max(room / 1000, 0.02)
    if speed > MAX_COLUMNS_PER_SECOND:
        return cost + 20 * speed / MAX_COLUMNS_PER_SECOND
    return cost + 2 * max(0.0, speed / COLUMNS_PER_SECOND - 1)


def _cost_of_cut(before: _Piece, after: _Piece) -> float:
    """The cost of a cut here: none after a sentence or in a pause, some after a clause, more elsewhere."""
    pause = max(after.start - before.end, 0)
    return (0.0, 0.7, 1.5)[_rank(before)] * max(0.0, 1 - pause / _LINGER_MILLISECONDS)


def _cost_of_going_on(before: _Piece, after: _Piece) -> float:
    pause = after.start - before.end
    return (0.7, 0.1, 0.0)[_rank(before)] + 3 * max(0, pause - 300) / 1000


def _rank(piece: _Piece) -> int:
    """0 for the end of a sentence, 1 for the end of a clause, 2 otherwise."""
    text = piece.text.rstrip(_CLOSING)
    return 0 if text.endswith(tuple(_SENTENCE_ENDS)) else 1 if text.endswith(tuple(_CLAUSE_ENDS)) else 2


def _break_lines(pieces: Sequence[_Piece]) -> tuple[Line, ...]:
    """The lines of a cue: one, two of similar length broken at punctuation, or one with a dash for each channel."""
    channels = sorted({piece.channel for piece in pieces})
    if len(channels) > 1:
        spoken = ([piece for piece in pieces if piece.channel == channel] for channel in channels)
        return tuple(Line(f"-{_join(said)}", said[0].channel) for said in spoken)
    whole = _join(pieces)
    if measure_columns(whole) <= LINE_COLUMNS or len(pieces) == 1:
        return (Line(whole, channels[0]),)
    halves = [(_join(pieces[:place]), _join(pieces[place:])) for place in range(1, len(pieces))]
    costs = [_cost_of_break(*half, pieces[place]) for place, half in enumerate(halves)]
    upper, lower = halves[costs.index(min(costs))]
    return Line(upper, channels[0]), Line(lower, channels[0])


def _cost_of_break(upper: str, lower: str, before: _Piece) -> float:
    widths = measure_columns(upper), measure_columns(lower)
    too_long = sum(max(0.0, width - LINE_COLUMNS) for width in widths)
    # A short upper line covers less of the picture.
    return (
        10 * too_long
        + abs(widths[0] - widths[1]) / LINE_COLUMNS
        + (0.0, 0.1, 0.5)[_rank(before)]
        + (0.1 if widths[0] > widths[1] else 0.0)
    )


def _join(pieces: Sequence[_Piece]) -> str:
    return "".join(f" {piece.text}" if piece.spaced else piece.text for piece in pieces).lstrip(" ")


def _set_times(groups: Sequence[Sequence[_Piece]], total: int) -> list[tuple[int, int]]:
    """The times of each cue: from its first word, long enough to be read if there is time, without overlaps."""
    if not groups:
        return []
    # If the audio is too short for the cues, they share it evenly.
    gap = min(GAP_MILLISECONDS, total // (2 * len(groups)))
    step = min(MIN_MILLISECONDS + GAP_MILLISECONDS, (total + gap) // len(groups))
    starts = [group[0].start for group in groups]
    for i in range(1, len(starts)):
        starts[i] = max(starts[i], starts[i - 1] + step)
    latest = total + gap - step
    for i in reversed(range(len(starts))):
        starts[i] = min(starts[i], latest)
        latest = starts[i] - step
    times = []
    for group, start, following in zip(groups, starts, [*starts[1:], total + gap], strict=True):
        spoken = max(piece.end for piece in group)
        columns = measure_columns(_join(group))
        comfortable = min(start + columns * 1000 / COLUMNS_PER_SECOND, spoken + _LINGER_MILLISECONDS)
        wanted = max(spoken, start + step - gap, start + columns * 1000 / MAX_COLUMNS_PER_SECOND, comfortable)
        limit = following - gap
        end = limit if limit - wanted < _LINGER_MILLISECONDS else math.ceil(wanted)
        times.append((start, min(end, start + MAX_MILLISECONDS)))
    return times
