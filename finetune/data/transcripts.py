"""Transcript normalisation: named steps, applied in the recipe's order to training text and references alike."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.data.storage import load_steps, save_steps
from finetune.data.word_units import join_han
from finetune.errors import StepError

NORMALIZATION_FILE = "text_normalization.json"
DEFAULT_STEPS: "tuple[Step, ...]" = ("nfkc", "lowercase", "remove_punctuation")

Step = str | dict[str, Any]
"""A step's name, or its name and argument: `lowercase`, `{lowercase: tr}`, `{replace: [PATTERN, TEXT]}`."""

# Characters that are in a text and not seen: soft hyphen, zero-width space, word joiner, byte order mark.
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u2060\ufeff"))

# Typographic apostrophes are spelling, not punctuation: they become the one on the keyboard.
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'"})

# Short vowels and other reading aids, which most Arabic text is written without, and the stroke that stretches words.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")

# Zero-width non-joiner and joiner: in Indic scripts they choose a glyph, not a letter.
_JOINERS = str.maketrans(dict.fromkeys("\u200c\u200d"))

_LONGEST_NUMBER = 20  # More digits, as of a card or a phone, are said one by one.
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
# Languages that write 1.000,5 where English writes 1,000.5.
_DECIMAL_COMMA = frozenset(
    {"cs", "da", "de", "es", "fi", "fr", "id", "it", "nl", "no", "pl", "pt", "ru", "sv", "tr", "uk", "vi"}
)


def _remove_punctuation(text: str) -> str:
    # Categories P* (punctuation) and S* (symbols) part words; an apostrophe inside a word stays.
    text = text.translate(_APOSTROPHES)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] not in "PS" else " " for c in text)
    return " ".join(stripped for word in kept.split() if (stripped := word.strip("'")))


def _lowercase_in(language: str) -> Callable[[str], str]:
    if language not in ("tr", "az"):
        raise StepError(f"lowercase: found {language!r}; expected tr or az, or plain `lowercase` for other languages")
    return lambda text: text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı").lower()


def _uppercase_in(language: str) -> Callable[[str], str]:
    if language not in ("tr", "az"):
        raise StepError(f"uppercase: found {language!r}; expected tr or az, or plain `uppercase` for other languages")
    return lambda text: text.replace("i", "İ").upper()


def _keep(characters: str) -> Callable[[str], str]:
    """Nothing but these characters and spaces: other punctuation parts words, other letters are dropped."""
    if not isinstance(characters, str) or not characters:
        raise StepError(f"keep: found {characters!r}; expected the characters to keep, as one text")
    kept = set(characters)

    def step(text: str) -> str:
        return "".join(
            c if c in kept else " " if c.isspace() or unicodedata.category(c)[0] in "PS" else "" for c in text
        )

    return step


def _replace(pair: list[str]) -> Callable[[str], str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise StepError(f"replace: found {pair!r}; expected a regular expression and what to put in its place")
    try:
        pattern = re.compile(pair[0])
        pattern.sub(pair[1], "")
        re._parser.parse_template(pair[1], pattern)  # type: ignore[attr-defined]  # A bad \1 shows only at a match.
    except (re.error, IndexError) as error:
        raise StepError(f"replace: {pair[0]!r} to {pair[1]!r} can't be used: {error}") from error
    return lambda text: pattern.sub(pair[1], text)


def _numbers_to_words(language: str) -> Callable[[str], str]:
    """Digits as the words that are said for them, by num2words; 1,000.5 or 1.000,5 as the language writes it."""
    try:
        import num2words
    except ImportError as error:
        raise StepError("numbers_to_words needs num2words: pip install 'finetune[numbers]'") from error
    known = sorted(num2words.CONVERTER_CLASSES)
    if language not in known:
        raise StepError(f"numbers_to_words: found {language!r}; expected one of {', '.join(known)}")
    comma = language in _DECIMAL_COMMA
    group, point = (".", ",") if comma else (",", ".")

    def in_words(number: int | str) -> str:
        try:
            return str(num2words.num2words(number, lang=language))
        except OverflowError:  # Larger than the language has names for.
            return " ".join(
                num2words.num2words(int(digit), lang=language) for digit in str(number) if digit.isdecimal()
            )

    def say(match: re.Match[str]) -> str:
        digits = match.group()
        if len(digits) > _LONGEST_NUMBER:
            return " ".join(in_words(int(digit)) for digit in digits if digit.isdecimal())
        grouped = re.fullmatch(rf"\d{{1,3}}(?:{re.escape(group)}\d{{3}})+(?:{re.escape(point)}\d+)?", digits)
        whole, found, fraction = (digits.replace(group, "") if grouped else digits).partition(point)
        if not found and whole.isdecimal():
            # A leading zero is said: 007 is a number on a door, not seven.
            parts = list(whole) if len(whole) > 1 and int(whole[0]) == 0 else [whole]
            return " ".join(in_words(int(part)) for part in parts)
        if whole.isdecimal() and fraction.isdecimal():
            return in_words(f"{int(whole)}.{''.join(str(int(digit)) for digit in fraction)}")
        # Neither a whole number nor a decimal: a date or a version, said part by part.
        return " ".join(in_words(int(part)) for part in re.split("[.,]", digits))

    return lambda text: _NUMBER.sub(lambda match: f" {say(match)} ", text)


PLAIN_STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    # NFKC would make a space and a combining mark of the acute accent, which many keyboards use as an apostrophe.
    "nfkc": lambda text: unicodedata.normalize("NFKC", text.replace("´", "'")),
    "lowercase": str.lower,
    "uppercase": str.upper,
    "remove_punctuation": _remove_punctuation,
    "remove_arabic_marks": lambda text: _ARABIC_MARKS.sub("", text),
    "remove_joiners": lambda text: text.translate(_JOINERS),
    "join_han": join_han,
}
STEPS_WITH_ARGUMENT: dict[str, Callable[[Any], Callable[[str], str]]] = {
    "lowercase": _lowercase_in,
    "uppercase": _uppercase_in,
    "keep": _keep,
    "replace": _replace,
    "numbers_to_words": _numbers_to_words,
}

# A preset stands for its steps: `finetune recipe` shows them. Numbers stay digits, because whether "1990" was said as
# a year or as a number is known only to the one who transcribed it; put `{numbers_to_words: LANGUAGE}` before.
PRESETS: dict[str, tuple[Step, ...]] = {
    "english": DEFAULT_STEPS,
    "german": DEFAULT_STEPS,
    # An apostrophe parts an elided article from its word, and stays: l'homme.
    "french": DEFAULT_STEPS,
    "turkish": ("nfkc", {"lowercase": "tr"}, "remove_punctuation"),
    "arabic": ("nfkc", "remove_arabic_marks", "remove_punctuation"),
    "hindi": ("nfkc", "remove_joiners", "remove_punctuation"),
    "vietnamese": DEFAULT_STEPS,
    "mandarin": ("nfkc", "lowercase", "remove_punctuation", "join_han"),
}


# Everything that may stand in a recipe's list.
NAMES = tuple(dict.fromkeys([*PLAIN_STEPS, *STEPS_WITH_ARGUMENT, *PRESETS]))


def expand(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with each preset replaced by its own."""
    return tuple(each for step in steps for each in (PRESETS.get(step, (step,)) if isinstance(step, str) else (step,)))


def build_normalizer(steps: Sequence[Step]) -> Callable[[str], str]:
    """A function that applies the steps in order, then parts words by single spaces.

    `|` stands for the space between words in a CTC vocabulary, so one in a transcript becomes a space;
    characters that nobody sees (soft hyphen, zero-width space) are dropped first.
    Raises StepError for a step that is unknown or has an argument it can't use.
    """
    functions = [_build_step(step) for step in expand(steps)]

    def normalize(text: str) -> str:
        text = text.translate(_INVISIBLE)
        for function in functions:
            text = function(text)
        return " ".join(text.replace("|", " ").split())

    return normalize


def normalize(text: str, steps: Sequence[Step]) -> str:
    """One text through `build_normalizer`."""
    return build_normalizer(steps)(text)


def describe_steps(steps: Sequence[Step]) -> list[str]:
    """The steps as a model card names them."""
    return [step if isinstance(step, str) else json.dumps(step, ensure_ascii=False) for step in steps]


def _build_step(step: Step) -> Callable[[str], str]:
    if isinstance(step, str) and step in PLAIN_STEPS:
        return PLAIN_STEPS[step]
    if isinstance(step, dict) and len(step) == 1:
        name, argument = next(iter(step.items()))
        if name in STEPS_WITH_ARGUMENT:
            return STEPS_WITH_ARGUMENT[name](argument)
        if name in PLAIN_STEPS:
            raise StepError(f"{name}: found {argument!r}; expected the plain step `{name}`, which takes nothing")
    if isinstance(step, str) and step in STEPS_WITH_ARGUMENT:
        raise StepError(f"{step}: expected an argument, as in `{{{step}: …}}`")
    raise StepError(f"unknown step {step!r}")


def save_normalization(model: Path, steps: Sequence[Step]) -> None:
    """Write the steps into the model directory, where `finetune evaluate` finds them."""
    save_steps(model / NORMALIZATION_FILE, expand(steps))


def load_normalization(model: str | Path) -> tuple[Step, ...] | None:
    """The steps saved with a model in a folder or on a hub, or None for one that this toolkit did not make."""
    return load_steps(model, NORMALIZATION_FILE, build_normalizer)


def guess_normalization(vocabulary: Iterable[str]) -> tuple[Step, ...]:
    """The default steps, in capitals for a model that writes capitals."""
    letters = [token for token in vocabulary if len(token) == 1 and token.isalpha()]
    if letters and all(letter == letter.upper() for letter in letters):
        return tuple("uppercase" if step == "lowercase" else step for step in DEFAULT_STEPS)
    return DEFAULT_STEPS
