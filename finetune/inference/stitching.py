"""Joining the logits of overlapping windows and decoding them as one recording."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.beam import BeamSearch
from finetune.decoding.greedy import GreedySearch
from finetune.decoding.hypotheses import Word
from finetune.text.word_units import split_timed_words

# The logit of all symbols but one in an inserted frame.
_NEVER = -1e3


@dataclass(frozen=True)
class Piece:
    """Logits of consecutive frames of a recording, (frames, vocabulary), and the number of the first.

    `after_pause`: no word continues into it from the frames before.
    """

    first_frame: int
    logits: NDArray[np.float32]
    after_pause: bool

    @property
    def end_frame(self) -> int:
        """The number of the last frame plus one."""
        return self.first_frame + len(self.logits)

    def part(self, first_frame: int, end_frame: int) -> "Piece":
        """The frames from `first_frame` to before `end_frame`."""
        logits = self.logits[first_frame - self.first_frame : end_frame - self.first_frame]
        return replace(self, first_frame=first_frame, logits=logits)


class Stitcher:
    """Joins the logits of overlapping windows: frames before the middle of the overlap are taken from the first window.

    In a shared pause all frames are taken from the first window, as CTC emits symbols late, after the end of a word.
    """

    def __init__(self) -> None:
        self._held: Piece | None = None

    def add(self, piece: Piece) -> Iterator[Piece]:
        """The pieces that are final once the logits of the next window are known."""
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
        """The rest, when there are no more windows."""
        if self._held is not None:
            yield self._held
        self._held = None


def stitch(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The logits of a recording from those of its windows, in order; see `Stitcher`."""
    stitcher = Stitcher()
    for piece in pieces:
        yield from stitcher.add(piece)
    yield from stitcher.finish()


def _find_cut(before: NDArray[np.intp], after: NDArray[np.intp], in_pause: bool) -> int:
    """How many frames of an overlap to take from the first window: about half of speech, or all of a pause.

    The cut is moved to the nearest place where both windows have the same best symbols on both sides: a symbol that one
    window emits a frame later than the other is then neither duplicated nor lost.
    """
    wanted = len(before) if in_pause else len(before) // 2
    same = before == after
    safe = np.flatnonzero(same[1:] & same[:-1]) + 1
    return int(safe[np.abs(safe - wanted).argmin()]) if len(safe) else wanted


class RecordingDecoder:
    """Joins the logits of a recording's windows and decodes them as one; words have frames of the recording.

    It inserts a frame between pieces: a word delimiter in a pause, as models often emit none at the end of an
    utterance, or a blank where frames are missing.
    """

    def __init__(self, search: BeamSearch | GreedySearch, name: str = "The recording") -> None:
        self._search: Any = search
        self._name = name
        self._stitcher = Stitcher()
        self._state = self._search.start()
        self._num_frames = 0  # that were decoded
        self._end: int | None = None  # the end of the last piece, as a frame of the recording
        # The offsets of recording frames to decoded frames, and the decoded frames from which they hold.
        self._starts: list[int] = []
        self._shifts: list[int] = []
        self._behind_ours: set[int] = set()  # the decoded frames after inserted ones

    def advance(self, piece: Piece) -> None:
        """Decode the frames that are final with the next window; raises UserError for logits that are not finite."""
        for settled in self._stitcher.add(piece):
            self._decode(settled)

    def finish(self) -> list[Word]:
        """The words of the best hypothesis."""
        for settled in self._stitcher.finish():
            self._decode(settled)
        words = self._search.finish(self._state)[0].words
        return [self._place(word) for word in _part_unspaced(words, self._search.alphabet.parts_words)]

    def _decode(self, piece: Piece) -> None:
        if self._end is not None and (piece.after_pause or piece.first_frame != self._end):
            self._advance(self._insert_frame(piece.logits.shape[1], piece.after_pause))
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

    def _insert_frame(self, num_symbols: int, after_pause: bool) -> NDArray[np.float32]:
        symbol = self._search.blank_id
        if after_pause and self._search.delimiter_id is not None:
            symbol = self._search.delimiter_id
        row = np.full((1, num_symbols), _NEVER, np.float32)
        row[0, symbol] = 0
        return row

    def _place(self, word: Word) -> Word:
        """A word with the frames of the recording."""
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
        """The frame after the delimiter before a word; None for an inserted delimiter."""
        behind = word.delimiter_frame
        return None if behind is None or behind in self._behind_ours else self._find(behind - 1) + 1

    def _find(self, frame: int) -> int:
        return frame + self._shifts[int(np.searchsorted(self._starts, frame, side="right")) - 1]


def _part_unspaced(words: Iterable[Word], has_delimiter: bool) -> Iterator[Word]:
    """Split words into the units that are counted: Han characters and kana, or all symbols without a word delimiter.

    A symbol of several characters is not split; it belongs to the word that begins with it.
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
