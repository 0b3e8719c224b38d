"""Transcript normalisation: named steps, applied in the recipe's order to training text and references alike."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import StepError
from finetune.resources.storage import load_steps, save_steps
from finetune.text.expressions import Replacement, require_growth
from finetune.text.numbers import build_first_number_words, build_number_words, build_strict_number_words
from finetune.text.tags import build_mapping, build_refusal, build_removal
from finetune.text.word_marks import WORD_MARKS, build_punctuation_removal, remove_invisible
from finetune.text.word_units import join_han

NORMALIZATION_FILE = "text_normalization.json"
VERSION = 2  # Of the steps' definitions; a file without a version has version 1.
DEFAULT_STEPS: "tuple[Step, ...]" = ("remove_invisible", "nfkc", "lowercase", "remove_punctuation")

Step = str | dict[str, Any]
"""A step's name, or its name and argument: `lowercase`, `{lowercase: tr}`, `{replace: [PATTERN, TEXT]}`."""

# Invisible characters: soft hyphen, zero-width space, word joiner, byte order mark.
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u2060\ufeff"))

# Typographic apostrophes are spelling, not punctuation: they become the ASCII one.
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'"})

# Short vowels and other reading aids, which most Arabic text omits, and the tatweel.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")

# Zero-width non-joiner and joiner: in Indic scripts they select a glyph, not a letter.
_JOINERS = str.maketrans(dict.fromkeys("\u200c\u200d"))


def _remove_punctuation(text: str) -> str:
    # Categories P* (punctuation) and S* (symbols) separate words; an apostrophe within a word is kept.
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
    """Keep these characters and spaces: other punctuation separates words, other letters are dropped."""
    if not isinstance(characters, str) or not characters:
        raise StepError(f"keep: found {characters!r}; expected the characters to keep, as one string")
    kept = set(characters)

    def step(text: str) -> str:
        return "".join(
            c if c in kept else " " if c.isspace() or unicodedata.category(c)[0] in "PS" else "" for c in text
        )

    return step


def _replace(pair: list[str]) -> Callable[[str], str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise StepError(f"replace: found {pair!r}; expected a regular expression and what to put in its place")
    return Replacement(*pair)


PLAIN_STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    # NFKC would decompose the acute accent, which many keyboards use as an apostrophe, into a space and a mark.
    "nfkc": lambda text: unicodedata.normalize("NFKC", text.replace("´", "'")),
    "lowercase": str.lower,
    "uppercase": str.upper,
    "remove_invisible": remove_invisible,
    "remove_punctuation": _remove_punctuation,
    "remove_arabic_marks": lambda text: _ARABIC_MARKS.sub("", text),
    "remove_joiners": lambda text: text.translate(_JOINERS),
    "join_han": join_han,
    "remove_tags": build_removal(),
}
STEPS_WITH_ARGUMENT: dict[str, Callable[[Any], Callable[[str], str]]] = {
    "lowercase": _lowercase_in,
    "uppercase": _uppercase_in,
    "remove_punctuation": build_punctuation_removal,
    "keep": _keep,
    "replace": _replace,
    "numbers_to_words_1": build_first_number_words,  # As in version 1.
    "remove_tags": build_removal,
    "map_tags": build_mapping,
}
# Steps that refuse a transcript, each with its replacement for texts that cannot be skipped, such as hypotheses.
REFUSING_STEPS: dict[str, tuple[Callable[[Any], Callable[[str], str]], Callable[[Any], Callable[[str], str]]]] = {
    "drop_tagged": (build_refusal, build_removal),
    "numbers_to_words": (build_strict_number_words, build_number_words),
}

# A preset is replaced by its steps: `finetune recipe` shows them. Numbers stay digits, since a transcript does not say
# whether "1990" was read as a year or as a number; put `{numbers_to_words: LANGUAGE}` before a preset for words.
# Presets of languages in WORD_MARKS keep its marks within words, the others only an apostrophe.
PRESETS: dict[str, tuple[Step, ...]] = {
    "english": DEFAULT_STEPS,
    "german": DEFAULT_STEPS,
    # The apostrophe after an elided article is kept: l'homme.
    "french": DEFAULT_STEPS,
    "turkish": ("remove_invisible", "nfkc", {"lowercase": "tr"}, "remove_punctuation"),
    "arabic": ("remove_invisible", "nfkc", "remove_arabic_marks", "remove_joiners", "remove_punctuation"),
    "hindi": ("remove_invisible", "nfkc", "remove_joiners", "remove_punctuation"),
    "vietnamese": DEFAULT_STEPS,
    "mandarin": ("remove_invisible", "nfkc", "lowercase", "remove_punctuation", "join_han"),
    **{name: ("remove_invisible", "nfkc", "lowercase", {"remove_punctuation": name}) for name in WORD_MARKS},
}


# All names that a recipe's list may have.
NAMES = tuple(dict.fromkeys([*PLAIN_STEPS, *STEPS_WITH_ARGUMENT, *REFUSING_STEPS, *PRESETS]))
_TAG_STEPS = {"remove_tags", "map_tags", "drop_tagged"}
_TAGS = "<ab> [ab] {ab} (ab) %ab ++ab++"


def expand(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with each preset replaced by its steps."""
    return tuple(each for step in steps for each in (PRESETS.get(step, (step,)) if isinstance(step, str) else (step,)))


def build_normalizer(steps: Sequence[Step], refuse: bool = False) -> Callable[[str], str]:
    """A function that applies the steps in order, then separates words by single spaces.

    `|` is the word delimiter of a CTC vocabulary, so it becomes a space; invisible characters (soft hyphen, zero-width
    space) are removed first. With `refuse` the function raises TranscriptError for a transcript that a step refuses;
    otherwise such a step removes what it finds. Raises StepError for a step that is unknown, has an invalid argument,
    or comes after steps that remove all that it could find.
    """
    functions: list[Callable[[str], str]] = []
    tags = _TAGS
    for step in expand(steps):
        function = _build_step(step, refuse)
        if _name(step) not in _TAG_STEPS:
            tags = require_growth(function(tags), _TAGS, f"The text normalisation's {_name(step)}")
        elif not set(tags) & set("<[{(%+"):
            raise StepError(f"{_name(step)}: the steps before it leave no brackets to find; put it first")
        functions.append(function)

    def normalize(text: str) -> str:
        before = text = text.translate(_INVISIBLE)
        for function in functions:
            text = require_growth(function(text), before, "The text normalisation")
        return " ".join(text.replace("|", " ").split())

    return normalize


def normalize(text: str, steps: Sequence[Step]) -> str:
    """Normalise one text with `build_normalizer`."""
    return build_normalizer(steps)(text)


def describe_steps(steps: Sequence[Step]) -> list[str]:
    """The steps as a model card lists them."""
    return [step if isinstance(step, str) else json.dumps(step, ensure_ascii=False) for step in steps]


def _name(step: Step) -> str:
    return step if isinstance(step, str) else next(iter(step), "")


def _build_step(step: Step, refuse: bool) -> Callable[[str], str]:
    if not isinstance(step, str) and not (isinstance(step, dict) and len(step) == 1):
        raise StepError(f"unknown step {step!r}")
    name, argument = (step, None) if isinstance(step, str) else next(iter(step.items()))
    if name in REFUSING_STEPS and (argument is not None or name in _TAG_STEPS):
        return REFUSING_STEPS[name][0 if refuse else 1](argument)
    if isinstance(step, str) and name in PLAIN_STEPS:
        return PLAIN_STEPS[name]
    if isinstance(step, dict) and name in STEPS_WITH_ARGUMENT:
        return STEPS_WITH_ARGUMENT[name](argument)
    if name in PLAIN_STEPS:
        raise StepError(f"{name}: found {argument!r}; expected the plain step `{name}`, which takes no argument")
    if name in STEPS_WITH_ARGUMENT or name in REFUSING_STEPS:
        raise StepError(f"{name}: expected an argument, as in `{{{name}: …}}`")
    raise StepError(f"unknown step {step!r}")


def save_normalization(model: Path, steps: Sequence[Step]) -> None:
    """Write the steps into the model's folder, where `finetune evaluate` finds them."""
    save_steps(model / NORMALIZATION_FILE, expand(steps), VERSION)


def load_normalization(model: str | Path) -> tuple[Step, ...] | None:
    """The steps saved with a model in a folder or on a hub, or None for a model of another toolkit.

    Steps of an older version keep their meaning.
    """
    return load_steps(model, NORMALIZATION_FILE, build_normalizer, _read_version)


def _read_version(version: int, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if version > VERSION:
        raise StepError(
            f"they are of version {version}, and this package supports up to {VERSION}: install a newer one"
        )
    if version == VERSION:
        return steps
    first = {"numbers_to_words"}
    return tuple(
        {f"{_name(step)}_1": step[_name(step)]} if isinstance(step, dict) and _name(step) in first else step
        for step in steps
    )


def guess_normalization(vocabulary: Iterable[str]) -> tuple[Step, ...]:
    """The default steps, with `uppercase` for a model that writes capitals."""
    letters = [token for token in vocabulary if len(token) == 1 and token.isalpha()]
    if letters and all(letter == letter.upper() for letter in letters):
        return tuple("uppercase" if step == "lowercase" else step for step in DEFAULT_STEPS)
    return DEFAULT_STEPS
