"""Hotwords: boosted words and phrases, as an automaton over the symbols of a text."""

import itertools
import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.alphabet import Alphabet, spell
from finetune.errors import UserError


class Hotwords(NamedTuple):
    """An automaton; in state 0 no phrase is partially matched. The arrays are read-only, as `Lexicon`'s are.

    - `start`: the state before the first symbol;
    - `following`: (states, vocabulary) int32, the state after a symbol;
    - `bonus`: (states,) float64, the boosts of the phrases that are complete on entering a state;
    - `potential`: (states,) float64, the part of a phrase's boost that is granted while it is partially matched;
    - `is_word`: (states,) bool, whether the word that just ended belongs to a phrase.
    """

    start: int
    following: NDArray[np.int32]
    bonus: NDArray[np.float64]
    potential: NDArray[np.float64]
    is_word: NDArray[np.bool_]


def spell_phrase(phrase: str, boost: float, alphabet: Alphabet) -> list[tuple[int, ...]]:
    """The ways to write a hotword as columns of the logits, with a word delimiter for each space.

    Raises UserError for an empty hotword, a boost that is not finite, and characters that no column has.
    """
    letters = dict(alphabet.letters)
    if alphabet.delimiter_id is not None:
        letters[" "] = [alphabet.delimiter_id]
    words = phrase.split()
    text = " ".join(words)
    if not text or not math.isfinite(boost):
        raise UserError(f"Got the hotword {phrase!r} with the boost {boost}: expected a word and a finite number.")
    if alphabet.symbols_are_words:
        ways = list(itertools.product(*(letters.get(word, ()) for word in words)))
        missing = set(words) - letters.keys()
    else:
        ways = spell(text, letters)
        missing = set(text) - set("".join(letters)) or {text}
    if not ways:
        raise UserError(
            f"The hotword {phrase!r} has characters that the model can't write: "
            f"{', '.join(map(repr, sorted(missing)))}; "
            "write it with those of the model's vocabulary, or leave it out."
        )
    return ways


def build_hotwords(phrases: Iterable[tuple[list[int], float]], delimiter: int | None, vocabulary: int) -> Hotwords:
    """Build the automaton (Aho and Corasick 1975) of phrases, each a list of symbols and a boost.

    A phrase has to begin and end with a word, so it is matched with a word delimiter on both sides, and the text's
    beginning counts as a delimiter; without a delimiter it matches anywhere. A partial match gets the boost in
    proportion to its symbols; of several partial matches the largest counts. It is taken back when the match fails.
    Phrases within others count too, each time. A negative boost is applied to complete matches only.
    """
    edge = [] if delimiter is None else [delimiter]
    children: list[dict[int, int]] = [{}]
    bonus, potential = [0.0], [0.0]

    def add(state: int, symbol: int) -> int:
        if symbol not in children[state]:
            children[state][symbol] = len(children)
            children.append({})
            bonus.append(0.0)
            potential.append(0.0)
        return children[state][symbol]

    start = 0
    for symbols, boost in phrases:
        state = 0
        for symbol in edge:
            state = start = add(state, symbol)
        for matched, symbol in enumerate(symbols, start=1):
            state = add(state, symbol)
            if edge or matched < len(symbols):
                potential[state] = max(potential[state], boost * matched / len(symbols))
        for symbol in edge:
            state = add(state, symbol)
        bonus[state] += boost

    following = np.zeros((len(children), vocabulary), np.int32)
    is_word = np.zeros(len(children), bool)
    fallback, queue = [0] * len(children), deque([0])
    while queue:
        state = queue.popleft()
        # Add the values of the shorter match that continues with this one; it is nearer to the root and so complete.
        bonus[state] += bonus[fallback[state]] if state else 0.0
        potential[state] = max(potential[state], potential[fallback[state]])
        following[state] = following[fallback[state]]
        for symbol, child in children[state].items():
            fallback[child] = int(following[state, symbol]) if state else 0
            following[state, symbol] = child
            is_word[child] = symbol == delimiter and child != start
            queue.append(child)
    arrays = following, np.array(bonus), np.array(potential), is_word
    for array in arrays:
        array.setflags(write=False)
    return Hotwords(start, *arrays)
