"""Marks within words: those that belong to words in each language, and the variants in which they are typed.

A kept mark is replaced by its canonical form and kept between two letters (in Hawaiian also before a letter); a removed
mark leaves no gap; any other punctuation separates words.
"""

import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import regex

from finetune.errors import TransformError

# Invisible and not part of the spelling: soft hyphen, combining grapheme joiner, zero-width spaces, direction marks,
# invisible operators, variation selectors, tags. Unicode's joiners are handled separately.
INVISIBLE = (
    "\u00ad\u034f\u061c\u180b-\u180d\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_INVISIBLE = regex.compile(f"[{INVISIBLE}]")
# In these scripts joiners select a letter's form, and sometimes a word's meaning (Unicode 17, sections 9.2, 12.1 and
# 13.2). Between other letters, and at a word's edge unless after a virama, they have no effect.
_SCRIPTS = (
    r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}"
    r"\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Myanmar}\p{Khmer}\p{Tibetan}"
)
_SEVERAL_JOINERS = regex.compile("([\u200c\u200d])[\u200c\u200d]+")
_IDLE_JOINERS = regex.compile(
    rf"(?<![{_SCRIPTS}]\p{{M}}*)[\u200c\u200d]|\u200c(?![{_SCRIPTS}])|(?<!\p{{ccc=9}})\u200d(?![{_SCRIPTS}])"
)


class WordMarks(NamedTuple):
    """A language's marks: the kept ones, each with its variants, and the removed ones.

    `spellings` are variants of letters, each with its replacement.
    """

    kept: Mapping[str, str]
    removed: str = ""
    first: str = ""  # The kept marks that may begin a word.
    spellings: Mapping[str, str] = MappingProxyType({})
    # The letters beside kept marks; an apostrophe may be between any letters.
    letters: str = r"\p{Lu}\p{Ll}\p{Lt}\p{Lo}\p{Nd}"


_APOSTROPHES = "’‘ʼ`´＇‛"
_ARABIC_POINTS = "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"
_TATWEEL = "\u0640"
_PERSIAN = {"ي": "ی", "ى": "ی", "ك": "ک"}

WORD_MARKS = {
    # The interpunct of l·l, also as a bullet, a hyphenation point or a decimal point: CLDR's exemplar characters of ca.
    "catalan": WordMarks({"'": _APOSTROPHES, "·": "•‧∙・⋅"}),
    # Geresh and gershayim (צה״ל, ג׳ורג׳), mostly typed as quotes; most texts are written without points.
    "hebrew": WordMarks(
        {"׳": "'" + _APOSTROPHES, "״": '"“”„″', "'": _APOSTROPHES},
        "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7",
        letters="\u05d0-\u05ea\u05ef-\u05f2",
    ),
    # The apostrophe is part of the orthography (п'ять), also typed as a quote or an asterisk.
    "ukrainian": WordMarks({"'": _APOSTROPHES + '"*″'}),
    # The ʻokina is a consonant, also at a word's beginning; a quotation mark there is read as one.
    "hawaiian": WordMarks({"ʻ": "'" + _APOSTROPHES}, first="ʻ"),
    # Oʻ and gʻ are letters, the tutuq belgisi separates syllables: one form for both, as on keyboards.
    "uzbek": WordMarks({"'": _APOSTROPHES + "ʻ"}),
    # The marks of emphasis, exclamation and question are placed on the stressed vowel, within the word.
    "armenian": WordMarks({"՚": "'" + _APOSTROPHES, "'": _APOSTROPHES}, "՛՜՞", letters="\u0531-\u0556\u0560-\u0588"),
    # A colon separates a foreign word or a number from its ending (EU:n, USA:s).
    "finnish": WordMarks({"'": _APOSTROPHES, ":": "："}),
    "swedish": WordMarks({"'": _APOSTROPHES, ":": "："}),
    # The zero-width non-joiner between a word's parts (می‌روم) is kept; Arabic yeh and kaf become the Persian ones.
    "persian": WordMarks({"'": _APOSTROPHES}, _ARABIC_POINTS + _TATWEEL, spellings=_PERSIAN),
    "urdu": WordMarks({"'": _APOSTROPHES}, _ARABIC_POINTS + _TATWEEL, spellings={**_PERSIAN, "ه": "ہ"}),
    # Chillus were written with a joiner before Unicode 5.1.
    "malayalam": WordMarks(
        {"'": _APOSTROPHES},
        spellings={f"{letter}\u0d4d\u200d": chillu for letter, chillu in zip("ണനരലളക", "ൺൻർൽൾൿ", strict=True)},
    ),
}


def remove_invisible(text: str) -> str:
    """A text without invisible characters; joiners stay where they select the form of a letter."""
    return _IDLE_JOINERS.sub("", _SEVERAL_JOINERS.sub(r"\1", _INVISIBLE.sub("", text)))


def find_invisible(text: str) -> list[str]:
    """The names of the characters that `remove_invisible` would remove from a text."""
    found = [*_INVISIBLE.findall(text), *"".join(_IDLE_JOINERS.findall(text))]
    return [f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip() for character in found]


def build_punctuation_removal(language: str) -> Callable[[str], str]:
    """A transform that separates words at punctuation and symbols, except for a language's marks within words.

    Raises TransformError for a language without an entry in `WORD_MARKS`.
    """
    marks = WORD_MARKS.get(language) if isinstance(language, str) else None
    if marks is None:
        raise TransformError(
            f"remove_punctuation: found {language!r}; expected one of {', '.join(sorted(WORD_MARKS))}, or plain "
            "`remove_punctuation` for other languages"
        )
    removed = regex.compile(f"[{marks.removed}]") if marks.removed else None
    kept = "".join(marks.kept)
    inside = {}
    for mark in kept:
        letters = WordMarks({}).letters if mark == "'" else marks.letters
        letter = rf"[{letters}\p{{M}}]"
        inside[mark] = rf"(?={letter})" if mark in marks.first else rf"(?<={letter}.)(?={letter})"
    forms = [
        (regex.compile(f"[{regex.escape(mark + others, special_only=False)}]{inside[mark]}"), mark)
        for mark, others in marks.kept.items()
    ]
    idle = regex.compile("|".join(f"{regex.escape(mark)}(?!{inside[mark]})" for mark in kept))

    def transform(text: str) -> str:
        for other, spelling in marks.spellings.items():
            text = text.replace(other, spelling)
        if removed:
            text = removed.sub("", text)
        for form, mark in forms:
            text = form.sub(mark, text)
        text = "".join(c if c in kept or unicodedata.category(c)[0] not in "PS" else " " for c in text)
        return idle.sub(" ", text)

    return transform
