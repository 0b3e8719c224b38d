"""What each column of the logits writes, the same for greedy decoding, beam search and alignment."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MARK = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")

# Of the ways to spell a word with symbols of several characters so many are looked for, from the longest symbols on.
_MOST_SPELLINGS = 64


@dataclass(frozen=True)
class Alphabet:
    """The text of each column, and which columns are no letters.

    - `blank_id`: the CTC blank;
    - `delimiter_id`: parts words; None where none does;
    - `silent_ids`: columns that write nothing, and part equal symbols as the blank does;
    - `symbols_are_words`: whether each symbol is a word, as a model that writes phones has it.
    """

    symbols: tuple[str, ...]
    blank_id: int
    delimiter_id: int | None
    silent_ids: frozenset[int] = frozenset()
    symbols_are_words: bool = False

    @cached_property
    def letters(self) -> dict[str, list[int]]:
        """The columns of each text that words are spelled with."""
        return {text: numbers for text, numbers in self._written.items() if not _MARK.fullmatch(text)}

    @cached_property
    def marks(self) -> dict[str, list[int]]:
        """The columns of names in brackets, such as `[UNK]` and `<s>`, which are written as characters of a word."""
        return {text: numbers for text, numbers in self._written.items() if _MARK.fullmatch(text)}

    @cached_property
    def _written(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, symbol in enumerate(self.symbols):
            if number not in (self.blank_id, self.delimiter_id, *self.silent_ids) and symbol.strip():
                found.setdefault(symbol, []).append(number)
        return found

    def fold_silent(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (frames, vocabulary) in which what writes nothing is the blank's."""
        if not self.silent_ids:
            return logits
        silent = sorted(self.silent_ids)
        folded = logits.copy()
        folded[:, self.blank_id] = np.logaddexp.reduce(logits[:, [self.blank_id, *silent]], axis=1)
        folded[:, silent] = np.finfo(np.float32).min / 2  # Finite, as logits are.
        return folded

    @property
    def parts_words(self) -> bool:
        """Whether a text has words with spaces between."""
        return self.symbols_are_words or self.delimiter_id is not None


def read_alphabet(tokenizer: Any, num_symbols: int) -> Alphabet:
    """The alphabet of a CTC tokenizer of Transformers, whose head has `num_symbols` columns.

    Symbols are written as Transformers' pipeline writes them: of any number of characters, in lower case where the
    tokenizer has `do_lower_case`, and the unknown token and others such as `<s>` by their names. Words are parted by
    the tokenizer's word delimiter or, where the head has no column for it, by a symbol that is a space. A
    `Wav2Vec2PhonemeCTCTokenizer` writes phones with spaces between and no word delimiter.
    """
    symbols = tokenizer.convert_ids_to_tokens(list(range(num_symbols)))
    columns = {symbol: number for number, symbol in enumerate(symbols)}
    delimiter = next((columns[token] for token in (get_delimiter(tokenizer), " ") if token in columns), None)
    phones = hasattr(tokenizer, "do_phonemize")
    return Alphabet(
        tuple(symbol.lower() if getattr(tokenizer, "do_lower_case", False) else symbol for symbol in symbols),
        tokenizer.pad_token_id,
        None if phones else delimiter,
        frozenset([delimiter]) if phones and delimiter is not None else frozenset(),
        phones,
    )


def get_delimiter(tokenizer: Any) -> str | None:
    """A tokenizer's word delimiter; its own property logs an error where there is none."""
    return getattr(tokenizer, "_word_delimiter_token", None)


def split_symbols(word: str, letters: Collection[str]) -> list[str]:
    """A word as symbols, the longest that fits each time, as Transformers' tokenizers split it.

    A character with which no symbol begins stands alone.
    """
    longest = max(map(len, letters), default=1)
    if longest == 1:
        return list(word)
    found: list[str] = []
    while word:
        sizes = range(min(longest, len(word)), 0, -1)
        found.append(next((word[:size] for size in sizes if word[:size] in letters), word[0]))
        word = word[len(found[-1]) :]
    return found


def spell(word: str, letters: Mapping[str, Sequence[int]]) -> list[tuple[int, ...]]:
    """The ways to write a word as columns, those with the longest symbols first; none where it can't be written.

    Of very many ways the first are found.
    """
    longest = max(map(len, letters), default=0)
    ways: list[list[tuple[int, ...]]] = [[()]]  # of what follows each place, from the end on
    for start in range(len(word) - 1, -1, -1):
        found = [
            (number, *rest)
            for size in range(min(longest, len(word) - start), 0, -1)
            for number in letters.get(word[start : start + size], ())
            for rest in ways[-size]
        ]
        ways.append(found[:_MOST_SPELLINGS])
    return ways[-1]
