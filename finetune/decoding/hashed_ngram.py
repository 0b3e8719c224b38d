"""A word n-gram language model in hash tables, used in place in KenLM's "probing" files.

A key is a hash of the n-gram's words and cannot be inverted, so the n-grams cannot be listed without trying all words
before all n-grams. So the tables are not converted into the automaton of `ngram.py`; they are looked up as in KenLM
(Heafield 2011, KenLM, "Probing"), and a state's words are stored when it is reached.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.compilation import compiled
from finetune.decoding.ngram import END, START

# The entries of KenLM's tables, little endian and unaligned. The sign of `prob` is set if no longer n-gram ends with
# this one, the sign of a `backoff` of zero if no longer n-gram begins with it: then the search for one can stop.
WORD = np.dtype([("prob", "<f4"), ("backoff", "<f4")])
MIDDLE = np.dtype([("key", "<u8"), ("prob", "<f4"), ("backoff", "<f4")])
LONGEST = np.dtype([("key", "<u8"), ("prob", "<f4")])

LN_10 = math.log(10)
# The constants of CombineWordHash in KenLM's lm/search_hashed.hh.
_OLDER, _WORD = np.uint64(8978948897894561157), np.uint64(17894857484156487943)


class HashTables(NamedTuple):
    """The n-grams, with decimal logarithms; all arrays but the last two are read-only.

    A node is an n-gram of any order but the highest: nodes 0 to V - 1 are the words, the others V plus the n-gram's
    place in `middle`.

    - `words`: (V,) WORD;
    - `middle`: (places,) MIDDLE, the tables of the orders in between, concatenated; a key of 0 is a free place;
    - `longest`: (places,) LONGEST;
    - `first_place`: (orders - 1,) int64, where in `middle` each order's table begins, and where the last ends;
    - `oldest`, `suffix`: (nodes,) int32, an n-gram's first word, and the node of the n-gram without it, -1 for none;
      written when a search reaches the n-gram. Threads may share them: all write the same value to a place.
    """

    words: NDArray[Any]
    middle: NDArray[Any]
    longest: NDArray[Any]
    first_place: NDArray[np.int64]
    oldest: NDArray[np.int32]
    suffix: NDArray[np.int32]


def build_tables(
    words: NDArray[Any], middle: NDArray[Any], longest: NDArray[Any], first_place: NDArray[np.int64]
) -> HashTables:
    """Tables in which only the words have been reached; the other nodes' memory is allocated when it is used."""
    size = len(words) + len(middle)
    oldest, suffix = np.zeros(size, np.int32), np.zeros(size, np.int32)
    oldest[: len(words)] = np.arange(len(words))
    suffix[: len(words)] = -1
    for array in (words, middle, longest, first_place):
        array.setflags(write=False)
    return HashTables(words, middle, longest, first_place, oldest, suffix)


@compiled
def _find(table: NDArray[Any], begin: Any, end: Any, key: Any) -> int:
    """The place of a key in the table of one order, or -1."""
    size = end - begin
    if size == 0:
        return -1
    place: int = begin + np.int64(key % np.uint64(size))
    for _ in range(size):
        found = table[place].key
        if found == key:
            return place
        if found == 0:
            return -1
        place += 1
        if place == end:
            place = begin
    return -1


@compiled
def _has_sign(value: float) -> bool:
    return math.copysign(1.0, value) < 0


@compiled
def _backoff(tables: HashTables, node: int) -> float:
    num_words = len(tables.words)
    return tables.words[node].backoff if node < num_words else tables.middle[node - num_words].backoff


@compiled
def advance(tables: HashTables, state: int, word: int) -> tuple[float, int]:
    """The natural logarithm of a word's probability after a state, and the state after the word.

    As `ngram.advance`; a state is the node of the context, -1 for the empty one. The n-gram is extended backwards from
    the word by one word of the context after another, as long as the longer n-gram exists.
    """
    num_words, longest_context = len(tables.words), len(tables.first_place)
    contexts = np.empty(longest_context, np.int64)  # The state and its suffixes, the longest first.
    length, node = 0, state
    while node >= 0 and length < longest_context:
        contexts[length] = node
        length += 1
        node = tables.suffix[node]
    node, key, prob = word, np.uint64(word), tables.words[word].prob
    matched = 1
    while matched <= length and not _has_sign(prob):
        oldest = tables.oldest[contexts[length - matched]]
        key = (key * _OLDER) ^ (np.uint64(oldest + 1) * _WORD)
        if matched == longest_context:
            place = _find(tables.longest, 0, len(tables.longest), key)
            if place >= 0:
                prob = tables.longest[place].prob
                matched += 1
            break
        place = _find(tables.middle, tables.first_place[matched - 1], tables.first_place[matched], key)
        if place < 0:
            break
        tables.oldest[num_words + place] = oldest
        tables.suffix[num_words + place] = node
        node, prob = num_words + place, tables.middle[place].prob
        matched += 1
    log_prob = -abs(np.float64(prob))
    for i in range(length - matched + 1):
        log_prob += _backoff(tables, contexts[i])
    while node >= 0:
        backoff = _backoff(tables, node)
        if backoff != 0 or not _has_sign(backoff):
            break
        node = tables.suffix[node]
    return log_prob * LN_10, node


@compiled
def _score(tables: HashTables, state: int, words: NDArray[np.int32]) -> NDArray[np.float64]:
    scores = np.empty(len(words))
    for i in range(len(words)):
        scores[i], state = advance(tables, state, words[i])
    return scores


@dataclass(frozen=True, eq=False)
class HashedModel:
    """A backoff n-gram model in hash tables: its words by number (0 is `<unk>`), its tables and its file."""

    words: tuple[str, ...]
    tables: HashTables
    path: Path

    @cached_property
    def word_ids(self) -> dict[str, int]:
        """The words' numbers."""
        return {word: number for number, word in enumerate(self.words)}

    @property
    def start_state(self) -> int:
        """The state at the beginning of a sentence."""
        return self.word_ids[START]

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.tables.first_place) + 1

    def score(self, words: Iterable[str], bos: bool = True, eos: bool = True) -> list[float]:
        """The natural logarithm of each word's probability after those before it, as `NGramModel.score`."""
        ids = np.array([self.word_ids.get(word, 0) for word in ([*words, END] if eos else words)], np.int32)
        return [float(score) for score in _score(self.tables, self.start_state if bos else -1, ids)]
