"""Matching the text of a recording of hours with its speech: when each word is said, and what is said beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from finetune.audio.stream import Audio
from finetune.decoding.alignment import Costs, align
from finetune.decoding.alphabet import Alphabet
from finetune.decoding.anchors import find_anchors
from finetune.decoding.decoder import build_greedy_search
from finetune.decoding.hypotheses import Word
from finetune.errors import UserError
from finetune.inference.aligner import join_pieces, list_ids, spell_text
from finetune.inference.stitching import Piece, RecordingDecoder
from finetune.inference.transcriber import Transcriber
from finetune.text.transcripts import Transform, build_normalizer

# A longer recording is aligned in parts of about this length, between anchors; the time for each is quadratic.
_PART_SECONDS = 180.0
# Half of the run of words of an anchor is before the cut.
_BEFORE_CUT = 2
# From when a symbol is emitted back to the middle between the delays of onsets and offsets (see `timing`).
_DELAY_SECONDS = 0.05


@dataclass(frozen=True)
class MatchedWord:
    """A word as it is written, and the times (s) when its symbols are heard; none where it is not in the speech.

    `cost` is by how much the best path
    of any symbols is likelier than the word, a natural logarithm; `num_symbols` are those of its spoken form.
    """

    text: str
    times: tuple[float, ...]
    cost: float
    num_symbols: int


@dataclass(frozen=True)
class HeardSymbol:
    """A recognised symbol, the time (s) when it is heard, and the number of the recognised word that it belongs to.

    `foreign` is whether it lies outside all words of the text that were found.
    """

    text: str
    time: float
    word: int
    foreign: bool


@dataclass(frozen=True)
class Match:
    """All words of a text in its order, all recognised symbols, and the recording's length in seconds."""

    words: tuple[MatchedWord, ...]
    heard: tuple[HeardSymbol, ...]
    seconds: float


def match_text(
    transcriber: Transcriber,
    audio: Audio,
    text: str,
    transforms: Sequence[Transform],
    *,
    on_progress: Callable[[float], object] | None = None,
) -> Match:
    """Match a text with a recording of any length; the audio is streamed, and its logits are held.

    `transforms` normalise each word of the text. Raises UserError for a text without words, and AudioError if the
    recording can't be read to its end.
    """
    recogniser = transcriber.recogniser
    alphabet = recogniser.alphabet
    words = spell_text(text, build_normalizer(transforms), alphabet.parts_words)
    if not words:
        raise UserError("empty text: it has no words that the model can recognise")
    pieces, seconds = transcriber.compute_logits(audio, on_progress=on_progress)
    frame_seconds = transcriber.stride / recogniser.sampling_rate
    delay = _DELAY_SECONDS - recogniser.lead_seconds
    heard = _recognise(transcriber, pieces)
    logits, frames = join_pieces(pieces, len(alphabet.symbols))
    pieces.clear()
    logits = alphabet.fold_silent(logits)
    said = [each for word in words for each in word.said]
    part_frames = round(_PART_SECONDS / frame_seconds)
    aligned = iter(_align_parts(logits, frames, said, heard, alphabet, part_frames))
    matched, spans = [], []
    for word in words:
        parts = list(islice(aligned, len(word.said)))
        found = all(part.characters for part in parts)
        symbols = [symbol for part in parts for symbol in part.characters] if found else []
        rows = [symbol.start_frame for symbol in symbols]
        times = tuple(max(0.0, float(frames[row]) * frame_seconds - delay) for row in rows)
        count = sum(map(len, word.said))
        cost = sum(_measure_cost(logits, part, alphabet) for part in parts) if found else Costs().skip * count
        matched.append(MatchedWord(word.text, times, cost, count))
        if symbols:
            spans.append((int(frames[rows[0]]), int(frames[symbols[-1].end_frame - 1])))
    return Match(tuple(matched), tuple(_place_heard(heard, spans, frame_seconds, delay)), seconds)


def _recognise(transcriber: Transcriber, pieces: Sequence[Piece]) -> list[Word]:
    """The greedily recognised words of a recording, with its frames."""
    recogniser = transcriber.recogniser
    decoder = RecordingDecoder(build_greedy_search(recogniser.tokenizer, recogniser.num_symbols))
    for piece in pieces:
        decoder.advance(piece)
    return decoder.finish()


def _align_parts(
    logits: NDArray[np.float32],
    frames: NDArray[np.int64],
    said: Sequence[str],
    heard: Sequence[Word],
    alphabet: Alphabet,
    part_frames: int,
) -> list[Word]:
    """Align words with logits, (frames, symbols), between anchors that are `part_frames` or more apart.

    Without anchors it is one part. The words have rows of the logits.
    """
    cuts = [(0, 0)]
    if len(logits) > 2 * part_frames:
        for place, word in find_anchors([each.text for each in heard], said):
            behind = place + _BEFORE_CUT
            frame = (heard[behind - 1].end_frame + heard[behind].start_frame) // 2
            row = int(np.searchsorted(frames, frame))
            if row - cuts[-1][0] >= part_frames and len(logits) - row >= part_frames // 2:
                cuts.append((row, word + _BEFORE_CUT))
    cuts.append((len(logits), len(said)))
    ids, how = list_ids(alphabet), {"blank_id": alphabet.blank_id, "delimiter_id": alphabet.delimiter_id}
    words: list[Word] = []
    for (row, word), (next_row, next_word) in pairwise(cuts):
        aligned = align(logits[row:next_row], said[word:next_word], ids, **how)  # type: ignore[arg-type]
        words += [_shift(each, row) for each in aligned.words]
    return words


def _shift(word: Word, rows: int) -> Word:
    if not rows:
        return word
    characters = tuple(
        replace(each, start_frame=each.start_frame + rows, end_frame=each.end_frame + rows) for each in word.characters
    )
    return replace(word, start_frame=word.start_frame + rows, end_frame=word.end_frame + rows, characters=characters)


def _measure_cost(logits: NDArray[np.float32], word: Word, alphabet: Alphabet) -> float:
    """By how much the best path through a word's rows is likelier than the word's own, a natural logarithm."""
    ids, first = list_ids(alphabet), word.start_frame
    rows = logits[first : word.end_frame].astype(np.float64)
    path = rows[:, alphabet.blank_id].copy()
    for symbol in word.characters:
        span = slice(symbol.start_frame - first, symbol.end_frame - first)
        path[span] = rows[span, ids[symbol.text]] if symbol.text in ids else rows[span].max(axis=1)
    return float((rows.max(axis=1) - path).sum())


def _place_heard(
    heard: Sequence[Word], spans: Sequence[tuple[int, int]], frame_seconds: float, delay: float
) -> list[HeardSymbol]:
    """The recognised symbols; `spans` are the first and last frames of the words of the text that were found."""
    starts = [first for first, _ in spans]
    symbols: list[HeardSymbol] = []
    for number, word in enumerate(heard):
        for symbol in word.characters:
            before = int(np.searchsorted(starts, symbol.start_frame + 1, side="right")) - 1
            inside = before >= 0 and symbol.start_frame <= spans[before][1] + 1
            time = max(0.0, symbol.start_frame * frame_seconds - delay)
            symbols.append(HeardSymbol(symbol.text, time, number, not inside))
    return symbols
