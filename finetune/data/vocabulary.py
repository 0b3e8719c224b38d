"""Characters of the training transcripts to a CTC tokenizer and processor."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAD, UNKNOWN, WORD_DELIMITER = "[PAD]", "[UNK]", "|"


def build_vocabulary(transcripts: Iterable[str]) -> dict[str, int]:
    """Token to id: the CTC blank `[PAD]` at 0, the word delimiter, the characters in order, `[UNK]` last."""
    characters = sorted(set("".join(transcripts)) - {" "})
    return {token: i for i, token in enumerate([PAD, WORD_DELIMITER, *characters, UNKNOWN])}


def build_tokenizer(vocabulary: dict[str, int]) -> Any:
    """A `Wav2Vec2CTCTokenizer` with exactly these tokens, so that `len(tokenizer)` is the head's size.

    Left to its defaults the tokenizer adds `<s>` and `</s>` beyond the vocabulary.
    """
    from transformers import Wav2Vec2CTCTokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            unk_token=UNKNOWN,
            pad_token=PAD,
            word_delimiter_token=WORD_DELIMITER,
            bos_token=None,
            eos_token=None,
        )


def encode(transcript: str, vocabulary: dict[str, int]) -> list[int]:
    """Ids of a normalised transcript's characters; a character outside the vocabulary becomes `[UNK]`."""
    unknown = vocabulary[UNKNOWN]
    return [vocabulary.get(WORD_DELIMITER if c == " " else c, unknown) for c in transcript]
