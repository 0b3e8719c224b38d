"""The text of each column of the logits, shared by greedy decoding, beam search and alignment."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MARK = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")

# The most spellings of a word with symbols of several characters that are used, those with the longest symbols first.
_MOST_SPELLINGS = 64


@dataclass(frozen=True)
class Alphabet:
    """The text of each column, and the columns that are not letters.

    - `blank_id`: the CTC blank;
    - `delimiter_id`: the word delimiter; None where there is none;
    - `silent_ids`: columns without text, which separate equal symbols as the blank does;
    - `symbols_are_words`: whether each symbol is a word, as in models that write phones;
    - `clean_up`: removes spaces from a text, as before full stops; None where the tokenizer keeps them.
    """

    symbols: tuple[str, ...]
    blank_id: int
    delimiter_id: int | None
    silent_ids: frozenset[int] = frozenset()
    symbols_are_words: bool = False
    clean_up: Callable[[str], str] | None = None

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
        """Logits (frames, vocabulary) with the silent columns' probability added to the blank's."""
        if not self.silent_ids:
            return logits
        silent = sorted(self.silent_ids)
        folded = logits.copy()
        folded[:, self.blank_id] = np.logaddexp.reduce(logits[:, [self.blank_id, *silent]], axis=1)
        folded[:, silent] = np.finfo(np.float32).min / 2  # Finite: logits with infinities are refused.
        return folded

    @property
    def parts_words(self) -> bool:
        """Whether a text can have several words."""
        return self.symbols_are_words or self.delimiter_id is not None


def read_alphabet(tokenizer: Any, num_symbols: int) -> Alphabet:
    """The alphabet of a CTC tokenizer of Transformers, whose head has `num_symbols` columns.

    Symbols are written as Transformers' pipeline writes them: of any number of characters, in lower case where the
    tokenizer has `do_lower_case`, and the unknown token and others such as `<s>` by their names. Words are separated
    by the tokenizer's word delimiter or, where the head has no column for it, by a symbol that is a space. A
    `Wav2Vec2PhonemeCTCTokenizer` writes phones separated by spaces, and has no word delimiter. With
    `clean_up_tokenization_spaces` a tokenizer removes spaces, as those of "it 's .".
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
        tokenizer.clean_up_tokenization if getattr(tokenizer, "clean_up_tokenization_spaces", False) else None,
    )


def get_delimiter(tokenizer: Any) -> str | None:
    """A tokenizer's word delimiter or None; the tokenizer's own property logs an error where there is none."""
    return getattr(tokenizer, "_word_delimiter_token", None)


def split_symbols(word: str, letters: Collection[str]) -> list[str]:
    """Split a word into symbols, the longest match first, as Transformers' tokenizers do.

    A character with which no symbol begins is a symbol of its own.
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
    """The spellings of a word as columns, those with the longest symbols first; empty where there is none.

    At most 64 are returned.
    """
    longest = max(map(len, letters), default=0)
    ways: list[list[tuple[int, ...]]] = [[()]]  # Of the text from each place on, the last place first.
    for start in range(len(word) - 1, -1, -1):
        found = [
            (number, *rest)
            for size in range(min(longest, len(word) - start), 0, -1)
            for number in letters.get(word[start : start + size], ())
            for rest in ways[-size]
        ]
        ways.append(found[:_MOST_SPELLINGS])
    return ways[-1]
