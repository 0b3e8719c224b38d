"""Words and phrases to listen for, as an automaton that follows a text symbol by symbol."""

from __future__ import annotations

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
    """An automaton; state 0 is: no phrase is under way. Read-only arrays, so that compiled code has one form.

    - `start`: the state before the first symbol;
    - `following`: (states, vocabulary) int32, the state after a symbol;
    - `bonus`: (states,) float64, what the phrases that are complete on entering a state are worth;
    - `potential`: (states,) float64, the part of a phrase's boost that is granted while it is under way;
    - `is_word`: (states,) bool, whether the word that has just ended belongs to a phrase.
    """

    start: int
    following: NDArray[np.int32]
    bonus: NDArray[np.float64]
    potential: NDArray[np.float64]
    is_word: NDArray[np.bool_]


def spell_phrase(phrase: str, boost: float, alphabet: Alphabet) -> list[tuple[int, ...]]:
    """The ways to write a hotword as columns of the logits, with a word delimiter for each space.

    Raises UserError for one without words, with a boost that is not finite, or with characters that no column has.
    """
    letters = dict(alphabet.letters)
    if alphabet.delimiter_id is not None:
        letters[" "] = [alphabet.delimiter_id]
    words = phrase.split()
    text = " ".join(words)
    if not text or not math.isfinite(boost):
        raise UserError(f"Got the hotword {phrase!r} with the boost {boost}: expected a word and a finite number.")
    if alphabet.symbols_are_words:
        known = all(word in letters for word in words)
        ways = list(itertools.product(*(letters[word] for word in words))) if known else []
        missing = {word for word in words if word not in letters}
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
    """The automaton (Aho and Corasick 1975) of phrases, each a list of symbols and a boost.

    A phrase counts from a word's beginning to a word's end, so it is looked for with a word delimiter on both sides,
    and a delimiter is thought before the text; without a delimiter it counts wherever it stands. On the way to its end
    a text gets the boost in proportion to the symbols that match; where several phrases are under way, the largest
    share. The share goes when the match fails. Phrases within others count too, each time. A negative boost is given
    only for the whole.
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
        # What the shorter match that goes on beside this one is worth; it lies nearer to the root and is done.
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
