"""The CTC vocabulary and tokenizer of the training transcripts' characters."""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAD, UNKNOWN, WORD_DELIMITER = "[PAD]", "[UNK]", "|"


def count_characters(transcripts: Iterable[str]) -> Counter[str]:
    """The count of each character, without spaces."""
    counts = Counter(itertools.chain.from_iterable(transcripts))
    counts.pop(" ", None)
    return counts


def build_vocabulary(characters: Iterable[str]) -> dict[str, int]:
    """Token to id: the CTC blank `[PAD]` at 0, the word delimiter, the distinct characters in their order, `[UNK]`."""
    once = dict.fromkeys(character for character in characters if character not in (" ", WORD_DELIMITER))
    return {token: i for i, token in enumerate([PAD, WORD_DELIMITER, *once, UNKNOWN])}


def build_tokenizer(vocabulary: dict[str, int], language: str | None = None) -> Any:
    """A `Wav2Vec2CTCTokenizer` with exactly these tokens, so that `len(tokenizer)` is the head's size.

    By default the tokenizer would add `<s>` and `</s>` to the vocabulary. With a language its file has the vocabulary
    under that language's name, as in MMS models.
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
