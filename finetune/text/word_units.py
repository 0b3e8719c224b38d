"""What counts as a word: text between spaces, or a character in scripts without spaces between words.

Chinese and Japanese are counted by character, as SCTK and WeNet do. Thai, Lao, Khmer, Burmese and the other scripts of
Unicode's line-breaking class SA (UAX #14: Southeast Asian scripts whose words only a dictionary finds) are counted by
extended grapheme cluster (UAX #29): readers do not regard a vowel sign or a tone mark alone as a character, and
Whisper's published error rates of Thai, Lao and Burmese are counted like this (Radford et al. 2022, arXiv 2212.04356,
appendix C; `split_letters` of its normalizer). No dictionary is needed, so scores are comparable.
"""

from collections.abc import Iterable

import regex

_HAN = "\u3005\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_SOUTHEAST_ASIAN = r"\p{Line_Break=SA}"
# A subscript consonant of Khmer or Burmese: only the newest Unicode tables put both consonants in one cluster.
_CLUSTER = r"\X(?:(?<=[\u17d2\u1039])\X)*"


def _compile(unspaced: str) -> regex.Pattern[str]:
    return regex.compile(rf"(?=[{unspaced}]){_CLUSTER}|(?:(?![{unspaced}])\X)+")


_WORD, _TIMED_WORD = _compile(_HAN + _SOUTHEAST_ASIAN), _compile(_HAN)
_UNSPACED = regex.compile(f"[{_HAN}{_SOUTHEAST_ASIAN}]")
_BETWEEN_HAN = regex.compile(rf"(?<=[{_HAN}])\s+(?=[{_HAN}])")
# Punctuation as wide as Han characters, which has its space in itself, and signs that it shares with other scripts.
_WIDE_PUNCTUATION = "\u3001-\u3003\u3008-\u3011\u3014-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_SHARED_PUNCTUATION = "\u2018\u2019\u201c\u201d\u2026"
_NEEDLESS_SPACE = regex.compile(
    rf"(?<=[{_HAN}])\s+(?=[{_HAN}{_SHARED_PUNCTUATION}])|(?<=[{_SHARED_PUNCTUATION}])\s+(?=[{_HAN}])"
    rf"|(?<=[{_WIDE_PUNCTUATION}])\s+|\s+(?=[{_WIDE_PUNCTUATION}])"
)


def split_words(text: str) -> list[str]:
    """The words of a text as WER counts them; in scripts without spaces between words each character is one."""
    return _split(text, _WORD)


def split_timed_words(text: str) -> list[str]:
    """The words of a text that get timestamps: each Han character or kana, else the text between spaces.

    Thai and similar scripts are not split, since their spaces between phrases matter: `join_words` restores them.
    """
    return _split(text, _TIMED_WORD)


def classify_characters(characters: Iterable[str]) -> list[tuple[bool, bool, bool]]:
    """The properties of characters by which `split_words` splits, so that a search can split words symbol by symbol.

    For each character: whether it is of a script without spaces, whether it belongs to the character before it, and
    whether the character after it belongs to it. Words are split between two characters of which at least one is of
    such a script, unless the second belongs to the first.
    """
    return [
        (bool(_UNSPACED.match(each)), len(_WORD.findall(f"ก{each}")) == 1, each in "\u17d2\u1039")
        for each in characters
    ]


def join_words(words: Iterable[str]) -> str:
    """Join the words of `split_timed_words`: with spaces, but none between Han characters, kana and their marks."""
    return _NEEDLESS_SPACE.sub("", " ".join(words))


def join_han(text: str) -> str:
    """A text without the spaces between Han characters and kana."""
    return _BETWEEN_HAN.sub("", text)


def _split(text: str, word: regex.Pattern[str]) -> list[str]:
    if not _UNSPACED.search(text):
        return text.split()
    return [part for chunk in text.split() for part in word.findall(chunk)]


def has_units(words: Iterable[str]) -> bool:
    """Whether a language model's words are the units of `split_words`: characters, where a script has no spaces.

    The words of other models in such scripts were segmented in another way, or are whole sentences.
    """
    sizes = [len(split_words(word)) for word in words if any(each[0] for each in classify_characters(word[:1]))]
    return 2 * sum(size == 1 for size in sizes) > len(sizes)
