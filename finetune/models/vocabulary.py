"""The vocabulary of a fine-tuned checkpoint: the token of each row of its head."""

import re
from typing import Any

from finetune.errors import UserError
from finetune.models.foreign_models import find_file, read_vocabulary, require_plain_model
from finetune.text.vocabulary import PAD, UNKNOWN, WORD_DELIMITER

_MARK = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")  # <s>, [MASK]


def load_base_vocabulary(base: str, revision: str | None = None, language: str | None = None) -> dict[str, int]:
    """The vocabulary of a fine-tuned checkpoint: token to row of its head, with this package's special tokens.

    Tokens such as `<s>` are left out. The word delimiter may be a space. Tokens are in lower case if the tokenizer
    writes lower case. For a checkpoint with a vocabulary for each language (MMS), `language` chooses one. Raises
    UserError for a checkpoint without a vocabulary, and for tokens of several characters.
    """
    from transformers import Wav2Vec2CTCTokenizer

    try:
        require_plain_model(base, revision)
        if (file := find_file(base, "vocab.json", revision)) is not None:
            read_vocabulary(file)
        target = {"target_lang": language} if language else {}
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(base, revision=revision, trust_remote_code=False, **target)
        rows = dict(tokenizer.encoder)  # Without added tokens, for which the head may have no rows.
        if not all(isinstance(row, int) for row in rows.values()):
            raise ValueError("a vocabulary for each language")
    except UserError:
        raise
    except Exception as error:  # The errors of libraries for invalid files have no common class.
        kind = f"for the language {language}" if language else "for its head"
        raise UserError(
            f"{base} has no vocabulary (a vocab.json {kind}): set text.vocabulary=training, or take a base "
            "that was fine-tuned."
        ) from error
    ours: dict[Any, str] = {
        tokenizer.pad_token: PAD,
        tokenizer.unk_token: UNKNOWN,
        next((token for token in (tokenizer.word_delimiter_token, " ") if token in rows), None): WORD_DELIMITER,
    }
    named = {str(ours.get(token, token)): row for token, row in sorted(rows.items(), key=lambda item: item[1])}
    if tokenizer.do_lower_case:
        named = {token if token in (PAD, UNKNOWN) else token.lower(): row for token, row in named.items()}
    marks = {*tokenizer.all_special_tokens, *(token for token in named if _MARK.fullmatch(token))}
    if longer := [token for token in named if len(token) > 1 and token not in marks]:
        raise UserError(
            f"The vocabulary of {base} has symbols of several characters ({', '.join(longer[:5])}), which training "
            "does not support: set text.vocabulary=training."
        )
    return {token: row for token, row in named.items() if len(token) == 1 or token in (PAD, UNKNOWN)}
