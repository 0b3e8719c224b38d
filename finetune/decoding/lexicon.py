"""The words of a language model as a trie of the acoustic model's symbols, for words that are not yet complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.alphabet import spell
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.decoding.hashed_ngram import HashedModel
    from finetune.decoding.ngram import NGramModel

# Where a smaller share of a language model's words can be spelled, it is of another alphabet; pyctcdecode warns at it.
_LEAST_SPELLED = 0.1

# No language has longer ones; the trie is built letter by letter, and a file may hold anything.
_MAX_LETTERS = 1000


class Lexicon(NamedTuple):
    """A trie; node 0 is the empty word. Read-only arrays, so that compiled code has one form.

    - `symbol`: (nodes,) int32, the last symbol of a node's spelling; -1 at node 0;
    - `word`: (nodes,) int32, the number of the word that is spelled so, -1 where none is;
    - `first_child`: (nodes + 1,) int32, where the node's continuations begin; they end where the next node's begin and
      are sorted by symbol.
    """

    symbol: NDArray[np.int32]
    word: NDArray[np.int32]
    first_child: NDArray[np.int32]


def build_model_lexicon(model: NGramModel | HashedModel | None, letters: Mapping[str, Sequence[int]]) -> Lexicon:
    """The trie of a language model's words, but for its marks; empty without a model.

    Raises UserError where hardly any word can be spelled with the letters' columns.
    """
    if model is None:
        return build_lexicon({}, letters)[0]
    from finetune.decoding.ngram import END, START, UNKNOWN

    words = {word: number for word, number in model.word_ids.items() if word not in (UNKNOWN, START, END)}
    lexicon, num_spelled = build_lexicon(words, letters)
    if num_spelled < _LEAST_SPELLED * len(words):
        raise UserError(_describe_mismatch(list(words), num_spelled, frozenset("".join(letters))))
    return lexicon


def build_lexicon(words: Mapping[str, int], letters: Mapping[str, Sequence[int]]) -> tuple[Lexicon, int]:
    """The trie of all words that can be spelled with the letters' columns, and how many words that were.

    A word that can be spelled in several ways, with symbols of several characters, is there in each. All nodes of one
    depth are made at once, from the sorted words, so that siblings lie side by side.
    """
    chosen = ((word, number) for word, number in words.items() if word and len(word) <= _MAX_LETTERS)
    # Sorted as their symbols are, not as their characters.
    if all(len(text) == len(numbers) == 1 for text, numbers in letters.items()):
        alphabet, table = frozenset(letters), {ord(text): chr(number) for text, [number] in letters.items()}
        spelled = sorted((word.translate(table), number) for word, number in chosen if alphabet.issuperset(word))
    else:
        ways = (((way, number) for way in spell(word, letters)) for word, number in chosen)
        spelled = sorted(("".join(map(chr, way)), number) for way, number in chain.from_iterable(ways))
    lengths = np.array([len(spelling) for spelling, _ in spelled], np.int64)
    numbers = np.array([number for _, number in spelled], np.int32)
    # "surrogatepass": a symbol's number may be one that UTF-32 has no character for.
    joined = "".join(spelling for spelling, _ in spelled).encode("utf-32-le", "surrogatepass")
    columns = np.frombuffer(joined, "<u4").astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    rows, node, count = np.arange(len(spelled)), np.zeros(len(spelled), np.int64), 1
    parents, symbols = [np.empty(0, np.int64)], [np.array([-1], np.int32)]
    for depth in range(int(lengths.max(initial=0))):
        rows = rows[lengths[rows] > depth]
        parent, letter = node[rows], columns[starts[rows] + depth]
        new = np.ones(len(rows), bool)
        new[1:] = (parent[1:] != parent[:-1]) | (letter[1:] != letter[:-1])
        node[rows] = count - 1 + np.cumsum(new)
        count += int(new.sum())
        parents.append(parent[new])
        symbols.append(letter[new])
    word = np.full(count, -1, np.int32)
    word[node] = numbers
    first_child = 1 + np.searchsorted(np.concatenate(parents), np.arange(count + 1))
    arrays = np.concatenate(symbols).astype(np.int32), word, first_child.astype(np.int32)
    for array in arrays:
        array.setflags(write=False)
    return Lexicon(*arrays), len(np.unique(numbers))


def _describe_mismatch(words: Sequence[str], num_spelled: int, characters: frozenset[str]) -> str:
    """What to say of a language model whose words the acoustic model can't write."""
    foreign = Counter(character for word in words for character in set(word) - characters)
    common = ", ".join(repr(character) for character, _ in foreign.most_common(5))
    cure = "build it from text that is normalised as the model's transcripts are"
    for case, change in (("lower", str.lower), ("upper", str.upper)):
        if sum(characters.issuperset(change(word)) for word in words) >= _LEAST_SPELLED * len(words):
            cure = f"its words fit in {case} case, so build it from text in {case} case"
    return (
        f"The language model's alphabet is not the acoustic model's: {num_spelled} of its {len(words)} words can be "
        f"written with the model's characters (it lacks {common}); {cure}."
    )
