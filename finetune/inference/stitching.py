"""The logits of a recording's windows to one stream, and that to words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.beam import BeamSearch
from finetune.decoding.greedy import GreedySearch
from finetune.decoding.hypotheses import Word
from finetune.text.word_units import split_timed_words

# What a frame of ours says of all symbols but one, as a logit.
_NEVER = -1e3


@dataclass(frozen=True)
class Piece:
    """Logits of consecutive frames of a recording, (frames, vocabulary), and the number of the first.

    `after_pause`: no word reaches into it from what is before.
    """

    first_frame: int
    logits: NDArray[np.float32]
    after_pause: bool

    @property
    def end_frame(self) -> int:
        """The number of the frame behind the last."""
        return self.first_frame + len(self.logits)

    def part(self, first_frame: int, end_frame: int) -> "Piece":
        """The frames from one on and before another."""
        logits = self.logits[first_frame - self.first_frame : end_frame - self.first_frame]
        return replace(self, first_frame=first_frame, logits=logits)


class Stitcher:
    """Joins what windows that overlap say of the same frames: each says it up to the middle, or from there on.

    Of a pause that they share the first says it: CTC emits symbols late, when the word has ended already.
    """

    def __init__(self) -> None:
        self._held: Piece | None = None

    def add(self, piece: Piece) -> Iterator[Piece]:
        """What is settled when the next window's logits are known."""
        held = self._held
        if held is not None:
            first, behind = max(held.first_frame, piece.first_frame), min(held.end_frame, piece.end_frame)
            if first < behind:
                before, after = held.part(first, behind), piece.part(first, behind)
                cut = first + _find_cut(before.logits.argmax(1), after.logits.argmax(1), piece.after_pause)
                held, piece = held.part(held.first_frame, cut), piece.part(cut, piece.end_frame)
            yield held
        self._held = piece

    def finish(self) -> Iterator[Piece]:
        """What is left when there are no more windows."""
        if self._held is not None:
            yield self._held
        self._held = None


def stitch(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The logits of a recording's windows in their order, as `Stitcher` joins them."""
    stitcher = Stitcher()
    for piece in pieces:
        yield from stitcher.add(piece)
    yield from stitcher.finish()


def _find_cut(before: NDArray[np.intp], after: NDArray[np.intp], in_pause: bool) -> int:
    """How many frames of an overlap to take from the window before: half, of a pause all, or nearly so where safer.

    It is safer where both windows have the same best symbols on both sides of the cut: a symbol that one of them puts
    a frame later than the other is then neither doubled nor lost.
    """
    wanted = len(before) if in_pause else len(before) // 2
    same = before == after
    safe = np.flatnonzero(same[1:] & same[:-1]) + 1
    return int(safe[np.abs(safe - wanted).argmin()]) if len(safe) else wanted


class RecordingDecoder:
    """Stitches the logits of a recording's windows and decodes them as one; words keep their frames in the recording.

    Between two pieces with a pause between it puts a word delimiter, which models often don't write at an utterance's
    end; otherwise, where frames are missing, a blank.
    """

    def __init__(self, search: BeamSearch | GreedySearch, name: str = "The recording") -> None:
        self._search: Any = search
        self._name = name
        self._stitcher = Stitcher()
        self._state = self._search.start()
        self._num_frames = 0  # that were decoded
        self._end: int | None = None  # the recording's frame behind the last piece
        # From which decoded frame on the recording's is so many later.
        self._starts: list[int] = []
        self._shifts: list[int] = []
        self._behind_ours: set[int] = set()  # the decoded frames behind those that we put between pieces

    def advance(self, piece: Piece) -> None:
        """Decode what the next window's logits settle; raises UserError for those that are not finite numbers."""
        for settled in self._stitcher.add(piece):
            self._decode(settled)

    def finish(self) -> list[Word]:
        """The words of the best text."""
        for settled in self._stitcher.finish():
            self._decode(settled)
        words = self._search.finish(self._state)[0].words
        return [self._place(word) for word in _part_unspaced(words, self._search.alphabet.parts_words)]

    def _decode(self, piece: Piece) -> None:
        if self._end is not None and (piece.after_pause or piece.first_frame != self._end):
            self._advance(self._say_nothing(piece.logits.shape[1], piece.after_pause))
            self._behind_ours.add(self._num_frames)
        shift = piece.first_frame - self._num_frames
        if not self._shifts or self._shifts[-1] != shift:
            self._starts.append(self._num_frames)
            self._shifts.append(shift)
        self._advance(piece.logits)
        self._end = piece.end_frame

    def _advance(self, logits: NDArray[np.float32]) -> None:
        self._state = self._search.advance(self._state, logits, self._name)
        self._num_frames += len(logits)

    def _say_nothing(self, num_symbols: int, after_pause: bool) -> NDArray[np.float32]:
        symbol = self._search.blank_id
        if after_pause and self._search.delimiter_id is not None:
            symbol = self._search.delimiter_id
        row = np.full((1, num_symbols), _NEVER, np.float32)
        row[0, symbol] = 0
        return row

    def _place(self, word: Word) -> Word:
        """A word with frames of the recording."""
        characters = tuple(
            replace(each, start_frame=self._find(each.start_frame), end_frame=self._find(each.end_frame - 1) + 1)
            for each in word.characters
        )
        first, last = characters[0].start_frame, characters[-1].end_frame
        seconds = self._search.seconds_per_frame
        return replace(
            word,
            start_frame=first,
            end_frame=last,
            start_seconds=first * seconds,
            end_seconds=last * seconds,
            characters=characters,
            delimiter_frame=self._find_delimiter(word),
        )

    def _find_delimiter(self, word: Word) -> int | None:
        """The frame behind the delimiter before a word; one of ours says nothing."""
        behind = word.delimiter_frame
        return None if behind is None or behind in self._behind_ours else self._find(behind - 1) + 1

    def _find(self, frame: int) -> int:
        return frame + self._shifts[int(np.searchsorted(self._starts, frame, side="right")) - 1]


def _part_unspaced(words: Iterable[Word], has_delimiter: bool) -> Iterator[Word]:
    """Words as they are counted: a Han character or kana is one, and any symbol where nothing parts words.

    A symbol of several characters stays whole, with the word that it begins.
    """
    for word in words:
        rest = list(word.characters)
        parts = split_timed_words(word.text) if has_delimiter else [each.text for each in rest]
        if len(parts) == 1:
            yield word
            continue
        size = end = 0
        for place, text in enumerate(parts):
            end += len(text)
            part = []
            while rest and size < end:
                size += len(rest[0].text)
                part.append(rest.pop(0))
            if not part:
                continue
            yield replace(
                word,
                text="".join(each.text for each in part),
                start_frame=part[0].start_frame,
                end_frame=part[-1].end_frame,
                confidence=sum(each.confidence for each in part) / len(part),
                characters=tuple(part),
                delimiter_frame=None if place else word.delimiter_frame,
            )
