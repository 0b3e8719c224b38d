"""Frames in which symbols are emitted to seconds in which words and characters are said."""

from collections.abc import Iterable

from finetune.decoding import hypotheses
from finetune.inference.transcript import Character, Word


def place_words(
    words: Iterable[hypotheses.Word], frame_seconds: float, audio_seconds: float, channel: int = 1
) -> tuple[Word, ...]:
    """The words with times in seconds: within the audio, and none begins before the one before it ends.

    `frame_seconds` is from one frame to the next.
    """
    placed = []
    latest = 0.0
    for word in words:
        characters = []
        for character in word.characters:
            start = min(max(latest, character.start_frame * frame_seconds), audio_seconds)
            latest = min(max(start, character.end_frame * frame_seconds), audio_seconds)
            characters.append(Character(character.text, start, latest, character.confidence))
        placed.append(
            Word(word.text, characters[0].start, characters[-1].end, word.confidence, tuple(characters), channel)
        )
    return tuple(placed)
