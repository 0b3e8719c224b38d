"""Texts that a model's vocabulary can't write: the letters and digits that it lacks."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from finetune.errors import UserError
from finetune.models.configuration import load_config
from finetune.models.processors import choose_language, load_processor
from finetune.resources.repositories import fetch_model, name_model


def load_letters(model: str | Path) -> frozenset[str]:
    """The characters of a model's vocabulary, casefolded; raises UserError if there is no such model."""
    folder = fetch_model(model, weights=False)
    try:
        _, tokenizer = load_processor(folder, load_config(str(folder)), choose_language(folder, None))
    except UserError:
        raise
    except Exception as error:  # The errors of libraries for invalid files have no common class.
        raise UserError(f"The vocabulary of {name_model(folder)} can't be read: {error}.") from error
    special = {*tokenizer.all_special_tokens, tokenizer.pad_token, tokenizer.unk_token}
    tokens = [token for token in tokenizer.get_vocab() if token not in special]
    return frozenset("".join(map(_fold, tokens)))


def require_writable(text: str, letters: frozenset[str]) -> None:
    """Raise UserError that names the letters and digits of a text that are not among `letters`."""
    missing = sorted({each for each in _fold(text) if unicodedata.category(each)[0] in "LN"} - letters)
    if missing:
        shown = " ".join(missing[:20]) + (" …" if len(missing) > 20 else "")
        raise UserError(f"the model has no {shown} in its alphabet: write the text with its letters")


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
