"""Joined windows give the text of the whole: each frame once, words with their frames, separated by pauses."""

import numpy as np
import pytest

from finetune.decoding.beam import BeamSearch
from finetune.decoding.greedy import GreedySearch
from finetune.inference.stitching import Piece, RecordingDecoder, stitch

SYMBOLS = "_|abc好世"


def build_search(kind: str, delimiter: int | None = 1) -> BeamSearch | GreedySearch:
    return {"greedy": GreedySearch, "beam": BeamSearch}[kind](SYMBOLS, blank_id=0, delimiter_id=delimiter)


def say(symbols: str) -> np.ndarray:
    """Logits of a symbol in each frame, (frames, vocabulary)."""
    logits = np.full((len(symbols), len(SYMBOLS)), -4, np.float32)
    logits[np.arange(len(symbols)), [SYMBOLS.index(symbol) for symbol in symbols]] = 4
    return logits


def decode(kind: str, *pieces: tuple[int, str, bool], delimiter: int | None = 1) -> list[tuple[str, int, int]]:
    decoder = RecordingDecoder(build_search(kind, delimiter))
    for first, symbols, after_pause in pieces:
        decoder.advance(Piece(first, say(symbols), after_pause))
    words = decoder.finish()
    for word in words:
        assert word.text == "".join(character.text for character in word.characters)
        assert word.start_frame == word.characters[0].start_frame
        assert word.end_frame == word.characters[-1].end_frame
        assert word.start_seconds == pytest.approx(0.02 * word.start_frame)
        assert 0.99 < word.confidence <= 1
    return [(word.text, word.start_frame, word.end_frame) for word in words]


def test_overlapping_windows_are_joined_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((1000, 5)).astype(np.float32)
    pieces = []
    for first in range(0, 850, 150):
        logits = whole[first : first + 250].copy()
        # At its edges a window knows too little.
        logits[: 40 if first else 0] = rng.standard_normal(5)
        logits[len(logits) - (40 if first < 750 else 0) :] = rng.standard_normal(5)
        pieces.append(Piece(first, logits, not first))
    stitched = list(stitch(pieces))
    assert [piece.first_frame for piece in stitched] == [0, *(piece.end_frame for piece in stitched[:-1])]
    assert np.array_equal(np.concatenate([piece.logits for piece in stitched]), whole)


def test_a_cut_is_in_the_middle_or_where_the_windows_agree_nearest_to_it() -> None:
    def cut(before: str, after: str) -> str:
        pieces = stitch([Piece(0, say("c" + before), True), Piece(1, say(after + "c"), False)])
        return "".join(SYMBOLS[i] for piece in pieces for i in piece.logits.argmax(1))

    assert cut("aaaaaa", "bbbbbb") == "caaabbbc"
    # The windows differ by a frame: cut in the middle, the a would be there twice, and then not at all.
    assert cut("__a____", "___a___").count("a") == 1
    assert cut("___a___", "__a____").count("a") == 1


def test_in_a_pause_that_windows_share_symbols_come_late() -> None:
    def cut(before: str, after: str) -> str:
        pieces = stitch([Piece(0, say("c" + before), True), Piece(1, say(after + "c"), True)])
        return "".join(SYMBOLS[i] for piece in pieces for i in piece.logits.argmax(1))

    assert cut("____ab__", "________") == "c____ab__c"
    assert cut("____a___", "_______b") == "c____a__bc"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_words_are_separated_by_a_pause_and_keep_their_frames(kind: str) -> None:
    assert decode(kind, (10, "_ab", True), (100, "ca_", True)) == [("ab", 11, 13), ("ca", 100, 102)]
    # A word whose window was trimmed at its end goes on, and its letters stay two.
    assert decode(kind, (0, "ca", True), (5, "ab_", False)) == [("caab", 0, 7)]
    assert decode(kind, (0, "_a_b__", True), (3, "b__|c", False)) == [("ab", 1, 4), ("c", 7, 8)]
    assert decode(kind) == []


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_without_a_word_delimiter_each_character_is_a_word(kind: str) -> None:
    characters = [("a", 1, 2), ("a", 3, 4), ("a", 50, 51)]
    assert decode(kind, (0, "_a_a", True), (50, "a", True), delimiter=None) == characters


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_a_han_character_is_a_word_also_beside_letters(kind: str) -> None:
    found = decode(kind, (0, "_ab好_世|c", True))
    assert found == [("ab", 1, 3), ("好", 3, 4), ("世", 5, 6), ("c", 7, 8)]


@pytest.mark.parametrize("kind", ["greedy", "beam"])
@pytest.mark.parametrize("second", [5, 6, 9])
def test_delimiters_have_frames_of_the_recording_unless_they_are_inserted(kind: str, second: int) -> None:
    decoder = RecordingDecoder(build_search(kind))
    decoder.advance(Piece(0, say("a||_b"), True))
    decoder.advance(Piece(second, say("_c_|_a"), True))
    assert [word.delimiter_frame for word in decoder.finish()] == [None, 3, None, second + 4]


def test_a_word_of_several_windows_has_the_frames_of_each() -> None:
    pieces = [(0, "a_b_", True), (2, "b__c", False), (20, "_a", True)]
    assert decode("greedy", *pieces) == decode("beam", *pieces) == [("abc", 0, 6), ("a", 21, 22)]


def test_symbols_of_several_characters_are_not_split() -> None:
    symbols = ("_", "|", "你", "好的", "th", "a", "[UNK]")
    for delimiter, expected in ((1, ["你", "好的", "tha[UNK]"]), (None, ["你", "好的", "th", "a", "[UNK]"])):
        search = GreedySearch(symbols, blank_id=0, delimiter_id=delimiter)
        decoder = RecordingDecoder(search)
        logits = (20.0 * np.eye(len(symbols))[[2, 3, 4, 5, 6]]).astype(np.float32)
        decoder.advance(Piece(0, logits, False))
        words = decoder.finish()
        assert [word.text for word in words] == expected
        assert [word.start_frame for word in words] == [0, 1, 2, 3, 4][: len(expected)]
