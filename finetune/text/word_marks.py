"""Marks inside words: which belong to a word in each language, and what else is written for them.

A mark that is kept has one form, whatever was typed, and stays where letters are on both sides (or, in
Hawaiian, before one); one that is removed leaves no gap; any other punctuation parts words.
"""

import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import regex

from finetune.errors import StepError

# Not seen, and no part of the spelling: soft hyphen, combining grapheme joiner, zero-width spaces, marks of direction,
# invisible operators, variation selectors, tags. Unicode's joiners are treated apart.
INVISIBLE = (
    "\u00ad\u034f\u061c\u180b-\u180d\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_INVISIBLE = regex.compile(f"[{INVISIBLE}]")
# Here the joiners choose a letter's form, and sometimes a word's meaning (Unicode 17, sections 9.2, 12.1 and 13.2);
# between other letters, and at a word's edge but behind a virama, they do nothing.
_SCRIPTS = (
    r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}"
    r"\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Myanmar}\p{Khmer}\p{Tibetan}"
)
_SEVERAL_JOINERS = regex.compile("([\u200c\u200d])[\u200c\u200d]+")
_IDLE_JOINERS = regex.compile(
    rf"(?<![{_SCRIPTS}]\p{{M}}*)[\u200c\u200d]|\u200c(?![{_SCRIPTS}])|(?<!\p{{ccc=9}})\u200d(?![{_SCRIPTS}])"
)


class WordMarks(NamedTuple):
    """A language's marks: each that is kept with what else is written for it, and those that are removed.

    `spellings` are other letters for the same: each with what takes its place.
    """

    kept: Mapping[str, str]
    removed: str = ""
    first: str = ""  # Of the kept ones those that may begin a word.
    spellings: Mapping[str, str] = MappingProxyType({})
    letters: str = r"\p{Lu}\p{Ll}\p{Lt}\p{Lo}\p{Nd}"  # between which they are; an apostrophe may be between any.


_APOSTROPHES = "’‘ʼ`´＇‛"
_ARABIC_POINTS = "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed"
_TATWEEL = "\u0640"
_PERSIAN = {"ي": "ی", "ى": "ی", "ك": "ک"}

WORD_MARKS = {
    # The interpunct of l·l, also as a bullet, a hyphenation point or a decimal point: CLDR's exemplar characters of ca.
    "catalan": WordMarks({"'": _APOSTROPHES, "·": "•‧∙・⋅"}),
    # Geresh and gershayim (צה״ל, ג׳ורג׳), mostly typed as quotes; the points are left out of most texts.
    "hebrew": WordMarks(
        {"׳": "'" + _APOSTROPHES, "״": '"“”„″', "'": _APOSTROPHES},
        "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7",
        letters="\u05d0-\u05ea\u05ef-\u05f2",
    ),
    # The apostrophe is a sign of the alphabet (п'ять), typed as a quote or an asterisk too.
    "ukrainian": WordMarks({"'": _APOSTROPHES + '"*″'}),
    # The ʻokina is a consonant, at a word's beginning too; a quotation mark there is read as one.
    "hawaiian": WordMarks({"ʻ": "'" + _APOSTROPHES}, first="ʻ"),
    # Oʻ and gʻ are letters, the tutuq belgisi parts syllables: one form for both, as keyboards have it.
    "uzbek": WordMarks({"'": _APOSTROPHES + "ʻ"}),
    # Emphasis, exclamation and question stand on the stressed vowel, inside the word.
    "armenian": WordMarks({"՚": "'" + _APOSTROPHES, "'": _APOSTROPHES}, "՛՜՞", letters="\u0531-\u0556\u0560-\u0588"),
    # A colon parts a foreign word or a number from its ending (EU:n, USA:s).
    "finnish": WordMarks({"'": _APOSTROPHES, ":": "："}),
    "swedish": WordMarks({"'": _APOSTROPHES, ":": "："}),
    # The zero-width non-joiner parts a word's pieces (می‌روم) and stays; Arabic yeh and kaf are the Persian ones.
    "persian": WordMarks({"'": _APOSTROPHES}, _ARABIC_POINTS + _TATWEEL, spellings=_PERSIAN),
    "urdu": WordMarks({"'": _APOSTROPHES}, _ARABIC_POINTS + _TATWEEL, spellings={**_PERSIAN, "ه": "ہ"}),
    # Chillus were written with a joiner before Unicode 5.1.
    "malayalam": WordMarks(
        {"'": _APOSTROPHES},
        spellings={f"{letter}\u0d4d\u200d": chillu for letter, chillu in zip("ണനരലളക", "ൺൻർൽൾൿ", strict=True)},
    ),
}


def remove_invisible(text: str) -> str:
    """A text without what nobody sees, and without joiners but where they choose the form of a letter."""
    return _IDLE_JOINERS.sub("", _SEVERAL_JOINERS.sub(r"\1", _INVISIBLE.sub("", text)))


def find_invisible(text: str) -> list[str]:
    """What `remove_invisible` would take from a text: the names of the characters."""
    found = [*_INVISIBLE.findall(text), *"".join(_IDLE_JOINERS.findall(text))]
    return [f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip() for character in found]


def build_punctuation_removal(language: str) -> Callable[[str], str]:
    """A step that parts words at all punctuation and symbols but the marks that a language has inside words.

    Raises StepError for a language that `WORD_MARKS` has not.
    """
    marks = WORD_MARKS.get(language) if isinstance(language, str) else None
    if marks is None:
        raise StepError(
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

    def step(text: str) -> str:
        for other, spelling in marks.spellings.items():
            text = text.replace(other, spelling)
        if removed:
            text = removed.sub("", text)
        for form, mark in forms:
            text = form.sub(mark, text)
        text = "".join(c if c in kept or unicodedata.category(c)[0] not in "PS" else " " for c in text)
        return idle.sub(" ", text)

    return step
