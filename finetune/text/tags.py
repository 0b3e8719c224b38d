"""Annotation tags in transcripts: text in brackets that is not said, such as <unk>, [NOISE] or (laughs)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from finetune.errors import TranscriptError, TransformError

_BRACKETS = {"<>": "<＜>＞", "[]": r"\[［\]］", "{}": r"{｛}｝", "()": "(（)）"}
_MOST_CHARACTERS = 40  # Longer text is a sentence in brackets, or between a less-than and a greater-than sign.
# Words in parentheses are often said; these are words that transcribers write for sounds.
_SOUNDS = (
    "applause|breath|breathe?s|breathing|chuckles?|coughs?|coughing|crosstalk|crying|giggles?|hesitation|inaudible|"
    "inhales|indiscernible|laughs?|laughing|laughter|lipsmack|music|noise|pause|sighs?|silence|sneezes?|sniffs?|"
    "sobbing|static|unclear|unintelligible|whispering"
)
# NIST's STM files and transcripts of telephone calls (%hesitation), and the CMU Sphinx fillers (++NOISE++).
_LITERALS = r"(?<!\w)(?:ignore_time_segment_in_scoring|inter_segment_gap)(?!\w)|(?<!\S)%[a-z]+|\+\+\w+\+\+"


def _enclosed(brackets: str) -> str:
    """A pattern of text in these brackets; round ones must not touch a letter, as in colour(s)."""
    marks = _BRACKETS[brackets]
    half = len(marks) // 2
    opening, closing = f"[{marks[:half]}]", f"[{marks[half:]}]"
    inside = rf"[^\s{marks}](?:[^{marks}]{{0,{_MOST_CHARACTERS - 2}}}[^\s{marks}])?"
    if brackets == "<>":
        return rf"{opening}{inside}{closing}"
    whole = rf"(?<!\w){opening}{inside}{closing}(?!\w)"
    if brackets == "()":
        return whole
    # One letter in brackets completes a word, as in [t]he.
    return rf"{whole}|{opening}(?!.{closing}){inside}{closing}"


_PARENTHESES = regex.compile(_enclosed("()"))
_SOUND = rf"(?<!\w)[(（](?:{_SOUNDS})[)）](?!\w)"
_TAG = regex.compile("|".join([*(_enclosed(each) for each in ("<>", "[]", "{}")), _SOUND, _LITERALS]), regex.IGNORECASE)


def find_tags(text: str) -> Iterator[str]:
    """The annotation tags of a text in order; words in parentheses only where they name a sound."""
    return (match.group() for match in _TAG.finditer(text))


def find_parentheses(text: str) -> Iterator[str]:
    """The texts in parentheses that are not tags by themselves: they may be said or not."""
    return (match.group() for match in _PARENTHESES.finditer(text) if not _TAG.fullmatch(match.group()))


def build_removal(tags: Sequence[str] | None = None) -> Any:
    """A transform that replaces each tag of `find_tags`, or each listed one in any case, by a space.

    `()`, `[]`, `{}` and `<>` in a list match any text in such brackets. Raises TransformError for another argument.
    """
    pattern = _compile("remove_tags", tags)
    return lambda text: pattern.sub(" ", text)


def build_mapping(texts: Mapping[str, str]) -> Any:
    """A transform that replaces each tag of a table by its text; raises TransformError for another argument."""
    written = isinstance(texts, Mapping) and all(isinstance(part, str) for pair in texts.items() for part in pair)
    if not written or not texts:
        raise TransformError(f"map_tags: found {texts!r}; expected a text for each tag, as in {{'<COMMA>': ','}}")
    pattern = _compile("map_tags", list(texts))
    folded = {tag.casefold(): text for tag, text in texts.items()}
    return lambda text: pattern.sub(lambda match: f" {folded[match.group().casefold()]} ", text)


def build_refusal(tags: Sequence[str] | None = None) -> Any:
    """A transform that raises TranscriptError for a text with a tag; `tags` are those of `build_removal`."""
    pattern = _compile("drop_tagged", tags)

    def transform(text: str) -> str:
        if match := pattern.search(text):
            raise TranscriptError(f"annotation tag: {match.group()}")
        return text

    return transform


def _compile(transform: str, tags: Sequence[str] | None) -> regex.Pattern[str]:
    if tags is None:
        return _TAG
    listed = isinstance(tags, list | tuple) and all(isinstance(tag, str) and tag.strip() for tag in tags)
    if not listed or not tags:
        raise TransformError(f"{transform}: found {tags!r}; expected a list of tags, as in ['<unk>', '()']")
    patterns = [_enclosed(tag) if tag in _BRACKETS else _literal(tag) for tag in sorted(tags, key=len, reverse=True)]
    return regex.compile("|".join(patterns), regex.IGNORECASE)


def _literal(tag: str) -> str:
    """A pattern of a literal tag; if it begins or ends with a letter, it must not be a part of a word."""
    before, after = (r"(?<!\w)" if tag[0].isalnum() else ""), (r"(?!\w)" if tag[-1].isalnum() else "")
    return before + regex.escape(tag) + after
