"""Transcript normalisation: named steps, applied in the recipe's order to training text and references alike."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.errors import UserError

NORMALIZATION_FILE = "text_normalization.json"
DEFAULT_STEPS = ("nfkc", "lowercase", "remove_punctuation")

# Characters that are in a text and not seen: soft hyphen, zero-width space, word joiner, byte order mark.
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u2060\ufeff"))

# Typographic apostrophes are spelling, not punctuation: they become the one on the keyboard.
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'"})


def _remove_punctuation(text: str) -> str:
    # Categories P* (punctuation) and S* (symbols) part words; an apostrophe inside a word stays.
    text = text.translate(_APOSTROPHES)
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] not in "PS" else " " for c in text)
    return " ".join(stripped for word in kept.split() if (stripped := word.strip("'")))


STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    # NFKC would make a space and a combining mark of the acute accent, which many keyboards use as an apostrophe.
    "nfkc": lambda text: unicodedata.normalize("NFKC", text.replace("´", "'")),
    "lowercase": str.lower,
    "uppercase": str.upper,
    "remove_punctuation": _remove_punctuation,
}


def normalize(text: str, steps: Sequence[str]) -> str:
    """Apply the named steps in order, then part words by single spaces.

    `|` stands for the space between words in a CTC vocabulary, so one in a transcript becomes a space;
    characters that nobody sees (soft hyphen, zero-width space) are dropped first.
    """
    text = text.translate(_INVISIBLE)
    for step in steps:
        text = STEPS[step](text)
    return " ".join(text.replace("|", " ").split())


def save_normalization(model: Path, steps: Sequence[str]) -> None:
    """Write the steps into the model directory, where `finetune evaluate` finds them."""
    (model / NORMALIZATION_FILE).write_text(json.dumps({"steps": list(steps)}, indent=2) + "\n")


def load_normalization(model: str | Path) -> tuple[str, ...] | None:
    """The steps saved with a model in a folder or on a hub, or None for one that this toolkit did not make."""
    file = Path(model) / NORMALIZATION_FILE
    if not Path(model).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = Path(hf_hub_download(str(model), NORMALIZATION_FILE))
        except EntryNotFoundError:
            return None
    if not file.is_file():
        return None
    try:
        steps = tuple(str(step) for step in json.loads(file.read_text())["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file} is damaged: expected {{"steps": [...]}}, found {error}.') from error
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise UserError(f"{file} names the unknown steps {unknown}; known are {sorted(STEPS)}.")
    return steps
