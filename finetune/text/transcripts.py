"""Transcript normalisation: named transforms, applied in the recipe's order to training text and references alike."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import TransformError
from finetune.resources.storage import load_transforms, save_transforms
from finetune.text.expressions import Replacement, require_growth
from finetune.text.numbers import build_first_number_words, build_number_words, build_strict_number_words
from finetune.text.tags import build_mapping, build_refusal, build_removal
from finetune.text.word_marks import WORD_MARKS, build_punctuation_removal, remove_invisible
from finetune.text.word_units import join_han

NORMALIZATION_FILE = "text_normalization.json"
VERSION = 3  # Of the transforms' definitions; a file without a version has version 1.
DEFAULT_TRANSFORMS: "tuple[Transform, ...]" = ("remove_invisible", "nfkc", "lowercase", "remove_punctuation")

Transform = str | dict[str, Any]
"""A transform's name, or its name and argument: `lowercase`, `{lowercase: tr}`, `{replace: [PATTERN, TEXT]}`."""

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


def _nfkc(text: str) -> str:
    # NFKC decomposes the vowel am of Thai and Lao, which is one letter in texts, and leaves tone marks out of order.
    return _nfkc_2(text).replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")


def _nfkc_2(text: str) -> str:
    # It would decompose the acute accent, which many keyboards use as an apostrophe, into a space and a mark.
    return unicodedata.normalize("NFKC", text.replace("´", "'"))


def _lowercase_in(language: str) -> Callable[[str], str]:
    if language not in ("tr", "az"):
        raise TransformError(f"lowercase: found {language!r}; expected tr or az, or plain `lowercase` for others")
    return lambda text: text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı").lower()


def _uppercase_in(language: str) -> Callable[[str], str]:
    if language not in ("tr", "az"):
        raise TransformError(f"uppercase: found {language!r}; expected tr or az, or plain `uppercase` for others")
    return lambda text: text.replace("i", "İ").upper()


def _keep(characters: str) -> Callable[[str], str]:
    """Keep these characters and spaces: other punctuation separates words, other letters are dropped."""
    if not isinstance(characters, str) or not characters:
        raise TransformError(f"keep: found {characters!r}; expected the characters to keep, as one string")
    kept = set(characters)

    def transform(text: str) -> str:
        return "".join(
            c if c in kept else " " if c.isspace() or unicodedata.category(c)[0] in "PS" else "" for c in text
        )

    return transform


def _replace(pair: list[str]) -> Callable[[str], str]:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        raise TransformError(f"replace: found {pair!r}; expected a regular expression and what to put in its place")
    return Replacement(*pair)


PLAIN_TRANSFORMS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": _nfkc,
    "nfkc_2": _nfkc_2,  # As in versions 1 and 2.
    "lowercase": str.lower,
    "uppercase": str.upper,
    "remove_invisible": remove_invisible,
    "remove_punctuation": _remove_punctuation,
    "remove_arabic_marks": lambda text: _ARABIC_MARKS.sub("", text),
    "remove_joiners": lambda text: text.translate(_JOINERS),
    "join_han": join_han,
    "remove_tags": build_removal(),
}
TRANSFORMS_WITH_ARGUMENT: dict[str, Callable[[Any], Callable[[str], str]]] = {
    "lowercase": _lowercase_in,
    "uppercase": _uppercase_in,
    "remove_punctuation": build_punctuation_removal,
    "keep": _keep,
    "replace": _replace,
    "numbers_to_words_1": build_first_number_words,  # As in version 1.
    "remove_tags": build_removal,
    "map_tags": build_mapping,
}
# Transforms that refuse a transcript, each with its replacement for texts that cannot be skipped, such as hypotheses.
REFUSING_TRANSFORMS: dict[str, tuple[Callable[[Any], Callable[[str], str]], Callable[[Any], Callable[[str], str]]]] = {
    "drop_tagged": (build_refusal, build_removal),
    "numbers_to_words": (build_strict_number_words, build_number_words),
}

# A preset is replaced by its transforms: `finetune recipe` shows them. Numbers stay digits, since a transcript does not
# say whether "1990" was read as a year or as a number; put `{numbers_to_words: LANGUAGE}` before a preset for words.
# Presets of languages in WORD_MARKS keep its marks within words, the others only an apostrophe.
PRESETS: dict[str, tuple[Transform, ...]] = {
    "english": DEFAULT_TRANSFORMS,
    "german": DEFAULT_TRANSFORMS,
    # The apostrophe after an elided article is kept: l'homme.
    "french": DEFAULT_TRANSFORMS,
    "turkish": ("remove_invisible", "nfkc", {"lowercase": "tr"}, "remove_punctuation"),
    "arabic": ("remove_invisible", "nfkc", "remove_arabic_marks", "remove_joiners", "remove_punctuation"),
    "hindi": ("remove_invisible", "nfkc", "remove_joiners", "remove_punctuation"),
    "vietnamese": DEFAULT_TRANSFORMS,
    "mandarin": ("remove_invisible", "nfkc", "lowercase", "remove_punctuation", "join_han"),
    **{name: ("remove_invisible", "nfkc", "lowercase", {"remove_punctuation": name}) for name in WORD_MARKS},
}


# All names that a recipe's list may have.
NAMES = tuple(dict.fromkeys([*PLAIN_TRANSFORMS, *TRANSFORMS_WITH_ARGUMENT, *REFUSING_TRANSFORMS, *PRESETS]))
_TAG_TRANSFORMS = {"remove_tags", "map_tags", "drop_tagged"}
_TAGS = "<ab> [ab] {ab} (ab) %ab ++ab++"


def expand(transforms: Sequence[Transform]) -> tuple[Transform, ...]:
    """The transforms with each preset replaced by its transforms."""
    return tuple(each for one in transforms for each in (PRESETS.get(one, (one,)) if isinstance(one, str) else (one,)))


def build_normalizer(transforms: Sequence[Transform], refuse: bool = False) -> Callable[[str], str]:
    """A function that applies the transforms in order, then separates words by single spaces.

    `|` is the word delimiter of a CTC vocabulary, so it becomes a space; invisible characters (soft hyphen, zero-width
    space) are removed first. With `refuse` the function raises TranscriptError where a transform refuses a transcript;
    otherwise such a transform removes what it finds. Raises TransformError for a transform that is unknown, has an
    invalid argument, or comes after transforms that remove all that it could find.
    """
    functions: list[Callable[[str], str]] = []
    tags = _TAGS
    for transform in expand(transforms):
        function = _build_transform(transform, refuse)
        if _name(transform) not in _TAG_TRANSFORMS:
            tags = require_growth(function(tags), _TAGS, f"The text normalisation's {_name(transform)}")
        elif not set(tags) & set("<[{(%+"):
            raise TransformError(f"{_name(transform)}: the transforms before it leave no brackets; put it first")
        functions.append(function)

    def normalize(text: str) -> str:
        before = text = text.translate(_INVISIBLE)
        for function in functions:
            text = require_growth(function(text), before, "The text normalisation")
        return " ".join(text.replace("|", " ").split())

    return normalize


def normalize(text: str, transforms: Sequence[Transform]) -> str:
    """Normalise one text with `build_normalizer`."""
    return build_normalizer(transforms)(text)


def describe_transforms(transforms: Sequence[Transform]) -> list[str]:
    """The transforms as a model card lists them."""
    return [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in transforms]


def _name(transform: Transform) -> str:
    return transform if isinstance(transform, str) else next(iter(transform), "")


def _build_transform(transform: Transform, refuse: bool) -> Callable[[str], str]:
    if not isinstance(transform, str) and not (isinstance(transform, dict) and len(transform) == 1):
        raise TransformError(f"unknown transform {transform!r}")
    name, argument = (transform, None) if isinstance(transform, str) else next(iter(transform.items()))
    if name in REFUSING_TRANSFORMS and (argument is not None or name in _TAG_TRANSFORMS):
        return REFUSING_TRANSFORMS[name][0 if refuse else 1](argument)
    if isinstance(transform, str) and name in PLAIN_TRANSFORMS:
        return PLAIN_TRANSFORMS[name]
    if isinstance(transform, dict) and name in TRANSFORMS_WITH_ARGUMENT:
        return TRANSFORMS_WITH_ARGUMENT[name](argument)
    if name in PLAIN_TRANSFORMS:
        raise TransformError(f"{name}: found {argument!r}; expected plain `{name}`, which takes no argument")
    if name in TRANSFORMS_WITH_ARGUMENT or name in REFUSING_TRANSFORMS:
        raise TransformError(f"{name}: expected an argument, as in `{{{name}: …}}`")
    raise TransformError(f"unknown transform {transform!r}")


def save_normalization(model: Path, transforms: Sequence[Transform]) -> None:
    """Write the transforms into the model's folder, where `finetune evaluate` finds them."""
    save_transforms(model / NORMALIZATION_FILE, expand(transforms), VERSION)


def load_normalization(model: str | Path) -> tuple[Transform, ...] | None:
    """The transforms saved with a model in a folder or on a hub, or None for a model of another toolkit.

    Transforms of an older version keep their meaning.
    """
    return load_transforms(model, NORMALIZATION_FILE, build_normalizer, _read_version)


def _read_version(version: int, transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
    if version > VERSION:
        raise TransformError(
            f"they are of version {version}, and this package supports up to {VERSION}: install a newer one"
        )
    return transforms if version == VERSION else tuple(_read_older(each, version) for each in expand(transforms))


def _read_older(transform: Transform, version: int) -> Transform:
    """A transform of an older version under the name that it has now."""
    if transform == "nfkc" and version < 3:
        return "nfkc_2"
    if isinstance(transform, dict) and _name(transform) == "numbers_to_words" and version < 2:
        return {"numbers_to_words_1": transform["numbers_to_words"]}
    return transform


def guess_normalization(vocabulary: Iterable[str]) -> tuple[Transform, ...]:
    """The default transforms, with `uppercase` for a model that writes capitals."""
    letters = [token for token in vocabulary if len(token) == 1 and token.isalpha()]
    if letters and all(letter == letter.upper() for letter in letters):
        return tuple("uppercase" if transform == "lowercase" else transform for transform in DEFAULT_TRANSFORMS)
    return DEFAULT_TRANSFORMS
