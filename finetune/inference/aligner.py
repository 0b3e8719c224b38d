"""Forced alignment: the times of the words of a known text in a recording."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from finetune.audio.stream import Audio
from finetune.audio.waveforms import Waveform
from finetune.decoding.alignment import align
from finetune.decoding.alphabet import Alphabet
from finetune.decoding.hypotheses import Word
from finetune.errors import UserError
from finetune.inference.recogniser import Recogniser
from finetune.inference.stitching import Piece
from finetune.inference.timing import place_words
from finetune.inference.transcriber import Transcriber
from finetune.inference.transcript import Transcript
from finetune.text.transcripts import build_normalizer
from finetune.text.word_units import split_timed_words


@dataclass(frozen=True)
class Written:
    """A word of the text, and the normalised words that are spoken for it."""

    text: str
    said: tuple[str, ...]


def align_text(
    transcriber: Transcriber,
    audio: Audio,
    text: str,
    *,
    sampling_rate: int | None = None,
    on_progress: Callable[[float], object] | None = None,
) -> Transcript:
    """The times of the words of a text in a recording of any length; words that are not in the audio are not `found`.

    `audio` and the other arguments are as for `Transcriber.transcribe_many`. Words are written as in the text, with
    punctuation that follows them. Each word is normalised by itself, so that steps for several words have no effect. A
    character that the model does not have matches any sound.

    Raises UserError for a text without words, AudioError if the recording can't be read to its end.

    >>> from finetune.inference.aligner import align_text
    >>> from finetune.inference.transcriber import Transcriber
    >>> transcriber = Transcriber("runs/quickstart/model", device="cpu")
    >>> [word.text for word in align_text(transcriber, "speech.wav", "Ab cab, bad.").words]
    ['Ab', 'cab,', 'bad.']
    """
    recogniser = transcriber.recogniser
    alphabet = recogniser.alphabet
    words = spell_text(text, build_normalizer(recogniser.normalization), alphabet.parts_words)
    if not words:
        raise UserError("The text to align has no words that the model can recognise: expected the words of the audio.")
    pieces, seconds = transcriber.compute_logits(audio, sampling_rate=sampling_rate, on_progress=on_progress)
    logits, frames = join_pieces(pieces, len(alphabet.symbols))
    frame_seconds = transcriber.stride / recogniser.sampling_rate
    aligned = align(
        alphabet.fold_silent(logits),
        [said for word in words for said in word.said],
        list_ids(alphabet),
        blank_id=alphabet.blank_id,
        delimiter_id=alphabet.delimiter_id,
        seconds_per_frame=frame_seconds,
    )
    found = iter(aligned.words)
    written = [_write(word.text, list(islice(found, len(word.said))), frames, frame_seconds) for word in words]
    return Transcript(place_words(written, frame_seconds, seconds, lead_seconds=recogniser.lead_seconds), seconds)


def measure_mismatches(
    recogniser: Recogniser, waveforms: Sequence[Waveform], texts: Sequence[str]
) -> list[float | None]:
    """The mismatch of each waveform, (samples,), and its text: the cost of the alignment for each symbol of the text.

    The cost is the log ratio of the best path's likelihood to that of the text; 0 is a perfect match, and None stands
    for a text without symbols.
    """
    alphabet = recogniser.alphabet
    normalize, ids = build_normalizer(recogniser.normalization), list_ids(alphabet)
    logits, num_frames = recogniser.logits(waveforms)
    mismatches: list[float | None] = []
    for row, frames, text in zip(logits, num_frames, texts, strict=True):
        words = [said for word in spell_text(text, normalize, alphabet.parts_words) for said in word.said]
        heard = alphabet.fold_silent(row[:frames].numpy())
        aligned = align(heard, words, ids, blank_id=alphabet.blank_id, delimiter_id=alphabet.delimiter_id)
        mismatches.append(aligned.cost / aligned.num_symbols if words else None)
    return mismatches


def list_ids(alphabet: Alphabet) -> dict[str, int]:
    """The column of each letter, the first if several columns write the same letter."""
    return {text: numbers[0] for text, numbers in alphabet.letters.items()}


def spell_text(text: str, normalize: Callable[[str], str], parted: bool) -> list[Written]:
    """The words of a text, or its characters without a word delimiter; unspoken parts go with the word before."""
    words: list[Written] = []
    before = ""  # The unspoken text before the next word.
    for chunk in text.split():
        space = " "
        for unit in split_timed_words(chunk) if parted else chunk:
            if said := tuple(normalize(unit).split()):
                words.append(Written(before + unit, said))
                before = ""
            elif words:
                words[-1] = replace(words[-1], text=words[-1].text + space + unit)
            else:
                before += unit + " "
            space = ""
    return words


def join_pieces(pieces: Sequence[Piece], num_symbols: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The logits of all pieces, (frames, symbols), and for each row its frame in the recording."""
    logits = [np.empty((0, num_symbols), np.float32), *(piece.logits for piece in pieces)]
    frames = [np.empty(0, np.int64), *(np.arange(piece.first_frame, piece.end_frame) for piece in pieces)]
    return np.concatenate(logits), np.concatenate(frames)


def _write(text: str, said: Sequence[Word], frames: NDArray[np.int64], frame_seconds: float) -> Word:
    """A word of the text with the times of its spoken words, in frames of the recording."""
    characters = tuple(
        replace(each, start_frame=int(frames[each.start_frame]), end_frame=int(frames[each.end_frame - 1]) + 1)
        for word in said
        for each in word.characters
    )
    if characters:
        start, end = characters[0].start_frame, characters[-1].end_frame
    else:
        start = end = int(frames[min(said[0].start_frame, len(frames) - 1)]) if len(frames) else 0
    confidence = sum(word.confidence for word in said) / len(said)
    behind = said[0].delimiter_frame
    delimiter_frame = None if behind is None else int(frames[behind - 1]) + 1
    return Word(
        text=text,
        start_frame=start,
        end_frame=end,
        start_seconds=start * frame_seconds,
        end_seconds=end * frame_seconds,
        confidence=confidence,
        characters=characters,
        delimiter_frame=delimiter_frame,
    )
