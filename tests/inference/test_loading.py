"""A head fits its vocabulary: each letter and the blank have an output, and each output a token."""

import json
from pathlib import Path

import pytest
from transformers import Wav2Vec2CTCTokenizer

from finetune.errors import UserError
from finetune.inference.loading import require_head_size

LETTERS = {"<pad>": 0, "|": 1, "<unk>": 2, "a": 3, "b": 4}
SPECIAL_BEHIND = LETTERS | {"<s>": 5, "</s>": 6}


@pytest.mark.parametrize(
    ("vocabulary", "fitting", "others"),
    [(LETTERS, (5, 6, 7), (4, 8)), (SPECIAL_BEHIND, (5, 6, 7), (4, 8)), ({"a": 0, "|": 1, "<unk>": 2}, (), (2, 3))],
)
def test_heads_that_fit_the_vocabulary_are_accepted(
    vocabulary: dict[str, int], fitting: tuple[int, ...], others: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    for size in fitting:
        require_head_size("model", size, tokenizer)
    for size in others:
        with pytest.raises(UserError, match="use the vocabulary that the model was trained with"):
            require_head_size("model", size, tokenizer)
