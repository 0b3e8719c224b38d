"""The lexicon: a language model's words as a trie of the acoustic model's symbols, to look up unfinished words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finetune.decoding.alphabet import spell
from finetune.errors import UserError

# A language model has another alphabet if less of its words can be spelled; pyctcdecode warns at the same share.
_LEAST_SPELLED = 0.1

# No language has longer words, but a damaged file may, and the trie is built letter by letter.
_MAX_LETTERS = 1000


class Lexicon(NamedTuple):
    """A trie; node 0 is the empty word. The arrays are read-only, so that compiled code sees one type.

    - `symbol`: (nodes,) int32, the last symbol of a node's spelling; -1 at node 0;
    - `word`: (nodes,) int32, the number of the word with this spelling, -1 where there is none;
    - `first_child`: (nodes + 1,) int32, where the node's children begin; they end where the next node's begin and are
      sorted by symbol.
    """

    symbol: NDArray[np.int32]
    word: NDArray[np.int32]
    first_child: NDArray[np.int32]


def build_model_lexicon(word_ids: Mapping[str, int], letters: Mapping[str, Sequence[int]]) -> Lexicon:
    """The trie of a language model's words without `<unk>`, `<s>` and `</s>`.

    Raises UserError where less than a tenth of the words can be spelled with the letters' columns.
    """
    from finetune.decoding.ngram import END, START, UNKNOWN

    words = {word: number for word, number in word_ids.items() if word not in (UNKNOWN, START, END)}
    lexicon, num_spelled = build_lexicon(words, letters)
    if num_spelled < _LEAST_SPELLED * len(words):
        raise UserError(_describe_mismatch(list(words), num_spelled, frozenset("".join(letters))))
    return lexicon


def build_lexicon(words: Mapping[str, int], letters: Mapping[str, Sequence[int]]) -> tuple[Lexicon, int]:
    """The trie of all words that can be spelled with the letters' columns, and the number of these words.

    With symbols of several characters a word can have several spellings; the trie has them all. All nodes of one depth
    are built at once, from the sorted words, so that siblings are adjacent.
    """
    chosen = ((word, number) for word, number in words.items() if word and len(word) <= _MAX_LETTERS)
    # Sorted by their symbols' numbers, not by their characters.
    if all(len(text) == len(numbers) == 1 for text, numbers in letters.items()):
        alphabet, table = frozenset(letters), {ord(text): chr(number) for text, [number] in letters.items()}
        spelled = sorted((word.translate(table), number) for word, number in chosen if alphabet.issuperset(word))
    else:
        ways = (((way, number) for way in spell(word, letters)) for word, number in chosen)
        spelled = sorted(("".join(map(chr, way)), number) for way, number in chain.from_iterable(ways))
    lengths = np.array([len(spelling) for spelling, _ in spelled], np.int64)
    numbers = np.array([number for _, number in spelled], np.int32)
    # "surrogatepass": a symbol's number may be that of a surrogate, which is no character.
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
    """The error for a language model whose words the acoustic model can't write."""
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
