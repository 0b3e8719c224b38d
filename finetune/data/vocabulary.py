"""Characters of the training transcripts to a CTC tokenizer and processor."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.data.foreign_models import find_file, read_vocabulary, require_plain_model
from finetune.errors import UserError

PAD, UNKNOWN, WORD_DELIMITER = "[PAD]", "[UNK]", "|"

_MARK = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")  # <s>, [MASK]


def count_characters(transcripts: Iterable[str]) -> Counter[str]:
    """How often each character comes, spaces left out."""
    counts: Counter[str] = Counter()
    for transcript in transcripts:
        counts.update(transcript)
    counts.pop(" ", None)
    return counts


def build_vocabulary(characters: Iterable[str]) -> dict[str, int]:
    """Token to id: the CTC blank `[PAD]` at 0, the word delimiter, each character once as they come, `[UNK]` last."""
    once = dict.fromkeys(character for character in characters if character not in (" ", WORD_DELIMITER))
    return {token: i for i, token in enumerate([PAD, WORD_DELIMITER, *once, UNKNOWN])}


def load_base_vocabulary(base: str, revision: str | None = None, language: str | None = None) -> dict[str, int]:
    """A fine-tuned base's vocabulary: token to the row of its head, under our names for the special tokens.

    Marks such as `<s>` are left out. The word delimiter may be a space, and what the tokenizer writes in lower case is
    in lower case here. Of a base with a vocabulary for each language (MMS) it is the named language's. Raises UserError
    for a base without, and for one with symbols of several characters.
    """
    from transformers import Wav2Vec2CTCTokenizer

    try:
        require_plain_model(base, revision)
        if (file := find_file(base, "vocab.json", revision)) is not None:
            read_vocabulary(file)
        target = {"target_lang": language} if language else {}
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(base, revision=revision, trust_remote_code=False, **target)
        rows = dict(tokenizer.encoder)  # Not what it adds: the head need not have that.
        if not all(isinstance(row, int) for row in rows.values()):
            raise ValueError("a vocabulary for each language")
    except UserError:
        raise
    except Exception as error:  # What libraries raise for a foreign file has no class in common.
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
    ordered = sorted(rows.items(), key=lambda item: item[1])
    named = {str(ours.get(token, token)): row for token, row in ordered}
    if tokenizer.do_lower_case:
        named = {token if token in (PAD, UNKNOWN) else token.lower(): row for token, row in named.items()}
    marks = {*tokenizer.all_special_tokens, *(token for token in named if _MARK.fullmatch(token))}
    longer = [token for token in named if len(token) > 1 and token not in marks]
    if longer:
        raise UserError(
            f"The vocabulary of {base} has symbols of several characters ({', '.join(longer[:5])}), which training "
            "does not go on from: set text.vocabulary=training."
        )
    return {token: row for token, row in named.items() if len(token) == 1 or token in (PAD, UNKNOWN)}


def build_tokenizer(vocabulary: dict[str, int], language: str | None = None) -> Any:
    """A `Wav2Vec2CTCTokenizer` with exactly these tokens, so that `len(tokenizer)` is the head's size.

    Left to its defaults the tokenizer adds `<s>` and `</s>` beyond the vocabulary. With a language its file holds the
    vocabulary under that language's name, as those of MMS models do.
    """
    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        content = {language: vocabulary} if language else vocabulary
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            unk_token=UNKNOWN,
            pad_token=PAD,
            word_delimiter_token=WORD_DELIMITER,
            bos_token=None,
            eos_token=None,
            target_lang=language,
        )


def encode(transcript: str, vocabulary: dict[str, int]) -> list[int]:
    """Ids of a normalised transcript's characters; a character outside the vocabulary becomes `[UNK]`."""
    unknown = vocabulary[UNKNOWN]
    return [vocabulary.get(WORD_DELIMITER if c == " " else c, unknown) for c in transcript]
